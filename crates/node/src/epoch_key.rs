//! The node's epoch key, to which its custody keys are sealed, and how another one takes its place (I9).
//!
//! The next one is on disk before the log names it, and the log names it before the store is sealed to it; its file is the
//! last thing to go. So whatever a crash, a failure or a restored backup has left, the same again goes on with it.

use crate::{
    config::Folder,
    keys::{self, KeyName},
    passphrase,
};
use anyhow::{Context, Result};
use medanchor_anchor::{BoxError, LeafIndex};
use medanchor_broker::{Custody, CustodyError};
use medanchor_dag::CustodyId;
use medanchor_secrets::Passphrase;
use std::{path::PathBuf, sync::Arc};
use zeroize::Zeroizing;

/// The epoch key, where it is kept, and what is sealed to it.
pub(crate) struct EpochKey {
    /// What is sealed to it.
    pub(crate) custody: Arc<Custody>,
    /// The folder with the node's keys.
    pub(crate) keys: PathBuf,
    /// The file with the passphrase that they are under.
    pub(crate) passphrase: Option<PathBuf>,
}

impl EpochKey {
    /// Whether another one is to take its place: one was made for that, or the log names one that is not in force here. That
    /// one is lost, with the custody keys that were under it; and the one in force may be one that was destroyed before.
    pub(crate) fn is_changing(&self, said: Option<[u8; 32]>) -> Result<bool> {
        let is_another = said.is_some_and(|said| said != self.custody.store_key());
        Ok(is_another || keys::exists(&self.keys, KeyName::NextCustodyStore)?)
    }

    /// The one that was made to be the next, or a new one, on disk.
    pub(crate) fn next(&self) -> Result<Zeroizing<[u8; 32]>> {
        let passphrase = self.passphrase()?;
        if keys::exists(&self.keys, KeyName::NextCustodyStore)? {
            return keys::open_under(&self.keys, KeyName::NextCustodyStore, passphrase.as_ref());
        }
        let protection = passphrase::protection(passphrase.as_ref());
        keys::create_next_epoch_key(&self.keys, protection)
    }

    /// Whether the store is sealed to this key.
    pub(crate) fn is_in_force(&self, key: &Zeroizing<[u8; 32]>) -> bool {
        self.custody.store_key() == Custody::store_key_of(key.clone())
    }

    /// `next` takes its place: what is erased is destroyed, the rest is sealed to `next`, and the one before is destroyed.
    /// `follows` is the leaf of the newest erasure.
    pub(crate) fn replace(
        &self,
        next: &Zeroizing<[u8; 32]>,
        follows: LeafIndex,
        is_erased: impl Fn(&CustodyId) -> Result<bool, BoxError>,
    ) -> Result<()> {
        if !self.is_in_force(next) {
            #[cfg(medanchor_fault)]
            medanchor_raft::fault_step("epoch-key-said");
            // Commit point: from here on the store opens with the next one alone.
            self.custody.reseal(next.clone(), follows, is_erased)?;
            #[cfg(medanchor_fault)]
            medanchor_raft::fault_step("custody-resealed");
        }
        let passphrase = self.passphrase()?;
        keys::replace_epoch_key(
            &self.keys,
            next,
            passphrase::protection(passphrase.as_ref()),
        )
    }

    /// Destroys `next`, to which nothing is sealed, so that another one is made.
    pub(crate) fn discard(&self, next: &Zeroizing<[u8; 32]>) -> Result<()> {
        anyhow::ensure!(!self.is_in_force(next), "the store is sealed to this key");
        keys::destroy_next_epoch_key(&self.keys)
    }

    fn passphrase(&self) -> Result<Option<Passphrase>> {
        self.passphrase.as_deref().map(passphrase::read).transpose()
    }
}

