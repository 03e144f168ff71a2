use crate::{
    Body, CheckedCheckpoint, Checkpoint, ConsistencyProof, Founded, LeafIndex, Member, MemberEntry,
    Outcome, PolicyError, Receipt, ReceiptError, SignedNote, Strength, Trust, TrustError,
    TrustPolicy, WitnessEntry,
};
use medanchor_dag::{CborError, Hash, from_canonical, to_canonical};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::collections::BTreeMap;

/// How a trust policy changed with the members and outside witnesses of its network: for each change the receipt of its leaf, and
/// what shows that old checkpoints are of the log as it is now (`docs/formats.md`, Policy chain). Nothing in
/// it is believed before [`Epochs::follow`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyChain {
    /// Receipts of the leaves that changed the policy, in order. Each is by a checkpoint of exactly the
    /// leaves up to its own.
    pub changes: Vec<Receipt>,
    /// A checkpoint under the newest policy.
    pub head: Option<SignedNote>,
    /// That the logs of these sizes are prefixes of the head's.
    pub proofs: BTreeMap<u64, ConsistencyProof>,
}

/// The policies of a network by the size of the log: whoever has it judges each checkpoint by the policy that
/// was in force for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epochs {
    /// Policies that were replaced, each with the checkpoint of the largest log that it is for.
    retired: Vec<(Checkpoint, TrustPolicy)>,
    current: TrustPolicy,
    head: Option<CheckedCheckpoint>,
    proofs: BTreeMap<u64, ConsistencyProof>,
}

/// Why a policy chain is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The policy that it begins with asks for other co-signers than all of a network in one group.
    #[error("policy is not one group of all its witnesses: how it changes is not defined")]
    Root,
    /// A change is not shown to be in the log under the policy before it.
    #[error("change {number} of the policy")]
    Receipt {
        /// Which, from 1.
        number: usize,
        /// What is wrong with its receipt.
        #[source]
        problem: ReceiptError,
    },
    /// A receipt is of a leaf that changes no policy, is withheld, out of order, or by a later checkpoint.
    #[error("receipt {0} of the policy chain does not show a change of the policy")]
    NoChange(usize),
    /// What follows from a change is no policy.
    #[error("change {number} of the policy cannot be followed")]
    Policy {
        /// Which, from 1.
        number: usize,
        /// Why.
        #[source]
        problem: PolicyError,
    },
    /// The head is not a checkpoint under the newest policy.
    #[error("newest checkpoint of the policy chain")]
    Head(#[source] TrustError),
    /// A change is not shown to be in the head's log: somebody rewrote it.
    #[error("change {0} of the policy is not shown to be in the log as it is now")]
    Rewritten(usize),
}

impl PolicyChain {
    /// The most bytes that a chain may have.
    pub const MAX_BYTES: usize = 8 * 1024 * 1024;

    /// Its canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// All that ever were members of the network that began with `founded`, in the order of their node ids. To
    /// be believed only of a chain that [`Epochs::follow`] accepts.
    pub fn members(&self, founded: &Founded) -> Vec<MemberEntry> {
        let founder = |member: &Member| MemberEntry {
            member: member.clone(),
            contact: None,
            added_at: 0,
            removed_at: None,
        };
        let mut entries: Vec<_> = founded.members.iter().map(founder).collect();
        for change in &self.changes {
            let body = change.opening.as_ref().map(|o| &o.0.signed.statement.body);
            match body {
                Some(Body::MemberAdded(body)) => {
                    let highest = entries.iter().map(|entry| entry.member.node_id).max();
                    let node_id = highest.unwrap_or(0).saturating_add(1);
                    entries.push(body.entry(node_id, change.index));
                }
                Some(Body::MemberRemoved(body)) => {
                    let is_meant = |entry: &&mut MemberEntry| entry.member.node_id == body.node_id;
                    if let Some(entry) = entries.iter_mut().find(is_meant) {
                        entry.removed_at = Some(change.index);
                    }
                }
                _ => (),
            }
        }
        entries.sort_by_key(|entry| entry.member.node_id);
        entries
    }

