//! What only people can settle: evidence that somebody lies, kept on disk until an operator has seen it.

use crate::{
    clock,
    files::{self, Mode},
};
use anyhow::{Context, Result};
use medanchor_dag::sha256;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The alarms of a node. While one that [stops co-signing](AlarmKind::stops_cosigning) is active, nothing
/// is co-signed for its log.
///
/// An alarm is a file of `alarms/` that ends in `.alarm`, with its evidence beside it. It is active until
/// an operator [acknowledges](acknowledge) it, with or without the node running: the file is then renamed,
/// and the same is never raised again.
pub(crate) struct Alarms {
    folder: PathBuf,
    active: Mutex<Vec<Active>>,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) struct Alarm {
    /// What kind of thing.
    pub(crate) kind: AlarmKind,
    /// The log it is about.
    pub(crate) origin: String,
    /// What tells it from other alarms of this kind: the same is raised once.
    pub(crate) subject: Vec<u8>,
    /// One sentence that says who did what.
    pub(crate) details: String,
    /// What shows it, in a format that `medanchor` or others can check.
    pub(crate) evidence: Vec<u8>,
}

/// Kinds of alarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AlarmKind {
    /// Two signed checkpoints of one log cannot both be true.
    Equivocation,
    /// A leader signed two batches for one place in the replicated log, or wrote on two trees of one size.
    BatchConflict,
    /// A leader wrote a batch on another tree than this node's own replica computed.
    OtherTree,
    /// Two members signed different states at one entry of the replicated log.
    OtherState,
    /// A leader sent batches that it did not sign as it must.
    NotSigned,
    /// A leader stamped fresh batches well before this node's clock.
    Backdated,
    /// A broker released or refused what is decided otherwise on what the log said before.
    WrongDecision,
}

/// An alarm that was raised: the content of its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raised {
    /// By which an operator names it.
    pub(crate) id: String,
    /// What kind of thing happened.
    pub(crate) kind: AlarmKind,
    /// The log it is about.
    pub(crate) origin: String,
    /// When, by this node's clock.
    pub(crate) raised_at_unix_ms: u64,
    /// Who did what.
    pub(crate) details: String,
    /// What it means.
    pub(crate) means: String,
    /// What to do about it.
    pub(crate) todo: String,
}

struct Active {
    raised: Raised,
    /// Its file was written, so that its absence means that it was acknowledged.
    durable: bool,
}

impl AlarmKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Equivocation => "equivocation",
            Self::BatchConflict => "batch-conflict",
            Self::OtherTree => "other-tree",
            Self::OtherState => "other-state",
            Self::NotSigned => "not-signed",
            Self::Backdated => "backdated",
            Self::WrongDecision => "wrong-decision",
        }
    }

    /// Whether this node must not co-sign for the log until the alarm is acknowledged.
    fn stops_cosigning(self) -> bool {
        match self {
            Self::Equivocation | Self::BatchConflict | Self::OtherTree => true,
            // No snapshot of that state is installed, and nothing of that batch was taken: the log, which is
            // what is co-signed, is not touched.
            Self::OtherState | Self::NotSigned => false,
            // Time is for people to judge: it was paused, or a clock is wrong, or it lies.
            Self::Backdated => false,
            // What was decided is in the log for all to see, whoever co-signs that it is.
            Self::WrongDecision => false,
        }
    }

    fn means(self) -> &'static str {
        match self {
            Self::Equivocation => {
                "whoever signed both checkpoints lies or lost a key, or this node's disk is corrupt; it \
                 co-signs nothing of this log until you have looked"
            }
            Self::BatchConflict => {
                "as leader it told members different things, and the evidence proves it to anybody; this \
                 node co-signs nothing of this log until you have looked"
            }
            Self::OtherTree => {
                "the leader has another log than this node, or this node's disk is corrupt; this node \
                 co-signs nothing of this log until you have looked"
            }
            Self::OtherState => {
                "one of the two lies, or its disk or software is damaged; no node installs a snapshot of \
                 that state, and this node goes on"
            }
            Self::NotSigned => {
                "the leader, or whoever has its certificate, tells this node what it could deny later; \
                 nothing of it was taken, and this node goes on"
            }
            Self::Backdated => {
                "the leader's clock is behind or this node's is ahead, or one of them was paused or cut off \
                 from the others, or the leader lies about when things were said, as it must to have what \
                 has expired accepted; this node goes on"
            }
            Self::WrongDecision => {
                "the broker does not go by the policies and consents of the network, or this node's software \
                 decides otherwise than the broker's; keys that were released cannot be taken back; this node \
                 goes on"
            }
        }
    }

    fn todo(self) -> &'static str {
        match self {
            Self::Equivocation => {
                "run `medanchor verify` on the evidence, send it to every other organisation, find out \
                 with them which log is the true one, then run `medanchord acknowledge` with this id"
            }
            Self::OtherTree => {
                "send the evidence to every other organisation, find out with them which log is the true \
                 one, then run `medanchord acknowledge` with this alarm's id"
            }
            Self::OtherState => {
                "compare what a third member signed to see which of the two is wrong, stop that one and \
                 rebuild its state with `medanchord rebuild-state`, then run `medanchord acknowledge` with \
                 this alarm's id"
            }
            Self::NotSigned => {
                "ask the organisation that leads what its node runs, and have it stopped if there is no \
                 good answer, then run `medanchord acknowledge` with this alarm's id"
            }
            Self::Backdated => {
                "compare the clocks of both nodes and ask the organisation that leads whether its node was \
                 paused, then run `medanchord acknowledge` with this alarm's id"
            }
            Self::WrongDecision => {
                "run `medanchor audit explain` on the leaf, ask the broker's organisation for its reason, have \
                 its node stopped if there is no good one, tell the owner of the custody key what was released, \
                 then run `medanchord acknowledge` with this alarm's id"
            }
            Self::BatchConflict => {
                "check the evidence with `medanchor verify`, send it to every other organisation, have the \
                 liar removed, then run `medanchord acknowledge` with this alarm's id"
            }
        }
    }
}

