use crate::alarm::{Alarm, Alarms};
use crate::config::{Clock, ReplicaConfig};
use crate::error::StoreError;
use crate::log_store::LogStore;
use crate::state_store::StateStore;
use crate::types::{Entry, LogId, NodeId, Proposal, Vote};
use bytes::Bytes;
use medanchor_anchor::{Batch, BatchHead, Member, SignedBatchHead, State};
use medanchor_dag::{Did, Hash};
use openraft::EntryPayload;
use std::collections::BTreeMap;
use std::time::Duration;

/// Judges batches before Raft sees them: Raft believes its leader, this does not. Each must come with the
/// head that its leader signed, and not from the future.
#[derive(Clone)]
pub(crate) struct Admission {
    origin: String,
    founders: BTreeMap<NodeId, Did>,
    clock: Clock,
    log: LogStore,
    state: StateStore,
    alarms: Alarms,
}

/// The entries that may go on to Raft, from the first, and why the one after them may not.
#[derive(Default)]
pub(crate) struct Admitted {
    pub(crate) entries: Vec<Entry>,
    pub(crate) refused: Option<Refusal>,
}

/// Why an entry is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The leader that wrote it is no member that this replica knows.
    UnknownLeader,
    /// It comes without a head.
    NoHead,
    /// Its head is not its leader's word on this batch in this place.
    WrongHead,
    /// Its leader signed another head for this place.
    Conflict,
    /// It was written on another tree than this replica has.
    OtherTree,
    /// It does not say when it was proposed: it is no batch.
    NoTime,
    /// It was proposed ahead of this node's clock.
    FromTheFuture,
}

impl Refusal {
    /// Stable.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::UnknownLeader => "unknown-leader",
            Self::NoHead => "no-batch-head",
            Self::WrongHead => "wrong-batch-head",
            Self::Conflict => "batch-conflict",
            Self::OtherTree => "other-tree",
            Self::NoTime => "no-batch",
            Self::FromTheFuture => FROM_THE_FUTURE,
        }
    }
}

/// What the message around a batch says of it.
struct Message<'m> {
    vote: &'m Vote,
    committed: Option<u64>,
}

impl Admission {
    pub(crate) fn new(
        config: &ReplicaConfig,
        log: LogStore,
        state: StateStore,
        alarms: Alarms,
    ) -> Self {
        let identity = &config.identity;
        let (founded, joined) = (&identity.founded.members, &identity.joined.members);
        let founders = founded.iter().chain(joined);
        Self {
            origin: config.identity.origin.clone(),
            founders: founders.map(|m| (m.node_id, m.node)).collect(),
            clock: config.clock.clone(),
            log,
            state,
            alarms,
        }
    }

    /// Judges the entries of one message. It reads the disk.
    pub(crate) fn admit(
        &self,
        vote: &Vote,
        committed: Option<u64>,
        mut entries: Vec<Entry>,
    ) -> Result<Admitted, StoreError> {
        let message = Message { vote, committed };
        let mut refused = None;
        for (at, entry) in entries.iter().enumerate() {
            if let EntryPayload::Normal(proposal) = &entry.payload {
                refused = self.judge(&message, &entry.log_id, proposal)?;
            }
            if refused.is_some() {
                entries.truncate(at);
                break;
            }
        }
        Ok(Admitted { entries, refused })
    }

    fn judge(
        &self,
        message: &Message<'_>,
        place: &LogId,
        proposal: &Proposal,
    ) -> Result<Option<Refusal>, StoreError> {
        let node_id = place.leader_id.node_id;
        let refusal = match self.judge_head(place, proposal)? {
            Head::AlreadyHere => None,
            Head::Refused(refusal) => Some(refusal),
            Head::Good => self.judge_time(message, place, proposal),
        };
        if let Some(refusal @ (Refusal::NoHead | Refusal::WrongHead | Refusal::NoTime)) = refusal {
            let code = refusal.code();
            self.alarms.raise(Alarm::NotSigned { node_id, code });
        }
        Ok(refusal)
    }

    fn judge_head(&self, place: &LogId, proposal: &Proposal) -> Result<Head, StoreError> {
        let Some(bytes) = &proposal.head else {
            return Ok(Head::Refused(Refusal::NoHead));
        };
        let known = self.log.head_at(place)?;
        let node_id = place.leader_id.node_id;
        let Some(node) = self.key_of(node_id)? else {
            return Ok(Head::Refused(Refusal::UnknownLeader));
        };
        let Ok(signed) = SignedBatchHead::verify(bytes) else {
            return Ok(Head::Refused(Refusal::WrongHead));
        };
        let head = &signed.head;
        let (term, index) = (place.leader_id.term, place.index);
        let says_so = (&head.origin, head.node) == (&self.origin, node)
            && (head.term, head.index) == (term, index)
            && head.batch == Hash::of(&proposal.batch);
        if !says_so {
            return Ok(Head::Refused(Refusal::WrongHead));
        }
        match known {
            // It was judged when it first came, and time does not make it worse.
            Some(known) if known == *bytes => return Ok(Head::AlreadyHere),
            Some(known) => {
                self.log.keep_refused(node_id, &signed)?;
                if let Ok(known) = SignedBatchHead::verify(&known)
                    && let Some(kind) = known.conflict(&signed)
                {
                    let heads = Box::new([known, signed]);
                    self.alarms.raise(Alarm::Conflict {
                        node_id,
                        kind,
                        heads,
                    });
                }
                return Ok(Head::Refused(Refusal::Conflict));
            }
            None => (),
        }
        if self.is_other_tree(&signed)? {
            self.log.keep_refused(node_id, &signed)?;
            let head = Box::new(signed);
            self.alarms.raise(Alarm::OtherTree { node_id, head });
            return Ok(Head::Refused(Refusal::OtherTree));
        }
        Ok(Head::Good)
    }

