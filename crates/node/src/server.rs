//! A port: TLS 1.3, gRPC and HTTPS on it, and bounds on what strangers can take of it.

use crate::{
    connections::{Bounded, Limits, places, source},
    door::{Connection, Door},
    places::Place,
    tls::Tls,
    tls_trust::ClientTrust,
};
use anyhow::{Context, Result};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

/// A bound port, not serving yet.
pub(crate) struct Listener {
    listener: TcpListener,
    door: Door,
    limits: Limits,
}

impl Listener {
    /// Binds a port that `clients` are let in on.
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: &Tls,
        clients: Arc<ClientTrust>,
        limits: Limits,
    ) -> Result<Self> {
        let door = Door::new(tls, clients)?;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        Ok(Self {
            listener,
            door,
            limits,
        })
    }

    /// Serves until `stop`, then lets what is under way finish.
    pub(crate) async fn serve(self, routes: Routes, stop: CancellationToken) -> Result<()> {
        let (accepted, incoming) = mpsc::channel(1);
        let limits = self.limits;
        let accepting = tokio::spawn(self.accept_task(accepted, stop.clone()));
        let mut server = Server::builder();
        if let Some(lifetime) = limits.lifetime {
            // Those that speak HTTP/2 are told to begin another before theirs is cut.
            server = server.max_connection_age(lifetime * 3 / 4);
        }
        let served = server
            .accept_http1(true)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .max_concurrent_streams(Some(limits.streams))
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                ReceiverStream::new(incoming),
                stop.clone().cancelled_owned(),
            );
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(FINISH_WITHIN).await;
        };
        let served = tokio::select! {
            served = served => served.context("serve"),
            () = overdue => {
                tracing::warn!("stopping although some calls are not finished");
                Ok(())
            }
        };
        accepting.abort();
        served
    }

    /// Hands connections on once their certificates are checked. A slow handshake holds up nobody else.
    async fn accept_task(self, accepted: mpsc::Sender<Accepted>, stop: CancellationToken) {
        let places = places(&self.limits);
        loop {
            let connection = tokio::select! {
                () = stop.cancelled() => return,
                connection = self.listener.accept() => connection,
            };
            let (stream, from) = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    // Out of file descriptors, usually: others may close theirs.
                    tracing::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                    continue;
                }
            };
            let Some(place) = places.take(source(from.ip())) else {
                tracing::info!("connection from {from} refused: too many are open");
                continue;
            };
            let handshake = hand_on(
                stream,
                place,
                self.door.clone(),
                self.limits,
                accepted.clone(),
            );
            tokio::spawn(async move {
                if let Err(error) = handshake.await {
                    tracing::info!("connection from {from} refused: {error:#}");
                }
            });
        }
    }
}

async fn hand_on(
    stream: TcpStream,
    place: Place<IpAddr>,
    door: Door,
    limits: Limits,
    accepted: mpsc::Sender<Accepted>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE_WITHIN.min(limits.idle), door.open(stream))
        .await
        .context("wait for the handshake")??;
    // The receiver is gone only when the server is.
    let _ = accepted
        .send(Ok(Bounded::new(stream, &limits, place)))
        .await;
    Ok(())
}

type Accepted = std::io::Result<Bounded<Connection>>;

