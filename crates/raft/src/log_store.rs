use crate::codec::{
    entry_from_pb, from_row, log_id_from_pb, log_id_to_pb, to_row, vote_from_pb, vote_to_pb,
};
use crate::error::{StoreError, blocking, database};
use crate::heads::{self, HeadSigner};
use crate::runtime::spawn;
use crate::state_store::StateStore;
use crate::tail::Tail;
use crate::types::{Entry, LeaderId, LogId, NodeId, StorageError, TypeConfig, Vote};
use bytes::Bytes;
use medanchor_anchor::SignedBatchHead;
use medanchor_api::pb::raft as pb;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{EntryPayload, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader};
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// The replicated log and the vote, in one database, so that their writes keep their order. Each write is
/// one durable commit before it is acknowledged; only the committed index, which can be learnt again, waits
/// in memory for the next of them. What this node appends as the leader is sent while it is written: [`Tail`].
#[derive(Clone)]
pub(crate) struct LogStore {
    database: Arc<Database>,
    /// About as long as its file is.
    size_bytes: Arc<AtomicU64>,
    /// Whoever has it writes.
    turn: Arc<Turn>,
    tail: Tail,
    committed: Arc<Mutex<Option<LogId>>>,
    vote: Arc<Mutex<Option<Vote>>>,
    state: StateStore,
    signer: HeadSigner,
}

type Turn = tokio::sync::Mutex<()>;

/// The log as one leader sends it. openraft 0.9.25 does not wait for the tasks of a leader that leads no more: one may read
/// what the next leader has written meanwhile, and would send it after entries that are gone. It is given nothing.
pub(crate) struct SentLog {
    store: LogStore,
    leader: Option<LeaderId>,
}

impl LogStore {
    /// Opens the log of the signer's node, in a file of `size_bytes`. The first time, the log becomes that node's for ever: under another id
    /// its votes would count twice.
    pub(crate) fn open(
        base: Database,
        size_bytes: u64,
        signer: HeadSigner,
    ) -> Result<Self, StoreError> {
        let node_id = signer.node_id;
        let store = Self {
            database: Arc::new(base),
            size_bytes: Arc::new(AtomicU64::new(size_bytes)),
            turn: Arc::default(),
            tail: Tail::default(),
            committed: Arc::default(),
            vote: Arc::default(),
            state: signer.state.clone(),
            signer,
        };
        store.write(|txn| {
            txn.open_table(ENTRIES).map_err(database)?;
            heads::create_tables(txn)?;
            let mut meta = txn.open_table(META).map_err(database)?;
            let owner = meta.get(NODE_ID).map_err(database)?;
            let owner = owner.map(|row| row.value().to_vec());
            match owner {
                None => {
                    let row = to_row(&pb::Vote {
                        node_id,
                        ..pb::Vote::default()
                    });
                    meta.insert(NODE_ID, row.as_slice()).map_err(database)?;
                    Ok(())
                }
                Some(row) => match from_row::<pb::Vote>(&row)?.node_id {
                    owner if owner == node_id => Ok(()),
                    owner => Err(StoreError::OtherNode(owner)),
                },
            }
        })?;
        *lock(&store.vote) = store.saved_vote()?;
        Ok(store)
    }

