//! Publishing checkpoints: the leader signs, every organisation and witness co-signs, everybody is told.

use crate::{
    asker::Asker,
    cosigner::{Cosigner, Endorsers},
    couriers::{Couriers, ToSign},
    membership::{Membership, Now, member_keys},
    monitor::{Judgement, Monitor},
    remote::{Remote, RemoteCosigner},
};
use anyhow::{Context, Result};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use medanchor_anchor::{
    BoxError, Checkpoint, LeafIndex, Prove, Read, ReadError, Receipt, SignedNote, State, Strength,
    TablesError, TrustPolicy, VerifierKey,
};
use medanchor_api::pb::{
    anchor::{CheckpointRequest, anchor_service_client::AnchorServiceClient},
    raft::{PublishRequest, checkpoint_service_client::CheckpointServiceClient},
};
use medanchor_dag::SigningKey;
use medanchor_raft::{Replica, Role};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::Request;

/// Publishes checkpoints while this node leads, and proves leaves with the newest.
pub(crate) struct Publisher {
    origin: String,
    log_key: SigningKey,
    membership: Arc<Membership>,
    replica: Arc<Replica>,
    cosigner: Arc<Cosigner>,
    asker: Arc<Asker>,
    couriers: Couriers,
    newest: watch::Sender<Newest>,
    /// What the other nodes are to be told of.
    to_tell: watch::Sender<String>,
    /// One question to the other nodes at a time.
    asking: tokio::sync::Mutex<()>,
    monitor: Arc<Monitor>,
    reissue_after: Duration,
    /// What this process has signed last with the log key.
    signed: Mutex<Option<Checkpoint>>,
    /// Cancelled when this copy of the log contradicts what was signed from it: the node must stop.
    contradicted: CancellationToken,
}

/// A checkpoint that enough co-signers have signed.
#[derive(Debug)]
struct Published {
    checkpoint: Checkpoint,
    note: SignedNote,
    /// The note with the signatures that a receipt of this strength needs, and no others.
    for_receipts: SignedNote,
    strength: Strength,
    /// Median of the co-signatures' times: one wrong clock does not decide.
    at_unix_seconds: u64,
}

/// The newest checkpoints that this node knows.
#[derive(Debug, Default)]
struct Newest {
    /// Co-signed by the policy's quorum.
    published: Option<Arc<Published>>,
    /// Co-signed by enough to open a grant, or by more.
    witnessed: Option<Arc<Published>>,
}

impl Newest {
    fn of(&self, strength: Strength) -> Option<&Arc<Published>> {
        match strength {
            Strength::Published => self.published.as_ref(),
            Strength::Witnessed => self.witnessed.as_ref(),
        }
    }

    fn any(&self) -> Option<&Arc<Published>> {
        self.published.as_ref().or(self.witnessed.as_ref())
    }

    /// Whether anything is newer now.
    fn advance(&mut self, checkpoint: &Arc<Published>, again_after: u64) -> bool {
        let newer = |known: &Option<Arc<Published>>| {
            let known = known.as_ref();
            known.is_none_or(|known| checkpoint.is_newer_than(known, again_after))
        };
        let witnessed = newer(&self.witnessed);
        let published = checkpoint.strength == Strength::Published && newer(&self.published);
        if witnessed {
            self.witnessed = Some(Arc::clone(checkpoint));
        }
        if published {
            self.published = Some(Arc::clone(checkpoint));
        }
        witnessed || published
    }
}

impl Published {
    /// Of one size, the one with more signatures counts, and one that was signed again so many seconds later.
    fn is_newer_than(&self, known: &Self, again_after: u64) -> bool {
        let rank = |of: &Self| (of.checkpoint.size, of.note.signatures().len());
        let again = self.checkpoint.size == known.checkpoint.size
            && self.at_unix_seconds >= known.at_unix_seconds.saturating_add(again_after);
        again || rank(known) < rank(self)
    }
}

/// What a publisher is made of.
pub(crate) struct PublisherParts {
    pub(crate) origin: String,
    pub(crate) log_key: SigningKey,
    pub(crate) membership: Arc<Membership>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) cosigner: Arc<Cosigner>,
    pub(crate) monitor: Arc<Monitor>,
    /// When an idle log signs again.
    pub(crate) reissue_after: Duration,
}

