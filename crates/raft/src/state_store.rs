use crate::codec::{
    from_row, log_id_from_pb, log_id_to_pb, membership_from_pb, membership_to_pb, snapshot_meta,
    to_row,
};
use crate::error::{StoreError, blocking, database};
use crate::snapshot::SnapshotFile;
use crate::snapshots::{Due, Snapshots, is_due};
use crate::tables::{ReadTables, WriteTables, definition};
use crate::types::{
    Entry, LogId, Proposal, Response, Snapshot, SnapshotMeta, StorageError, StoredMembership,
    TypeConfig,
};
use medanchor_anchor::{Batch, Certifiers, Log, State, Table, Tables};
use medanchor_api::pb::raft as pb;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec;
use tokio::sync::watch;

/// The state: the anchor log's tables, and up to which entry they are applied, changed in one transaction.
/// A transaction need not be durable at once: after a crash the last durable one is found, and openraft
/// applies the entries after it again. So the log is purged only after [`StateStore::make_durable`].
#[derive(Clone)]
pub(crate) struct StateStore(Arc<Inner>);

struct Inner {
    database: Database,
    snapshots: Snapshots,
    applied: watch::Sender<Applied>,
    installation: watch::Sender<Installation>,
    /// Transactions since the last durable one.
    volatile: AtomicU64,
}

/// The newest snapshot that openraft was given to install.
#[derive(Clone, Copy, Debug)]
enum Installation {
    None,
    /// Of the state after the entry with this index.
    Given(u64),
    Failed,
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
    /// Opens the state. An installation that a crash cut off is completed.
    pub(crate) fn open(database: Database, snapshots: Snapshots) -> Result<Self, StoreError> {
        create_tables(&database)?;
        let store = Self(Arc::new(Inner {
            database,
            snapshots,
            applied: watch::Sender::new(Applied::default()),
            installation: watch::Sender::new(Installation::None),
            volatile: AtomicU64::new(0),
        }));
        let (last_log_id, _) = store.applied_state_now()?;
        let snapshot = store.0.snapshots.certified();
        if let Some(snapshot) = snapshot.filter(|found| found.meta.last_log_id > last_log_id) {
            snapshot.snapshot.verify_again()?;
            store.load(&snapshot)?;
        }
        store.announce()?;
        Ok(store)
    }

    /// The snapshots of the state.
    pub(crate) fn snapshots(&self) -> &Snapshots {
        &self.0.snapshots
    }

    /// Whether the log must not grow before the members have certified a snapshot.
    pub(crate) fn log_is_full(&self) -> bool {
        let applied = *self.0.applied.borrow();
        let index = applied.log_index.unwrap_or(0);
        self.0.snapshots.log_is_full(index, applied.tree_size)
    }

    /// Whose signatures count on a snapshot.
    pub(crate) fn certifiers(&self) -> Result<Certifiers, StoreError> {
        let certifiers = Certifiers::of(&State::new(&self.view()?))?;
        Ok(certifiers.unwrap_or_else(|| self.0.snapshots.founding_certifiers()))
    }

    /// Makes the snapshot that is due, and certifies what can be. Says whether there is a new certified one.
    pub(crate) fn make_snapshot(&self) -> Result<bool, StoreError> {
        self.0.snapshots.make(|| self.make_durable())?;
        self.0.snapshots.certify(&self.certifiers()?)
    }

    /// The state as it is now.
    pub(crate) fn view(&self) -> Result<ReadTables, StoreError> {
        Ok(ReadTables(self.0.database.begin_read().map_err(database)?))
    }

    /// Tells whenever entries were applied.
    pub(crate) fn applied(&self) -> watch::Receiver<Applied> {
        self.0.applied.subscribe()
    }

    /// To be called before openraft is given a snapshot to install: see [`StateStore::reached`].
    pub(crate) fn expect(&self, meta: &SnapshotMeta) {
        let index = meta.last_log_id.map_or(0, |last| last.index);
        self.0.installation.send_modify(|known| match known {
            Installation::None => *known = Installation::Given(index),
            Installation::Given(newest) => *newest = index.max(*newest),
            Installation::Failed => (),
        });
    }

