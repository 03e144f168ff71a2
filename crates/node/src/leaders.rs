//! What the replica finds out about leaders that lie becomes an alarm, with the proof that names the liar.

use crate::alarms::{self, AlarmKind, Alarms};
use anyhow::{Context, Result};
use futures::future::select_ok;
use medanchor_anchor::{
    BatchConflict, LeafIndex, MemberEntry, Prove, Read, Receipt, SignedBatchHead, State, Strength,
};
use medanchor_dag::Did;
use medanchor_raft::{Alarm, AlarmSink, NodeId, Replica};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// Keeps what the replica tells about leaders.
pub(crate) struct Leaders {
    pub(crate) origin: String,
    /// All that ever were members.
    pub(crate) members: Members,
    /// Who may have the receipt that names a node: this node, and the others.
    pub(crate) prove: [Arc<dyn Prove>; 2],
    pub(crate) alarms: Arc<Alarms>,
    /// Unix ms.
    pub(crate) clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

pub(crate) type Members = Box<dyn Fn() -> Vec<MemberEntry> + Send + Sync>;

/// As this replica knows them.
pub(crate) fn members_of(replica: Arc<Replica>) -> Members {
    Box::new(move || {
        let entries = || {
            State::new(replica.view().ok()?.as_ref())
                .member_entries()
                .ok()
        };
        entries().unwrap_or_default()
    })
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
        let raised = Notify::new();
        let keep = async {
            while let Some(alarm) = told.recv().await {
                self.keep(alarm).await;
                raised.notify_one();
            }
        };
        tokio::select! {
            () = stop.cancelled() => (),
            _ = futures::future::join(keep, self.complete_task(&raised)) => (),
        }
    }

