mod merge;
mod row;
mod writer;

use crate::error::{StoreError, database};
use crate::filter::{Filter, hash};
use crate::layer::{Found, Value};
use crate::tables::{definition, failed};
use medanchor_anchor::{Table, TablesError};
use merge::Merge;
use redb::{ReadOnlyTable, ReadableTable, TableDefinition, TableHandle, WriteTransaction};
use row::Row;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

pub(crate) use writer::Writer;

/// Whether a table's keys come in no order.
///
/// In a B-tree of millions of rows each of them is a page of its own, read, copied and written. So the rows of such a
/// table lie in [`Runs`].
pub(crate) fn is_scattered(table: Table) -> bool {
    match table {
        // An emergency is rare, and so are an erasure and another epoch key; holders are few.
        Table::Meta
        | Table::Leaves
        | Table::Nodes
        | Table::Openings
        | Table::Members
        | Table::Emergencies
        | Table::Releases
        | Table::EpochKeys
        | Table::Erasures
        | Table::UsedEpochKeys
        | Table::Sweeps
        | Table::ErasuresWaiting
        | Table::ErasedLeaves => false,
        Table::Statements
        | Table::Principals
        | Table::Keys
        | Table::Custodies
        | Table::Consents
        | Table::Records
        | Table::Headers
        | Table::Streams
        | Table::Requests
        | Table::LegalHolds
        | Table::Disclosures
        | Table::Exposures
        | Table::CustodyRecords
        | Table::CustodyLeaves => true,
    }
}

/// Which runs there are: rows that were written together, in the order of their keys, and that never change.
///
/// Each flush writes one run for each shard that it has rows for, and merges others: [`Writer`]. A row hides those with
/// its key in older runs.
#[derive(Clone, Default)]
pub(crate) struct Runs {
    /// Newest first. INVARIANT: a newer run has a greater number.
    shards: BTreeMap<Shard, Vec<Arc<Run>>>,
    /// The number that the next run gets.
    next: u64,
}

/// A part of a table: the keys whose first byte has the same upper bits. So that merges are short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shard {
    table: Table,
    part: u8,
}

struct Run {
    number: u64,
    rows: u64,
    filter: Filter,
}

/// The rows of all runs.
pub(crate) type Pages = ReadOnlyTable<PageKey, PageValue>;

type PageKey = (u64, &'static [u8]);
type PageValue = &'static [u8];

impl Runs {
    /// The runs that the database has.
    fn read(txn: &WriteTransaction) -> Result<Self, StoreError> {
        let mut runs = Self::default();
        let list = txn.open_table(RUNS).map_err(database)?;
        for run in list.iter().map_err(database)? {
            let (number, run) = run.map_err(database)?;
            let (table, part, rows, filter) = run.value();
            let number = number.value();
            let mut known = Table::ALL.into_iter();
            let table = known.find(|known| known.name() == table);
            let table = table.ok_or_else(|| damaged("it is of no table"))?;
            let filter = Filter::from_bytes(filter);
            let run = Run {
                number,
                rows,
                filter: filter.ok_or_else(|| damaged("its filter is cut"))?,
            };
            runs.add(Shard { table, part }, run);
            runs.next = number.saturating_add(1);
        }
        Ok(runs)
    }

    /// Deletes all runs.
    pub(crate) fn delete_all(txn: &WriteTransaction) -> Result<Self, StoreError> {
        txn.delete_table(PAGES).map_err(database)?;
        txn.delete_table(RUNS).map_err(database)?;
        Ok(Self::default())
    }

    fn add(&mut self, shard: Shard, run: Run) {
        let runs = self.shards.entry(shard).or_default();
        runs.insert(0, Arc::new(run));
    }

    pub(crate) fn get(
        &self,
        pages: &Pages,
        table: Table,
        key: &[u8],
    ) -> Result<Value, TablesError> {
        let hash = hash(key);
        for run in self
            .shards
            .get(&Shard::of(table, key))
            .into_iter()
            .flatten()
        {
            if run.filter.may_have(hash)
                && let Some(value) = find(pages, run.number, key)?
            {
                return Ok(value);
            }
        }
        Ok(None)
    }

    /// The rows in order; a removed one is not there.
    pub(crate) fn range<'a>(
        &'a self,
        pages: &'a Pages,
        table: Table,
        (from, until): (Bound<&'a [u8]>, Bound<&'a [u8]>),
    ) -> impl Iterator<Item = Found<'a>> {
        let from = match from {
            Bound::Included(from) | Bound::Excluded(from) => from,
            Bound::Unbounded => &[],
        };
        let shards = Shard::of(table, from)..=Shard::last(table);
        let mut shards = self.shards.range(shards);
        let mut merge: Option<Merge> = None;
        let mut next = move || {
            loop {
                if let Some(merge) = &mut merge
                    && let Some(row) = merge.step()?
                {
                    let is_over = match until {
                        Bound::Excluded(until) => row.key >= until,
                        Bound::Included(until) => row.key > until,
                        Bound::Unbounded => false,
                    };
                    match row.value {
                        _ if is_over => return Ok(None),
                        Some(value) => return Ok(Some((row.key.to_vec(), value.to_vec()))),
                        None => continue,
                    }
                }
                let Some((_, runs)) = shards.next() else {
                    return Ok(None);
                };
                merge = Some(Merge::open(pages, runs, from)?);
            }
        };
        std::iter::from_fn(move || next().transpose()).map(|row| {
            let (key, value): (Vec<u8>, Vec<u8>) = row?;
            Ok((Cow::Owned(key), Some(Cow::Owned(value))))
        })
    }

    /// Which of the newest runs of a shard are to become one, and how many rows they have.
    ///
    /// Of runs that are about as long there are few: [`FAN_IN`] of them become one. So a row is written again as often
    /// as the table grows by that factor, and a shard has few runs.
    fn due(&self) -> Vec<(u64, Shard, usize)> {
        let mut due = Vec::new();
        for (shard, runs) in &self.shards {
            // How long a run is, or one of those that are newer.
            let (mut length, mut alike, mut rows) = (0, 0, 0);
            let mut runs = runs.iter().zip(1..).peekable();
            while let Some((run, count)) = runs.next() {
                let own = run.rows.max(1).ilog(FAN_IN);
                alike = if own > length { 1 } else { alike + 1 };
                length = own.max(length);
                rows += run.rows;
                let next = runs.peek().map(|(run, _)| run.rows.max(1).ilog(FAN_IN));
                if alike >= FAN_IN && next.is_none_or(|next| next > length) {
                    due.push((rows, *shard, count));
                    break;
                }
            }
        }
        due.sort_unstable();
        due
    }
}

