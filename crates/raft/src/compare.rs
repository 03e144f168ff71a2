use crate::admission::Admission;
use crate::alarm::Alarm;
use crate::error::{StoreError, blocking};
use crate::peers::Peers;
use crate::runtime::sleep;
use crate::types::{LogId, NodeId};
use bytes::Bytes;
use medanchor_anchor::SignedBatchHead;
use openraft::CommittedLeaderId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Compares the heads that this node keeps with what it computed itself, and with the other nodes' heads: a
/// leader that told them different things is found by any two that it told.
pub(crate) struct Comparison {
    admission: Admission,
    peers: Peers,
    /// The next index to compare with each node; that of this node with its own tree.
    next: BTreeMap<NodeId, u64>,
    /// How many entries back to begin with a node that was not compared with yet.
    recent: u64,
    node_id: NodeId,
}

/// Compares every now and then, and everything at once when somebody asks, until `closing`.
pub(crate) async fn compare_task(
    mut comparison: Comparison,
    every: Duration,
    asked: Arc<Notify>,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            biased;
            // An error means that the replica is gone.
            _ = closing.wait_for(|closing| *closing) => return,
            () = asked.notified() => comparison.start_over(),
            () = sleep(every) => (),
        }
        tokio::select! {
            biased;
            done = comparison.compare() => if let Err(error) = done {
                tracing::error!(%error, "heads cannot be compared");
            },
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}

impl Comparison {
    pub(crate) fn new(node_id: NodeId, admission: Admission, peers: Peers) -> Self {
        Self {
            admission,
            peers,
            next: BTreeMap::new(),
            recent: RECENT,
            node_id,
        }
    }

    pub(crate) fn start_over(&mut self) {
        self.next.clear();
        self.recent = u64::MAX;
    }

    pub(crate) async fn compare(&mut self) -> Result<(), StoreError> {
        let admission = self.admission.clone();
        let (newest, others) =
            blocking(move || Ok((admission.newest_head()?, admission.node_ids()?))).await?;
        let newest = newest.unwrap_or_default();
        self.compare_own(newest).await?;
        let own = self.node_id;
        for node_id in others.into_iter().filter(|other| *other != own) {
            // Who does not answer now is asked again.
            self.compare_with(node_id, newest).await?;
        }
        Ok(())
    }

    /// The heads kept here with the tree computed here: some were taken before that had come so far.
    async fn compare_own(&mut self, newest: u64) -> Result<(), StoreError> {
        let mut from = self.from(self.node_id, newest);
        loop {
            let judge = self.judge();
            let page = blocking(move || {
                let page = judge.admission.heads_from(from, PAGE)?;
                judge.judge_trees(&page)
            });
            let Some(last) = page.await? else { break };
            from = last.saturating_add(1);
        }
        self.advance(self.node_id, from, newest);
        Ok(())
    }

    async fn compare_with(&mut self, node_id: NodeId, newest: u64) -> Result<(), StoreError> {
        let mut from = self.from(node_id, newest);
        loop {
            let answer = match self.peers.list_heads(node_id, from, ANSWER_WITHIN).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(node_id, %error, "no heads to compare");
                    return Ok(());
                }
            };
            let judge = self.judge();
            let last = blocking(move || {
                judge.judge_pairs(&answer.refused, &answer.heads)?;
                judge.judge_page(from, &answer.refused)?;
                judge.judge_page(from, &answer.heads)
            });
            match last.await?.filter(|last| *last >= from) {
                Some(last) => from = last.saturating_add(1),
                None => break,
            }
        }
        self.advance(node_id, from, newest);
        Ok(())
    }

    /// At first what is recent.
    fn from(&self, node_id: NodeId, newest: u64) -> u64 {
        let recent = newest.saturating_sub(self.recent);
        self.next.get(&node_id).copied().unwrap_or(recent)
    }

    /// A little again the next time: entries may be cut off and written anew, and what this node does not
    /// have yet comes later.
    fn advance(&mut self, node_id: NodeId, next: u64, newest: u64) {
        let next = next.min(newest).saturating_sub(OVERLAP);
        self.next.insert(node_id, next);
    }

    fn judge(&self) -> Judge {
        Judge {
            admission: self.admission.clone(),
        }
    }
}

