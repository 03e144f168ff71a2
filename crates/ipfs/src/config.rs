use crate::{PeerError, PeerKey, SwarmKey};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use std::{collections::BTreeMap, time::Duration};

/// What a peer needs to know to start.
#[expect(missing_debug_implementations, reason = "it holds a secret")]
pub struct PeerConfig {
    /// This peer's identity.
    pub key: PeerKey,
    /// The network's shared key.
    pub swarm_key: SwarmKey,
    /// Where to listen, such as `/ip4/0.0.0.0/tcp/4001`. Port 0 takes a free one.
    pub listen: Vec<String>,
    /// The allow-list: members' nodes and foreign nodes. Nobody else is let in, nobody else is dialled. It can
    /// be replaced later: [`crate::Peer::allow`].
    pub peers: Vec<PeerAddress>,
}

/// Another peer that is let in. One that has several addresses is listed several times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its peer id, such as `12D3Koo...`.
    pub peer_id: String,
    /// Where it is dialled, such as `/ip4/192.0.2.1/tcp/4001`; `None` when it dials us.
    pub address: Option<String>,
}

/// The allow-list: each peer with the addresses it is dialled at.
pub(crate) type Allowed = BTreeMap<PeerId, Vec<Multiaddr>>;

/// How long to wait for others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// A TCP connection, and then the whole handshake.
    pub(crate) connect: Duration,
    /// A peer that owes an answer and sends nothing for this long is passed over.
    pub(crate) silence: Duration,
    /// A peer that sends, but not the answer it owes, is passed over after this long.
    pub(crate) answer: Duration,
    /// A peer that reads nothing for this long loses what was queued for it.
    pub(crate) write: Duration,
    /// The first pause between two attempts to connect; it doubles up to the last.
    pub(crate) first_redial: Duration,
    pub(crate) last_redial: Duration,
    /// A connection that lasted this long was a good one.
    pub(crate) settled: Duration,
    /// Between two pings on a connection.
    pub(crate) ping: Duration,
    /// A connection on which for this long no ping was answered and nothing was received or written is dead.
    pub(crate) dead: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(4),
            answer: Duration::from_secs(60),
            write: Duration::from_secs(60),
            first_redial: Duration::from_millis(500),
            last_redial: Duration::from_secs(30),
            settled: Duration::from_secs(10),
            ping: Duration::from_secs(2),
            dead: Duration::from_secs(8),
        }
    }
}

/// The allow-list of these peers.
pub(crate) fn allowed(peers: &[PeerAddress]) -> Result<Allowed, PeerError> {
    let mut allowed = Allowed::new();
    for peer in peers {
        let id = peer
            .peer_id
            .parse()
            .map_err(|_| PeerError::PeerId(shortened(&peer.peer_id)))?;
        let addresses: &mut Vec<Multiaddr> = allowed.entry(id).or_default();
        if let Some(address) = &peer.address {
            addresses.push(parse_address(address)?);
        }
    }
    Ok(allowed)
}

impl PeerConfig {
    pub(crate) fn listen_addresses(&self) -> Result<Vec<Multiaddr>, PeerError> {
        self.listen.iter().map(|text| parse_address(text)).collect()
    }
}

/// An IP address and a TCP port and nothing else: other transports bypass the pre-shared key.
fn parse_address(text: &str) -> Result<Multiaddr, PeerError> {
    let refuse = || PeerError::Address(shortened(text));
    let address: Multiaddr = text.parse().map_err(|_| refuse())?;
    let mut protocols = address.iter();
    match (protocols.next(), protocols.next(), protocols.next()) {
        (Some(Protocol::Ip4(_) | Protocol::Ip6(_)), Some(Protocol::Tcp(_)), None) => {
            Ok(address.clone())
        }
        _ => Err(refuse()),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_address_accepts_ip_and_tcp_only() {
        for text in ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/4001"] {
            assert_eq!(parse_address(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "127.0.0.1:4001",
            "/ip4/127.0.0.1/udp/4001/quic-v1",
            "/dns4/example.org/tcp/4001",
            "/ip4/127.0.0.1/tcp/4001/ws",
            "/ip4/127.0.0.1",
        ] {
            assert!(
                matches!(parse_address(text), Err(PeerError::Address(_))),
                "{text}"
            );
        }
    }
}
