use crate::runtime::Runtime;
use crate::snapshot::SnapshotFile;
use bytes::Bytes;
use medanchor_anchor::Applied;
use std::fmt;
// The macro names it in a default that is not used.
#[expect(unused_imports, reason = "named by `declare_raft_types` only")]
use std::io::Cursor;

/// Id of a replica, from 1, as the founding statement gives it. Never used twice: a node that lost its
/// disk comes back under a new id.
pub type NodeId = u64;

openraft::declare_raft_types!(
    /// The types that this crate fills into openraft.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Response,
        NodeId = NodeId,
        Node = (),
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotFile,
        AsyncRuntime = Runtime,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type Membership = openraft::Membership<NodeId, ()>;
pub(crate) type StoredMembership = openraft::StoredMembership<NodeId, ()>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, ()>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type StorageError = openraft::StorageError<NodeId>;
pub(crate) type Vote = openraft::Vote<NodeId>;
pub(crate) type LeaderId = openraft::LeaderId<NodeId>;

/// What an entry carries.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// The canonical bytes of an [`medanchor_anchor::Batch`].
    pub(crate) batch: Bytes,
    /// The canonical bytes of its [`medanchor_anchor::SignedBatchHead`], once the leader has stored it.
    pub(crate) head: Option<Bytes>,
}

impl Proposal {
    /// A batch that has no place in the log yet.
    pub(crate) fn new(batch: impl Into<Bytes>) -> Self {
        Self {
            batch: batch.into(),
            head: None,
        }
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.batch.len())
    }
}

/// What became of each statement of a batch, in order. Empty when the entry carries no batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Response(pub(crate) Vec<Applied>);
