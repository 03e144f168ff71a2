//! A node's private keys on disk: one file each, `medanchor-key-1 <name> <64 hex digits>`, mode 0600.

use crate::files::{self, Mode};
use anyhow::{Context, Result};
use medanchor_dag::SigningKey;
use std::{os::unix::fs::PermissionsExt, path::Path};
use zeroize::Zeroizing;

/// What a key is for. No key serves two purposes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeyName {
    /// Signs holds, releases and attestations in the node's name.
    Node,
    /// Signs the checkpoints that this node publishes (C2SP signed-note type 0x01).
    Log,
    /// Co-signs checkpoints (C2SP tlog-cosignature type 0x04).
    Cosigner,
    /// Is the node's identity in the private swarm.
    Peer,
    /// Seals the custody keys at rest.
    CustodyStore,
    /// The secrets of second factors are derived from it.
    Factors,
}

impl KeyName {
    fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Log => "log",
            Self::Cosigner => "cosigner",
            Self::Peer => "peer",
            Self::CustodyStore => "custody-store",
            Self::Factors => "factors",
        }
    }
}

/// Makes a new random key and keeps it. Never overwrites one.
pub(crate) fn create(folder: &Path, name: KeyName) -> Result<Zeroizing<[u8; 32]>> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).context("draw random bytes")?;
    let hex = Zeroizing::new(hex::encode(seed.as_ref()));
    let text = Zeroizing::new(format!("{MAGIC} {} {}\n", name.as_str(), *hex));
    files::create(&path(folder, name), Mode::Secret, text.as_bytes())?;
    Ok(seed)
}

/// Makes a new random signing key and keeps it.
pub(crate) fn create_signing(folder: &Path, name: KeyName) -> Result<SigningKey> {
    Ok(SigningKey::from_seed(&*create(folder, name)?))
}

/// Reads a key. Refuses a file that others may read, or that holds another key.
pub(crate) fn open(folder: &Path, name: KeyName) -> Result<Zeroizing<[u8; 32]>> {
    let path = path(folder, name);
    let context = || format!("read {} key `{}`", name.as_str(), path.display());
    let mode = std::fs::metadata(&path)
        .with_context(context)?
        .permissions()
        .mode();
    anyhow::ensure!(
        mode.trailing_zeros() >= 6,
        "key `{}` can be read by others: run `chmod 600` on it",
        path.display()
    );
    let text = Zeroizing::new(files::read_text(&path, 256)?);
    parse(&text, name).with_context(context)
}

/// Reads a signing key.
pub(crate) fn open_signing(folder: &Path, name: KeyName) -> Result<SigningKey> {
    Ok(SigningKey::from_seed(&*open(folder, name)?))
}

fn parse(text: &str, name: KeyName) -> Result<Zeroizing<[u8; 32]>> {
    let hex = text
        .strip_suffix('\n')
        .and_then(|line| line.strip_prefix(MAGIC))
        .and_then(|rest| rest.strip_prefix(' '))
        .and_then(|rest| rest.strip_prefix(name.as_str()))
        .and_then(|rest| rest.strip_prefix(' '))
        .with_context(|| format!("not a `{MAGIC} {}` file", name.as_str()))?;
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(hex, seed.as_mut()).context("not 64 hexadecimal digits")?;
    Ok(seed)
}

fn path(folder: &Path, name: KeyName) -> std::path::PathBuf {
    folder.join(name.as_str()).with_extension("key")
}

const MAGIC: &str = "medanchor-key-1";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn key_is_read_back_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let key = create(folder.path(), KeyName::Log).unwrap();
        assert_eq!(*open(folder.path(), KeyName::Log).unwrap(), *key);
        assert!(create(folder.path(), KeyName::Log).is_err());
    }

    #[test]
    fn key_of_another_purpose_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path(), KeyName::Log).unwrap();
        let (from, to) = (
            path(folder.path(), KeyName::Log),
            path(folder.path(), KeyName::Node),
        );
        std::fs::rename(from, to).unwrap();
        assert!(open(folder.path(), KeyName::Node).is_err());
    }

    #[test]
    fn key_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path(), KeyName::Node).unwrap();
        let path = path(folder.path(), KeyName::Node);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = open(folder.path(), KeyName::Node).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in ".*") {
            let _ = parse(&text, KeyName::Node);
        }
    }
}
