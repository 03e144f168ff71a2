use super::device::Device;
use crate::{Hash, MAX_BLOCK_BYTES, StoreError};
use bytes::Bytes;
use cid::Cid;
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The files of larger blocks.
#[derive(Debug)]
pub(super) struct Files {
    blocks: PathBuf,
    temporary: PathBuf,
    quarantine: PathBuf,
    next: AtomicU64,
    device: Arc<Device>,
}

/// A block's bytes under a temporary name. Dropping it deletes the file.
#[derive(Debug)]
pub(super) struct Staged {
    digest: [u8; 32],
    path: PathBuf,
}

impl Files {
    /// Makes the folders that are missing and deletes what was being written when the process ended.
    pub(super) fn open(folder: &Path, device: Arc<Device>) -> io::Result<Self> {
        let (blocks, temporary) = (folder.join("blocks"), folder.join("tmp"));
        fs::create_dir_all(&temporary)?;
        for entry in fs::read_dir(&temporary)? {
            fs::remove_file(entry?.path())?;
        }
        for shard in 0..=u8::MAX {
            fs::create_dir_all(blocks.join(format!("{shard:02x}")))?;
        }
        device.sync_folder(&blocks)?;
        let quarantine = folder.join("quarantine");
        fs::create_dir_all(&quarantine)?;
        Ok(Self {
            blocks,
            temporary,
            quarantine,
            next: AtomicU64::new(0),
            device,
        })
    }

    pub(super) fn has(&self, digest: &[u8; 32]) -> Result<bool, StoreError> {
        self.path(digest)
            .try_exists()
            .map_err(|error| self.device.explain(error))
    }

    /// The file's bytes, not checked; no more than a block may have.
    pub(super) fn read(&self, digest: &[u8; 32], cid: &Cid) -> Result<Option<Vec<u8>>, StoreError> {
        let mut file = match File::open(self.path(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.device.explain(error)),
        };
        let length = file
            .metadata()
            .map_err(|error| self.device.explain(error))?
            .len();
        if length > MAX_BLOCK_BYTES as u64 {
            return Err(StoreError::Corrupt(*cid));
        }
        let mut bytes = Vec::new();
        // A sector that cannot be read is a corrupt block: it is repaired by writing it anew.
        file.read_to_end(&mut bytes)
            .map_err(|_| StoreError::Corrupt(*cid))?;
        Ok(Some(bytes))
    }

