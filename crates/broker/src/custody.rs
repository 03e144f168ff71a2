use crate::{
    grants::{Grants, Keeping},
    store::{Rows, Store},
};
use medanchor_anchor::{BoxError, Row};
use medanchor_dag::{CborError, CustodyId, from_canonical, to_canonical};
use medanchor_envelope::{FormatError, Identity, OpenError, Recipient, RecipientError, SealedKey};
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};
use std::{
    path::Path,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};
use zeroize::Zeroizing;

/// A broker's custody keys, on disk.
///
/// The key-encryption key is an X25519 private key: this holder's epoch key. Each custody key is kept as a [`SealedKey`] to
/// it: the very form in which a second holder keeps its copy, bound to custody, epoch and public key. So a copy of the file
/// is worth nothing without the epoch key, which is kept elsewhere; and nothing ever again once that is
/// [replaced](Custody::reseal) and destroyed.
///
/// Synchronous: call it from a thread that may block.
pub struct Custody {
    store: Store,
    keeping: Keeping,
    /// Whoever reads or writes a row holds it, so that no row is sealed to a key that is being replaced, and none is put back
    /// that is being destroyed.
    store_key: RwLock<Identity>,
}

/// A custody key that this broker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldKey {
    /// The custody id.
    pub custody: CustodyId,
    /// Epoch of the key.
    pub epoch: u32,
    /// The public half (X25519).
    pub public_key: [u8; 32],
}

/// A custody key that this broker holds, with a copy for a second holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedKey {
    /// The public half (X25519).
    pub public_key: [u8; 32],
    /// The private half, sealed to the second holder: canonical DAG-CBOR of a [`SealedKey`].
    pub recovery_copy: Vec<u8>,
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// The key is kept from now on.
    Kept,
    /// The key was held already.
    Held,
}