impl Alarms {
    /// The alarms in `folder`, which is made when it does not exist.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        files::create_folder(folder)?;
        let context = || format!("read `{}`", folder.display());
        let mut active = Vec::new();
        for entry in fs::read_dir(folder).with_context(context)? {
            let path = entry.with_context(context)?.path();
            if path.extension().is_some_and(|e| e == ACTIVE) {
                let raised = open(&path)?;
                tracing::error!(
                    "alarm `{}` is not acknowledged: {}",
                    raised.id,
                    raised.means
                );
                active.push(Active {
                    raised,
                    durable: true,
                });
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            active: Mutex::new(active),
        })
    }

    /// Raises an alarm: it counts at once, and is durable on return. One that was raised before, or is one
    /// too many of its kind for its log, changes nothing.
    pub(crate) async fn raise(self: &Arc<Self>, alarm: Alarm) {
        let alarms = Arc::clone(self);
        // Only a panic can make this fail, and that is reported where it happens.
        let _ = tokio::task::spawn_blocking(move || alarms.raise_now(&alarm)).await;
    }

    /// [`Alarms::raise`] for callers that may block.
    pub(crate) fn raise_now(&self, alarm: &Alarm) {
        if self.knows(alarm.kind, &alarm.origin, &alarm.subject) {
            return;
        }
        let raised = raised(alarm);
        {
            let mut active = self.lock();
            if active.iter().any(|a| a.raised.id == raised.id) {
                return;
            }
            active.push(Active {
                raised: raised.clone(),
                durable: false,
            });
        }
        tracing::error!(
            id = raised.id,
            origin = raised.origin,
            "ALARM: {}. It means: {}. What to do: {}",
            raised.details,
            raised.means,
            raised.todo
        );
        match self.write(&raised, &alarm.evidence) {
            Ok(()) => {
                let mut active = self.lock();
                let mut same = active.iter_mut().filter(|a| a.raised.id == raised.id);
                if let Some(active) = same.next() {
                    active.durable = true;
                }
            }
            // It stays in force until a restart all the same.
            Err(error) => tracing::error!("alarm `{}` could not be written: {error:#}", raised.id),
        }
    }

    /// Whether this was raised before, or would be one too many of its kind for its log.
    pub(crate) fn knows(&self, kind: AlarmKind, origin: &str, subject: &[u8]) -> bool {
        let id = id(kind, origin, subject);
        let active = self.active();
        is_full(&active, kind, origin)
            || active.iter().any(|raised| raised.id == id)
            || self.path(&id, ACKNOWLEDGED).exists()
    }

    /// Whether one more of its kind would not be kept.
    pub(crate) fn is_full(&self, kind: AlarmKind, origin: &str) -> bool {
        is_full(&self.active(), kind, origin)
    }

    /// The alarms that nobody has acknowledged.
    pub(crate) fn active(&self) -> Vec<Raised> {
        let mut active = self.lock();
        active.retain(|a| !a.durable || self.path(&a.raised.id, ACTIVE).exists());
        active.iter().map(|a| a.raised.clone()).collect()
    }

    /// The alarm that forbids to co-sign for this log, if there is one.
    pub(crate) fn stop(&self, origin: &str) -> Option<String> {
        let active = self.active().into_iter();
        let mut stops = active.filter(|a| a.origin == origin && a.kind.stops_cosigning());
        stops.next().map(|raised| raised.id)
    }

    /// What shows an alarm, as text. It reads the disk.
    pub(crate) fn evidence(&self, id: &str) -> Result<String> {
        files::read_text(&self.path(id, EVIDENCE), MAX_EVIDENCE_BYTES)
    }

    /// Puts evidence that shows more in the place of an alarm's. It writes to the disk.
    pub(crate) fn replace_evidence(&self, id: &str, evidence: &[u8]) -> Result<()> {
        let path = self.path(id, EVIDENCE);
        files::replace(&path, Mode::Public, evidence).context("write the evidence")
    }

    fn write(&self, raised: &Raised, evidence: &[u8]) -> Result<()> {
        let text = toml::to_string(raised).context("write the alarm")?;
        self.replace_evidence(&raised.id, evidence)?;
        // Commit point: from here the alarm survives a crash, and its evidence is there.
        files::replace(
            &self.path(&raised.id, ACTIVE),
            Mode::Public,
            text.as_bytes(),
        )
        .context("write the alarm")
    }

    fn path(&self, id: &str, extension: &str) -> PathBuf {
        path(&self.folder, id, extension)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_full(active: &[Raised], kind: AlarmKind, origin: &str) -> bool {
    let alike = |raised: &&Raised| raised.kind == kind && raised.origin == origin;
    active.iter().filter(alike).count() >= MAX_OF_A_KIND
}

/// Acknowledges an alarm, whether or not the node runs: an operator has seen it, and takes the
/// responsibility for going on.
pub(crate) fn acknowledge(folder: &Path, id: &str) -> Result<()> {
    anyhow::ensure!(is_id(id), "`{id}` is not the id of an alarm");
    let (from, to) = (path(folder, id, ACTIVE), path(folder, id, ACKNOWLEDGED));
    let renamed = fs::rename(&from, to).and_then(|()| fs::File::open(folder)?.sync_all());
    match renamed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            anyhow::bail!("there is no alarm `{id}` in `{}`", folder.display())
        }
        renamed => renamed.with_context(|| format!("rename `{}`", from.display())),
    }
}

