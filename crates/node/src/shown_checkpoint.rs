//! The checkpoint that this node shows to everybody. It never goes back: a monitor that has seen a larger one
//! would rightly take this node for a liar.

use crate::files::{self, Mode};
use anyhow::{Context, Result};
use medanchor_anchor::{BoxError, Checkpoint, SignedNote};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// Shows the newest published checkpoint, fsynced to a file before anybody sees it.
pub(crate) struct ShownCheckpoint {
    published: Box<Published>,
    file: Arc<Mutex<ShownFile>>,
}

/// Size and text of the newest published checkpoint that the node knows now.
pub(crate) type Published = dyn Fn() -> Option<(u64, String)> + Send + Sync;

struct ShownFile {
    path: PathBuf,
    shown: Option<(u64, String)>,
}

impl ShownCheckpoint {
    /// Goes on with what was shown before a restart.
    pub(crate) fn open(path: PathBuf, published: Box<Published>) -> Result<Self> {
        let shown = match path.exists() {
            true => Some(read(&path).context(
                "restore the checkpoint that this node showed last, or remove it: monitors then say \
                 that this node went back",
            )?),
            false => None,
        };
        let file = Arc::new(Mutex::new(ShownFile { path, shown }));
        Ok(Self { published, file })
    }

    /// Size and text of what is shown now.
    pub(crate) async fn get(&self) -> Result<Option<(u64, String)>, BoxError> {
        let shown = lock(&self.file).shown.clone();
        match (self.published)() {
            Some(published) if is_newer(&published, shown.as_ref()) => {
                let file = Arc::clone(&self.file);
                let advanced = tokio::task::spawn_blocking(move || lock(&file).advance(published));
                Ok(Some(advanced.await??))
            }
            _ => Ok(shown),
        }
    }
}

impl ShownFile {
    /// Another request may have been quicker with a larger one.
    fn advance(&mut self, published: (u64, String)) -> std::io::Result<(u64, String)> {
        if let Some(shown) = &self.shown
            && !is_newer(&published, Some(shown))
        {
            return Ok(shown.clone());
        }
        files::replace(&self.path, Mode::Public, published.1.as_bytes())?;
        self.shown = Some(published.clone());
        Ok(published)
    }
}

/// Of one size, what differs is signed again, or by more.
fn is_newer(published: &(u64, String), shown: Option<&(u64, String)>) -> bool {
    shown.is_none_or(|(size, text)| {
        published.0 > *size || (published.0 == *size && published.1 != *text)
    })
}

fn read(path: &std::path::Path) -> Result<(u64, String)> {
    let text = files::read_text(path, u64::try_from(SignedNote::MAX_BYTES)?)?;
    let context = || format!("parse `{}`", path.display());
    let note = SignedNote::parse(&text).with_context(context)?;
    let checkpoint: Checkpoint = note.text().parse().with_context(context)?;
    Ok((checkpoint.size, text))
}

fn lock(file: &Mutex<ShownFile>) -> std::sync::MutexGuard<'_, ShownFile> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use medanchor_dag::{Hash, SigningKey};

    /// A signed checkpoint of this size.
    pub(crate) fn checkpoint(size: u64) -> (u64, String) {
        let checkpoint = Checkpoint {
            origin: "example.org/log".to_owned(),
            size,
            root: Hash::of(&size.to_be_bytes()),
        };
        let note = checkpoint.sign(&SigningKey::from_seed(&[1; 32])).unwrap();
        (size, note.to_string())
    }

    fn open(
        path: &std::path::Path,
        published: &Arc<Mutex<Option<u64>>>,
    ) -> Result<ShownCheckpoint> {
        let published = Arc::clone(published);
        let newest = move || published.lock().unwrap().map(checkpoint);
        ShownCheckpoint::open(path.to_owned(), Box::new(newest))
    }

    #[tokio::test]
    async fn what_is_shown_grows_and_never_goes_back_even_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let published = Arc::new(Mutex::new(None));
        let shown = open(&path, &published).unwrap();
        assert_eq!(shown.get().await.unwrap(), None);
        for (newest, expected) in [(3, 3), (5, 5), (4, 5), (5, 5), (9, 9)] {
            *published.lock().unwrap() = Some(newest);
            assert_eq!(shown.get().await.unwrap(), Some(checkpoint(expected)));
        }
        // A node that has just started knows nothing, or what another one has that is behind.
        for known in [None, Some(8)] {
            *published.lock().unwrap() = known;
            let shown = open(&path, &published).unwrap();
            assert_eq!(shown.get().await.unwrap(), Some(checkpoint(9)));
        }
    }

    #[tokio::test]
    async fn checkpoint_that_was_signed_again_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let (size, text) = checkpoint(3);
        let again = format!("{text}\u{2014} another co-signer AAAAAA==\n");
        for published in [text, again] {
            let newest = published.clone();
            let newest = Box::new(move || Some((size, newest.clone())));
            let shown = ShownCheckpoint::open(path.clone(), newest).unwrap();
            assert_eq!(shown.get().await.unwrap(), Some((size, published)));
        }
    }

    #[tokio::test]
    async fn nothing_is_shown_that_could_not_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no folder").join("checkpoint");
        let shown = open(&path, &Arc::new(Mutex::new(Some(3)))).unwrap();
        assert!(shown.get().await.is_err());
    }

    #[test]
    fn damaged_file_stops_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        std::fs::write(&path, "example.org/log\n9\n").unwrap();
        assert!(open(&path, &Arc::default()).is_err());
    }
}
