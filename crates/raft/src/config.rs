use crate::types::NodeId;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;

/// What a replica is told when it starts.
#[derive(Clone)]
pub struct ReplicaConfig {
    /// This node. The data directory is bound to it for ever.
    pub node_id: NodeId,
    /// Every node of the network, this one among them. The one with the lowest id founds it.
    pub members: Vec<MemberAddress>,
    /// Where the log, the state and the snapshot are kept.
    pub data_dir: PathBuf,
    /// Makes the channel to another node: called once for each when the replica opens. It connects
    /// lazily, and authenticates both sides.
    pub channel: Connect,
    /// The wall clock, unix ms. Read by the leader alone, to stamp batches.
    pub clock: Clock,
    /// How often the leader shows that it lives.
    pub heartbeat: Duration,
    /// A follower that has not heard of a leader asks for votes after a time drawn from this range.
    pub election: (Duration, Duration),
    /// How long [`medanchor_anchor::Append::append`] and [`medanchor_anchor::Read::barrier`] try.
    pub deadline: Duration,
    /// How long a snapshot may take to reach another node.
    pub snapshot_deadline: Duration,
    /// Entries after which a snapshot is made.
    pub snapshot_every: u64,
    /// Entries in a snapshot that are kept in the log too, for nodes that are a little behind.
    pub keep_entries: u64,
}

impl ReplicaConfig {
    /// A configuration with the usual times and sizes.
    pub fn new(
        node_id: NodeId,
        members: Vec<MemberAddress>,
        data_dir: PathBuf,
        channel: Connect,
        clock: Clock,
    ) -> Self {
        Self {
            node_id,
            members,
            data_dir,
            channel,
            clock,
            heartbeat: Duration::from_millis(250),
            election: (Duration::from_secs(1), Duration::from_secs(2)),
            deadline: Duration::from_secs(10),
            snapshot_deadline: Duration::from_secs(600),
            snapshot_every: 5000,
            keep_entries: 1000,
        }
    }
}

impl fmt::Debug for ReplicaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaConfig")
            .field("node_id", &self.node_id)
            .field("members", &self.members)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// A node and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAddress {
    /// The node.
    pub node_id: NodeId,
    /// `host:port`.
    pub address: String,
}

/// Makes a channel to a member.
pub type Connect = Arc<dyn Fn(&MemberAddress) -> Channel + Send + Sync>;

/// Tells the time, unix ms.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;
