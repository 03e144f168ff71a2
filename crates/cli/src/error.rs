use medanchor_anchor::{LeafIndex, Outcome};
use std::path::PathBuf;

/// Why a command did not do as asked, beyond what its parts say.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A broker refuses the keys.
    #[error("access is denied: {reason}")]
    Denied {
        /// The stable code.
        code: String,
        /// The condition that failed and what would change it.
        reason: String,
        /// The leaf that says so, when it is logged.
        leaf_index: Option<LeafIndex>,
    },
    /// The log recorded the statement, but it has no effect.
    #[error("the log refused the statement: {outcome}")]
    Refused {
        /// Why.
        outcome: Outcome,
        /// The leaf that says so.
        leaf_index: LeafIndex,
    },
    /// Something does not show what it must show: do not use it.
    #[error("{0}")]
    NotVerified(String),
    /// Not now: try again.
    #[error("{0}")]
    Unavailable(String),
    /// The passphrase does not open the file: try another one.
    #[error("the passphrase of `{}` is wrong", .0.display())]
    WrongPassphrase(PathBuf),
    /// The command is not given as it must be.
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    /// Why the log refused a statement, if this is that.
    pub(crate) fn outcome_of(error: &anyhow::Error) -> Option<Outcome> {
        match error.downcast_ref() {
            Some(Self::Refused { outcome, .. }) => Some(*outcome),
            _ => None,
        }
    }
}
