use super::{FORMAT, OpenError, device::Device, is_large};
use crate::StoreError;
use bytes::Bytes;
use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageBackend, TableDefinition, WriteTransaction, backends::FileBackend,
};
use std::{
    fs::File,
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

/// A row for every block, and the totals.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    device: Arc<Device>,
    /// `None` when it could not be opened again after a failed write.
    database: RwLock<Option<Database>>,
}

/// What the index knows of a block.
#[derive(Debug)]
pub(super) enum Row {
    /// The block's bytes, not checked.
    Small(Vec<u8>),
    /// The bytes are in a file.
    Large,
    /// In quarantine: there are no good bytes.
    Bad,
}

/// What a store has, and what in it is not well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Blocks.
    pub blocks: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Blocks that were ever found bad or missing, each time anew.
    pub found_bad: u64,
    /// How many of these were put again.
    pub repaired: u64,
    /// Blocks that are bad or missing now.
    pub missing: u64,
    /// Blocks that were ever removed because nothing needed them.
    pub freed_blocks: u64,
    /// Bytes in them.
    pub freed_bytes: u64,
}

/// What was removed at once.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// Blocks.
    pub(super) blocks: u64,
    /// Bytes in them.
    pub(super) bytes: u64,
    /// Those of them whose bytes are in files, which are still there.
    pub(super) files: Vec<[u8; 32]>,
    /// What was in quarantine, whose bad bytes may still be there.
    pub(super) bad: Vec<[u8; 32]>,
}

impl Index {
    pub(super) fn open(path: &Path, device: Arc<Device>) -> Result<Self, OpenError> {
        let failed = |error: redb::Error| OpenError::Index(Box::new(error));
        let database = open_database(path, &device).map_err(failed)?;
        let found = prepare(&database).map_err(failed)?;
        if found != FORMAT {
            return Err(OpenError::Format { found });
        }
        Ok(Self {
            path: path.to_owned(),
            device,
            database: RwLock::new(Some(database)),
        })
    }

    pub(super) fn row(&self, digest: &[u8; 32]) -> Result<Option<Row>, StoreError> {
        self.with(|database| {
            let view = database.begin_read()?;
            if let Some(bytes) = view.open_table(SMALL)?.get(digest)? {
                return Ok(Some(Row::Small(bytes.value().to_vec())));
            }
            if view.open_table(LARGE)?.get(digest)?.is_some() {
                return Ok(Some(Row::Large));
            }
            let bad = view.open_table(BAD)?.get(digest)?;
            Ok(bad.map(|_| Row::Bad))
        })
    }

    pub(super) fn figures(&self) -> Result<Figures, StoreError> {
        self.with(|database| {
            let view = database.begin_read()?;
            let totals = view.open_table(TOTALS)?;
            let total = |name| -> Result<u64, redb::Error> {
                Ok(totals.get(name)?.map_or(0, |total| total.value()))
            };
            Ok(Figures {
                blocks: total(BLOCKS)?,
                bytes: total(BYTES)?,
                found_bad: total(FOUND_BAD)?,
                repaired: total(REPAIRED)?,
                missing: view.open_table(BAD)?.len()?,
                freed_blocks: total(FREED_BLOCKS)?,
                freed_bytes: total(FREED_BYTES)?,
            })
        })
    }

    /// Digests of blocks that are not in quarantine, in order.
    pub(super) fn digests(
        &self,
        after: Option<&[u8; 32]>,
        limit: usize,
    ) -> Result<Vec<[u8; 32]>, StoreError> {
        self.with(|database| {
            let view = database.begin_read()?;
            let mut digests = keys(&view.open_table(SMALL)?, after, limit)?;
            digests.extend(keys(&view.open_table(LARGE)?, after, limit)?);
            digests.sort_unstable();
            digests.dedup();
            digests.truncate(limit);
            Ok(digests)
        })
    }

    /// Digests of blocks in quarantine, in order.
    pub(super) fn bad(
        &self,
        after: Option<&[u8; 32]>,
        limit: usize,
    ) -> Result<Vec<[u8; 32]>, StoreError> {
        self.with(|database| keys(&database.begin_read()?.open_table(BAD)?, after, limit))
    }

    /// Moves a row among the bad ones, durably. Whether it was there.
    pub(super) fn quarantine(&self, digest: &[u8; 32]) -> Result<bool, StoreError> {
        self.commit(|txn| {
            let small = txn
                .open_table(SMALL)?
                .remove(digest)?
                .map(|row| row.value().to_vec());
            let large = txn
                .open_table(LARGE)?
                .remove(digest)?
                .map(|row| row.value());
            let Some(bytes) = small.as_deref().map(length).or(large) else {
                return Ok(false);
            };
            let kept = small.unwrap_or_default();
            txn.open_table(BAD)?.insert(digest, kept.as_slice())?;
            change_total(txn, BLOCKS, |total| total.saturating_sub(1))?;
            change_total(txn, BYTES, |total| total.saturating_sub(bytes))?;
            change_total(txn, FOUND_BAD, |total| total.saturating_add(1))?;
            Ok(true)
        })
    }

