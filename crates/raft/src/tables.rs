use crate::error::{StoreError, database};
use crate::layer::{Found, Layer, Value, Written, found, over};
use crate::position::Position;
use crate::runs::{Pages, Runs, is_scattered, open_pages};
use medanchor_anchor::{Row, Table, Tables, TablesError, View};
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition, TableError};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// One version of the state.
#[derive(Clone)]
pub(crate) struct ReadTables {
    pub(crate) base: Arc<Base>,
    /// What was written since, later layers first.
    pub(crate) layers: Vec<Arc<Layer>>,
    pub(crate) version: u64,
    pub(crate) position: Arc<Position>,
}

/// The next version of the state, which takes effect all at once: see `Overlay::publish`.
pub(crate) struct WriteTables {
    pub(crate) before: ReadTables,
    pub(crate) written: Written,
}

/// The tables as the database has them.
pub(crate) struct Base {
    /// Those that are not scattered.
    trees: BTreeMap<Table, ReadOnlyTable<&'static [u8], &'static [u8]>>,
    /// The others.
    pub(crate) runs: Runs,
    pub(crate) pages: Pages,
}

impl Base {
    /// What the last transaction left, which are these runs.
    pub(crate) fn open(base: &Database, runs: Runs) -> Result<Self, StoreError> {
        let txn = base.begin_read().map_err(database)?;
        let trees = Table::ALL
            .into_iter()
            .filter(|table| !is_scattered(*table))
            .map(|table| Ok((table, txn.open_table(definition(table))?)))
            .collect::<Result<_, TableError>>()
            .map_err(database)?;
        Ok(Self {
            trees,
            runs,
            pages: open_pages(&txn)?,
        })
    }

    fn tree(
        &self,
        table: Table,
    ) -> Result<&ReadOnlyTable<&'static [u8], &'static [u8]>, TablesError> {
        let found = self.trees.get(&table);
        found.ok_or_else(|| TablesError(format!("table `{}` is not open", table.name()).into()))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Value, TablesError> {
        if is_scattered(table) {
            return self.runs.get(&self.pages, table, key);
        }
        let value = self.tree(table)?.get(key).map_err(failed)?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn range<'a>(
        &'a self,
        table: Table,
        range: (Bound<&'a [u8]>, Bound<&'a [u8]>),
    ) -> Result<Box<dyn Iterator<Item = Found<'a>> + 'a>, TablesError> {
        if is_scattered(table) {
            return Ok(Box::new(self.runs.range(&self.pages, table, range)));
        }
        let rows = self.tree(table)?.range::<&[u8]>(range).map_err(failed)?;
        Ok(Box::new(rows.map(|row| {
            let (key, value) = row.map_err(failed)?;
            let value = Cow::Owned(value.value().to_vec());
            Ok((Cow::Owned(key.value().to_vec()), Some(value)))
        })))
    }
}

impl ReadTables {
    /// With what `written` has over it.
    fn range_below(
        &self,
        written: Option<&BTreeMap<Vec<u8>, Value>>,
        table: Table,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
    ) -> Result<Vec<Row>, TablesError> {
        if is_empty(range) {
            return Ok(Vec::new());
        }
        let readers: Vec<_> = self.layers.iter().map(|layer| layer.reader()).collect();
        let mut rows = self.base.range(table, range)?;
        for reader in readers.iter().rev() {
            rows = Box::new(over(reader.range(table, range, self.version), rows));
        }
        let written = written.into_iter();
        let written = written.flat_map(|written| written.range::<[u8], _>(range));
        let written = written.map(|(key, value)| found(key, value));
        let rows = over(written, rows).filter_map(|row| match row {
            Ok((key, value)) => Some(Ok((key.into_owned(), value?.into_owned()))),
            Err(error) => Some(Err(error)),
        });
        rows.take(limit).collect()
    }
}

impl View for ReadTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let mut layers = self.layers.iter();
        match layers.find_map(|layer| layer.get(table, key, self.version)) {
            Some(value) => Ok(value),
            None => self.base.get(table, key),
        }
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, TablesError> {
        self.range_below(None, table, bounds(from, until), limit)
    }
}

impl View for WriteTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let written = self.written.get(&table);
        match written.and_then(|written| written.get(key)) {
            Some(value) => Ok(value.clone()),
            None => self.before.get(table, key),
        }
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, TablesError> {
        let written = self.written.get(&table);
        let range = bounds(from, until);
        self.before.range_below(written, table, range, limit)
    }
}

impl WriteTables {
    fn set(&mut self, table: Table, key: &[u8], value: Value) {
        let written = self.written.entry(table).or_default();
        written.insert(key.to_vec(), value);
    }
}

impl Tables for WriteTables {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), TablesError> {
        self.set(table, key, Some(value.to_vec()));
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), TablesError> {
        self.set(table, key, None);
        Ok(())
    }
}

pub(crate) fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

fn bounds<'a>(from: &'a [u8], until: Option<&'a [u8]>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    let until = until.map_or(Bound::Unbounded, Bound::Excluded);
    (Bound::Included(from), until)
}

fn is_empty(range: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    matches!(range, (Bound::Included(from), Bound::Excluded(until)) if until <= from)
}

pub(crate) fn failed(error: impl Into<redb::Error>) -> TablesError {
    TablesError(Box::new(error.into()))
}
