use crate::{
    CliError, OwnKeys, Recorded, Session, files,
    own_keys::secret,
    secret_file::{self, Opened},
};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, Outcome, Rotated, SignedStatement, Strength};
use medanchor_dag::SigningKey;
use medanchor_secrets::Protection;
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path};
use zeroize::{Zeroize, Zeroizing};

/// The user signs with another key.
#[derive(Clone, Debug, Serialize)]
pub struct KeyRotated {
    /// The user's name, which stays.
    pub did: String,
    /// The key that the user signs with from now on.
    pub key: String,
    /// The one that signs nothing any more.
    pub before: String,
    /// Whether an interrupted run had begun it.
    pub resumed: bool,
    /// Where the log has it.
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// A new key, and the statement that puts it in force: `identity-next.toml`.
///
/// It is on disk before any node has the statement, and stays until `identity.toml` has the key, or a receipt shows that the
/// log never will. A run that was interrupted says the same again, and the log answers with the same leaf.
struct Next {
    key: SigningKey,
    signed: SignedStatement,
}

/// Has the log take a new signing key in place of the user's, and keeps it. What is sealed to the user, and what was sealed
/// by the key of before, stays as it is.
///
/// # Errors
///
/// When the log refuses it or no node takes it. The key in force stays then, unless the log has taken the new one: the same
/// again ends it.
pub async fn rotate_key(session: &Session) -> Result<KeyRotated> {
    let home = &session.home;
    let _alone = files::unfinished(&home.join(LOCK))?;
    let keys = home.own_keys()?;
    let protection = home.protection()?;
    let protection = protection.how();
    let path = home.next_identity();
    let mut resumed = Next::read(session, &path, &keys)?;
    loop {
        let is_resumed = resumed.is_some();
        let next = match resumed.take() {
            Some(next) => next,
            None => Next::create(session, &path, &keys, protection)?,
        };
        // A node's word alone is not enough to put the key in force away.
        let strength = session.wait.strength().unwrap_or(Strength::Witnessed);
        match session.submit_for(&next.signed, strength).await {
            Ok(said) => {
                let recorded = session.recorded(&next.signed, &said)?;
                return finish(session, keys, next, protection, is_resumed, recorded);
            }
            Err(error) => match CliError::outcome_of(&error) {
                // The log never takes this statement, as a receipt shows, and so nobody will ever know the key.
                Some(outcome) => {
                    remove(&path)?;
                    if !(is_resumed && outcome == Outcome::Expired) {
                        return Err(refused(error, outcome));
                    }
                }
                None => return Err(error.context(BEGUN)),
            },
        }
    }
}

fn finish(
    session: &Session,
    keys: OwnKeys,
    next: Next,
    protection: Protection<'_>,
    resumed: bool,
    recorded: Recorded,
) -> Result<KeyRotated> {
    let key = next.key.did();
    let is_kept = keys.key() == key;
    let keys = match is_kept {
        true => keys,
        false => {
            let path = session.home.identity();
            let rotated = keys.rotated(next.key);
            // Commit point: from here the new key signs. Until then `identity-next.toml` has it.
            secret_file::replace(&path, &rotated.to_text(), protection)
                .with_context(|| format!("replace `{}`", path.display()))?;
            rotated
        }
    };
    remove(&session.home.next_identity())?;
    Ok(KeyRotated {
        did: keys.did().to_string(),
        key: key.to_string(),
        before: keys.before().unwrap_or(key).to_string(),
        resumed,
        recorded,
    })
}

impl Next {
    fn create(
        session: &Session,
        path: &Path,
        keys: &OwnKeys,
        protection: Protection<'_>,
    ) -> Result<Self> {
        let key = SigningKey::generate().context("draw a signing key")?;
        let body = Body::Rotated(Rotated {
            who: keys.did(),
            key: key.did(),
        });
        let signed = session.statement(body)?.sign(&[&keys.signing, &key]);
        let next = Self { key, signed };
        secret_file::replace(path, &next.to_text(), protection)
            .with_context(|| format!("write `{}`", path.display()))?;
        Ok(next)
    }

    /// What an interrupted run left.
    fn read(session: &Session, path: &Path, keys: &OwnKeys) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let Opened { text, .. } = secret_file::open(path, session.home.passphrases())?;
        let next = Self::parse(&text, &session.origin, keys);
        let next = next.with_context(|| format!("parse `{}`", path.display()))?;
        if next.is_over(keys) {
            remove(path)?;
            return Ok(None);
        }
        Ok(Some(next))
    }

    /// Whether it is of a key that was rotated since, as when `identity.toml` came from another copy of the home: it must not
    /// be put in force again, or never will be.
    fn is_over(&self, keys: &OwnKeys) -> bool {
        let (now, next) = (keys.key(), self.key.did());
        let follows = self.signed.signatures.iter().any(|(by, _)| *by == now);
        next != now && (keys.is_own(&next) || !follows)
    }