    /// Whether this replica computed another root for the tree that the head names. One that it has not
    /// computed yet is compared later, with the other nodes' heads.
    pub(crate) fn is_other_tree(&self, signed: &SignedBatchHead) -> Result<bool, StoreError> {
        let view = self.state.view();
        let state = State::new(&view);
        let head = &signed.head;
        Ok(head.size <= state.tree_size()? && state.root_at(head.size)? != head.root)
    }

    fn judge_time(
        &self,
        message: &Message<'_>,
        place: &LogId,
        proposal: &Proposal,
    ) -> Option<Refusal> {
        let Some(proposed_at) = Batch::proposed_at_of(&proposal.batch) else {
            return Some(Refusal::NoTime);
        };
        let now = (self.clock)();
        let node_id = place.leader_id.node_id;
        let by = Duration::from_millis(now.abs_diff(proposed_at));
        if proposed_at > now && by > MAX_AHEAD {
            let committed = message.committed >= Some(place.index);
            self.alarms.raise(if committed {
                Alarm::ClockBehind { by }
            } else {
                Alarm::FromTheFuture { node_id, by }
            });
            return Some(Refusal::FromTheFuture);
        }
        // What is committed, or was another leader's, is old for good reasons.
        let fresh = message.committed < Some(place.index)
            && message.vote.leader_id.term == place.leader_id.term;
        if fresh && proposed_at < now && by > BACKDATED {
            self.alarms.raise(Alarm::Backdated { node_id, by });
        }
        None
    }

    /// The key of a member's node.
    pub(crate) fn key_of(&self, node_id: NodeId) -> Result<Option<Did>, StoreError> {
        if let Some(key) = self.founders.get(&node_id) {
            return Ok(Some(*key));
        }
        // Also of one that was removed: what it wrote before stands.
        let members = self.members()?;
        let member = members.iter().find(|member| member.node_id == node_id);
        Ok(member.map(|member| member.node))
    }

    /// The member's node that a head of this network names.
    pub(crate) fn node_of(&self, head: &BatchHead) -> Result<Option<NodeId>, StoreError> {
        if head.origin != self.origin {
            return Ok(None);
        }
        let mut founders = self.founders.iter();
        if let Some((node_id, _)) = founders.find(|(_, known)| **known == head.node) {
            return Ok(Some(*node_id));
        }
        let members = self.members()?;
        let member = members.iter().find(|member| member.node == head.node);
        Ok(member.map(|member| member.node_id))
    }

    fn members(&self) -> Result<Vec<Member>, StoreError> {
        let entries = State::new(&self.state.view()).member_entries()?;
        Ok(entries.into_iter().map(|entry| entry.member).collect())
    }

    /// The members' nodes now.
    pub(crate) fn node_ids(&self) -> Result<Vec<NodeId>, StoreError> {
        let members = State::new(&self.state.view()).members()?;
        if members.is_empty() {
            return Ok(self.founders.keys().copied().collect());
        }
        Ok(members.iter().map(|member| member.node_id).collect())
    }

    /// Tells a human.
    pub(crate) fn raise(&self, alarm: Alarm) {
        self.alarms.raise(alarm);
    }

    /// The head that this replica keeps of the entry at this place.
    pub(crate) fn head_at(&self, place: &LogId) -> Result<Option<Bytes>, StoreError> {
        self.log.head_at(place)
    }

    /// Index of the newest head that this replica keeps.
    pub(crate) fn newest_head(&self) -> Result<Option<u64>, StoreError> {
        self.log.newest_head()
    }

    /// The heads that this replica keeps, from an entry on: about `limit`.
    pub(crate) fn heads_from(&self, from: u64, limit: usize) -> Result<Vec<Bytes>, StoreError> {
        self.log.heads_from(from, limit)
    }

    /// The heads that it refused though their leaders had signed them: the last of each.
    pub(crate) fn refused_heads(&self) -> Result<Vec<Bytes>, StoreError> {
        self.log.refused_heads()
    }
}

enum Head {
    Good,
    AlreadyHere,
    Refused(Refusal),
}

/// Why a leader leaves leading to others when a majority says so.
pub(crate) const FROM_THE_FUTURE: &str = "from-the-future";
/// What clocks may differ by, and messages take.
const MAX_AHEAD: Duration = Duration::from_secs(5);
/// Well before: a batch may wait for a follower that was away for a moment.
const BACKDATED: Duration = Duration::from_secs(30);
