use crate::runtime::Instant;
use crate::types::NodeId;
use medanchor_anchor::{BatchConflictKind, SignedBatchHead, StateDigest};
use std::collections::BTreeMap;
use std::fmt;
use std::mem::{Discriminant, discriminant};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Something that a human must look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// A node signed two heads that cannot both be honest: it lies, and they prove it.
    Conflict {
        /// The node that signed them.
        node_id: NodeId,
        /// What it said twice.
        kind: BatchConflictKind,
        /// The two heads.
        heads: Box<[SignedBatchHead; 2]>,
    },
    /// A node wrote a batch on another tree than this replica computed.
    OtherTree {
        /// The node.
        node_id: NodeId,
        /// Its head, which names the tree.
        head: Box<SignedBatchHead>,
    },
    /// Two members signed different states at one entry of the log: one of them lies, or is damaged.
    OtherState {
        /// The names of the two.
        names: Box<[String; 2]>,
        /// What they signed.
        digests: Box<[StateDigest; 2]>,
    },
    /// A leader sent a batch that it does not stand for as it must.
    NotSigned {
        /// The leader.
        node_id: NodeId,
        /// Stable code of what is wrong.
        code: &'static str,
    },
    /// A leader stamped a batch ahead of this node's clock; it is refused.
    FromTheFuture {
        /// The leader.
        node_id: NodeId,
        /// How far ahead.
        by: Duration,
    },
    /// A leader stamped a fresh batch well before this node's clock.
    Backdated {
        /// The leader.
        node_id: NodeId,
        /// How far back.
        by: Duration,
    },
    /// A majority took batches that this node refuses by its clock: that one is wrong, and this node falls
    /// behind.
    ClockBehind {
        /// How far.
        by: Duration,
    },
    /// A majority refuses this leader's batches by their clocks: this node's is wrong, and it leaves leading
    /// to the others.
    ClockAhead,
}

impl Alarm {
    /// The node that it is about; `None` when it is this one, or nobody knows.
    pub fn node_id(&self) -> Option<NodeId> {
        match self {
            Self::Conflict { node_id, .. }
            | Self::OtherTree { node_id, .. }
            | Self::NotSigned { node_id, .. }
            | Self::FromTheFuture { node_id, .. }
            | Self::Backdated { node_id, .. } => Some(*node_id),
            Self::OtherState { .. } | Self::ClockBehind { .. } | Self::ClockAhead => None,
        }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { node_id, kind, .. } => {
                write!(f, "node {node_id} lies: as leader it signed {kind}")
            }
            Self::OtherTree { node_id, head } => write!(
                f,
                "node {node_id} wrote a batch on another tree of {} leaves than this node has",
                head.head.size
            ),
            Self::OtherState { names, digests } => {
                let ([one, two], [digest, _]) = (&**names, &**digests);
                write!(
                    f,
                    "`{one}` and `{two}` signed different states at entry {} of the replicated log",
                    digest.index
                )
            }
            Self::NotSigned { node_id, code } => write!(
                f,
                "node {node_id} leads and does not stand for what it sends: `{code}`"
            ),
            Self::FromTheFuture { node_id, by } => write!(
                f,
                "leader {node_id} stamps batches {} s ahead of this node's clock",
                by.as_secs()
            ),
            Self::Backdated { node_id, by } => write!(
                f,
                "leader {node_id} stamps fresh batches {} s before this node's clock",
                by.as_secs()
            ),
            Self::ClockBehind { by } => write!(
                f,
                "this node's clock is {} s behind the network's: it takes no new batches",
                by.as_secs()
            ),
            Self::ClockAhead => f.write_str(
                "this node's clock is ahead of the network's: a majority refuses its batches, and \
                 another node must lead",
            ),
        }
    }
}

/// Is told of alarms. It must not block.
pub type AlarmSink = Arc<dyn Fn(Alarm) + Send + Sync>;

/// Logs them.
pub(crate) fn log_alarms() -> AlarmSink {
    Arc::new(|alarm| tracing::error!("{alarm}"))
}

/// Passes alarms on, each kind about each node once in [`AGAIN`].
#[derive(Clone)]
pub(crate) struct Alarms {
    sink: AlarmSink,
    raised: Arc<Mutex<BTreeMap<Option<NodeId>, Raised>>>,
}

/// Which kinds were raised lately, and when.
type Raised = Vec<(Discriminant<Alarm>, Instant)>;

impl Alarms {
    pub(crate) fn new(sink: AlarmSink) -> Self {
        Self {
            sink,
            raised: Arc::default(),
        }
    }

    pub(crate) fn raise(&self, alarm: Alarm) {
        // Who is told apart only by whom it contradicts: each pair counts.
        let is_pair = matches!(alarm, Alarm::OtherState { .. });
        if is_pair || self.is_news(&alarm) {
            (self.sink)(alarm);
        }
    }

    fn is_news(&self, alarm: &Alarm) -> bool {
        let kind = discriminant(alarm);
        let now = Instant::now();
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let of_node = raised.entry(alarm.node_id()).or_default();
        of_node.retain(|(_, at)| now.duration_since(*at) < AGAIN);
        let news = of_node.iter().all(|(known, _)| *known != kind);
        if news {
            of_node.push((kind, now));
        }
        news
    }
}

const AGAIN: Duration = Duration::from_secs(60);
