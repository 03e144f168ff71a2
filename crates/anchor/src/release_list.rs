//! What a release is of: every record whose key is released, under which custody key, and on what ground. It travels beside
//! its statement, which has the root of the list's tree, so that each party can be shown its own part and nothing else.

use crate::{
    InclusionProof, ProofError,
    tree::{Levels, leaf_hash},
};
use cid::Cid;
use medanchor_dag::{CborError, CustodyId, Hash, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The records of a release, in parts: one for each custody key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseList {
    /// One for each custody key that was asked for, in order, also for those of which nothing is released.
    pub parts: Vec<ReleasePart>,
}

/// What is released under one custody key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleasePart {
    /// The custody key.
    pub custody: CustodyId,
    /// The leaf that last changed the custody key; 0 where nothing is released.
    pub since: u64,
    /// The newest consent given or withdrawn under it; absent when there was none, or nothing is released.
    pub consent: Option<u64>,
    /// The records, in the order of the log or of the request.
    pub rows: Vec<ReleaseRow>,
}

/// One record's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRow {
    /// The record.
    pub record: Cid,
    /// The leaf that last changed the standing of its device.
    pub device: u64,
    /// SHA-256 of the canonical bytes of the wrap that is handed out.
    pub wrap: Hash,
}

/// What a `released` statement says of its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListHead {
    /// How many parts it has.
    pub parts: u64,
    /// How many records, in all of them.
    pub records: u64,
    /// Root of the tree (RFC 6962) over the heads of its parts.
    pub root: Hash,
}

/// A part without its rows: a leaf of the list's tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartHead {
    /// As in the part.
    pub custody: CustodyId,
    /// As in the part.
    pub since: u64,
    /// As in the part.
    pub consent: Option<u64>,
    /// How many rows it has.
    pub records: u64,
    /// Root of the tree over its rows.
    pub root: Hash,
}

/// A part of a list, and what shows that it is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartProof {
    /// The part.
    pub part: ReleasePart,
    /// Its number, from 0.
    pub place: u64,
    /// Its place in the list's tree.
    pub path: InclusionProof,
}

/// A row of a list, and what shows that it is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowProof {
    /// The row.
    pub row: ReleaseRow,
    /// Its number in its part, from 0.
    pub place: u64,
    /// Its place in the tree of its part.
    pub path: InclusionProof,
    /// The head of its part.
    pub part: PartHead,
    /// The part's number, from 0.
    pub part_place: u64,
    /// The part's place in the list's tree.
    pub part_path: InclusionProof,
}

/// Custody keys that are asked for together. Who is shown the request of one of them learns of no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cohort {
    /// How many there are.
    pub count: u64,
    /// Root of the tree (RFC 6962) over their ids, in order.
    pub root: Hash,
}

/// Why bytes are not the list of a release.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseListError {
    /// Not canonical, too long, or with unknown fields.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Too many parts or records, one that stands twice, or custody keys out of order.
    #[error("the list of a release is malformed")]
    Form,
}

impl ReleaseList {
    /// Records in one release.
    pub const MAX_RECORDS: usize = 16_384;
    /// The most bytes that its canonical form may have: so many records, each under a custody key of its own.
    pub const MAX_BYTES: usize = 3 * 1024 * 1024;

