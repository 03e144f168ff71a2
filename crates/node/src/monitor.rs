//! Watching a log (I4): every signed checkpoint that comes by, or that others show, is compared with what
//! this node knows. A contradiction becomes a proof, and the proof an alarm.

use crate::{
    alarms::{Alarm, AlarmKind, Alarms},
    files::{self, Mode},
    membership::Believed,
    sources::Sources,
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    AddCheckpoint, Checkpoint, ConsistencyProof, Equivocated, Equivocation, LeafIndex, Read,
    SignedNote, State, VerifierKey,
};
use medanchor_dag::{Hash, SigningKey, sha256};
use medanchor_raft::Replica;
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Watches one log.
pub(crate) struct Monitor {
    believed: Believed,
    /// A member has the tree; an outside witness has not, and can compare checkpoints of one size alone.
    tree: Option<OwnTree>,
    sources: Sources,
    alarms: Arc<Alarms>,
    known: Mutex<Known>,
    /// Where `known` is kept.
    folder: PathBuf,
}

/// What a monitor is made of.
pub(crate) struct MonitorParts {
    pub(crate) believed: Believed,
    pub(crate) tree: Option<OwnTree>,
    pub(crate) sources: Sources,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) folder: PathBuf,
}

/// A member's own copy of the log, and the key with which it can say what is in it.
pub(crate) struct OwnTree {
    pub(crate) replica: Arc<Replica>,
    pub(crate) log_key: SigningKey,
}

/// What this node knows of a signed checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is what this node's own replica computed; without one, nothing speaks against it.
    True,
    /// It contradicts that.
    False,
    /// This replica has not applied that many leaves yet. It is looked at again.
    Ahead,
}

/// The other half of every proof: notes that were found true. With the tree, which is durable, the newest by
/// each log key is all it takes: an older checkpoint is a prefix of it.
#[derive(Default)]
struct Known {
    newest: BTreeMap<String, Kept>,
    /// Signed notes of more leaves than this replica has.
    ahead: Vec<SignedNote>,
}

struct Kept {
    checkpoint: Checkpoint,
    note: SignedNote,
    saved: bool,
}

impl Monitor {
    pub(crate) fn open(parts: MonitorParts) -> Result<Self> {
        let MonitorParts {
            believed,
            tree,
            sources,
            alarms,
            folder,
        } = parts;
        files::create_folder(&folder)?;
        let mut known = Known::default();
        for key in believed.epochs().current().logs() {
            let path = folder.join(file_name(key));
            if path.exists() {
                let text = files::read_text(&path, SignedNote::MAX_BYTES as u64)?;
                let note = SignedNote::parse(&text);
                let note = note.with_context(|| format!("parse `{}`", path.display()))?;
                known.remember(key, &note.text().parse()?, &note, true);
            }
        }
        Ok(Self {
            believed,
            tree,
            sources,
            alarms,
            known: Mutex::new(known),
            folder,
        })
    }

