use crate::{
    PeerError,
    allow_list::AllowList,
    answers,
    config::{Allowed, PeerConfig, Timing, allowed},
    error::DialFailure,
    exchange::{Exchange, Reach},
    frame,
    inbound::read_messages,
    link::{Link, write_frames},
    local::LocalBlocks,
    message::{Entry, Message, WantType, Wantlist},
    muxer::{MAX_STREAMS, Yamux},
    streams::{Inbound, Open, Streams},
    want::{Ask, AskKind},
};
use futures::{StreamExt, io::BufReader};
use libp2p::{
    Multiaddr, PeerId, Swarm, Transport,
    connection_limits::{self, ConnectionLimits},
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, ListenerId, TransportError, timeout::TransportTimeout},
        upgrade::Version,
    },
    identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping,
    pnet::{PnetConfig, PreSharedKey},
    swarm::{
        self, ConnectionId, DialError, NetworkBehaviour, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp,
};
use std::{
    collections::BTreeMap,
    error::Error,
    io,
    net::{IpAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, interval, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The swarm and all that hangs on its events. One task runs it.
pub(crate) struct Network {
    swarm: Swarm<Behaviour>,
    members: BTreeMap<PeerId, Member>,
    /// Those that work. One that was given up may linger in the swarm: it cannot always be closed.
    connections: BTreeMap<ConnectionId, Connection>,
    to_open: mpsc::Receiver<(PeerId, Open)>,
    to_allow: mpsc::Receiver<Allowing>,
    next_link: u64,
    parts: Parts,
}

/// What the tasks of a network share.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) local: Arc<LocalBlocks>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
    pub(crate) timing: Timing,
    opener: mpsc::Sender<(PeerId, Open)>,
    allower: mpsc::Sender<Allowing>,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    // First: it refuses before anything else is set up for a connection.
    allow_list: AllowList,
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    streams: Streams,
}

/// The allow-list to go on with, and who waits until it is in force.
type Allowing = (Allowed, oneshot::Sender<()>);

/// A peer that is dialled.
struct Member {
    addresses: Vec<Multiaddr>,
    /// When it is dialled next, unless it is connected or being dialled.
    due: Option<Instant>,
    pause: Duration,
    connected_at: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Connection {
    peer: PeerId,
    /// When it was made or a ping was last answered on it. `None` when the peer answers no pings.
    pinged: Option<Instant>,
}

/// A TCP connection could not be made: nothing answers at the address.
#[derive(Debug, thiserror::Error)]
#[error("cannot be reached")]
struct Unreachable(#[source] Box<dyn Error + Send + Sync>);

impl Network {
    /// Binds the configured addresses.
    pub(crate) async fn bind(
        config: &PeerConfig,
        timing: Timing,
        local: Arc<LocalBlocks>,
    ) -> Result<(Self, Parts), PeerError> {
        let allowed = Arc::new(allowed(&config.peers)?);
        let listen = config.listen_addresses()?;
        let mut swarm = new_swarm(config, Arc::clone(&allowed), timing)?;
        listen_on(&mut swarm, listen).await?;
        let members = members(&allowed, timing);
        let (opener, to_open) = mpsc::channel(MAX_OPENING);
        let (allower, to_allow) = mpsc::channel(1);
        let parts = Parts {
            exchange: Arc::new(Exchange::new(members.keys().copied(), timing)),
            local,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            timing,
            opener,
            allower,
        };
        let network = Self {
            swarm,
            members,
            connections: BTreeMap::new(),
            to_open,
            to_allow,
            next_link: 0,
            parts: parts.clone(),
        };
        Ok((network, parts))
    }

    /// Where peers can reach this one, with the real ports.
    pub(crate) fn listen_addresses(&self) -> Vec<String> {
        self.swarm.listeners().map(ToString::to_string).collect()
    }

    /// Runs until the network is to stop; all connections are closed then.
    pub(crate) async fn run(mut self) {
        let stopping = self.parts.stopping.clone();
        let mut checks = interval(self.parts.timing.ping / 2);
        loop {
            self.dial_due();
            let next = self.next_dial();
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                Some((peer, reply)) = self.to_open.recv() => self.open(peer, reply),
                Some((allowed, in_force)) = self.to_allow.recv() => {
                    self.allow(allowed);
                    // Whoever asked may have gone.
                    let _ = in_force.send(());
                }
                () = sleep_until(next) => {}
                _ = checks.tick() => self.give_up_dead(),
                () = stopping.cancelled() => break,
            }
        }
        self.parts.exchange.stop();
    }

    /// Goes on with another allow-list.
    fn allow(&mut self, allowed: Allowed) {
        let behaviour = self.swarm.behaviour_mut();
        if *behaviour.allow_list.0 == allowed {
            return;
        }
        let allowed = Arc::new(allowed);
        *behaviour.limits.limits_mut() = limits(&allowed);
        behaviour.allow_list = AllowList(Arc::clone(&allowed));
        let mut members = members(&allowed, self.parts.timing);
        for (peer, member) in &mut members {
            // Who stays at the same address is dialled as before.
            if let Some(known) = self.members.remove(peer)
                && known.addresses == member.addresses
            {
                *member = known;
            }
        }
        self.members = members;
        self.parts
            .exchange
            .set_dialled(self.members.keys().copied());
        let connections = self.connections.iter();
        let refused: Vec<ConnectionId> = connections
            .filter(|(_, one)| !allowed.contains_key(&one.peer))
            .map(|(id, _)| *id)
            .collect();
        for id in refused {
            self.give_up(id, Reach::Dialling);
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Streams(Inbound { peer, stream })) => {
                self.on_stream(peer, stream);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(&event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            } => self.on_connection(peer_id, connection_id),
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                self.on_closed(connection_id, Reach::Dialling);
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } => self.on_dial_failure(peer, &error),
            SwarmEvent::IncomingConnectionError {
                send_back_addr,
                error,
                ..
            } => {
                tracing::info!(
                    from = %send_back_addr,
                    error = &error as &dyn Error,
                    "refused a connection: not on the allow-list, or another swarm key"
                );
            }
            SwarmEvent::ListenerClosed {
                addresses,
                reason: Err(error),
                ..
            } => tracing::error!(?addresses, %error, "no longer listening"),
            _ => {}
        }
    }

    fn on_ping(&mut self, event: &ping::Event) {
        let Some(connection) = self.connections.get_mut(&event.connection) else {
            return;
        };
        match &event.result {
            Ok(_) => connection.pinged = Some(Instant::now()),
            Err(ping::Failure::Unsupported) => connection.pinged = None,
            // Other things may show that it lives: see `give_up_dead`.
            Err(error) => tracing::debug!(peer = %event.peer, %error, "ping was not answered"),
        }
    }

    fn on_connection(&mut self, peer: PeerId, id: ConnectionId) {
        let is_first = !self.is_connected(&peer);
        let connection = Connection {
            peer,
            pinged: Some(Instant::now()),
        };
        self.connections.insert(id, connection);
        if !is_first {
            return;
        }
        tracing::info!(%peer, "peer connected");
        if let Some(member) = self.members.get_mut(&peer) {
            member.connected_at = Some(Instant::now());
            member.due = None;
        }
        self.next_link += 1;
        let link = Arc::new(Link::new(self.next_link));
        self.parts.exchange.connected(peer, Arc::clone(&link));
        self.parts.attend(peer, &link);
    }

    /// A connection does not work any more. Whether the peer is reached now, when this was its last one.
    fn on_closed(&mut self, id: ConnectionId, mut reach: Reach) {
        let Some(Connection { peer, .. }) = self.connections.remove(&id) else {
            return;
        };
        if self.is_connected(&peer) {
            return;
        }
        tracing::info!(%peer, "peer disconnected");
        if let Some(member) = self.members.get_mut(&peer) {
            let lasted = member.connected_at.take().map(|at| at.elapsed());
            if lasted >= Some(self.parts.timing.settled) {
                member.pause = self.parts.timing.first_redial;
                member.due = Some(Instant::now());
            } else {
                // It may be closing the connection each time: do not dial it in a tight loop.
                member.wait(self.parts.timing);
                if reach == Reach::Dialling {
                    reach = Reach::Failed(DialFailure::Closed);
                }
            }
        }
        self.parts.exchange.disconnected(peer, reach);
    }

    /// Gives up connections to peers that went away without a word.
    fn give_up_dead(&mut self) {
        let now = Instant::now();
        let limit = self.parts.timing.dead;
        let is_stale = |at: Instant| now.saturating_duration_since(at) >= limit;
        let (mute, answering): (Vec<_>, Vec<_>) = self
            .connections
            .iter()
            .map(|(id, one)| (*id, *one))
            .partition(|(_, one)| one.pinged.is_some_and(is_stale));
        for (id, Connection { peer, .. }) in mute {
            // A ping waits behind what is being sent: a peer that sends or takes something is alive, unless
            // it does so over another connection.
            let link = self.parts.exchange.link(&peer);
            let moves = link.is_some_and(|link| !is_stale(link.last_moved()));
            if moves && !answering.iter().any(|(_, one)| one.peer == peer) {
                continue;
            }
            tracing::info!(%peer, "peer gave no sign of life");
            self.give_up(id, Reach::Failed(DialFailure::Silent));
        }
    }

    /// Forgets a connection at once: closing it may take as long as the other side likes.
    fn give_up(&mut self, id: ConnectionId, reach: Reach) {
        self.on_closed(id, reach);
        self.swarm.close_connection(id);
    }

    /// Opens a stream on the connection of `peer` that answered last.
    fn open(&mut self, peer: PeerId, reply: Open) {
        let connections = self.connections.iter();
        let last = connections
            .filter(|(_, one)| one.peer == peer)
            .max_by_key(|(_, one)| one.pinged);
        if let Some((id, _)) = last {
            self.swarm.behaviour_mut().streams.open(peer, *id, reply);
        }
    }

    fn is_connected(&self, peer: &PeerId) -> bool {
        self.connections.values().any(|one| one.peer == *peer)
    }

    fn on_dial_failure(&mut self, peer: PeerId, error: &DialError) {
        if self.is_connected(&peer) {
            return;
        }
        if let Some(member) = self.members.get_mut(&peer) {
            member.wait(self.parts.timing);
        }
        let failure = classify(error);
        tracing::warn!(%peer, error = error as &dyn Error, "cannot connect: {failure}");
        self.parts.exchange.set_reach(peer, Reach::Failed(failure));
    }

    fn on_stream(&self, peer: PeerId, stream: libp2p::Stream) {
        let Some(link) = self.parts.exchange.link(&peer) else {
            return;
        };
        let exchange = Arc::clone(&self.parts.exchange);
        let silence = self.parts.timing.write;
        self.parts
            .tasks
            .spawn(read_messages(stream, peer, link, exchange, silence));
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        let mut failed = Vec::new();
        for (peer, member) in &mut self.members {
            if member.due.is_none_or(|due| due > now) {
                continue;
            }
            member.due = None;
            if self.connections.values().any(|one| one.peer == *peer) {
                continue;
            }
            let options = DialOpts::peer_id(*peer)
                .addresses(member.addresses.clone())
                // Not `Disconnected`: a connection that was given up may linger.
                .condition(PeerCondition::NotDialing)
                // From the port we listen on, two peers that dial each other at once would get one
                // connection on which both believe to be the dialler.
                .allocate_new_port()
                .build();
            if let Err(error) = self.swarm.dial(options) {
                failed.push((*peer, error));
            }
        }
        for (peer, error) in failed {
            self.on_dial_failure(peer, &error);
        }
    }

    fn next_dial(&self) -> Instant {
        let due = self.members.values().filter_map(|member| member.due).min();
        due.unwrap_or_else(|| Instant::now() + FAR_AWAY)
    }
}

impl Member {
    /// Pauses before it is dialled again, each time twice as long.
    fn wait(&mut self, timing: Timing) {
        self.due = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(timing.last_redial);
    }
}

impl Parts {
    /// Starts the tasks that talk to a connected peer.
    ///
    /// They share one stream: rust-ipfs reads none but the last that was opened to it. Each has a place in the
    /// queue, so that wants wait behind two messages with blocks at most.
    fn attend(&self, peer: PeerId, link: &Arc<Link>) {
        let (asks, frames) = mpsc::channel(2);
        let answers = asks.clone();
        self.spawn_for(link, tell(Arc::clone(link), asks));
        let answering = answers::answer(Arc::clone(link), Arc::clone(&self.local), answers);
        self.spawn_for(link, answering);
        let (limit, open) = (self.timing.write, self.open(peer));
        self.spawn_for(link, write_frames(Arc::clone(link), frames, limit, open));
    }

    fn spawn_for(&self, link: &Link, task: impl Future<Output = ()> + Send + 'static) {
        let closed = link.closed.clone();
        self.tasks.spawn(async move {
            closed.run_until_cancelled_owned(task).await;
        });
    }

    /// Replaces the allow-list; returns when it is in force, or when nothing of this peer runs any more.
    pub(crate) async fn allow(&self, allowed: Allowed) {
        let (reply, in_force) = oneshot::channel();
        if self.allower.send((allowed, reply)).await.is_ok() {
            // An error: it stopped meanwhile.
            let _ = in_force.await;
        }
    }

    pub(crate) fn open(
        &self,
        peer: PeerId,
    ) -> impl FnMut() -> futures::future::BoxFuture<'static, Option<libp2p::Stream>> + use<> {
        let opener = self.opener.clone();
        move || {
            let opener = opener.clone();
            Box::pin(async move {
                let (reply, opened) = oneshot::channel();
                opener.send((peer, reply)).await.ok()?;
                opened.await.ok()
            })
        }
    }
}

