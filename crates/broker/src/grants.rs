use crate::{
    custody::{KEYS, has_key},
    records::Sealed,
    store::{Group, Rows, Store},
};
use medanchor_anchor::{ReleaseList, SignedStatement};
use medanchor_dag::{CborError, CustodyId, Hash, from_canonical, to_canonical};
use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

/// The grants that this broker has made, by request: an identical retry gets the same one. They hold
/// sealed wraps only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grants<'s> {
    store: &'s Store,
    keeping: &'s Keeping,
}

/// Grants that wait to be kept: many are kept at the price of one.
pub(crate) type Keeping = Group<Keep, Option<Vec<u8>>>;

/// A grant to be kept.
#[derive(Debug)]
pub(crate) struct Keep {
    request: Hash,
    row: Vec<u8>,
    custodies: Vec<CustodyId>,
    not_after: u64,
    now: u64,
}

/// A grant that is ready to be anchored, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptGrant {
    v: u8,
    /// What is released.
    pub(crate) list: ReleaseList,
    /// One wrap per row of the list, in order: canonical bytes.
    pub(crate) wraps: Vec<ByteBuf>,
    /// How many records were selected and not released, by the code that each would be refused with.
    pub(crate) left_out: BTreeMap<String, u64>,
    /// Custody keys under which there is more, and which another broker holds.
    pub(crate) elsewhere: Vec<CustodyId>,
    /// The statement that releases them.
    pub(crate) released: SignedStatement,
    /// When it is over, unix ms.
    pub(crate) not_after: u64,
}

