//! The block store on disk.
//!
//! ```text
//! lock              held while the store is open
//! blocks.redb       a row for every block; blocks of at most 16 KiB are inside a row
//! blocks/<2>/<64>   larger blocks: file name = SHA-256 digest in hex, folder = its first two digits
//! quarantine/<64>   larger blocks whose bytes are bad, until a good copy is put
//! tmp/              files being written; whatever is here at the start is deleted
//! ```
//!
//! A row without its file, or a file without its row, is no block: putting the block again mends both. What nothing
//! needs any more is [collected](DiskStore::collect), while the store is in use. A block that is bad or gone is [quarantined](DiskStore::quarantine): its row moves to the table of bad blocks, its
//! file out of the way, and nobody is served either. It stays listed until it is put again.

mod collect;
mod database;
mod device;
mod digest_set;
mod effort;
mod figures;
mod files;
mod group;
mod index;
mod places;
mod recent;
mod scrub;
mod tables;
mod upgrade;

use crate::{Block, BlockStore, Codec, StoreError, block::digest_of, cid_of};
use cid::Cid;
use device::Device;
use files::Files;
use group::{Group, Put};
use index::{Index, Row};
use recent::Recent;
use std::{
    fs::{self, File, TryLockError},
    io, iter,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

pub use collect::{Collected, Marks};
pub use effort::Effort;
pub use figures::Figures;
pub use recent::Lease;
pub use scrub::{ScrubProgress, ScrubStep};

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
    recent: Recent,
    promised: Mutex<Promised>,
    _lock: File,
}

