use crate::codec::{
    from_row, log_id_from_pb, log_id_to_pb, membership_from_pb, membership_to_pb, snapshot_meta,
    to_row,
};
use crate::error::{StoreError, blocking, database};
use crate::snapshot::{SnapshotFile, write_snapshot};
use crate::tables::{ReadTables, WriteTables, definition};
use crate::types::{
    Entry, LogId, Proposal, Response, Snapshot, SnapshotMeta, StorageError, StoredMembership,
    TypeConfig,
};
use medanchor_anchor::{Batch, Log, State, Table, Tables};
use medanchor_api::pb::raft as pb;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The state: the anchor log's tables, and up to which entry they are applied, changed in one transaction.
/// A transaction need not be durable at once: after a crash the last durable one is found, and openraft
/// applies the entries after it again. So the log is purged only after [`StateStore::make_durable`].
#[derive(Clone)]
pub(crate) struct StateStore(Arc<Inner>);

struct Inner {
    database: Database,
    dir: PathBuf,
    snapshot: Mutex<Option<Snapshot>>,
    applied: watch::Sender<Applied>,
    /// Transactions since the last durable one.
    volatile: AtomicU64,
}

/// How far the state has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Index of the last applied entry.
    pub(crate) log_index: Option<u64>,
    /// Leaves in the log.
    pub(crate) tree_size: u64,
}

impl StateStore {
    /// Opens the state, with the snapshots in `dir`. An installation that a crash cut off is completed.
    pub(crate) fn open(database: Database, dir: PathBuf) -> Result<Self, StoreError> {
        remove_unfinished(&dir)?;
        create_tables(&database)?;
        let snapshot = open_snapshot(&dir)?;
        let store = Self(Arc::new(Inner {
            database,
            dir,
            snapshot: Mutex::new(snapshot.clone()),
            applied: watch::Sender::new(Applied::default()),
            volatile: AtomicU64::new(0),
        }));
        let (last_log_id, _) = store.applied_state_now()?;
        if let Some(snapshot) = snapshot.filter(|found| found.meta.last_log_id > last_log_id) {
            store.load(&snapshot)?;
        }
        store.announce()?;
        Ok(store)
    }

    /// The state as it is now.
    pub(crate) fn view(&self) -> Result<ReadTables, StoreError> {
        Ok(ReadTables(self.0.database.begin_read().map_err(database)?))
    }

    /// Tells whenever entries were applied.
    pub(crate) fn applied(&self) -> watch::Receiver<Applied> {
        self.0.applied.subscribe()
    }

    /// Makes everything that is applied durable.
    pub(crate) fn make_durable(&self) -> Result<(), StoreError> {
        if self.0.volatile.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let txn = self.0.database.begin_write().map_err(database)?;
        {
            // A transaction that changes nothing would not be written.
            let mut meta = txn.open_table(META).map_err(database)?;
            let applied = meta.get(APPLIED).map_err(database)?;
            let applied = applied.map(|row| row.value().to_vec());
            if let Some(row) = applied {
                meta.insert(APPLIED, row.as_slice()).map_err(database)?;
            }
        }
        txn.commit().map_err(database)?;
        self.0.volatile.store(0, Ordering::Release);
        Ok(())
    }

    fn apply_now(&self, entries: Vec<Entry>) -> Result<Vec<Response>, StoreError> {
        let mut txn = self.0.database.begin_write().map_err(database)?;
        let volatile = self.0.volatile.load(Ordering::Acquire);
        let durable = volatile >= MAX_VOLATILE;
        if !durable {
            txn.set_durability(Durability::None)
                .map_err(|error| database(redb::Error::from(error)))?;
        }
        let responses = write_entries(&txn, entries)?;
        txn.commit().map_err(database)?;
        let volatile = if durable {
            0
        } else {
            volatile.saturating_add(1)
        };
        self.0.volatile.store(volatile, Ordering::Release);
        self.announce()?;
        Ok(responses)
    }

    fn applied_state_now(&self) -> Result<(Option<LogId>, StoredMembership), StoreError> {
        applied_state(&self.0.database.begin_read().map_err(database)?)
    }

    fn announce(&self) -> Result<(), StoreError> {
        let txn = self.0.database.begin_read().map_err(database)?;
        let (last_log_id, _) = applied_state(&txn)?;
        let view = ReadTables(txn);
        let tree_size = State::new(&view).tree_size()?;
        self.0.applied.send_replace(Applied {
            log_index: last_log_id.map(|id| id.index),
            tree_size,
        });
        Ok(())
    }