impl Publisher {
    pub(crate) fn new(parts: PublisherParts) -> Self {
        let asker = Arc::new(Asker::new(Arc::clone(&parts.replica)));
        Self {
            origin: parts.origin,
            log_key: parts.log_key,
            membership: parts.membership,
            replica: parts.replica,
            cosigner: parts.cosigner,
            couriers: Couriers::new(Arc::clone(&asker), again_after(parts.reissue_after)),
            asker,
            newest: watch::Sender::new(Newest::default()),
            to_tell: watch::Sender::default(),
            asking: tokio::sync::Mutex::default(),
            monitor: parts.monitor,
            reissue_after: parts.reissue_after,
            signed: Mutex::default(),
            contradicted: CancellationToken::new(),
        }
    }

    /// Cancelled when this copy of the log contradicts what this node has signed: the node must stop.
    pub(crate) fn contradicted(&self) -> CancellationToken {
        self.contradicted.clone()
    }

    /// Publishes whenever something waits and none is in flight, until `stop`.
    pub(crate) async fn publish_task(self: Arc<Self>, stop: CancellationToken) {
        let work = async {
            loop {
                self.something_waits().await;
                let began = Instant::now();
                if let Err(error) = self.publish().await {
                    tracing::warn!("no checkpoint was published: {error:#}");
                    sleep(RETRY_AFTER).await;
                }
                sleep_until(began + apart(began.elapsed())).await;
            }
        };
        // Who does not answer delays neither the next checkpoint nor what the others are told.
        tokio::select! {
            () = stop.cancelled() => (),
            _ = futures::future::join3(work, self.tell_all_task(), self.ask_all_task()) => (),
        }
    }

    /// Takes a checkpoint that another node says is published. Signatures are not enough: under a log that
    /// only its publisher knows no leaf could be proved here. So the own replica must have computed the same
    /// root.
    pub(crate) async fn accept(&self, text: &str) -> Result<()> {
        let note = SignedNote::parse(text).context("parse the checkpoint")?;
        let published = self.check(note).context("check the checkpoint")?;
        let size = published.checkpoint.size;
        match self.monitor.judge(&published.note, CATCH_UP).await? {
            Judgement::True => {
                self.keep_change(&published)?;
                self.advance(published);
            }
            Judgement::False => {
                anyhow::bail!("the checkpoint of {size} leaves contradicts this node's own replica")
            }
            Judgement::Ahead => anyhow::bail!("this replica has not applied {size} leaves yet"),
        }
        Ok(())
    }

    /// The newest published checkpoint.
    pub(crate) fn newest(&self) -> Option<String> {
        let newest = self.newest.borrow();
        newest.any().map(|newest| newest.note.to_string())
    }

    /// The newest checkpoint that carries the policy's whole quorum: its size and its text.
    pub(crate) fn published(&self) -> Option<(u64, String)> {
        let newest = self.newest.borrow();
        let published = newest.of(Strength::Published)?;
        Some((published.checkpoint.size, published.note.to_string()))
    }