    fn to_text(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(hex::encode(self.key.to_seed().as_slice()));
        let statement = hex::encode(self.signed.to_bytes());
        Zeroizing::new(format!(
            "version = 1\nsigning_seed = \"{}\"\nstatement = \"{statement}\"\n",
            *seed
        ))
    }

    fn parse(text: &str, origin: &str, keys: &OwnKeys) -> Result<Self> {
        // The parser's own error would quote the line, and with it a key.
        let file: NextFile =
            toml::from_str(text).map_err(|_| anyhow::anyhow!("not a key to rotate to"))?;
        anyhow::ensure!(file.version == 1, "unsupported version {}", file.version);
        let key = SigningKey::from_seed(&*secret(&file.signing_seed)?);
        let signed = SignedStatement::from_bytes(&hex::decode(&file.statement)?)?;
        let (who, to) = (keys.did(), key.did());
        let is_its = signed.statement.origin == origin
            && matches!(&signed.statement.body, Body::Rotated(body) if (body.who, body.key) == (who, to));
        anyhow::ensure!(is_its, "it is of somebody else, or of another network");
        Ok(Self { key, signed })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NextFile {
    version: u32,
    signing_seed: String,
    statement: String,
}

impl Drop for NextFile {
    fn drop(&mut self) {
        self.signing_seed.zeroize();
    }
}

fn remove(path: &Path) -> Result<()> {
    files::remove(path).with_context(|| format!("remove `{}`", path.display()))
}

/// What to do about a rotation that the log refused.
fn refused(error: anyhow::Error, outcome: Outcome) -> anyhow::Error {
    let why = match outcome {
        Outcome::Inactive => {
            "the user or the organisation is suspended or revoked: a revoked key is followed by a new one that the organisation \
             enrols"
        }
        Outcome::Forbidden => {
            "keys of organisations and nodes are not rotated, and of others by their key in force alone"
        }
        Outcome::Expired => "the log took it too late: do the same again, and compare the clocks",
        _ => return error,
    };
    error.context(why)
}

impl fmt::Display for KeyRotated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "did        {}", self.did)?;
        writeln!(f, "signs with {}", self.key)?;
        writeln!(f, "no longer  {}", self.before)?;
        write!(f, "{}\n{KEPT}", self.recorded)
    }
}

const LOCK: &str = ".identity.lock";
const BEGUN: &str = "the rotation is begun: `medanchor key rotate` goes on with it";
const KEPT: &str =
    "Copy `identity.toml` to where its copies are, and stop other programs that use the old one.";

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::Statement;
    use medanchor_envelope::Identity;
    use proptest::prelude::*;

    const ORIGIN: &str = "test.example/medanchor";

    fn seed(byte: u8) -> SigningKey {
        SigningKey::from_seed(&[byte; 32])
    }

    /// Somebody who signs with the second of these keys.
    fn keys() -> OwnKeys {
        let receiving = Identity::from_bytes(Zeroizing::new([9; 32]));
        OwnKeys::new(seed(1), receiving).rotated(seed(2))
    }

    fn next(who: u8, from: u8, to: u8) -> Next {
        let body = Body::Rotated(Rotated {
            who: seed(who).did(),
            key: seed(to).did(),
        });
        let statement = Statement::new(ORIGIN, body, [7; 16], 9);
        Next {
            key: seed(to),
            signed: statement.sign(&[&seed(from), &seed(to)]),
        }
    }

    #[test]
    fn next_key_is_read_back_by_whose_it_is_alone() {
        let written = next(1, 2, 3);
        let text = written.to_text();
        let read = Next::parse(&text, ORIGIN, &keys()).unwrap();
        assert_eq!(read.key.did(), seed(3).did());
        assert_eq!(read.signed, written.signed);
        assert!(Next::parse(&text, "other.example/log", &keys()).is_err());
        let of_another = next(4, 4, 3).to_text();
        assert!(Next::parse(&of_another, ORIGIN, &keys()).is_err());
        let other_key = text.replace(&"03".repeat(32), &"05".repeat(32));
        let error = Next::parse(&other_key, ORIGIN, &keys())
            .map(|_| ())
            .unwrap_err();
        assert!(!format!("{error:?}").contains("0505"), "{error:?}");
        assert!(Next::parse(&format!("{}more = 1\n", *text), ORIGIN, &keys()).is_err());
    }

    #[test]
    fn rotation_is_over_once_another_key_is_in_force() {
        for (from, to, is_over, why) in [
            (2, 3, false, "it is to follow"),
            (1, 2, false, "it is in force already"),
            (1, 3, true, "another key followed instead"),
            (2, 1, true, "a key of before never comes back"),
        ] {
            assert_eq!(next(1, from, to).is_over(&keys()), is_over, "{why}");
        }
    }

    proptest! {
        #[test]
        fn next_key_parser_never_panics(text in any::<String>()) {
            prop_assert!(Next::parse(&text, ORIGIN, &keys()).is_err());
        }
    }
}