    fn build(&self, txn: &ReadTransaction) -> Result<Snapshot, StoreError> {
        // A snapshot must never be ahead of the durable state: a restart would take it for one that was
        // being installed.
        self.make_durable()?;
        let (last_log_id, membership) = applied_state(txn)?;
        let meta = snapshot_meta(last_log_id, membership);
        let staged = self.stage()?;
        write_snapshot(txn, &meta, staged.as_file())?;
        self.publish(staged)
    }

    fn install(&self, meta: &SnapshotMeta, snapshot: &SnapshotFile) -> Result<(), StoreError> {
        let staged = self.stage()?;
        io::copy(&mut snapshot.reader(), &mut staged.as_file())?;
        let snapshot = self.publish(staged)?;
        if snapshot.meta == *meta {
            self.load(&snapshot)
        } else {
            Err(StoreError::Snapshot(
                "it holds another state than announced",
            ))
        }
    }

    fn stage(&self) -> Result<tempfile::NamedTempFile, StoreError> {
        let staged = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.0.dir)?;
        Ok(staged)
    }

    /// Makes a written file the current snapshot, unless a newer one is there.
    fn publish(&self, staged: tempfile::NamedTempFile) -> Result<Snapshot, StoreError> {
        let (meta, file) = SnapshotFile::verify(staged.reopen()?)?;
        let snapshot = Snapshot {
            meta,
            snapshot: Box::new(file),
        };
        staged.as_file().sync_all()?;
        let mut current = self.lock_snapshot();
        let newer = current
            .as_ref()
            .is_some_and(|current| current.meta.last_log_id > snapshot.meta.last_log_id);
        if !newer {
            // Commit point: from here a restart finds the new snapshot, and loads it if it is ahead.
            staged
                .persist(self.0.dir.join(SNAPSHOT))
                .map_err(|error| error.error)?;
            File::open(&self.0.dir)?.sync_all()?;
            *current = Some(snapshot.clone());
        }
        Ok(snapshot)
    }

    /// Replaces the state by the snapshot's, in one durable transaction.
    fn load(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let txn = self.0.database.begin_write().map_err(database)?;
        for table in Table::ALL {
            txn.delete_table(definition(table)).map_err(database)?;
        }
        {
            let mut tables = WriteTables::open(&txn)?;
            let mut rows = snapshot.snapshot.rows()?;
            while let Some((table, (key, value))) = rows.next()? {
                tables.put(table, &key, &value)?;
            }
        }
        write_applied(&txn, snapshot.meta.last_log_id.as_ref())?;
        write_membership(&txn, &snapshot.meta.last_membership)?;
        txn.commit().map_err(database)?;
        self.0.volatile.store(0, Ordering::Release);
        self.announce()
    }

    fn lock_snapshot(&self) -> std::sync::MutexGuard<'_, Option<Snapshot>> {
        self.0
            .snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftStateMachine<TypeConfig> for StateStore {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        self.applied_state_now()
            .map_err(|error| error.during(ErrorSubject::StateMachine, ErrorVerb::Read))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Response>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let store = self.clone();
        blocking(move || store.apply_now(entries))
            .await
            .map_err(|error| error.during(ErrorSubject::StateMachine, ErrorVerb::Write))
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            view: Some(self.0.database.begin_read().map_err(database)),
            store: self.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        tempfile::tempfile_in(&self.0.dir)
            .map(|file| Box::new(SnapshotFile::empty(file)))
            .map_err(|error| {
                StoreError::from(error).during(ErrorSubject::Snapshot(None), ErrorVerb::Write)
            })
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotFile>,
    ) -> Result<(), StorageError> {
        let (store, meta) = (self.clone(), meta.clone());
        blocking(move || store.install(&meta, &snapshot))
            .await
            .map_err(|error| error.during(ErrorSubject::Snapshot(None), ErrorVerb::Write))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.lock_snapshot().clone())
    }
}

/// Builds a snapshot of the state as it was when the builder was made.
pub(crate) struct SnapshotBuilder {
    store: StateStore,
    view: Option<Result<ReadTransaction, StoreError>>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (store, view) = (self.store.clone(), self.view.take());
        blocking(move || {
            let view = match view {
                Some(view) => view?,
                None => store.0.database.begin_read().map_err(database)?,
            };
            store.build(&view)
        })
        .await
        .map_err(|error| error.during(ErrorSubject::Snapshot(None), ErrorVerb::Write))
    }
}

