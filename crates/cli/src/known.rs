use crate::{CliError, Home, clock, files};
use anyhow::{Context, Result};
use medanchor_anchor::{Checkpoint, SignedNote};
use medanchor_dag::Hash;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// What the user has been shown of one log, so that it cannot show another one later:
/// `checkpoints/<H(origin)>/` in the home. Every file is a checkpoint as it was shown.
///
/// | file | what |
/// |---|---|
/// | `newest` | the newest that extends all that were kept here before |
/// | `unproven` | the newest of a receipt, not shown to extend `newest` yet |
/// | `served-<H(url)>` | the newest that one server showed |
/// | `evidence/` | two that contradict each other |
#[derive(Debug)]
pub(crate) struct Known {
    folder: PathBuf,
}

/// A checkpoint that was shown, its signatures checked then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) text: String,
}

impl Known {
    /// What is known of the log of this origin.
    pub(crate) fn open(home: &Home, origin: &str) -> Result<Self> {
        let name = format!("checkpoints/{}", Hash::of(origin.as_bytes()));
        Ok(Self {
            folder: home.folder(&name)?,
        })
    }

    /// The newest that extends all before it.
    pub(crate) fn newest(&self) -> Result<Option<Shown>> {
        self.read("newest")
    }

    /// The newest of a receipt, not shown to extend the log yet.
    pub(crate) fn unproven(&self) -> Result<Option<Shown>> {
        self.read("unproven")
    }

    /// The newest that the server at `url` showed.
    pub(crate) fn served(&self, url: &str) -> Result<Option<Shown>> {
        self.read(&served(url))
    }

    /// Keeps what the server at `url` showed.
    pub(crate) fn set_served(&self, url: &str, shown: &Shown) -> Result<()> {
        self.keep(&served(url), shown)
    }

    /// Keeps a checkpoint that was shown to extend `over`, unless another command has kept one meanwhile.
    pub(crate) fn advance(&self, over: Option<&Shown>, shown: &Shown) -> Result<()> {
        let _lock = self.lock()?;
        match self.newest()?.as_ref() == over {
            true => self.keep("newest", shown),
            false => Ok(()),
        }
    }

    /// Forgets an unproven one, which was shown to be of this log.
    pub(crate) fn settle(&self, proved: &Shown) -> Result<()> {
        let _lock = self.lock()?;
        match self.unproven()?.as_ref() == Some(proved) {
            true => fs::remove_file(self.folder.join("unproven"))
                .context("remove the checkpoint that is proved now"),
            false => Ok(()),
        }
    }

    /// Takes note of the checkpoint of a receipt. Nobody is asked, so only one of the same size can
    /// contradict it now; a larger one is proved when the log is next read.
    pub(crate) fn see(&self, shown: &Shown) -> Result<()> {
        let _lock = self.lock()?;
        let kept = [self.newest()?, self.unproven()?];
        for kept in kept.iter().flatten() {
            self.compare(kept, shown)?;
        }
        let size = shown.checkpoint.size;
        match kept.iter().flatten().any(|k| k.checkpoint.size >= size) {
            true => Ok(()),
            false => self.keep("unproven", shown),
        }
    }

    /// Alarms when both have the same size and are not the same.
    pub(crate) fn compare(&self, kept: &Shown, shown: &Shown) -> Result<()> {
        let (a, b) = (&kept.checkpoint, &shown.checkpoint);
        match a.size == b.size && a.root != b.root {
            true => Err(self.alarm(kept, shown, "two logs under one name: their roots differ")),
            false => Ok(()),
        }
    }

    /// Keeps both as evidence, fsynced, and gives the error that says so.
    pub(crate) fn alarm(&self, kept: &Shown, shown: &Shown, why: &str) -> anyhow::Error {
        let (old, new) = (kept.checkpoint.size, shown.checkpoint.size);
        let what = format!("ALARM: {why} (checkpoints of {old} and {new} leaves)");
        match self.keep_evidence(kept, shown) {
            Ok(folder) => {
                let kept = folder.display();
                CliError::NotVerified(format!("{what}; both are kept in `{kept}`")).into()
            }
            Err(error) => error.context(CliError::NotVerified(what)),
        }
    }

    fn keep_evidence(&self, kept: &Shown, shown: &Shown) -> Result<PathBuf> {
        let sizes = format!("{}-{}", kept.checkpoint.size, shown.checkpoint.size);
        let folder = self.folder.join("evidence");
        let folder = folder.join(format!("{}-{sizes}", clock::unix_ms()));
        files::create_folder(&folder).context("create a folder for evidence")?;
        for (name, shown) in [("kept", kept), ("shown", shown)] {
            files::replace(&folder.join(name), shown.text.as_bytes()).context("keep evidence")?;
        }
        Ok(folder)
    }

