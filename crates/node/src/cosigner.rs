//! Co-signing checkpoints (C2SP tlog-witness, tlog-cosignature): never two that contradict each other (I4).

use crate::{
    alarms::{Alarm, AlarmKind, Alarms},
    clock,
    files::{self, Mode},
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    AddCheckpoint, AddCheckpointError, BoxError, Checkpoint, NoteSignature, Read, Seen,
    SignatureKind, SignedNote, State, VerifierKey, cosign,
};
use medanchor_dag::{Hash, SigningKey, sha256};
use medanchor_raft::Replica;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Co-signs the checkpoints of one log.
pub(crate) struct Cosigner {
    verifier: VerifierKey,
    key: SigningKey,
    log_keys: Vec<VerifierKey>,
    seen: Mutex<SeenFile>,
    /// A member co-signs only what its own replica computed; an outside witness has none.
    replica: Option<Arc<Replica>>,
    alarms: Arc<Alarms>,
}

/// Why a checkpoint is not co-signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CosignError {
    /// It must not be, or not like this.
    #[error(transparent)]
    Refused(#[from] AddCheckpointError),
    /// Nothing of this log is co-signed until an operator has looked into an alarm.
    #[error("nothing is co-signed until alarm `{0}` is acknowledged")]
    Stopped(String),
    /// It cannot be just now.
    #[error("this co-signer cannot sign now")]
    Failed(#[source] BoxError),
}

impl Cosigner {
    pub(crate) fn open(
        folder: &Path,
        origin: &str,
        name: &str,
        key: SigningKey,
        log_keys: Vec<VerifierKey>,
        replica: Option<Arc<Replica>>,
        alarms: Arc<Alarms>,
    ) -> Result<Self> {
        Ok(Self {
            verifier: VerifierKey::new(name, SignatureKind::Cosignature, key.did())
                .context("name the co-signing key")?,
            key,
            log_keys,
            seen: Mutex::new(SeenFile::open(folder, origin)?),
            replica,
            alarms,
        })
    }

    /// Answers a tlog-witness `add-checkpoint` request with a co-signature.
    pub(crate) async fn add_checkpoint(
        self: &Arc<Self>,
        request: AddCheckpoint,
    ) -> Result<NoteSignature, CosignError> {
        let decided = request.decide(self.seen_file().seen.as_ref(), &self.log_keys);
        match decided {
            // Only what a member has signed is worth a wait, and can accuse it.
            Ok(_) | Err(AddCheckpointError::Inconsistent) => self.check_own_root(&request).await?,
            Err(error) => return Err(error.into()),
        }
        let cosigner = Arc::clone(self);
        tokio::task::spawn_blocking(move || cosigner.check_and_sign(&request))
            .await
            .map_err(|error| CosignError::Failed(error.into()))?
    }

    /// Cancelled when the record of what it signed could not be written: the node must stop.
    pub(crate) fn failed(&self) -> CancellationToken {
        self.seen_file().failed.clone()
    }

    /// The key that its co-signatures verify with.
    pub(crate) fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Size of the checkpoint that it co-signed last.
    pub(crate) fn last_size(&self) -> u64 {
        self.seen_file().seen.map_or(0, |seen| seen.size)
    }

    fn check_and_sign(&self, request: &AddCheckpoint) -> Result<NoteSignature, CosignError> {
        let failed = |error: BoxError| CosignError::Failed(error);
        if let Some(alarm) = self.alarms.stop(&request.checkpoint()?.origin) {
            return Err(CosignError::Stopped(alarm));
        }
        let mut file = self.seen_file();
        let seen = request.decide(file.seen.as_ref(), &self.log_keys)?;
        // Commit point: from here this node never signs anything that contradicts this checkpoint.
        file.advance(seen).map_err(|error| failed(error.into()))?;
        let time = clock::unix_ms() / 1000;
        cosign(&request.note, self.verifier.name(), &self.key, time)
            .map_err(|error| failed(error.into()))
    }

    /// A member signs only what its own replica computed, and says so loudly when that is something else.
    async fn check_own_root(&self, request: &AddCheckpoint) -> Result<(), CosignError> {
        let Some(replica) = &self.replica else {
            return Ok(());
        };
        let proposed = request.checkpoint()?;
        let own = own_root(replica, proposed.size).await;
        match own.map_err(|error| CosignError::Failed(error.into()))? {
            Some(root) if root == proposed.root => Ok(()),
            Some(_) => {
                self.alarms
                    .raise(contradiction(&proposed, &request.note))
                    .await;
                Err(AddCheckpointError::Inconsistent.into())
            }
            None => Err(CosignError::Failed(
                "this replica has not applied that many leaves yet".into(),
            )),
        }
    }

    fn seen_file(&self) -> std::sync::MutexGuard<'_, SeenFile> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That a note, which a log key has signed, contradicts this node's own replica.
pub(crate) fn contradiction(checkpoint: &Checkpoint, note: &SignedNote) -> Alarm {
    Alarm {
        kind: AlarmKind::Contradiction,
        origin: checkpoint.origin.clone(),
        subject: note.text().as_bytes().to_vec(),
        details: format!(
            "a signed checkpoint of {} leaves has another root than this node's own replica",
            checkpoint.size
        ),
        evidence: note.to_string().into_bytes(),
    }
}

/// The root that this replica computed for `size` leaves, once it has that many.
pub(crate) async fn own_root(replica: &Replica, size: u64) -> Result<Option<Hash>> {
    let mut watch = replica.watch();
    let enough = watch.wait_for(|status| status.tree_size >= size);
    if tokio::time::timeout(CATCH_UP, enough).await.is_err() {
        return Ok(None);
    }
    let view = replica.view()?;
    Ok(Some(State::new(view.as_ref()).root_at(size)?))
}

/// What was signed last, in a file that is fsynced before a signature leaves. Its absence is an error:
/// a co-signer that forgot what it signed could sign a fork.
pub(crate) struct SeenFile {
    path: PathBuf,
    seen: Option<Seen>,
    /// Cancelled when a write failed.
    failed: CancellationToken,
}

impl SeenFile {
    /// For a log that was never signed.
    pub(crate) fn create(folder: &Path, origin: &str) -> Result<()> {
        files::create_folder(folder)?;
        files::create(&path(folder, origin), Mode::Public, text(None).as_bytes())
    }

    fn open(folder: &Path, origin: &str) -> Result<Self> {
        let path = path(folder, origin);
        let text = files::read_text(&path, 256).context(
            "without the record of what this node has co-signed it must not co-sign again; restore it \
             from a backup",
        )?;
        let seen = parse(&text).with_context(|| format!("parse `{}`", path.display()))?;
        Ok(Self {
            path,
            seen,
            failed: CancellationToken::new(),
        })
    }

    /// After a failure nobody knows which record is on the disk. A second try might say that it is there when
    /// it is not, so there is none: whoever holds [`SeenFile::failed`] must stop.
    fn advance(&mut self, seen: Seen) -> std::io::Result<()> {
        if self.failed.is_cancelled() {
            return Err(std::io::Error::other("an earlier write failed"));
        }
        if self.seen != Some(seen) {
            let text = text(Some(&seen));
            let replaced = files::replace(&self.path, Mode::Public, text.as_bytes());
            replaced.inspect_err(|_| self.failed.cancel())?;
            self.seen = Some(seen);
        }
        Ok(())
    }
}

fn path(folder: &Path, origin: &str) -> PathBuf {
    folder.join(hex::encode(sha256(origin.as_bytes())))
}

fn text(seen: Option<&Seen>) -> String {
    match seen {
        Some(seen) => format!("{MAGIC}\n{}\n{}\n", seen.size, seen.root),
        None => format!("{MAGIC}\nnothing\n"),
    }
}

fn parse(text: &str) -> Result<Option<Seen>> {
    let lines: Vec<&str> = text.lines().collect();
    match lines.as_slice() {
        [MAGIC, "nothing"] => Ok(None),
        [MAGIC, size, root] => Ok(Some(Seen {
            size: size.parse().context("size")?,
            root: root.parse().context("root")?,
        })),
        _ => anyhow::bail!("not a `{MAGIC}` file"),
    }
}

const MAGIC: &str = "cosigned-1";
/// How long to wait for the own replica to apply what another node has published.
const CATCH_UP: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_signed_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        SeenFile::create(folder.path(), "example.org/log").unwrap();
        let mut file = SeenFile::open(folder.path(), "example.org/log").unwrap();
        assert_eq!(file.seen, None);
        let seen = Seen {
            size: 7,
            root: Hash::of(b"root"),
        };
        file.advance(seen).unwrap();
        let file = SeenFile::open(folder.path(), "example.org/log").unwrap();
        assert_eq!(file.seen, Some(seen));
    }

    #[test]
    fn after_a_failed_write_nothing_is_signed_any_more() {
        let folder = tempfile::tempdir().unwrap();
        SeenFile::create(folder.path(), "example.org/log").unwrap();
        let mut file = SeenFile::open(folder.path(), "example.org/log").unwrap();
        let seen = |size| Seen {
            size,
            root: Hash::of(b"root"),
        };
        // The new record has no place to be written to.
        let obstacle = file.path.with_extension("new");
        std::fs::create_dir(&obstacle).unwrap();
        file.advance(seen(7)).unwrap_err();
        assert!(file.failed.is_cancelled());
        std::fs::remove_dir(&obstacle).unwrap();
        file.advance(seen(7)).unwrap_err();
        let file = SeenFile::open(folder.path(), "example.org/log").unwrap();
        assert_eq!(file.seen, None);
    }

    #[test]
    fn absence_of_the_record_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(SeenFile::open(folder.path(), "example.org/log").is_err());
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}
