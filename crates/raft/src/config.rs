use crate::alarm::{AlarmSink, log_alarms};
use crate::runtime::Channel;
use crate::types::NodeId;
use medanchor_anchor::Founded;
use medanchor_dag::SigningKey;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a replica is told when it starts.
#[derive(Clone)]
pub struct ReplicaConfig {
    /// This node. The data directory is bound to it for ever.
    pub node_id: NodeId,
    /// The nodes that found the network; the one with the lowest id does it.
    pub founders: BTreeSet<NodeId>,
    /// Whom this node speaks for, also when it leads: it signs every batch.
    pub identity: Identity,
    /// Where the log, the state and the snapshot are kept.
    pub data_dir: PathBuf,
    /// The lasting channel to another node, which connects lazily and authenticates both sides. Asked for
    /// each message, so that it may change.
    pub channel: Connect,
    /// The wall clock, unix ms. The leader stamps batches by it, the others judge those stamps.
    pub clock: Clock,
    /// Is told what a human must look at. Logs it, unless replaced.
    pub alarm: AlarmSink,
    /// How often the leader shows that it lives.
    pub heartbeat: Duration,
    /// A follower that has not heard of a leader asks for votes after a time drawn from this range.
    pub election: (Duration, Duration),
    /// How long [`medanchor_anchor::Append::append`] and [`medanchor_anchor::Read::barrier`] try.
    pub deadline: Duration,
    /// How long a snapshot may take to reach another node.
    pub snapshot_deadline: Duration,
    /// Entries and leaves after which a snapshot is made while the log is small; never 0, and the same on
    /// every node, or too few sign the same snapshot. As the log grows, it takes twice as many, and so on.
    pub snapshot_every: u64,
    /// How long what is applied stays in memory alone, at most, before the state on disk has it. After a crash it is
    /// applied again.
    pub durable_every: Duration,
    /// A leader whose clock the others do not believe leaves leading to them for this long: at least four
    /// times the later time of `election`, or it is back before they have elected one of themselves.
    pub step_aside: Duration,
    /// How often heads are compared with the other nodes'.
    pub compare_every: Duration,
    /// How often a leader whose log is full lets everybody snapshot anew, in case the snapshot that it waits for
    /// was lost.
    pub snapshot_again: Duration,
    /// Entries in a snapshot that are kept in the log too, for nodes that are a little behind.
    pub keep_entries: u64,
}

impl ReplicaConfig {
    /// A configuration with the usual times and sizes.
    pub fn new(
        node_id: NodeId,
        founders: BTreeSet<NodeId>,
        identity: Identity,
        data_dir: PathBuf,
        channel: Connect,
        clock: Clock,
    ) -> Self {
        Self {
            node_id,
            founders,
            identity,
            data_dir,
            channel,
            clock,
            alarm: log_alarms(),
            heartbeat: Duration::from_millis(250),
            election: (Duration::from_secs(1), Duration::from_secs(2)),
            deadline: Duration::from_secs(10),
            snapshot_deadline: Duration::from_secs(600),
            snapshot_every: 5000,
            durable_every: Duration::from_secs(2),
            keep_entries: 1000,
            step_aside: Duration::from_secs(30),
            compare_every: Duration::from_secs(10),
            snapshot_again: Duration::from_secs(300),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("origin", &self.origin)
            .field("node", &self.key.did())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ReplicaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaConfig")
            .field("node_id", &self.node_id)
            .field("founders", &self.founders)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// The network that a replica belongs to, and what it signs with there.
#[derive(Clone)]
pub struct Identity {
    /// The network's name.
    pub origin: String,
    /// How the network was founded: says whose batches count until the state does.
    pub founded: Founded,
    /// The network as this node knew it when it joined, which for a founder is as it was founded: says who
    /// certifies a snapshot until the state does.
    pub joined: Founded,
    /// This node's key, as the members know it.
    pub key: Arc<SigningKey>,
}

/// The channel to a node; `None` when nobody knows where it is.
pub type Connect = Arc<dyn Fn(NodeId) -> Option<Channel> + Send + Sync>;

/// Tells the time, unix ms.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;
