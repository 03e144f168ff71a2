use crate::{CliError, Exit, Home, epoch_key::EpochKeys, files};
use anyhow::{Context, Result};
use medanchor_anchor::Custody;
use medanchor_dag::CustodyId;
use medanchor_envelope::{Identity, Recipient, SealedKey};
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// A custody key's private half, which an operator keeps as second holder, sealed to the own epoch key. Wiped when
/// dropped.
#[derive(Debug)]
pub(crate) struct CustodyCopy {
    /// The custody key's id.
    pub(crate) custody: CustodyId,
    /// Epoch of the key.
    pub(crate) epoch: u32,
    /// The key.
    pub(crate) key: Identity,
}

impl CustodyCopy {
    /// Keeps it, sealed to the holder, in a file that must not exist yet.
    pub(crate) fn create(&self, path: &Path, holder: &Recipient) -> Result<()> {
        files::create(path, self.to_text(holder).as_bytes())
            .with_context(|| format!("keep `{}`", path.display()))
    }

    /// Keeps it, sealed to another epoch key, in the place of the file that it was in.
    pub(crate) fn replace(&self, path: &Path, holder: &Recipient) -> Result<()> {
        files::replace(path, self.to_text(holder).as_bytes())
            .with_context(|| format!("replace `{}`", path.display()))
    }

    /// Of which custody key a copy is, whether it opens or not.
    pub(crate) fn custody_of(path: &Path) -> Result<CustodyId> {
        CopyFile::read(path)?.custody()
    }

    /// Of which custody keys there are copies in a home, whether they open or not.
    pub(crate) fn custodies(home: &Home) -> Result<BTreeSet<CustodyId>> {
        let mut custodies = BTreeSet::new();
        for path in Self::all(home)? {
            match Self::custody_of(&path) {
                // It is something else.
                Err(error) if Exit::of(&error) == Exit::NotVerified => (),
                custody => drop(custodies.insert(custody?)),
            }
        }
        Ok(custodies)
    }

    /// Opens what [`CustodyCopy::create`] or [`CustodyCopy::replace`] wrote for this holder.
    pub(crate) fn open(path: &Path, holder: &EpochKeys) -> Result<Self> {
        let file = CopyFile::read(path)?;
        let opened = match (file.open(&holder.now), &holder.next) {
            (Err(_), Some(next)) => file.open(next),
            (opened, _) => opened,
        };
        opened.map_err(|_| {
            let problem = format!(
                "`{}` does not open with the user's epoch key: another one has followed since it was made, it is somebody else's \
                 copy, or it was changed",
                path.display()
            );
            CliError::NotVerified(problem).into()
        })
    }

    /// Where the copy of a key is in a home. Its folder is made where it does not exist.
    pub(crate) fn path(home: &Home, custody: &CustodyId, epoch: u32) -> Result<PathBuf> {
        Ok(home.folder(FOLDER)?.join(format!("{custody}-{epoch}.toml")))
    }

    /// All copies in a home, in the order of their names.
    pub(crate) fn all(home: &Home) -> Result<Vec<PathBuf>> {
        let mut paths = files_of(home, ".toml")?;
        paths.retain(|path| path.is_file());
        paths.sort();
        Ok(paths)
    }

    /// Whether one in a home opens with this key.
    pub(crate) fn is_any_under(home: &Home, holder: &Identity) -> Result<bool> {
        let mut paths = Self::all(home)?.into_iter();
        Ok(paths.any(|path| CopyFile::read(&path).is_ok_and(|file| file.open(holder).is_ok())))
    }

    /// Destroys what crashes left of files that were to be replaced.
    pub(crate) fn destroy_half_written(home: &Home) -> Result<()> {
        let half_written = files_of(home, ".toml.new")?;
        half_written
            .iter()
            .try_for_each(|path| files::destroy(path))
    }

    /// That it is of the key that the log has in force.
    pub(crate) fn check(&self, in_force: &Custody) -> Result<()> {
        let (custody, epoch) = (&self.custody, self.epoch);
        if epoch != in_force.epoch {
            let problem = format!(
                "the copy of custody key `{custody}` is of epoch {epoch}, and the log has epoch {} in force",
                in_force.epoch
            );
            return Err(CliError::Usage(problem).into());
        }
        if *custody == in_force.custody && *self.key.recipient().as_bytes() == *in_force.key {
            return Ok(());
        }
        let problem = format!(
            "the copy is not of custody key `{}` as the log has it",
            in_force.custody
        );
        Err(CliError::NotVerified(problem).into())
    }

    fn to_text(&self, holder: &Recipient) -> String {
        let (custody, epoch) = (&self.custody, self.epoch);
        let sealed = self.key.seal_copy(holder, *custody.as_bytes(), epoch);
        format!(
            "version = 2\ncustody = \"{custody}\"\nepoch = {epoch}\npublic_key = \"{}\"\nsealed = \"{}\"\n",
            hex::encode(self.key.recipient().as_bytes()),
            hex::encode(sealed.to_bytes())
        )
    }
}

