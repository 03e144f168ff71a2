use medanchor_anchor::{Receipt, ReleaseList};
use medanchor_dag::CustodyId;

/// What became of an access request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Keys are released, and the log says so.
    Grant(Grant),
    /// Keys are refused.
    Denial(Denial),
}

/// Released keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What is released.
    pub list: ReleaseList,
    /// One wrap per row of the list, in order: canonical DAG-CBOR of the envelope's wrap.
    pub wraps: Vec<Vec<u8>>,
    /// How many records were selected and not released, of those that the requester may know of, by the code that each would
    /// be refused with.
    pub left_out: Vec<(String, u64)>,
    /// Custody keys under which there is more for the requester, and which another broker holds.
    pub elsewhere: Vec<CustodyId>,
    /// Receipt of the `released` leaf, witnessed.
    pub receipt: Receipt,
}

/// Refused keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The stable code: `[a-z-]{1,64}`.
    pub code: String,
    /// The condition that failed and what would change it.
    pub reason: String,
    /// Receipt of the `refused` leaf, witnessed. Absent when the refusal is not logged, or cannot be proved
    /// at present.
    pub receipt: Option<Receipt>,
}

/// A refusal that is not logged.
#[derive(Debug)]
pub(crate) struct Declined {
    pub(crate) code: &'static str,
    pub(crate) reason: String,
}

impl Declined {
    pub(crate) fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }
}

impl From<Declined> for Answer {
    fn from(declined: Declined) -> Self {
        Self::Denial(Denial {
            code: declined.code.to_owned(),
            reason: declined.reason,
            receipt: None,
        })
    }
}
