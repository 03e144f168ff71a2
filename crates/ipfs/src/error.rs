use libp2p::PeerId;
use std::fmt;

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
    #[error("handshake failed: the swarm keys of the two nodes probably differ")]
    Handshake,
    /// Another node answers at that address.
    #[error("another peer answers at its address: the peer id or the address is wrong")]
    OtherPeer,
    /// The connection was made and closed at once.
    #[error("it closed the connection: this node is probably not on its allow-list")]
    Closed,
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Stopped,
}

/// No configured peer is connected: who is not, and why.
#[derive(Debug)]
pub(crate) struct NotConnected(pub(crate) Vec<(PeerId, DialFailure)>);

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no peer is connected")?;
        self.0
            .iter()
            .try_for_each(|(peer, why)| write!(f, "; `{peer}`: {why}"))
    }
}

impl std::error::Error for NotConnected {}

/// Peers were asked and did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the peers that were asked did not answer")]
pub(crate) struct NoAnswer;
