//! Co-signing checkpoints (C2SP tlog-witness, tlog-cosignature): never two that contradict each other (I4).

use crate::{
    alarms::Alarms,
    clock,
    files::{self, Mode},
    membership::{Believed, member_keys},
    monitor::{Judgement, Monitor},
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    AddCheckpoint, AddCheckpointError, BoxError, Checkpoint, NoteSignature, Seen, SignatureKind,
    SignedNote, VerifierKey, cosign,
};
use medanchor_dag::{SigningKey, sha256};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Co-signs the checkpoints of one log.
pub(crate) struct Cosigner {
    origin: String,
    verifier: VerifierKey,
    key: SigningKey,
    believed: Believed,
    follows: Follows,
    /// Held while a signature is made and its record fsynced, so by threads that may block alone.
    signing: Mutex<SeenFile>,
    /// What was recorded last, for whoever may not block.
    last: Mutex<Option<Arc<Cosigned>>>,
    /// Cancelled when a record could not be written.
    failed: CancellationToken,
    monitor: Arc<Monitor>,
    alarms: Arc<Alarms>,
}

/// What a co-signer is made of.
pub(crate) struct CosignerParts {
    /// The log's.
    pub(crate) origin: String,
    /// The co-signer's own, under which it signs.
    pub(crate) name: String,
    pub(crate) key: SigningKey,
    pub(crate) believed: Believed,
    pub(crate) follows: Follows,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) alarms: Arc<Alarms>,
    /// To be cancelled when the record of what was signed cannot be written: the node must stop.
    pub(crate) failed: CancellationToken,
}

/// What a co-signer goes by, besides a log key's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// Its own tree, or, of a log of others, nothing.
    Itself,
    /// A majority of the members: see [`Endorsers`].
    Members,
}

/// Whose co-signatures a checkpoint must bear before this co-signer adds its own.
///
/// An outside witness of a network has no replica. If a log key were enough, whoever has one could have it
/// sign a log of their own, after which it could never sign the true one. So it follows the members: a
/// majority of them must have signed, as a majority must run for the log to grow at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endorsers {
    keys: Vec<VerifierKey>,
    needed: usize,
}

