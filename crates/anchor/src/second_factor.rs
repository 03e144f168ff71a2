use crate::{Body, LeafIndex, Nonce, SignedStatement};
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
    /// The leaf that enrolled it: it may have been removed, and enrolled again.
    pub since: LeafIndex,
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

    /// What one node says in a network, and which: nothing of it is verified yet.
    pub fn said_by<'a>(signed: &'a SignedStatement, origin: &str) -> Option<(&'a Self, &'a Did)> {
        let Body::FactorVerified(verified) = &signed.statement.body else {
            return None;
        };
        let is_sound = signed.check_form().is_ok()
            && signed.signatures.len() == 1
            && signed.statement.origin == origin;
        Some(verified).zip(signed.author()).filter(|_| is_sound)
    }
}

impl FactorMethod {
    /// The name, as statements write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Totp => "totp",
        }
    }
}