    /// Adds rows among the bad ones for blocks that have none at all, durably. Their number.
    pub(super) fn expect(&self, digests: &[[u8; 32]]) -> Result<u64, StoreError> {
        self.commit(|txn| {
            let small = txn.open_table(SMALL)?;
            let large = txn.open_table(LARGE)?;
            let mut bad = txn.open_table(BAD)?;
            let mut count = 0;
            for digest in digests {
                if small.get(digest)?.is_none()
                    && large.get(digest)?.is_none()
                    && bad.get(digest)?.is_none()
                {
                    bad.insert(digest, [].as_slice())?;
                    count += 1;
                }
            }
            change_total(txn, FOUND_BAD, |total| total.saturating_add(count))?;
            Ok(count)
        })
    }

    pub(super) fn progress(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(SCRUB)?;
            let saved = table.get(PROGRESS)?;
            Ok(saved.map(|saved| saved.value().to_vec()))
        })
    }

    pub(super) fn save_progress(&self, progress: &[u8]) -> Result<(), StoreError> {
        self.commit(|txn| {
            txn.open_table(SCRUB)?.insert(PROGRESS, progress)?;
            Ok(())
        })
    }

    /// Adds rows, or replaces them, durably and all at once. Returns the blocks that were bad until then.
    pub(super) fn insert<'a>(
        &self,
        blocks: impl Iterator<Item = &'a ([u8; 32], Bytes)>,
    ) -> Result<Vec<[u8; 32]>, StoreError> {
        self.commit(|txn| {
            let mut small = txn.open_table(SMALL)?;
            let mut large = txn.open_table(LARGE)?;
            let mut bad = txn.open_table(BAD)?;
            let (mut count, mut bytes) = (0, 0);
            let mut mended = Vec::new();
            for (digest, block) in blocks {
                let length = length(block);
                let is_known = if is_large(block) {
                    large.insert(digest, length)?.is_some()
                } else {
                    small.insert(digest, block.as_ref())?.is_some()
                };
                if !is_known {
                    count += 1;
                    bytes += length;
                }
                if bad.remove(digest)?.is_some() {
                    mended.push(*digest);
                }
            }
            change_total(txn, BLOCKS, |total| total.saturating_add(count))?;
            change_total(txn, BYTES, |total| total.saturating_add(bytes))?;
            if !mended.is_empty() {
                let count = u64::try_from(mended.len()).unwrap_or(u64::MAX);
                change_total(txn, REPAIRED, |total| total.saturating_add(count))?;
            }
            Ok(mended)
        })
    }

    /// Whether a block's bytes are in a file.
    pub(super) fn has_file(&self, digest: &[u8; 32]) -> Result<bool, StoreError> {
        self.with(|database| {
            let large = database.begin_read()?.open_table(LARGE)?;
            Ok(large.get(digest)?.is_some())
        })
    }

    /// Removes rows, durably and all at once, also those among the bad.
    pub(super) fn remove_all(&self, digests: &[[u8; 32]]) -> Result<Removed, StoreError> {
        self.commit(|txn| {
            let mut small = txn.open_table(SMALL)?;
            let mut large = txn.open_table(LARGE)?;
            let mut bad = txn.open_table(BAD)?;
            let mut removed = Removed::default();
            for digest in digests {
                if bad.remove(digest)?.is_some() {
                    removed.bad.push(*digest);
                }
                let in_row = small.remove(digest)?.map(|row| length(row.value()));
                let in_file = large.remove(digest)?.map(|row| row.value());
                if in_file.is_some() {
                    removed.files.push(*digest);
                }
                if let Some(bytes) = in_row.or(in_file) {
                    removed.blocks += 1;
                    removed.bytes = removed.bytes.saturating_add(bytes);
                }
            }
            let Removed { blocks, bytes, .. } = removed;
            change_total(txn, BLOCKS, |total| total.saturating_sub(blocks))?;
            change_total(txn, BYTES, |total| total.saturating_sub(bytes))?;
            change_total(txn, FREED_BLOCKS, |total| total.saturating_add(blocks))?;
            change_total(txn, FREED_BYTES, |total| total.saturating_add(bytes))?;
            Ok(removed)
        })
    }

    /// Until when blocks may have been promised, log time in unix ms.
    pub(super) fn promised(&self) -> Result<u64, StoreError> {
        self.with(|database| {
            let totals = database.begin_read()?.open_table(TOTALS)?;
            Ok(totals.get(PROMISED)?.map_or(0, |until| until.value()))
        })
    }

    pub(super) fn save_promised(&self, until_unix_ms: u64) -> Result<(), StoreError> {
        self.commit(|txn| change_total(txn, PROMISED, |known| known.max(until_unix_ms)))
    }

    /// Makes it an index of another format.
    #[cfg(test)]
    pub(super) fn set_format(&self, format: &str) {
        self.commit(|txn| {
            txn.open_table(FORMATS)?.insert(FORMAT_KEY, format)?;
            Ok(())
        })
        .unwrap();
    }

    fn commit<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let result = self.with(|database| {
            let txn = database.begin_write()?;
            let value = change(&txn)?;
            txn.commit()?;
            Ok(value)
        });
        if result.is_err() {
            self.reopen()?;
        }
        result
    }

    /// After a failed write, redb accepts nothing more until it is opened again; it then stands at its
    /// last commit. After a failed fsync it stays as it is. When it does not open, the store must stop.
    fn reopen(&self) -> Result<(), StoreError> {
        if self.device.has_failed() {
            return Ok(());
        }
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        drop(database.take());
        match open_database(&self.path, &self.device) {
            Ok(opened) => {
                *database = Some(opened);
                Ok(())
            }
            Err(error) => Err(self.device.give_up(io::Error::other(error))),
        }
    }

    fn with<T>(
        &self,
        run: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(closed)?;
        run(database).map_err(|error| match error {
            redb::Error::Io(error) => self.device.explain(error),
            other => StoreError::Io(Box::new(other)),
        })
    }
}