    /// Asks the others what is published until this node knows: the leader of a quiet log tells nobody who
    /// has just started.
    pub(crate) async fn learn_task(self: Arc<Self>, stop: CancellationToken) {
        let learn = async {
            while self.published().is_none() {
                sleep(LEARN_AGAIN_AFTER).await;
                self.ask_others().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => (),
            () = learn => (),
        }
    }

    /// Leaves under the newest published checkpoint.
    pub(crate) fn published_size(&self) -> u64 {
        let newest = self.newest.borrow();
        newest.any().map_or(0, |newest| newest.checkpoint.size)
    }

    /// Co-signatures on the newest published checkpoint.
    pub(crate) fn cosignatures(&self) -> u32 {
        let newest = self.newest.borrow();
        let signatures = newest.any().map_or(0, |n| n.note.signatures().len());
        u32::try_from(signatures.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Until this node leads a log that is longer than what was published, or it is time to sign again.
    async fn something_waits(&self) {
        let mut replica = self.replica.watch();
        let waits = replica.wait_for(|status| {
            let newest = self.newest.borrow();
            let published = newest.of(Strength::Published);
            let covered =
                published.is_some_and(|newest| newest.checkpoint.size >= status.tree_size);
            status.role == Role::Leader && status.tree_size > 0 && !covered
        });
        if timeout(self.reissue_after, waits)
            .await
            .is_ok_and(|w| w.is_err())
        {
            // The replica has stopped; the node is about to.
            std::future::pending::<()>().await;
        }
    }

    pub(crate) async fn publish(&self) -> Result<()> {
        if self.replica.status().role != Role::Leader {
            return Ok(());
        }
        let checkpoint = self.checkpoint()?;
        let note = self.sign(&checkpoint)?;
        #[cfg(medanchor_fault)]
        medanchor_raft::fault_step("checkpoint-signed");
        let note = self.cosign(&checkpoint, note).await;
        let published = self.check(note.clone())?;
        let is_published = published.strength == Strength::Published;
        self.keep_change(&published)?;
        #[cfg(medanchor_fault)]
        medanchor_raft::fault_step("checkpoint-cosigned");
        self.advance(published);
        self.tell_newest();
        anyhow::ensure!(
            is_published,
            "too few co-signers answered: the checkpoint of {} leaves has {} co-signatures",
            checkpoint.size,
            note.signatures().len() - 1
        );
        Ok(())
    }

    /// The next one: of the whole log, or, where that has changed the policy, of the log up to the change, which
    /// is published under the policy before it.
    fn checkpoint(&self) -> Result<Checkpoint> {
        let view = self.replica.view()?;
        let state = State::new(view.as_ref());
        let published = self.membership.now().epochs.current_after();
        let mut changes = state.policy_changes()?.into_iter();
        let size = match changes.find(|index| *index >= published) {
            Some(change) => change + 1,
            None => state.tree_size()?,
        };
        Ok(Checkpoint {
            origin: self.origin.clone(),
            size,
            root: state.root_at(size)?,
        })
    }

    /// Signs with the log key what extends all that this node has signed, and nothing else. If rows of this copy of the
    /// log were damaged, its root would accuse an honest node of a second log.
    fn sign(&self, checkpoint: &Checkpoint) -> Result<SignedNote> {
        let cosigned = self.cosigner.last_note();
        let cosigned = cosigned.map(|note| note.text().parse()).transpose()?;
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        for before in cosigned.iter().chain(signed.iter()) {
            self.check_extends(before, checkpoint)?;
        }
        let note = checkpoint.sign(&self.log_key)?;
        *signed = Some(checkpoint.clone());
        Ok(note)
    }

    fn check_extends(&self, before: &Checkpoint, checkpoint: &Checkpoint) -> Result<()> {
        let (old, new) = (before.size, checkpoint.size);
        anyhow::ensure!(
            old <= new,
            "this node has signed a larger log of {old} leaves, and its replica is not there yet"
        );
        let view = self.replica.view()?;
        let proof = State::new(view.as_ref()).consistency_proof(old, new)?;
        let extends = proof.verify(old, &before.root, new, &checkpoint.root);
        extends
            .inspect_err(|_| self.contradicted.cancel())
            .with_context(|| {
                format!("this copy of the log, of {new} leaves, does not extend the {old} that this node has signed")
            })
    }

    /// Once a change of the policy is published, the policy after it is in force.
    fn keep_change(&self, published: &Published) -> Result<()> {
        let size = published.checkpoint.size;
        let now = self.membership.now();
        if published.strength != Strength::Published || size <= now.epochs.current_after() {
            return Ok(());
        }
        let view = self.replica.view()?;
        let state = State::new(view.as_ref());
        let is_change = |index: &LeafIndex| state.policy_changes().map(|all| all.contains(index));
        match size.checked_sub(1) {
            Some(index) if is_change(&index)? => {
                let receipt = receipt(&state, index, published)?;
                self.membership.publish(receipt)
            }
            _ => Ok(()),
        }
    }

    /// Asks every member at once, and the outside witnesses as soon as enough members have signed. Waiting
    /// callers are served as soon as the quorum is there; stragglers get a little longer, and a witness as long as it
    /// takes: see [`Publisher::take_late`].
    async fn cosign(&self, checkpoint: &Checkpoint, note: SignedNote) -> SignedNote {
        let now = self.membership.now();
        let policy = now.epochs.at(checkpoint.size);
        let endorsers = Endorsers::majority_of(member_keys(policy, &self.origin));
        let mut asked: FuturesUnordered<BoxFuture<'_, Result<(String, &VerifierKey)>>> =
            FuturesUnordered::new();
        asked.push(Box::pin(self.cosign_here(checkpoint, &note)));
        for cosigner in now.cosigners(policy) {
            let asking = self.asker.ask(cosigner, checkpoint, &note);
            asked.push(Box::pin(async { Ok((asking.await?, &cosigner.key)) }));
        }
        let mut signed = note.clone();
        let mut to_ask: Vec<_> = now.witnesses_of(policy).collect();
        let mut deadline = Instant::now() + COSIGN_WITHIN;
        while let Ok(Some(answer)) = timeout_at(deadline, asked.next()).await {
            // Only a good signature of the one that was asked is taken: no answer can spoil the note.
            let added = answer.and_then(|(answer, key)| Ok(signed.add_answer(&answer, key)?));
            if let Err(error) = added {
                tracing::debug!("a co-signer did not sign: {error:#}");
                continue;
            }
            if !to_ask.is_empty() && endorsers.count(&signed) >= endorsers.needed() {
                self.couriers.send(ToSign {
                    checkpoint: checkpoint.clone(),
                    note: signed.clone(),
                });
                for witness in std::mem::take(&mut to_ask) {
                    let lines = self.couriers.lines(&witness.key, note.text());
                    asked.push(Box::pin(async { Ok((lines.await?, &witness.key)) }));
                }
            }
            if let Ok(published) = self.check(signed.clone()) {
                if published.strength == Strength::Published {
                    deadline = deadline.min(Instant::now() + STRAGGLERS);
                }
                self.advance(published);
            }
        }
        signed
    }

    /// This node's own answer.
    async fn cosign_here(
        &self,
        checkpoint: &Checkpoint,
        note: &SignedNote,
    ) -> Result<(String, &VerifierKey)> {
        let last = self.cosigner.last_size();
        let request = self.asker.request(last, checkpoint, note)?;
        let signature = self.cosigner.add_checkpoint(request).await?;
        Ok((format!("{signature}\n"), self.cosigner.verifier()))
    }

    /// Has every outside witness co-sign the newest checkpoint, also those that are added.
    async fn ask_all_task(&self) {
        let mut members = self.membership.watch();
        loop {
            members.mark_unchanged();
            let now = self.membership.now();
            let witnesses = now.witnesses();
            let asking = witnesses.iter().map(|witness| self.ask_task(witness));
            tokio::select! {
                _ = futures::future::join_all(asking), if !witnesses.is_empty() => (),
                Ok(()) = members.changed() => (),
            }
        }
    }

    async fn ask_task(&self, witness: &RemoteCosigner) {
        let is_wanted = |checkpoint: &Checkpoint| {
            let now = self.membership.now();
            let mut keys = now.epochs.at(checkpoint.size).witnesses();
            self.replica.status().role == Role::Leader && keys.any(|key| *key == witness.key)
        };
        let take = |note: &SignedNote, lines: &str| {
            if let Err(error) = self.take_late(note, lines, &witness.key) {
                tracing::warn!("a late co-signature is lost: {error:#}");
            }
        };
        self.couriers.ask_task(witness, is_wanted, take).await;
    }

    /// Adds a witness's signature to the newest checkpoint, if it is of that and came after the others.
    fn take_late(&self, note: &SignedNote, lines: &str, key: &VerifierKey) -> Result<()> {
        let newest = self.newest.borrow().witnessed.clone();
        let Some(newest) = newest.filter(|newest| newest.note.text() == note.text()) else {
            return Ok(());
        };
        let mut note = newest.note.clone();
        if !note.signers([key])?.is_empty() {
            return Ok(());
        }
        note.add_answer(lines, key)?;
        let published = self.check(note)?;
        self.keep_change(&published)?;
        if self.advance(published) {
            self.tell_newest();
        }
        Ok(())
    }

    fn tell_newest(&self) {
        if let Some(newest) = &self.newest.borrow().witnessed {
            self.to_tell.send_replace(newest.note.to_string());
        }
    }

    /// Tells every node of the newest checkpoint, also those that join.
    async fn tell_all_task(&self) {
        let mut members = self.membership.watch();
        loop {
            members.mark_unchanged();
            let others = self.membership.others();
            let telling = others.iter().map(|remote| self.tell_task(remote));
            tokio::select! {
                _ = futures::future::join_all(telling), if !others.is_empty() => (),
                Ok(()) = members.changed() => (),
            }
        }
    }

    /// Tells one node of the newest checkpoint, as often as there is a newer one.
    async fn tell_task(&self, remote: &Remote) {
        let mut to_tell = self.to_tell.subscribe();
        // Also of what was published before it was listed, or while it was told of something else.
        if !to_tell.borrow().is_empty() {
            to_tell.mark_changed();
        }
        while to_tell.changed().await.is_ok() {
            let checkpoint = to_tell.borrow_and_update().clone();
            let mut request = Request::new(PublishRequest { checkpoint });
            request.set_timeout(TELL_WITHIN);
            let mut client = CheckpointServiceClient::new(remote.channel.clone());
            match timeout(TELL_WITHIN, client.publish(request)).await {
                Ok(Ok(_)) => (),
                Ok(Err(status)) => {
                    tracing::debug!("`{}` was not told of the checkpoint: {status}", remote.name);
                }
                Err(_) => tracing::debug!("`{}` does not take the checkpoint", remote.name),
            }
        }
    }

    /// Takes the newest checkpoint that any other node has. Those that do not answer are left out: the
    /// leader tells of the next one by itself.
    async fn ask_others(&self) {
        let Ok(_asking) = self.asking.try_lock() else {
            return;
        };
        let others = self.membership.others();
        let answers = others.iter().map(|remote| async {
            let mut request = Request::new(CheckpointRequest {});
            request.set_timeout(TELL_WITHIN);
            let answer = AnchorServiceClient::new(remote.channel.clone())
                .checkpoint(request)
                .await;
            match answer.map(|answer| answer.into_inner().checkpoint) {
                Ok(checkpoint) if checkpoint.is_empty() => (),
                Ok(checkpoint) => {
                    if let Err(error) = self.accept(&checkpoint).await {
                        tracing::warn!("the checkpoint of `{}` is refused: {error:#}", remote.name);
                    }
                }
                Err(status) => tracing::debug!("`{}` gives no checkpoint: {status}", remote.name),
            }
        });
        futures::future::join_all(answers).await;
    }

    /// Checks signatures by the trust policy.
    fn check(&self, note: SignedNote) -> Result<Published> {
        let size = note.text().parse::<Checkpoint>()?.size;
        let now = self.membership.now();
        let policy = self.policy_for(&now, size)?;
        let (strength, checked) = match policy.check(&note, Strength::Published) {
            Ok(checked) => (Strength::Published, checked),
            Err(_) => {
                let checked = policy.check(&note, Strength::Witnessed)?;
                (Strength::Witnessed, checked)
            }
        };
        let times = checked.cosigners.iter().map(|by| by.at_unix_seconds);
        let mut times: Vec<u64> = times.collect();
        times.sort_unstable();
        Ok(Published {
            at_unix_seconds: times.get(times.len() / 2).copied().unwrap_or(0),
            for_receipts: policy.trim(&note, &checked, strength),
            checkpoint: checked.checkpoint,
            note,
            strength,
        })
    }

    /// The policy for a checkpoint of `size` leaves. None is known beyond a change that is not known to be
    /// published.
    fn policy_for<'n>(&self, now: &'n Now, size: u64) -> Result<&'n TrustPolicy> {
        let published = now.epochs.current_after();
        let mut changes = self.monitor.policy_changes()?.into_iter();
        let next = changes.find(|index| *index >= published);
        match next.filter(|index| size > index + 1) {
            None => Ok(now.epochs.at(size)),
            Some(index) => anyhow::bail!(
                "it is not known here that the change of policy in leaf {index} was published"
            ),
        }
    }

    /// Keeps the newest checkpoint of each strength; whether this is one.
    fn advance(&self, published: Published) -> bool {
        let published = Arc::new(published);
        let again_after = again_after(self.reissue_after).as_secs();
        self.newest
            .send_if_modified(|newest| newest.advance(&published, again_after))
    }

    async fn covering(
        &self,
        index: LeafIndex,
        strength: Strength,
    ) -> Result<Arc<Published>, BoxError> {
        let mut newest = self.newest.subscribe();
        let covers = |newest: &Newest| {
            let newest = newest.of(strength);
            newest.is_some_and(|newest| newest.checkpoint.size > index)
        };
        let asking = async {
            sleep(SOON).await;
            if self.replica.status().role != Role::Leader {
                // It may have been published while this node was away.
                self.ask_others().await;
            }
            std::future::pending::<std::convert::Infallible>().await
        };
        let newest = tokio::select! {
            newest = timeout(RECEIPT_WITHIN, newest.wait_for(covers)) => newest??,
            never = asking => match never {},
        };
        let newest = newest.of(strength).cloned();
        newest.ok_or_else(|| "no checkpoint was published".into())
    }

    async fn prove(&self, index: LeafIndex, strength: Strength) -> Result<Receipt, ReadError> {
        // Whoever knows only the policy before a change can check that receipt of it.
        if let Some(change) = self.membership.now().change(index) {
            return Ok(change.clone());
        }
        let published = self
            .covering(index, strength)
            .await
            .map_err(ReadError::Unavailable)?;
        // A follower may hear of a checkpoint before it has applied the leaves below it.
        let mut replica = self.replica.watch();
        let applied = replica.wait_for(|status| status.tree_size >= published.checkpoint.size);
        timeout(RECEIPT_WITHIN, applied)
            .await
            .map_err(|error| ReadError::Unavailable(error.into()))?
            .map_err(|error| ReadError::Stopped(error.into()))?;
        let view = self.replica.view()?;
        let state = State::new(view.as_ref());
        receipt(&state, index, &published).map_err(|error| ReadError::Stopped(error.into()))
    }
}

/// The receipt of a leaf under a checkpoint that covers it.
fn receipt(
    state: &State<'_>,
    index: LeafIndex,
    published: &Published,
) -> Result<Receipt, TablesError> {
    let leaf = state.leaf(index)?;
    Ok(Receipt {
        leaf: leaf.ok_or_else(|| TablesError("a leaf is missing".into()))?,
        opening: state.opening(index)?,
        index,
        proof: state.inclusion_proof(index, published.checkpoint.size)?,
        checkpoint: published.for_receipts.clone(),
    })
}

impl Prove for Publisher {
    fn receipt(
        &self,
        index: LeafIndex,
        strength: Strength,
    ) -> BoxFuture<'_, Result<Receipt, ReadError>> {
        Box::pin(self.prove(index, strength))
    }
}

