use redb::{Database, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction};
use std::{fs::File, path::Path};

/// A table of rows, both sides bytes.
pub(crate) type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// The broker's database: one file, a few tables.
#[derive(Debug)]
pub(crate) struct Store(Database);

impl Store {
    /// Opens the database at `path`, or makes it with these tables.
    pub(crate) fn open(path: &Path, tables: &[Rows]) -> Result<Self, redb::Error> {
        let store = Self(Database::create(path)?);
        store.write(|txn| {
            for table in tables {
                txn.open_table(*table)?;
            }
            Ok(())
        })?;
        // A new file is there after a crash when its folder says so.
        if let Some(folder) = path.parent().filter(|folder| folder.is_dir()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(store)
    }

    /// Reads the state at one moment.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        read(&self.0.begin_read()?)
    }

    /// Makes changes that take effect together, and are on disk when this returns.
    pub(crate) fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let txn = self.0.begin_write()?;
        let changed = change(&txn)?;
        // Commit point: redb fsyncs before it returns.
        txn.commit()?;
        Ok(changed)
    }
}