fn raised(alarm: &Alarm) -> Raised {
    let kind = alarm.kind;
    Raised {
        id: id(kind, &alarm.origin, &alarm.subject),
        kind,
        origin: alarm.origin.clone(),
        raised_at_unix_ms: clock::unix_ms(),
        details: sentence(&alarm.details),
        means: kind.means().to_owned(),
        todo: kind.todo().to_owned(),
    }
}

fn id(kind: AlarmKind, origin: &str, subject: &[u8]) -> String {
    let kind = kind.as_str();
    let named = [kind.as_bytes(), b"\0", origin.as_bytes(), b"\0", subject].concat();
    let digest = hex::encode(sha256(&named));
    let short = digest.get(..ID_DIGITS).unwrap_or(&digest);
    format!("{kind}-{short}")
}

/// Names in it may come from others: one line, and not a long one.
fn sentence(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(MAX_DETAILS).collect()
}

fn open(path: &Path) -> Result<Raised> {
    let text = files::read_text(path, MAX_BYTES)?;
    toml::from_str(&text).with_context(|| format!("parse alarm `{}`", path.display()))
}

fn path(folder: &Path, id: &str, extension: &str) -> PathBuf {
    folder.join(format!("{id}.{extension}"))
}

fn is_id(id: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=64).contains(&id.len()) && id.chars().all(fits)
}

