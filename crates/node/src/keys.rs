//! A node's private keys on disk: one file each, `medanchor-key-1 <name> <64 hex digits>`, mode 0600. Two of them are kept under
//! the node's passphrase, if it has one.

use crate::files::{self, Mode};
use anyhow::{Context, Result};
use medanchor_dag::SigningKey;
use medanchor_secrets::{OpenError, Passphrase, Protection, is_protected};
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
    /// Seals the custody keys at rest: the node's epoch key.
    CustodyStore,
    /// Is to do so next; there only while one takes the place of the other.
    NextCustodyStore,
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
            Self::NextCustodyStore => "next-custody-store",
            Self::Factors => "factors",
        }
    }
}

/// Makes a new random key and keeps it. Never overwrites one.
pub(crate) fn create(folder: &Path, name: KeyName) -> Result<Zeroizing<[u8; 32]>> {
    create_under(folder, name, Protection::Plain)
}

/// Makes a new random key and keeps it so. Never overwrites one.
pub(crate) fn create_under(
    folder: &Path,
    name: KeyName,
    protection: Protection<'_>,
) -> Result<Zeroizing<[u8; 32]>> {
    let seed = draw()?;
    let content = content(name, &seed, protection)?;
    files::create(&path(folder, name), Mode::Secret, content.as_bytes())?;
    Ok(seed)
}

fn draw() -> Result<Zeroizing<[u8; 32]>> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).context("draw random bytes")?;
    Ok(seed)
}

/// What the file of a key has.
fn content(
    name: KeyName,
    seed: &[u8; 32],
    protection: Protection<'_>,
) -> Result<Zeroizing<String>> {
    medanchor_secrets::protect(&to_text(name, seed), protection).context("draw random bytes")
}

/// Makes a new random signing key and keeps it.
pub(crate) fn create_signing(folder: &Path, name: KeyName) -> Result<SigningKey> {
    Ok(SigningKey::from_seed(&*create(folder, name)?))
}

/// Whether there is one. One that zeros were written over, and that a crash kept from being removed, is none.
pub(crate) fn exists(folder: &Path, name: KeyName) -> Result<bool> {
    let path = path(folder, name);
    let look = || -> std::io::Result<bool> {
        if !path.try_exists()? {
            return Ok(false);
        }
        let content = Zeroizing::new(std::fs::read(&path)?);
        Ok(!content.contains(&0))
    };
    look().with_context(|| format!("look for `{}`", path.display()))
}

/// Puts `next` in the place of the node's epoch key, which is destroyed: overwritten, and then gone. `next` is kept as that
/// is from now on. After a crash the same again goes on.
pub(crate) fn replace_epoch_key(
    folder: &Path,
    next: &[u8; 32],
    protection: Protection<'_>,
) -> Result<()> {
    let content = content(KeyName::CustodyStore, next, protection)?;
    let path = path(folder, KeyName::CustodyStore);
    let destroy = || {
        // What a crash left while the file was replaced: it has the same key.
        files::destroy(&files::new_name(&path))?;
        // Where a file system writes in place, a later reader of the disk finds nothing of it either.
        files::overwrite(&path)
    };
    destroy().with_context(|| format!("destroy `{}`", path.display()))?;
    #[cfg(medanchor_fault)]
    medanchor_raft::fault_step("epoch-key-overwritten");
    files::replace(&path, Mode::Secret, content.as_bytes())
        .with_context(|| format!("replace `{}`", path.display()))?;
    let next = self::path(folder, KeyName::NextCustodyStore);
    files::remove(&next).with_context(|| format!("remove `{}`", next.display()))
}

/// Makes the key that is to be the epoch key next: whole, or not at all.
pub(crate) fn create_next_epoch_key(
    folder: &Path,
    protection: Protection<'_>,
) -> Result<Zeroizing<[u8; 32]>> {
    let seed = draw()?;
    let content = content(KeyName::NextCustodyStore, &seed, protection)?;
    let path = path(folder, KeyName::NextCustodyStore);
    files::replace(&path, Mode::Secret, content.as_bytes())
        .with_context(|| format!("create `{}`", path.display()))?;
    Ok(seed)
}

/// Destroys the key that was to be the epoch key next: it is overwritten, and then gone.
pub(crate) fn destroy_next_epoch_key(folder: &Path) -> Result<()> {
    let path = path(folder, KeyName::NextCustodyStore);
    files::destroy(&path).with_context(|| format!("destroy `{}`", path.display()))
}

/// Reads a key that is kept as it is. Refuses a file that others may read, or that holds another key.
pub(crate) fn open(folder: &Path, name: KeyName) -> Result<Zeroizing<[u8; 32]>> {
    open_under(folder, name, None)
}

