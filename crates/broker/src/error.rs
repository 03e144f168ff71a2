use crate::{CustodyError, grants::GrantsError};
use medanchor_anchor::{AppendError, BoxError, ReadError, TablesError};
use medanchor_dag::{CustodyId, Did, SourceError};

/// Why a request is not answered yet. No key was released; asking again with the same request is safe.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// This node may not answer it: it may not release under the custody key, or another broker has released keys on
    /// this very request. Send the request to one of these nodes.
    #[error("not a broker of the custody key")]
    NotBroker {
        /// The nodes that may, or the one that has.
        brokers: Vec<Did>,
    },
    /// This node is a broker of the custody key but does not hold its private half: send the request to
    /// another broker, and restore the key here.
    #[error("custody key is not held here")]
    NotHeld {
        /// The other nodes that may release under it.
        brokers: Vec<Did>,
    },
    /// The decision could not be recorded.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The state could not be read, or the leaf not be proved yet.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record or its wrap could not be fetched: try again later, or another broker.
    #[error("record could not be fetched")]
    Fetch(#[from] SourceError),
    /// What the decision rests on keeps changing: try again.
    #[error("state changed while the request was decided")]
    Unsettled {
        /// The custody keys of which something has changed; none when it was the requester's standing or the policy set.
        stale: Vec<CustodyId>,
    },
    /// None of the records that are selected is to be had as its device anchored it: try again later, or ask for each by name.
    #[error("no record of the selection can be used")]
    Unusable,
    /// The key store failed.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// The broker's own storage failed, or its process is stopping.
    #[error("broker failed")]
    Failed(#[source] BoxError),
}

impl From<TablesError> for ReleaseError {
    fn from(error: TablesError) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl From<GrantsError> for ReleaseError {
    fn from(error: GrantsError) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl From<getrandom::Error> for ReleaseError {
    fn from(error: getrandom::Error) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl From<tokio::task::JoinError> for ReleaseError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Failed(Box::new(error))
    }
}
