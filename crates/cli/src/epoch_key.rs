use crate::{
    Home, OwnKeys, Session, custody::of_own_organisation, custody_copy::CustodyCopy, files,
    home::Passphrased, own_keys::secret, secret_file,
};
use anyhow::{Context, Result};
use medanchor_anchor::{Attestation, Body, EpochKeyChanged};
use medanchor_dag::CustodyId;
use medanchor_envelope::Identity;
use medanchor_secrets::Protection;
use serde::Deserialize;
use serde_bytes::ByteArray;
use std::path::Path;
use zeroize::{Zeroize, Zeroizing};

/// What the copies of custody keys in a home are sealed to: the holder's epoch key. It belongs into no backup that has the
/// copies, since it is replaced and destroyed whenever one of them is erased.
#[derive(Debug)]
pub(crate) struct EpochKeys {
    /// The one in force.
    pub(crate) now: Identity,
    /// The one that takes its place, while that goes on: some copies are sealed to it already.
    pub(crate) next: Option<Identity>,
}

impl EpochKeys {
    /// That of a home; made where there is none yet.
    pub(crate) fn of(home: &Home) -> Result<Self> {
        let (now, next) = (home.join(NOW), home.join(NEXT));
        if !now.exists() && !next.exists() {
            let key = Identity::generate().context("draw an epoch key")?;
            create(home, &now, &key)?;
        }
        let next = next
            .exists()
            .then(|| read(home, &next))
            .transpose()
            .context("read the next epoch key")?;
        match (read(home, &now), next) {
            // A crash came before the file of the one that took its place was gone.
            (Ok(now), Some(next)) if next.recipient() == now.recipient() => {
                Ok(Self { now, next: None })
            }
            (Ok(now), next) => Ok(Self { now, next }),
            // It was destroyed, and a crash came before the next one had its name.
            (Err(_), Some(next)) => Ok(Self {
                now: next,
                next: None,
            }),
            (Err(error), None) => Err(error).context("read the epoch key"),
        }
    }

