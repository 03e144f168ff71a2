//! Replicates the anchor log and answers with committed results only.
//!
//! Scope: a [`Replica`] keeps `medanchor_anchor::Log` equal on every node by Raft (openraft), on disk
//! (redb), and between nodes ([`RaftServer`], gRPC). Concurrent submissions share entries of the Raft log;
//! whatever is acknowledged is durable on a quorum. When the disk fails to say that it wrote, the replica
//! stops ([`Replica::stopped`]) and its node must leave service.
//!
//! Raft tolerates crashes, not lies: what catches a lying leader are the co-signatures of the others.
//!
//! Every type of openraft stays in this crate. What is on the wire and on the disk are our own messages
//! (`proto/medanchor/raft/v1`), so that another Raft could read them.
//!
//! Out of scope: what a statement means (`medanchor-anchor`), TLS and who may connect (`medanchor-node`).
#![cfg_attr(
    test,
    expect(
        private_interfaces,
        reason = "tests have types of their own in the place of the runtime's"
    )
)]

mod admission;
mod alarm;
mod batcher;
mod certify;
mod codec;
mod compare;
mod config;
mod databases;
mod error;
#[cfg(medanchor_fault)]
mod fault;
mod fill;
mod filter;
mod group;
mod head_server;
mod heads;
mod layer;
mod log_store;
mod members;
mod overlay;
mod peers;
mod position;
mod reach;
mod reads;
mod rejection;
mod replica;
mod runs;
mod runtime;
mod self_check;
mod server;
mod snapshot;
mod snapshots;
mod state_store;
mod status;
mod step_aside;
mod tables;
mod tail;
mod types;

#[cfg(test)]
mod tests;

pub use alarm::{Alarm, AlarmSink};
pub use codec::CodecError;
pub use config::{Clock, Connect, Identity, ReplicaConfig};
pub use error::StoreError;
#[cfg(medanchor_fault)]
pub use fault::step as fault_step;
pub use fill::Filler;
pub use head_server::{HeadServer, HeadServiceServer};
pub use replica::{OpenError, Replica, Stopped};
pub use server::{Caller, RaftServer, RaftServiceServer};
pub use status::{ReplicaStatus, Role};
pub use types::NodeId;
