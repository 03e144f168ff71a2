use crate::error::{StoreError, database};
use medanchor_anchor::{Row, Table, Tables, TablesError, View};
use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};
use std::collections::BTreeMap;
use std::ops::Bound;

/// The state as one read transaction sees it.
pub(crate) struct ReadTables(pub(crate) ReadTransaction);

impl View for ReadTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        get(&self.0.open_table(definition(table)).map_err(failed)?, key)
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, TablesError> {
        let table = self.0.open_table(definition(table)).map_err(failed)?;
        range(&table, from, until, limit)
    }
}

/// The state within one write transaction.
pub(crate) struct WriteTables<'txn>(
    BTreeMap<Table, redb::Table<'txn, &'static [u8], &'static [u8]>>,
);

impl<'txn> WriteTables<'txn> {
    /// Opens every table, and creates those that are not there.
    pub(crate) fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        let tables = Table::ALL
            .into_iter()
            .map(|table| Ok((table, txn.open_table(definition(table))?)))
            .collect::<Result<_, TableError>>()
            .map_err(database)?;
        Ok(Self(tables))
    }

    fn table(
        &self,
        table: Table,
    ) -> Result<&redb::Table<'txn, &'static [u8], &'static [u8]>, TablesError> {
        self.0.get(&table).ok_or_else(|| not_open(table))
    }

    fn table_mut(
        &mut self,
        table: Table,
    ) -> Result<&mut redb::Table<'txn, &'static [u8], &'static [u8]>, TablesError> {
        self.0.get_mut(&table).ok_or_else(|| not_open(table))
    }
}

impl View for WriteTables<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        get(self.table(table)?, key)
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, TablesError> {
        range(self.table(table)?, from, until, limit)
    }
}

impl Tables for WriteTables<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), TablesError> {
        self.table_mut(table)?.insert(key, value).map_err(failed)?;
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), TablesError> {
        self.table_mut(table)?.remove(key).map_err(failed)?;
        Ok(())
    }
}

pub(crate) fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

fn get(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<Vec<u8>>, TablesError> {
    let value = table.get(key).map_err(failed)?;
    Ok(value.map(|value| value.value().to_vec()))
}

fn range(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    from: &[u8],
    until: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Row>, TablesError> {
    if until.is_some_and(|until| until <= from) {
        return Ok(Vec::new());
    }
    let until = until.map_or(Bound::Unbounded, Bound::Excluded);
    let rows = table
        .range::<&[u8]>((Bound::Included(from), until))
        .map_err(failed)?;
    rows.take(limit)
        .map(|row| {
            let (key, value) = row.map_err(failed)?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        })
        .collect()
}

fn failed(error: impl Into<redb::Error>) -> TablesError {
    TablesError(Box::new(error.into()))
}

fn not_open(table: Table) -> TablesError {
    TablesError(format!("table `{}` is not open", table.name()).into())
}
