use crate::error::{StoreError, database};
use crate::layer::Layer;
use crate::position::Position;
use crate::tables::{Base, ReadTables, WriteTables, definition};
use medanchor_anchor::{Row, Table};
use redb::{Database, WriteTransaction};
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
        create_tables(&base)?;
        let now = Now {
            base: Arc::new(Base::open(&base)?),
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
            self.write(&frozen)?;
            let base = Arc::new(Base::open(&self.database)?);
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

    fn write(&self, frozen: &Frozen) -> Result<(), StoreError> {
        let txn = begin_write(&self.database)?;
        {
            let rows = frozen.layer.reader();
            let mut writer = Writer::new(&txn);
            for (table, key, value) in rows.newest() {
                let table = writer.table(table)?;
                match value {
                    Some(value) => drop(table.insert(key, value).map_err(database)?),
                    None => drop(table.remove(key).map_err(database)?),
                }
            }
        }
        frozen.position.write(&txn)?;
        // Commit point: from here a restart finds these rows, and the position that says so.
        txn.commit().map_err(database)
    }

    /// Replaces the whole state by what `next_row` gives, durably and at once.
    pub(crate) fn replace(
        &self,
        mut next_row: impl FnMut() -> Result<Option<(Table, Row)>, StoreError>,
        position: Position,
    ) -> Result<(), StoreError> {
        let _writing = self.writing();
        let txn = begin_write(&self.database)?;
        for table in Table::ALL {
            txn.delete_table(definition(table)).map_err(database)?;
            txn.open_table(definition(table)).map_err(database)?;
        }
        {
            let mut writer = Writer::new(&txn);
            while let Some((table, (key, value))) = next_row()? {
                let table = writer.table(table)?;
                table
                    .insert(key.as_slice(), value.as_slice())
                    .map_err(database)?;
            }
        }
        position.write(&txn)?;
        txn.commit().map_err(database)?;
        let base = Arc::new(Base::open(&self.database)?);
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

/// Writes rows that come table by table.
struct Writer<'txn> {
    txn: &'txn WriteTransaction,
    /// A transaction has each table open once at most.
    open: Option<(Table, Rows<'txn>)>,
}

type Rows<'txn> = redb::Table<'txn, &'static [u8], &'static [u8]>;

impl<'txn> Writer<'txn> {
    fn new(txn: &'txn WriteTransaction) -> Self {
        Self { txn, open: None }
    }

    fn table(&mut self, table: Table) -> Result<&mut Rows<'txn>, StoreError> {
        let open = match self.open.take().filter(|(of, _)| *of == table) {
            Some(open) => open,
            None => {
                let rows = self.txn.open_table(definition(table));
                (table, rows.map_err(database)?)
            }
        };
        Ok(&mut self.open.insert(open).1)
    }
}

/// A transaction that leaves nothing to repair after a crash: else redb reads all of the state three times,
/// which takes minutes when there are millions of leaves.
fn begin_write(base: &Database) -> Result<WriteTransaction, StoreError> {
    let mut txn = base.begin_write().map_err(database)?;
    txn.set_quick_repair(true);
    Ok(txn)
}

fn create_tables(base: &Database) -> Result<(), StoreError> {
    let txn = begin_write(base)?;
    for table in Table::ALL {
        txn.open_table(definition(table)).map_err(database)?;
    }
    Position::create_table(&txn)?;
    txn.commit().map_err(database)
}
