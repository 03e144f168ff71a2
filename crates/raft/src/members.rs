use crate::error::{StoreError, blocking};
use crate::runtime::timeout;
use crate::state_store::StateStore;
use crate::types::{Membership, NodeId, Raft};
use medanchor_anchor::{LeafIndex, State};
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, RaftMetrics, ServerState};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch;

/// Makes the members of Raft, step by step, what the anchor log says. Only the leader takes steps, and each
/// follows from what is there: a crash or another leader goes on where the last one was.
pub(crate) struct Members {
    pub(crate) raft: Raft,
    pub(crate) state: StateStore,
    /// Additions by leaves before this one may be carried out.
    pub(crate) admitted: watch::Receiver<LeafIndex>,
}

/// The next change of Raft's membership.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// This node gets the log, and has no vote yet.
    AddLearner(NodeId),
    /// These vote from now on, by joint consensus; who voted before and is not among them is gone.
    SetVoters(BTreeSet<NodeId>),
    /// These got the log without a vote, and get it no longer.
    Forget(BTreeSet<NodeId>),
}

/// Who is to be in Raft, as the log says.
pub(crate) struct Wanted {
    /// Members now.
    pub(crate) members: BTreeSet<NodeId>,
    /// Those among them that may be let into Raft.
    pub(crate) admitted: BTreeSet<NodeId>,
}

impl Members {
    /// Takes steps until `closing`.
    pub(crate) async fn reconcile_task(self, mut closing: watch::Receiver<bool>) {
        while timeout(LOOK_EVERY, closing.wait_for(|closing| *closing))
            .await
            .is_err()
        {
            let stepped = tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return,
                stepped = self.reconcile() => stepped,
            };
            if let Err(error) = stepped {
                tracing::warn!(%error, "the members of the replicated log are not yet what they should be");
            }
        }
    }

    async fn reconcile(&self) -> Result<(), StoreError> {
        let metrics = self.raft.metrics().borrow().clone();
        if metrics.state != ServerState::Leader {
            return Ok(());
        }
        let wanted = self.wanted().await?;
        let membership = metrics.membership_config.membership();
        let has_caught_up = |node_id| has_caught_up(&metrics, node_id);
        if let Some(step) = next_step(&wanted, membership, has_caught_up) {
            tracing::info!(?step, "the members of the replicated log change");
            self.take(step).await;
        }
        Ok(())
    }

    async fn wanted(&self) -> Result<Wanted, StoreError> {
        let (state, admitted_before) = (self.state.clone(), *self.admitted.borrow());
        blocking(move || {
            let view = state.view();
            let mut entries = State::new(&view).member_entries()?;
            entries.retain(medanchor_anchor::MemberEntry::is_active);
            let admitted = entries
                .iter()
                .filter(|entry| entry.added_at == 0 || entry.added_at < admitted_before);
            Ok(Wanted {
                admitted: admitted.map(|entry| entry.member.node_id).collect(),
                members: entries.iter().map(|entry| entry.member.node_id).collect(),
            })
        })
        .await
    }

    /// What fails is tried again: another node leads now, or a change is under way.
    async fn take(&self, step: Step) {
        let taken = match step {
            Step::AddLearner(node_id) => self.raft.add_learner(node_id, (), false).await,
            Step::SetVoters(voters) => self.raft.change_membership(voters, false).await,
            Step::Forget(nodes) => {
                let change = ChangeMembers::RemoveNodes(nodes);
                self.raft.change_membership(change, false).await
            }
        };
        match taken {
            Ok(_) | Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => (),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            ))) => (),
            Err(error) => {
                tracing::warn!(%error, "the members of the replicated log did not change");
            }
        }
    }
}

/// The one change to make now; `None` when nothing is to be done, or is to be waited for.
pub(crate) fn next_step(
    wanted: &Wanted,
    membership: &Membership,
    has_caught_up: impl Fn(NodeId) -> bool,
) -> Option<Step> {
    let known: BTreeSet<NodeId> = membership.nodes().map(|(id, ())| *id).collect();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    // Before the founding the log names nobody, and Raft's own word stands.
    if wanted.members.is_empty() {
        return None;
    }
    // INVARIANT: nobody votes who has not caught up, or a dead newcomer could stop the network.
    let goal: BTreeSet<NodeId> = wanted
        .members
        .intersection(&known)
        .copied()
        .filter(|id| voters.contains(id) || has_caught_up(*id))
        .collect();
    if goal.is_empty() {
        return None;
    }
    if goal != voters || membership.get_joint_config().len() > 1 {
        return Some(Step::SetVoters(goal));
    }
    if let Some(newcomer) = wanted.admitted.difference(&known).next() {
        return Some(Step::AddLearner(*newcomer));
    }
    let strangers: BTreeSet<NodeId> = known.difference(&wanted.members).copied().collect();
    (!strangers.is_empty()).then_some(Step::Forget(strangers))
}

/// Whether a node lacks so little that it slows nobody down.
fn has_caught_up(metrics: &RaftMetrics<NodeId, ()>, node_id: NodeId) -> bool {
    let replication = metrics.replication.as_ref();
    let matched = replication.and_then(|nodes| nodes.get(&node_id).copied().flatten());
    let last = metrics.last_log_index.unwrap_or(0);
    matched.is_some_and(|matched| matched.index.saturating_add(MAX_LAG) >= last)
}

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Entries that a newcomer may lack when it gets its vote.
const MAX_LAG: u64 = 64;
