//! The daemon `medanchord`: reads the config, wires the parts, serves, and drains on shutdown.
//!
//! Scope: one process per organisation with the private IPFS peer, a replica of the anchor log, the
//! access broker and the gRPC services on one port; or an outside witness, which co-signs and nothing
//! else. [`found`] makes the keys, certificates and config files of a new network.
//!
//! Out of scope: what a user does with a payload (`medanchor-cli`). This crate never names
//! `medanchor-envelope`: a node without custody keys is blind.

mod alarms;
mod app;
mod asker;
mod auditor;
mod caller;
mod certificates;
mod clock;
mod collector;
mod config;
mod connections;
mod cosigner;
mod couriers;
mod daemon;
mod door;
mod emergencies;
mod epoch_key;
mod eraser;
mod fatal_store;
mod files;
mod follower;
mod found;
mod gatherer;
mod holders;
mod http;
mod join;
mod joined;
mod keys;
mod lag;
mod leaders;
mod log_routes;
mod membership;
mod monitor;
mod others_receipts;
mod passphrase;
mod places;
mod presence;
mod publisher;
mod remote;
mod replicator;
mod scrub;
mod server;
mod services;
mod shown_checkpoint;
mod sources;
mod submit;
mod tile_routes;
mod tls;
mod tls_trust;
mod unanchored;
mod witness;
mod witness_routes;

/// Every statement makes many small allocations, on threads that take turns.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub use app::run;
pub use config::{
    Config, EntryReaders, Folder, ForeignPeer, ForeignWitness, MemberAddress, Role, WitnessAddress,
    WitnessedLog,
};
pub use daemon::main;
pub use found::{Invitee, Plan, PlannedMember, found, invite};
pub use join::{Newcomer, join, prepare, welcome};