    /// Lies are kept until an operator has seen them, and so are batches of the past: what expired may have been
    /// accepted with them. What else is wrong with clocks passes, and is in the log.
    async fn keep(&self, alarm: Alarm) {
        let details = alarm.to_string();
        match alarm {
            Alarm::Conflict { heads, .. } => {
                let subject: Vec<u8> = heads.iter().flat_map(SignedBatchHead::to_bytes).collect();
                let kind = AlarmKind::BatchConflict;
                if self.alarms.knows(kind, &self.origin, &subject) {
                    return;
                }
                let [one, two] = &*heads;
                let details = format!("`{}` lies: {details}", self.name_of(&one.head.node));
                // It counts from now on. Whose node it is can be proved later.
                let evidence = BatchConflict::without_receipt(one, two).into_bytes();
                self.raise(kind, subject, details, evidence).await;
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
            Alarm::Backdated { node_id, .. } => {
                let name = self.name_of_id(node_id);
                let details = format!("`{name}`: {details}");
                // An honest pause ends, and is one alarm.
                let hour = (self.clock)() / HOUR_MS;
                let subject = format!("{node_id} {hour}").into_bytes();
                let evidence = details.clone().into_bytes();
                self.raise(AlarmKind::Backdated, subject, details, evidence)
                    .await;
            }
            Alarm::FromTheFuture { .. } | Alarm::ClockBehind { .. } | Alarm::ClockAhead => (),
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

    /// Completes the proofs of conflicts, also of those that were raised before a restart. Nothing waits for it.
    async fn complete_task(&self, raised: &Notify) {
        loop {
            if self.complete_all().await {
                raised.notified().await;
            } else {
                sleep(COMPLETE_AGAIN_AFTER).await;
            }
        }
    }

    /// Whether no proof lacks anything.
    async fn complete_all(&self) -> bool {
        let is_ours = |raised: &alarms::Raised| {
            raised.kind == AlarmKind::BatchConflict && raised.origin == self.origin
        };
        let mut all = true;
        for raised in self.alarms.active().into_iter().filter(is_ours) {
            let completed = self.complete(&raised.id).await;
            if let Err(error) = &completed {
                tracing::warn!(
                    "the proof of alarm `{}` is not completed: {error:#}",
                    raised.id
                );
            }
            all &= completed.is_ok();
        }
        all
    }

    /// Adds the receipt that says whose node signed, where that is missing.
    async fn complete(&self, id: &str) -> Result<()> {
        let named = id.to_owned();
        let evidence = self.on_disk(move |alarms| alarms.evidence(&named)).await?;
        let Some([one, two]) = BatchConflict::heads_without_receipt(&evidence) else {
            return Ok(());
        };
        let member = self
            .member(&one.head.node)
            .context("its node is no member's")?;
        let receipt = self.strongest_receipt(member.added_at).await;
        let receipt = receipt.context("no checkpoint is published")?;
        let proof = BatchConflict::new(one, two, receipt).to_string();
        let named = id.to_owned();
        let written = self.on_disk(move |alarms| alarms.replace_evidence(&named, proof.as_bytes()));
        written.await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Alarms) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let alarms = Arc::clone(&self.alarms);
        tokio::task::spawn_blocking(move || work(&alarms)).await?
    }

    /// One that convinces anybody, if there is one: the newest checkpoint may have fewer co-signatures, since who has
    /// raised an alarm signs no more. Whoever gives one first counts: a node that was lied to from its start on has none
    /// of its own.
    async fn strongest_receipt(&self, index: LeafIndex) -> Option<Receipt> {
        for strength in [Strength::Published, Strength::Witnessed] {
            let asked = self.prove.iter().map(|who| who.receipt(index, strength));
            if let Ok((receipt, _)) = select_ok(asked).await {
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
        (self.members)().into_iter().find(wanted)
    }
}

const HOUR_MS: u64 = 60 * 60 * 1000;
const COMPLETE_AGAIN_AFTER: Duration = Duration::from_secs(5);
const MAX_WAITING: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::BoxFuture;
    use medanchor_anchor::{
        BatchHead, Body, Epochs, ReadError, TrustPolicy,
        testing::{MEMBERS, ORIGIN, World, node_key},
    };
    use medanchor_dag::Hash;
    use std::{
        path::Path,
        sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    };
    use tokio::{sync::watch, task::JoinHandle};

    #[tokio::test]
    async fn conflict_counts_at_once_and_delays_no_other_alarm() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(folder.path(), None);
        running.tell(conflict("one")).await;
        until(|| running.alarms.stop(ORIGIN).is_some()).await;
        // The receipt is being waited for, and never comes.
        until(|| running.prover.asked() > 0).await;
        running.tell(conflict("two")).await;
        running.tell(backdated(2)).await;
        until(|| running.alarms.active().len() == 3).await;
        let first = running.alarms.active().remove(0);
        assert!(first.details.contains("`hospital-a` lies"), "{first:?}");
        // It was written before the next was taken.
        let evidence = running.alarms.evidence(&first.id).unwrap();
        assert!(BatchConflict::heads_without_receipt(&evidence).is_some());
    }

    #[tokio::test]
    async fn proof_is_completed_once_there_is_a_receipt_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(folder.path(), None);
        let id = running.raise("before").await;
        until(|| folder.path().join(format!("{id}.alarm")).exists()).await;
        running.stop().await;

        let running = Running::start(folder.path(), None);
        running.tell(conflict("after")).await;
        until(|| running.alarms.active().len() == 2).await;
        running.prover.receipt.send_replace(Some(receipt()));
        for raised in running.alarms.active() {
            until(|| running.proof(&raised.id).is_some()).await;
            let proof = running.proof(&raised.id).unwrap();
            let epochs = Epochs::new(policy());
            assert_eq!(
                proof.verify(&epochs, Strength::Published).unwrap().name,
                "hospital-a"
            );
        }
    }

    #[tokio::test]
    async fn proof_is_completed_by_others_when_this_node_can_prove_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(folder.path(), None);
        let id = running.raise("one").await;
        until(|| running.prover.asked() > 0).await;
        running.others.receipt.send_replace(Some(receipt()));
        until(|| running.proof(&id).is_some()).await;
    }