struct Judge {
    admission: Admission,
}

impl Judge {
    /// Index of the last of these heads, which this node took, after comparing their trees.
    fn judge_trees(&self, own: &[Bytes]) -> Result<Option<u64>, StoreError> {
        let mut last = None;
        for bytes in own {
            if let Ok(signed) = SignedBatchHead::from_bytes(bytes) {
                last = Some(signed.head.index);
                if self.admission.is_other_tree(&signed)? {
                    self.accuse(signed)?;
                }
            }
        }
        Ok(last)
    }

    /// Index of the last of another node's heads, after comparing those that this node does not have.
    fn judge_page(&self, from: u64, heads: &[Vec<u8>]) -> Result<Option<u64>, StoreError> {
        let own = self.admission.heads_from(from, heads.len())?;
        let own: BTreeSet<&[u8]> = own.iter().map(AsRef::as_ref).collect();
        let mut last = None;
        for bytes in heads {
            let Ok(signed) = SignedBatchHead::from_bytes(bytes) else {
                continue;
            };
            last = last.max(Some(signed.head.index));
            if !own.contains(bytes.as_slice()) {
                self.judge_other(bytes)?;
            }
        }
        Ok(last)
    }

    /// What another node refused, with what it took: a leader that lied to it alone, and leads no more, has told this
    /// node neither.
    fn judge_pairs(&self, refused: &[Vec<u8>], taken: &[Vec<u8>]) -> Result<(), StoreError> {
        for refused in refused {
            let Ok(refused) = SignedBatchHead::verify(refused) else {
                continue;
            };
            let mut taken = taken.iter().filter_map(|bytes| {
                let signed = SignedBatchHead::from_bytes(bytes).ok()?;
                signed.conflict(&refused)?;
                SignedBatchHead::verify(bytes).ok()
            });
            if let Some(taken) = taken.next() {
                self.raise_conflict(taken, refused)?;
            }
        }
        Ok(())
    }

    /// A head that another node has and this one does not.
    fn judge_other(&self, bytes: &[u8]) -> Result<(), StoreError> {
        // What its leader did not sign says nothing of it.
        let Ok(signed) = SignedBatchHead::verify(bytes) else {
            return Ok(());
        };
        let head = &signed.head;
        let place = LogId::new(CommittedLeaderId::new(head.term, 0), head.index);
        if let Some(own) = self.admission.head_at(&place)?
            && let Ok(own) = SignedBatchHead::from_bytes(&own)
            && own.conflict(&signed).is_some()
        {
            return self.raise_conflict(own, signed);
        }
        if self.admission.is_other_tree(&signed)? {
            self.accuse(signed)?;
        }
        Ok(())
    }

    /// Of a leader that wrote on another tree: with proof, if it also wrote on this node's.
    fn accuse(&self, signed: SignedBatchHead) -> Result<(), StoreError> {
        let mut from = 0;
        loop {
            let page = self.admission.heads_from(from, PAGE)?;
            let mut last = None;
            for own in &page {
                if let Ok(own) = SignedBatchHead::from_bytes(own) {
                    last = Some(own.head.index);
                    if own.conflict(&signed).is_some() {
                        return self.raise_conflict(own, signed);
                    }
                }
            }
            let Some(last) = last else { break };
            from = last.saturating_add(1);
        }
        if let Some(node_id) = self.admission.node_of(&signed.head)? {
            let head = Box::new(signed);
            self.admission.raise(Alarm::OtherTree { node_id, head });
        }
        Ok(())
    }

    fn raise_conflict(
        &self,
        one: SignedBatchHead,
        other: SignedBatchHead,
    ) -> Result<(), StoreError> {
        if let Some(kind) = one.conflict(&other)
            && let Some(node_id) = self.admission.node_of(&one.head)?
        {
            let heads = Box::new([one, other]);
            self.admission.raise(Alarm::Conflict {
                node_id,
                kind,
                heads,
            });
        }
        Ok(())
    }
}

/// Heads that are read at once.
pub(crate) const PAGE: usize = 1024;
const RECENT: u64 = 1024;
const OVERLAP: u64 = 64;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