    /// Its canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// Parses canonical bytes of at most [`ReleaseList::MAX_BYTES`].
    ///
    /// # Errors
    ///
    /// [`ReleaseListError`]; such bytes are never a list.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReleaseListError> {
        let list: Self = from_canonical(bytes, Self::MAX_BYTES)?;
        match list.is_well_formed() {
            true => Ok(list),
            false => Err(ReleaseListError::Form),
        }
    }

    /// Whether it is within its bounds, its custody keys are in order and no record stands in it twice.
    pub(crate) fn is_well_formed(&self) -> bool {
        let (parts, mut records) = (&self.parts, BTreeSet::new());
        let names_nothing = |part: &ReleasePart| part.since == 0 && part.consent.is_none();
        (1..=Cohort::MAX).contains(&parts.len())
            && parts.is_sorted_by(|one, next| one.custody < next.custody)
            && (1..=Self::MAX_RECORDS).contains(&self.rows().count())
            && self.rows().all(|row| records.insert(row.record))
            && parts
                .iter()
                .all(|part| !part.rows.is_empty() || names_nothing(part))
    }

    /// All its rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &ReleaseRow> {
        self.parts.iter().flat_map(|part| &part.rows)
    }

    /// The custody keys under which something is released.
    pub fn custodies(&self) -> impl Iterator<Item = CustodyId> {
        let parts = self.parts.iter().filter(|part| !part.rows.is_empty());
        parts.map(|part| part.custody)
    }

    /// The custody keys that were asked for.
    pub fn cohort(&self) -> Cohort {
        Cohort::of(self.parts.iter().map(|part| &part.custody))
    }

    /// What its statement says of it.
    pub fn head(&self) -> ListHead {
        ListHead {
            parts: count(&self.parts),
            records: self.parts.iter().map(|part| count(&part.rows)).sum(),
            root: self.levels().root(),
        }
    }

    /// Proves the part of a custody key under which something is released.
    pub fn prove_part(&self, custody: &CustodyId) -> Option<PartProof> {
        let is_its = |part: &&ReleasePart| part.custody == *custody && !part.rows.is_empty();
        let part = self.parts.iter().find(is_its)?;
        let place = self.parts.iter().position(|one| one == part)?;
        Some(PartProof {
            part: part.clone(),
            path: self.levels().path(place),
            place: u64::try_from(place).ok()?,
        })
    }

    /// Proves every row, in order.
    pub fn prove_rows(&self) -> Vec<RowProof> {
        let list = self.levels();
        let mut proofs = Vec::new();
        for (part_place, part) in self.parts.iter().enumerate() {
            let (rows, part_path) = (part.levels(), list.path(part_place));
            let head = part.head_of(&rows);
            let proved = part.rows.iter().enumerate().map(|(place, row)| RowProof {
                row: row.clone(),
                place: number(place),
                path: rows.path(place),
                part: head.clone(),
                part_place: number(part_place),
                part_path: part_path.clone(),
            });
            proofs.extend(proved);
        }
        proofs
    }

    fn levels(&self) -> Levels {
        Levels::of(self.parts.iter().map(|part| part.head().leaf_hash()))
    }
}

impl ReleasePart {
    /// The part without its rows.
    pub fn head(&self) -> PartHead {
        self.head_of(&self.levels())
    }

    fn head_of(&self, rows: &Levels) -> PartHead {
        PartHead {
            custody: self.custody,
            since: self.since,
            consent: self.consent,
            records: count(&self.rows),
            root: rows.root(),
        }
    }

    fn levels(&self) -> Levels {
        Levels::of(self.rows.iter().map(|row| leaf_hash(&to_canonical(row))))
    }
}

impl PartHead {
    fn leaf_hash(&self) -> Hash {
        leaf_hash(&to_canonical(self))
    }
}

impl PartProof {
    /// Checks that the part is one of the list.
    ///
    /// # Errors
    ///
    /// [`ProofError`]
    pub fn verify(&self, list: &ListHead) -> Result<(), ProofError> {
        let hash = self.part.head().leaf_hash();
        self.path.verify(&hash, self.place, list.parts, &list.root)
    }
}

impl RowProof {
    /// Checks that the row is one of the list, in this part.
    ///
    /// # Errors
    ///
    /// [`ProofError`]
    pub fn verify(&self, list: &ListHead) -> Result<(), ProofError> {
        let (part, hash) = (&self.part, leaf_hash(&to_canonical(&self.row)));
        self.path
            .verify(&hash, self.place, part.records, &part.root)?;
        let hash = part.leaf_hash();
        self.part_path
            .verify(&hash, self.part_place, list.parts, &list.root)
    }
}

impl Cohort {
    /// Custody keys in one request.
    pub const MAX: usize = ReleaseList::MAX_RECORDS;

    /// Of these custody keys, which must be sorted.
    pub fn of<'a>(custodies: impl IntoIterator<Item = &'a CustodyId>) -> Self {
        let ids = custodies.into_iter();
        let levels = Levels::of(ids.map(|id| leaf_hash(id.as_bytes())));
        Self {
            count: levels.size(),
            root: levels.root(),
        }
    }

    /// Whether these are its custody keys: sorted, each once, and no more than [`Cohort::MAX`].
    pub fn is_of(&self, custodies: &[CustodyId]) -> bool {
        custodies.len() <= Self::MAX
            && custodies.is_sorted_by(|one, next| one < next)
            && Self::of(custodies) == *self
    }
}

fn count<T>(items: &[T]) -> u64 {
    number(items.len())
}

fn number(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