/// Tells a peer what is wanted from it, for as long as somebody writes it.
async fn tell(link: Arc<Link>, frames: mpsc::Sender<Vec<u8>>) {
    while let Ok(room) = frames.reserve().await {
        let asks = link.next_asks().await;
        let message = Message {
            wantlist: Some(Wantlist {
                entries: asks.iter().map(entry).collect(),
                full: false,
            }),
            ..Message::default()
        };
        room.send(frame::encode(&message));
    }
}

fn entry(ask: &Ask) -> Entry {
    let want_type = match ask.kind {
        AskKind::Presence => WantType::Have,
        AskKind::Block | AskKind::Cancel => WantType::Block,
    };
    Entry {
        block: ask.cid.to_bytes().into(),
        priority: 1,
        cancel: ask.kind == AskKind::Cancel,
        want_type: want_type.into(),
        send_dont_have: ask.kind != AskKind::Cancel,
    }
}

fn members(allowed: &Allowed, timing: Timing) -> BTreeMap<PeerId, Member> {
    let now = Instant::now();
    let dialled = allowed
        .iter()
        .filter(|(_, addresses)| !addresses.is_empty());
    dialled
        .map(|(peer, addresses)| {
            let member = Member {
                addresses: addresses.clone(),
                due: Some(now),
                pause: timing.first_redial,
                connected_at: None,
            };
            (*peer, member)
        })
        .collect()
}

