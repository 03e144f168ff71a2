use crate::secret_file;
use anyhow::{Context, Result};
use medanchor_dag::{Did, SigningKey};
use medanchor_envelope::{Identity, Recipient};
use medanchor_secrets::Protection;
use serde::Deserialize;
use std::{io, path::Path};
use zeroize::{Zeroize, Zeroizing};

/// A user's own keys: one signs in their name, to the other released keys are sealed.
#[derive(Debug)]
pub struct OwnKeys {
    /// Signs statements and records: the key in force.
    pub signing: SigningKey,
    /// Opens what is sealed to the user.
    pub receiving: Identity,
    /// Keys that were rotated, the oldest first: what a record was sealed with that is not anchored yet.
    earlier: Vec<SigningKey>,
}

impl OwnKeys {
    /// These keys, none of which was rotated.
    pub fn new(signing: SigningKey, receiving: Identity) -> Self {
        Self {
            signing,
            receiving,
            earlier: Vec::new(),
        }
    }

    /// New keys, kept in a file that must not exist yet and that only its owner may read.
    ///
    /// # Errors
    ///
    /// When there is such a file already, or it cannot be written.
    pub fn create(path: &Path, protection: Protection<'_>) -> Result<Self> {
        let keys = Self::new(
            SigningKey::generate().context("draw a signing key")?,
            Identity::generate().context("draw a receiving key")?,
        );
        match secret_file::create(path, &keys.to_text(), protection) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                anyhow::bail!(
                    "`{}` exists and is never overwritten: whoever had its keys would be lost",
                    path.display()
                )
            }
            written => written.with_context(|| format!("create `{}`", path.display()))?,
        }
        Ok(keys)
    }

    /// The user's name: the key that it was enrolled with.
    pub fn did(&self) -> Did {
        self.earlier.first().unwrap_or(&self.signing).did()
    }

    /// The key that the user signs with now.
    pub fn key(&self) -> Did {
        self.signing.did()
    }

    /// The key that the user signed with before.
    pub(crate) fn before(&self) -> Option<Did> {
        self.earlier.last().map(SigningKey::did)
    }

    /// Whether the user signs with this key, or did once.
    pub(crate) fn is_own(&self, key: &Did) -> bool {
        *key == self.key() || self.earlier.iter().any(|earlier| earlier.did() == *key)
    }

    /// Who signs that a record is anchored that was sealed with this key: of one that was rotated, also the key in force.
    pub(crate) fn authors(&self, sealed_with: &Did) -> Vec<&SigningKey> {
        let earlier = self.earlier.iter();
        let sealer = earlier.filter(|earlier| earlier.did() == *sealed_with);
        sealer.chain([&self.signing]).collect()
    }

    /// The same user with another key in force.
    pub(crate) fn rotated(&self, to: SigningKey) -> Self {
        let copy = |key: &SigningKey| SigningKey::from_seed(&key.to_seed());
        let earlier = self.earlier.iter().chain([&self.signing]);
        Self {
            earlier: earlier.map(copy).collect(),
            receiving: Identity::from_bytes(self.receiving.to_bytes()),
            signing: to,
        }
    }

    /// What released keys are sealed to.
    pub fn recipient(&self) -> Recipient {
        self.receiving.recipient()
    }

    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let digits = |key: &SigningKey| Zeroizing::new(hex::encode(key.to_seed().as_slice()));
        let private = Zeroizing::new(hex::encode(self.receiving.to_bytes().as_slice()));
        // With room for all: text that grows leaves copies of its secrets behind.
        let room = 512 + self.earlier.len() * 80;
        let mut text = Zeroizing::new(String::with_capacity(room));
        let mut line = |parts: &[&str]| parts.iter().for_each(|part| text.push_str(part));
        let version = if self.earlier.is_empty() { "1" } else { "2" };
        line(&["version = ", version, "\n"]);
        line(&["did = \"", &self.did().to_string(), "\"\n"]);
        line(&["signing_seed = \"", &digits(&self.signing), "\"\n"]);
        line(&["receive_private = \"", &private, "\"\n"]);
        if !self.earlier.is_empty() {
            line(&["earlier_seeds = [\n"]);
            for earlier in &self.earlier {
                line(&["    \"", &digits(earlier), "\",\n"]);
            }
            line(&["]\n"]);
        }
        text
    }

    /// The keys of an identity file with this text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        // The parser's own error would quote the line, and with it a key.
        let file: IdentityFile =
            toml::from_str(text).map_err(|_| anyhow::anyhow!("not an identity file"))?;
        let version = if file.earlier_seeds.is_empty() { 1 } else { 2 };
        anyhow::ensure!(
            file.version == version,
            "unsupported version {}",
            file.version
        );
        let key = |digits: &String| anyhow::Ok(SigningKey::from_seed(&*secret(digits)?));
        let keys = Self {
            signing: key(&file.signing_seed)?,
            receiving: Identity::from_bytes(secret(&file.receive_private)?),
            earlier: file.earlier_seeds.iter().map(key).collect::<Result<_>>()?,
        };
        let did: Did = file.did.parse()?;
        anyhow::ensure!(did == keys.did(), "`did` is not that of the first seed");
        Ok(keys)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    version: u32,
    did: String,
    signing_seed: String,
    receive_private: String,
    #[serde(default)]
    earlier_seeds: Vec<String>,
}