/// All headers of a request.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long calls that are under way may take once the node is told to stop.
const FINISH_WITHIN: Duration = Duration::from_secs(15);
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        certificates::{Authority, Holder},
        config::Folder,
    };
    use axum::{Router, routing};
    use rustls::{ClientConfig, RootCertStore, crypto::ring, version::TLS13};
    use rustls_pki_types::{CertificateDer, ServerName};
    use std::{collections::BTreeSet, io};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpSocket,
        time::{interval, sleep},
    };
    use tokio_rustls::{TlsConnector, client};

    /// A port that says `here` to everybody, with the certificates of a network.
    struct Port {
        address: SocketAddr,
        tls: TlsConnector,
        stop: CancellationToken,
        _folder: tempfile::TempDir,
    }

    impl Drop for Port {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    impl Port {
        async fn open(limits: Limits) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let tls = Folder::new(folder.path()).tls();
            std::fs::create_dir_all(&tls).unwrap();
            let (authority, own) = Authority::create("hospital-a").unwrap();
            let issued = authority
                .issue(Holder::Node, NAME, &[NAME.to_owned()])
                .unwrap();
            for (name, pem) in [
                ("ca.pem", own.certificate_pem.as_str()),
                ("cert.pem", issued.certificate_pem.as_str()),
                ("key.pem", issued.key_pem.as_str()),
            ] {
                std::fs::write(tls.join(name), pem).unwrap();
            }
            let tls = Tls::open(&Folder::new(folder.path())).unwrap();
            let listen = ([127, 0, 0, 1], 0).into();
            let clients = ClientTrust::new(tls.clients(&[]).unwrap(), BTreeSet::new());
            let clients = clients.optional();
            let listener = Listener::bind(listen, &tls, clients, limits);
            let listener = listener.await.unwrap();
            let address = listener.listener.local_addr().unwrap();
            let routes = Router::new()
                .route("/", routing::get(async || "here"))
                .route("/", routing::post(async |_: String| "taken"));
            let stop = CancellationToken::new();
            tokio::spawn(listener.serve(routes.into(), stop.clone()));
            Self {
                address,
                tls: stranger(own.certificate),
                stop,
                _folder: folder,
            }
        }

        /// A connection from another address of this machine.
        async fn connect(&self, from: [u8; 4]) -> io::Result<TcpStream> {
            let socket = TcpSocket::new_v4()?;
            socket.bind((IpAddr::from(from), 0).into())?;
            socket.connect(self.address).await
        }

        async fn greet(&self, from: [u8; 4]) -> io::Result<client::TlsStream<TcpStream>> {
            let stream = self.connect(from).await?;
            let name = ServerName::try_from(NAME).unwrap();
            self.tls.connect(name, stream).await
        }

        /// What the port says to somebody from there.
        async fn ask(&self, from: [u8; 4]) -> io::Result<String> {
            let mut stream = self.greet(from).await?;
            stream.write_all(REQUEST).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        }
    }

    /// Somebody without a certificate.
    fn stranger(authority: CertificateDer<'static>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(authority).unwrap();
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(tls))
    }

    /// What an attacker does with a connection until it is closed.
    #[derive(Clone, Copy, Debug)]
    enum Attack {
        /// Never says a word, not even in TLS.
        Silent,
        /// Agrees on TLS and is silent then.
        SilentAfterTls,
        /// Sends the headers of a request byte by byte, for ever.
        DripHeaders,
        /// Promises a body and sends it byte by byte.
        DripBody,
    }

    async fn attack(port: &Port, attack: Attack) {
        let Ok(mut raw) = port.connect(ATTACKER).await else {
            return;
        };
        if matches!(attack, Attack::Silent) {
            let _ = raw.read(&mut [0; 64]).await;
            return;
        }
        let Ok(stream) = port.greet(ATTACKER).await else {
            return;
        };
        let (mut reading, mut writing) = tokio::io::split(stream);
        let drip = async {
            let begin: &[u8] = match attack {
                Attack::DripHeaders => b"GET / HTTP/1.1\r\nhost: x\r\nx: ",
                Attack::DripBody => b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n",
                Attack::Silent | Attack::SilentAfterTls => return std::future::pending().await,
            };
            let _ = writing.write_all(begin).await;
            let mut drops = interval(Duration::from_millis(20));
            while writing.write_all(b"x").await.is_ok() {
                drops.tick().await;
            }
        };
        let closed = async {
            let mut buffer = [0; 64];
            while reading.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        };
        tokio::select! {
            () = drip => (),
            () = closed => (),
        }
    }

    #[tokio::test]
    async fn strangers_that_hold_connections_keep_nobody_else_out_and_lose_them() {
        for kind in [
            Attack::Silent,
            Attack::SilentAfterTls,
            Attack::DripHeaders,
            Attack::DripBody,
        ] {
            let port = Port::open(LIMITS).await;
            let attackers = futures::future::join_all((0..20).map(|_| attack(&port, kind)));
            let others = async {
                // Meanwhile, whoever comes from elsewhere is served.
                for _ in 0..20 {
                    let answer = port.ask(OTHER).await.unwrap();
                    assert!(answer.ends_with("here"), "{kind:?}: {answer}");
                    sleep(Duration::from_millis(10)).await;
                }
            };
            // Every connection of theirs is closed, or this hangs.
            let ended = timeout(HANGS, futures::future::join(attackers, others));
            ended.await.unwrap_or_else(|_| panic!("{kind:?} goes on"));
            // And their places are free again.
            let answer = loop {
                match port.ask(ATTACKER).await {
                    Ok(answer) if !answer.is_empty() => break answer,
                    _ => sleep(Duration::from_millis(10)).await,
                }
            };
            assert!(answer.ends_with("here"), "{kind:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn one_address_has_its_share_of_connections_and_no_more() {
        let limits = Limits {
            idle: HANGS,
            lifetime: None,
            ..LIMITS
        };
        let port = Port::open(limits).await;
        let mut held = Vec::new();
        for _ in 0..limits.from_one_address {
            held.push(port.greet(ATTACKER).await.unwrap());
        }
        assert!(port.greet(ATTACKER).await.is_err());
        let answer = port.ask(OTHER).await.unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        drop(held);
        // The server notices when it next reads.
        let begins_again = async {
            while port.greet(ATTACKER).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(HANGS, begins_again).await.unwrap();
    }

    #[tokio::test]
    async fn headers_have_a_limit() {
        let port = Port::open(LIMITS).await;
        let mut stream = port.greet(OTHER).await.unwrap();
        let begin = b"GET / HTTP/1.1\r\nhost: x\r\nx: ";
        stream.write_all(begin).await.unwrap();
        let endless = vec![b'x'; 4 << 20];
        let sent = async {
            let _ = stream.write_all(&endless).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        let answer = timeout(HANGS, sent).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.contains("200 OK"), "{answer}");
    }

    const LIMITS: Limits = Limits {
        connections: 8,
        from_one_address: 6,
        idle: Duration::from_millis(400),
        lifetime: Some(Duration::from_millis(1200)),
        streams: 4,
    };
    const ATTACKER: [u8; 4] = [127, 0, 0, 2];
    const OTHER: [u8; 4] = [127, 0, 0, 3];
    const NAME: &str = "hospital-a";
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    /// Only a guard: nothing here waits that long when it works.
    const HANGS: Duration = Duration::from_secs(30);
}
