//! Small text files that hold a secret: plain, or under a passphrase. Which it is, the file itself says.

use crate::{CliError, files, passphrases::Passphrases};
use anyhow::{Context, Result};
use medanchor_secrets::{MAX_BYTES, OpenError, Protection, is_protected, protect};
use std::{io, path::Path};
use zeroize::Zeroizing;

/// Makes a file that must not exist yet; only its owner may read it.
pub(crate) fn create(path: &Path, text: &str, protection: Protection<'_>) -> io::Result<()> {
    let content = protect(text, protection).map_err(io::Error::other)?;
    files::create(path, content.as_bytes())
}

/// Replaces a file: after a crash it is the old one or the new one.
pub(crate) fn replace(path: &Path, text: &str, protection: Protection<'_>) -> io::Result<()> {
    let content = protect(text, protection).map_err(io::Error::other)?;
    files::replace(path, content.as_bytes())
}

/// A file's text, and whether it is under a passphrase.
pub(crate) struct Opened {
    pub(crate) text: Zeroizing<String>,
    pub(crate) protected: bool,
}

/// Reads a file of [`create`]. `passphrases` is asked if it is under one.
pub(crate) fn open(path: &Path, passphrases: &Passphrases) -> Result<Opened> {
    let content = Zeroizing::new(files::read(path, MAX_BYTES)?);
    if !is_protected(&content) {
        let text = str::from_utf8(&content).map_err(|_| anyhow::anyhow!("it holds no text"));
        let text = text.with_context(|| format!("read `{}`", path.display()))?;
        return Ok(Opened {
            text: Zeroizing::new(text.to_owned()),
            protected: false,
        });
    }
    let passphrase = passphrases.of(path)?;
    match medanchor_secrets::open(&content, passphrase) {
        Ok(text) => Ok(Opened {
            text,
            protected: true,
        }),
        Err(OpenError::WrongPassphrase) => Err(CliError::WrongPassphrase(path.to_owned()).into()),
        Err(error) => Err(error).with_context(|| format!("open `{}`", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exit;
    use medanchor_secrets::Passphrase;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
    }

    fn from_file(folder: &Path, text: &str) -> Passphrases {
        let file = folder.join("passphrase");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        Passphrases::new(Some(file))
    }

    #[test]
    fn file_says_itself_whether_it_is_under_a_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, protected) = (folder.path().join("plain"), folder.path().join("protected"));
        let key = passphrase("correct horse");
        create(&plain, "a secret\n", Protection::Plain).unwrap();
        create(&protected, "a secret\n", Protection::Passphrase(&key)).unwrap();
        let passphrases = from_file(folder.path(), "correct horse\n");
        for (path, is_protected) in [(&plain, false), (&protected, true)] {
            let opened = open(path, &passphrases).unwrap();
            assert_eq!(*opened.text, "a secret\n");
            assert_eq!(opened.protected, is_protected);
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(create(path, "other", Protection::Plain).is_err());
        }
        assert!(!fs::read_to_string(&protected).unwrap().contains("secret"));
        replace(&protected, "another\n", Protection::Plain).unwrap();
        assert_eq!(*open(&protected, &passphrases).unwrap().text, "another\n");
    }

    #[test]
    fn wrong_passphrase_is_an_error_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let key = passphrase("correct horse");
        create(&path, "a secret", Protection::Passphrase(&key)).unwrap();
        let wrong = from_file(folder.path(), "correct house");
        let error = open(&path, &wrong).map(|_| ()).unwrap_err();
        assert_eq!(crate::exit::stable_code(&error), "wrong-passphrase");
        assert_eq!(Exit::of(&error), Exit::Failed);
        assert!(!format!("{error:?}").contains("house"), "{error:?}");

        let mut content = fs::read_to_string(&path).unwrap();
        content.truncate(content.len() - 60);
        fs::write(&path, content).unwrap();
        let error = open(&path, &wrong).map(|_| ()).unwrap_err();
        assert_eq!(crate::exit::stable_code(&error), "failed");
    }

    #[test]
    fn file_that_is_too_long_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, vec![b' '; 128 * 1024 + 1]).unwrap();
        let error = open(&path, &Passphrases::default())
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains("at most"), "{error:#}");
    }
}
