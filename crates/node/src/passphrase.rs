//! The passphrase that a node's [custody-store and factors keys](keys::PROTECTED) are kept under. A node runs unattended, so
//! it comes from a file: best a credential of systemd, which is in memory alone.

use crate::{
    config::{Config, Folder, Role},
    keys,
};
use anyhow::{Context, Result};
use medanchor_secrets::{Passphrase, Protection};
use std::path::Path;

/// The passphrase of a node: from the file that is given, or else from the one that its config names. Absent, its keys are in
/// clear.
pub(crate) fn of_node(config: &Config, given: Option<&Path>) -> Result<Option<Passphrase>> {
    file_of(config, given).map(read).transpose()
}

/// The file with the passphrase of a node: the one that is given, or else the one that its config names.
pub(crate) fn file_of<'a>(config: &'a Config, given: Option<&'a Path>) -> Option<&'a Path> {
    given.or(config.passphrase_file.as_deref())
}

/// The passphrase that new keys are to be kept under.
pub(crate) fn of_new_keys(file: Option<&Path>) -> Result<Option<Passphrase>> {
    let new = |file| -> Result<Passphrase> {
        let passphrase = read(file)?.for_new_files();
        passphrase.with_context(|| format!("use passphrase file `{}`", file.display()))
    };
    file.map(new).transpose()
}

/// How keys are kept with this passphrase.
pub(crate) fn protection(passphrase: Option<&Passphrase>) -> Protection<'_> {
    passphrase.map_or(Protection::Plain, Protection::Passphrase)
}

/// Puts a node's keys under another passphrase, or none. The node must not run. After a crash some keys may be under the new one
/// and others not: the same again goes on.
pub(crate) fn change(folder: &Folder, given: Option<&Path>, new: Option<&Path>) -> Result<()> {
    let config = Config::open(&folder.config())?;
    anyhow::ensure!(
        config.role == Role::Member,
        "a witness has no custody keys and no second factors: there is nothing to be put under a passphrase"
    );
    let new_passphrase = of_new_keys(new)?;
    let old = of_node(&config, given)?;
    let either: Vec<&Passphrase> = old.iter().chain(&new_passphrase).collect();
    for name in keys::protected(&folder.keys())? {
        keys::protect(
            &folder.keys(),
            name,
            &either,
            protection(new_passphrase.as_ref()),
        )?;
    }
    match new {
        Some(file) => tracing::info!(
            "the keys are under the passphrase in `{}`: name that file as `passphrase_file` in `{}`, or with \
             --passphrase-file, and keep a copy of it apart from every backup of the keys",
            file.display(),
            folder.config().display()
        ),
        None => tracing::warn!(
            "the keys are in clear: take `passphrase_file` out of `{}`",
            folder.config().display()
        ),
    }
    Ok(())
}

/// What a passphrase file holds.
pub(crate) fn read(file: &Path) -> Result<Passphrase> {
    Passphrase::read(file).with_context(|| {
        format!(
            "use passphrase file `{}`, which `passphrase_file` in the config or --passphrase-file names",
            file.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::WitnessAddress,
        found::{Plan, PlannedMember, found},
        keys::KeyName,
    };
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        path::{Path, PathBuf},
    };

    fn plan(data: &Path, passphrase_file: Option<PathBuf>) -> Plan {
        Plan {
            origin: "test.example/medanchor".to_owned(),
            members: vec![PlannedMember {
                name: "hospital".to_owned(),
                folder: data.join("node"),
                listen: "127.0.0.1:1".parse().unwrap(),
                swarm_listen: "127.0.0.1:2".parse().unwrap(),
                log_listen: "127.0.0.1:3".parse().unwrap(),
                passphrase_file,
            }],
            witnesses: vec![WitnessAddress {
                name: "regulator".to_owned(),
                address: "127.0.0.1:4".parse().unwrap(),
            }],
            foreign_witnesses: Vec::new(),
            copies: 1,
            quorum: 1,
        }
    }

    fn file(data: &Path, text: &str) -> PathBuf {
        let path = data.join(text.replace(' ', "-"));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn node_with_a_short_passphrase_or_none_in_its_file_is_not_made() {
        let data = tempfile::tempdir().unwrap();
        for wrong in [file(data.path(), "short"), data.path().join("absent")] {
            let plan = plan(data.path(), Some(wrong.clone()));
            let refused = found(&plan, |name| data.path().join(name)).unwrap_err();
            let said = format!("{refused:#}");
            assert!(said.contains(wrong.to_str().unwrap()), "{said}");
            assert!(!data.path().join("node").exists());
        }
    }

    #[test]
    fn passphrase_is_given_to_a_node_changed_and_taken_away() {
        let data = tempfile::tempdir().unwrap();
        let plan = plan(data.path(), None);
        found(&plan, |name| data.path().join(name)).unwrap();
        let folder = Folder::new(data.path().join("node"));
        let keys = keys::PROTECTED.map(|name| keys::open(&folder.keys(), name).unwrap());
        let [one, two] = ["the first passphrase", "the second passphrase"];
        let [one, two] = [one, two].map(|text| file(data.path(), text));
        change(&folder, None, Some(&one)).unwrap();
        let wrong = change(&folder, Some(&two), Some(&two)).unwrap_err();
        assert!(format!("{wrong:#}").contains("is wrong"), "{wrong:#}");
        change(&folder, Some(&one), Some(&two)).unwrap();
        let passphrase = read(&two).unwrap();
        let opened = keys::open_under(&folder.keys(), KeyName::Factors, Some(&passphrase));
        assert_eq!(opened.unwrap(), keys[1]);
        change(&folder, Some(&two), None).unwrap();
        let again = keys::PROTECTED.map(|name| keys::open(&folder.keys(), name).unwrap());
        assert_eq!(again, keys);

        let witness = Folder::new(data.path().join("regulator"));
        assert!(change(&witness, None, Some(&one)).is_err());
    }
}
