use crate::error::{StoreError, blocking};
use crate::overlay::Overlay;
use crate::position::Position;
use crate::snapshot::SnapshotFile;
use crate::snapshots::{Due, Snapshots, is_due};
use crate::tables::{ReadTables, WriteTables};
use crate::types::{
    Entry, LogId, Proposal, Response, Snapshot, SnapshotMeta, StorageError, StoredMembership,
    TypeConfig,
};
use medanchor_anchor::{Batch, Certifiers, Log, State};
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder};
use redb::Database;
use std::sync::Arc;
use std::vec;
use tokio::sync::watch;

/// The state: the anchor log's tables, and up to which entry they are applied, changed together.
/// A change need not be durable at once: after a crash the last durable one is found, and openraft
/// applies the entries after it again. So the log is purged only after [`StateStore::make_durable`].
#[derive(Clone)]
pub(crate) struct StateStore(Arc<Inner>);

struct Inner {
    overlay: Overlay,
    snapshots: Snapshots,
    applied: watch::Sender<Applied>,
    installation: watch::Sender<Installation>,
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
        let store = Self(Arc::new(Inner {
            overlay: Overlay::open(database, FLUSH_BYTES)?,
            snapshots,
            applied: watch::Sender::new(Applied::default()),
            installation: watch::Sender::new(Installation::None),
        }));
        let last_log_id = store.last_applied();
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
        let certifiers = Certifiers::of(&State::new(&self.view()))?;
        Ok(certifiers.unwrap_or_else(|| self.0.snapshots.founding_certifiers()))
    }

    /// Makes the snapshot that is due, and certifies what can be. Says whether there is a new certified one.
    pub(crate) fn make_snapshot(&self) -> Result<bool, StoreError> {
        self.0.snapshots.make(|| self.make_durable())?;
        self.0.snapshots.certify(&self.certifiers()?)
    }

    /// The state as it is now.
    pub(crate) fn view(&self) -> ReadTables {
        self.0.overlay.view()
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
        self.0.overlay.flush()?;
        #[cfg(medanchor_fault)]
        crate::fault::step("state-flushed");
        Ok(())
    }

    /// Resolves when so much was applied that it is time to make it durable.
    pub(crate) async fn large(&self) {
        self.0.overlay.large().await;
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

    /// Applies entries as one change, which ends where a snapshot is due. Says whether one is.
    fn apply_run(
        &self,
        entries: &mut vec::IntoIter<Entry>,
        responses: &mut Vec<Response>,
    ) -> Result<bool, StoreError> {
        let mut tables = self.0.overlay.begin();
        let every = self.0.snapshots.every();
        let (position, due) = write_entries(&mut tables, entries, every, responses)?;
        self.0.overlay.publish(tables, position)?;
        Ok(due)
    }

    /// The state as it is now, to make a snapshot of.
    fn due(&self) -> Result<Due, StoreError> {
        let view = self.view();
        Ok(Due {
            tree_size: State::new(&view).tree_size()?,
            view,
        })
    }

    /// The last applied entry.
    pub(crate) fn last_applied(&self) -> Option<LogId> {
        self.view().position.last
    }

    fn announce(&self) -> Result<(), StoreError> {
        let view = self.view();
        let tree_size = State::new(&view).tree_size()?;
        self.0.applied.send_replace(Applied {
            log_index: view.position.last.map(|id| id.index),
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
                let nothing = tempfile::tempfile_in(self.0.snapshots.dir())?;
                Ok(Snapshot {
                    meta: self.view().position.meta(),
                    snapshot: Box::new(SnapshotFile::empty(nothing)),
                })
            }
        }
    }

    /// Replaces the state by the snapshot's, durably and at once.
    fn load(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let mut rows = snapshot.snapshot.rows()?;
        let position = Position {
            last: snapshot.meta.last_log_id,
            membership: snapshot.meta.last_membership.clone(),
        };
        self.0.overlay.replace(|| rows.next(), position)?;
        self.announce()
    }
}

impl RaftStateMachine<TypeConfig> for StateStore {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let Position { last, membership } = Position::clone(&self.view().position);
        Ok((last, membership))
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

/// Writes entries up to and with one at which a snapshot is due. Says what the position is then, and whether one is
/// due.
fn write_entries(
    tables: &mut WriteTables,
    entries: &mut vec::IntoIter<Entry>,
    snapshot_every: u64,
    responses: &mut Vec<Response>,
) -> Result<(Position, bool), StoreError> {
    let mut position = Position::clone(&tables.before.position);
    let mut tree_size = State::new(tables).tree_size()?;
    let mut due = false;
    while let Some(entry) = (!due).then(|| entries.next()).flatten() {
        let mut asked = false;
        let response = match entry.payload {
            EntryPayload::Blank => Response::default(),
            EntryPayload::Normal(proposal) => apply_batch(tables, &proposal, &mut asked)?,
            EntryPayload::Membership(membership) => {
                position.membership = StoredMembership::new(Some(entry.log_id), membership);
                Response::default()
            }
        };
        responses.push(response);
        let before = tree_size;
        tree_size = State::new(tables).tree_size()?;
        due = asked || is_due(snapshot_every, entry.log_id.index, before, tree_size);
        position.last = Some(entry.log_id);
    }
    Ok((position, due))
}

/// Bytes that are not a batch change nothing, on every replica alike. A batch without statements asks for a
/// snapshot.
fn apply_batch(
    tables: &mut WriteTables,
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

/// Rows that are gathered before they are written to the database, as they lie in memory. After a crash at most what
/// twice as many came from is applied again: about 20,000 statements.
const FLUSH_BYTES: usize = 16 * 1024 * 1024;
