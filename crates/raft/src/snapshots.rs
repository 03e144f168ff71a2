use crate::alarm::{Alarm, Alarms, log_alarms};
use crate::config::Identity;
use crate::databases::remove;
use crate::error::StoreError;
use crate::snapshot::{SnapshotFile, write_certificate, write_snapshot};
use crate::tables::ReadTables;
use crate::types::{Snapshot, SnapshotMeta};
use medanchor_anchor::{CertificateError, Certifiers, Digested, StateDigest};
use medanchor_dag::Did;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The snapshots of one replica, and what members signed about theirs.
///
/// Every replica makes its snapshots at the same entries ([`is_due`]), and so of the same bytes. The newest
/// that it made waits in a file of its own until enough members have signed the same. Only then does it
/// become the snapshot that is offered to others and that entries of the log may be purged for.
pub(crate) struct Snapshots {
    dir: PathBuf,
    identity: Identity,
    every: u64,
    alarms: Alarms,
    /// One snapshot is written at a time.
    writing: Mutex<()>,
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Default)]
struct Known {
    /// Is to be made.
    due: Option<Due>,
    /// The newest that this replica made, until it is certified.
    made: Option<Snapshot>,
    /// The newest that is certified.
    certified: Option<Snapshot>,
    digests: BTreeMap<Did, Vec<StateDigest>>,
}

/// The state as it was right after an entry at which a snapshot is due.
pub(crate) struct Due {
    pub(crate) view: ReadTables,
    pub(crate) tree_size: u64,
}

/// Whether the state right after the entry at `index` is snapshot. The entry brings the log from `before` to
/// `after` leaves.
///
/// Of entries and leaves together, as many pass between two snapshots as the log has leaves, rounded up to
/// `every` times a power of two. So snapshots cost, all together, a constant share of what they cover, and
/// the log that has to be kept is never much longer than the state.
pub(crate) fn is_due(every: u64, index: u64, before: u64, after: u64) -> bool {
    let step = step(every, before);
    let work = work(index, after);
    index.saturating_add(before) / step != work / step
}

/// Entries and leaves up to and with the entry at `index`.
fn work(index: u64, tree_size: u64) -> u64 {
    index.saturating_add(1).saturating_add(tree_size)
}

fn step(every: u64, tree_size: u64) -> u64 {
    let every = every.max(1);
    let doubled = tree_size.div_ceil(every).checked_next_power_of_two();
    every.saturating_mul(doubled.unwrap_or(u64::MAX))
}

impl Snapshots {
    /// The snapshots in `dir`. A damaged one is of no use: others have it, and another will be made.
    pub(crate) fn open(dir: PathBuf, identity: Identity, every: u64) -> Result<Self, StoreError> {
        remove_unfinished(&dir)?;
        let certified = open_file(&dir.join(CERTIFIED))?;
        let made = open_file(&dir.join(MADE))?;
        let made = made.filter(|made| Some(&made.meta.last_log_id) > last_log_id(&certified));
        let mut known = Known::default();
        for digest in certified.iter().flat_map(|it| it.snapshot.certificate()) {
            known.remember(digest.clone());
        }
        for own in certified.iter().chain(&made) {
            known.remember(identity.sign(own.snapshot.said()));
        }
        (known.made, known.certified) = (made, certified);
        Ok(Self {
            dir,
            identity,
            every,
            alarms: Alarms::new(log_alarms()),
            writing: Mutex::default(),
            known: Mutex::new(known),
            changed: Notify::new(),
        })
    }

    /// Deletes all in `dir`: what follows on them is no longer there.
    pub(crate) fn delete_all(dir: &Path) -> Result<(), StoreError> {
        for name in [CERTIFIED, MADE] {
            remove(&dir.join(name))?;
        }
        Ok(())
    }

    /// Has these told when members contradict each other, instead of the log alone.
    pub(crate) fn telling(self, alarms: Alarms) -> Self {
        Self { alarms, ..self }
    }

    /// The certifiers until the state names them.
    pub(crate) fn founding_certifiers(&self) -> Certifiers {
        Certifiers::founded(&self.identity.origin, &self.identity.joined)
    }

    /// Of how many entries and leaves a snapshot is made while the log is small.
    pub(crate) fn every(&self) -> u64 {
        self.every
    }

    /// Where snapshots are kept.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The newest that is certified. If somebody signed another state at its entry, that is in its
    /// certificate too, so that nobody installs it.
    pub(crate) fn certified(&self) -> Option<Snapshot> {
        let known = self.known();
        let Snapshot { meta, snapshot } = known.certified.clone()?;
        let mut certificate = snapshot.certificate().to_vec();
        certificate.extend(known.contradicting(&snapshot.said()).cloned());
        Some(Snapshot {
            meta,
            snapshot: Box::new(snapshot.certified(certificate)),
        })
    }