    /// Looks at what others show, every few seconds, until `stop`.
    pub(crate) async fn poll_task(self: Arc<Self>, stop: CancellationToken) {
        let work = async {
            loop {
                sleep(jittered()).await;
                self.poll().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => (),
            () = work => (),
        }
    }

    /// Looks at what others show now.
    pub(crate) async fn poll(&self) {
        for (name, note) in self.sources.newest().await {
            if let Err(error) = self.judge(&note, Duration::ZERO).await {
                tracing::warn!("the checkpoint that `{name}` shows is refused: {error:#}");
            }
        }
        let ahead = std::mem::take(&mut self.known().ahead);
        for note in ahead {
            if let Err(error) = self.judge(&note, Duration::ZERO).await {
                tracing::warn!("a checkpoint could not be judged: {error:#}");
            }
        }
        if let Err(error) = self.save() {
            tracing::warn!("checkpoints could not be kept: {error:#}");
        }
    }

    /// Compares a signed checkpoint with what this node knows, and raises an alarm when it is false. A
    /// replica that is behind is waited for.
    ///
    /// # Errors
    ///
    /// When it is no checkpoint of this log, no listed log key has signed it, or the replica fails.
    pub(crate) async fn judge(&self, note: &SignedNote, wait: Duration) -> Result<Judgement> {
        let checkpoint: Checkpoint = note.text().parse()?;
        let signers = self.log_signers(note, &checkpoint)?;
        let Some(tree) = &self.tree else {
            return Ok(self.compare(&checkpoint, note, &signers).await);
        };
        match tree.root(checkpoint.size, wait).await? {
            None => {
                self.known().postpone(note);
                Ok(Judgement::Ahead)
            }
            Some(root) if root == checkpoint.root => {
                self.remember(&signers, &checkpoint, note);
                Ok(Judgement::True)
            }
            Some(root) => {
                self.accuse(tree, note, &checkpoint, root).await?;
                Ok(Judgement::False)
            }
        }
    }

    /// What a witness without a tree can show of a checkpoint that does not extend `last`, the one it co-signed
    /// last: by the proof that came with it, its tree may have been another one.
    pub(crate) async fn compare_growth(&self, last: &SignedNote, request: &AddCheckpoint) {
        let (Ok(before), Ok(after)) = (last.text().parse::<Checkpoint>(), request.checkpoint())
        else {
            return;
        };
        let old_root = request.proof.old_root(before.size, after.size, &after.root);
        let Some(root) = old_root.filter(|root| *root != before.root) else {
            return;
        };
        let (proof, note) = (request.proof.clone(), request.note.clone());
        if let Ok(proof) = Equivocation::of_roots(last.clone(), root, proof, note) {
            self.raise(last, &proof).await;
        }
    }

    /// The log keys that signed it, of those in force for its size. One that is retired by now accuses nobody:
    /// whoever got hold of it could sign anything.
    fn log_signers(&self, note: &SignedNote, of: &Checkpoint) -> Result<Vec<VerifierKey>> {
        anyhow::ensure!(of.origin == self.sources.origin, "it is of another log");
        let epochs = self.believed.epochs();
        let in_force = |key: &&VerifierKey| epochs.current().logs().any(|now| now == *key);
        let logs = epochs.at(of.size).logs().filter(in_force);
        let signers = note.signers(logs.filter(|key| key.name() == of.origin))?;
        anyhow::ensure!(!signers.is_empty(), "no listed log key has signed it");
        Ok(signers
            .into_iter()
            .map(|signer| signer.key.clone())
            .collect())
    }

    /// Leaves of the own tree that changed the policy, in order; none without a tree.
    pub(crate) fn policy_changes(&self) -> Result<Vec<LeafIndex>> {
        let Some(tree) = &self.tree else {
            return Ok(Vec::new());
        };
        let view = tree.replica.view()?;
        Ok(State::new(view.as_ref()).policy_changes()?)
    }

    /// Without a tree: no two checkpoints of one size may have different roots.
    async fn compare(
        &self,
        checkpoint: &Checkpoint,
        note: &SignedNote,
        signers: &[VerifierKey],
    ) -> Judgement {
        let other = self.known().contradicting(checkpoint);
        let Some((other, root)) = other else {
            self.remember(signers, checkpoint, note);
            return Judgement::True;
        };
        let proof = ConsistencyProof(Vec::new());
        if let Ok(proof) = Equivocation::of_roots(note.clone(), root, proof, other) {
            self.raise(note, &proof).await;
        }
        Judgement::False
    }

    /// Proves that a checkpoint is false, with the notes that name most of those who signed for both.
    async fn accuse(
        &self,
        tree: &OwnTree,
        note: &SignedNote,
        checkpoint: &Checkpoint,
        root: Hash,
    ) -> Result<()> {
        let origin = &checkpoint.origin;
        let subject = note.text().as_bytes();
        if self.alarms.knows(AlarmKind::Equivocation, origin, subject) {
            return Ok(());
        }
        // Whoever led may have shown others another log, too.
        tree.replica.compare_heads();
        let mut proof = self.best_proof(tree, note, checkpoint, root)?;
        if proof
            .as_ref()
            .is_none_or(|(_, shown)| shown.signed_both.is_empty())
        {
            self.learn(tree).await;
            proof = self.best_proof(tree, note, checkpoint, root)?;
        }
        let proof = match proof {
            Some((proof, _)) => proof,
            None => tree.own_word(note, checkpoint, root)?,
        };
        self.raise(note, &proof).await;
        Ok(())
    }

    /// The best proof that the notes known to be true make.
    fn best_proof(
        &self,
        tree: &OwnTree,
        note: &SignedNote,
        checkpoint: &Checkpoint,
        root: Hash,
    ) -> Result<Option<(Equivocation, Equivocated)>> {
        let candidates: Vec<(u64, SignedNote)> = self
            .known()
            .newest
            .values()
            .filter(|kept| kept.checkpoint.size >= checkpoint.size)
            .map(|kept| (kept.checkpoint.size, kept.note.clone()))
            .collect();
        let mut proofs = Vec::new();
        for (size, other) in candidates {
            let proof = tree.consistency(checkpoint.size, size)?;
            let proof = Equivocation::of_roots(note.clone(), root, proof, other)?;
            match proof.verify(&*self.believed.epochs()) {
                Ok(shown) => proofs.push((proof, shown)),
                Err(error) => tracing::warn!("a kept checkpoint is of no use: {error}"),
            }
        }
        proofs.sort_by_key(|(_, shown)| Reverse(shown.signed_both.len()));
        Ok(proofs.into_iter().next())
    }

    /// Takes true checkpoints from the others, and looks no further at any others.
    async fn learn(&self, tree: &OwnTree) {
        for (_, note) in self.sources.newest().await {
            let Ok(checkpoint) = note.text().parse::<Checkpoint>() else {
                continue;
            };
            let Ok(signers) = self.log_signers(&note, &checkpoint) else {
                continue;
            };
            let own = tree.root(checkpoint.size, Duration::ZERO).await;
            if own.is_ok_and(|own| own == Some(checkpoint.root)) {
                self.remember(&signers, &checkpoint, &note);
            }
        }
    }

    async fn raise(&self, note: &SignedNote, proof: &Equivocation) {
        let shown = match proof.verify(&*self.believed.epochs()) {
            Ok(shown) => shown,
            Err(error) => {
                tracing::error!("a false checkpoint could not be proved to be so: {error}");
                return;
            }
        };
        let alarm = Alarm {
            kind: AlarmKind::Equivocation,
            origin: self.sources.origin.clone(),
            subject: note.text().as_bytes().to_vec(),
            details: in_words(&shown),
            evidence: proof.to_string().into_bytes(),
        };
        self.alarms.raise(alarm).await;
    }

    fn remember(&self, signers: &[VerifierKey], checkpoint: &Checkpoint, note: &SignedNote) {
        let mut known = self.known();
        for key in signers {
            known.remember(key, checkpoint, note, false);
        }
    }

    fn save(&self) -> Result<()> {
        let unsaved: Vec<(String, String)> = {
            let mut known = self.known();
            let unsaved = known.newest.iter_mut().filter(|(_, kept)| !kept.saved);
            let unsaved = unsaved.map(|(name, kept)| {
                kept.saved = true;
                (name.clone(), kept.note.to_string())
            });
            unsaved.collect()
        };
        for (name, note) in unsaved {
            files::replace(&self.folder.join(&name), Mode::Public, note.as_bytes())
                .with_context(|| format!("write `{name}`"))?;
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnTree {
    /// The root that this replica computed for `size` leaves, once it has that many.
    async fn root(&self, size: u64, wait: Duration) -> Result<Option<Hash>> {
        let mut watch = self.replica.watch();
        let enough = watch.wait_for(|status| status.tree_size >= size);
        if timeout(wait, enough).await.is_err() {
            return Ok(None);
        }
        let view = self.replica.view()?;
        Ok(Some(State::new(view.as_ref()).root_at(size)?))
    }

    fn consistency(&self, old: u64, new: u64) -> Result<ConsistencyProof> {
        let view = self.replica.view()?;
        Ok(State::new(view.as_ref()).consistency_proof(old, new)?)
    }

    /// When nobody else has signed for the truth: this node does, with its organisation's log key.
    fn own_word(&self, note: &SignedNote, of: &Checkpoint, root: Hash) -> Result<Equivocation> {
        let truth = Checkpoint { root, ..of.clone() };
        let (proof, truth) = (ConsistencyProof(Vec::new()), truth.sign(&self.log_key)?);
        Ok(Equivocation::of_roots(note.clone(), root, proof, truth)?)
    }
}

impl Known {
    fn remember(
        &mut self,
        key: &VerifierKey,
        checkpoint: &Checkpoint,
        note: &SignedNote,
        saved: bool,
    ) {
        let rank = |of: &Checkpoint, note: &SignedNote| (of.size, note.signatures().len());
        let name = file_name(key);
        let old = self.newest.get(&name);
        let newer = |old: &Kept| rank(&old.checkpoint, &old.note) < rank(checkpoint, note);
        if old.is_none_or(newer) {
            let kept = Kept {
                checkpoint: checkpoint.clone(),
                note: note.clone(),
                saved,
            };
            self.newest.insert(name, kept);
        }
    }

    fn postpone(&mut self, note: &SignedNote) {
        let known = self.ahead.iter().any(|ahead| ahead.text() == note.text());
        if !known && self.ahead.len() < MAX_AHEAD {
            self.ahead.push(note.clone());
        }
    }

    fn contradicting(&self, checkpoint: &Checkpoint) -> Option<(SignedNote, Hash)> {
        let contradicts =
            |of: &Checkpoint| of.size == checkpoint.size && of.root != checkpoint.root;
        let mut kept = self.newest.values();
        let kept = kept.find(|kept| contradicts(&kept.checkpoint))?;
        Some((kept.note.clone(), kept.checkpoint.root))
    }
}

/// One sentence of who did what.
fn in_words(shown: &Equivocated) -> String {
    let [first, second] = shown.checkpoints.each_ref().map(|c| c.size);
    let sizes = format!("checkpoints of {first} and {second} leaves cannot both be true");
    let names = |keys: &[VerifierKey]| {
        let names = keys
            .iter()
            .map(|key| format!("`{}+{:08x}`", key.name(), key.id()));
        names.collect::<Vec<_>>().join(", ")
    };
    if shown.signed_both.is_empty() {
        let (first, second) = (names(&shown.signed_first), names(&shown.signed_second));
        format!("{sizes}: {first} signed the first, {second} the second")
    } else {
        format!("{sizes}: {} signed both", names(&shown.signed_both))
    }
}

fn file_name(key: &VerifierKey) -> String {
    hex::encode(sha256(key.to_string().as_bytes()))
}

/// Nodes do not all ask at the same moment.
fn jittered() -> Duration {
    let mut byte = [0];
    // Without randomness they do, which is no harm.
    let _ = getrandom::fill(&mut byte);
    let [byte] = byte;
    POLL_EVERY + POLL_JITTER * u32::from(byte) / 256
}

const POLL_EVERY: Duration = Duration::from_secs(3);
const POLL_JITTER: Duration = Duration::from_secs(3);
/// Signed checkpoints of more leaves than this replica has: a liar can make any number of them.
const MAX_AHEAD: usize = 64;