    #[tokio::test]
    async fn known_conflict_is_no_work() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(folder.path(), Some(receipt()));
        let id = running.raise("one").await;
        until(|| running.proof(&id).is_some()).await;
        let asked = running.prover.asked();
        running.tell(conflict("one")).await;
        running.tell(backdated(1)).await;
        until(|| running.alarms.active().len() == 2).await;
        alarms::acknowledge(folder.path(), &id).unwrap();
        running.tell(conflict("one")).await;
        running.tell(backdated(2)).await;
        until(|| running.alarms.active().len() == 2).await;
        assert_eq!(running.alarms.stop(ORIGIN), None);
        assert_eq!(running.prover.asked(), asked);
    }

    #[tokio::test]
    async fn backdating_is_an_alarm_for_each_leader_and_hour_and_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(folder.path(), None);
        for (leader, hours, raised) in [(1, 0, 1), (1, 0, 1), (2, 0, 2), (1, 1, 3), (2, 1, 4)] {
            running.clock.store(hours * HOUR_MS, Ordering::Relaxed);
            running.tell(backdated(leader)).await;
            // What follows it is raised after it.
            let code = ["a", "b", "c", "d", "e"][running.not_signed()];
            let node_id = 3;
            running.tell(Alarm::NotSigned { node_id, code }).await;
            let before = running.not_signed();
            until(|| running.not_signed() > before).await;
            let active = running.alarms.active();
            let backdated = active.iter().filter(|a| a.kind == AlarmKind::Backdated);
            assert_eq!(backdated.count(), raised);
        }
        assert_eq!(running.alarms.stop(ORIGIN), None);
        let first = running.alarms.active().remove(0);
        assert!(first.details.contains("`hospital-a`"), "{first:?}");
    }

    /// What keeps alarms, of a network in memory.
    struct Running {
        alarms: Arc<Alarms>,
        prover: Arc<Prover>,
        others: Arc<Prover>,
        clock: Arc<AtomicU64>,
        tell: mpsc::Sender<Alarm>,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    impl Running {
        fn start(folder: &Path, receipt: Option<Receipt>) -> Self {
            let alarms = Arc::new(Alarms::open(folder).unwrap());
            let [prover, others] = [receipt, None].map(|receipt| {
                Arc::new(Prover {
                    receipt: watch::Sender::new(receipt),
                    asked: AtomicUsize::new(0),
                })
            });
            let clock = Arc::new(AtomicU64::new(0));
            let time = Arc::clone(&clock);
            let leaders = Leaders {
                origin: ORIGIN.to_owned(),
                members: Box::new(|| World::new().state().member_entries().unwrap()),
                prove: [Arc::clone(&prover) as _, Arc::clone(&others) as _],
                alarms: Arc::clone(&alarms),
                clock: Arc::new(move || time.load(Ordering::Relaxed)),
            };
            let (tell, told) = mpsc::channel(1);
            let stop = CancellationToken::new();
            let task = tokio::spawn(leaders.keep_task(told, stop.clone()));
            Self {
                alarms,
                prover,
                others,
                clock,
                tell,
                stop,
                task,
            }
        }

        async fn tell(&self, alarm: Alarm) {
            self.tell.send(alarm).await.unwrap();
        }

        /// The id of the first alarm, which is of a conflict.
        async fn raise(&self, place: &str) -> String {
            self.tell(conflict(place)).await;
            until(|| self.alarms.active().len() == 1).await;
            self.alarms.active().remove(0).id
        }

        /// The evidence of an alarm, once it convinces others.
        fn proof(&self, id: &str) -> Option<BatchConflict> {
            self.alarms.evidence(id).ok()?.parse().ok()
        }

        fn not_signed(&self) -> usize {
            let active = self.alarms.active();
            let not_signed = active.iter().filter(|a| a.kind == AlarmKind::NotSigned);
            not_signed.count()
        }

        async fn stop(self) {
            self.stop.cancel();
            self.task.await.unwrap();
        }
    }

    /// Has one receipt, or lets everybody wait for it.
    struct Prover {
        receipt: watch::Sender<Option<Receipt>>,
        asked: AtomicUsize,
    }

    impl Prover {
        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    impl Prove for Prover {
        fn receipt(
            &self,
            index: LeafIndex,
            _: Strength,
        ) -> BoxFuture<'_, Result<Receipt, ReadError>> {
            assert_eq!(index, 0, "it was founded with all its members");
            self.asked.fetch_add(1, Ordering::Relaxed);
            let mut receipt = self.receipt.subscribe();
            Box::pin(async move {
                let receipt = receipt.wait_for(Option::is_some).await;
                Ok(receipt.unwrap().clone().unwrap())
            })
        }
    }

    async fn until(mut is_so: impl FnMut() -> bool) {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    }

    fn conflict(place: &str) -> Alarm {
        let index = Hash::of(place.as_bytes()).as_bytes()[0].into();
        let head = |batch: &str| {
            let head = BatchHead {
                v: 1,
                origin: ORIGIN.to_owned(),
                node: node_key(MEMBERS[0]).did(),
                term: 1,
                index,
                size: 1,
                root: Hash::of(b"root"),
                batch: Hash::of(batch.as_bytes()),
            };
            head.sign(&node_key(MEMBERS[0]))
        };
        let heads = [head("this"), head("that")];
        let kind = heads[0].conflict(&heads[1]).unwrap();
        Alarm::Conflict {
            node_id: 1,
            kind,
            heads: Box::new(heads),
        }
    }

    fn backdated(node_id: NodeId) -> Alarm {
        let by = Duration::from_secs(60);
        Alarm::Backdated { node_id, by }
    }

    fn receipt() -> Receipt {
        let world = World::new();
        world.receipt(0, world.checkpoint(1, MEMBERS[1], &MEMBERS))
    }

    fn policy() -> TrustPolicy {
        let opening = World::new().state().opening(0).unwrap().unwrap();
        match opening.0.signed.statement.body {
            Body::Founded(founded) => TrustPolicy::founded(&founded).unwrap(),
            _ => unreachable!(),
        }
    }
}