const ACTIVE: &str = "alarm";
const ACKNOWLEDGED: &str = "acknowledged";
const EVIDENCE: &str = "evidence";
const ID_DIGITS: usize = 16;
const MAX_DETAILS: usize = 400;
const MAX_BYTES: u64 = 64 * 1024;
const MAX_EVIDENCE_BYTES: u64 = 1024 * 1024;
/// A liar can make as much evidence as it likes. More alarms of one kind about one log would say nothing new, and must
/// not keep one of another kind from being raised.
const MAX_OF_A_KIND: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "example.org/log";

    fn alarm(subject: &str) -> Alarm {
        Alarm {
            kind: AlarmKind::Equivocation,
            origin: ORIGIN.to_owned(),
            subject: subject.as_bytes().to_vec(),
            details: "somebody signed two logs\nand \"more\"".to_owned(),
            evidence: b"evidence".to_vec(),
        }
    }

    fn only(alarms: &Alarms) -> Raised {
        let active = alarms.active();
        assert_eq!(active.len(), 1);
        active[0].clone()
    }

    #[tokio::test]
    async fn alarm_stops_its_log_until_it_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let alarms = Arc::new(Alarms::open(folder.path()).unwrap());
        assert_eq!(alarms.stop(ORIGIN), None);
        alarms.raise(alarm("one")).await;
        let raised = only(&alarms);
        assert_eq!(alarms.stop(ORIGIN), Some(raised.id.clone()));
        assert_eq!(alarms.stop("another.example/log"), None);
        acknowledge(folder.path(), &raised.id).unwrap();
        assert_eq!(alarms.stop(ORIGIN), None);
        assert_eq!(alarms.active(), vec![]);
    }

    #[test]
    fn alarm_and_evidence_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let alarms = Alarms::open(folder.path()).unwrap();
        alarms.raise_now(&alarm("one"));
        let raised = only(&alarms);
        let evidence = fs::read(path(folder.path(), &raised.id, EVIDENCE)).unwrap();
        assert_eq!(evidence, b"evidence");
        let again = Alarms::open(folder.path()).unwrap();
        assert_eq!(only(&again), raised);
        assert!(again.stop(ORIGIN).is_some());
    }

    #[test]
    fn same_thing_is_raised_once_and_never_again_after_it_was_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let alarms = Alarms::open(folder.path()).unwrap();
        alarms.raise_now(&alarm("one"));
        alarms.raise_now(&alarm("one"));
        acknowledge(folder.path(), &only(&alarms).id).unwrap();
        alarms.raise_now(&alarm("one"));
        assert_eq!(alarms.active(), vec![]);
        alarms.raise_now(&alarm("two"));
        assert!(alarms.stop(ORIGIN).is_some());
    }

    #[test]
    fn alarm_that_cannot_be_written_stops_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let alarms = Alarms::open(&folder.path().join("alarms")).unwrap();
        fs::remove_dir(folder.path().join("alarms")).unwrap();
        alarms.raise_now(&alarm("one"));
        assert!(alarms.stop(ORIGIN).is_some());
    }

    #[test]
    fn flood_of_alarms_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let alarms = Alarms::open(folder.path()).unwrap();
        for n in 0..MAX_OF_A_KIND + 5 {
            alarms.raise_now(&Alarm {
                kind: AlarmKind::Backdated,
                ..alarm(&n.to_string())
            });
        }
        assert_eq!(alarms.active().len(), MAX_OF_A_KIND);
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 2 * MAX_OF_A_KIND);
        // It drowns nothing that is worse.
        assert_eq!(alarms.stop(ORIGIN), None);
        alarms.raise_now(&alarm("one"));
        assert!(alarms.stop(ORIGIN).is_some());
    }

    #[test]
    fn only_an_alarm_that_exists_can_be_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        for id in ["equivocation-0", "", "../keys/log", "a/b"] {
            assert!(acknowledge(folder.path(), id).is_err(), "{id}");
        }
    }

    #[test]
    fn damaged_alarm_is_an_error_not_silence() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(path(folder.path(), "equivocation-0", ACTIVE), "kind = 1").unwrap();
        assert!(Alarms::open(folder.path()).is_err());
    }
}