    /// What is sent and not synced.
    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Waits until what is being written is durable.
    async fn turn(&self) -> Result<OwnedMutexGuard<()>, StoreError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        self.tail.check()?;
        Ok(turn)
    }

    /// One durable commit.
    fn write(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut txn = self.database.begin_write().map_err(database)?;
        // After a crash redb reads a database through three times, unless each commit also writes which pages are in
        // use: a second sync, and more to write the longer the file is. A short log is read sooner than that is paid.
        txn.set_quick_repair(self.size_bytes.load(Ordering::Relaxed) >= LONG_BYTES);
        work(&txn)?;
        // Commit point: what is acknowledged after this line is found after a power loss. When it fails,
        // the error stops the replica: nobody knows what reached the disk.
        txn.commit().map_err(database)
    }

    /// Whom this node voted for last, or follows. It is saved before the log is truncated for that leader.
    fn leader(&self) -> Option<LeaderId> {
        lock(&self.vote).map(|vote| vote.leader_id)
    }

    async fn append_entries(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let turn = self.turn().await?;
        let store = self.clone();
        if !self.leads(&entries) {
            let written = blocking(move || store.write_entries(&store.signed(&entries)?)).await;
            #[cfg(medanchor_fault)]
            crate::fault::step("follower-synced");
            drop(turn);
            return written;
        }
        let signed = blocking(move || store.signed(&entries)).await?;
        #[cfg(medanchor_fault)]
        crate::fault::step("head-signed");
        self.tail.begin(signed.clone());
        #[cfg(medanchor_fault)]
        crate::fault::step("entry-appended");
        let store = self.clone();
        spawn(async move {
            let writer = store.clone();
            let written = blocking(move || writer.write_entries(&signed)).await;
            #[cfg(medanchor_fault)]
            crate::fault::step("leader-synced");
            store.tail.end(written);
            drop(turn);
        });
        Ok(())
    }

    /// Whether this node writes these entries as the leader of its term. What another leader sends, also what this
    /// node wrote in an earlier term, is acknowledged to that leader once it is synced.
    fn leads(&self, entries: &[Entry]) -> bool {
        let own = lock(&self.vote)
            .filter(|vote| vote.committed && vote.leader_id.node_id == self.signer.node_id)
            .map(|vote| (vote.leader_id.term, vote.leader_id.node_id));
        let mut written_by = entries.iter().map(|entry| entry.log_id.leader_id);
        own.is_some() && written_by.all(|by| own == Some((by.term, by.node_id)))
    }

    /// A leader signs each batch before anybody else sees it.
    fn signed(&self, entries: &[Entry]) -> Result<Vec<Entry>, StoreError> {
        let signed = entries.iter().map(|entry| self.signer.complete(entry));
        signed.collect()
    }

    fn write_entries(&self, signed: &[Entry]) -> Result<(), StoreError> {
        let committed = *self.committed();
        let size_bytes = signed.iter().map(|entry| match &entry.payload {
            EntryPayload::Normal(proposal) => proposal.batch.len() as u64,
            _ => 0,
        });
        self.size_bytes
            .fetch_add(size_bytes.sum(), Ordering::Relaxed);
        self.write(|txn| {
            if let Some(committed) = &committed {
                put_meta(txn, COMMITTED, &log_id_to_pb(committed))?;
            }
            heads::write_entries(txn, ENTRIES, signed)
        })
    }

    fn truncate_now(&self, since: u64) -> Result<(), StoreError> {
        self.write(|txn| {
            let mut table = txn.open_table(ENTRIES).map_err(database)?;
            table.retain_in(since.., |_, _| false).map_err(database)
        })
    }

    fn purge_now(&self, upto: &LogId) -> Result<(), StoreError> {
        self.write(|txn| {
            let mut table = txn.open_table(ENTRIES).map_err(database)?;
            table
                .retain_in(..=upto.index, |_, _| false)
                .map_err(database)?;
            heads::prune(txn, upto.index)?;
            put_meta(txn, PURGED, &log_id_to_pb(upto))
        })
    }

    fn committed(&self) -> MutexGuard<'_, Option<LogId>> {
        lock(&self.committed)
    }

    fn meta<M: Message + Default>(&self, name: &str) -> Result<Option<M>, StoreError> {
        let txn = self.database.begin_read().map_err(database)?;
        let meta = txn.open_table(META).map_err(database)?;
        match meta.get(name).map_err(database)? {
            Some(row) => Ok(Some(from_row(row.value())?)),
            None => Ok(None),
        }
    }

    /// A leader that starts again is no longer the leader: it may have lost entries that it had sent and not
    /// synced, and whatever it wrote in their places would have to be of another term.
    fn saved_vote(&self) -> Result<Option<Vote>, StoreError> {
        let Some(mut vote) = self.meta::<pb::Vote>(VOTE)? else {
            return Ok(None);
        };
        vote.committed &= vote.node_id != self.signer.node_id;
        Ok(Some(vote_from_pb(Some(&vote))?))
    }

    fn log_state(&self) -> Result<LogState<TypeConfig>, StoreError> {
        let unsynced = self.tail.entries().last().map(|last| last.log_id);
        let purged = self.meta::<pb::LogId>(PURGED)?;
        let purged = purged.as_ref().map(log_id_from_pb);
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: unsynced.or(last_entry(&self.database)?).or(purged),
        })
    }

    /// The entries in the range, in order; after the first, no more than fit in `limit_bytes`.
    fn entries(
        &self,
        range: (Bound<u64>, Bound<u64>),
        limit_bytes: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let unsynced = self.tail.entries();
        let txn = self.database.begin_read().map_err(database)?;
        let table = txn.open_table(ENTRIES).map_err(database)?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0_usize;
        for row in table.range(range).map_err(database)? {
            let (_, row) = row.map_err(database)?;
            bytes = bytes.saturating_add(row.value().len());
            if bytes > limit_bytes && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(entry_from_pb(from_row(row.value())?)?);
        }
        let on_disk = entries.last().map(|last| last.log_id.index);
        for entry in unsynced {
            let index = entry.log_id.index;
            if !range.contains(&index) || Some(index) <= on_disk {
                continue;
            }
            if let EntryPayload::Normal(proposal) = &entry.payload {
                bytes = bytes.saturating_add(proposal.batch.len());
            }
            if bytes > limit_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The head that is kept of the entry at this place.
    pub(crate) fn head_at(&self, place: &LogId) -> Result<Option<Bytes>, StoreError> {
        heads::at(&self.database.begin_read().map_err(database)?, place)
    }

    /// The heads kept from entry `from` on, in order: about `limit`, but always all of one index.
    pub(crate) fn heads_from(&self, from: u64, limit: usize) -> Result<Vec<Bytes>, StoreError> {
        heads::from(&self.database.begin_read().map_err(database)?, from, limit)
    }

    /// Index of the newest head that is kept.
    pub(crate) fn newest_head(&self) -> Result<Option<u64>, StoreError> {
        heads::newest(&self.database.begin_read().map_err(database)?)
    }

    /// The heads that were refused though their leaders had signed them: the last of each.
    pub(crate) fn refused_heads(&self) -> Result<Vec<Bytes>, StoreError> {
        heads::refused(&self.database.begin_read().map_err(database)?)
    }

    /// Keeps a head that is refused, as evidence.
    pub(crate) fn keep_refused(
        &self,
        leader: NodeId,
        head: &SignedBatchHead,
    ) -> Result<(), StoreError> {
        if self.refused_heads()?.contains(&head.to_bytes().into()) {
            return Ok(());
        }
        self.write(|txn| heads::write_refused(txn, leader, head))
    }

    async fn read_entries(
        &self,
        range: (Bound<u64>, Bound<u64>),
        limit_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let store = self.clone();
        blocking(move || store.entries(range, limit_bytes))
            .await
            .map_err(|error| error.during(ErrorSubject::Logs, ErrorVerb::Read))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        let entries = self.read_entries(range, usize::MAX).await?;
        // They are read to be applied.
        let synced = self.tail.synced(entries.last().map(|last| &last.log_id));
        let synced = synced.await;
        synced.map_err(|error| error.during(ErrorSubject::Logs, ErrorVerb::Write))?;
        Ok(entries)
    }
}

impl RaftLogReader<TypeConfig> for SentLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.store.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let range = (Bound::Included(start), Bound::Excluded(end));
        let entries = self.store.read_entries(range, MAX_MESSAGE_ENTRIES_BYTES);
        let entries = entries.await?;
        let follows = entries.first().map(|first| first.log_id.index) == Some(start);
        if follows && self.leader == self.store.leader() {
            Ok(entries)
        } else {
            Ok(Vec::new())
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = SentLog;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        self.log_state()
            .map_err(|error| error.during(ErrorSubject::Logs, ErrorVerb::Read))
    }

    async fn get_log_reader(&mut self) -> SentLog {
        SentLog {
            store: self.clone(),
            leader: self.leader(),
        }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let (store, row) = (self.clone(), vote_to_pb(vote));
        let saved = async {
            let _turn = self.turn().await?;
            blocking(move || store.write(|txn| put_meta(txn, VOTE, &row))).await
        };
        saved
            .await
            .map_err(|error| error.during(ErrorSubject::Vote, ErrorVerb::Write))?;
        *lock(&self.vote) = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(*lock(&self.vote))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        if committed.is_some() {
            *self.committed() = committed;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        if let Some(committed) = *self.committed() {
            return Ok(Some(committed));
        }
        let committed = self.meta::<pb::LogId>(COMMITTED);
        committed
            .map(|committed| committed.as_ref().map(log_id_from_pb))
            .map_err(|error| error.during(ErrorSubject::Logs, ErrorVerb::Read))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.append_entries(entries.into_iter().collect())
            .await
            .map_err(|error| error.during(ErrorSubject::Logs, ErrorVerb::Write))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let store = self.clone();
        let truncated = async {
            let _turn = self.turn().await?;
            blocking(move || store.truncate_now(since.index)).await
        };
        truncated
            .await
            .map_err(|error| error.during(ErrorSubject::Logs, ErrorVerb::Delete))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let store = self.clone();
        let purged = async {
            store.state.reached(&upto).await?;
            // What is purged cannot be applied again.
            let state = store.state.clone();
            blocking(move || state.make_durable()).await?;
            let _turn = self.turn().await?;
            blocking(move || store.purge_now(&upto)).await
        };
        purged
            .await
            .map_err(|error| error.during(ErrorSubject::Logs, ErrorVerb::Delete))
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last entry that is there.
pub(crate) fn last_entry(log: &Database) -> Result<Option<LogId>, StoreError> {
    let txn = log.begin_read().map_err(database)?;
    let table = txn.open_table(ENTRIES).map_err(database)?;
    match table.last().map_err(database)? {
        Some((_, row)) => Ok(Some(entry_from_pb(from_row(row.value())?)?.log_id)),
        None => Ok(None),
    }
}

/// Lets a log go on after `last`, as after a snapshot: nothing but an empty entry that follows it is left.
pub(crate) fn go_on_after(log: &Database, last: &LogId) -> Result<(), StoreError> {
    let next = Entry {
        log_id: LogId::new(last.leader_id, last.index.saturating_add(1)),
        payload: EntryPayload::Blank,
    };
    let txn = log.begin_write().map_err(database)?;
    txn.open_table(ENTRIES)
        .map_err(database)?
        .retain(|_, _| false)
        .map_err(database)?;
    heads::write_entries(&txn, ENTRIES, &[next])?;
    put_meta(&txn, PURGED, &log_id_to_pb(last))?;
    txn.commit().map_err(database)
}

fn put_meta(txn: &WriteTransaction, name: &str, message: &impl Message) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META).map_err(database)?;
    let row = to_row(message);
    meta.insert(name, row.as_slice()).map_err(database)?;
    Ok(())
}

const ENTRIES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("entries-1");
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta-1");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const NODE_ID: &str = "node-id";
/// From here on a commit leaves nothing to repair: before, a repair takes about a second.
pub(crate) const LONG_BYTES: u64 = 256 * 1024 * 1024;
/// Entries in one message between replicas; a single entry may be longer.
const MAX_MESSAGE_ENTRIES_BYTES: usize = 1024 * 1024;
