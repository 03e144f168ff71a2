use crate::{LeafIndex, Nonce};
use cid::Cid;
use medanchor_dag::{CustodyId, Did};
use serde::{Deserialize, Serialize};

/// What an organisation's node keeps until the organisation releases it: the records of a custody key, those anchored
/// later included, or one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegalHold {
    /// The hold's id: 16 random bytes. Two matters are two holds, also on the same records.
    pub hold: Nonce,
    /// The member that keeps them.
    pub org: Did,
    /// The custody key.
    pub custody: CustodyId,
    /// The one record; absent, all of the custody key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Cid>,
}

/// A legal hold is in force from now on: signed by its organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegalHoldPlaced {
    /// The hold.
    pub legal_hold: LegalHold,
    /// Why, such as a court's reference: at most 256 characters, never a patient's name. Kept in the opening only.
    pub matter: String,
}

/// What the log says of a legal hold in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegalHoldEntry {
    /// The hold.
    pub legal_hold: LegalHold,
    /// The leaf that placed it.
    pub since: LeafIndex,
}