/// How far apart checkpoints begin when one took this long: all nodes are busy with one for about that time, and
/// have statements to take.
fn apart(took: Duration) -> Duration {
    (took * BUSY_ONE_IN).clamp(CLOSEST, FARTHEST)
}

/// How much later a checkpoint must be signed to have been signed again, and not only later than by others for the same
/// request.
fn again_after(reissue_after: Duration) -> Duration {
    let half = reissue_after.as_secs().div_ceil(2);
    Duration::from_secs(half.min(SIGNED_AGAIN_SECONDS))
}

const BUSY_ONE_IN: u32 = 4;
const CLOSEST: Duration = Duration::from_millis(20);
const FARTHEST: Duration = Duration::from_secs(1);
/// When an idle log signs again by default.
pub(crate) const REISSUE_AFTER: Duration = Duration::from_secs(600);
const RETRY_AFTER: Duration = Duration::from_millis(250);
const LEARN_AGAIN_AFTER: Duration = Duration::from_secs(1);
const COSIGN_WITHIN: Duration = Duration::from_secs(5);
/// What co-signers get beyond the quorum, so that checkpoints usually carry all signatures.
const STRAGGLERS: Duration = Duration::from_millis(30);
const TELL_WITHIN: Duration = Duration::from_secs(3);
/// How long to wait for the own replica to apply what another node has published.
const CATCH_UP: Duration = Duration::from_secs(2);
/// A checkpoint of the same size with co-signatures so much later is a new one.
const SIGNED_AGAIN_SECONDS: u64 = 60;
/// How long a follower waits to be told of a checkpoint before it asks.
const SOON: Duration = Duration::from_millis(500);
/// How long a caller waits for a checkpoint that covers its leaf.
const RECEIPT_WITHIN: Duration = Duration::from_secs(20);
