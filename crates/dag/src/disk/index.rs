use super::{
    FORMAT, OpenError,
    database::{Opened, open_database},
    device::Device,
    figures::Figures,
    is_large,
    places::{Changes, Places, merge},
    tables::{
        BAD, BLOCKS, BYTES, FOUND_BAD, FREED_BLOCKS, FREED_BYTES, LARGE, PLACES, PROGRESS,
        PROMISED, REPAIRED, ROWS, SCRUB, TOTALS, change_total,
    },
    upgrade::prepare,
};
use crate::StoreError;
use bytes::Bytes;
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, WriteTransaction,
};
use std::{
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
    opened: RwLock<Option<Opened>>,
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
        let opened = Opened::new(database).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            device,
            opened: RwLock::new(Some(opened)),
        })
    }

    pub(super) fn row(&self, digest: &[u8; 32]) -> Result<Option<Row>, StoreError> {
        self.with(|opened| {
            let (recent, view) = opened.view_with(|places| places.recent(digest))?;
            if let Some(row) = place(recent, &view, digest)?
                && let Some(bytes) = view.open_table(ROWS)?.get(row)?
            {
                return Ok(Some(Row::Small(bytes.value().to_vec())));
            }
            // A row that is not there was removed by the commit that just ends.
            if view.open_table(LARGE)?.get(digest)?.is_some() {
                return Ok(Some(Row::Large));
            }
            let bad = view.open_table(BAD)?.get(digest)?;
            Ok(bad.map(|_| Row::Bad))
        })
    }

    /// Which of these may have a row. It has none for the others.
    pub(super) fn may_have(&self, digests: &[[u8; 32]]) -> Result<Vec<bool>, StoreError> {
        self.with(|opened| {
            let (recent, view) = opened.view_with(|places| {
                let recent = digests.iter().map(|digest| places.recent(digest));
                recent.collect::<Vec<_>>()
            })?;
            let places = view.open_table(PLACES)?;
            let large = view.open_table(LARGE)?;
            let bad = view.open_table(BAD)?;
            let mut found = Vec::with_capacity(digests.len());
            for (digest, recent) in digests.iter().zip(recent) {
                let has_row = match recent {
                    Some(row) => row.is_some(),
                    None => places.get(digest)?.is_some(),
                };
                let may_have =
                    has_row || large.get(digest)?.is_some() || bad.get(digest)?.is_some();
                found.push(may_have);
            }
            Ok(found)
        })
    }

    pub(super) fn figures(&self) -> Result<Figures, StoreError> {
        self.with(|opened| {
            let view = opened.view()?;
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
        self.with(|opened| {
            let (recent, view) = opened.view_with(|places| places.recent_after(after, limit))?;
            let places = view.open_table(PLACES)?;
            let mut digests = merge(recent, keys(&places, after)?, limit)?;
            let large = view.open_table(LARGE)?;
            for digest in keys(&large, after)?.take(limit) {
                digests.push(digest?);
            }
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
        self.with(|opened| {
            let bad = opened.view()?.open_table(BAD)?;
            keys(&bad, after)?.take(limit).collect()
        })
    }

    /// Moves a row among the bad ones, durably. Whether it was there.
    pub(super) fn quarantine(&self, digest: &[u8; 32]) -> Result<bool, StoreError> {
        self.commit(|txn, places, changes| {
            let mut rows = txn.open_table(ROWS)?;
            let mut small = None;
            if let Some(row) = places.find(&txn.open_table(PLACES)?, digest)? {
                small = rows.remove(row)?.map(|bytes| bytes.value().to_vec());
                changes.remove(digest);
            }
            let mut large = txn.open_table(LARGE)?;
            let large = large.remove(digest)?.map(|length| length.value());
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
        self.commit(|txn, places, _| {
            let small = txn.open_table(PLACES)?;
            let large = txn.open_table(LARGE)?;
            let mut bad = txn.open_table(BAD)?;
            let mut count = 0;
            for digest in digests {
                if places.find(&small, digest)?.is_none()
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
        self.with(|opened| {
            let table = opened.view()?.open_table(SCRUB)?;
            let saved = table.get(PROGRESS)?;
            Ok(saved.map(|saved| saved.value().to_vec()))
        })
    }

    pub(super) fn save_progress(&self, progress: &[u8]) -> Result<(), StoreError> {
        self.commit(|txn, _, _| {
            txn.open_table(SCRUB)?.insert(PROGRESS, progress)?;
            Ok(())
        })
    }

    /// Adds rows, or replaces them, durably and all at once. Returns the blocks that were bad until then.
    pub(super) fn insert<'a>(
        &self,
        blocks: impl Iterator<Item = &'a ([u8; 32], Bytes)>,
    ) -> Result<Vec<[u8; 32]>, StoreError> {
        self.commit(|txn, places, changes| {
            let small = txn.open_table(PLACES)?;
            let mut rows = txn.open_table(ROWS)?;
            let mut large = txn.open_table(LARGE)?;
            let mut bad = txn.open_table(BAD)?;
            let (mut count, mut bytes) = (0, 0);
            let mut mended = Vec::new();
            for (digest, block) in blocks {
                let length = length(block);
                let is_known = if is_large(block) {
                    large.insert(digest, length)?.is_some()
                } else {
                    let known = match changes.row(digest) {
                        Some(row) => Some(row),
                        None => places.find(&small, digest)?,
                    };
                    let row = known.unwrap_or_else(|| changes.put(digest));
                    rows.insert(row, block.as_ref())?;
                    known.is_some()
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
        self.with(|opened| {
            let large = opened.view()?.open_table(LARGE)?;
            Ok(large.get(digest)?.is_some())
        })
    }

    /// Removes rows, durably and all at once, also those among the bad.
    pub(super) fn remove_all(&self, digests: &[[u8; 32]]) -> Result<Removed, StoreError> {
        self.commit(|txn, places, changes| {
            let small = txn.open_table(PLACES)?;
            let mut rows = txn.open_table(ROWS)?;
            let mut large = txn.open_table(LARGE)?;
            let mut bad = txn.open_table(BAD)?;
            let mut removed = Removed::default();
            for digest in digests {
                if bad.remove(digest)?.is_some() {
                    removed.bad.push(*digest);
                }
                let mut in_row = None;
                if let Some(row) = places.find(&small, digest)? {
                    in_row = rows.remove(row)?.map(|row| length(row.value()));
                    changes.remove(digest);
                }
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
        self.with(|opened| {
            let totals = opened.view()?.open_table(TOTALS)?;
            Ok(totals.get(PROMISED)?.map_or(0, |until| until.value()))
        })
    }

    pub(super) fn save_promised(&self, until_unix_ms: u64) -> Result<(), StoreError> {
        self.commit(|txn, _, _| change_total(txn, PROMISED, |known| known.max(until_unix_ms)))
    }

    /// The journal's rows.
    #[cfg(test)]
    pub(super) fn journal(&self) -> Vec<(u64, Vec<u8>)> {
        self.with(|opened| {
            let journal = opened.view()?.open_table(super::tables::JOURNAL)?;
            let rows = journal.range::<u64>(..)?;
            rows.map(|row| row.map(|(first, changes)| (first.value(), changes.value().to_vec())))
                .collect::<Result<_, _>>()
                .map_err(redb::Error::from)
        })
        .unwrap()
    }

    /// Makes it an index of another format.
    #[cfg(test)]
    pub(super) fn set_format(&self, format: &str) {
        self.commit(|txn, _, _| {
            let mut formats = txn.open_table(super::tables::FORMATS)?;
            formats.insert(super::tables::FORMAT_KEY, format)?;
            Ok(())
        })
        .unwrap();
    }

    fn commit<T>(
        &self,
        change: impl FnOnce(&WriteTransaction, &Places, &mut Changes) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let result = self.with(|opened| opened.commit(change));
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
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        drop(opened.take());
        match open_database(&self.path, &self.device).and_then(Opened::new) {
            Ok(new) => {
                *opened = Some(new);
                Ok(())
            }
            Err(error) => Err(self.device.give_up(io::Error::other(error))),
        }
    }

    fn with<T>(
        &self,
        run: impl FnOnce(&Opened) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let opened = opened.as_ref().ok_or_else(closed)?;
        run(opened).map_err(|error| match error {
            redb::Error::Io(error) => self.device.explain(error),
            other => StoreError::Io(Box::new(other)),
        })
    }
}

/// The row of a block: where the recent places say nothing, the table does.
fn place(
    recent: Option<Option<u64>>,
    view: &ReadTransaction,
    digest: &[u8; 32],
) -> Result<Option<u64>, redb::Error> {
    match recent {
        Some(row) => Ok(row),
        None => {
            let row = view.open_table(PLACES)?.get(digest)?;
            Ok(row.map(|row| row.value()))
        }
    }
}

/// Keys of a table, in order.
fn keys<V: redb::Value + 'static>(
    table: &ReadOnlyTable<[u8; 32], V>,
    after: Option<&[u8; 32]>,
) -> Result<impl Iterator<Item = Result<[u8; 32], redb::Error>>, redb::Error> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let rows = table.range::<&[u8; 32]>((from, Bound::Unbounded))?;
    Ok(rows.map(|row| Ok(row?.0.value())))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn closed() -> StoreError {
    StoreError::Io("index of the block store could not be opened again".into())
}