    /// All that ever were outside witnesses of the network that began with `founders`, in the order in which they came. To be believed as
    /// [`PolicyChain::members`].
    pub fn witnesses(&self, founders: &[String]) -> Vec<WitnessEntry> {
        let founders = founders.iter();
        let mut entries: Vec<_> = founders.map(|key| WitnessEntry::founded(key)).collect();
        for change in &self.changes {
            match change.opening.as_ref().map(|o| &o.0.signed.statement.body) {
                Some(Body::WitnessAdded(body)) => entries.push(body.entry(change.index)),
                Some(Body::WitnessRemoved(body)) => {
                    if let Some(entry) = WitnessEntry::active(&mut entries, &body.key) {
                        entry.remove(change.index);
                    }
                }
                _ => (),
            }
        }
        entries
    }

    /// Co-signatures that a published checkpoint carries in the end. To be believed as
    /// [`PolicyChain::members`].
    pub fn quorum(&self, founded: &Founded) -> u8 {
        let changes = self.changes.iter().rev();
        let mut quorums = changes.filter_map(|change| {
            let opening = change.opening.as_ref()?;
            opening.0.signed.statement.body.changes_policy()
        });
        quorums.next().unwrap_or(founded.quorum)
    }

    /// Parses canonical bytes.
    ///
    /// # Errors
    ///
    /// [`CborError`]; such bytes are never a chain.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CborError> {
        from_canonical(bytes, Self::MAX_BYTES)
    }
}

impl Epochs {
    /// A policy that never changed.
    pub fn new(root: TrustPolicy) -> Self {
        Self {
            retired: Vec::new(),
            current: root,
            head: None,
            proofs: BTreeMap::new(),
        }
    }

    /// Follows a chain from the policy that one trusts: each change must be published under the policy
    /// before it, and be in the log of the chain's head, where it has one.
    ///
    /// # Errors
    ///
    /// [`ChainError`]; nothing of the chain is then believed.
    pub fn follow(root: TrustPolicy, chain: &PolicyChain) -> Result<Self, ChainError> {
        let mut epochs = Self::new(root);
        for change in &chain.changes {
            epochs.advance(change)?;
        }
        if let Some(head) = &chain.head {
            let head = epochs.current.check(head, Strength::Published);
            epochs.head = Some(head.map_err(ChainError::Head)?);
            epochs.proofs.clone_from(&chain.proofs);
        }
        for (number, change) in (1..).zip(&chain.changes) {
            let shown = epochs.check_is_current(&change.checkpoint);
            if epochs.head.is_some() && shown.is_err() {
                return Err(ChainError::Rewritten(number));
            }
        }
        Ok(epochs)
    }

    /// Goes on to the policy after a change.
    ///
    /// # Errors
    ///
    /// [`ChainError`]; nothing has changed then.
    pub fn advance(&mut self, change: &Receipt) -> Result<(), ChainError> {
        let number = self.retired.len() + 1;
        let verified = change
            .verify(&self.current, Strength::Published)
            .map_err(|problem| ChainError::Receipt { number, problem })?;
        let size = verified.checkpoint.checkpoint.size;
        let is_next = verified.leaf.outcome == Outcome::Ok
            && verified.index.checked_add(1) == Some(size)
            && size > self.current_after();
        let body = verified.opening.map(|o| &o.0.signed.statement.body);
        let (Some(body), true) = (body, is_next) else {
            return Err(ChainError::NoChange(number));
        };
        let next = self.successor(body, number)?;
        let checkpoint = verified.checkpoint.checkpoint;
        let before = std::mem::replace(&mut self.current, next);
        self.retired.push((checkpoint, before));
        Ok(())
    }

    /// The policy after `body`, by the one rule that a network has: its members' keys and its witnesses, and
    /// how many of them.
    fn successor(&self, body: &Body, number: usize) -> Result<TrustPolicy, ChainError> {
        if !self.current.is_one_group() {
            return Err(ChainError::Root);
        }
        let problem = |problem: PolicyError| ChainError::Policy { number, problem };
        let key = |text: &String| text.parse().map_err(|e| problem(PolicyError::Founded(e)));
        let mut logs: Vec<_> = self.current.logs().cloned().collect();
        let mut witnesses: Vec<_> = self.current.witnesses().cloned().collect();
        match body {
            Body::MemberAdded(body) => {
                logs.push(key(&body.log_key)?);
                witnesses.push(key(&body.cosigner_key)?);
            }
            Body::MemberRemoved(body) => {
                let (log, witness) = (key(&body.log_key)?, key(&body.cosigner_key)?);
                logs.retain(|known| *known != log);
                witnesses.retain(|known| *known != witness);
            }
            Body::WitnessAdded(body) => witnesses.push(key(&body.key)?),
            Body::WitnessRemoved(body) => {
                let witness = key(&body.key)?;
                witnesses.retain(|known| *known != witness);
            }
            _ => (),
        }
        let quorum = body.changes_policy().ok_or(ChainError::NoChange(number))?;
        TrustPolicy::new(&logs, &witnesses, quorum).map_err(problem)
    }

