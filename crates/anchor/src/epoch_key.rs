use crate::LeafIndex;
use medanchor_dag::Did;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

/// A holder of custody keys goes over to another epoch key: it seals every custody key that it keeps to that one, and
/// destroys the one before. So a copy of its key store, however old, opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochKeyChanged {
    /// The holder.
    pub holder: Did,
    /// The epoch key until now (X25519 public key).
    pub from: ByteArray<32>,
    /// The epoch key from now on.
    pub to: ByteArray<32>,
}

/// What the log says of a holder's epoch key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochKeyEntry {
    /// The epoch key (X25519 public key).
    pub key: ByteArray<32>,
    /// The leaf since which it is that.
    pub since: LeafIndex,
}
