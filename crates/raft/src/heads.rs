use crate::codec::{entry_to_pb, to_row};
use crate::config::Identity;
use crate::error::{StoreError, database};
use crate::state_store::StateStore;
use crate::types::{Entry, LogId, NodeId, Proposal};
use bytes::Bytes;
use medanchor_anchor::{BatchHead, SignedBatchHead, State};
use medanchor_dag::Hash;
use openraft::EntryPayload;
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

/// Signs the batches that this node writes as a leader.
#[derive(Clone)]
pub(crate) struct HeadSigner {
    pub(crate) node_id: NodeId,
    pub(crate) identity: Identity,
    pub(crate) state: StateStore,
}

impl HeadSigner {
    /// The entry as it is stored. A batch of this node's own gets its head here, where its place is known;
    /// whatever another leader wrote stays as it came.
    pub(crate) fn complete(&self, entry: &Entry) -> Result<Entry, StoreError> {
        let mut entry = entry.clone();
        let own = entry.log_id.leader_id.node_id == self.node_id;
        if let EntryPayload::Normal(proposal) = &mut entry.payload
            && proposal.head.is_none()
            && own
        {
            proposal.head = Some(self.sign(&entry.log_id, &proposal.batch)?);
        }
        Ok(entry)
    }

    fn sign(&self, place: &LogId, batch: &[u8]) -> Result<Bytes, StoreError> {
        let view = self.state.view();
        let state = State::new(&view);
        let size = state.tree_size()?;
        let head = BatchHead {
            v: 1,
            origin: self.identity.origin.clone(),
            node: self.identity.key.did(),
            term: place.leader_id.term,
            index: place.index,
            size,
            root: state.root_at(size)?,
            batch: Hash::of(batch),
        };
        Ok(head.sign(&self.identity.key).to_bytes().into())
    }
}

/// Writes entries, and beside each batch its head, which stays when the entry goes.
pub(crate) fn write_entries(
    txn: &WriteTransaction,
    entries: TableDefinition<'static, u64, &'static [u8]>,
    signed: &[Entry],
) -> Result<(), StoreError> {
    let mut table = txn.open_table(entries).map_err(database)?;
    let mut heads = txn.open_table(HEADS).map_err(database)?;
    for entry in signed {
        let row = to_row(&entry_to_pb(entry));
        table
            .insert(entry.log_id.index, row.as_slice())
            .map_err(database)?;
        if let EntryPayload::Normal(Proposal {
            head: Some(head), ..
        }) = &entry.payload
        {
            heads
                .insert(key(&entry.log_id), head.as_ref())
                .map_err(database)?;
        }
    }
    Ok(())
}

/// Forgets the heads that are further than [`HEADS_KEPT`] behind the last purged entry.
pub(crate) fn prune(txn: &WriteTransaction, purged: u64) -> Result<(), StoreError> {
    let mut heads = txn.open_table(HEADS).map_err(database)?;
    let floor = purged.saturating_sub(HEADS_KEPT);
    heads
        .retain_in(..(floor, 0), |_, _| false)
        .map_err(database)
}

pub(crate) fn create_tables(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(HEADS).map_err(database)?;
    txn.open_table(REFUSED).map_err(database)?;
    Ok(())
}

/// The head that is kept of the entry at this place.
pub(crate) fn at(txn: &ReadTransaction, place: &LogId) -> Result<Option<Bytes>, StoreError> {
    let heads = txn.open_table(HEADS).map_err(database)?;
    let head = heads.get(key(place)).map_err(database)?;
    Ok(head.map(|head| Bytes::copy_from_slice(head.value())))
}

/// Index of the newest head that is kept.
pub(crate) fn newest(txn: &ReadTransaction) -> Result<Option<u64>, StoreError> {
    let heads = txn.open_table(HEADS).map_err(database)?;
    let last = heads.last().map_err(database)?;
    Ok(last.map(|(place, _)| place.value().0))
}

/// The heads kept from entry `from` on, in order: about `limit`, but always all of one index.
pub(crate) fn from(
    txn: &ReadTransaction,
    from: u64,
    limit: usize,
) -> Result<Vec<Bytes>, StoreError> {
    let heads = txn.open_table(HEADS).map_err(database)?;
    let mut found = Vec::new();
    let mut last = from;
    for row in heads.range((from, 0)..).map_err(database)? {
        let (place, head) = row.map_err(database)?;
        let (index, _) = place.value();
        if found.len() >= limit && index != last {
            break;
        }
        last = index;
        found.push(Bytes::copy_from_slice(head.value()));
    }
    Ok(found)
}

/// Remembers the last head of a leader's that was refused though the leader had signed it: it is evidence.
pub(crate) fn write_refused(
    txn: &WriteTransaction,
    leader: NodeId,
    head: &SignedBatchHead,
) -> Result<(), StoreError> {
    let mut refused = txn.open_table(REFUSED).map_err(database)?;
    let bytes = head.to_bytes();
    refused.insert(leader, bytes.as_slice()).map_err(database)?;
    Ok(())
}

/// The heads that were refused though their leaders had signed them: the last of each.
pub(crate) fn refused(txn: &ReadTransaction) -> Result<Vec<Bytes>, StoreError> {
    let refused = txn.open_table(REFUSED).map_err(database)?;
    let rows = refused.iter().map_err(database)?;
    rows.map(|row| {
        let (_, head) = row.map_err(database)?;
        Ok(Bytes::copy_from_slice(head.value()))
    })
    .collect()
}

fn key(place: &LogId) -> (u64, u64) {
    (place.index, place.leader_id.term)
}

/// By index and term. An entry that was cut off leaves its head here: it may be one half of a conflict.
const HEADS: TableDefinition<'static, (u64, u64), &'static [u8]> = TableDefinition::new("heads-1");
const REFUSED: TableDefinition<'static, u64, &'static [u8]> =
    TableDefinition::new("refused-heads-1");
/// Entries behind the last purged one whose heads are kept.
const HEADS_KEPT: u64 = 100_000;