/// The custody keys, by the epoch key that they are under: after a crash that may be the one which was to come next.
pub(crate) fn open_custody(folder: &Folder, passphrase: Option<&Passphrase>) -> Result<Custody> {
    let keys = folder.keys();
    let open = |kek| Custody::open(&folder.custody(), kek);
    if keys::exists(&keys, KeyName::NextCustodyStore)? {
        let next = keys::open_under(&keys, KeyName::NextCustodyStore, passphrase)?;
        match open(next.clone()) {
            Ok(custody) => {
                let protection = passphrase::protection(passphrase);
                keys::replace_epoch_key(&keys, &next, protection)?;
                return Ok(custody);
            }
            Err(CustodyError::OtherKek) => (),
            Err(error) => return Err(error).context("open custody keys"),
        }
    }
    let kek = keys::open_under(&keys, KeyName::CustodyStore, passphrase)?;
    open(kek).context("open custody keys")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use medanchor_secrets::Protection;
    use std::{collections::BTreeSet, fs};

    /// A node's folder with two custody keys, and the next epoch key.
    fn stage() -> (tempfile::TempDir, Folder, [Zeroizing<[u8; 32]>; 2]) {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::new(data.path().to_owned());
        files::create_folder(&folder.keys()).unwrap();
        let now = keys::create(&folder.keys(), KeyName::CustodyStore).unwrap();
        let custody = Custody::open(&folder.custody(), now.clone()).unwrap();
        for id in [KEPT, ERASED] {
            custody.create_key(CustodyId::new(id), 0).unwrap();
        }
        let next = keys::create_next_epoch_key(&folder.keys(), Protection::Plain).unwrap();
        (data, folder, [now, next])
    }

    fn epoch_key(folder: &Folder) -> EpochKey {
        EpochKey {
            custody: Arc::new(open_custody(folder, None).unwrap()),
            keys: folder.keys(),
            passphrase: None,
        }
    }

    fn public(key: &Zeroizing<[u8; 32]>) -> [u8; 32] {
        Custody::store_key_of(key.clone())
    }

    fn none(_: &CustodyId) -> Result<bool, BoxError> {
        Ok(false)
    }

    fn opens_under(folder: &Folder, key: &Zeroizing<[u8; 32]>) {
        let custody = open_custody(folder, None).unwrap();
        assert_eq!(custody.store_key(), public(key));
        assert_eq!(custody.list().unwrap().len(), 2);
    }

    #[test]
    fn crash_before_the_store_is_sealed_anew_leaves_the_epoch_key_and_the_next_one() {
        let (_data, folder, [now, next]) = stage();
        opens_under(&folder, &now);
        let kept = keys::open(&folder.keys(), KeyName::NextCustodyStore).unwrap();
        assert_eq!(kept, next);
    }

    #[test]
    fn crash_at_any_step_after_that_leaves_the_next_one_in_the_place_of_the_old() {
        for steps in 0..4 {
            let (_data, folder, [_, next]) = stage();
            let custody = open_custody(&folder, None).unwrap();
            custody.reseal(next.clone(), 9, none).unwrap();
            drop(custody);
            let path = |name: &str| folder.keys().join(name);
            let after = path("next-custody-store.key");
            let text = fs::read_to_string(&after).unwrap();
            if steps > 0 {
                files::overwrite(&path("custody-store.key")).unwrap();
            }
            if steps > 1 {
                keys::replace_epoch_key(&folder.keys(), &next, Protection::Plain).unwrap();
            }
            if steps == 2 {
                // The old file is gone, and the other name is there still.
                files::create(&after, files::Mode::Secret, text.as_bytes()).unwrap();
            }
            opens_under(&folder, &next);
            assert!(!after.exists(), "step {steps}");
            opens_under(&folder, &next);
            let kept = keys::open(&folder.keys(), KeyName::CustodyStore).unwrap();
            assert_eq!(kept, next);
        }
    }

    #[test]
    fn crash_while_the_next_one_is_discarded_leaves_none() {
        let (_data, folder, [now, next]) = stage();
        let path = folder.keys().join("next-custody-store.key");
        files::overwrite(&path).unwrap();
        opens_under(&folder, &now);
        let epoch_key = epoch_key(&folder);
        assert!(!epoch_key.is_changing(Some(public(&now))).unwrap());
        assert_ne!(epoch_key.next().unwrap(), next);
        assert!(epoch_key.is_changing(Some(public(&now))).unwrap());
    }

    /// The log, as far as it has this node's epoch key. It refuses one that was said before.
    struct Said(Vec<[u8; 32]>);

    impl Said {
        fn now(&self) -> Option<[u8; 32]> {
            self.0.last().copied()
        }

        fn takes(&mut self, to: [u8; 32]) -> bool {
            let is_new = !self.0.contains(&to);
            self.0.extend(is_new.then_some(to));
            is_new
        }
    }

    /// What the eraser does at each look.
    fn look(key: &EpochKey, log: &mut Said) -> Result<()> {
        if !key.is_changing(log.now())? {
            return Ok(());
        }
        let next = key.next()?;
        if !key.is_in_force(&next)
            && log.now().is_some_and(|said| said != public(&next))
            && !log.takes(public(&next))
        {
            return key.discard(&next);
        }
        key.replace(&next, 9, |custody| Ok(*custody.as_bytes() == ERASED))
    }

    /// What a node finds: whether the next one's file is there, whether the store is sealed to that, and what the log has said,
    /// oldest first. Each key is a number: 1 is that of the epoch key's file, 2 the next one.
    struct Left {
        what: &'static str,
        has_next: bool,
        is_resealed: bool,
        said: &'static [u8],
        /// Whether the store goes over to a key that nobody knew.
        is_fresh: bool,
    }

    #[test]
    fn whatever_was_left_ends_with_one_key_that_the_log_names_and_never_had() {
        let left = |what, has_next, is_resealed, said, is_fresh| Left {
            what,
            has_next,
            is_resealed,
            said,
            is_fresh,
        };
        for left in [
            left("the next one was made", true, false, &[1], false),
            left("the log names it", true, false, &[1, 2], false),
            left("the store is sealed to it", true, true, &[1, 2], false),
            left("no key was ever said", true, false, &[], false),
            left(
                "the key in force is lost to the log",
                false,
                false,
                &[7],
                true,
            ),
            left(
                "a backup with a destroyed key is back",
                false,
                false,
                &[1, 7],
                true,
            ),
            left(
                "so is its next one, said long ago",
                true,
                false,
                &[1, 2, 7],
                true,
            ),
            left("so is a store sealed to that", true, true, &[1, 2, 7], true),
        ] {
            let what = left.what;
            let (_data, folder, [now, next]) = stage();
            if left.is_resealed {
                let custody = open_custody(&folder, None).unwrap();
                custody.reseal(next.clone(), 9, none).unwrap();
            }
            if !left.has_next {
                keys::destroy_next_epoch_key(&folder.keys()).unwrap();
            }
            let said = left.said.iter().map(|number| match number {
                1 => public(&now),
                2 => public(&next),
                other => [*other; 32],
            });
            let mut log = Said(said.collect());
            let key = epoch_key(&folder);
            for _ in 0..3 {
                look(&key, &mut log).unwrap();
            }
            assert!(!key.is_changing(log.now()).unwrap(), "{what}");
            let in_force = keys::open(&folder.keys(), KeyName::CustodyStore).unwrap();
            assert!(key.is_in_force(&in_force), "{what}");
            assert_ne!(in_force, now, "{what}");
            assert_eq!(in_force != next, left.is_fresh, "{what}");
            assert!(
                log.now().is_none_or(|said| said == public(&in_force)),
                "{what}"
            );
            let once: BTreeSet<_> = log.0.iter().collect();
            assert_eq!(once.len(), log.0.len(), "{what}");
            let held = key.custody.list().unwrap();
            assert!(
                held.iter().any(|held| *held.custody.as_bytes() == KEPT),
                "{what}"
            );
        }
    }

    #[test]
    fn key_whose_file_could_not_be_replaced_is_changing_until_it_is() {
        let (_data, folder, [now, next]) = stage();
        let key = epoch_key(&folder);
        let mut log = Said(vec![public(&now)]);
        // In the way of the new file.
        let blocked = folder.keys().join("custody-store.new");
        fs::create_dir(&blocked).unwrap();
        for _ in 0..2 {
            look(&key, &mut log).unwrap_err();
            assert!(key.is_in_force(&next));
            assert!(key.is_changing(log.now()).unwrap());
        }
        fs::remove_dir(&blocked).unwrap();
        look(&key, &mut log).unwrap();
        assert!(!key.is_changing(log.now()).unwrap());
        let in_force = keys::open(&folder.keys(), KeyName::CustodyStore).unwrap();
        assert_eq!(in_force, next);
        assert_eq!(log.0, [&now, &next].map(public));
    }

    #[test]
    fn key_to_which_the_store_is_sealed_is_not_discarded() {
        let (_data, folder, [now, next]) = stage();
        let key = epoch_key(&folder);
        key.discard(&now).unwrap_err();
        key.discard(&next).unwrap();
        assert!(!key.is_changing(Some(public(&now))).unwrap());
    }

    const KEPT: [u8; 16] = [1; 16];
    const ERASED: [u8; 16] = [2; 16];
}