/// Reads a key that is kept under a passphrase, if there is one. Refuses a file that others may read, that holds another key, or
/// that is not kept so.
pub(crate) fn open_under(
    folder: &Path,
    name: KeyName,
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<[u8; 32]>> {
    let path = path(folder, name);
    let text = read(folder, name)?;
    let text = match (is_protected(text.as_bytes()), passphrase) {
        (false, None) => text,
        // Whoever put it there knows it, and its owner believes that nobody does.
        (false, Some(_)) => anyhow::bail!(
            "key `{}` is in clear, although the node has a passphrase: `medanchord passphrase \
             --new-passphrase-file FILE` puts it under one",
            path.display()
        ),
        (true, None) => anyhow::bail!(
            "key `{}` is under a passphrase: name a file that holds it as `passphrase_file` in \
             `medanchord.toml`, or with --passphrase-file",
            path.display()
        ),
        (true, Some(passphrase)) => unlock(&path, &text, &[passphrase])?,
    };
    parse(&text, name).with_context(|| format!("read key `{}`", path.display()))
}

/// Keeps a key otherwise from now on. It may be in clear, or under one of these passphrases.
pub(crate) fn protect(
    folder: &Path,
    name: KeyName,
    passphrases: &[&Passphrase],
    protection: Protection<'_>,
) -> Result<()> {
    let path = path(folder, name);
    let text = read(folder, name)?;
    let text = match is_protected(text.as_bytes()) {
        true => unlock(&path, &text, passphrases)?,
        false => text,
    };
    parse(&text, name).with_context(|| format!("read key `{}`", path.display()))?;
    let content = medanchor_secrets::protect(&text, protection).context("draw random bytes")?;
    files::replace(&path, Mode::Secret, content.as_bytes())
        .with_context(|| format!("replace `{}`", path.display()))
}

/// The text of a key that is under one of these passphrases.
fn unlock(path: &Path, content: &str, passphrases: &[&Passphrase]) -> Result<Zeroizing<String>> {
    let mut refused = OpenError::WrongPassphrase;
    for passphrase in passphrases {
        match medanchor_secrets::open(content.as_bytes(), passphrase) {
            Ok(text) => return Ok(text),
            Err(error) => refused = error,
        }
    }
    Err(refused).with_context(|| {
        format!(
            "open key `{}`; its passphrase comes from the file that `passphrase_file` or --passphrase-file names",
            path.display()
        )
    })
}

fn read(folder: &Path, name: KeyName) -> Result<Zeroizing<String>> {
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
    files::read_text(&path, MAX_BYTES).map(Zeroizing::new)
}

/// Reads a signing key.
pub(crate) fn open_signing(folder: &Path, name: KeyName) -> Result<SigningKey> {
    Ok(SigningKey::from_seed(&*open(folder, name)?))
}

fn to_text(name: KeyName, seed: &[u8; 32]) -> Zeroizing<String> {
    let hex = Zeroizing::new(hex::encode(seed));
    Zeroizing::new(format!("{MAGIC} {} {}\n", name.as_str(), *hex))
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

/// Those that open what the node keeps for others, and are there.
pub(crate) fn protected(folder: &Path) -> Result<Vec<KeyName>> {
    let mut names = PROTECTED.to_vec();
    if exists(folder, KeyName::NextCustodyStore)? {
        names.push(KeyName::NextCustodyStore);
    }
    Ok(names)
}

/// Those that are always there.
pub(crate) const PROTECTED: [KeyName; 2] = [KeyName::CustodyStore, KeyName::Factors];
const MAGIC: &str = "medanchor-key-1";
const MAX_BYTES: u64 = 4096;

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
    fn key_under_a_passphrase_is_opened_with_it_alone_and_never_taken_for_a_plain_one() {
        let folder = tempfile::tempdir().unwrap();
        let [right, wrong] = ["the right one", "the wrong one"].map(passphrase);
        let (sealed, plain) = (KeyName::CustodyStore, KeyName::Factors);
        let key = create_under(folder.path(), sealed, Protection::Passphrase(&right)).unwrap();
        create(folder.path(), plain).unwrap();
        let kept = std::fs::read_to_string(path(folder.path(), sealed)).unwrap();
        assert!(!kept.contains(&hex::encode(*key)), "{kept}");
        let open = |name, passphrase| open_under(folder.path(), name, passphrase);
        assert_eq!(*open(sealed, Some(&right)).unwrap(), *key);
        for (name, passphrase, said) in [
            (sealed, Some(&wrong), "wrong"),
            (sealed, None, "passphrase_file"),
            (plain, Some(&right), "medanchord passphrase"),
        ] {
            let error = format!("{:#}", open(name, passphrase).unwrap_err());
            assert!(error.contains(said), "{error}");
            assert!(
                !error.contains("right") && !error.contains("wrong one"),
                "{error}"
            );
        }
    }

    #[test]
    fn change_of_the_passphrase_that_a_crash_interrupted_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["the old passphrase", "the new passphrase"].map(passphrase);
        let (under_old, under_new) = (Protection::Passphrase(&old), Protection::Passphrase(&new));
        let done = create_under(folder.path(), KeyName::CustodyStore, under_new).unwrap();
        let open_still = create_under(folder.path(), KeyName::Factors, under_old).unwrap();
        for name in PROTECTED {
            assert!(protect(folder.path(), name, &[], Protection::Plain).is_err());
            protect(folder.path(), name, &[&old, &new], under_new).unwrap();
        }
        for (name, key) in [
            (KeyName::CustodyStore, done),
            (KeyName::Factors, open_still),
        ] {
            assert_eq!(*open_under(folder.path(), name, Some(&new)).unwrap(), *key);
        }
        protect(folder.path(), KeyName::Factors, &[&new], Protection::Plain).unwrap();
        assert!(open(folder.path(), KeyName::Factors).is_ok());
    }

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
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
