//! Requests to co-signers over HTTPS, or HTTP on this machine: one small request, one small answer, both bounded.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use medanchor_anchor::WitnessUrl;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// A server, and where on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Server {
    /// What its certificate bears.
    pub(crate) name: String,
    /// `<host>:<port>`
    pub(crate) address: String,
    /// What stands before every path.
    pub(crate) prefix: String,
}

/// Makes requests, and keeps a connection to each server for the next. Clones share them.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    /// Without it, requests are for everybody on the way to read.
    tls: Option<TlsConnector>,
    /// Connections that nothing is under way on.
    idle: Mutex<BTreeMap<Server, Connection>>,
}

/// Ends when it is dropped.
type Connection = SendRequest<Full<Bytes>>;

impl Server {
    /// A node of the network.
    pub(crate) fn of_node(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            address: address.to_string(),
            prefix: String::new(),
        }
    }

    /// A witness that others run.
    pub(crate) fn at(url: &WitnessUrl) -> Self {
        Self {
            name: url.host().to_owned(),
            address: url.address(),
            prefix: url.path().to_owned(),
        }
    }
}

impl Client {
    /// Over TLS; with `None` in clear.
    pub(crate) fn new(tls: Option<ClientConfig>) -> Self {
        Self(Arc::new(Inner {
            tls: tls.map(|tls| TlsConnector::from(Arc::new(tls))),
            idle: Mutex::default(),
        }))
    }

    /// Posts `body` and gives status and answer. It may be received twice.
    pub(crate) async fn post(
        &self,
        server: &Server,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes)> {
        self.ask(server, Method::POST, path, body).await
    }

    /// Gets what is at `path`, with its status.
    pub(crate) async fn get(&self, server: &Server, path: &str) -> Result<(StatusCode, Bytes)> {
        self.ask(server, Method::GET, path, String::new()).await
    }

    async fn ask(
        &self,
        server: &Server,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", server.prefix))
            .header("host", &server.address)
            .body(Full::new(Bytes::from(body)))
            .context("build the request")?;
        timeout(DEADLINE, self.exchange(server, request))
            .await
            .with_context(|| format!("no answer from `{}` in time", server.name))?
            .with_context(|| format!("ask `{}` at {}", server.name, server.address))
    }

    async fn exchange(
        &self,
        server: &Server,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes)> {
        if let Some(mut kept) = self.take(server)
            && kept.ready().await.is_ok()
        {
            // The server may close it at the same moment; then it is asked again.
            if let Ok(answer) = send(&mut kept, request.clone()).await {
                self.keep(server, kept);
                return Ok(answer);
            }
        }
        let mut fresh = self.connect(server).await?;
        let answer = send(&mut fresh, request).await?;
        self.keep(server, fresh);
        Ok(answer)
    }

    async fn connect(&self, server: &Server) -> Result<Connection> {
        let stream = TcpStream::connect(&server.address)
            .await
            .context("connect")?;
        stream.set_nodelay(true).context("connect")?;
        let Some(tls) = &self.0.tls else {
            return speak(stream).await;
        };
        let name = ServerName::try_from(server.name.clone()).context("name the server")?;
        speak(tls.connect(name, stream).await.context("agree on TLS")?).await
    }

    fn take(&self, server: &Server) -> Option<Connection> {
        self.idle().remove(server)
    }

    /// The last that was used replaces another one, which then ends.
    fn keep(&self, server: &Server, connection: Connection) {
        self.idle().insert(server.clone(), connection);
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<Server, Connection>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Connection> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_ANSWER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .context("speak HTTP")?;
    // It ends with its sender, or when the server closes it: whoever waits for an answer is told.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a connection to a co-signer ended: {error}");
        }
    });
    Ok(sender)
}

async fn send(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes)> {
    let response = connection.send_request(request).await.context("send")?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!(error))
        .context("read the answer")?;
    Ok((status, body.to_bytes()))
}

const DEADLINE: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        certificates::{Authority, Holder},
        config::Folder,
        tls::{self, Tls},
        tls_trust::ClientTrust,
    };
    use rustls::pki_types::CertificateDer;
    use std::{
        collections::BTreeSet,
        sync::atomic::{AtomicUsize, Ordering},
    };
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    #[tokio::test]
    async fn foreign_server_must_show_what_was_given_for_it() {
        let Served {
            server, authority, ..
        } = served(usize::MAX).await;
        let ask = async |certificate| {
            let client = Client::new(Some(tls::foreign(certificate).unwrap()));
            client.get(&server, "/").await
        };
        let (status, _) = ask(authority).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        let (_, stranger) = Authority::create("hospital-a").unwrap();
        assert!(ask(stranger.certificate).await.is_err());
    }

    #[tokio::test]
    async fn requests_share_a_connection() {
        let Served {
            client,
            server,
            connections,
            ..
        } = served(usize::MAX).await;
        for _ in 0..5 {
            let (status, body) = client.get(&server, "/").await.unwrap();
            assert_eq!((status, body.as_ref()), (StatusCode::OK, b"ok".as_slice()));
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn connection_that_the_server_has_closed_is_made_again() {
        let Served {
            client,
            server,
            connections,
            ..
        } = served(2).await;
        for _ in 0..6 {
            let (status, _) = client.post(&server, "/", "body".to_owned()).await.unwrap();
            assert_eq!(status, StatusCode::OK);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 3);
    }

    /// A server on this machine, and a client of it.
    struct Served {
        client: Client,
        server: Server,
        /// That issued the server's certificate.
        authority: CertificateDer<'static>,
        connections: Arc<AtomicUsize>,
    }

    /// A server that closes each connection without a word after so many answers, and counts connections.
    async fn served(answers: usize) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let (tls, authority) = tls(&Folder::new(folder.path()));
        let clients = ClientTrust::new(tls.clients(&[]).unwrap(), BTreeSet::new());
        let acceptor = TlsAcceptor::from(tls.server(clients.optional()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::of_node("localhost", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                accepted.fetch_add(1, Ordering::SeqCst);
                let mut stream = BufReader::new(stream);
                for _ in 0..answers {
                    if !read_request(&mut stream).await {
                        break;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                    stream.flush().await.unwrap();
                }
            }
        });
        Served {
            client: tls.client().unwrap(),
            server,
            authority,
            connections,
        }
    }

    /// Until the blank line; a body that follows is of no interest. False when the client has gone.
    async fn read_request(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> bool {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
                return false;
            }
        }
        true
    }

    fn tls(folder: &Folder) -> (Tls, CertificateDer<'static>) {
        let (authority, own) = Authority::create("hospital-a").unwrap();
        let hosts = ["localhost".to_owned()];
        let node = authority.issue(Holder::Node, "hospital-a", &hosts).unwrap();
        std::fs::create_dir(folder.tls()).unwrap();
        for (name, pem) in [
            ("ca.pem", own.certificate_pem.as_str()),
            ("cert.pem", &node.certificate_pem),
            ("key.pem", &node.key_pem),
        ] {
            std::fs::write(folder.tls().join(name), pem).unwrap();
        }
        (Tls::open(folder).unwrap(), own.certificate)
    }
}
