use crate::error::{StoreError, database};
use crate::layer::Layer;
use crate::position::Position;
use crate::runs::{self, Runs, is_scattered};
use crate::tables::{Base, ReadTables, WriteTables, definition};
use medanchor_anchor::{Row, Table};
use redb::{Database, TableHandle, WriteTransaction};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;

/// The state: what the database holds, and over it, in memory, what was written since.
///
/// In a B-tree of millions of leaves a row with a random key is a page of its own. So rows are gathered here
/// ([`Overlay::publish`]) and written to the database many at a time ([`Overlay::flush`]), beside the writing of
/// further ones. What was not flushed is gone after a crash, as if it had never been written.
pub(crate) struct Overlay {
    now: RwLock<Now>,
    /// Whoever has it writes to the database.
    writing: Mutex<()>,
    database: Database,
    flush_bytes: usize,
    large: Notify,
}

/// INVARIANT: the database holds version `durable`, and a state that begins at `base` and goes through `frozen`
/// and `open` is version `version`.
struct Now {
    base: Arc<Base>,
    /// Is being written to the database.
    frozen: Option<Frozen>,
    /// Takes what is written.
    open: Arc<Layer>,
    version: u64,
    durable: u64,
    position: Arc<Position>,
}

#[derive(Clone)]
struct Frozen {
    layer: Arc<Layer>,
    /// With it the state is of this version, and at this position.
    version: u64,
    position: Arc<Position>,
}

impl Overlay {
    /// Opens the database, in which rows are gathered until they take about `flush_bytes`.
    pub(crate) fn open(base: Database, flush_bytes: usize) -> Result<Self, StoreError> {
        let runs = create_tables(&base)?;
        let now = Now {
            base: Arc::new(Base::open(&base, runs)?),
            frozen: None,
            open: Arc::default(),
            version: 0,
            durable: 0,
            position: Arc::new(Position::read(&base)?),
        };
        Ok(Self {
            now: RwLock::new(now),
            writing: Mutex::default(),
            database: base,
            flush_bytes,
            large: Notify::new(),
        })
    }

    /// The newest version.
    pub(crate) fn view(&self) -> ReadTables {
        let now = self.now();
        let frozen = now.frozen.as_ref().map(|frozen| &frozen.layer);
        let layers = std::iter::once(&now.open).chain(frozen);
        ReadTables {
            base: Arc::clone(&now.base),
            layers: layers.cloned().collect(),
            version: now.version,
            position: Arc::clone(&now.position),
        }
    }

    /// The tables to write the next version with. There is one writer at a time.
    pub(crate) fn begin(&self) -> WriteTables {
        WriteTables {
            before: self.view(),
            written: Default::default(),
        }
    }

    /// Makes what was written the newest version. When the database cannot keep up, this waits for it, so that
    /// memory is bounded and a restart has little to apply again.
    pub(crate) fn publish(
        &self,
        tables: WriteTables,
        position: Position,
    ) -> Result<(), StoreError> {
        let size_bytes = {
            let mut now = self.now_mut();
            now.version = now.version.saturating_add(1);
            now.open.write(tables.written, now.version);
            now.position = Arc::new(position);
            now.open.size_bytes()
        };
        if size_bytes >= self.flush_bytes {
            self.large.notify_one();
        }
        if size_bytes >= self.flush_bytes.saturating_mul(2) {
            self.flush()?;
        }
        Ok(())
    }

    /// Resolves when so much was written that it is time to flush.
    pub(crate) async fn large(&self) {
        self.large.notified().await;
    }

