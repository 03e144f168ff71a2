use medanchor_dag::{CborError, Did, Hash, Signature, SigningKey, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};

/// What a leader stands for when it replicates a batch: where the batch is in the replicated log, what it
/// holds, and on which tree it was written. Raft orders what a leader sends and believes it; this makes the
/// leader answer for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchHead {
    /// Format version: 1.
    pub v: u8,
    /// The network's name.
    pub origin: String,
    /// The leader's node key.
    pub node: Did,
    /// The term that it led in.
    pub term: u64,
    /// Index of the entry in the replicated log. Within a term a leader writes each index once.
    pub index: u64,
    /// Leaves in the tree that the leader had applied when it wrote the entry.
    pub size: u64,
    /// Root of that tree.
    pub root: Hash,
    /// SHA-256 of the batch's canonical bytes.
    pub batch: Hash,
}

/// A [`BatchHead`] with its leader's signature under [`BatchHead::LABEL`] over `H(dag-cbor(head))`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBatchHead {
    /// What is signed.
    pub head: BatchHead,
    /// The leader's signature.
    pub sig: Signature,
}

/// Why bytes are not a leader's word on a batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchHeadError {
    /// Not the canonical form of a head.
    #[error("batch head is malformed")]
    Malformed(#[from] CborError),
    /// Made by a newer version.
    #[error("unsupported batch head version {0}")]
    Version(u8),
    /// The node that it names did not sign it.
    #[error("batch head is not signed by `{0}`")]
    Signature(Did),
}

impl BatchHead {
    /// Label of the signature.
    pub const LABEL: &'static str = "medanchor/v1/batch-head";

    /// Signs the head; `node` must be the key that it names.
    pub fn sign(self, node: &SigningKey) -> SignedBatchHead {
        let sig = node.sign(Self::LABEL, self.digest().as_bytes());
        SignedBatchHead { head: self, sig }
    }

    fn digest(&self) -> Hash {
        Hash::of(&to_canonical(self))
    }
}

impl SignedBatchHead {
    /// The most bytes that its canonical form may have.
    pub const MAX_BYTES: usize = 1024;

    /// Its canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// Parses canonical bytes of version 1 whose signature was checked before.
    ///
    /// # Errors
    ///
    /// [`BatchHeadError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BatchHeadError> {
        let signed: Self = from_canonical(bytes, Self::MAX_BYTES)?;
        match signed.head.v {
            1 => Ok(signed),
            version => Err(BatchHeadError::Version(version)),
        }
    }

    /// Parses canonical bytes, and checks version and signature.
    ///
    /// # Errors
    ///
    /// [`BatchHeadError`]; such bytes say nothing.
    pub fn verify(bytes: &[u8]) -> Result<Self, BatchHeadError> {
        let signed = Self::from_bytes(bytes)?;
        let head = &signed.head;
        head.node
            .verify(BatchHead::LABEL, head.digest().as_bytes(), &signed.sig)
            .map_err(|_| BatchHeadError::Signature(head.node))?;
        Ok(signed)
    }

    /// How this head and another cannot both be honest, if so.
    pub fn conflict(&self, other: &Self) -> Option<BatchConflictKind> {
        let (one, two) = (&self.head, &other.head);
        if (&one.origin, one.node) != (&two.origin, two.node) {
            return None;
        }
        if (one.term, one.index) == (two.term, two.index) && one.batch != two.batch {
            let (term, index) = (one.term, one.index);
            return Some(BatchConflictKind::TwoBatches { term, index });
        }
        if one.size == two.size && one.root != two.root {
            return Some(BatchConflictKind::TwoTrees { size: one.size });
        }
        None
    }
}

/// What a leader said twice, differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchConflictKind {
    /// It gave one place in the replicated log to two batches.
    TwoBatches {
        /// The term.
        term: u64,
        /// The index.
        index: u64,
    },
    /// It wrote on two trees of one size.
    TwoTrees {
        /// Leaves in each.
        size: u64,
    },
}

impl std::fmt::Display for BatchConflictKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TwoBatches { term, index } => {
                write!(f, "two batches as entry {index} of term {term}")
            }
            Self::TwoTrees { size } => write!(f, "two trees of {size} leaves"),
        }
    }
}
