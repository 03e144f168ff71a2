/// Why a protected text could not be opened. Nothing was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was made with another passphrase, or its first lines are damaged: give the right passphrase.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// The passphrase is right, but something was changed since: use another copy.
    #[error("the file is damaged: take it from another copy")]
    Damaged,
    /// It is no age file, or none that is for one passphrase alone: use another copy.
    #[error("not an age file for a passphrase: {0}")]
    Malformed(&'static str),
    /// It asks for more work and memory than this program spends on a file.
    #[error("its scrypt work factor is 2^{found}, at most 2^{most} is accepted")]
    TooCostly {
        /// Logarithm of what it asks for.
        found: u32,
        /// Logarithm of what is accepted.
        most: u32,
    },
}

/// Why a passphrase cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// Name a file that there is and that can be read.
    #[error("the passphrase file cannot be read")]
    Read(#[source] std::io::Error),
    /// Take the right to read it from everybody else.
    #[error("the passphrase file can be read by everybody: run `chmod o-r` on it")]
    OpenToEverybody,
    /// Put a passphrase there, and nothing else.
    #[error(
        "a passphrase is one line of text, at most {} bytes long",
        crate::passphrase::MAX_BYTES
    )]
    NotOneLine,
    /// Take a longer one: whoever has the file tries as many as they like.
    #[error(
        "a new passphrase has at least {} characters",
        crate::passphrase::MIN_CHARACTERS
    )]
    TooShort,
}
