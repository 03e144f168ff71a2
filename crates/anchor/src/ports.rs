use crate::{Hold, Leaf, LeafIndex, Receipt, ReleaseList, SignedStatement, Strength, View};
use futures::future::BoxFuture;
use std::time::Duration;

/// An error of the layer below, kept as the source.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Something to be recorded: a signed statement, with its holders' word when it anchors a record, and its list when it
/// releases keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The statement.
    pub signed: SignedStatement,
    /// The holders' signatures; empty for every other kind than `anchored`.
    pub holds: Vec<Hold>,
    /// What is released; absent for every other kind than `released`.
    pub list: Option<ReleaseList>,
}

/// Signed statements that are recorded together, with the word that their holders gave for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The statements. At most [`crate::Batch::MAX_ENTRIES`].
    pub statements: Vec<SignedStatement>,
    /// The holders' signatures; empty without an `anchored` statement.
    pub holds: Vec<Hold>,
    /// What is released; empty without a `released` statement.
    pub lists: Vec<ReleaseList>,
}

impl From<Submission> for Group {
    fn from(submission: Submission) -> Self {
        Self {
            statements: vec![submission.signed],
            holds: submission.holds,
            lists: submission.list.into_iter().collect(),
        }
    }
}

/// Where a statement ended up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its leaf's index.
    pub index: LeafIndex,
    /// Its leaf. Look at the outcome: a refusal is a leaf too.
    pub leaf: Leaf,
}

/// Puts statements into the log.
pub trait Append: Send + Sync {
    /// Waits until the statement's leaf is durable on a quorum and applied here. Saying the same again is
    /// safe: the first leaf is returned.
    fn append(&self, submission: Submission) -> BoxFuture<'_, Result<Appended, AppendError>>;
}

/// Why a statement was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// It can never be recorded as it is: no leaf was written. The code is stable.
    #[error("statement is not accepted: {0}")]
    Rejected(&'static str),
    /// Too many statements wait: retry after a pause; nothing was recorded.
    #[error("too many statements are waiting")]
    Overloaded {
        /// When there may be room again.
        retry_after: Duration,
    },
    /// No leader can be reached: try again, or another node; nothing was recorded.
    #[error("no quorum of nodes can be reached")]
    Unavailable(#[source] BoxError),
    /// It may still be recorded. Saying the same again is safe.
    #[error("outcome unknown")]
    OutcomeUnknown(#[source] BoxError),
    /// This replica no longer knows its durable state and has stopped.
    #[error("replica stopped")]
    Stopped(#[source] BoxError),
}

/// Reads the state.
pub trait Read: Send + Sync {
    /// The state as this replica has applied it, at one moment. It may be behind the leader's.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    fn view(&self) -> Result<Box<dyn View + Send + '_>, ReadError>;

    /// Waits until this replica has applied everything that was committed before the call, so that a
    /// [`Read::view`] after it is linearizable.
    fn barrier(&self) -> BoxFuture<'_, Result<(), ReadError>>;
}

/// Proves what is in the log.
pub trait Prove: Send + Sync {
    /// Waits until a checkpoint of this strength covers the leaf, and gives the proof by it.
    ///
    /// # Errors
    ///
    /// [`ReadError::Unavailable`] when too few co-signers can be reached in time: the leaf stands, ask
    /// again.
    fn receipt(
        &self,
        index: LeafIndex,
        strength: Strength,
    ) -> BoxFuture<'_, Result<Receipt, ReadError>>;
}

/// Why the state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No quorum confirms that this replica is up to date: try again, or another node.
    #[error("no quorum of nodes can be reached")]
    Unavailable(#[source] BoxError),
    /// This replica no longer knows its durable state and has stopped.
    #[error("replica stopped")]
    Stopped(#[source] BoxError),
}
