use redb::StorageBackend;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// A disk in memory that counts its syncs, may fail them, and remembers what a power loss would leave.
/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Device>);

#[derive(Debug, Default)]
struct Device {
    bytes: Mutex<Bytes>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Bytes {
    written: Vec<u8>,
    durable: Vec<u8>,
    syncs: u64,
    /// Sectors that are written and not synced.
    unsynced: BTreeSet<usize>,
    /// Steps until the power fails: see [`Disk::lose_power_after`].
    left: Option<u64>,
    failure: Option<SyncFailure>,
    /// Syncs wait.
    is_held: bool,
    /// The most bytes that it has room for.
    room: Option<usize>,
}

/// How a sync fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncFailure {
    /// Nothing of it reaches the disk.
    Lost,
    /// All of it reaches the disk, and still it fails.
    Persisted,
}

impl Disk {
    /// A disk that holds what this one would hold after a power loss.
    pub(crate) fn after_power_loss(&self) -> Self {
        Self::holding(self.lock().durable.clone())
    }

    /// As [`Disk::after_power_loss`], but some sectors that were not synced have reached the disk all the same.
    pub(crate) fn after_torn_writes(&self, rng: &mut fastrand::Rng) -> Self {
        let bytes = self.lock();
        let mut durable = bytes.durable.clone();
        durable.resize(bytes.written.len(), 0);
        for sector in bytes.unsynced.iter().filter(|_| rng.bool()) {
            let from = sector * SECTOR_BYTES;
            let until = durable.len().min(from + SECTOR_BYTES);
            if from < until {
                durable[from..until].copy_from_slice(&bytes.written[from..until]);
            }
        }
        drop(bytes);
        Self::holding(durable)
    }

    /// A disk that holds what the next process finds when this one is killed.
    pub(crate) fn after_kill(&self) -> Self {
        Self::holding(self.lock().written.clone())
    }

    /// The power fails at the step after so many, each of which is a write, a change of length or a sync.
    pub(crate) fn lose_power_after(&self, steps: u64) {
        self.lock().left = Some(steps);
    }

    fn holding(durable: Vec<u8>) -> Self {
        let bytes = Bytes {
            written: durable.clone(),
            durable,
            ..Bytes::default()
        };
        Self(Arc::new(Device {
            bytes: Mutex::new(bytes),
            released: Condvar::new(),
        }))
    }

    /// Syncs that succeeded.
    pub(crate) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// From now on every sync fails.
    pub(crate) fn fail(&self, failure: SyncFailure) {
        self.lock().failure = Some(failure);
    }

    /// From now on there is no room for more than is written; or there is again.
    pub(crate) fn set_full(&self, is_full: bool) {
        let mut bytes = self.lock();
        bytes.room = is_full.then_some(bytes.written.len());
    }

    /// From now on every sync waits; or all go on.
    pub(crate) fn hold(&self, is_held: bool) {
        self.lock().is_held = is_held;
        self.0.released.notify_all();
    }

    pub(crate) fn database(&self) -> redb::Database {
        redb::Database::builder()
            .create_with_backend(self.clone())
            .unwrap()
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.0.bytes.lock().unwrap()
    }
}

impl Bytes {
    fn step(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("there is no power"))?;
        }
        Ok(())
    }

    fn has_room(&self, len: usize) -> io::Result<()> {
        match self.room {
            Some(room) if room < len => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let bytes = self.lock();
        let found = bytes.written.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).unwrap();
        let mut bytes = self.lock();
        bytes.step()?;
        bytes.has_room(len)?;
        bytes.written.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let held = |bytes: &mut Bytes| bytes.is_held;
        let mut bytes = self.0.released.wait_while(self.lock(), held).unwrap();
        bytes.step()?;
        if bytes.failure != Some(SyncFailure::Lost) {
            bytes.durable = bytes.written.clone();
            bytes.unsynced.clear();
        }
        match bytes.failure {
            Some(_) => Err(io::Error::other("the disk fails")),
            None => {
                bytes.syncs += 1;
                Ok(())
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let mut bytes = self.lock();
        bytes.step()?;
        // As on a file system that copies on write, what is there already takes room too.
        bytes.has_room(usize::MAX)?;
        let until = from + data.len();
        bytes.written[from..until].copy_from_slice(data);
        let sectors = from / SECTOR_BYTES..until.div_ceil(SECTOR_BYTES);
        bytes.unsynced.extend(sectors);
        Ok(())
    }
}

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
