use crate::codec::{
    from_row, log_id_from_pb, log_id_to_pb, membership_from_pb, membership_to_pb, snapshot_meta,
    to_row,
};
use crate::error::{StoreError, database};
use crate::types::{LogId, SnapshotMeta, StoredMembership};
use medanchor_api::pb::raft as pb;
use redb::{Database, ReadableDatabase, TableDefinition, WriteTransaction};

/// Up to which entry of the replicated log a state is applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Position {
    /// The last applied entry.
    pub(crate) last: Option<LogId>,
    /// The newest membership up to there.
    pub(crate) membership: StoredMembership,
}

impl Position {
    /// What a snapshot of the state says of it.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        snapshot_meta(self.last, self.membership.clone())
    }

    pub(crate) fn create_table(txn: &WriteTransaction) -> Result<(), StoreError> {
        txn.open_table(META).map(drop).map_err(database)
    }

    pub(crate) fn read(base: &Database) -> Result<Self, StoreError> {
        let txn = base.begin_read().map_err(database)?;
        let meta = txn.open_table(META).map_err(database)?;
        let last = match meta.get(APPLIED).map_err(database)? {
            Some(row) => Some(log_id_from_pb(&from_row::<pb::LogId>(row.value())?)),
            None => None,
        };
        let membership = match meta.get(MEMBERSHIP).map_err(database)? {
            Some(row) => membership_from_entry(&from_row::<pb::Entry>(row.value())?)?,
            None => StoredMembership::default(),
        };
        Ok(Self { last, membership })
    }

    pub(crate) fn write(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        let mut meta = txn.open_table(META).map_err(database)?;
        if let Some(last) = &self.last {
            let row = to_row(&log_id_to_pb(last));
            meta.insert(APPLIED, row.as_slice()).map_err(database)?;
        }
        let row = to_row(&membership_to_entry(&self.membership));
        meta.insert(MEMBERSHIP, row.as_slice()).map_err(database)?;
        Ok(())
    }
}

/// A membership is kept as the entry that brought it.
fn membership_to_entry(stored: &StoredMembership) -> pb::Entry {
    pb::Entry {
        log_id: stored.log_id().as_ref().map(log_id_to_pb),
        payload: Some(pb::entry::Payload::Membership(membership_to_pb(
            stored.membership(),
        ))),
        batch_head: Vec::new(),
    }
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

const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("raft-1");
const APPLIED: &str = "applied";
const MEMBERSHIP: &str = "membership";
