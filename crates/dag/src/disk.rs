//! The block store on disk.
//!
//! ```text
//! lock              held while the store is open
//! blocks.redb       a row for every block; blocks of at most 16 KiB are inside their row
//! blocks/<2>/<64>   larger blocks: file name = SHA-256 digest in hex, folder = its first two digits
//! tmp/              files being written; whatever is here at the start is deleted
//! ```
//!
//! A row without its file, or a file without its row, is no block: putting the block again mends both.

mod device;
mod files;
mod group;
mod index;

use crate::{Block, BlockStore, StoreError, block::digest_of};
use cid::Cid;
use device::Device;
use files::Files;
use group::{Group, Put};
use index::{Index, Row};
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Blocks in a folder of their own. One process at a time.
///
/// What [`BlockStore::put`] acknowledged survives a crash and a power loss. After a failed fsync nobody
/// knows what is durable: every later write fails with [`StoreError::Stopped`] and the node must stop.
#[derive(Debug)]
pub struct DiskStore {
    index: Index,
    files: Files,
    device: Arc<Device>,
    group: Group,
    _lock: File,
}

/// Why a block store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open: stop that one first.
    #[error("block store `{0}` is in use by another process")]
    InUse(PathBuf),
    /// It was written by a program of another version.
    #[error("block store has format `{found}`, this program reads `{FORMAT}`")]
    Format {
        /// The format that it says it has.
        found: String,
    },
    /// The folder cannot be read or written.
    #[error("open block store `{path}`")]
    Io {
        /// The store's folder.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// Its index cannot be read or written.
    #[error("open index of the block store")]
    Index(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl DiskStore {
    /// Opens the store in this folder, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing was lost.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        Self::open_on(folder, Device::default())
    }

    fn open_on(folder: &Path, device: Device) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io {
            path: folder.to_owned(),
            source,
        };
        let device = Arc::new(device);
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = lock(folder).map_err(failed)?;
        let lock = lock.ok_or_else(|| OpenError::InUse(folder.to_owned()))?;
        let files = Files::open(folder, Arc::clone(&device)).map_err(failed)?;
        let index = Index::open(&folder.join("blocks.redb"), Arc::clone(&device))?;
        device.sync_folder(folder).map_err(failed)?;
        if let Some(parent) = folder.canonicalize().map_err(failed)?.parent() {
            device.sync_folder(parent).map_err(failed)?;
        }
        Ok(Self {
            index,
            files,
            device,
            group: Group::default(),
            _lock: lock,
        })
    }

    /// Forgets a block. Whether it was here.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the block may be gone.
    pub fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        let digest = digest_of(cid)?;
        // No put may stand between the naming of its files and the commit of its rows.
        let _exclusive = self.group.exclusive();
        self.device.check()?;
        match self.index.row(&digest)? {
            None => return Ok(false),
            Some(Row::Small(_)) => {}
            // The file goes first: after a crash the row without it can still be removed.
            Some(Row::Large) => self.files.remove(&digest)?,
        }
        self.index.remove(&digest)
    }

    /// Number of blocks.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn len_blocks(&self) -> Result<u64, StoreError> {
        self.index.len_blocks()
    }

    /// Length of all blocks together, in bytes.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn size_bytes(&self) -> Result<u64, StoreError> {
        self.index.size_bytes()
    }

    fn commit(&self, puts: &[&Put]) -> Result<(), StoreError> {
        self.device.check()?;
        self.files
            .publish(puts.iter().flat_map(|put| &put.staged))?;
        // Commit point: from here a restart finds the blocks. Everything above may be lost.
        self.index.insert(puts.iter().flat_map(|put| &put.rows))
    }

    fn is_intact(&self, block: &Block) -> Result<bool, StoreError> {
        match self.block(block.cid()) {
            Ok(found) => Ok(found.is_some()),
            Err(StoreError::Corrupt(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl BlockStore for DiskStore {
    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        let digest = digest_of(cid)?;
        match self.index.row(&digest)? {
            None => Ok(false),
            Some(Row::Small(_)) => Ok(true),
            Some(Row::Large) => self.files.has(&digest),
        }
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let digest = digest_of(cid)?;
        let bytes = match self.index.row(&digest)? {
            None => None,
            Some(Row::Small(bytes)) => Some(bytes),
            Some(Row::Large) => self.files.read(&digest, cid)?,
        };
        bytes
            .map(|bytes| Block::verify(*cid, bytes).map_err(|_| StoreError::Corrupt(*cid)))
            .transpose()
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.device.check()?;
        let mut rows = Vec::new();
        for block in blocks {
            if !self.is_intact(block)? {
                rows.push((digest_of(block.cid())?, block.bytes().clone()));
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let staged = self
            .files
            .stage(rows.iter().filter(|(_, bytes)| is_large(bytes)))?;
        self.group
            .commit(Put { rows, staged }, |puts| self.commit(puts))
    }
}

/// The store's lock, unless another process holds it. The operating system frees it with the process.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a block is kept in a file of its own.
fn is_large(bytes: &[u8]) -> bool {
    bytes.len() > MAX_ROW_BYTES
}

/// The largest block that is kept inside its row.
const MAX_ROW_BYTES: usize = 16 * 1024;

/// What is on disk, and its version.
const FORMAT: &str = "blocks-1";

#[cfg(test)]
mod tests;
