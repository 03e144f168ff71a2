use crate::{
    CliError, Exit, Home, OwnKeys, Session,
    custody::listed,
    custody_copy::CustodyCopy,
    erasure::{erasure_of, is_erased},
    files,
    own_keys::secret,
    progress, secret_file,
};
use anyhow::{Context, Result};
use medanchor_anchor::{Attestation, Body, EpochKeyChanged, Outcome};
use medanchor_dag::CustodyId;
use medanchor_envelope::{Identity, Recipient};
use medanchor_secrets::Protection;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use std::{
    collections::BTreeSet,
    fmt,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};
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

/// That no other command changes the epoch key of the home meanwhile.
pub(crate) struct HomeLock(#[expect(dead_code, reason = "locked until it is dropped")] File);

impl HomeLock {
    /// Nobody else makes copies there either.
    pub(crate) async fn take(home: &Home) -> Result<Self> {
        Self::wait(home, File::try_lock).await
    }

    /// To make a copy there, as others may.
    pub(crate) async fn share(home: &Home) -> Result<Self> {
        Self::wait(home, File::try_lock_shared).await
    }

    /// The first, where nobody is to be waited for.
    fn take_now(home: &Home) -> Result<Self> {
        files::unfinished(&home.join(LOCK)).context(BUSY).map(Self)
    }

    async fn wait(home: &Home, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Self> {
        let (file, until) = (
            files::lockable(&home.join(LOCK))?,
            Instant::now() + LONGEST_WAIT,
        );
        loop {
            match lock(&file) {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) if Instant::now() < until => sleep(LOOK_EVERY).await,
                Err(error) => return Err(error).context(BUSY),
            }
        }
    }
}

impl EpochKeys {
    /// Those of a home.
    pub(crate) fn of(home: &Home) -> Result<Self> {
        let [now, next] = [NOW, NEXT].map(|name| home.join(name));
        if next.exists() && is_destroyed(&now)? {
            // A crash came before the next one had its name; if another command ends that meanwhile, it is the same.
            let now = read(home, &next).context("read the next epoch key")?;
            return Ok(Self { now, next: None });
        }
        let next = next.exists().then(|| read(home, &next)).transpose();
        Ok(Self {
            now: read(home, &now).context("read the epoch key")?,
            next: next.context("read the next epoch key")?,
        })
    }

    /// Whether a home has any.
    pub(crate) fn exist(home: &Home) -> bool {
        home.join(NOW).exists() || home.join(NEXT).exists()
    }

    /// Whether one is taking the place of another.
    pub(crate) fn are_changing(home: &Home) -> bool {
        home.join(NEXT).exists()
    }

    /// Those of a home, made where there are none.
    pub(crate) fn of_or_new(home: &Home, lock: &HomeLock) -> Result<Self> {
        if !Self::exist(home) {
            create(home, &home.join(NOW))?;
        }
        Self::ended(home, lock)
    }

    /// Those of a home, once what a crash left of a change is brought to its end.
    fn ended(home: &Home, lock: &HomeLock) -> Result<Self> {
        end_change(home, lock)?;
        Self::of(home)
    }

    /// Those of a home, opened when they are asked for first: a passphrase takes a second.
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

    /// Whether a public key is that of one of them.
    pub(crate) fn are(&self, key: &[u8; 32]) -> bool {
        let mut keys = [Some(&self.now), self.next.as_ref()].into_iter().flatten();
        keys.any(|own| own.recipient().as_bytes() == key)
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
        let lock = HomeLock::take_now(home)?;
        end_change(home, &lock)?;
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

/// The epoch key of a user is another one.
#[derive(Clone, Debug, Serialize)]
pub struct EpochKeyReplaced {
    /// The public key (X25519) in force, hexadecimal.
    pub epoch_key: String,
    /// Where it is kept.
    pub path: PathBuf,
}

/// Puts another epoch key in the place of the user's, which is destroyed, and seals the copies in the user's folder to it.
/// `is_lost`: the one that the log has is not in this folder, and lost for good.
///
/// # Errors
///
/// When the log refuses it, or has an epoch key that is not in this folder and not said to be lost.
pub async fn replace_epoch_key(session: &Session, is_lost: bool) -> Result<EpochKeyReplaced> {
    let keys = session.home.own_keys()?;
    let lock = HomeLock::take(&session.home).await?;
    let change = Change {
        is_lost,
        ..Change::of(session, &keys, &lock)
    };
    change.begin().await?;
    let epoch = change.next_epoch().await?;
    Ok(EpochKeyReplaced {
        epoch_key: hex::encode(epoch.public()),
        path: session.home.join(NOW),
    })
}

/// That this folder does not have the epoch key which the log has of the user.
pub(crate) fn elsewhere() -> anyhow::Error {
    CliError::Usage(ELSEWHERE.to_owned()).into()
}

/// Another epoch key takes the place of the one in force.
pub(crate) struct Change<'a> {
    pub(crate) session: &'a Session,
    pub(crate) keys: &'a OwnKeys,
    pub(crate) lock: &'a HomeLock,
    /// Whether the one that the log has, where it is not in the home, is lost for good.
    pub(crate) is_lost: bool,
    /// A custody key that is erased, as a receipt has shown.
    pub(crate) erased: Option<CustodyId>,
}

impl<'a> Change<'a> {
    pub(crate) fn of(session: &'a Session, keys: &'a OwnKeys, lock: &'a HomeLock) -> Self {
        Self {
            session,
            keys,
            lock,
            is_lost: false,
            erased: None,
        }
    }

    /// The epoch keys of a home, made where there are none and the log has none.
    pub(crate) async fn begin(&self) -> Result<EpochKeys> {
        let home = &self.session.home;
        let is_missing = !EpochKeys::exist(home) && !self.is_lost;
        if is_missing && self.said().await?.is_some() {
            return Err(elsewhere());
        }
        EpochKeys::of_or_new(home, self.lock)
    }

    /// The epoch keys of a home that are the log's. A change that was interrupted is brought to its end first.
    pub(crate) async fn settled(&self) -> Result<EpochKeys> {
        let (epoch, said) = (self.begin().await?, self.said().await?);
        match epoch.next.is_none() && said.is_none_or(|said| said == epoch.public()) {
            true => Ok(epoch),
            false => self.go_over(epoch, said).await,
        }
    }

    /// The next one takes its place. The one in force is destroyed with the copies of whatever is erased. The next one is on
    /// disk before the log names it, and the log names it before it is used; after a crash the same again goes on.
    pub(crate) async fn next_epoch(&self) -> Result<EpochKeys> {
        let epoch = EpochKeys::ended(&self.session.home, self.lock)?;
        let said = self.said().await?;
        self.go_over(epoch, said).await
    }

    async fn go_over(&self, mut epoch: EpochKeys, said: Option<[u8; 32]>) -> Result<EpochKeys> {
        let home = &self.session.home;
        if said.is_some_and(|said| !epoch.are(&said)) && !self.is_lost {
            return Err(elsewhere());
        }
        CustodyCopy::destroy_half_written(home)?;
        if epoch.next.is_none() {
            epoch.next = Some(create(home, &home.join(NEXT))?);
        }
        let next = epoch.next.as_ref().context("it was made")?.recipient();
        if let Some(from) = said
            && from != *next.as_bytes()
        {
            self.say(from, &epoch).await?;
        }
        // Looked up last: what is erased by now is not sealed to the next one.
        let erased = self.erased_here().await?;
        for (path, why) in reseal_copies(home, &epoch, &next, &erased)? {
            progress::note(&format!(
                "warning: `{}` is left as it is: {why:#}",
                path.display()
            ));
        }
        let now = home.join(NOW);
        // Commit point: from here every copy opens with the next one alone.
        files::overwrite(&now).with_context(|| format!("destroy `{}`", now.display()))?;
        EpochKeys::ended(home, self.lock)
    }

    async fn say(&self, from: [u8; 32], epoch: &EpochKeys) -> Result<()> {
        let (home, next) = (&self.session.home, epoch.next.as_ref());
        let next = next.context("there is no next epoch key")?;
        let changed = EpochKeyChanged {
            holder: self.keys.did(),
            from: ByteArray::new(from),
            to: ByteArray::new(*next.recipient().as_bytes()),
        };
        match self.session.say(self.keys, Body::EpochKey(changed)).await {
            Err(error) if CliError::outcome_of(&error) == Some(Outcome::Conflict) => {
                // It came with a backup of the home, and was in force before.
                if !CustodyCopy::is_any_under(home, next)? {
                    files::destroy(&home.join(NEXT))?;
                }
                Err(error.context(REFUSED))
            }
            said => said.map(drop),
        }
    }

    /// The user's epoch key that the log has.
    async fn said(&self) -> Result<Option<[u8; 32]>> {
        let me = self.keys.did();
        let (custodies, _) = listed(self.session).await?;
        for custody in custodies.iter().filter(|custody| custody.owner == me) {
            let erasure = erasure_of(self.session, &custody.custody).await?;
            if let Some(said) = erasure.epoch_key_of(&me) {
                return Ok(Some(said));
            }
        }
        Ok(None)
    }

    /// The custody keys with copies in the home which the log has erased.
    async fn erased_here(&self) -> Result<BTreeSet<CustodyId>> {
        let (custodies, _) = listed(self.session).await?;
        let said = custodies.iter().filter(|custody| custody.erased);
        let said: BTreeSet<CustodyId> = said.map(|custody| custody.custody).collect();
        let mut erased = BTreeSet::from_iter(self.erased);
        for custody in CustodyCopy::custodies(&self.session.home)?.intersection(&said) {
            if erased.contains(custody) || is_erased(self.session, custody).await? {
                erased.insert(*custody);
            }
        }
        Ok(erased)
    }
}

/// Destroys the copies of what is erased, whether they open or not, and seals the others to the next epoch key. Those that
/// do not open are left, and in the answer.
fn reseal_copies(
    home: &Home,
    epoch: &EpochKeys,
    next: &Recipient,
    erased: &BTreeSet<CustodyId>,
) -> Result<Vec<(PathBuf, anyhow::Error)>> {
    let mut left = Vec::new();
    for path in CustodyCopy::all(home)? {
        let reseal = || match erased.contains(&CustodyCopy::custody_of(&path)?) {
            true => files::destroy(&path),
            false => CustodyCopy::open(&path, epoch)?.replace(&path, next),
        };
        match reseal() {
            Err(error) if Exit::of(&error) == Exit::NotVerified => left.push((path, error)),
            resealed => resealed?,
        }
    }
    Ok(left)
}

/// Gives the next epoch key its name, once the one before is destroyed.
fn end_change(home: &Home, _: &HomeLock) -> Result<()> {
    let [now, next] = [NOW, NEXT].map(|name| home.join(name));
    // What a crash left while the file was replaced: the same key.
    let half_written = files::new_name(&now);
    if half_written.exists() {
        files::destroy(&half_written)?;
    }
    if next.exists() && is_destroyed(&now)? {
        files::rename(&next, &now).with_context(|| format!("rename `{}`", next.display()))?;
    }
    Ok(())
}

/// Whether there is no file of a key, or zeros were written over it: no such file has any.
fn is_destroyed(path: &Path) -> Result<bool> {
    if !path.exists() {
        return Ok(true);
    }
    let content = Zeroizing::new(files::read(path, medanchor_secrets::MAX_BYTES)?);
    Ok(content.contains(&0))
}

/// Draws one, and keeps it: whole, or not at all.
fn create(home: &Home, path: &Path) -> Result<Identity> {
    let key = Identity::generate().context("draw an epoch key")?;
    let protection = home.protection()?;
    secret_file::replace(path, &to_text(&key), protection.how())
        .with_context(|| format!("create `{}`", path.display()))?;
    Ok(key)
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

impl fmt::Display for EpochKeyReplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "epoch key  {}", self.epoch_key)?;
        writeln!(f, "kept in    {}", self.path.display())?;
        f.write_str(COPY_ANEW)
    }
}