/// Why the key store could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// The store was made under another key-encryption key: start with that one.
    #[error("key store was made under another key-encryption key")]
    OtherKek,
    /// This broker does not hold the key: ask another broker of the custody, or restore a copy.
    #[error("custody key `{custody}` epoch {epoch} is not held here")]
    NotHeld {
        /// The custody id.
        custody: CustodyId,
        /// Epoch of the key.
        epoch: u32,
    },
    /// The copy does not open here: have one made to this store's key, of the key that the log names.
    #[error(
        "copy of custody key `{custody}` epoch {epoch} does not open: it was made for another key store, custody, epoch or \
         key, or is damaged"
    )]
    Copy {
        /// The custody id.
        custody: CustodyId,
        /// Epoch of the key.
        epoch: u32,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store has another key of this name, which stays: find out where it comes from.
    #[error(
        "another key is held here as custody key `{custody}` epoch {epoch}, and is not replaced"
    )]
    OtherKey {
        /// The custody id.
        custody: CustodyId,
        /// Epoch of the key.
        epoch: u32,
    },
    /// The second holder's public key is not usable: let it make another.
    #[error("public key of the second holder is not 32 bytes of a sound X25519 key")]
    SecondHolder(#[source] Option<RecipientError>),
    /// The custody key is erased: no key of it is kept any more.
    #[error("custody key `{custody}` is erased")]
    Erased {
        /// The custody id.
        custody: CustodyId,
    },
    /// It could not be found out whether a custody key is erased: try again.
    #[error("it is not known whether a custody key is erased")]
    ErasedUnknown(#[source] BoxError),
    /// The operating system gave no random bytes: try again.
    #[error("no random bytes from the operating system")]
    NoRandomness(#[source] getrandom::Error),
    /// A stored row is damaged: restore the store, or the key from its second holder.
    #[error("row of the key store is damaged")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Reading or writing failed; what was acknowledged is intact.
    #[error("key store failed")]
    Storage(#[from] redb::Error),
}

impl Custody {
    /// Opens the key store at `path`, or makes it. `kek` is the key-encryption key: 32 random bytes.
    ///
    /// # Errors
    ///
    /// [`CustodyError::OtherKek`], or when the storage fails.
    pub fn open(path: &Path, kek: Zeroizing<[u8; 32]>) -> Result<Self, CustodyError> {
        let custody = Self {
            store: Store::open(
                path,
                &[KEYS, META, crate::grants::GRANTS, crate::grants::EXPIRY],
            )?,
            keeping: Keeping::default(),
            store_key: RwLock::new(Identity::from_bytes(kek)),
        };
        let expected = custody.sealing().recipient();
        let made_under = custody.store.write(|txn| {
            let mut meta = txn.open_table(META)?;
            let made_under = meta.get(STORE_KEY)?.map(|row| row.value().to_vec());
            if made_under.is_none() {
                meta.insert(STORE_KEY, expected.as_bytes().as_slice())?;
            }
            Ok(made_under)
        })?;
        match made_under {
            Some(key) if key != expected.as_bytes() => Err(CustodyError::OtherKek),
            _ => Ok(custody),
        }
    }

    /// Makes a custody key, keeps it durably, and seals a copy to a second holder, whose public key is
    /// given. Asked again, it answers with the same key.
    ///
    /// # Errors
    ///
    /// [`CustodyError`]; asking again is safe.
    pub fn create(
        &self,
        custody: CustodyId,
        epoch: u32,
        second_holder: &[u8],
    ) -> Result<CreatedKey, CustodyError> {
        let second_holder = recipient_of(second_holder)?;
        let key = self.create_key(custody, epoch)?;
        let copy = self.recovery_copy(custody, epoch, &second_holder)?;
        Ok(CreatedKey {
            public_key: *key.as_bytes(),
            recovery_copy: copy.to_bytes(),
        })
    }

    /// Makes a custody key and keeps it durably, or finds the one made before.
    ///
    /// # Errors
    ///
    /// [`CustodyError`]; asking again is safe.
    pub fn create_key(&self, custody: CustodyId, epoch: u32) -> Result<Recipient, CustodyError> {
        let fresh = Identity::generate().map_err(CustodyError::NoRandomness)?;
        let store_key = self.sealing();
        let row = KeyRow::seal(&fresh, &store_key, custody, epoch);
        let kept = self.store.write(|txn| {
            let mut keys = txn.open_table(KEYS)?;
            let key = key_of(custody, epoch);
            let kept = keys.get(key.as_slice())?.map(|row| row.value().to_vec());
            if kept.is_none() {
                keys.insert(key.as_slice(), to_canonical(&row).as_slice())?;
            }
            Ok(kept)
        })?;
        match kept {
            Some(kept) => KeyRow::parse(&kept)?.recipient(),
            None => Ok(fresh.recipient()),
        }
    }

    /// The public key (X25519) to which copies for this store are sealed.
    pub fn store_key(&self) -> [u8; 32] {
        *self.sealing().recipient().as_bytes()
    }

    /// The public key (X25519) of a key-encryption key.
    pub fn store_key_of(kek: Zeroizing<[u8; 32]>) -> [u8; 32] {
        *Identity::from_bytes(kek).recipient().as_bytes()
    }

    /// Keeps a custody key of which another holder made a copy for this store: canonical DAG-CBOR of a [`SealedKey`].
    /// `key` is the public half as the log has it: a copy of any other key is refused. No other key is overwritten, and the same copy again changes nothing. The
    /// key is on disk when this returns.
    ///
    /// `is_erased` says whether the log has an erasure of a custody key. It is asked while nothing is
    /// [sealed anew](Custody::reseal): what does that once the log has the erasure finds the key, or it is refused here.
    ///
    /// # Errors
    ///
    /// [`CustodyError::Erased`], [`CustodyError::Copy`], [`CustodyError::OtherKey`], or when the storage fails; asking again is
    /// safe.
    pub fn import(
        &self,
        custody: CustodyId,
        epoch: u32,
        key: &[u8; 32],
        copy: &[u8],
        is_erased: impl Fn(&CustodyId) -> Result<bool, BoxError>,
    ) -> Result<Imported, CustodyError> {
        let store_key = self.sealing();
        if is_erased(&custody).map_err(CustodyError::ErasedUnknown)? {
            return Err(CustodyError::Erased { custody });
        }
        let identity = open_copy(&store_key, custody, epoch, key, copy).map_err(|source| {
            CustodyError::Copy {
                custody,
                epoch,
                source,
            }
        })?;
        let row = KeyRow::seal(&identity, &store_key, custody, epoch);
        let other_key = CustodyError::OtherKey { custody, epoch };
        self.store.write(|txn| {
            let mut keys = txn.open_table(KEYS)?;
            let name = key_of(custody, epoch);
            let kept = keys.get(name.as_slice())?.map(|row| row.value().to_vec());
            let kept = kept.map_or(Kept::Nothing, |row| {
                kept_as(&store_key, &row, custody, epoch, key)
            });
            if matches!(kept, Kept::Nothing | Kept::Damaged) {
                keys.insert(name.as_slice(), to_canonical(&row).as_slice())?;
            }
            Ok(match kept {
                Kept::Nothing | Kept::Damaged => Ok(Imported::Kept),
                Kept::TheKey => Ok(Imported::Held),
                Kept::OtherKey => Err(other_key),
            })
        })?
    }

    /// Whether the private half of this public key is held, and opens.
    ///
    /// # Errors
    ///
    /// When the store fails. A damaged row is a key that is not held.
    pub fn holds(
        &self,
        custody: CustodyId,
        epoch: u32,
        key: &[u8; 32],
    ) -> Result<bool, CustodyError> {
        let store_key = self.sealing();
        let row = self.row(custody, epoch)?;
        Ok(row.is_some_and(|row| kept_as(&store_key, &row, custody, epoch, key) == Kept::TheKey))
    }

    /// A copy of a private key, sealed to another holder.
    ///
    /// # Errors
    ///
    /// [`CustodyError::NotHeld`], or when the store is damaged or fails.
    pub fn recovery_copy(
        &self,
        custody: CustodyId,
        epoch: u32,
        to: &Recipient,
    ) -> Result<SealedKey, CustodyError> {
        let store_key = self.sealing();
        let row = self.row(custody, epoch)?;
        let row = row.ok_or(CustodyError::NotHeld { custody, epoch })?;
        let identity = KeyRow::parse(&row)?.open(&store_key, custody, epoch)?;
        Ok(identity.seal_copy(to, *custody.as_bytes(), epoch))
    }

    /// Every key that is held here, in the order of id and epoch.
    ///
    /// # Errors
    ///
    /// When the store is damaged or fails.
    pub fn list(&self) -> Result<Vec<HeldKey>, CustodyError> {
        let rows = self.store.read(|txn| rows(txn, &[], &[0xff; 21]))?;
        let held = |(key, row): &Row| {
            let (custody, epoch) = parse_key(key)?;
            let public_key = KeyRow::parse(row)?.key.into_array();
            Ok(HeldKey {
                custody,
                epoch,
                public_key,
            })
        };
        rows.iter().map(held).collect()
    }

    /// The private key of a custody, of whatever epoch, whose public half has this id.
    pub(crate) fn identity(
        &self,
        custody: CustodyId,
        key_id: &[u8; 32],
    ) -> Result<Option<Identity>, CustodyError> {
        let store_key = self.sealing();
        let (first, last) = (key_of(custody, 0), key_of(custody, u32::MAX));
        for (key, row) in self.store.read(|txn| rows(txn, &first, &last))? {
            let row = KeyRow::parse(&row)?;
            if row.recipient()?.id() == *key_id {
                let (_, epoch) = parse_key(&key)?;
                return row.open(&store_key, custody, epoch).map(Some);
            }
        }
        Ok(None)
    }

    fn row(&self, custody: CustodyId, epoch: u32) -> Result<Option<Vec<u8>>, CustodyError> {
        let key = key_of(custody, epoch);
        Ok(self.store.read(|txn| {
            let keys = txn.open_table(KEYS)?;
            Ok(keys.get(key.as_slice())?.map(|row| row.value().to_vec()))
        })?)
    }

    /// The newest erasure that the key-encryption key in force followed: its leaf; 0: none. Nothing that was sealed before that
    /// erasure opens here.
    ///
    /// # Errors
    ///
    /// When the store is damaged or fails.
    pub fn follows(&self) -> Result<u64, CustodyError> {
        let row = self.store.read(|txn| {
            let meta = txn.open_table(META)?;
            Ok(meta.get(FOLLOWS)?.map(|row| row.value().to_vec()))
        })?;
        let Some(row) = row else {
            return Ok(0);
        };
        row.as_slice()
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(damaged)
    }

    /// Destroys every private key of the custodies that are erased, with the grants that were made of them, and seals the others
    /// to another key-encryption key. From its commit on, the file opens with that one alone, and the one before may be
    /// destroyed. Another row that opened nothing before stays as it is.
    ///
    /// `is_erased` says whether the log has an erasure of a custody key. It is asked while nobody keeps a key, so that none
    /// which is erased by then is sealed to the next key-encryption key. `follows` is the leaf of the newest erasure before this
    /// began.
    ///
    /// # Errors
    ///
    /// [`CustodyError::ErasedUnknown`], or when the storage fails: all is as it was then.
    pub fn reseal(
        &self,
        kek: Zeroizing<[u8; 32]>,
        follows: u64,
        is_erased: impl Fn(&CustodyId) -> Result<bool, BoxError>,
    ) -> Result<(), CustodyError> {
        let next = Identity::from_bytes(kek);
        let mut store_key = self
            .store_key
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let erased = self.erased(is_erased)?;
        self.store.write(|txn| {
            for custody in &erased {
                destroy(txn, *custody)?;
            }
            crate::grants::remove_unheld(txn)?;
            reseal_all(txn, &store_key, &next)?;
            let mut meta = txn.open_table(META)?;
            meta.insert(STORE_KEY, next.recipient().as_bytes().as_slice())?;
            meta.insert(FOLLOWS, follows.to_be_bytes().as_slice())?;
            Ok(())
        })?;
        *store_key = next;
        Ok(())
    }

    /// The erased ones among those that a row is named after. Each row of them counts, also one that opens nothing.
    fn erased(
        &self,
        is_erased: impl Fn(&CustodyId) -> Result<bool, BoxError>,
    ) -> Result<Vec<CustodyId>, CustodyError> {
        let mut named = self.store.read(|txn| {
            let keys = txn.open_table(KEYS)?;
            let mut named = Vec::new();
            for row in keys.iter()? {
                let (name, _) = row?;
                named.extend(parse_key(name.value()).map(|(custody, _)| custody));
            }
            Ok(named)
        })?;
        named.dedup();
        let mut erased = Vec::new();
        for custody in named {
            if is_erased(&custody).map_err(CustodyError::ErasedUnknown)? {
                erased.push(custody);
            }
        }
        Ok(erased)
    }

    fn sealing(&self) -> RwLockReadGuard<'_, Identity> {
        self.store_key
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The grants that were made and are not over.
    pub(crate) fn grants(&self) -> Grants<'_> {
        Grants::new(&self.store, &self.keeping)
    }
}

impl std::fmt::Debug for Custody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Custody").finish_non_exhaustive()
    }
}