    /// The policy that would follow on the current one, if `body` took effect.
    ///
    /// # Errors
    ///
    /// [`ChainError`] when it changes no policy, or none would follow.
    pub fn after(&self, body: &Body) -> Result<TrustPolicy, ChainError> {
        self.successor(body, self.retired.len() + 1)
    }

    /// How often the policy changed.
    pub fn changes(&self) -> usize {
        self.retired.len()
    }

    /// The largest log that the policy before the current one is for.
    pub fn current_after(&self) -> u64 {
        self.retired.last().map_or(0, |(last, _)| last.size)
    }

    /// The policy in force now.
    pub fn current(&self) -> &TrustPolicy {
        &self.current
    }

    /// The policy that was in force for a log of `size` leaves.
    pub fn at(&self, size: u64) -> &TrustPolicy {
        let retired = self.retired.iter().find(|(last, _)| size <= last.size);
        retired.map_or(&self.current, |(_, policy)| policy)
    }

    /// A checkpoint by keys that are no longer in force counts only as a prefix of the log as it is now, or
    /// as what the chain itself rests on: whoever got hold of such keys could sign anything.
    fn check_is_current(&self, note: &SignedNote) -> Result<(), TrustError> {
        let checkpoint: Checkpoint = note.text().parse()?;
        let rests_on = self.retired.iter().any(|(last, _)| *last == checkpoint);
        if checkpoint.size > self.current_after() || (rests_on && self.head.is_none()) {
            return Ok(());
        }
        let (size, root) = (checkpoint.size, &checkpoint.root);
        let shown = self.head.as_ref().zip(self.proofs.get(&size));
        let (head, proof) = shown.ok_or(TrustError::Retired(size))?;
        let head = &head.checkpoint;
        proof
            .verify(size, root, head.size, &head.root)
            .map_err(|_| TrustError::Rewritten(size))
    }
}

impl Trust for Epochs {
    fn check(
        &self,
        note: &SignedNote,
        strength: Strength,
    ) -> Result<CheckedCheckpoint, TrustError> {
        let checkpoint: Checkpoint = note.text().parse()?;
        let checked = self.at(checkpoint.size).check(note, strength)?;
        self.check_is_current(note)?;
        Ok(checked)
    }

    fn at(&self, size: u64) -> &TrustPolicy {
        Self::at(self, size)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainWire {
    v: u8,
    changes: Vec<String>,
    head: Option<String>,
    proofs: Vec<ProofWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofWire {
    size: LeafIndex,
    hashes: Vec<Hash>,
}

impl Serialize for PolicyChain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let proof = |(size, proof): (&u64, &ConsistencyProof)| ProofWire {
            size: *size,
            hashes: proof.0.clone(),
        };
        ChainWire {
            v: VERSION,
            changes: self.changes.iter().map(ToString::to_string).collect(),
            head: self.head.as_ref().map(ToString::to_string),
            proofs: self.proofs.iter().map(proof).collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PolicyChain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = ChainWire::deserialize(deserializer)?;
        if wire.v != VERSION {
            return Err(D::Error::custom("unsupported version"));
        }
        let changes = wire.changes.iter().map(|text| text.parse());
        let changes = changes
            .collect::<Result<_, _>>()
            .map_err(D::Error::custom)?;
        let head = wire.head.as_deref().map(SignedNote::parse);
        let proofs = wire.proofs.into_iter();
        Ok(Self {
            changes,
            head: head.transpose().map_err(D::Error::custom)?,
            proofs: proofs
                .map(|proof| (proof.size, ConsistencyProof(proof.hashes)))
                .collect(),
        })
    }
}

const VERSION: u8 = 1;
