use crate::config::Allowed;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};
use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

/// Refuses connections to and from peers that are not configured, and to addresses that are not theirs.
pub(crate) struct AllowList(pub(crate) Arc<Allowed>);

/// The peer or its address is not configured.
#[derive(Debug, thiserror::Error)]
#[error("peer is not on the allow-list")]
pub(crate) struct NotAllowed;

impl AllowList {
    fn check(&self, peer: &PeerId) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        if self.0.contains_key(peer) {
            Ok(dummy::ConnectionHandler)
        } else {
            Err(ConnectionDenied::new(NotAllowed))
        }
    }
}

impl NetworkBehaviour for AllowList {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(&peer)
    }

    // Here, before a packet is sent: only what was configured is ever dialled.
    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let configured = peer.and_then(|peer| self.0.get(&peer));
        match configured {
            Some(configured) if addresses.iter().all(|one| configured.contains(one)) => Ok(vec![]),
            _ => Err(ConnectionDenied::new(NotAllowed)),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(&peer)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configured_peers_at_configured_addresses_are_dialled() {
        let [friend, stranger] = [PeerId::random(), PeerId::random()];
        let [home, elsewhere]: [Multiaddr; 2] =
            ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"].map(|text| text.parse().unwrap());
        let mut list = AllowList(Arc::new(Allowed::from([(friend, vec![home.clone()])])));
        let mut dial = |peer, address: &Multiaddr| {
            list.handle_pending_outbound_connection(
                ConnectionId::new_unchecked(1),
                peer,
                std::slice::from_ref(address),
                Endpoint::Dialer,
            )
            .is_ok()
        };
        assert!(dial(Some(friend), &home));
        assert!(!dial(Some(friend), &elsewhere));
        assert!(!dial(Some(stranger), &home));
        assert!(!dial(None, &home));
    }
}
