use super::{
    device::Device,
    places::{Changes, Places},
};
use redb::{
    Database, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction,
    backends::FileBackend,
};
use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// The index's database, and what memory knows of where its rows are.
#[derive(Debug)]
pub(super) struct Opened {
    database: Database,
    /// INVARIANT: as the last commit left it, or while one ends, between that and the one before.
    places: RwLock<Places>,
    writing: Mutex<()>,
}

impl Opened {
    pub(super) fn new(database: Database) -> Result<Self, redb::Error> {
        let places = Places::read(&database.begin_read()?)?;
        Ok(Self {
            database,
            places: RwLock::new(places),
            writing: Mutex::new(()),
        })
    }

    pub(super) fn view(&self) -> Result<ReadTransaction, redb::Error> {
        Ok(self.database.begin_read()?)
    }

    /// What `look` finds in the recent places, and a view: where these say nothing, its table does.
    pub(super) fn view_with<T>(
        &self,
        look: impl FnOnce(&Places) -> T,
    ) -> Result<(T, ReadTransaction), redb::Error> {
        // The view begins under the lock: what has left the recent places was committed to the table before.
        let places = self.places();
        Ok((look(&places), self.database.begin_read()?))
    }

    /// Makes a change, durably and all at once.
    pub(super) fn commit<T>(
        &self,
        change: impl FnOnce(&WriteTransaction, &Places, &mut Changes) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let txn = self.database.begin_write()?;
        let (value, changes, merged) = {
            let places = self.places();
            let mut changes = places.changes();
            let value = change(&txn, &places, &mut changes)?;
            let merged = places.write(&txn, &changes)?;
            (value, changes, merged)
        };
        // Commit point: from here a restart finds the change. Everything above may be lost.
        txn.commit()?;
        // A few under each lock: whoever reads does not wait for all of them.
        for digests in merged.digests().chunks(LOCKED) {
            self.places_mut().forget(digests);
        }
        let mut moved = changes.moved().peekable();
        while moved.peek().is_some() {
            self.places_mut().remember(moved.by_ref().take(LOCKED));
        }
        self.places_mut().advance(&changes, &merged);
        Ok(value)
    }

    fn places(&self) -> RwLockReadGuard<'_, Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn places_mut(&self) -> RwLockWriteGuard<'_, Places> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn open_database(path: &Path, device: &Arc<Device>) -> Result<Database, redb::Error> {
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

const CACHE_BYTES: usize = 64 << 20;
/// How many places are changed under one lock.
const LOCKED: usize = 128;
