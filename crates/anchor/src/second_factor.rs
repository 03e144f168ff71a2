use crate::{LeafIndex, Nonce};
use medanchor_dag::Did;
use serde::{Deserialize, Serialize};

/// A person's second factor: a member's node holds its secret and says when it was shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactorEnrolled {
    /// Whose.
    pub who: Did,
    /// The factor's id: 16 random bytes.
    pub factor: Nonce,
    /// What is shown.
    pub method: FactorMethod,
    /// The node that verifies it: it signs this, too.
    pub node: Did,
}

/// A second factor counts no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactorRemoved {
    /// Whose.
    pub who: Did,
    /// The factor's id.
    pub factor: Nonce,
}

/// The node that verifies a second factor says that it was shown a moment ago. It counts until the statement's expiry,
/// inside the access requests of whose factor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactorVerified {
    /// Whose.
    pub who: Did,
    /// The factor's id.
    pub factor: Nonce,
}

/// What is shown as a second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FactorMethod {
    /// A code of six digits for 30 seconds (RFC 6238, HMAC-SHA-1).
    Totp,
}

/// A second factor of a principal, as the state has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    /// The factor's id.
    pub factor: Nonce,
    /// What is shown.
    pub method: FactorMethod,
    /// The node that verifies it.
    pub node: Did,
    /// The leaf that enrolled it.
    pub since: LeafIndex,
}

impl Factor {
    /// Second factors of one principal.
    pub const MAX: usize = 8;
}

impl FactorVerified {
    /// For how long it counts, ms.
    pub const VALIDITY_MS: u64 = 5 * 60 * 1000;
}

impl FactorMethod {
    /// The name, as statements write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Totp => "totp",
        }
    }
}
