//! What the replica finds out about leaders that lie becomes an alarm, with the proof that names the liar.

use crate::{
    alarms::{self, AlarmKind, Alarms},
    publisher::Publisher,
};
use medanchor_anchor::{
    BatchConflict, LeafIndex, MemberEntry, Prove, Read, Receipt, SignedBatchHead, State, Strength,
};
use medanchor_dag::Did;
use medanchor_raft::{Alarm, AlarmSink, NodeId, Replica};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Keeps what the replica tells about leaders.
pub(crate) struct Leaders {
    pub(crate) origin: String,
    pub(crate) replica: Arc<Replica>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) alarms: Arc<Alarms>,
}

/// Where the replica tells its alarms, and where they come out. Each is logged at once. More than a few that
/// wait would say nothing new.
pub(crate) fn channel() -> (AlarmSink, mpsc::Receiver<Alarm>) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let sink = move |alarm: Alarm| {
        tracing::error!("{alarm}");
        if let Err(error) = sender.try_send(alarm) {
            tracing::debug!("an alarm is not kept: {error}");
        }
    };
    (Arc::new(sink), receiver)
}

impl Leaders {
    /// Keeps what the replica tells, until `stop`.
    pub(crate) async fn keep_task(self, mut told: mpsc::Receiver<Alarm>, stop: CancellationToken) {
        let work = async {
            while let Some(alarm) = told.recv().await {
                self.keep(alarm).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => (),
            () = work => (),
        }
    }

    /// Lies are kept until an operator has seen them; what is wrong with clocks passes, and is in the log.
    async fn keep(&self, alarm: Alarm) {
        let details = alarm.to_string();
        match alarm {
            Alarm::Conflict { heads, .. } => {
                let [one, _] = &*heads;
                let node = one.head.node;
                let details = format!("`{}` lies: {details}", self.name_of(&node));
                let evidence = self.proof(&heads).await.into_bytes();
                let subject = heads.iter().flat_map(SignedBatchHead::to_bytes).collect();
                self.raise(AlarmKind::BatchConflict, subject, details, evidence)
                    .await;
            }
            Alarm::OtherTree { head, .. } => {
                let node = head.head.node;
                let details = format!("`{}`: {details}", self.name_of(&node));
                let evidence = head.to_bytes();
                self.raise(AlarmKind::OtherTree, evidence.clone(), details, evidence)
                    .await;
            }
            Alarm::OtherState { digests, .. } => {
                // In one order, so that both who notice it name it alike.
                let mut evidence = digests.map(|digest| digest.to_bytes());
                evidence.sort();
                let evidence = evidence.concat();
                self.raise(AlarmKind::OtherState, evidence.clone(), details, evidence)
                    .await;
            }
            Alarm::NotSigned { node_id, code } => {
                let name = self.name_of_id(node_id);
                let details = format!("`{name}`: {details}");
                let subject = format!("{node_id} {code}").into_bytes();
                let evidence = details.clone().into_bytes();
                self.raise(AlarmKind::NotSigned, subject, details, evidence)
                    .await;
            }
            Alarm::FromTheFuture { .. }
            | Alarm::Backdated { .. }
            | Alarm::ClockBehind { .. }
            | Alarm::ClockAhead => (),
        }
    }

    async fn raise(&self, kind: AlarmKind, subject: Vec<u8>, details: String, evidence: Vec<u8>) {
        self.alarms
            .raise(alarms::Alarm {
                kind,
                origin: self.origin.clone(),
                subject,
                details,
                evidence,
            })
            .await;
    }

    /// The proof of a conflict. Without a receipt of who the node is it may be completed later.
    async fn proof(&self, heads: &[SignedBatchHead; 2]) -> String {
        let [one, two] = heads;
        let receipt = match self.member(&one.head.node) {
            Some(entry) => self.strongest_receipt(entry.added_at).await,
            None => None,
        };
        match receipt {
            Some(receipt) => BatchConflict::new(one.clone(), two.clone(), receipt).to_string(),
            None => BatchConflict::without_receipt(one, two),
        }
    }

    /// One that convinces anybody, if there is one: the newest checkpoint may have fewer co-signatures, since who has
    /// raised an alarm signs no more.
    async fn strongest_receipt(&self, index: LeafIndex) -> Option<Receipt> {
        for strength in [Strength::Published, Strength::Witnessed] {
            if let Ok(receipt) = self.publisher.receipt(index, strength).await {
                return Some(receipt);
            }
        }
        None
    }

    fn name_of(&self, node: &Did) -> String {
        self.member(node)
            .map_or_else(|| node.to_string(), |entry| entry.member.name)
    }

    fn name_of_id(&self, node_id: NodeId) -> String {
        self.entry(|entry| entry.member.node_id == node_id)
            .map_or_else(|| format!("node {node_id}"), |entry| entry.member.name)
    }

    fn member(&self, node: &Did) -> Option<MemberEntry> {
        self.entry(|entry| entry.member.node == *node)
    }

    /// Also one that was removed since.
    fn entry(&self, wanted: impl Fn(&MemberEntry) -> bool) -> Option<MemberEntry> {
        let view = self.replica.view().ok()?;
        let entries = State::new(view.as_ref()).member_entries().ok()?;
        entries.into_iter().find(wanted)
    }
}

const MAX_WAITING: usize = 64;
