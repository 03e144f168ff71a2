use redb::{Database, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction};
use std::{
    fs::File,
    mem,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
};

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

/// Changes of many callers at once, which share a transaction and its fsync.
#[derive(Debug)]
pub(crate) struct Group<I, O> {
    waiting: Mutex<Vec<Waiting<I, O>>>,
    turn: Mutex<()>,
}

type Waiting<I, O> = (I, SyncSender<Result<O, redb::Error>>);

impl<I, O> Default for Group<I, O> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            turn: Mutex::default(),
        }
    }
}

impl<I, O> Group<I, O> {
    /// Makes a change, in the order of the calls. It is on disk when this returns. When a change fails, all that share
    /// its transaction do, and none takes effect.
    pub(crate) fn write(
        &self,
        store: &Store,
        item: I,
        change: impl Fn(&WriteTransaction, &I) -> Result<O, redb::Error>,
    ) -> Result<O, redb::Error> {
        let (answer, answered) = sync_channel(1);
        lock(&self.waiting).push((item, answer));
        // Whoever comes to its turn first writes for all that wait by then.
        let turn = lock(&self.turn);
        if let Ok(answer) = answered.try_recv() {
            return answer;
        }
        let (items, answers): (Vec<I>, Vec<_>) =
            mem::take(&mut *lock(&self.waiting)).into_iter().unzip();
        let changed: Result<Vec<O>, redb::Error> =
            store.write(|txn| items.iter().map(|item| change(txn, item)).collect());
        // Nobody has stopped waiting: each has a place for its answer.
        match changed {
            Ok(changed) => answers.iter().zip(changed).for_each(|(answer, changed)| {
                let _ = answer.try_send(Ok(changed));
            }),
            Err(error) => {
                answers.iter().for_each(|answer| {
                    let _ = answer.try_send(Err(redb::Error::PreviousIo));
                });
                return Err(error);
            }
        }
        drop(turn);
        answered.try_recv().unwrap_or(Err(redb::Error::PreviousIo))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::ReadableTable;
    use std::{sync::Barrier, thread};

    const TABLE: Rows = Rows::new("test-1");

    fn add(txn: &WriteTransaction, number: &u32) -> Result<usize, redb::Error> {
        let mut table = txn.open_table(TABLE)?;
        if *number == 0 {
            return Err(redb::Error::ValueTooLarge(0));
        }
        table.insert(number.to_be_bytes().as_slice(), [].as_slice())?;
        Ok(table.iter()?.count())
    }

    fn rows(store: &Store) -> usize {
        let count = store.read(|txn| Ok(txn.open_table(TABLE)?.iter()?.count()));
        count.unwrap()
    }

    #[test]
    fn everybody_hears_of_its_own_change_once_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("group.redb"), &[TABLE]).unwrap();
        let (group, start) = (Group::default(), Barrier::new(16));
        thread::scope(|scope| {
            for number in 1..=16_u32 {
                let (store, group, start) = (&store, &group, &start);
                scope.spawn(move || {
                    start.wait();
                    for again in 0..8 {
                        let number = number + again * 16;
                        group.write(store, number, add).unwrap();
                        let is_there = store.read(|txn| {
                            let table = txn.open_table(TABLE)?;
                            Ok(table.get(number.to_be_bytes().as_slice())?.is_some())
                        });
                        assert!(is_there.unwrap());
                    }
                });
            }
        });
        assert_eq!(rows(&store), 128);
    }

    #[test]
    fn change_that_fails_changes_nothing_and_stops_nobody_else_later() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("group.redb"), &[TABLE]).unwrap();
        let group = Group::default();
        assert_eq!(group.write(&store, 1, add).unwrap(), 1);
        assert!(group.write(&store, 0, add).is_err());
        assert_eq!(rows(&store), 1);
        assert_eq!(group.write(&store, 2, add).unwrap(), 2);
    }
}
