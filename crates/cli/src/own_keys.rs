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
    /// Signs statements and records.
    pub signing: SigningKey,
    /// Opens what is sealed to the user.
    pub receiving: Identity,
}

impl OwnKeys {
    /// New keys, kept in a file that must not exist yet and that only its owner may read.
    ///
    /// # Errors
    ///
    /// When there is such a file already, or it cannot be written.
    pub fn create(path: &Path, protection: Protection<'_>) -> Result<Self> {
        let keys = Self {
            signing: SigningKey::generate().context("draw a signing key")?,
            receiving: Identity::generate().context("draw a receiving key")?,
        };
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

    /// The user's name.
    pub fn did(&self) -> Did {
        self.signing.did()
    }

    /// What released keys are sealed to.
    pub fn recipient(&self) -> Recipient {
        self.receiving.recipient()
    }

    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(hex::encode(self.signing.to_seed().as_slice()));
        let private = Zeroizing::new(hex::encode(self.receiving.to_bytes().as_slice()));
        Zeroizing::new(format!(
            "version = 1\ndid = \"{}\"\nsigning_seed = \"{}\"\nreceive_private = \"{}\"\n",
            self.did(),
            *seed,
            *private
        ))
    }

    /// The keys of an identity file with this text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        // The parser's own error would quote the line, and with it a key.
        let file: IdentityFile =
            toml::from_str(text).map_err(|_| anyhow::anyhow!("not an identity file"))?;
        anyhow::ensure!(file.version == 1, "unsupported version {}", file.version);
        let keys = Self {
            signing: SigningKey::from_seed(&*secret(&file.signing_seed)?),
            receiving: Identity::from_bytes(secret(&file.receive_private)?),
        };
        let did: Did = file.did.parse()?;
        anyhow::ensure!(did == keys.did(), "`did` is not that of `signing_seed`");
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
}

impl Drop for IdentityFile {
    fn drop(&mut self) {
        self.signing_seed.zeroize();
        self.receive_private.zeroize();
    }
}

/// A private key of 64 hexadecimal digits. The error does not repeat them.
fn secret(digits: &str) -> Result<Zeroizing<[u8; 32]>> {
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
    fn error_of_a_damaged_file_does_not_repeat_its_keys() {
        let keys = OwnKeys {
            signing: SigningKey::from_seed(&[7; 32]),
            receiving: Identity::from_bytes(Zeroizing::new([9; 32])),
        };
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