    /// Keeps what a snapshot is to be made of. One that was not begun yet is given up for it.
    pub(crate) fn keep(&self, due: Due) {
        self.known().due = Some(due);
        self.changed.notify_one();
    }

    /// Makes the snapshot that is due, and signs it.
    pub(crate) fn make(
        &self,
        make_durable: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let _writing = self.writing();
        let Some(due) = self.known().due.take() else {
            return Ok(());
        };
        // A snapshot must never be ahead of the durable state: a restart would take it for one that was
        // being installed.
        make_durable()?;
        let staged = self.stage()?;
        write_snapshot(&due.view, due.tree_size, staged.as_file())?;
        let (_, content) = SnapshotFile::verify(staged.reopen()?)?;
        let said = content.said();
        let signed = self.identity.sign(said);
        write_certificate(std::slice::from_ref(&signed), said.size, staged.as_file())?;
        #[cfg(medanchor_fault)]
        crate::fault::step("snapshot-written");
        let made = self.publish(staged, MADE)?;
        #[cfg(medanchor_fault)]
        crate::fault::step("snapshot-made");
        tracing::info!(index = said.index, size = said.size, "made a snapshot");
        let mut known = self.known();
        known.remember(signed);
        known.made = Some(made);
        Ok(())
    }

    /// Certifies the snapshot that was made last, if enough members signed the same. Says whether they did.
    pub(crate) fn certify(&self, certifiers: &Certifiers) -> Result<bool, StoreError> {
        let _writing = self.writing();
        let Some((made, certificate)) = self.known().certificate(certifiers) else {
            return Ok(false);
        };
        let said = made.snapshot.said();
        let path = self.dir.join(MADE);
        let file = File::options().write(true).open(&path)?;
        write_certificate(&certificate, said.size, &file)?;
        file.sync_all()?;
        #[cfg(medanchor_fault)]
        crate::fault::step("certificate-written");
        // Commit point: from here this is the snapshot.
        std::fs::rename(&path, self.dir.join(CERTIFIED))?;
        #[cfg(medanchor_fault)]
        crate::fault::step("snapshot-certified");
        File::open(&self.dir)?.sync_all()?;
        let signers = certificate.len();
        tracing::info!(index = said.index, signers, "the snapshot is certified");
        let mut known = self.known();
        known.made = None;
        known.certified = Some(Snapshot {
            snapshot: Box::new(made.snapshot.certified(certificate)),
            ..made
        });
        Ok(true)
    }

    /// Publishes a snapshot that another replica sent, after everything about it was checked.
    pub(crate) fn install(
        &self,
        meta: &SnapshotMeta,
        snapshot: &SnapshotFile,
        certifiers: &Certifiers,
    ) -> Result<Snapshot, StoreError> {
        let said = certifiers.check(snapshot.certificate())?;
        let _writing = self.writing();
        let staged = self.stage()?;
        io::copy(&mut snapshot.content(), &mut staged.as_file())?;
        write_certificate(snapshot.certificate(), said.size, staged.as_file())?;
        let (found, file) = SnapshotFile::verify(staged.reopen()?)?;
        if found != *meta || file.said() != said {
            return Err(StoreError::Snapshot("it is not the one that was signed"));
        }
        #[cfg(medanchor_fault)]
        crate::fault::step("snapshot-received");
        // Commit point: from here a restart finds the new snapshot, and loads it if it is ahead.
        let installed = self.publish(staged, CERTIFIED)?;
        let mut known = self.known();
        (known.due, known.made) = (None, None);
        known.certified = Some(installed.clone());
        Ok(installed)
    }

    /// Whether a snapshot with this certificate may be installed. Raises an alarm when two members signed
    /// different states at its entry.
    pub(crate) fn check(
        &self,
        certificate: &[StateDigest],
        certifiers: &Certifiers,
    ) -> Result<Digested, CertificateError> {
        self.learn(certificate.to_vec(), certifiers);
        let said = certifiers.check(certificate)?;
        let known = self.known();
        let Some(other) = known.contradicting(&said).next() else {
            return Ok(said);
        };
        let by = certificate.first().map_or(&other.node, |first| &first.node);
        let [by, other] = [by, &other.node].map(Did::to_string);
        Err(CertificateError::Conflict(by, other, said.index))
    }

    /// Takes what members signed. Raises an alarm when two of them signed different states.
    pub(crate) fn learn(&self, digests: Vec<StateDigest>, certifiers: &Certifiers) {
        for digest in digests {
            let name = match certifiers.signer(&digest) {
                Ok(name) => name,
                Err(error) => {
                    tracing::warn!(%error, "a state digest does not count");
                    continue;
                }
            };
            let mut known = self.known();
            if !known.remember(digest.clone()) {
                continue;
            }
            for other in known.contradicting(&digest.said()) {
                let other_name = certifiers.signer(other).unwrap_or("a former member");
                self.alarms.raise(Alarm::OtherState {
                    names: Box::new([name.to_owned(), other_name.to_owned()]),
                    digests: Box::new([digest.clone(), other.clone()]),
                });
            }
        }
        self.changed.notify_one();
    }