    /// Commands run beside each other: what is compared must still be there when it is replaced.
    /// A file beside them.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn lock(&self) -> Result<File> {
        let lock = File::create(self.folder.join("lock")).context("open the checkpoints' lock")?;
        lock.lock().context("lock the checkpoints")?;
        Ok(lock)
    }

    fn read(&self, name: &str) -> Result<Option<Shown>> {
        let path = self.folder.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let shown = read_shown(&path);
        shown.map(Some).with_context(|| {
            let path = path.display();
            format!("read `{path}`, without which a forked log would go unseen")
        })
    }

    fn keep(&self, name: &str, shown: &Shown) -> Result<()> {
        let path = self.folder.join(name);
        files::replace(&path, shown.text.as_bytes())
            .with_context(|| format!("keep `{}`", path.display()))
    }
}

impl Shown {
    /// A note whose signatures were checked.
    pub(crate) fn new(note: &SignedNote) -> Result<Self> {
        Ok(Self {
            checkpoint: note.text().parse().context("parse the checkpoint")?,
            text: note.to_string(),
        })
    }
}

fn read_shown(path: &Path) -> Result<Shown> {
    let text = files::read_text(path, u64::try_from(SignedNote::MAX_BYTES)?)?;
    Shown::new(&SignedNote::parse(&text).context("parse the checkpoint")?)
}

fn served(url: &str) -> String {
    format!("served-{}", Hash::of(url.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exit;
    use medanchor_dag::SigningKey;

    fn shown(size: u64, root: &[u8]) -> Shown {
        let checkpoint = Checkpoint {
            origin: "example.org/log".to_owned(),
            size,
            root: Hash::of(root),
        };
        let note = checkpoint.sign(&SigningKey::from_seed(&[1; 32])).unwrap();
        Shown::new(&note).unwrap()
    }

    fn known(folder: &Path) -> Known {
        Known::open(&Home::new(folder), "example.org/log").unwrap()
    }

    #[test]
    fn what_was_shown_is_read_back_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (newest, unproven) = (shown(5, b"five"), shown(7, b"seven"));
        let first = known(folder.path());
        assert_eq!(first.newest().unwrap(), None);
        first.advance(None, &newest).unwrap();
        // Another command was quicker.
        first.advance(None, &shown(4, b"four")).unwrap();
        first.see(&unproven).unwrap();
        first.set_served("https://a", &newest).unwrap();
        drop(first);
        let again = known(folder.path());
        assert_eq!(again.newest().unwrap(), Some(newest.clone()));
        assert_eq!(again.unproven().unwrap(), Some(unproven.clone()));
        assert_eq!(again.served("https://a").unwrap(), Some(newest));
        assert_eq!(again.served("https://b").unwrap(), None);
        again.settle(&shown(6, b"six")).unwrap();
        assert_eq!(again.unproven().unwrap(), Some(unproven.clone()));
        again.settle(&unproven).unwrap();
        again.settle(&unproven).unwrap();
        assert_eq!(again.unproven().unwrap(), None);
    }

    #[test]
    fn receipt_of_another_log_of_the_same_size_is_an_alarm_with_evidence() {
        let folder = tempfile::tempdir().unwrap();
        let known = known(folder.path());
        known.see(&shown(5, b"five")).unwrap();
        known.see(&shown(5, b"five")).unwrap();
        known.see(&shown(4, b"any")).unwrap();
        let error = known.see(&shown(5, b"another five")).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NotVerified, "{error:#}");
        let evidence = fs::read_dir(known.folder.join("evidence")).unwrap();
        let evidence = evidence.map(|entry| entry.unwrap().path()).next().unwrap();
        let kept = read_shown(&evidence.join("kept")).unwrap();
        assert_eq!(kept, shown(5, b"five"));
        let lie = read_shown(&evidence.join("shown")).unwrap();
        assert_eq!(lie, shown(5, b"another five"));
        assert_eq!(known.unproven().unwrap(), Some(kept));
    }

    #[test]
    fn damaged_memory_is_an_error_and_not_a_fresh_start() {
        let folder = tempfile::tempdir().unwrap();
        let known = known(folder.path());
        fs::write(known.folder.join("newest"), "example.org/log\n5\n").unwrap();
        assert!(known.newest().is_err());
        assert!(known.see(&shown(5, b"five")).is_err());
    }
}