fn open_database(path: &Path, device: &Arc<Device>) -> Result<Database, redb::Error> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)?;
    let file = IndexFile {
        file: FileBackend::new(file)?,
        device: Arc::clone(device),
    };
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(file)?;
    Ok(database)
}

/// Makes the tables that are missing. Returns the format.
fn prepare(database: &Database) -> Result<String, redb::Error> {
    let txn = database.begin_write()?;
    let found = {
        let mut format = txn.open_table(FORMATS)?;
        let found = format
            .get(FORMAT_KEY)?
            .map(|found| found.value().to_owned());
        if found.is_none() {
            format.insert(FORMAT_KEY, FORMAT)?;
        }
        found
    };
    if let Some(found) = found
        && found != FORMAT
    {
        return Ok(found);
    }
    // A store from before there was a quarantine gets its tables now.
    txn.open_table(BAD)?;
    txn.open_table(SCRUB)?;
    txn.open_table(SMALL)?;
    txn.open_table(LARGE)?;
    txn.open_table(TOTALS)?;
    txn.commit()?;
    Ok(FORMAT.to_owned())
}

/// Keys of a table, in order.
fn keys<V: redb::Value + 'static>(
    table: &ReadOnlyTable<[u8; 32], V>,
    after: Option<&[u8; 32]>,
    limit: usize,
) -> Result<Vec<[u8; 32]>, redb::Error> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let rows = table.range::<&[u8; 32]>((from, Bound::Unbounded))?;
    rows.take(limit).map(|row| Ok(row?.0.value())).collect()
}

fn change_total(
    txn: &WriteTransaction,
    name: &str,
    change: impl FnOnce(u64) -> u64,
) -> Result<(), redb::Error> {
    let mut totals = txn.open_table(TOTALS)?;
    let total = totals.get(name)?.map_or(0, |total| total.value());
    totals.insert(name, change(total))?;
    Ok(())
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn closed() -> StoreError {
    StoreError::Io("index of the block store could not be opened again".into())
}

/// The index's file, on the store's device. The store's own lock keeps other processes out.
#[derive(Debug)]
struct IndexFile {
    file: FileBackend,
    device: Arc<Device>,
}

impl StorageBackend for IndexFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.device.write(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.device.sync(|| self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.device.write(|| self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// SHA-256 digest -> the block's bytes.
const SMALL: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("small");
/// SHA-256 digest -> the file's length.
const LARGE: TableDefinition<'_, [u8; 32], u64> = TableDefinition::new("large");
/// SHA-256 digest of a block that is bad or missing -> the bad bytes, if they were in its row.
const BAD: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("bad");
/// How far the reading of the whole store has come: see `ScrubProgress`.
const SCRUB: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("scrub");
/// Totals over all rows, and over the store's life; and until when blocks were promised.
const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("totals");
const FORMATS: TableDefinition<'_, &str, &str> = TableDefinition::new("format");

const BLOCKS: &str = "blocks";
const BYTES: &str = "bytes";
const FOUND_BAD: &str = "found-bad";
const REPAIRED: &str = "repaired";
const FREED_BLOCKS: &str = "freed-blocks";
const FREED_BYTES: &str = "freed-bytes";
/// Log time, unix ms, beyond which no block was promised to be kept.
const PROMISED: &str = "promised-until";
const PROGRESS: &str = "progress";
const FORMAT_KEY: &str = "format";

const CACHE_BYTES: usize = 64 << 20;
