//! Erasure (I9): what is said before anything is destroyed, what each holder says afterwards, and the certificate of both.

use crate::{AccountHead, AccountOf, LeafIndex};
use medanchor_dag::{CustodyId, Did};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use std::fmt;

mod certificate;

pub use certificate::{Erasure, StatedErasure, StatedErasureError, StatedErasureFormatError};

/// What a custody key protects is erased: the tombstone. From its leaf on nothing is anchored, consented or released under
/// the key, and everybody that it lists is to destroy what they have.
///
/// It says who that is, and how much was disclosed before. `apply` compares both with the state: a release that came in
/// between makes it `stale`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erased {
    /// The custody key.
    pub custody: CustodyId,
    /// All that ever said that they hold a private key of it, sorted.
    pub holders: Vec<ErasedHolder>,
    /// The nodes of all that kept the log since the custody key was made, sorted: each has openings and may have blocks.
    pub replicas: Vec<Did>,
    /// The disclosures until now: what cannot be called back.
    pub disclosed: AccountHead,
}

/// A holder, and the epoch key under which it keeps the custody key. The state has the one of the erasure's leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasedHolder {
    /// The holder.
    pub who: Did,
    /// Its epoch key (X25519 public key), which is to be destroyed, too.
    pub epoch_key: ByteArray<32>,
}

/// Somebody's word that what an erasure lists of theirs is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroyed {
    /// Who.
    pub by: Did,
    /// The custody key.
    pub custody: CustodyId,
    /// The leaf of its erasure.
    pub erasure: LeafIndex,
    /// What is gone.
    pub gone: Gone,
}

/// What was destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gone {
    /// Of a holder: every private key of the custody, and the epoch key that the erasure lists.
    Key,
    /// Of a replica: the blocks and wraps of every record under it that nothing else needs, and the openings.
    Data,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Data => "data",
        })
    }
}

/// What the log says of an erasure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasureEntry {
    /// What was said.
    pub erased: Erased,
    /// Its leaf.
    pub since: LeafIndex,
    /// Whether every opening and every record under the key is out of the state.
    pub is_swept: bool,
    /// How many records were.
    pub records: u64,
    /// Who has said that what is listed of theirs is gone, and with which leaf.
    pub destroyed: Vec<ErasedBy>,
}

/// Who has destroyed what, and where the log says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasedBy {
    /// Who.
    pub who: Did,
    /// What.
    pub gone: Gone,
    /// The leaf.
    pub leaf: LeafIndex,
}

impl Erased {
    /// Holders in one erasure. A custody key never has more.
    pub const MAX_HOLDERS: usize = 128;
    /// Replicas in one erasure. A network never has more members, those that were removed included.
    pub const MAX_REPLICAS: usize = 256;

    /// Everything that is to be destroyed, and by whom.
    pub fn listed(&self) -> impl Iterator<Item = (Did, Gone)> {
        let keys = self.holders.iter().map(|holder| (holder.who, Gone::Key));
        keys.chain(self.replicas.iter().map(|node| (*node, Gone::Data)))
    }

    /// Who has not destroyed what is listed of theirs, if these are all that have.
    pub fn missing(&self, destroyed: &[ErasedBy]) -> impl Iterator<Item = (Did, Gone)> {
        self.listed().filter(|(who, gone)| {
            let mut destroyed = destroyed.iter();
            !destroyed.any(|by| by.who == *who && by.gone == *gone)
        })
    }

    /// The account that has what was disclosed.
    pub fn account(&self) -> AccountOf {
        AccountOf::Custody(self.custody)
    }
}

impl ErasureEntry {
    /// Who has not said yet that what is listed of theirs is gone.
    pub fn missing(&self) -> impl Iterator<Item = (Did, Gone)> {
        self.erased.missing(&self.destroyed)
    }
}
