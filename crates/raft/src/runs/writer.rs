use super::merge::Merge;
use super::row::Row;
use super::{Listed, PAGES, PageKey, PageValue, Pages, RUNS, Run, Runs, Shard};
use crate::error::{StoreError, database};
use crate::filter::{Filter, hash};
use medanchor_anchor::Table;
use redb::WriteTransaction;
use std::ops::Bound;

/// Writes runs in one transaction.
pub(crate) struct Writer<'txn> {
    pages: redb::Table<'txn, PageKey, PageValue>,
    list: redb::Table<'txn, u64, Listed>,
    /// As they will be.
    runs: Runs,
    open: Option<Open>,
}

/// A run that is being written.
struct Open {
    shard: Shard,
    number: u64,
    /// Whether rows of older runs are to be hidden.
    keeps_removed: bool,
    first_key: Vec<u8>,
    page: Vec<u8>,
    hashes: Vec<u64>,
}

impl<'txn> Writer<'txn> {
    /// Begins from these runs.
    pub(crate) fn open(txn: &'txn WriteTransaction, runs: Runs) -> Result<Self, StoreError> {
        Ok(Self {
            pages: txn.open_table(PAGES).map_err(database)?,
            list: txn.open_table(RUNS).map_err(database)?,
            runs,
            open: None,
        })
    }

    /// Writes a row, or that it was removed. Rows come table by table, in the order of their keys.
    pub(crate) fn put(
        &mut self,
        table: Table,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let shard = Shard::of(table, key);
        if self.open.as_ref().is_none_or(|open| open.shard != shard) {
            self.finish()?;
            let older = self.runs.shards.get(&shard);
            self.begin(shard, older.is_some_and(|runs| !runs.is_empty()));
        }
        self.append(key, value)
    }

    /// Merges runs of those that there were before this transaction, which `pages` has: those with the fewest rows
    /// first, until they had `rows` together.
    pub(crate) fn merge(&mut self, pages: &Pages, rows: u64) -> Result<(), StoreError> {
        let mut left = rows;
        for (cost, shard, count) in self.runs.due() {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(cost);
            self.merge_newest(pages, shard, count)?;
        }
        Ok(())
    }

    fn merge_newest(
        &mut self,
        pages: &Pages,
        shard: Shard,
        count: usize,
    ) -> Result<(), StoreError> {
        let Some(runs) = self.runs.shards.get_mut(&shard) else {
            return Ok(());
        };
        let merged: Vec<_> = runs.drain(..count).collect();
        let has_older = !runs.is_empty();
        self.begin(shard, has_older);
        let mut rows = Merge::open(pages, &merged, &[])?;
        while let Some(row) = rows.step()? {
            self.append(row.key, row.value)?;
        }
        self.finish()?;
        for run in merged {
            let (from, until): (Bound<(u64, &[u8])>, _) = (
                Bound::Included((run.number, &[])),
                Bound::Excluded((run.number.saturating_add(1), [].as_slice())),
            );
            self.pages
                .retain_in::<(u64, &[u8]), _>((from, until), |_, _| false)
                .map_err(database)?;
            self.list.remove(run.number).map_err(database)?;
        }
        Ok(())
    }

    /// What there is after the transaction.
    pub(crate) fn close(mut self) -> Result<Runs, StoreError> {
        self.finish()?;
        Ok(self.runs)
    }

    fn begin(&mut self, shard: Shard, keeps_removed: bool) {
        let number = self.runs.next;
        self.runs.next = number.saturating_add(1);
        self.open = Some(Open {
            shard,
            number,
            keeps_removed,
            first_key: Vec::new(),
            page: Vec::new(),
            hashes: Vec::new(),
        });
    }

    fn append(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if value.is_none() && !open.keeps_removed {
            return Ok(());
        }
        let row_bytes = ROW_BYTES + key.len() + value.map_or(0, <[u8]>::len);
        if open.page.len() + row_bytes > PAGE_BYTES {
            open.write_page(&mut self.pages)?;
        }
        if open.page.is_empty() {
            open.first_key.extend_from_slice(key);
        }
        Row::write(key, value, &mut open.page)?;
        open.hashes.push(hash(key));
        Ok(())
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        let Some(mut open) = self.open.take().filter(|open| !open.hashes.is_empty()) else {
            return Ok(());
        };
        open.write_page(&mut self.pages)?;
        let run = Run {
            number: open.number,
            rows: open.hashes.len() as u64,
            filter: Filter::of(&open.hashes),
        };
        let Shard { table, part } = open.shard;
        let row = (table.name(), part, run.rows, run.filter.as_bytes());
        self.list.insert(run.number, row).map_err(database)?;
        self.runs.add(open.shard, run);
        Ok(())
    }
}

impl Open {
    fn write_page(
        &mut self,
        pages: &mut redb::Table<'_, PageKey, PageValue>,
    ) -> Result<(), StoreError> {
        if !self.page.is_empty() {
            let key = (self.number, self.first_key.as_slice());
            pages.insert(key, self.page.as_slice()).map_err(database)?;
            self.page.clear();
            self.first_key.clear();
        }
        Ok(())
    }
}

/// What a row takes in a page besides key and value.
const ROW_BYTES: usize = 6;
/// With its key a little less than two of the database's own pages, which it then takes.
const PAGE_BYTES: usize = 8000;
