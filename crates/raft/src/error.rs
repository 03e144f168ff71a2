use crate::codec::CodecError;
use crate::runtime::{JoinError, spawn_blocking};
use crate::types::StorageError;
use medanchor_anchor::{CertificateError, Damage, TablesError};
use openraft::{AnyError, ErrorSubject, ErrorVerb, StorageIOError};
use std::sync::Arc;

/// Why the disk no longer holds, or no longer gives, what this replica relies on.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed. After a failed commit nobody knows what is durable.
    #[error("database failed")]
    Database(#[source] Box<redb::Error>),
    /// The state could not be read or written.
    #[error("state failed")]
    Tables(#[from] TablesError),
    /// A row is not what was written.
    #[error("row is not readable")]
    Codec(#[from] CodecError),
    /// A snapshot file failed.
    #[error("snapshot file failed")]
    File(#[from] std::io::Error),
    /// A snapshot is not whole.
    #[error("snapshot is damaged: {0}")]
    Snapshot(&'static str),
    /// The state is not what was written.
    #[error("this copy of the log is damaged: {0}; `medanchord rebuild-state` makes it anew")]
    Damaged(Damage),
    /// Too few members stand for a snapshot.
    #[error("snapshot is not certified")]
    Uncertified(#[from] CertificateError),
    /// The data directory belongs to another node.
    #[error("the data directory belongs to node {0}")]
    OtherNode(u64),
    /// Entries could not be written while others were told of them.
    #[error(transparent)]
    Unsynced(Arc<Self>),
    /// The disk's thread ended.
    #[error("disk task failed")]
    Task(#[from] JoinError),
}

impl StoreError {
    /// What openraft is told: whatever it is, the replica stops.
    pub(crate) fn during(&self, subject: ErrorSubject<u64>, verb: ErrorVerb) -> StorageError {
        StorageIOError::new(subject, verb, AnyError::new(self)).into()
    }
}

/// Any error of redb.
pub(crate) fn database(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database(Box::new(error.into()))
}

/// Runs disk work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await?
}
