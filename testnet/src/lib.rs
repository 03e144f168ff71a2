//! Starts, kills and restarts real nodes on loopback: the demo, the soak and the end-to-end tests.
//!
//! Every node is a process of its own, with real certificates and a private swarm. `medanchord` and
//! `medanchor` are this same program, run again with their name as the first argument, so that one
//! command builds everything.
//!
//! Out of scope: anything that a real deployment needs; a real node is `medanchord` alone.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]
#![expect(
    clippy::indexing_slicing,
    reason = "a field that a JSON value does not have reads as null"
)]

mod authenticator;
mod commands;
mod demo;
mod fault;
mod history;
mod interrupt;
mod load;
mod network;
mod node;
mod people;
mod run;
mod run_folder;
mod soak;
mod tool;

pub use authenticator::Authenticator;
pub use commands::main;
pub use demo::{DemoOptions, demo};
pub use fault::{FaultOptions, fault};
pub use network::{Network, NetworkOptions, free_addresses};
pub use node::NodeProcess;
pub use soak::{SoakOptions, soak};
pub use tool::{Home, Ran};
