use cid::Cid;
use medanchor_dag::{Codec, Hash, cid_of};
use serde::{Deserialize, Serialize};

/// The access policy set that decisions rest on from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySet {
    /// Its canonical bytes, at most [`PolicySet::MAX_BYTES`]: who has the statement needs nothing else to decide again.
    #[serde(with = "serde_bytes")]
    pub set: Vec<u8>,
}

impl PolicySet {
    /// The most bytes that an access policy set has.
    pub const MAX_BYTES: usize = 24 * 1024;

    /// The CID that names it.
    pub fn cid(&self) -> Cid {
        cid_of(Codec::DagCbor, Hash::of(&self.set).as_bytes())
    }
}
