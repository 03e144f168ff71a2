use medanchor_anchor::Receipt;

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
    /// One wrap per record, in the order of the request: canonical DAG-CBOR of the envelope's wrap.
    pub wraps: Vec<Vec<u8>>,
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