fn open_copy(
    store_key: &Identity,
    custody: CustodyId,
    epoch: u32,
    key: &[u8; 32],
    copy: &[u8],
) -> Result<Identity, Box<dyn std::error::Error + Send + Sync>> {
    let (copy, key) = (SealedKey::from_bytes(copy)?, Recipient::from_bytes(*key)?);
    Ok(copy.open(store_key, *custody.as_bytes(), epoch, &key)?)
}

/// What a row is to whoever looks for the private half of `key`.
fn kept_as(
    store_key: &Identity,
    row: &[u8],
    custody: CustodyId,
    epoch: u32,
    key: &[u8; 32],
) -> Kept {
    let Ok(row) = KeyRow::parse(row) else {
        return Kept::Damaged;
    };
    if *row.key != *key {
        return Kept::OtherKey;
    }
    match row.open(store_key, custody, epoch) {
        Ok(_) => Kept::TheKey,
        Err(_) => Kept::Damaged,
    }
}

/// Whether there is a row of a custody.
pub(crate) fn has_key(
    keys: &impl ReadableTable<&'static [u8], &'static [u8]>,
    custody: CustodyId,
) -> Result<bool, redb::Error> {
    let (first, last) = (key_of(custody, 0), key_of(custody, u32::MAX));
    let mut rows = keys.range(first.as_slice()..=last.as_slice())?;
    Ok(rows.next().transpose()?.is_some())
}