fn write_entries(txn: &WriteTransaction, entries: Vec<Entry>) -> Result<Vec<Response>, StoreError> {
    let last = entries.last().map(|entry| entry.log_id);
    let mut tables = WriteTables::open(txn)?;
    let mut responses = Vec::with_capacity(entries.len());
    for entry in entries {
        let response = match entry.payload {
            EntryPayload::Blank => Response::default(),
            EntryPayload::Normal(proposal) => apply_batch(&mut tables, &proposal)?,
            EntryPayload::Membership(membership) => {
                write_membership(txn, &StoredMembership::new(Some(entry.log_id), membership))?;
                Response::default()
            }
        };
        responses.push(response);
    }
    write_applied(txn, last.as_ref())?;
    Ok(responses)
}

/// Bytes that are not a batch change nothing, on every replica alike.
fn apply_batch(tables: &mut WriteTables<'_>, proposal: &Proposal) -> Result<Response, StoreError> {
    match Batch::from_bytes(&proposal.0) {
        Ok(batch) => Ok(Response(Log::apply(tables, &batch)?)),
        Err(error) => {
            tracing::error!(%error, "an entry of the log is not a batch and changes nothing");
            Ok(Response::default())
        }
    }
}

fn applied_state(txn: &ReadTransaction) -> Result<(Option<LogId>, StoredMembership), StoreError> {
    let meta = txn.open_table(META).map_err(database)?;
    let applied = match meta.get(APPLIED).map_err(database)? {
        Some(row) => Some(log_id_from_pb(&from_row::<pb::LogId>(row.value())?)),
        None => None,
    };
    let membership = match meta.get(MEMBERSHIP).map_err(database)? {
        Some(row) => membership_from_entry(&from_row::<pb::Entry>(row.value())?)?,
        None => StoredMembership::default(),
    };
    Ok((applied, membership))
}

fn write_applied(txn: &WriteTransaction, last: Option<&LogId>) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META).map_err(database)?;
    if let Some(last) = last {
        let row = to_row(&log_id_to_pb(last));
        meta.insert(APPLIED, row.as_slice()).map_err(database)?;
    }
    Ok(())
}

/// A membership is kept as the entry that brought it.
fn write_membership(txn: &WriteTransaction, stored: &StoredMembership) -> Result<(), StoreError> {
    let entry = pb::Entry {
        log_id: stored.log_id().as_ref().map(log_id_to_pb),
        payload: Some(pb::entry::Payload::Membership(membership_to_pb(
            stored.membership(),
        ))),
    };
    let mut meta = txn.open_table(META).map_err(database)?;
    let row = to_row(&entry);
    meta.insert(MEMBERSHIP, row.as_slice()).map_err(database)?;
    Ok(())
}

fn membership_from_entry(entry: &pb::Entry) -> Result<StoredMembership, StoreError> {
    let Some(pb::entry::Payload::Membership(membership)) = &entry.payload else {
        return Err(crate::CodecError::Missing("membership").into());
    };
    let log_id = entry.log_id.as_ref().map(log_id_from_pb);
    Ok(StoredMembership::new(
        log_id,
        membership_from_pb(membership)?,
    ))
}

fn create_tables(base: &Database) -> Result<(), StoreError> {
    let txn = base.begin_write().map_err(database)?;
    WriteTables::open(&txn)?;
    txn.open_table(META).map_err(database)?;
    txn.commit().map_err(database)
}

/// The snapshot in `dir`. A damaged one is of no use: openraft then makes another.
fn open_snapshot(dir: &std::path::Path) -> Result<Option<Snapshot>, StoreError> {
    let file = match File::open(dir.join(SNAPSHOT)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match SnapshotFile::verify(file) {
        Ok((meta, file)) => Ok(Some(Snapshot {
            meta,
            snapshot: Box::new(file),
        })),
        Err(error) => {
            tracing::warn!(%error, "the stored snapshot is not used");
            Ok(None)
        }
    }
}

fn remove_unfinished(dir: &std::path::Path) -> Result<(), StoreError> {
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with(UNFINISHED) {
            std::fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("raft-1");
const APPLIED: &str = "applied";
const MEMBERSHIP: &str = "membership";
const SNAPSHOT: &str = "snapshot";
const UNFINISHED: &str = ".snapshot-";
/// Transactions after which one is made durable, so that a restart has little to apply again and the
/// database can reuse its pages.
const MAX_VOLATILE: u64 = 64;
