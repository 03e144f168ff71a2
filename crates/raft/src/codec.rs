use crate::types::{
    Entry, LogId, Membership, NodeId, Proposal, SnapshotMeta, StoredMembership, Vote,
};
use bytes::Bytes;
use medanchor_api::pb::raft as pb;
use openraft::{CommittedLeaderId, EntryPayload};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// Why a message, or a row on disk, says nothing.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not a protobuf message of the expected type.
    #[error("not the expected message")]
    Malformed(#[from] prost::DecodeError),
    /// Written by a newer version.
    #[error("unsupported version {0}")]
    Version(u8),
    /// A field that must be there is not.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A membership that could not have been agreed on.
    #[error("not a membership")]
    Membership,
}

/// A row on disk: the version, then the message.
pub(crate) fn to_row(message: &impl Message) -> Vec<u8> {
    let mut row = Vec::with_capacity(message.encoded_len().saturating_add(1));
    row.push(ROW_VERSION);
    row.extend_from_slice(&message.encode_to_vec());
    row
}

pub(crate) fn from_row<M: Message + Default>(row: &[u8]) -> Result<M, CodecError> {
    match row.split_first() {
        Some((&ROW_VERSION, message)) => Ok(M::decode(message)?),
        Some((&version, _)) => Err(CodecError::Version(version)),
        None => Err(CodecError::Missing("version")),
    }
}

pub(crate) fn log_id_to_pb(id: &LogId) -> pb::LogId {
    pb::LogId {
        term: id.leader_id.term,
        node_id: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn log_id_from_pb(id: &pb::LogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, id.node_id), id.index)
}

pub(crate) fn vote_to_pb(vote: &Vote) -> pb::Vote {
    pb::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_pb(vote: Option<&pb::Vote>) -> Result<Vote, CodecError> {
    let vote = vote.ok_or(CodecError::Missing("vote"))?;
    let mut parsed = Vote::new(vote.term, vote.node_id);
    if vote.committed {
        parsed.commit();
    }
    Ok(parsed)
}

pub(crate) fn entry_to_pb(entry: &Entry) -> pb::Entry {
    let mut batch_head = Vec::new();
    let payload = match &entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(proposal) => {
            batch_head = proposal.head.as_deref().unwrap_or_default().to_vec();
            Some(pb::entry::Payload::Batch(proposal.batch.to_vec()))
        }
        EntryPayload::Membership(membership) => {
            Some(pb::entry::Payload::Membership(membership_to_pb(membership)))
        }
    };
    pb::Entry {
        log_id: Some(log_id_to_pb(&entry.log_id)),
        payload,
        batch_head,
    }
}

pub(crate) fn entry_from_pb(entry: pb::Entry) -> Result<Entry, CodecError> {
    let log_id = entry.log_id.ok_or(CodecError::Missing("log_id"))?;
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(pb::entry::Payload::Batch(batch)) => EntryPayload::Normal(Proposal {
            batch: Bytes::from(batch),
            head: Some(entry.batch_head)
                .filter(|head| !head.is_empty())
                .map(Bytes::from),
        }),
        Some(pb::entry::Payload::Membership(membership)) => {
            EntryPayload::Membership(membership_from_pb(&membership)?)
        }
    };
    Ok(Entry {
        log_id: log_id_from_pb(&log_id),
        payload,
    })
}

pub(crate) fn membership_to_pb(membership: &Membership) -> pb::Membership {
    let configs = membership.get_joint_config().iter();
    pb::Membership {
        configs: configs
            .map(|voters| pb::NodeSet {
                node_ids: voters.iter().copied().collect(),
            })
            .collect(),
        nodes: membership.nodes().map(|(id, ())| *id).collect(),
    }
}

pub(crate) fn membership_from_pb(membership: &pb::Membership) -> Result<Membership, CodecError> {
    let nodes: BTreeMap<NodeId, ()> = membership.nodes.iter().map(|id| (*id, ())).collect();
    let configs: Vec<BTreeSet<NodeId>> = membership
        .configs
        .iter()
        .map(|set| set.node_ids.iter().copied().collect())
        .collect();
    let agreed = configs
        .iter()
        .all(|voters| !voters.is_empty() && voters.iter().all(|voter| nodes.contains_key(voter)));
    if !agreed || configs.len() > MAX_CONFIGS || nodes.len() > MAX_NODES {
        return Err(CodecError::Membership);
    }
    Ok(Membership::new(configs, nodes))
}

/// The part of a header that says what a snapshot holds.
pub(crate) fn meta_to_pb(meta: &SnapshotMeta) -> pb::SnapshotHeader {
    let stored = &meta.last_membership;
    pb::SnapshotHeader {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_pb),
        membership_log_id: stored.log_id().as_ref().map(log_id_to_pb),
        membership: Some(membership_to_pb(stored.membership())),
        ..pb::SnapshotHeader::default()
    }
}

pub(crate) fn meta_from_pb(header: &pb::SnapshotHeader) -> Result<SnapshotMeta, CodecError> {
    let membership = header
        .membership
        .as_ref()
        .ok_or(CodecError::Missing("membership"))?;
    let stored = StoredMembership::new(
        header.membership_log_id.as_ref().map(log_id_from_pb),
        membership_from_pb(membership)?,
    );
    let last_log_id = header.last_log_id.as_ref().map(log_id_from_pb);
    Ok(snapshot_meta(last_log_id, stored))
}

pub(crate) fn snapshot_meta(
    last_log_id: Option<LogId>,
    last_membership: StoredMembership,
) -> SnapshotMeta {
    // Snapshots of the same entry hold the same rows, so that the entry names them.
    let snapshot_id = last_log_id.map_or_else(String::new, |id| id.to_string());
    SnapshotMeta {
        last_log_id,
        last_membership,
        snapshot_id,
    }
}

const ROW_VERSION: u8 = 1;
const MAX_CONFIGS: usize = 2;
const MAX_NODES: usize = 64;
