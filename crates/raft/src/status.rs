use crate::state_store::Applied;
use crate::types::NodeId;
use openraft::{RaftMetrics, ServerState};
use tokio::sync::watch;

/// What a replica does and knows at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// What it does.
    pub role: Role,
    /// The leader that it knows.
    pub leader: Option<NodeId>,
    /// The term it is in: there is at most one leader in each.
    pub term: u64,
    /// Index of the last entry of the replicated log that it has applied.
    pub applied: Option<u64>,
    /// Leaves in its copy of the anchor log.
    pub tree_size: u64,
}

/// What a replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It orders what is appended.
    Leader,
    /// It follows a leader and votes.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It follows a leader and has no vote, or waits for the network to be founded.
    Learner,
    /// It takes no part any more.
    Stopped,
}

/// The status, and the work of the task that keeps it up to date. The task ends when Raft does.
pub(crate) fn follow(
    mut metrics: watch::Receiver<RaftMetrics<NodeId, ()>>,
    mut applied: watch::Receiver<Applied>,
) -> (
    watch::Receiver<ReplicaStatus>,
    impl Future<Output = ()> + Send,
) {
    let first = status(&metrics.borrow_and_update(), *applied.borrow_and_update());
    let (sender, receiver) = watch::channel(first);
    let task = async move {
        loop {
            let running = tokio::select! {
                biased;
                changed = metrics.changed() => changed.is_ok(),
                changed = applied.changed() => changed.is_ok(),
            };
            let mut now = status(&metrics.borrow_and_update(), *applied.borrow_and_update());
            if !running {
                now.role = Role::Stopped;
            }
            sender.send_if_modified(|before| std::mem::replace(before, now) != now);
            if now.role == Role::Stopped {
                break;
            }
        }
    };
    (receiver, task)
}

fn status(metrics: &RaftMetrics<NodeId, ()>, applied: Applied) -> ReplicaStatus {
    let role = match (&metrics.running_state, metrics.state) {
        (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
        (_, ServerState::Leader) => Role::Leader,
        (_, ServerState::Follower) => Role::Follower,
        (_, ServerState::Candidate) => Role::Candidate,
        (_, ServerState::Learner) => Role::Learner,
    };
    ReplicaStatus {
        role,
        leader: metrics.current_leader,
        term: metrics.current_term,
        applied: applied.log_index,
        tree_size: applied.tree_size,
    }
}
