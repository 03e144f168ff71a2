use crate::PassphraseError;
use std::{fmt, fs::File, io::Read, os::unix::fs::PermissionsExt, path::Path};
use zeroize::Zeroizing;

/// What protects a key file. Wiped when dropped, never printed or serialised.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes a passphrase as somebody typed it.
    ///
    /// # Errors
    ///
    /// [`PassphraseError::NotOneLine`]: when it is empty, very long, or has a line break.
    pub fn new(text: Zeroizing<String>) -> Result<Self, PassphraseError> {
        let is_line = !text.is_empty() && text.len() <= MAX_BYTES && !text.contains(['\n', '\r']);
        match is_line {
            true => Ok(Self(text)),
            false => Err(PassphraseError::NotOneLine),
        }
    }

    /// Reads a passphrase from a file: its one line, without the line break. It need not be a regular file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, others may read it, or it holds something else.
    pub fn read(path: &Path) -> Result<Self, PassphraseError> {
        let file = File::open(path).map_err(PassphraseError::Read)?;
        let metadata = file.metadata().map_err(PassphraseError::Read)?;
        if metadata.is_file() && metadata.permissions().mode() & 0o004 != 0 {
            return Err(PassphraseError::OpenToEverybody);
        }
        // What would not fit is not copied about while the buffer grows.
        let limit = MAX_BYTES + "\r\n".len() + 1;
        let mut text = Zeroizing::new(String::with_capacity(limit));
        let most = u64::try_from(limit).unwrap_or(u64::MAX);
        file.take(most)
            .read_to_string(&mut text)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => PassphraseError::NotOneLine,
                _ => PassphraseError::Read(error),
            })?;
        if text.ends_with('\n') {
            text.pop();
        }
        if text.ends_with('\r') {
            text.pop();
        }
        Self::new(text)
    }

    /// Itself, when it is long enough to protect something from now on.
    ///
    /// # Errors
    ///
    /// [`PassphraseError::TooShort`]: take a longer one.
    pub fn for_new_files(self) -> Result<Self, PassphraseError> {
        match self.0.chars().count() >= MIN_CHARACTERS {
            true => Ok(self),
            false => Err(PassphraseError::TooShort),
        }
    }

    /// Whether somebody typed the same.
    pub fn is_same(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passphrase").finish_non_exhaustive()
    }
}

pub(crate) const MAX_BYTES: usize = 1024;
pub(crate) const MIN_CHARACTERS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    fn read(content: &[u8], mode: u32) -> Result<Passphrase, PassphraseError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Passphrase::read(&path)
    }

    #[test]
    fn passphrase_file_is_one_line_and_its_line_break_is_no_part_of_it() {
        for content in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            let passphrase = read(content.as_bytes(), 0o600).unwrap();
            assert_eq!(passphrase.as_bytes(), b"correct horse");
        }
        let longest = "x".repeat(MAX_BYTES) + "\r\n";
        assert!(read(longest.as_bytes(), 0o400).is_ok());
        for wrong in [
            "",
            "\n",
            "one\ntwo\n",
            "one\n\n",
            &("x".to_owned() + &longest),
        ] {
            let refused = read(wrong.as_bytes(), 0o600).unwrap_err();
            assert!(matches!(refused, PassphraseError::NotOneLine), "{wrong:?}");
        }
        let refused = read(b"\xff", 0o600).unwrap_err();
        assert!(matches!(refused, PassphraseError::NotOneLine));
    }

    #[test]
    fn passphrase_file_that_everybody_may_read_is_refused() {
        let refused = read(b"correct horse", 0o604).unwrap_err();
        assert!(refused.to_string().contains("chmod"), "{refused}");
        // A credential of systemd is for a group, too.
        assert!(read(b"correct horse", 0o440).is_ok());
    }

    #[test]
    fn new_passphrase_is_long() {
        let with = |text: &str| Passphrase::new(Zeroizing::new(text.to_owned())).unwrap();
        let refused = with("eleven char").for_new_files().unwrap_err();
        assert!(matches!(refused, PassphraseError::TooShort));
        assert!(with("zwölf Zeich.").for_new_files().is_ok());
    }

    #[test]
    fn passphrase_is_not_printed() {
        let passphrase = Passphrase::new(Zeroizing::new("correct horse".to_owned())).unwrap();
        assert_eq!(format!("{passphrase:?}"), "Passphrase { .. }");
    }
}
