//! Is a private IPFS peer that fetches, serves, replicates and pins blocks.
//!
//! Scope: a libp2p node (TCP, pre-shared key, Noise, Yamux) that speaks Bitswap 1.2.0 with the members of
//! one network and with the Kubo and Helia nodes that they run. [`Peer`] answers other peers from a
//! [`BlockStore`](medanchor_dag::BlockStore) and fetches blocks and whole DAGs into it. Specifications:
//! <https://specs.ipfs.tech/bitswap-protocol/>,
//! <https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md>.
//!
//! Only peers named in [`PeerConfig`] are let in, and only their configured addresses are dialled. Every
//! peer that is let in can read every block: blocks are sealed before they come here.
//!
//! Out of scope: the store itself and DAG formats (`medanchor-dag`), who may read a record
//! (`medanchor-broker`), finding nodes that were not configured, QUIC and WebRTC (they bypass the
//! pre-shared key).
#![deny(clippy::indexing_slicing)]

mod allow_list;
mod answers;
mod config;
mod error;
mod exchange;
mod fetch;
mod frame;
mod inbound;
mod key;
mod link;
mod local;
mod message;
mod muxer;
mod network;
mod pace;
mod peer;
mod session;
mod streams;
mod swarm_key;
#[cfg(test)]
mod testing;
mod unread;
mod want;
mod window;

pub use config::{PeerAddress, PeerConfig};
pub use error::{DialFailure, PeerError};
pub use fetch::{FetchError, Fetched};
pub use key::PeerKey;
pub use peer::Peer;
pub use swarm_key::{SwarmKey, SwarmKeyError};