    /// What other members should know: all about the newest certified snapshot, and about later ones.
    pub(crate) fn to_tell(&self) -> Vec<StateDigest> {
        let known = self.known();
        let from = known.certified.as_ref();
        let from = from.map_or(0, |certified| certified.snapshot.said().index);
        let digests = known.digests.values().flatten();
        digests
            .filter(|digest| digest.index >= from)
            .cloned()
            .collect()
    }

    /// Index of the newest state that this replica signed.
    pub(crate) fn signed(&self) -> Option<u64> {
        let known = self.known();
        let own = known.digests.get(&self.identity.key.did())?;
        own.last().map(|digest| digest.index)
    }

    /// Whether a snapshot that this replica made still waits for others to sign the same.
    pub(crate) fn waits(&self) -> bool {
        self.known().made.is_some()
    }

    /// Whether so much was applied since the last certified snapshot that the log must not grow further.
    pub(crate) fn log_is_full(&self, index: u64, tree_size: u64) -> bool {
        let known = self.known();
        let certified = known.certified.as_ref().map(|it| it.snapshot.said());
        let covered = certified.map_or(0, |said| work(said.index, said.tree_size));
        let kept = work(index, tree_size).saturating_sub(covered);
        kept > step(self.every, tree_size).saturating_mul(MAX_STEPS_KEPT)
    }

    /// Resolves when there may be something to make, to certify or to tell.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn stage(&self) -> Result<tempfile::NamedTempFile, StoreError> {
        let staged = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.dir)?;
        Ok(staged)
    }

    /// Gives a file that was read through its name, once it is durable.
    fn publish(&self, staged: tempfile::NamedTempFile, name: &str) -> Result<Snapshot, StoreError> {
        let (meta, file) = SnapshotFile::open(staged.reopen()?)?;
        staged.as_file().sync_all()?;
        staged
            .persist(self.dir.join(name))
            .map_err(|error| error.error)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(Snapshot {
            meta,
            snapshot: Box::new(file),
        })
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Says whether it is new. Of each member few are kept, so that nobody can fill the memory.
    fn remember(&mut self, digest: StateDigest) -> bool {
        let by_node = self.digests.entry(digest.node).or_default();
        let same = by_node.iter().filter(|known| known.index == digest.index);
        if by_node.contains(&digest) || same.count() >= MAX_OF_ONE_INDEX {
            return false;
        }
        by_node.push(digest);
        by_node.sort_by_key(|known| known.index);
        if by_node.len() > MAX_OF_ONE_MEMBER {
            by_node.remove(0);
        }
        true
    }

    /// What was signed about other states at the same entry.
    fn contradicting(&self, said: &Digested) -> impl Iterator<Item = &StateDigest> {
        let (said, all) = (*said, self.digests.values().flatten());
        all.filter(move |digest| digest.index == said.index && digest.said() != said)
    }

    fn certificate(&self, certifiers: &Certifiers) -> Option<(Snapshot, Vec<StateDigest>)> {
        let made = self.made.clone()?;
        let digests = self.digests.values().flatten();
        let certificate = certifiers.certificate(&made.snapshot.said(), digests)?;
        Some((made, certificate))
    }
}

impl Identity {
    fn sign(&self, said: Digested) -> StateDigest {
        StateDigest::sign(&self.key, &self.origin, said)
    }
}

fn last_log_id(snapshot: &Option<Snapshot>) -> Option<&Option<crate::types::LogId>> {
    snapshot.as_ref().map(|found| &found.meta.last_log_id)
}

fn open_file(path: &Path) -> Result<Option<Snapshot>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match SnapshotFile::open(file) {
        Ok((meta, file)) => Ok(Some(Snapshot {
            meta,
            snapshot: Box::new(file),
        })),
        Err(error) => {
            tracing::warn!(%error, "the stored snapshot is not used");
            Ok(None)
        }
    }
}

fn remove_unfinished(dir: &Path) -> Result<(), StoreError> {
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with(UNFINISHED) {
            std::fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

const CERTIFIED: &str = "snapshot";
const MADE: &str = "snapshot-made";
const UNFINISHED: &str = ".snapshot-";
/// Steps between snapshots that the log may hold beyond the newest certified one.
const MAX_STEPS_KEPT: u64 = 4;
const MAX_OF_ONE_MEMBER: usize = 8;
/// Two are enough to prove that somebody lies.
const MAX_OF_ONE_INDEX: usize = 2;