impl Shard {
    fn of(table: Table, key: &[u8]) -> Self {
        let part = key.first().map_or(0, |first| first >> PART_SHIFT);
        Self { table, part }
    }

    fn last(table: Table) -> Self {
        Self::of(table, &[u8::MAX])
    }
}

/// What a run says of a key.
fn find(pages: &Pages, run: u64, key: &[u8]) -> Result<Option<Value>, TablesError> {
    let first: (u64, &[u8]) = (run, &[]);
    let mut found = pages.range(first..=(run, key)).map_err(failed)?;
    let Some(page) = found.next_back() else {
        return Ok(None);
    };
    let (_, page) = page.map_err(failed)?;
    let mut rest = page.value();
    while !rest.is_empty() {
        let (row, following) = Row::split(rest)?;
        if row.key >= key {
            let is_it = row.key == key;
            return Ok(is_it.then(|| row.value.map(<[u8]>::to_vec)));
        }
        rest = following;
    }
    Ok(None)
}

/// The runs of a database, which gets the tables for them if it has none.
///
/// A state of an earlier version has the rows of scattered tables in B-trees. They become runs.
pub(crate) fn open(txn: &WriteTransaction) -> Result<Runs, StoreError> {
    let mut writer = Writer::open(txn, Runs::read(txn)?)?;
    let tables: Vec<_> = txn.list_tables().map_err(database)?.collect();
    for table in Table::ALL.into_iter().filter(|table| is_scattered(*table)) {
        if !tables.iter().any(|known| known.name() == table.name()) {
            continue;
        }
        {
            let rows = txn.open_table(definition(table)).map_err(database)?;
            for row in rows.iter().map_err(database)? {
                let (key, value) = row.map_err(database)?;
                writer.put(table, key.value(), Some(value.value()))?;
            }
        }
        txn.delete_table(definition(table)).map_err(database)?;
    }
    writer.close()
}

/// Opens the rows of all runs.
pub(crate) fn open_pages(txn: &redb::ReadTransaction) -> Result<Pages, StoreError> {
    txn.open_table(PAGES).map_err(database)
}

fn damaged(what: &'static str) -> StoreError {
    TablesError(format!("a run is damaged: {what}").into()).into()
}

/// Number of the run and key of the page's first row, to the page (`docs/formats.md`, Runs).
const PAGES: TableDefinition<'static, PageKey, PageValue> = TableDefinition::new("pages-1");
/// Number of the run to the name of its table, its part of the table's keys, how many rows it has, its filter.
const RUNS: TableDefinition<'static, u64, Listed> = TableDefinition::new("runs-1");
type Listed = (&'static str, u8, u64, &'static [u8]);
/// A table has 64 shards.
const PART_SHIFT: u32 = 2;
const FAN_IN: u64 = 4;