fn new_swarm(
    config: &PeerConfig,
    allowed: Arc<Allowed>,
    timing: Timing,
) -> Result<Swarm<Behaviour>, PeerError> {
    let keypair = config.key.keypair();
    let peer_id = keypair.public().to_peer_id();
    let transport = transport(&keypair, config.swarm_key.pre_shared_key(), timing)?;
    let limits = limits(&allowed);
    // No cache: what peers say of their addresses is never dialled.
    let identify = identify::Config::new(IDENTIFY_PROTOCOL.into(), keypair.public())
        .with_agent_version(concat!("medanchor/", env!("CARGO_PKG_VERSION")).into())
        .with_cache_size(0);
    // A late answer counts as long as the connection was not given up.
    let pings = ping::Config::new()
        .with_interval(timing.ping)
        .with_timeout(timing.dead);
    let behaviour = Behaviour {
        allow_list: AllowList(allowed),
        limits: connection_limits::Behaviour::new(limits),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(pings),
        streams: Streams::default(),
    };
    let swarm_config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(FAR_AWAY)
        // All of them: Yamux resets inbound streams that wait too long.
        .with_max_negotiating_inbound_streams(MAX_STREAMS);
    Ok(Swarm::new(transport, behaviour, peer_id, swarm_config))
}

fn limits(allowed: &Allowed) -> ConnectionLimits {
    let peers = u32::try_from(allowed.len()).unwrap_or(u32::MAX);
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING_INCOMING))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER))
        .with_max_established(Some(peers.saturating_mul(MAX_CONNECTIONS_PER_PEER)))
}