/// Until when blocks were promised to be kept, log time in unix ms.
#[derive(Debug)]
struct Promised {
    /// The latest promise since the store was opened; at first what may have been promised before.
    until: u64,
    /// What is on disk: no promise goes beyond it.
    reserved: u64,
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
        sweep(&files, &index, folder)?;
        device.sync_folder(folder).map_err(failed)?;
        if let Some(parent) = folder.canonicalize().map_err(failed)?.parent() {
            device.sync_folder(parent).map_err(failed)?;
        }
        let reserved = index.promised();
        let reserved = reserved.map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self {
            index,
            files,
            device,
            group: Group::default(),
            recent: Recent::default(),
            promised: Mutex::new(Promised {
                until: reserved,
                reserved,
            }),
            _lock: lock,
        })
    }

    /// The block, as [`BlockStore::block`] gives it, without that its being read keeps it from being collected.
    ///
    /// # Errors
    ///
    /// As [`BlockStore::block`].
    pub fn peek(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let digest = digest_of(cid)?;
        let mut bytes = None;
        // A file that is gone may have been removed since its row was read, or put again: look twice.
        for _ in 0..2 {
            bytes = match self.index.row(&digest)? {
                None => return Ok(None),
                Some(Row::Small(bytes)) => Some(bytes),
                Some(Row::Large) => self.files.read(&digest, cid)?,
                Some(Row::Bad) => return Err(StoreError::Corrupt(*cid)),
            };
            if bytes.is_some() {
                break;
            }
        }
        let block = bytes.and_then(|bytes| Block::verify(*cid, bytes).ok());
        block.map(Some).ok_or(StoreError::Corrupt(*cid))
    }

    /// Whether the block's bytes are here, as [`BlockStore::has`] says it, without that the question keeps it from
    /// being collected.
    ///
    /// # Errors
    ///
    /// As [`BlockStore::has`].
    pub fn knows(&self, cid: &Cid) -> Result<bool, StoreError> {
        let digest = digest_of(cid)?;
        match self.index.row(&digest)? {
            None | Some(Row::Bad) => Ok(false),
            Some(Row::Small(_)) => Ok(true),
            Some(Row::Large) => self.files.has(&digest),
        }
    }

    /// Keeps from being collected what is put or looked for while it is held, and for a generation longer.
    pub fn lease(&self) -> Lease {
        self.recent.lease()
    }

    /// Begins a new generation of what was put or looked for lately, and forgets the last but one: what only that
    /// knew may be collected. Whether it did: not while a [`Lease`] of the last is held.
    pub fn begin_generation(&self) -> bool {
        self.recent.begin_generation()
    }

    /// Whether no [`Lease`] of the last generation is held.
    pub fn is_last_generation_free(&self) -> bool {
        self.recent.is_last_free()
    }

    /// Remembers, durably, that somebody was promised that blocks are kept until a log time, unix ms. To be called
    /// before the promise is given. It names no blocks: a [`Lease`] is to be held from when they are looked for.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; promise nothing then.
    pub fn promise(&self, until_unix_ms: u64) -> Result<(), StoreError> {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        if until_unix_ms > promised.reserved {
            self.device.check()?;
            // A little ahead, so that not every promise costs a sync.
            let reserved = until_unix_ms.saturating_add(RESERVE_MS);
            self.index.save_promised(reserved)?;
            promised.reserved = reserved;
        }
        promised.until = promised.until.max(until_unix_ms);
        Ok(())
    }

    /// Until when blocks were promised to be kept, log time in unix ms: no promise goes beyond it.
    pub fn promised(&self) -> u64 {
        let promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        promised.until
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
        let removed = self.remove_rows(&[digest])?;
        let (blocks, _) = self.remove_files(&removed)?;
        Ok(blocks > 0)
    }

    /// Takes a block out of service if its bytes are bad or gone. Whether it did: a block that is good, not
    /// here or in quarantine already is left alone. It is listed in [`DiskStore::bad`] until it is put again.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the block is then in service or not, and never read as good either way.
    pub fn quarantine(&self, cid: &Cid) -> Result<bool, StoreError> {
        let digest = digest_of(cid)?;
        // A put that mends the block meanwhile is seen here, or comes after this.
        let _exclusive = self.group.exclusive();
        self.device.check()?;
        let is_large = match self.index.row(&digest)? {
            None | Some(Row::Bad) => return Ok(false),
            Some(Row::Small(_)) => false,
            Some(Row::Large) => true,
        };
        match self.peek(cid) {
            Err(StoreError::Corrupt(_)) => {}
            Ok(_) => return Ok(false),
            Err(error) => return Err(error),
        }
        if is_large {
            // The file goes first: after a crash the row without it is found again.
            self.files.set_aside(&digest)?;
            #[cfg(medanchor_fault)]
            crate::fault_step("bad-set-aside");
        }
        // Commit point: from here the block is listed as bad. Everything above may be lost.
        self.index.quarantine(&digest)
    }

    /// Lists as bad whichever of these blocks the store does not know, although it should have them. Their
    /// number.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; none of them was listed.
    pub fn expect(&self, cids: &[Cid]) -> Result<u64, StoreError> {
        let digests: Result<Vec<_>, _> = cids.iter().map(digest_of).collect();
        self.device.check()?;
        self.index.expect(&digests?)
    }

    /// Up to `limit` of the blocks that are bad or missing, after the one given, in the order of their digests.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn bad(&self, after: Option<&Cid>, limit: usize) -> Result<Vec<Cid>, StoreError> {
        let after = after.map(digest_of).transpose()?;
        let digests = self.index.bad(after.as_ref(), limit)?;
        Ok(digests.iter().map(raw).collect())
    }

    /// Up to `limit` of the blocks that are kept, after the one given, in the order of their digests. The codec
    /// of a block is not kept: all are named as raw.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn cids(&self, after: Option<&Cid>, limit: usize) -> Result<Vec<Cid>, StoreError> {
        let after = after.map(digest_of).transpose()?;
        let digests = self.index.digests(after.as_ref(), limit)?;
        Ok(digests.iter().map(raw).collect())
    }

    /// How far the reading of the whole store has come, as it was saved last.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn scrub_progress(&self) -> Result<ScrubProgress, StoreError> {
        let saved = self.index.progress()?;
        Ok(saved.map_or_else(ScrubProgress::default, |bytes| {
            ScrubProgress::from_bytes(&bytes)
        }))
    }

    /// Saves how far it has come, durably.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was saved before is kept.
    pub fn save_scrub_progress(&self, progress: &ScrubProgress) -> Result<(), StoreError> {
        self.device.check()?;
        self.index.save_progress(&progress.to_bytes())
    }

    /// What is here, and what is not well.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn figures(&self) -> Result<Figures, StoreError> {
        self.index.figures()
    }

    fn commit(&self, puts: &[&Put]) -> Result<(), StoreError> {
        self.device.check()?;
        self.files
            .publish(puts.iter().flat_map(|put| &put.staged))?;
        // Commit point: from here a restart finds the blocks. Everything above may be lost.
        let mended = self.index.insert(puts.iter().flat_map(|put| &put.rows))?;
        for digest in &mended {
            #[cfg(medanchor_fault)]
            crate::fault_step("bad-mended");
            // Best effort: what stays of the bad bytes is swept at the next start.
            let _ = self.files.discard(digest);
        }
        Ok(())
    }

    fn is_intact(&self, block: &Block) -> Result<bool, StoreError> {
        match self.block(block.cid()) {
            Ok(found) => Ok(found.is_some()),
            Err(StoreError::Corrupt(cid)) => {
                self.quarantine(&cid)?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl BlockStore for DiskStore {
    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        // Whoever looks for a block may rely on it: from here it is not collected soon, or it is gone.
        Ok(self.recent.notice(&digest_of(cid)?) && self.knows(cid)?)
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        match self.recent.notice(&digest_of(cid)?) {
            true => self.peek(cid),
            false => Ok(None),
        }
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.device.check()?;
        let digests: Result<Vec<_>, _> = blocks.iter().map(|b| digest_of(b.cid())).collect();
        let digests = digests?;
        // Whoever puts a block relies on it: as when it is looked for. One that is just being removed is put again.
        let noticed: Vec<_> = digests.iter().map(|d| self.recent.notice(d)).collect();
        let may_have = self.index.may_have(&digests)?;
        let mut rows = Vec::new();
        let known = iter::zip(noticed, may_have).map(|(noticed, may_have)| noticed && may_have);
        for ((block, digest), known) in blocks.iter().zip(digests).zip(known) {
            if !(known && self.is_intact(block)?) {
                rows.push((digest, block.bytes().clone()));
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

/// Deletes the bad bytes of blocks that are bad no more.
fn sweep(files: &Files, index: &Index, folder: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io {
        path: folder.to_owned(),
        source,
    };
    for digest in files.set_aside_digests().map_err(failed)? {
        let row = index.row(&digest);
        let row = row.map_err(|error| failed(io::Error::other(error)))?;
        if !matches!(row, Some(Row::Bad)) {
            let discarded = files.discard(&digest);
            discarded.map_err(|error| failed(io::Error::other(error)))?;
        }
    }
    Ok(())
}

fn raw(digest: &[u8; 32]) -> Cid {
    cid_of(Codec::Raw, digest)
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

/// How far ahead of a promise it is noted on disk.
const RESERVE_MS: u64 = 10 * 1000;

/// What is on disk, and its version.
const FORMAT: &str = "blocks-2";

/// What an earlier version wrote: it had small blocks in a table by their digests.
const FIRST_FORMAT: &str = "blocks-1";

#[cfg(test)]
mod tests;