    /// Waits until the state is what the entries up to `upto` make it. openraft 0.9 purges the log while a
    /// snapshot is still being installed; a crash between the two would leave neither entries nor state.
    ///
    /// # Errors
    ///
    /// When the snapshot could not be installed.
    pub(crate) async fn reached(&self, upto: &LogId) -> Result<(), StoreError> {
        let is_applied = || self.0.applied.borrow().log_index >= Some(upto.index);
        let comes = |known: &Installation| match known {
            Installation::Given(index) => *index >= upto.index && !is_applied(),
            Installation::None | Installation::Failed => false,
        };
        let mut installation = self.0.installation.subscribe();
        match installation.wait_for(|known| !comes(known)).await {
            Ok(known) if matches!(*known, Installation::Failed) && !is_applied() => {
                Err(StoreError::Snapshot("it could not be installed"))
            }
            _ => Ok(()),
        }
    }

    /// Lets those look again who wait in [`StateStore::reached`]. After a failure openraft gives this state nothing
    /// any more, no snapshot either.
    fn tell_of_change(&self, failed: bool) {
        self.0.installation.send_modify(|known| {
            if failed {
                *known = Installation::Failed;
            }
        });
    }

    /// Makes everything that is applied durable.
    pub(crate) fn make_durable(&self) -> Result<(), StoreError> {
        if self.0.volatile.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let txn = begin_write(&self.0.database)?;
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
        #[cfg(medanchor_fault)]
        crate::fault::step("state-flushed");
        self.0.volatile.store(0, Ordering::Release);
        Ok(())
    }

    pub(crate) fn apply_now(&self, entries: Vec<Entry>) -> Result<Vec<Response>, StoreError> {
        #[cfg(medanchor_fault)]
        crate::fault::step("entry-committed");
        let mut responses = Vec::with_capacity(entries.len());
        let mut entries = entries.into_iter();
        while !entries.as_slice().is_empty() {
            if self.apply_run(&mut entries, &mut responses)? {
                self.0.snapshots.keep(self.due()?);
            }
        }
        #[cfg(medanchor_fault)]
        crate::fault::step("entry-applied");
        self.announce()?;
        Ok(responses)
    }

    /// Applies entries in one transaction, which ends where a snapshot is due. Says whether one is.
    fn apply_run(
        &self,
        entries: &mut vec::IntoIter<Entry>,
        responses: &mut Vec<Response>,
    ) -> Result<bool, StoreError> {
        let mut txn = begin_write(&self.0.database)?;
        let volatile = self.0.volatile.load(Ordering::Acquire);
        let durable = volatile >= MAX_VOLATILE;
        if !durable {
            txn.set_durability(Durability::None)
                .map_err(|error| database(redb::Error::from(error)))?;
        }
        let due = write_entries(&txn, entries, self.0.snapshots.every(), responses)?;
        txn.commit().map_err(database)?;
        let volatile = if durable {
            0
        } else {
            volatile.saturating_add(1)
        };
        self.0.volatile.store(volatile, Ordering::Release);
        Ok(due)
    }

    /// The state as it is now, to make a snapshot of.
    fn due(&self) -> Result<Due, StoreError> {
        let view = self.0.database.begin_read().map_err(database)?;
        let (last_log_id, membership) = applied_state(&view)?;
        Ok(Due {
            view,
            meta: snapshot_meta(last_log_id, membership),
            tree_size: State::new(&self.view()?).tree_size()?,
        })
    }