fn destroy(txn: &WriteTransaction, custody: CustodyId) -> Result<(), redb::Error> {
    let (first, last) = (key_of(custody, 0), key_of(custody, u32::MAX));
    let mut keys = txn.open_table(KEYS)?;
    keys.retain_in(first.as_slice()..=last.as_slice(), |_, _| false)?;
    Ok(())
}

fn reseal_all(txn: &WriteTransaction, from: &Identity, to: &Identity) -> Result<(), redb::Error> {
    let mut keys = txn.open_table(KEYS)?;
    let mut resealed = Vec::new();
    for row in keys.iter()? {
        let (name, row) = row?;
        let (name, row) = (name.value().to_vec(), row.value().to_vec());
        if let Some(row) = resealed_row(&name, &row, from, to) {
            resealed.push((name, row));
        }
    }
    for (name, row) in resealed {
        keys.insert(name.as_slice(), to_canonical(&row).as_slice())?;
    }
    Ok(())
}

/// The row under another key-encryption key; `None` of one that opens nothing.
fn resealed_row(name: &[u8], row: &[u8], from: &Identity, to: &Identity) -> Option<KeyRow> {
    let (custody, epoch) = parse_key(name).ok()?;
    let key = KeyRow::parse(row).ok()?.open(from, custody, epoch).ok()?;
    Some(KeyRow::seal(&key, to, custody, epoch))
}

