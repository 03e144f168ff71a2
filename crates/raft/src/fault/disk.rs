use medanchor_dag::Hash;
use redb::StorageBackend;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A file of which nothing reaches the disk before a sync, so that what a sync loses is lost.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    fault: Fault,
    /// The sync that the fault strikes, from 1.
    strikes: u64,
    seed: u64,
    content: Mutex<Content>,
}

/// What becomes of a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// `slow`: it takes up to 50 ms, from the named sync on.
    Slow,
    /// `lost`: it fails, and nothing of it is on the disk; so does every later one.
    Lost,
    /// `kept`: it fails, and all of it is on the disk; so does every later one.
    Kept,
    /// `before`: the power fails before it.
    Before,
    /// `torn`: the power fails within it. Some sectors are on the disk.
    Torn,
    /// `after`: the power fails after it, before anybody is told.
    After,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// Where it was written since the last sync.
    unsynced: Vec<(usize, usize)>,
    syncs: u64,
}

impl Disk {
    /// `plan`: the fault, the sync that it strikes, and a seed.
    pub(super) fn open(path: &Path, plan: &str) -> io::Result<Self> {
        let mut plan = plan.split(':');
        let fault = match plan.next() {
            Some("slow") => Fault::Slow,
            Some("lost") => Fault::Lost,
            Some("kept") => Fault::Kept,
            Some("before") => Fault::Before,
            Some("torn") => Fault::Torn,
            Some("after") => Fault::After,
            _ => return Err(io::Error::other("no such fault of a disk")),
        };
        let mut number = || plan.next().and_then(|number| number.parse().ok());
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        Ok(Self {
            strikes: number().unwrap_or(1),
            seed: number().unwrap_or(0),
            content: Mutex::new(Content {
                bytes: std::fs::read(path)?,
                ..Content::default()
            }),
            file,
            fault,
        })
    }

    /// Lets what was written reach the disk, or of each sector what `reaches` says.
    fn reach(&self, content: &mut Content, reaches: impl Fn(usize) -> bool) -> io::Result<()> {
        self.file.set_len(content.bytes.len() as u64)?;
        for (from, until) in std::mem::take(&mut content.unsynced) {
            let mut at = from;
            while at < until {
                let next = until.min((at / SECTOR + 1) * SECTOR);
                if let Some(bytes) = content.bytes.get(at..next).filter(|_| reaches(at / SECTOR)) {
                    self.file.write_all_at(bytes, at as u64)?;
                }
                at = next;
            }
        }
        self.file.sync_data()
    }

    fn draw(&self, number: u64) -> u8 {
        let drawn = Hash::of(&[self.seed.to_be_bytes(), number.to_be_bytes()].concat());
        drawn.as_bytes().first().copied().unwrap_or(0)
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let content = self.content();
        let found = content.bytes.get(from..from.saturating_add(out.len()));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let mut content = self.content();
        content.unsynced.retain(|(from, _)| *from < len);
        content.bytes.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.content();
        content.syncs += 1;
        if content.syncs < self.strikes {
            return self.reach(&mut content, |_| true);
        }
        let fails = || Err(io::Error::other("the disk fails"));
        match self.fault {
            Fault::Slow => {
                let takes = Duration::from_millis(u64::from(self.draw(content.syncs)) / 5);
                std::thread::sleep(takes);
                self.reach(&mut content, |_| true)
            }
            Fault::Lost => fails(),
            Fault::Kept => self.reach(&mut content, |_| true).and_then(|()| fails()),
            Fault::Before => std::process::abort(),
            Fault::Torn => {
                let torn = self.reach(&mut content, |sector| self.draw(sector as u64) & 1 == 0);
                torn.and_then(|()| std::process::abort())
            }
            Fault::After => {
                let reached = self.reach(&mut content, |_| true);
                reached.and_then(|()| std::process::abort())
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let until = from.saturating_add(data.len());
        let mut content = self.content();
        let place = content.bytes.get_mut(from..until);
        place
            .ok_or(io::ErrorKind::UnexpectedEof)?
            .copy_from_slice(data);
        content.unsynced.push((from, until));
        Ok(())
    }
}

const SECTOR: usize = 512;