impl Drop for IdentityFile {
    fn drop(&mut self) {
        self.signing_seed.zeroize();
        self.receive_private.zeroize();
        self.earlier_seeds.zeroize();
    }
}

/// A private key of 64 hexadecimal digits. The error does not repeat them.
pub(crate) fn secret(digits: &str) -> Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits, bytes.as_mut())
        .map_err(|_| anyhow::anyhow!("a key is not 64 hexadecimal digits"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn keys_are_read_back_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.toml");
        let keys = OwnKeys::create(&path, Protection::Plain).unwrap();
        let again = OwnKeys::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(again.did(), keys.did());
        assert_eq!(again.recipient(), keys.recipient());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let before = fs::read(&path).unwrap();
        assert!(OwnKeys::create(&path, Protection::Plain).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn rotated_keys_are_read_back_with_the_name_and_what_opens_old_grants() {
        let seed = |byte| SigningKey::from_seed(&[byte; 32]);
        let first = OwnKeys::new(seed(1), Identity::from_bytes(Zeroizing::new([9; 32])));
        let third = first.rotated(seed(2)).rotated(seed(3));
        let again = OwnKeys::parse(&third.to_text()).unwrap();
        assert_eq!((again.did(), again.key()), (seed(1).did(), seed(3).did()));
        assert_eq!(again.recipient(), first.recipient());
        for (byte, authors) in [(1, vec![1, 3]), (2, vec![2, 3]), (3, vec![3])] {
            let key = seed(byte).did();
            let expected: Vec<Did> = authors.into_iter().map(|byte| seed(byte).did()).collect();
            let signers = again.authors(&key).into_iter().map(SigningKey::did);
            assert_eq!(signers.collect::<Vec<_>>(), expected);
            assert!(again.is_own(&key));
        }
        assert!(!again.is_own(&seed(4).did()));
        let of_another = third.to_text().replace(&"01".repeat(32), &"04".repeat(32));
        assert!(OwnKeys::parse(&of_another).is_err());
    }

    #[test]
    fn error_of_a_damaged_file_does_not_repeat_its_keys() {
        let keys = OwnKeys::new(
            SigningKey::from_seed(&[7; 32]),
            Identity::from_bytes(Zeroizing::new([9; 32])),
        );
        let text = keys.to_text();
        let seed = "07".repeat(32);
        let private = hex::encode(keys.receiving.to_bytes().as_slice());
        for damaged in [
            text.replace("version = 1", "version = 2"),
            text.replace("version = 1", ""),
            text.replace(&seed, &format!("{seed}00")),
            text.replace(&private, "xyz"),
            text.replace(&seed, &"08".repeat(32)),
            format!("{}more = 1\n", *text),
        ] {
            let error = format!("{:?}", OwnKeys::parse(&damaged).unwrap_err());
            assert!(
                !error.contains(&seed) && !error.contains(&private),
                "{error}"
            );
        }
        assert!(OwnKeys::parse(&text).is_ok());
    }

    proptest! {
        #[test]
        fn identity_parser_never_panics(text in any::<String>()) {
            prop_assert!(OwnKeys::parse(&text).is_err());
        }
    }
}