/// Why a grant could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantsError {
    #[error("kept grant is damaged")]
    Damaged(#[from] CborError),
    #[error("grant store failed")]
    Storage(#[from] redb::Error),
}

impl KeptGrant {
    pub(crate) fn new(sealed: Sealed, released: SignedStatement, not_after: u64) -> Self {
        let wraps = sealed.wraps.iter();
        Self {
            v: 2,
            list: sealed.list,
            wraps: wraps.map(|wrap| wrap.to_bytes().into()).collect(),
            left_out: sealed.left_out,
            elsewhere: sealed.elsewhere,
            released,
            not_after,
        }
    }
}

impl<'s> Grants<'s> {
    pub(crate) fn new(store: &'s Store, keeping: &'s Keeping) -> Self {
        Self { store, keeping }
    }

    /// The grant made on this request, unless it is over at `now`, unix ms.
    pub(crate) fn find(self, request: &Hash, now: u64) -> Result<Option<KeptGrant>, GrantsError> {
        let row = self.store.read(|txn| {
            let grants = txn.open_table(GRANTS)?;
            let row = grants.get(request.as_bytes().as_slice())?;
            Ok(row.map(|row| row.value().to_vec()))
        })?;
        let grant = row.map(|row| parse(&row)).transpose()?;
        Ok(grant.filter(|grant| grant.not_after >= now))
    }

    /// Keeps a grant, unless one was made on the same request; returns the one that is kept. It is on
    /// disk when this returns. Some that are over at `now`, unix ms, are removed.
    ///
    /// A grant of a custody key that is not held any more is returned and not kept: the key was destroyed meanwhile.
    pub(crate) fn keep(
        self,
        request: &Hash,
        grant: KeptGrant,
        now: u64,
    ) -> Result<KeptGrant, GrantsError> {
        let keep = Keep {
            request: *request,
            row: to_canonical(&grant),
            custodies: grant.list.custodies().collect(),
            not_after: grant.not_after,
            now,
        };
        let first = self.keeping.write(self.store, keep, keep_first)?;
        match first {
            Some(first) => Ok(parse(&first)?),
            None => Ok(grant),
        }
    }

    /// Forgets a grant that did not take effect, if it is still the one that is kept.
    pub(crate) fn forget(self, request: &Hash, grant: &KeptGrant) -> Result<(), GrantsError> {
        let row = to_canonical(grant);
        self.store.write(|txn| {
            let (mut grants, mut expiry) = (txn.open_table(GRANTS)?, txn.open_table(EXPIRY)?);
            let key = request.as_bytes().as_slice();
            let same = grants.get(key)?.is_some_and(|kept| kept.value() == row);
            if same {
                grants.remove(key)?;
                expiry.remove(expiry_key(grant.not_after, key).as_slice())?;
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// The grant that was made on the same request before, if there is one.
fn keep_first(txn: &WriteTransaction, keep: &Keep) -> Result<Option<Vec<u8>>, redb::Error> {
    let (mut grants, mut expiry) = (txn.open_table(GRANTS)?, txn.open_table(EXPIRY)?);
    let over: Vec<Vec<u8>> = expiry
        .range(..keep.now.to_be_bytes().as_slice())?
        .take(SWEEP)
        .map(|row| row.map(|(key, _)| key.value().to_vec()))
        .collect::<Result<_, _>>()?;
    for key in over {
        expiry.remove(key.as_slice())?;
        if let Some((_, request)) = key.split_at_checked(8) {
            grants.remove(request)?;
        }
    }
    let key = keep.request.as_bytes().as_slice();
    let first = grants.get(key)?.map(|row| row.value().to_vec());
    if first.is_none() && are_held(&txn.open_table(KEYS)?, &keep.custodies)? {
        grants.insert(key, keep.row.as_slice())?;
        let ends = expiry_key(keep.not_after, key);
        expiry.insert(ends.as_slice(), [].as_slice())?;
    }
    Ok(first)
}

/// Forgets every grant of a custody key that is not held any more, and those that cannot be read.
pub(crate) fn remove_unheld(txn: &WriteTransaction) -> Result<(), redb::Error> {
    let keys = txn.open_table(KEYS)?;
    let (mut grants, mut expiry) = (txn.open_table(GRANTS)?, txn.open_table(EXPIRY)?);
    let (mut gone, mut ends) = (Vec::new(), Vec::new());
    for row in grants.iter()? {
        let (request, row) = row?;
        let request = request.value();
        if let Ok(grant) = parse(row.value()) {
            let custodies: Vec<CustodyId> = grant.list.custodies().collect();
            if are_held(&keys, &custodies)? {
                continue;
            }
            ends.push(expiry_key(grant.not_after, request));
        }
        gone.push(request.to_vec());
    }
    for request in gone {
        grants.remove(request.as_slice())?;
    }
    for end in ends {
        expiry.remove(end.as_slice())?;
    }
    Ok(())
}

fn are_held(
    keys: &impl ReadableTable<&'static [u8], &'static [u8]>,
    custodies: &[CustodyId],
) -> Result<bool, redb::Error> {
    for custody in custodies {
        if !has_key(keys, *custody)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn parse(row: &[u8]) -> Result<KeptGrant, CborError> {
    from_canonical(row, MAX_ROW_BYTES)
}

/// The end big-endian, then the request's hash.
fn expiry_key(not_after: u64, request: &[u8]) -> Vec<u8> {
    [not_after.to_be_bytes().as_slice(), request].concat()
}

/// Request hash to the grant.
pub(crate) const GRANTS: Rows = Rows::new("grants-1");
/// When a grant is over, and its request hash, to nothing.
pub(crate) const EXPIRY: Rows = Rows::new("grants-expiry-1");

/// How many grants are swept at once.
const SWEEP: usize = 64;
/// 16,384 wraps of about 350 bytes, their list and the statement.
const MAX_ROW_BYTES: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{
        ReleasePart, ReleaseRow,
        testing::{World, cid},
    };

    const TABLES: [Rows; 2] = [GRANTS, EXPIRY];

    fn hash(name: &str) -> Hash {
        Hash::of(name.as_bytes())
    }

    /// Grants of one statement are told apart by their end and wraps.
    fn grant(world: &mut World, not_after: u64) -> KeptGrant {
        let request = world.request("ines", "researcher", "HRESCH", &[cid("record")]);
        let list = ReleaseList { parts: Vec::new() };
        KeptGrant {
            v: 2,
            list,
            wraps: Vec::new(),
            left_out: BTreeMap::new(),
            elsewhere: Vec::new(),
            released: request,
            not_after,
        }
    }

    #[test]
    fn first_grant_is_kept_until_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.redb");
        let mut world = World::empty();
        let (first, second) = (grant(&mut world, 100), grant(&mut world, 200));
        let (store, keeping) = (Store::open(&path, &TABLES).unwrap(), Keeping::default());
        let kept = Grants::new(&store, &keeping)
            .keep(&hash("a"), first.clone(), 50)
            .unwrap();
        assert_eq!(kept, first);
        let kept = Grants::new(&store, &keeping)
            .keep(&hash("a"), second, 50)
            .unwrap();
        assert_eq!(kept, first);
        drop(store);

        let store = Store::open(&path, &TABLES).unwrap();
        let find = |now| Grants::new(&store, &keeping).find(&hash("a"), now).unwrap();
        assert_eq!(find(100), Some(first));
        assert_eq!(find(101), None);
        assert_eq!(
            Grants::new(&store, &keeping).find(&hash("b"), 0).unwrap(),
            None
        );
    }

    #[test]
    fn grant_is_forgotten_only_as_the_one_that_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("grants.redb"), &TABLES).unwrap();
        let keeping = Keeping::default();
        let grants = Grants::new(&store, &keeping);
        let mut world = World::empty();
        let (first, second) = (grant(&mut world, 100), grant(&mut world, 100));
        grants.keep(&hash("a"), first.clone(), 0).unwrap();
        grants.forget(&hash("a"), &second).unwrap();
        assert_eq!(grants.find(&hash("a"), 0).unwrap(), Some(first.clone()));
        grants.forget(&hash("a"), &first).unwrap();
        assert_eq!(grants.find(&hash("a"), 0).unwrap(), None);
        let kept = grants.keep(&hash("a"), second.clone(), 0).unwrap();
        assert_eq!(kept, second);
    }

    #[test]
    fn grants_that_are_over_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("grants.redb"), &TABLES).unwrap();
        let keeping = Keeping::default();
        let grants = Grants::new(&store, &keeping);
        let mut world = World::empty();
        for (name, not_after) in [("a", 10), ("b", 20), ("c", 30)] {
            let grant = grant(&mut world, not_after);
            grants.keep(&hash(name), grant, 0).unwrap();
        }
        let new = grant(&mut world, 40);
        grants.keep(&hash("d"), new, 20).unwrap();
        let is_kept = |name| grants.find(&hash(name), 0).unwrap().is_some();
        assert_eq!(["a", "b", "c", "d"].map(is_kept), [false, true, true, true]);
    }

    /// A grant of one record under a custody key.
    fn grant_of(world: &mut World, custody: CustodyId) -> KeptGrant {
        let mut grant = grant(world, 100);
        let rows = vec![ReleaseRow {
            record: cid("record"),
            device: 0,
            wrap: hash("wrap"),
        }];
        grant.list.parts.push(ReleasePart {
            custody,
            since: 0,
            consent: None,
            rows,
        });
        grant
    }

    #[test]
    fn grant_of_a_key_that_is_not_held_any_more_is_neither_kept_nor_left() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("grants.redb"), &TABLES).unwrap();
        let (keeping, mut world) = (Keeping::default(), World::empty());
        let grants = Grants::new(&store, &keeping);
        let [erased, other] = [1, 2].map(|byte| CustodyId::new([byte; 16]));
        let row = |custody: CustodyId| [custody.as_bytes().as_slice(), &[0; 4]].concat();
        let put = |custody| {
            store.write(|txn| {
                let mut keys = txn.open_table(KEYS)?;
                keys.insert(row(custody).as_slice(), [].as_slice())?;
                Ok(())
            })
        };
        put(erased).unwrap();
        put(other).unwrap();
        let is_kept = |name| grants.find(&hash(name), 0).unwrap().is_some();
        for (name, custody) in [("before", erased), ("other", other)] {
            let grant = grant_of(&mut world, custody);
            grants.keep(&hash(name), grant, 0).unwrap();
            assert!(is_kept(name));
        }
        store
            .write(|txn| {
                txn.open_table(KEYS)?.remove(row(erased).as_slice())?;
                remove_unheld(txn)
            })
            .unwrap();
        // What was under way then may be answered.
        let late = grant_of(&mut world, erased);
        let answered = grants.keep(&hash("late"), late.clone(), 0).unwrap();
        assert_eq!(answered, late);
        assert_eq!(
            ["before", "late", "other"].map(is_kept),
            [false, false, true]
        );
    }
}