    /// Writes blocks' bytes under temporary names, fsynced.
    pub(super) fn stage<'a>(
        &self,
        blocks: impl Iterator<Item = &'a ([u8; 32], Bytes)>,
    ) -> Result<Vec<Staged>, StoreError> {
        let mut staged = Vec::new();
        let mut unsynced = Vec::new();
        for (digest, bytes) in blocks {
            let (name, file) = self.write(*digest, bytes)?;
            staged.push(name);
            unsynced.push(file);
            if unsynced.len() == MAX_OPEN_FILES {
                self.sync_files(&mut unsynced)?;
            }
        }
        self.sync_files(&mut unsynced)?;
        Ok(staged)
    }

    fn write(&self, digest: [u8; 32], bytes: &[u8]) -> Result<(Staged, File), StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let staged = Staged {
            digest,
            path: self.temporary.join(number.to_string()),
        };
        let written = self.device.write(|| {
            let mut file = File::create_new(&staged.path)?;
            file.write_all(bytes)?;
            Ok(file)
        });
        let file = written.map_err(|error| self.device.explain(error))?;
        Ok((staged, file))
    }

    fn sync_files(&self, files: &mut Vec<File>) -> Result<(), StoreError> {
        self.device
            .sync_each(files, File::sync_all)
            .map_err(|error| self.device.explain(error))?;
        files.clear();
        Ok(())
    }

    /// Gives staged files their names, durably.
    pub(super) fn publish<'a>(
        &self,
        staged: impl Iterator<Item = &'a Staged>,
    ) -> Result<(), StoreError> {
        let mut folders = BTreeSet::new();
        for file in staged {
            let path = self.path(&file.digest);
            self.device
                .write(|| fs::rename(&file.path, &path))
                .map_err(|error| self.device.explain(error))?;
            folders.extend(path.parent().map(Path::to_owned));
        }
        self.sync_folders(&folders)
    }

    /// Moves a block's bad file out of the way, durably; it need not be there.
    pub(super) fn set_aside(&self, digest: &[u8; 32]) -> Result<(), StoreError> {
        let path = self.path(digest);
        let moved = self
            .device
            .write(|| match fs::rename(&path, self.aside(digest)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            });
        moved
            .and_then(|()| self.device.sync_folder(&self.quarantine))
            .and_then(|()| match path.parent() {
                Some(folder) => self.device.sync_folder(folder),
                None => Ok(()),
            })
            .map_err(|error| self.device.explain(error))
    }

    /// Deletes bad bytes that were moved out of the way, if there are any.
    pub(super) fn discard(&self, digest: &[u8; 32]) -> Result<(), StoreError> {
        self.delete(&self.aside(digest))
    }

    /// The blocks whose bad bytes were moved out of the way.
    pub(super) fn set_aside_digests(&self) -> io::Result<Vec<[u8; 32]>> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(&self.quarantine)? {
            digests.extend(digest_in(&entry?.file_name()));
        }
        Ok(digests)
    }

    /// Deletes blocks' files, durably; they need not be there.
    pub(super) fn remove_all(&self, digests: &[[u8; 32]]) -> Result<(), StoreError> {
        let mut folders = BTreeSet::new();
        for digest in digests {
            let path = self.path(digest);
            self.delete(&path)?;
            folders.extend(path.parent().map(Path::to_owned));
        }
        self.sync_folders(&folders)
    }

    /// The blocks that have a file in one of the folders.
    pub(super) fn digests(&self, shard: u8) -> Result<Vec<[u8; 32]>, StoreError> {
        let folder = self.blocks.join(format!("{shard:02x}"));
        let listed = fs::read_dir(folder).and_then(|files| {
            let names = files.map(|file| Ok(file?.file_name()));
            names.collect::<io::Result<Vec<_>>>()
        });
        let names = listed.map_err(|error| self.device.explain(error))?;
        Ok(names.iter().filter_map(|name| digest_in(name)).collect())
    }

    /// Deletes a file, if it is there.
    fn delete(&self, path: &Path) -> Result<(), StoreError> {
        let deleted = self.device.write(|| match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        });
        deleted.map_err(|error| self.device.explain(error))
    }

    fn sync_folders(&self, folders: &BTreeSet<PathBuf>) -> Result<(), StoreError> {
        let folders: io::Result<Vec<_>> = folders.iter().map(File::open).collect();
        folders
            .and_then(|folders| self.device.sync_each(&folders, File::sync_all))
            .map_err(|error| self.device.explain(error))
    }

    fn aside(&self, digest: &[u8; 32]) -> PathBuf {
        self.quarantine.join(Hash::new(*digest).to_string())
    }

    fn path(&self, digest: &[u8; 32]) -> PathBuf {
        let name = Hash::new(*digest).to_string();
        let shard = name.get(..2).unwrap_or_default();
        self.blocks.join(shard).join(&name)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Best effort: it is gone already when it was published, and swept at the next start otherwise.
        let _ = fs::remove_file(&self.path);
    }
}

/// The block that a file's name says; whatever else is there is not ours.
fn digest_in(name: &OsStr) -> Option<[u8; 32]> {
    let digest = name.to_str()?.parse::<Hash>().ok()?;
    Some(*digest.as_bytes())
}

/// How many files are written before they are fsynced, together.
const MAX_OPEN_FILES: usize = 64;