/// TCP, the pre-shared key, Noise, Yamux. There is no other transport: QUIC and WebRTC would bypass the
/// pre-shared key.
fn transport(
    keypair: &Keypair,
    key: PreSharedKey,
    timing: Timing,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, PeerError> {
    let noise = noise::Config::new(keypair).map_err(|e| PeerError::Encryption(Box::new(e)))?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let tcp = TransportTimeout::with_outgoing_timeout(tcp, timing.connect / 2)
        // Twice: `Either`, further out, shows only what is below the error it holds.
        .map_err(|error| Unreachable(Box::new(Unreachable(Box::new(error)))));
    // Noise asks for 8 KiB at a time.
    let buffered = tcp.map(|socket, _| BufReader::with_capacity(SOCKET_READ_BYTES, socket));
    let private = buffered.and_then(move |socket, _| PnetConfig::new(key).handshake(socket));
    let secured = private
        .upgrade(Version::V1)
        .authenticate(noise)
        .multiplex(Yamux)
        .timeout(timing.connect);
    Ok(secured.boxed())
}

/// Returns when every address is bound and its real port is known.
async fn listen_on(
    swarm: &mut Swarm<Behaviour>,
    addresses: Vec<Multiaddr>,
) -> Result<(), PeerError> {
    for address in addresses {
        let refused = |source: Box<dyn Error + Send + Sync>| PeerError::Listen {
            address: address.to_string(),
            source,
        };
        ensure_free(&address).map_err(|error| refused(Box::new(error)))?;
        let listener = swarm
            .listen_on(address.clone())
            .map_err(|error| refused(Box::new(error)))?;
        bound(swarm, listener)
            .await
            .map_err(|error| refused(Box::new(error)))?;
    }
    Ok(())
}

/// libp2p shares a port with whoever of the same user listens there already, and each gets some of the
/// connections: refuse that.
fn ensure_free(address: &Multiaddr) -> io::Result<()> {
    let mut protocols = address.iter();
    let ip: IpAddr = match protocols.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    match protocols.next() {
        Some(Protocol::Tcp(port)) => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

async fn bound(swarm: &mut Swarm<Behaviour>, listener: ListenerId) -> io::Result<()> {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { listener_id, .. } if listener_id == listener => {
                return Ok(());
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason,
                ..
            } if listener_id == listener => {
                return reason.and(Err(io::ErrorKind::NotConnected.into()));
            }
            _ => {}
        }
    }
}

fn classify(error: &DialError) -> DialFailure {
    match error {
        DialError::WrongPeerId { .. } | DialError::LocalPeerId { .. } => DialFailure::OtherPeer,
        DialError::Transport(attempts) => {
            let unreachable = attempts.iter().all(|(_, error)| match error {
                TransportError::Other(error) => is_unreachable(error),
                TransportError::MultiaddrNotSupported(_) => true,
            });
            if unreachable {
                DialFailure::Unreachable
            } else {
                DialFailure::Handshake
            }
        }
        _ => DialFailure::Unreachable,
    }
}

/// Whether [`Unreachable`] is among the causes of an error.
fn is_unreachable(error: &io::Error) -> bool {
    let mut cause = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    while let Some(error) = cause {
        if error.is::<Unreachable>() {
            return true;
        }
        cause = error.source();
    }
    false
}

const IDENTIFY_PROTOCOL: &str = "ipfs/0.1.0";
const MAX_PENDING_INCOMING: u32 = 64;
/// Two peers that dial each other at once have two for a while.
const MAX_CONNECTIONS_PER_PEER: u32 = 4;
/// Each connection has a buffer of this size.
const SOCKET_READ_BYTES: usize = 64 << 10;
const MAX_OPENING: usize = 64;
/// Connections are kept for as long as they work.
const FAR_AWAY: Duration = Duration::from_hours(24 * 365);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PeerAddress, PeerKey, SwarmKey, testing::FlakyStore};
    use futures::FutureExt;

    async fn bind(number: u8, peers: Vec<PeerAddress>) -> (Network, Parts) {
        let key = SwarmKey::parse(&format!(
            "/key/swarm/psk/1.0.0/\n/base16/\n{}\n",
            hex::encode([7; 32])
        ));
        let config = PeerConfig {
            key: PeerKey::from_seed(&[number; 32]),
            swarm_key: key.unwrap(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            peers,
        };
        let timing = Timing {
            first_redial: Duration::from_millis(20),
            ..Timing::default()
        };
        let (local, _) = LocalBlocks::new(Arc::new(FlakyStore::with(&[])));
        Network::bind(&config, timing, Arc::new(local))
            .await
            .unwrap()
    }

    fn peer(number: u8, address: Option<String>) -> PeerAddress {
        PeerAddress {
            peer_id: PeerKey::from_seed(&[number; 32]).peer_id(),
            address,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn addresses_that_a_peer_says_it_has_are_never_dialled() {
        let decoy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = decoy.local_addr().unwrap().port();
        let told: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
        let (mut talker, talking) = bind(1, vec![peer(9, None)]).await;
        talker.swarm.add_external_address(told.clone());
        let address = talker.listen_addresses().remove(0);
        let running = tokio::spawn(talker.run());

        let (mut network, parts) = bind(9, vec![peer(1, Some(address))]).await;
        network.dial_due();
        loop {
            let event = network.swarm.select_next_some().await;
            let learnt = match &event {
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    info,
                    ..
                })) => info.listen_addrs.contains(&told),
                _ => false,
            };
            network.on_event(event);
            if learnt {
                break;
            }
        }
        // It goes away: now another address would be welcome.
        tokio::spawn(network.run());
        talking.stopping.cancel();
        running.await.unwrap();
        let unreachable = DialFailure::Unreachable;
        while !parts
            .exchange
            .failures()
            .iter()
            .any(|(_, why)| *why == unreachable)
        {
            tokio::task::yield_now().await;
        }
        assert!(decoy.accept().now_or_never().is_none());
        parts.stopping.cancel();
    }
}
