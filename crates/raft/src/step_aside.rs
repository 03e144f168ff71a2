use crate::alarm::{Alarm, Alarms};
use crate::runtime::{sleep, timeout};
use crate::types::{Membership, NodeId, Raft};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Lets a leader whose clock a majority does not believe leave leading to the others. openraft 0.9 cannot
/// hand over: such a leader falls silent, so that the others elect one of themselves, and asks for no votes
/// for a while.
#[derive(Clone)]
pub(crate) struct StepAside(Arc<watch::Sender<Standing>>);

#[derive(Default)]
struct Standing {
    /// The nodes whose last answer to a batch was that it comes from the future.
    refusing: BTreeSet<NodeId>,
    aside: bool,
}

impl StepAside {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Standing::default())))
    }

    /// Whether this node sends nothing as a leader, and proposes nothing.
    pub(crate) fn is_aside(&self) -> bool {
        self.0.borrow().aside
    }

    /// `node_id` took a batch.
    pub(crate) fn taken(&self, node_id: NodeId) {
        self.0
            .send_if_modified(|standing| standing.refusing.remove(&node_id));
    }

    /// `node_id` refused a batch by its clock.
    pub(crate) fn refused(&self, node_id: NodeId) {
        self.0
            .send_if_modified(|standing| standing.refusing.insert(node_id));
    }

    fn set_aside(&self, aside: bool) {
        self.0.send_modify(|standing| {
            *standing = Standing {
                aside,
                ..Standing::default()
            };
        });
    }
}

/// Steps aside for `how_long`, whenever it must, until `closing`.
pub(crate) async fn step_aside_task(
    standing: StepAside,
    raft: Raft,
    how_long: Duration,
    alarms: Alarms,
    mut closing: watch::Receiver<bool>,
) {
    tokio::select! {
        biased;
        () = step_aside(standing, raft, how_long, alarms) => (),
        // An error means that the replica is gone.
        _ = closing.wait_for(|closing| *closing) => (),
    }
}

async fn step_aside(standing: StepAside, raft: Raft, how_long: Duration, alarms: Alarms) {
    let mut metrics = raft.metrics();
    let mut changes = standing.0.subscribe();
    loop {
        let must = changes.wait_for(|standing| {
            let membership = metrics.borrow().membership_config.membership().clone();
            no_quorum_without(&standing.refusing, &membership)
        });
        if must.await.is_err() {
            return;
        }
        alarms.raise(Alarm::ClockAhead);
        raft.runtime_config().elect(false);
        standing.set_aside(true);
        let own = metrics.borrow().id;
        let followed =
            metrics.wait_for(|now| now.current_leader.is_some_and(|leader| leader != own));
        // Long enough for the others, and not for ever: they may need this node yet.
        let followed = timeout(how_long, followed).await.is_ok();
        standing.set_aside(false);
        if followed {
            sleep(how_long).await;
        }
        raft.runtime_config().elect(true);
    }
}

/// Whether too few voters are left when these take nothing.
fn no_quorum_without(refusing: &BTreeSet<NodeId>, membership: &Membership) -> bool {
    membership.get_joint_config().iter().any(|voters| {
        let left = voters.difference(refusing).count();
        left <= voters.len() / 2
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_steps_aside_when_the_rest_is_no_quorum() {
        let cases: [(u64, &[NodeId], bool); 8] = [
            (1, &[], false),
            (2, &[2], true),
            (3, &[2], false),
            (3, &[2, 3], true),
            (4, &[2], false),
            (4, &[2, 3], true),
            (5, &[2, 3], false),
            (5, &[2, 3, 4], true),
        ];
        for (nodes, refusing, must) in cases {
            let voters: BTreeSet<NodeId> = (1..=nodes).collect();
            let membership = Membership::new(vec![voters], ());
            let refusing = refusing.iter().copied().collect();
            assert_eq!(
                no_quorum_without(&refusing, &membership),
                must,
                "{nodes} nodes, {refusing:?} refuse"
            );
        }
    }
}
