use redb::{Database, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction};
use std::{
    fs::File,
    io, mem,
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

/// Changes of many callers at once, which share a transaction and its fsync: while one writes, the others wait, and the next
/// writes for all of them.
#[derive(Debug)]
pub(crate) struct Group<I, O>(Mutex<Queue<I, O>>);

#[derive(Debug)]
struct Queue<I, O> {
    waiting: Vec<(I, SyncSender<Turn<O>>)>,
    is_writing: bool,
}

/// What somebody who waits is told.
enum Turn<O> {
    /// Write for all that wait.
    Write,
    /// It is written, or could not be.
    Done(Result<O, redb::Error>),
}

impl<I, O> Default for Group<I, O> {
    fn default() -> Self {
        Self(Mutex::new(Queue {
            waiting: Vec::new(),
            is_writing: false,
        }))
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
        // One place: whoever is told to write has taken that before it answers itself.
        let (teller, told) = sync_channel(1);
        let is_first = {
            let mut queue = lock(&self.0);
            queue.waiting.push((item, teller));
            !mem::replace(&mut queue.is_writing, true)
        };
        if !is_first {
            match told.recv() {
                Ok(Turn::Done(done)) => return done,
                Ok(Turn::Write) => {}
                Err(_) => return Err(gone()),
            }
        }
        self.write_for_all(store, change);
        match told.try_recv() {
            Ok(Turn::Done(done)) => done,
            _ => Err(gone()),
        }
    }

    fn write_for_all(
        &self,
        store: &Store,
        change: impl Fn(&WriteTransaction, &I) -> Result<O, redb::Error>,
    ) {
        let _next = HandOver(self);
        let waiting = mem::take(&mut lock(&self.0).waiting);
        let (items, tellers): (Vec<I>, Vec<_>) = waiting.into_iter().unzip();
        let written: Result<Vec<O>, redb::Error> =
            store.write(|txn| items.iter().map(|item| change(txn, item)).collect());
        // Whoever does not wait any more needs no answer.
        match written {
            Ok(written) => tellers.iter().zip(written).for_each(|(teller, written)| {
                let _ = teller.try_send(Turn::Done(Ok(written)));
            }),
            Err(error) => tellers.iter().for_each(|teller| {
                let same = io::Error::other(error.to_string());
                let _ = teller.try_send(Turn::Done(Err(same.into())));
            }),
        }
    }
}

/// Lets the next one write, whatever became of this one.
struct HandOver<'a, I, O>(&'a Group<I, O>);

impl<I, O> Drop for HandOver<'_, I, O> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.0);
        match queue.waiting.first() {
            Some((_, teller)) => {
                let _ = teller.try_send(Turn::Write);
            }
            None => queue.is_writing = false,
        }
    }
}

fn gone() -> redb::Error {
    io::Error::other("whoever wrote for this change has failed").into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::ReadableTable;
    use std::{
        ptr,
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

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

    /// Has these changes made while another one is being written, so that they share the next transaction. What
    /// each was told, and in how many transactions all of them were made.
    fn together(store: &Store, numbers: &[u32]) -> (Vec<Result<usize, redb::Error>>, usize) {
        let group = Group::default();
        let (transactions, last) = (AtomicUsize::new(0), Mutex::new(None));
        let counted = |txn: &WriteTransaction, number: &u32| {
            let this = ptr::from_ref(txn).addr();
            if lock(&last).replace(this) != Some(this) {
                transactions.fetch_add(1, Ordering::SeqCst);
            }
            add(txn, number)
        };
        let told = thread::scope(|scope| {
            let first = |txn: &WriteTransaction, number: &u32| {
                // Until all the others wait.
                while lock(&group.0).waiting.len() < numbers.len() {
                    thread::yield_now();
                }
                add(txn, number)
            };
            let (group, counted) = (&group, &counted);
            let first = scope.spawn(move || group.write(store, 100, first));
            while !lock(&group.0).is_writing {
                thread::yield_now();
            }
            let others: Vec<_> = numbers
                .iter()
                .map(|number| scope.spawn(move || group.write(store, *number, counted)))
                .collect();
            first.join().unwrap().unwrap();
            others
                .into_iter()
                .map(|other| other.join().unwrap())
                .collect()
        });
        assert!(!lock(&group.0).is_writing && lock(&group.0).waiting.is_empty());
        (told, transactions.into_inner())
    }

    #[test]
    fn changes_that_wait_share_a_transaction_and_each_hears_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("group.redb"), &[TABLE]).unwrap();
        let (told, transactions) = together(&store, &[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(transactions, 1);
        let mut counts: Vec<usize> = told.into_iter().map(Result::unwrap).collect();
        counts.sort_unstable();
        assert_eq!(counts, [2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(rows(&store), 8);
    }

    #[test]
    fn change_that_fails_takes_those_with_it_and_nobody_later() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("group.redb"), &[TABLE]).unwrap();
        let (told, _) = together(&store, &[1, 0, 2]);
        for told in told {
            assert!(told.unwrap_err().to_string().contains("exceeds"));
        }
        assert_eq!(rows(&store), 1);
        let group = Group::default();
        assert_eq!(group.write(&store, 2, add).unwrap(), 2);
    }
}