/// What the store has under the name of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Nothing,
    /// The very key, and it opens.
    TheKey,
    /// Another public key: whatever it is of, it stays.
    OtherKey,
    /// A row that opens nothing.
    Damaged,
}

/// A custody key as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRow {
    v: u8,
    /// The public half.
    key: ByteArray<32>,
    /// The private half, sealed to the store's key.
    sealed: ByteBuf,
}

impl KeyRow {
    fn seal(key: &Identity, store_key: &Identity, custody: CustodyId, epoch: u32) -> Self {
        let sealed = key.seal_copy(&store_key.recipient(), *custody.as_bytes(), epoch);
        Self {
            v: 1,
            key: ByteArray::new(*key.recipient().as_bytes()),
            sealed: ByteBuf::from(sealed.to_bytes()),
        }
    }

    fn parse(row: &[u8]) -> Result<Self, CustodyError> {
        from_canonical(row, MAX_ROW_BYTES).map_err(|error: CborError| damaged(error))
    }

    fn recipient(&self) -> Result<Recipient, CustodyError> {
        Recipient::from_bytes(*self.key).map_err(damaged)
    }

    fn open(
        &self,
        store_key: &Identity,
        custody: CustodyId,
        epoch: u32,
    ) -> Result<Identity, CustodyError> {
        let sealed =
            SealedKey::from_bytes(&self.sealed).map_err(|error: FormatError| damaged(error))?;
        sealed
            .open(store_key, *custody.as_bytes(), epoch, &self.recipient()?)
            .map_err(|error: OpenError| damaged(error))
    }
}

fn rows(txn: &ReadTransaction, first: &[u8], last: &[u8]) -> Result<Vec<Row>, redb::Error> {
    let keys = txn.open_table(KEYS)?;
    let mut rows = Vec::new();
    for row in keys.range(first..=last)? {
        let (key, row) = row?;
        rows.push((key.value().to_vec(), row.value().to_vec()));
    }
    Ok(rows)
}

fn recipient_of(second_holder: &[u8]) -> Result<Recipient, CustodyError> {
    let bytes = second_holder
        .try_into()
        .map_err(|_| CustodyError::SecondHolder(None))?;
    Recipient::from_bytes(bytes).map_err(|error| CustodyError::SecondHolder(Some(error)))
}

/// Custody id, then the epoch big-endian.
fn key_of(custody: CustodyId, epoch: u32) -> Vec<u8> {
    [custody.as_bytes().as_slice(), &epoch.to_be_bytes()].concat()
}