    /// Makes the newest version durable. Readers and the writer go on meanwhile.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let _writing = self.writing();
        let upto = self.now().version;
        while let Some(frozen) = self.freeze(upto) {
            let runs = self.write(&frozen)?;
            let base = Arc::new(Base::open(&self.database, runs)?);
            let mut now = self.now_mut();
            (now.base, now.frozen, now.durable) = (base, None, frozen.version);
        }
        Ok(())
    }

    /// What is to be written next. One layer is left frozen when it could not be written before.
    fn freeze(&self, upto: u64) -> Option<Frozen> {
        let mut now = self.now_mut();
        if now.frozen.is_none() && now.durable < upto {
            now.frozen = Some(Frozen {
                layer: std::mem::take(&mut now.open),
                version: now.version,
                position: Arc::clone(&now.position),
            });
        }
        now.frozen.clone()
    }

    /// Gives the runs that there are then.
    fn write(&self, frozen: &Frozen) -> Result<Runs, StoreError> {
        let base = Arc::clone(&self.now().base);
        let txn = begin_write(&self.database)?;
        let mut writer = Writer::open(&txn, base.runs.clone())?;
        let rows = frozen.layer.reader();
        let scattered = rows.newest().filter(|(table, ..)| is_scattered(*table));
        writer
            .runs
            .merge(&base.pages, MERGED_PER_ROW * scattered.count() as u64)?;
        for (table, key, value) in rows.newest() {
            writer.put(table, key, value)?;
        }
        drop(rows);
        let runs = writer.close()?;
        frozen.position.write(&txn)?;
        // Commit point: from here a restart finds these rows, and the position that says so.
        txn.commit().map_err(database)?;
        Ok(runs)
    }

    /// Replaces the whole state by what `next_row` gives, durably and at once.
    pub(crate) fn replace(
        &self,
        mut next_row: impl FnMut() -> Result<Option<(Table, Row)>, StoreError>,
        position: Position,
    ) -> Result<(), StoreError> {
        let _writing = self.writing();
        let txn = begin_write(&self.database)?;
        for table in trees() {
            txn.delete_table(definition(table)).map_err(database)?;
            txn.open_table(definition(table)).map_err(database)?;
        }
        let mut writer = Writer::open(&txn, Runs::delete_all(&txn)?)?;
        while let Some((table, (key, value))) = next_row()? {
            writer.put(table, &key, Some(&value))?;
        }
        let runs = writer.close()?;
        position.write(&txn)?;
        txn.commit().map_err(database)?;
        let base = Arc::new(Base::open(&self.database, runs)?);
        let mut now = self.now_mut();
        now.version = now.version.saturating_add(1);
        now.durable = now.version;
        (now.base, now.frozen, now.open) = (base, None, Arc::default());
        now.position = Arc::new(position);
        Ok(())
    }

    fn now(&self) -> RwLockReadGuard<'_, Now> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_mut(&self) -> RwLockWriteGuard<'_, Now> {
        self.now.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes rows that come table by table, in the order of their keys.
struct Writer<'txn> {
    txn: &'txn WriteTransaction,
    /// A transaction has each table open once at most.
    tree: Option<(Table, Rows<'txn>)>,
    runs: runs::Writer<'txn>,
}

type Rows<'txn> = redb::Table<'txn, &'static [u8], &'static [u8]>;

impl<'txn> Writer<'txn> {
    fn open(txn: &'txn WriteTransaction, runs: Runs) -> Result<Self, StoreError> {
        Ok(Self {
            txn,
            tree: None,
            runs: runs::Writer::open(txn, runs)?,
        })
    }

    fn put(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        if is_scattered(table) {
            return self.runs.put(table, key, value);
        }
        let tree = match self.tree.take().filter(|(of, _)| *of == table) {
            Some(tree) => tree,
            None => {
                let rows = self.txn.open_table(definition(table));
                (table, rows.map_err(database)?)
            }
        };
        let (_, rows) = self.tree.insert(tree);
        match value {
            Some(value) => drop(rows.insert(key, value).map_err(database)?),
            None => drop(rows.remove(key).map_err(database)?),
        }
        Ok(())
    }

    /// Gives the runs that there are then.
    fn close(self) -> Result<Runs, StoreError> {
        self.runs.close()
    }
}

/// A transaction that leaves nothing to repair after a crash: else redb reads all of the state three times,
/// which takes minutes when there are millions of leaves.
fn begin_write(base: &Database) -> Result<WriteTransaction, StoreError> {
    let mut txn = base.begin_write().map_err(database)?;
    txn.set_quick_repair(true);
    Ok(txn)
}

/// Gives the runs that there are. A state that has its tables is not written to: a start waits for no sync.
fn create_tables(base: &Database) -> Result<Runs, StoreError> {
    let txn = begin_write(base)?;
    let before = table_names(&txn)?;
    for table in trees() {
        txn.open_table(definition(table)).map_err(database)?;
    }
    let runs = runs::open(&txn)?;
    Position::create_table(&txn)?;
    if table_names(&txn)? == before {
        txn.abort().map_err(database)?;
    } else {
        txn.commit().map_err(database)?;
    }
    Ok(runs)
}

fn table_names(txn: &WriteTransaction) -> Result<BTreeSet<String>, StoreError> {
    let tables = txn.list_tables().map_err(database)?;
    Ok(tables.map(|table| table.name().to_owned()).collect())
}

fn trees() -> impl Iterator<Item = Table> {
    let tables = Table::ALL.into_iter();
    tables.filter(|table| !is_scattered(*table))
}

/// Rows of runs that a flush may merge, for each row that it writes into one. A row is written again about five times
/// while ten million others come; what is more than that waits for a later flush, and no flush takes long.
const MERGED_PER_ROW: u64 = 16;