/// What is to be done after an epoch key was replaced.
pub(crate) const COPY_ANEW: &str = "Copy `custody/` and, apart from it, `epoch-key.toml` anew: what was copied before opens with what is destroyed.";

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

const ELSEWHERE: &str = "the log has an epoch key of yours that is not in this folder: do this in the folder that has it, with the \
    copies that are sealed to it. Where it is lost for good, `medanchor custody new-epoch --lost` puts another one in its place";
const REFUSED: &str = "the next epoch key of this folder was in force before, as in a restored backup: say it again, and another one is made";
const BUSY: &str = "another command changes this folder: wait until it has ended";
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOCK: &str = ".copies.lock";
const NOW: &str = "epoch-key.toml";
const NEXT: &str = "next-epoch-key.toml";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewPassphrase;

    fn stage() -> (tempfile::TempDir, Home, HomeLock) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        crate::operations::new_key(&home, &NewPassphrase::None).unwrap();
        let lock = HomeLock::take_now(&home).unwrap();
        (folder, home, lock)
    }

    /// With a copy that the epoch key in force opens; the same epoch keys with another one to come next.
    fn with_copy_and_next(home: &Home, lock: &HomeLock) -> (PathBuf, EpochKeys) {
        let mut epoch = EpochKeys::of_or_new(home, lock).unwrap();
        let path = copy_of(home, 1, &epoch.now.recipient());
        epoch.next = Some(create(home, &home.join(NEXT)).unwrap());
        (path, epoch)
    }

    fn copy_of(home: &Home, custody: u8, holder: &Recipient) -> PathBuf {
        let custody = CustodyId::new([custody; 16]);
        let path = CustodyCopy::path(home, &custody, 0).unwrap();
        let key = Identity::generate().unwrap();
        let copy = CustodyCopy {
            custody,
            epoch: 0,
            key,
        };
        copy.create(&path, holder).unwrap();
        path
    }

    fn reseal(home: &Home, epoch: &EpochKeys, erased: &[u8]) -> Vec<(PathBuf, anyhow::Error)> {
        let erased = erased.iter().map(|byte| CustodyId::new([*byte; 16]));
        let next = epoch.next.as_ref().unwrap().recipient();
        reseal_copies(home, epoch, &next, &erased.collect()).unwrap()
    }

    #[test]
    fn epoch_key_is_made_once_and_read_back() {
        let (_folder, home, lock) = stage();
        assert!(EpochKeys::of(&home).is_err());
        let made = EpochKeys::of_or_new(&home, &lock).unwrap().public();
        assert_eq!(EpochKeys::of_or_new(&home, &lock).unwrap().public(), made);
        assert_eq!(EpochKeys::of(&home).unwrap().public(), made);
    }

    #[test]
    fn crash_at_any_step_of_a_change_leaves_every_copy_open_and_one_epoch_key_to_go_on_with() {
        for steps in 0..5 {
            let (_folder, home, lock) = stage();
            let (path, before) = with_copy_and_next(&home, &lock);
            if steps > 0 {
                reseal(&home, &before, &[]);
            }
            match steps {
                2 => files::overwrite(&home.join(NOW)).unwrap(),
                3 => files::remove(&home.join(NOW)).unwrap(),
                4 => {
                    // Half of the zeros are on disk.
                    let mut text = std::fs::read(home.join(NOW)).unwrap();
                    text[..16].fill(0);
                    std::fs::write(home.join(NOW), text).unwrap();
                }
                _ => (),
            }
            let next = before.next.as_ref().unwrap().recipient();
            for after in [
                EpochKeys::of(&home).unwrap(),
                EpochKeys::of_or_new(&home, &lock).unwrap(),
            ] {
                CustodyCopy::open(&path, &after).unwrap();
                match steps {
                    0 | 1 => {
                        assert_eq!(after.public(), before.public());
                        assert_eq!(after.next.unwrap().recipient(), next);
                    }
                    _ => {
                        assert_eq!(after.public(), *next.as_bytes());
                        assert!(after.next.is_none());
                    }
                }
            }
            assert_eq!(home.join(NEXT).exists(), steps < 2, "step {steps}");
        }
    }

    #[test]
    fn damaged_epoch_key_is_not_taken_for_a_destroyed_one() {
        let (_folder, home, lock) = stage();
        with_copy_and_next(&home, &lock);
        let next = std::fs::read(home.join(NEXT)).unwrap();
        std::fs::write(home.join(NOW), "epoch_private = \"").unwrap();
        assert!(EpochKeys::of(&home).is_err());
        assert!(EpochKeys::of_or_new(&home, &lock).is_err());
        assert_eq!(std::fs::read(home.join(NEXT)).unwrap(), next);
    }

    #[test]
    fn half_written_file_of_a_destroyed_epoch_key_does_not_stay() {
        let (_folder, home, lock) = stage();
        let before = EpochKeys::of_or_new(&home, &lock).unwrap();
        let half_written = files::new_name(&home.join(NOW));
        std::fs::copy(home.join(NOW), &half_written).unwrap();
        let after = EpochKeys::of_or_new(&home, &lock).unwrap();
        assert_eq!(after.public(), before.public());
        assert!(!half_written.exists());
    }

    #[test]
    fn copies_of_all_that_is_erased_are_destroyed_and_one_that_does_not_open_stops_nothing() {
        let (_folder, home, lock) = stage();
        let (kept, epoch) = with_copy_and_next(&home, &lock);
        let stranger = Identity::generate().unwrap().recipient();
        let opens_not = copy_of(&home, 2, &stranger);
        let erased = [(3, &epoch.now.recipient()), (4, &stranger)]
            .map(|(custody, holder)| copy_of(&home, custody, holder));
        let no_copy = kept.with_file_name("notes.toml");
        std::fs::write(&no_copy, "colour = 1").unwrap();
        let left = reseal(&home, &epoch, &[3, 4]);
        let left: Vec<_> = left.into_iter().map(|(path, _)| path).collect();
        assert_eq!(left, [opens_not.clone(), no_copy]);
        assert!(opens_not.exists());
        assert!(!erased.iter().any(|path| path.exists()));
        let after = EpochKeys {
            now: epoch.next.unwrap(),
            next: None,
        };
        CustodyCopy::open(&kept, &after).unwrap();
    }

    #[test]
    fn other_command_waits_until_a_change_has_ended() {
        let (_folder, home, lock) = stage();
        let refused = HomeLock::take_now(&home).err().unwrap();
        assert!(format!("{refused:#}").contains("another command"));
        assert!(EpochKeys::protect(&home, Protection::Plain).is_err());
        drop(lock);
        EpochKeys::protect(&home, Protection::Plain).unwrap();
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
