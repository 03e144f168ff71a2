use crate::{Entry, Kind};
use cid::Cid;
use medanchor_dag::{CborError, Hash, from_canonical, sha256, to_canonical};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A leaf's place in the log, from 0.
pub type LeafIndex = u64;

/// What `apply` wrote: proves that a statement was accepted or refused, and says nothing of whose it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// Format version: 1.
    pub v: u8,
    /// Kind of the statement.
    pub kind: Kind,
    /// Log time, unix ms: never less than that of the leaf before.
    pub at: u64,
    /// `ok`, or why it was refused.
    pub outcome: Outcome,
    /// The record, in an `anchored` leaf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Cid>,
    /// Commits to the opening: [`Opening::commitment`].
    pub opening: Hash,
}

impl Leaf {
    /// The most bytes a leaf may have (C2SP tlog-tiles).
    pub const MAX_BYTES: usize = 65_535;

    /// Its canonical bytes: the entry of the transparency log.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// Parses canonical bytes.
    ///
    /// # Errors
    ///
    /// [`CborError`]; such bytes are never a leaf.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CborError> {
        from_canonical(bytes, Self::MAX_BYTES)
    }
}

/// Whether a statement took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did.
    Ok,
    /// Something it rests on changed before it was applied: decide again.
    Stale,
    /// Its time is over.
    Expired,
    /// The author may not say this.
    Forbidden,
    /// Its author, or what it names, is suspended or revoked.
    Inactive,
    /// It contradicts what the log holds: a second header, a taken id, a skipped epoch.
    Conflict,
    /// It names something that the log does not hold.
    Unknown,
    /// What it is about was erased.
    Erased,
    /// Somebody has to keep what it would destroy.
    LegallyHeld,
}

impl Outcome {
    const ALL: [Self; 9] = [
        Self::Ok,
        Self::Stale,
        Self::Expired,
        Self::Forbidden,
        Self::Inactive,
        Self::Conflict,
        Self::Unknown,
        Self::Erased,
        Self::LegallyHeld,
    ];

    /// The stable code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Forbidden => "forbidden",
            Self::Inactive => "inactive",
            Self::Conflict => "conflict",
            Self::Unknown => "unknown",
            Self::Erased => "erased",
            Self::LegallyHeld => "legal-hold",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == text)
            .ok_or_else(|| serde::de::Error::custom("not an outcome"))
    }
}

/// What a leaf commits to: the statement with its signatures, and a salt that hides them. Kept by members
/// and given to the parties; deleting it redacts the leaf, and no proof breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Opening(pub Entry);

impl Opening {
    /// The most bytes an opening may have.
    pub const MAX_BYTES: usize = crate::SignedStatement::MAX_BYTES + 64;

    /// Its canonical bytes: `{ salt, statement, signatures }`.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// Parses canonical bytes.
    ///
    /// # Errors
    ///
    /// [`CborError`]; such bytes are never an opening.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CborError> {
        from_canonical(bytes, Self::MAX_BYTES)
    }

    /// What the leaf holds: `H("medanchor/v1/opening\0" || dag-cbor(opening))`.
    pub fn commitment(&self) -> Hash {
        Self::commitment_of(&self.to_bytes())
    }

    /// What the leaf holds of an opening with these canonical bytes.
    pub(crate) fn commitment_of(opening: &[u8]) -> Hash {
        Hash::new(sha256(&[b"medanchor/v1/opening\0", opening].concat()))
    }
}