    /// The last applied entry.
    pub(crate) fn last_applied(&self) -> Result<Option<LogId>, StoreError> {
        Ok(self.applied_state_now()?.0)
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

    fn install(&self, meta: &SnapshotMeta, snapshot: &SnapshotFile) -> Result<(), StoreError> {
        let certifiers = self.certifiers()?;
        let index = snapshot.said().index;
        tracing::info!(index, "installing a snapshot");
        let snapshot = self.0.snapshots.install(meta, snapshot, &certifiers)?;
        #[cfg(medanchor_fault)]
        crate::fault::step("snapshot-installed");
        self.load(&snapshot)?;
        #[cfg(medanchor_fault)]
        crate::fault::step("snapshot-loaded");
        tracing::info!(index, "installed the snapshot");
        Ok(())
    }

    /// What openraft calls building: it is told of the newest certified snapshot. Only when there is none,
    /// which is when the file is damaged, it is given one that holds nothing and that nobody takes.
    fn newest(&self) -> Result<Snapshot, StoreError> {
        self.make_snapshot()?;
        match self.0.snapshots.certified() {
            Some(snapshot) => Ok(snapshot),
            None => {
                let (last_log_id, membership) = self.applied_state_now()?;
                let nothing = tempfile::tempfile_in(self.0.snapshots.dir())?;
                Ok(Snapshot {
                    meta: snapshot_meta(last_log_id, membership),
                    snapshot: Box::new(SnapshotFile::empty(nothing)),
                })
            }
        }
    }

    /// Replaces the state by the snapshot's, in one durable transaction.
    fn load(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let txn = begin_write(&self.0.database)?;
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
        let applied = blocking(move || store.apply_now(entries)).await;
        self.tell_of_change(applied.is_err());
        applied.map_err(|error| error.during(ErrorSubject::StateMachine, ErrorVerb::Write))
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder(self.clone())
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        tempfile::tempfile_in(self.0.snapshots.dir())
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
        let installed = blocking(move || store.install(&meta, &snapshot)).await;
        self.tell_of_change(installed.is_err());
        installed.map_err(|error| error.during(ErrorSubject::Snapshot(None), ErrorVerb::Write))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.0.snapshots.certified())
    }
}

/// Tells openraft of the newest certified snapshot.
pub(crate) struct SnapshotBuilder(StateStore);

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let store = self.0.clone();
        blocking(move || store.newest())
            .await
            .map_err(|error| error.during(ErrorSubject::Snapshot(None), ErrorVerb::Write))
    }
}

/// Writes entries up to and with one at which a snapshot is due. Says whether one is.
fn write_entries(
    txn: &WriteTransaction,
    entries: &mut vec::IntoIter<Entry>,
    snapshot_every: u64,
    responses: &mut Vec<Response>,
) -> Result<bool, StoreError> {
    let mut tables = WriteTables::open(txn)?;
    let mut tree_size = State::new(&tables).tree_size()?;
    let (mut last, mut due) = (None, false);
    while let Some(entry) = (!due).then(|| entries.next()).flatten() {
        let mut asked = false;
        let response = match entry.payload {
            EntryPayload::Blank => Response::default(),
            EntryPayload::Normal(proposal) => apply_batch(&mut tables, &proposal, &mut asked)?,
            EntryPayload::Membership(membership) => {
                write_membership(txn, &StoredMembership::new(Some(entry.log_id), membership))?;
                Response::default()
            }
        };
        responses.push(response);
        let before = tree_size;
        tree_size = State::new(&tables).tree_size()?;
        due = asked || is_due(snapshot_every, entry.log_id.index, before, tree_size);
        last = Some(entry.log_id);
    }
    write_applied(txn, last.as_ref())?;
    Ok(due)
}

/// Bytes that are not a batch change nothing, on every replica alike. A batch without statements asks for a
/// snapshot.
fn apply_batch(
    tables: &mut WriteTables<'_>,
    proposal: &Proposal,
    asked: &mut bool,
) -> Result<Response, StoreError> {
    match Batch::from_bytes(&proposal.batch) {
        Ok(batch) => {
            *asked = batch.entries.is_empty();
            Ok(Response(Log::apply(tables, &batch)?))
        }
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
        batch_head: Vec::new(),
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

/// A transaction that, once it is durable, leaves nothing to repair after a crash: else redb reads all of the
/// state three times, which takes minutes when there are millions of leaves.
fn begin_write(base: &Database) -> Result<WriteTransaction, StoreError> {
    let mut txn = base.begin_write().map_err(database)?;
    txn.set_quick_repair(true);
    Ok(txn)
}

fn create_tables(base: &Database) -> Result<(), StoreError> {
    let txn = begin_write(base)?;
    WriteTables::open(&txn)?;
    txn.open_table(META).map_err(database)?;
    txn.commit().map_err(database)
}

const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("raft-1");
const APPLIED: &str = "applied";
const MEMBERSHIP: &str = "membership";
/// Transactions after which one is made durable, so that a restart has little to apply again and the
/// database can reuse its pages.
const MAX_VOLATILE: u64 = 64;