/// Why a checkpoint is not co-signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CosignError {
    /// It must not be, or not like this.
    #[error(transparent)]
    Refused(#[from] AddCheckpointError),
    /// Too few members of the network have co-signed it.
    #[error("{found} members have co-signed the checkpoint, {needed} are needed")]
    NotEndorsed {
        /// Members that have.
        found: usize,
        /// The fewest that are enough.
        needed: usize,
    },
    /// Nothing of this log is co-signed until an operator has looked into an alarm.
    #[error("nothing is co-signed until alarm `{0}` is acknowledged")]
    Stopped(String),
    /// It cannot be just now.
    #[error("this co-signer cannot sign now")]
    Failed(#[source] BoxError),
}

impl Endorsers {
    /// A majority of these keys.
    pub(crate) fn majority_of(keys: Vec<VerifierKey>) -> Self {
        let needed = keys.len() / 2 + 1;
        Self { keys, needed }
    }

    /// How many of them are needed.
    pub(crate) fn needed(&self) -> usize {
        self.needed
    }

    /// How many of them have signed.
    pub(crate) fn count(&self, note: &SignedNote) -> usize {
        let signers = note.signers(&self.keys).unwrap_or_default();
        let mut keys: Vec<_> = signers.iter().map(|signer| signer.key.key()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    }

    fn check(&self, note: &SignedNote) -> Result<(), CosignError> {
        let (found, needed) = (self.count(note), self.needed);
        if found < needed {
            return Err(CosignError::NotEndorsed { found, needed });
        }
        Ok(())
    }
}

impl Cosigner {
    /// Reads what was co-signed of the log before, in `folder`.
    pub(crate) fn open(folder: &Path, parts: CosignerParts) -> Result<Self> {
        let kind = SignatureKind::Cosignature;
        let verifier = VerifierKey::new(&parts.name, kind, parts.key.did())
            .context("name the co-signing key")?;
        let failed = parts.failed.clone();
        let file = SeenFile::open(folder, &parts.origin, &verifier, parts.failed)?;
        Ok(Self {
            origin: parts.origin,
            verifier,
            key: parts.key,
            believed: parts.believed,
            follows: parts.follows,
            last: Mutex::new(file.last.clone()),
            signing: Mutex::new(file),
            failed,
            monitor: parts.monitor,
            alarms: parts.alarms,
        })
    }

    /// Answers a tlog-witness `add-checkpoint` request with a co-signature.
    pub(crate) async fn add_checkpoint(
        self: &Arc<Self>,
        request: AddCheckpoint,
    ) -> Result<NoteSignature, CosignError> {
        let decided = self.decide(&request);
        match decided {
            // Only what a log key has signed is worth a wait, and can accuse it.
            Ok(_) => self.judge(&request).await?,
            Err(CosignError::Refused(AddCheckpointError::Inconsistent)) => {
                self.judge(&request).await?;
                let last = self.last_note();
                if let Some(last) = last {
                    self.monitor.compare_growth(&last, &request).await;
                }
                return Err(AddCheckpointError::Inconsistent.into());
            }
            Err(error) => return Err(error),
        }
        let cosigner = Arc::clone(self);
        tokio::task::spawn_blocking(move || cosigner.check_and_sign(&request))
            .await
            .map_err(|error| CosignError::Failed(error.into()))?
    }

    /// Cancelled when the record of what it signed could not be written: the node must stop.
    pub(crate) fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// The log's origin.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// The key that its co-signatures verify with.
    pub(crate) fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Size of the checkpoint that it co-signed last.
    pub(crate) fn last_size(&self) -> u64 {
        self.last().map_or(0, |last| last.seen.size)
    }

    /// The checkpoint that it co-signed last, with its signature.
    pub(crate) fn last_note(&self) -> Option<SignedNote> {
        self.last().map(|last| last.note.clone())
    }

    fn decide(&self, request: &AddCheckpoint) -> Result<Seen, CosignError> {
        let (log_keys, endorsers) = self.keys_for(request.checkpoint()?.size);
        let seen = self.last().map(|last| last.seen);
        let decided = request.decide(seen.as_ref(), &log_keys);
        match decided {
            // It bears the signature of a log key: is it the members' word too?
            Ok(_) | Err(AddCheckpointError::Conflict(_) | AddCheckpointError::Inconsistent) => {
                endorsers.check(&request.note)?;
            }
            Err(_) => (),
        }
        Ok(decided?)
    }

    /// Whose signatures count on a checkpoint of `size` leaves.
    fn keys_for(&self, size: u64) -> (Vec<VerifierKey>, Endorsers) {
        let epochs = self.believed.epochs();
        let policy = epochs.at(size);
        let endorsers = match self.follows {
            Follows::Itself => Endorsers::default(),
            Follows::Members => Endorsers::majority_of(member_keys(policy, &self.origin)),
        };
        (policy.logs().cloned().collect(), endorsers)
    }

    /// A change of the policy is published under the policy before it, with a checkpoint that ends at its leaf.
    /// Whoever signs a later one has that on disk: so it cannot get lost.
    fn check_changes(&self, size: u64) -> Result<(), CosignError> {
        let changes = self.monitor.policy_changes();
        let changes = changes.map_err(|error| CosignError::Failed(error.into()))?;
        let published = self.believed.epochs().current_after();
        let next = changes.into_iter().find(|index| *index >= published);
        match next.filter(|index| size > index + 1) {
            None => Ok(()),
            Some(index) => Err(CosignError::Failed(
                format!(
                    "it is not known here that the change of policy in leaf {index} was published"
                )
                .into(),
            )),
        }
    }

    /// Signs nothing that this node knows to be false, and says so loudly.
    async fn judge(&self, request: &AddCheckpoint) -> Result<(), CosignError> {
        let failed = |error: anyhow::Error| CosignError::Failed(error.into());
        let judged = self.monitor.judge(&request.note, CATCH_UP).await;
        match judged.map_err(failed)? {
            Judgement::True => Ok(()),
            Judgement::False => Err(AddCheckpointError::Inconsistent.into()),
            Judgement::Ahead => Err(CosignError::Failed(
                "this replica has not applied that many leaves yet".into(),
            )),
        }
    }

    fn check_and_sign(&self, request: &AddCheckpoint) -> Result<NoteSignature, CosignError> {
        let failed = |error: BoxError| CosignError::Failed(error);
        if let Some(alarm) = self.alarms.stop(&self.origin) {
            return Err(CosignError::Stopped(alarm));
        }
        let size = request.checkpoint()?.size;
        self.check_changes(size)?;
        let (log_keys, endorsers) = self.keys_for(size);
        let mut file = self.signing.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = request.decide(file.seen().as_ref(), &log_keys)?;
        let at_unix_seconds = file.time(clock::unix_ms() / 1000);
        let name = self.verifier.name();
        let signature = cosign(&request.note, name, &self.key, at_unix_seconds)
            .map_err(|error| failed(error.into()))?;
        let mut note = request.note.clone();
        note.retain(log_keys.iter().chain(&endorsers.keys));
        note.add(signature.clone())
            .map_err(|error| failed(error.into()))?;
        let cosigned = Cosigned {
            seen,
            at_unix_seconds,
            note,
        };
        // Commit point: from here this node never signs anything that contradicts this checkpoint. The
        // signature leaves after it.
        file.advance(cosigned)
            .map_err(|error| failed(error.into()))?;
        #[cfg(medanchor_fault)]
        medanchor_raft::fault_step("cosignature-recorded");
        *self.locked_last() = file.last.clone();
        Ok(signature)
    }

    fn last(&self) -> Option<Arc<Cosigned>> {
        self.locked_last().clone()
    }

    /// Never held for longer than a copy takes.
    fn locked_last(&self) -> MutexGuard<'_, Option<Arc<Cosigned>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As a slow disk does it.
    #[cfg(test)]
    pub(crate) fn hold_signing(&self) -> MutexGuard<'_, SeenFile> {
        self.signing.lock().unwrap()
    }
}

/// What was signed last, in a file that is fsynced before a signature leaves: the checkpoint itself, as the
/// monitoring endpoint shows it. Its absence is an error: a co-signer that forgot what it signed could sign a
/// fork.
pub(crate) struct SeenFile {
    path: PathBuf,
    last: Option<Arc<Cosigned>>,
    /// Cancelled when a write failed.
    failed: CancellationToken,
}

/// A checkpoint that was co-signed.
#[derive(Debug, PartialEq, Eq)]
struct Cosigned {
    seen: Seen,
    at_unix_seconds: u64,
    note: SignedNote,
}

impl SeenFile {
    /// For a log that was never signed.
    pub(crate) fn create(folder: &Path, origin: &str) -> Result<()> {
        files::create_folder(folder)?;
        files::create(&path(folder, origin), Mode::Public, NOTHING.as_bytes())
    }

    fn open(
        folder: &Path,
        origin: &str,
        by: &VerifierKey,
        failed: CancellationToken,
    ) -> Result<Self> {
        let path = path(folder, origin);
        let text = files::read_text(&path, SignedNote::MAX_BYTES as u64).with_context(|| {
            format!(
                "without the record of what this node has co-signed of `{origin}` it must not co-sign \
                 again; restore it from a backup, or, if it has never co-signed that log, run \
                 `medanchord witness-log`"
            )
        })?;
        let last = parse(&text, origin, by);
        let last = last.with_context(|| format!("parse `{}`", path.display()))?;
        Ok(Self {
            path,
            last: last.map(Arc::new),
            failed,
        })
    }

    fn seen(&self) -> Option<Seen> {
        self.last.as_ref().map(|last| last.seen)
    }

    /// The time to sign at, unix seconds: now, but never before the last signature. Each says which tree was the
    /// largest at its time; if the clock was set back, an earlier time would contradict what was signed before.
    fn time(&self, now: u64) -> u64 {
        let last = self.last.as_ref().map_or(0, |last| last.at_unix_seconds);
        let behind = last.saturating_sub(now);
        if behind > NOTABLE_SECONDS {
            tracing::warn!(
                "this node's clock stands {behind} s before its last co-signature: it co-signs with the \
                 time of that one until its clock has caught up"
            );
        }
        now.max(last)
    }

    /// After a failure nobody knows which record is on the disk. A second try might say that it is there when
    /// it is not, so there is none: whoever holds [`SeenFile::failed`] must stop.
    fn advance(&mut self, cosigned: Cosigned) -> std::io::Result<()> {
        if self.failed.is_cancelled() {
            return Err(std::io::Error::other("an earlier write failed"));
        }
        let text = cosigned.note.to_string();
        let replaced = files::replace(&self.path, Mode::Public, text.as_bytes());
        replaced.inspect_err(|_| self.failed.cancel())?;
        self.last = Some(Arc::new(cosigned));
        Ok(())
    }
}

fn path(folder: &Path, origin: &str) -> PathBuf {
    folder.join(hex::encode(sha256(origin.as_bytes())))
}

/// The own signature is checked: a file that was damaged, or is of another key, must not decide.
fn parse(text: &str, origin: &str, by: &VerifierKey) -> Result<Option<Cosigned>> {
    if text == NOTHING {
        return Ok(None);
    }
    let note = SignedNote::parse(text)?;
    let Checkpoint {
        origin: of,
        size,
        root,
    } = note.text().parse()?;
    anyhow::ensure!(of == origin, "it is of log `{of}`");
    let signers = note.signers([by])?;
    let at_unix_seconds = signers.iter().find_map(|signer| signer.at_unix_seconds);
    Ok(Some(Cosigned {
        seen: Seen { size, root },
        at_unix_seconds: at_unix_seconds.context("this node has not co-signed it")?,
        note,
    }))
}

/// The whole file of a log that was never signed.
const NOTHING: &str = "cosigned-1\nnothing\n";
/// A clock that is set back by less is in order.
const NOTABLE_SECONDS: u64 = 5;
/// How long to wait for the own replica to apply what another node has published.
const CATCH_UP: Duration = Duration::from_secs(2);
