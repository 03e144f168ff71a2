use crate::{CliError, Home, files};
use anyhow::{Context, Result};
use medanchor_anchor::Custody;
use medanchor_dag::CustodyId;
use medanchor_envelope::Identity;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

/// A custody key's private half, which an operator keeps as second holder. Wiped when dropped.
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
    /// Keeps it in a file that must not exist yet and that only its owner may read.
    pub(crate) fn create(&self, path: &Path) -> Result<()> {
        files::create(path, self.to_text().as_bytes())
            .with_context(|| format!("keep `{}`", path.display()))
    }

    /// Reads what [`CustodyCopy::create`] wrote.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let text = Zeroizing::new(
            files::read_text(path, MAX_BYTES).context("read the copy of the custody key")?,
        );
        Self::parse(&text).with_context(|| format!("parse `{}`", path.display()))
    }

    /// Where the copy of a key is in a home. Its folder is made where it does not exist.
    pub(crate) fn path(home: &Home, custody: &CustodyId, epoch: u32) -> Result<PathBuf> {
        Ok(home.folder(FOLDER)?.join(format!("{custody}-{epoch}.toml")))
    }

    /// All copies in a home, in the order of their names.
    pub(crate) fn all(home: &Home) -> Result<Vec<PathBuf>> {
        let folder = home.folder(FOLDER)?;
        let context = || format!("list `{}`", folder.display());
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&folder).with_context(context)? {
            let path = entry.with_context(context)?.path();
            if path.extension().is_some_and(|kind| kind == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
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

    fn to_text(&self) -> Zeroizing<String> {
        let private = Zeroizing::new(hex::encode(self.key.to_bytes().as_slice()));
        let (custody, epoch) = (&self.custody, self.epoch);
        Zeroizing::new(format!(
            "version = 1\ncustody = \"{custody}\"\nepoch = {epoch}\nprivate = \"{}\"\n",
            *private
        ))
    }

    fn parse(text: &str) -> Result<Self> {
        // The parser's own error would quote the line, and with it the key.
        let file: CopyFile =
            toml::from_str(text).map_err(|_| anyhow::anyhow!("not a copy of a custody key"))?;
        anyhow::ensure!(file.version == 1, "unsupported version {}", file.version);
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(&file.private, bytes.as_mut())
            .map_err(|_| anyhow::anyhow!("`private` is not 64 hexadecimal digits"))?;
        Ok(Self {
            custody: file.custody.parse().context("`custody` is not an id")?,
            epoch: file.epoch,
            key: Identity::from_bytes(bytes),
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CopyFile {
    version: u32,
    custody: String,
    epoch: u32,
    private: String,
}

impl Drop for CopyFile {
    fn drop(&mut self) {
        self.private.zeroize();
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
        copy().create(&path).unwrap();
        let again = CustodyCopy::open(&path).unwrap();
        assert_eq!((again.custody, again.epoch), (custody_id("patient"), 2));
        assert_eq!(*again.key.to_bytes(), *copy().key.to_bytes());
        assert_eq!(
            CustodyCopy::all(&home).unwrap(),
            std::slice::from_ref(&path)
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let before = fs::read(&path).unwrap();
        assert!(copy().create(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn copy_of_another_key_than_the_logs_is_no_copy_of_it() {
        let copy = copy();
        let mut in_force = custody("patient", "hospital-a", CustodyKind::Person);
        in_force.epoch = 2;
        in_force.key = copy.key.recipient().as_bytes().to_vec();
        copy.check(&in_force).unwrap();
        let refused = |in_force: &Custody| crate::Exit::of(&copy.check(in_force).unwrap_err());
        let mut other_key = in_force.clone();
        other_key.key[0] ^= 1;
        assert_eq!(refused(&other_key), crate::Exit::NotVerified);
        let mut other_id = in_force.clone();
        other_id.custody = custody_id("somebody else");
        assert_eq!(refused(&other_id), crate::Exit::NotVerified);
        in_force.epoch = 3;
        assert_eq!(refused(&in_force), crate::Exit::Usage);
    }

    #[test]
    fn error_of_a_damaged_file_does_not_repeat_its_key() {
        let text = copy().to_text();
        let private = hex::encode(copy().key.to_bytes().as_slice());
        assert!(CustodyCopy::parse(&text).is_ok());
        for damaged in [
            text.replace("version = 1", "version = 2"),
            text.replace(&private, &format!("{private}00")),
            text.replace(&private, &format!("{private}\"\nmore = \"1")),
            text.replace("epoch = 2", "epoch = -2"),
            text.replace("custody", "custodian"),
        ] {
            let error = format!("{:?}", CustodyCopy::parse(&damaged).unwrap_err());
            assert!(!error.contains(&private), "{error}");
        }
    }

    proptest! {
        #[test]
        fn copy_parser_never_panics(text in any::<String>()) {
            prop_assert!(CustodyCopy::parse(&text).is_err());
        }
    }
}