/// What is in the folder under names that end so.
fn files_of(home: &Home, ending: &str) -> Result<Vec<PathBuf>> {
    let folder = home.folder(FOLDER)?;
    let context = || format!("list `{}`", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.to_string_lossy().ends_with(ending) {
            paths.push(path);
        }
    }
    Ok(paths)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CopyFile {
    version: u32,
    custody: String,
    epoch: u32,
    public_key: String,
    sealed: String,
}

impl CopyFile {
    fn read(path: &Path) -> Result<Self> {
        // One byte more than a copy may have, so that a longer file is none.
        let mut content = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut content))
            .with_context(|| format!("read the copy of a custody key `{}`", path.display()))?;
        let parsed = str::from_utf8(&content)
            .ok()
            .filter(|text| text.len() as u64 <= MAX_BYTES)
            .context("not a copy of a custody key")
            .and_then(Self::parse);
        parsed.map_err(|error| {
            let problem = format!("`{}`: {error:#}", path.display());
            CliError::NotVerified(problem).into()
        })
    }

    fn custody(&self) -> Result<CustodyId> {
        self.custody.parse().context("`custody` is not an id")
    }

    fn parse(text: &str) -> Result<Self> {
        // The parser's own error would quote the line, which may be of a file that is something else.
        let file: Self =
            toml::from_str(text).map_err(|_| anyhow::anyhow!("not a copy of a custody key"))?;
        anyhow::ensure!(file.version == 2, "unsupported version {}", file.version);
        file.custody()?;
        Ok(file)
    }

    fn open(&self, holder: &Identity) -> Result<CustodyCopy> {
        let custody = self.custody()?;
        let mut public_key = [0; 32];
        hex::decode_to_slice(&self.public_key, &mut public_key)
            .context("`public_key` is not 64 hexadecimal digits")?;
        let public_key = Recipient::from_bytes(public_key).context("use `public_key`")?;
        let sealed = hex::decode(&self.sealed).context("`sealed` is not hexadecimal")?;
        let sealed = SealedKey::from_bytes(&sealed).context("parse `sealed`")?;
        let key = sealed.open(holder, *custody.as_bytes(), self.epoch, &public_key);
        Ok(CustodyCopy {
            custody,
            epoch: self.epoch,
            key: key.context("open `sealed`")?,
        })
    }
}

/// The folder of a home that has them.
const FOLDER: &str = "custody";
const MAX_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{
        CustodyKind,
        testing::{custody, custody_id},
    };
    use proptest::prelude::*;
    use std::{fs, os::unix::fs::PermissionsExt};
    use zeroize::Zeroizing;

    fn copy() -> CustodyCopy {
        CustodyCopy {
            custody: custody_id("patient"),
            epoch: 2,
            key: Identity::from_bytes(Zeroizing::new([9; 32])),
        }
    }

    #[test]
    fn copy_is_read_back_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        assert!(CustodyCopy::all(&home).unwrap().is_empty());
        let path = CustodyCopy::path(&home, &custody_id("patient"), 2).unwrap();
        let [holder, other] = [7, 8].map(|byte| Identity::from_bytes(Zeroizing::new([byte; 32])));
        copy().create(&path, &holder.recipient()).unwrap();
        let [holder, other] = [holder, other].map(|now| EpochKeys { now, next: None });
        let again = CustodyCopy::open(&path, &holder).unwrap();
        assert_eq!((again.custody, again.epoch), (custody_id("patient"), 2));
        assert_eq!(*again.key.to_bytes(), *copy().key.to_bytes());
        assert_eq!(
            CustodyCopy::all(&home).unwrap(),
            std::slice::from_ref(&path)
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let before = fs::read_to_string(&path).unwrap();
        assert!(copy().create(&path, &holder.now.recipient()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        let private = hex::encode(copy().key.to_bytes().as_slice());
        assert!(!before.contains(&private));
        let refused = CustodyCopy::open(&path, &other).unwrap_err();
        assert_eq!(Exit::of(&refused), Exit::NotVerified);
    }

    #[test]
    fn copy_of_another_key_than_the_logs_is_no_copy_of_it() {
        let copy = copy();
        let mut in_force = custody("patient", "hospital-a", CustodyKind::Person);
        in_force.epoch = 2;
        in_force.key = copy.key.recipient().as_bytes().to_vec();
        copy.check(&in_force).unwrap();
        let refused = |in_force: &Custody| Exit::of(&copy.check(in_force).unwrap_err());
        let mut other_key = in_force.clone();
        other_key.key[0] ^= 1;
        assert_eq!(refused(&other_key), Exit::NotVerified);
        let mut other_id = in_force.clone();
        other_id.custody = custody_id("somebody else");
        assert_eq!(refused(&other_id), Exit::NotVerified);
        in_force.epoch = 3;
        assert_eq!(refused(&in_force), Exit::Usage);
    }

    #[test]
    fn copy_that_was_changed_does_not_open() {
        let holder = Identity::from_bytes(Zeroizing::new([7; 32]));
        let text = copy().to_text(&holder.recipient());
        let open = |text: &str| CopyFile::parse(text).and_then(|file| file.open(&holder));
        assert!(open(&text).is_ok());
        let other = custody_id("somebody else").to_string();
        let own = custody_id("patient").to_string();
        let public_key = hex::encode(copy().key.recipient().as_bytes());
        let other_key = hex::encode(holder.recipient().as_bytes());
        // Another program's file, with a key in it.
        let private = "07".repeat(32);
        let error = CopyFile::parse(&format!("version = 1\nprivate = \"{private}\"\n"));
        assert!(!format!("{:?}", error.err().unwrap()).contains(&private));
        for changed in [
            text.replace("version = 2", "version = 1"),
            text.replace("epoch = 2", "epoch = 3"),
            text.replace(&own, &other),
            text.replace(&public_key, &other_key),
            text.replace("sealed = \"", "sealed = \"00"),
            format!("{text}more = 1\n"),
        ] {
            assert!(open(&changed).is_err(), "{changed}");
        }
    }

    proptest! {
        #[test]
        fn copy_parser_never_panics(text in any::<String>()) {
            prop_assert!(CopyFile::parse(&text).is_err());
        }
    }
}
