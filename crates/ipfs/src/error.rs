use libp2p::PeerId;
use std::{collections::BTreeSet, fmt};

/// Why a peer could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Correct the configuration.
    #[error("`{0}` is not a tcp address such as /ip4/192.0.2.1/tcp/4001")]
    Address(String),
    /// Correct the configuration.
    #[error("`{0}` is not a peer id such as 12D3Koo...")]
    PeerId(String),
    /// The port is taken or the address is not this machine's.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address as it was configured.
        address: String,
        /// What the operating system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The handshake could not be set up.
    #[error("cannot set up encryption")]
    Encryption(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why the last attempt to connect to a configured peer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialFailure {
    /// Nobody listens there, or a firewall is in between.
    #[error("its address cannot be reached")]
    Unreachable,
    /// Somebody answers, but not intelligibly.
    #[error(
        "handshake failed: the swarm keys of the two nodes probably differ, or the other one hangs"
    )]
    Handshake,
    /// Another node answers at that address.
    #[error("another peer answers at its address: the peer id or the address is wrong")]
    OtherPeer,
    /// The connection was made and closed at once.
    #[error("it closed the connection: this node is probably not on its allow-list")]
    Closed,
    /// It was connected and gave no sign of life any more.
    #[error("it stopped answering")]
    Silent,
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Stopped,
}

/// Who may have a block and did not say so. Whoever else was asked does not have it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unanswered {
    /// Asked, and silent or gone since.
    pub(crate) silent: BTreeSet<PeerId>,
    /// Configured, and not connected.
    pub(crate) unreachable: Vec<(PeerId, DialFailure)>,
}

impl Unanswered {
    pub(crate) fn is_empty(&self) -> bool {
        self.silent.is_empty() && self.unreachable.is_empty()
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no peer is connected");
        }
        f.write_str("some peers may have it and did not answer")?;
        for (peer, why) in &self.unreachable {
            write!(f, "; `{peer}`: {why}")?;
        }
        let named = |peer: &&PeerId| !self.unreachable.iter().any(|(one, _)| one == *peer);
        for peer in self.silent.iter().filter(named) {
            write!(f, "; `{peer}`: it did not answer in time")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unanswered {}