    /// That of a home, opened when it is asked for first: a passphrase takes a second.
    pub(crate) fn once<'a>(opened: &'a mut Option<Self>, home: &Home) -> Result<&'a Self> {
        match opened {
            Some(opened) => Ok(opened),
            None => Ok(opened.insert(Self::of(home)?)),
        }
    }

    /// The public key in force.
    pub(crate) fn public(&self) -> [u8; 32] {
        *self.now.recipient().as_bytes()
    }

    /// The user's word that a custody key is held here, under the epoch key in force.
    pub(crate) fn attest(
        &self,
        keys: &OwnKeys,
        custody: CustodyId,
        epoch: u32,
        public_key: &[u8],
    ) -> Attestation {
        Attestation::sign(&keys.signing, custody, epoch, public_key, self.public())
    }

    /// Keeps the files under another passphrase from now on, or under none. After a crash some may be so already.
    pub(crate) fn protect(home: &Home, how: Protection<'_>) -> Result<()> {
        for path in [home.join(NOW), home.join(NEXT)] {
            if path.exists() && !is_under(&path, how)? {
                let text = to_text(&read(home, &path)?);
                secret_file::replace(&path, &text, how)
                    .with_context(|| format!("replace `{}`", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Another epoch key takes the place of this one, which is destroyed with the copies of what is erased. `said` is the one
/// that the log has. The next one is on disk before the log names it, and the log names it before it is used; after a crash
/// the same again goes on.
pub(crate) async fn next_epoch(
    session: &Session,
    keys: &OwnKeys,
    said: [u8; 32],
    erased: CustodyId,
) -> Result<()> {
    let home = &session.home;
    let mut epoch = EpochKeys::of(home)?;
    if epoch.next.is_none() {
        let key = Identity::generate().context("draw an epoch key")?;
        create(home, &home.join(NEXT), &key)?;
        epoch.next = Some(key);
    }
    let next = epoch.next.as_ref().context("it was made")?;
    say(session, keys, said, *next.recipient().as_bytes()).await?;
    for path in CustodyCopy::all(home)? {
        let copy = CustodyCopy::open(&path, &epoch)?;
        if copy.custody == erased {
            files::destroy(&path)?;
        } else {
            copy.replace(&path, &next.recipient())?;
        }
    }
    let now = home.join(NOW);
    let protection = home.protection()?;
    files::overwrite(&now).with_context(|| format!("destroy `{}`", now.display()))?;
    secret_file::replace(&now, &to_text(next), protection.how())
        .with_context(|| format!("replace `{}`", now.display()))?;
    let next = home.join(NEXT);
    files::remove(&next).with_context(|| format!("remove `{}`", next.display()))
}

/// Has the log know the epoch key that is in force here, where it has another one of the user's: that is lost.
pub(crate) async fn say_lost(session: &Session, keys: &OwnKeys) -> Result<()> {
    let own = of_own_organisation(session, keys).await?;
    let now = EpochKeys::of(&session.home)?.public();
    for custody in own {
        let listed = session.client.erasure(&custody.custody).await;
        let listed = listed.context("look up epoch keys")?.value;
        let said = listed.and_then(|listed| {
            let mut said = listed.epoch_keys.into_iter();
            said.find(|(who, _)| *who == keys.did())
        });
        if let Some((_, said)) = said {
            return say(session, keys, said, now).await;
        }
    }
    Ok(())
}

async fn say(session: &Session, keys: &OwnKeys, from: [u8; 32], to: [u8; 32]) -> Result<()> {
    if from == to {
        return Ok(());
    }
    let changed = EpochKeyChanged {
        holder: keys.did(),
        from: ByteArray::new(from),
        to: ByteArray::new(to),
    };
    session.say(keys, Body::EpochKey(changed)).await.map(drop)
}

fn create(home: &Home, path: &Path, key: &Identity) -> Result<()> {
    let protection: Passphrased<'_> = home.protection()?;
    // Whole, or not at all.
    secret_file::replace(path, &to_text(key), protection.how())
        .with_context(|| format!("create `{}`", path.display()))
}

/// Whether a file opens with this passphrase.
fn is_under(path: &Path, how: Protection<'_>) -> Result<bool> {
    let Protection::Passphrase(passphrase) = how else {
        return Ok(false);
    };
    let content = Zeroizing::new(files::read(path, medanchor_secrets::MAX_BYTES)?);
    Ok(medanchor_secrets::open(&content, passphrase).is_ok())
}

fn read(home: &Home, path: &Path) -> Result<Identity> {
    let opened = secret_file::open(path, home.passphrases())?;
    parse(&opened.text).with_context(|| format!("parse `{}`", path.display()))
}

fn to_text(key: &Identity) -> Zeroizing<String> {
    let private = Zeroizing::new(hex::encode(key.to_bytes().as_slice()));
    Zeroizing::new(format!("version = 1\nepoch_private = \"{}\"\n", *private))
}

fn parse(text: &str) -> Result<Identity> {
    // The parser's own error would quote the line, and with it the key.
    let file: EpochFile =
        toml::from_str(text).map_err(|_| anyhow::anyhow!("not an epoch key's file"))?;
    anyhow::ensure!(file.version == 1, "unsupported version {}", file.version);
    Ok(Identity::from_bytes(secret(&file.epoch_private)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EpochFile {
    version: u32,
    epoch_private: String,
}

impl Drop for EpochFile {
    fn drop(&mut self) {
        self.epoch_private.zeroize();
    }
}

const NOW: &str = "epoch-key.toml";
const NEXT: &str = "next-epoch-key.toml";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewPassphrase;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        crate::operations::new_key(&home, &NewPassphrase::None).unwrap();
        (folder, home)
    }

    #[test]
    fn epoch_key_is_made_once_and_read_back() {
        let (_folder, home) = home();
        let made = EpochKeys::of(&home).unwrap().public();
        assert_eq!(EpochKeys::of(&home).unwrap().public(), made);
    }

    #[test]
    fn crash_between_the_end_of_one_and_the_beginning_of_the_next_leaves_the_next() {
        let (folder, home) = home();
        EpochKeys::of(&home).unwrap();
        let next = Identity::generate().unwrap();
        create(&home, &home.join(NEXT), &next).unwrap();
        let both = EpochKeys::of(&home).unwrap();
        assert_eq!(both.next.unwrap().recipient(), next.recipient());
        files::overwrite(&folder.path().join(NOW)).unwrap();
        let left = EpochKeys::of(&home).unwrap();
        assert_eq!(left.public(), *next.recipient().as_bytes());
        assert!(left.next.is_none());
    }

    #[test]
    fn error_of_a_damaged_file_does_not_repeat_its_key() {
        let key = Identity::from_bytes(Zeroizing::new([9; 32]));
        let (text, private) = (to_text(&key), hex::encode(key.to_bytes().as_slice()));
        for damaged in [
            text.replace("version = 1", "version = 2"),
            text.replace(&private, &format!("{private}00")),
            format!("{}more = 1\n", *text),
        ] {
            let error = format!("{:?}", parse(&damaged).unwrap_err());
            assert!(!error.contains(&private), "{error}");
        }
        assert!(parse(&text).is_ok());
    }
}