fn parse_key(key: &[u8]) -> Result<(CustodyId, u32), CustodyError> {
    let parts = key.split_first_chunk().and_then(|(custody, epoch)| {
        let epoch = u32::from_be_bytes(epoch.try_into().ok()?);
        Some((CustodyId::new(*custody), epoch))
    });
    parts.ok_or_else(|| damaged(KeyLength))
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> CustodyError {
    CustodyError::Damaged(Box::new(error))
}

#[derive(Debug, thiserror::Error)]
#[error("key of a row is not 20 bytes")]
struct KeyLength;

/// Custody id and epoch to the private key.
pub(crate) const KEYS: Rows = Rows::new("custody-keys-1");
const META: Rows = Rows::new("meta-1");
const STORE_KEY: &[u8] = b"store-key";
const FOLLOWS: &[u8] = b"follows";
const MAX_ROW_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> CustodyId {
        CustodyId::new([7; 16])
    }

    fn kek(byte: u8) -> Zeroizing<[u8; 32]> {
        Zeroizing::new([byte; 32])
    }

    /// Nothing is erased.
    fn none(_: &CustodyId) -> Result<bool, BoxError> {
        Ok(false)
    }

    fn only_id(custody: &CustodyId) -> Result<bool, BoxError> {
        Ok(*custody == id())
    }

    /// Puts a row under the name of a key.
    fn put(store: &Custody, epoch: u32, row: &[u8]) {
        let put = store.store.write(|txn| {
            let mut keys = txn.open_table(KEYS)?;
            keys.insert(key_of(id(), epoch).as_slice(), row)?;
            Ok(())
        });
        put.unwrap();
    }

    fn open(folder: &tempfile::TempDir) -> Custody {
        Custody::open(&folder.path().join("custody.redb"), kek(1)).unwrap()
    }

    #[test]
    fn key_is_made_once_and_survives_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let first = store.create_key(id(), 0).unwrap();
        assert_eq!(store.create_key(id(), 0).unwrap(), first);
        let next = store.create_key(id(), 1).unwrap();
        assert_ne!(next, first);
        drop(store);

        let store = open(&folder);
        assert_eq!(store.create_key(id(), 0).unwrap(), first);
        let held = |epoch, key: Recipient| HeldKey {
            custody: id(),
            epoch,
            public_key: *key.as_bytes(),
        };
        assert_eq!(store.list().unwrap(), [held(0, first), held(1, next)]);
        for key in [first, next] {
            let identity = store.identity(id(), &key.id()).unwrap().unwrap();
            assert_eq!(identity.recipient(), key);
        }
        let other = CustodyId::new([8; 16]);
        assert!(store.identity(other, &first.id()).unwrap().is_none());
    }

    #[test]
    fn second_holder_opens_its_copy() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let holder = Identity::generate().unwrap();
        let created = store
            .create(id(), 3, holder.recipient().as_bytes())
            .unwrap();
        let copy = SealedKey::from_bytes(&created.recovery_copy).unwrap();
        let key = store.create_key(id(), 3).unwrap();
        assert_eq!(&created.public_key, key.as_bytes());
        let opened = copy.open(&holder, *id().as_bytes(), 3, &key).unwrap();
        assert_eq!(opened.recipient(), key);
    }

    #[test]
    fn copies_are_refused_for_unknown_keys_and_unsound_holders() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let holder = Identity::generate().unwrap().recipient();
        assert!(matches!(
            store.recovery_copy(id(), 0, &holder),
            Err(CustodyError::NotHeld { .. })
        ));
        for holder in [&[0; 32][..], &[9; 31], &[]] {
            assert!(matches!(
                store.create(id(), 0, holder),
                Err(CustodyError::SecondHolder(_))
            ));
        }
        assert_eq!(store.list().unwrap(), []);
    }

    /// A key that another store holds, and its copy for `to`.
    fn copied(to: &Custody, epoch: u32) -> ([u8; 32], Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let other = Custody::open(&folder.path().join("custody.redb"), kek(2)).unwrap();
        let created = other.create(id(), epoch, &to.store_key()).unwrap();
        (created.public_key, created.recovery_copy)
    }

    #[test]
    fn copy_of_another_holder_is_kept_once_and_survives_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let (key, copy) = copied(&store, 3);
        assert!(!store.holds(id(), 3, &key).unwrap());
        assert_eq!(
            store.import(id(), 3, &key, &copy, none).unwrap(),
            Imported::Kept
        );
        drop(store);
        let store = open(&folder);
        assert!(store.holds(id(), 3, &key).unwrap());
        let recipient = Recipient::from_bytes(key).unwrap();
        let identity = store.identity(id(), &recipient.id()).unwrap().unwrap();
        assert_eq!(identity.recipient(), recipient);
        assert_eq!(
            store.import(id(), 3, &key, &copy, none).unwrap(),
            Imported::Held
        );
        assert_eq!(store.create_key(id(), 3).unwrap(), recipient);
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn copy_for_anything_else_is_refused_and_nothing_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let (key, copy) = copied(&store, 3);
        let (other_key, copy_of_another) = copied(&store, 3);
        let another_folder = tempfile::tempdir().unwrap();
        let another = Custody::open(&another_folder.path().join("custody.redb"), kek(4)).unwrap();
        let other_id = CustodyId::new([8; 16]);
        for (store, custody, epoch, key, copy) in [
            (&store, other_id, 3, &key, &copy),
            (&store, id(), 4, &key, &copy),
            (&store, id(), 3, &other_key, &copy),
            (&store, id(), 3, &key, &copy_of_another),
            (&another, id(), 3, &key, &copy),
        ] {
            let imported = store.import(custody, epoch, key, copy, none);
            assert!(matches!(imported, Err(CustodyError::Copy { .. })));
            assert_eq!(store.list().unwrap(), []);
        }
        for at in 0..copy.len() {
            let mut flipped = copy.clone();
            flipped[at] ^= 1;
            let imported = store.import(id(), 3, &key, &flipped, none);
            assert!(matches!(imported, Err(CustodyError::Copy { .. })), "{at}");
        }
        assert_eq!(store.list().unwrap(), []);
    }

    #[test]
    fn import_overwrites_no_other_key() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let own = *store.create_key(id(), 3).unwrap().as_bytes();
        let (key, copy) = copied(&store, 3);
        let imported = store.import(id(), 3, &key, &copy, none);
        assert!(matches!(imported, Err(CustodyError::OtherKey { .. })));
        assert!(store.holds(id(), 3, &own).unwrap());
        assert!(!store.holds(id(), 3, &key).unwrap());
    }

    #[test]
    fn import_mends_a_row_that_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let (key, copy) = copied(&store, 3);
        store.import(id(), 3, &key, &copy, none).unwrap();
        let other = Identity::generate().unwrap();
        let mut sealed_to_another = KeyRow::seal(&other, &other, id(), 3);
        sealed_to_another.key = ByteArray::new(key);
        for row in [b"nonsense".to_vec(), to_canonical(&sealed_to_another)] {
            put(&store, 3, &row);
            assert!(!store.holds(id(), 3, &key).unwrap());
            assert_eq!(
                store.import(id(), 3, &key, &copy, none).unwrap(),
                Imported::Kept
            );
            assert!(store.holds(id(), 3, &key).unwrap());
        }
    }

    #[test]
    fn store_does_not_open_under_another_kek() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(&folder));
        let opened = Custody::open(&folder.path().join("custody.redb"), kek(2));
        assert!(matches!(opened, Err(CustodyError::OtherKek)));
        open(&folder);
    }

    #[test]
    fn file_holds_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let key = store.create_key(id(), 0).unwrap();
        let secret = store.identity(id(), &key.id()).unwrap().unwrap().to_bytes();
        drop(store);
        let file = std::fs::read(folder.path().join("custody.redb")).unwrap();
        let holds = |bytes: &[u8]| file.windows(bytes.len()).any(|window| window == bytes);
        assert!(holds(key.as_bytes()));
        assert!(!holds(secret.as_ref()));
        assert!(!holds(&secret[..16]));
        assert!(!holds(&[1; 32]));
    }

    #[test]
    fn resealed_store_opens_with_the_new_key_alone_and_has_every_key_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let (path, backup) = (
            folder.path().join("custody.redb"),
            folder.path().join("backup.redb"),
        );
        let store = open(&folder);
        let keys = [0, 1].map(|epoch| store.create_key(id(), epoch).unwrap());
        drop(store);
        std::fs::copy(&path, &backup).unwrap();
        let store = open(&folder);
        store.reseal(kek(9), 7, none).unwrap();
        let under = Identity::from_bytes(kek(9)).recipient();
        assert_eq!(store.store_key(), *under.as_bytes());
        for (epoch, key) in (0..).zip(&keys) {
            assert!(store.holds(id(), epoch, key.as_bytes()).unwrap());
        }
        let third = store.create_key(id(), 2).unwrap();
        drop(store);
        let old = Custody::open(&path, kek(1));
        assert!(matches!(old, Err(CustodyError::OtherKek)));
        let store = Custody::open(&path, kek(9)).unwrap();
        assert!(store.holds(id(), 2, third.as_bytes()).unwrap());
        drop(store);
        // The backup is as old as its key: without that, nothing opens it.
        let restored = Custody::open(&backup, kek(9));
        assert!(matches!(restored, Err(CustodyError::OtherKek)));
    }

    #[test]
    fn erased_keys_are_destroyed_where_the_others_are_sealed_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let other = CustodyId::new([8; 16]);
        let kept = store.create_key(other, 0).unwrap();
        let keys = [0, 1, 2].map(|epoch| store.create_key(id(), epoch).unwrap());
        assert_eq!(store.follows().unwrap(), 0);
        store.reseal(kek(9), 7, only_id).unwrap();
        assert_eq!(store.follows().unwrap(), 7);
        for (epoch, key) in (0..).zip(&keys) {
            assert!(!store.holds(id(), epoch, key.as_bytes()).unwrap());
        }
        let held = store.list().unwrap();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].public_key, *kept.as_bytes());
        assert!(store.holds(other, 0, kept.as_bytes()).unwrap());
    }

    #[test]
    fn damaged_row_of_an_erased_custody_is_destroyed() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        put(&store, 0, b"nonsense");
        assert!(store.list().is_err());
        store.reseal(kek(9), 7, only_id).unwrap();
        assert_eq!(store.list().unwrap(), []);
    }

    #[test]
    fn nothing_is_sealed_anew_while_it_is_not_known_what_is_erased() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let before = store.store_key();
        store.create_key(id(), 0).unwrap();
        let unknown = |_: &CustodyId| Err("no state".into());
        let resealed = store.reseal(kek(9), 7, unknown);
        assert!(matches!(resealed, Err(CustodyError::ErasedUnknown(_))));
        assert_eq!(store.store_key(), before);
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn copy_of_an_erased_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let (key, copy) = copied(&store, 3);
        let imported = store.import(id(), 3, &key, &copy, only_id);
        assert!(matches!(imported, Err(CustodyError::Erased { .. })));
        assert_eq!(store.list().unwrap(), []);
    }

    #[test]
    fn import_under_way_puts_back_no_key_that_is_destroyed() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let (key, copy) = copied(&store, 3);
        std::thread::scope(|scope| {
            // The erasure comes as soon as the import has seen that there is none, and is done before that writes, if it can be.
            let erased_just_then = |_: &CustodyId| {
                let (done, waits) = std::sync::mpsc::channel();
                let store = &store;
                scope.spawn(move || {
                    store.reseal(kek(9), 7, only_id).unwrap();
                    let _ = done.send(());
                });
                let _ = waits.recv_timeout(std::time::Duration::from_millis(100));
                Ok(false)
            };
            store
                .import(id(), 3, &key, &copy, erased_just_then)
                .unwrap();
        });
        assert!(!store.holds(id(), 3, &key).unwrap());
    }

    #[test]
    fn row_that_opens_nothing_does_not_keep_the_others_from_being_resealed() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let key = store.create_key(id(), 0).unwrap();
        put(&store, 1, b"nonsense");
        store.reseal(kek(9), 7, none).unwrap();
        assert!(store.holds(id(), 0, key.as_bytes()).unwrap());
    }

    #[test]
    fn damaged_row_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let key = store.create_key(id(), 0).unwrap();
        let other = Identity::generate().unwrap();
        let mut row = KeyRow::seal(&other, &other, id(), 0);
        row.key = ByteArray::new(*key.as_bytes());
        put(&store, 0, &to_canonical(&row));
        let opened = store.identity(id(), &key.id());
        assert!(matches!(opened, Err(CustodyError::Damaged(_))));
        put(&store, 0, b"nonsense");
        assert!(matches!(store.list(), Err(CustodyError::Damaged(_))));
    }
}
