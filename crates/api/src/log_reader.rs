use crate::{BoxError, ClientConfig, ConfigError};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode, Uri,
    client::conn::http1::{self, SendRequest},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use medanchor_anchor::{SignedNote, Tile};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig as TlsConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::TLS13,
    },
};

/// Reads a log over HTTPS (<https://c2sp.org/tlog-tiles>), whoever serves it. Nothing is verified here but
/// the server's certificate. Connections are kept and used again, one for each request under way.
pub struct LogReader {
    host: String,
    port: u16,
    prefix: String,
    name: ServerName<'static>,
    tls: Arc<TlsConfig>,
    idle: Mutex<Vec<Connection>>,
}

type Connection = SendRequest<Empty<Bytes>>;

/// Why something of a log was not read.
#[derive(Debug, thiserror::Error)]
pub enum LogReadError {
    /// It is not there: not published, or no such log.
    #[error("`{0}` does not exist")]
    NotFound(String),
    /// The reader's certificate does not say that they may read it.
    #[error("`{0}` is not for this reader")]
    Denied(String),
    /// The server cannot be reached or cannot answer: try again later.
    #[error("`{url}` cannot be read")]
    Unavailable {
        /// What was asked for.
        url: String,
        /// What lies below.
        #[source]
        source: BoxError,
    },
    /// The answer is not what belongs there: the server is broken or lies.
    #[error("`{url}` is not what belongs there")]
    Invalid {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
}

impl ClientConfig {
    /// A reader of the log at `url`, such as `https://127.0.0.1:7442`. The server's certificate must be of
    /// `server`, or of the URL's host where that is absent. The client's own certificate is shown, where there
    /// is one, so that the server can tell whether entries may be read.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the URL or the certificates cannot be used.
    pub fn log_reader(&self, url: &str, server: Option<&str>) -> Result<LogReader, ConfigError> {
        let bad_address = || ConfigError::Address(url.chars().take(80).collect());
        let uri: Uri = url.parse().map_err(|_| bad_address())?;
        let host = uri.host().unwrap_or_default();
        let plain = uri.query().is_none() && !url.contains(['@', '#']);
        if uri.scheme_str() != Some("https") || host.is_empty() || !plain {
            return Err(bad_address());
        }
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = server.unwrap_or(&host).to_owned();
        let name = ServerName::try_from(name).map_err(|_| bad_address())?;
        Ok(LogReader {
            port: uri.port_u16().unwrap_or(443),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            host,
            name,
            tls: Arc::new(self.tls().map_err(|source| ConfigError::Tls {
                node: server.unwrap_or(url).to_owned(),
                source,
            })?),
            idle: Mutex::default(),
        })
    }

    fn tls(&self) -> Result<TlsConfig, BoxError> {
        let certificates = |pem: &str| {
            let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
            certificates.collect::<Result<Vec<_>, _>>()
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate)?;
        }
        let tls = TlsConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots);
        if self.certificate.is_empty() {
            return Ok(tls.with_no_client_auth());
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        Ok(tls.with_client_auth_cert(certificates(&self.certificate)?, key)?)
    }
}

impl LogReader {
    /// The newest published checkpoint. Not verified yet.
    ///
    /// # Errors
    ///
    /// [`LogReadError`]
    pub async fn checkpoint(&self) -> Result<SignedNote, LogReadError> {
        let bytes = self.get("checkpoint", SignedNote::MAX_BYTES).await?;
        let note = std::str::from_utf8(&bytes).map_err(BoxError::from);
        note.and_then(|note| Ok(SignedNote::parse(note)?))
            .map_err(|source| LogReadError::Invalid {
                url: self.url("checkpoint"),
                source,
            })
    }

    /// The bytes of a tile or an entry bundle. Not verified yet, not even their number.
    ///
    /// # Errors
    ///
    /// [`LogReadError`]
    pub async fn tile(&self, tile: &Tile) -> Result<Bytes, LogReadError> {
        self.get(&tile.to_string(), Tile::MAX_BYTES).await
    }

    /// Where something of the log is.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}:{}{}/{path}", self.host, self.port, self.prefix)
    }

    async fn get(&self, path: &str, limit: usize) -> Result<Bytes, LogReadError> {
        let unavailable = |source| LogReadError::Unavailable {
            url: self.url(path),
            source,
        };
        // A kept connection may have been closed meanwhile; a new one counts.
        let kept = match self.take_idle() {
            Some(connection) => self.exchange(connection, path, limit).await.ok(),
            None => None,
        };
        let (status, body) = match kept {
            Some(answer) => answer,
            None => {
                let connection = self.connect().await.map_err(unavailable)?;
                let answer = self.exchange(connection, path, limit).await;
                answer.map_err(unavailable)?
            }
        };
        match status {
            StatusCode::OK => Ok(body),
            StatusCode::NOT_FOUND => Err(LogReadError::NotFound(self.url(path))),
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                Err(LogReadError::Denied(self.url(path)))
            }
            status => Err(unavailable(format!("the server answered {status}").into())),
        }
    }

    async fn connect(&self) -> Result<Connection, BoxError> {
        let connect = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            let stream = connector.connect(self.name.clone(), stream).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // It ends when the sender is dropped, or the server closes; the sender tells.
            tokio::spawn(connection);
            Ok::<_, BoxError>(sender)
        };
        timeout(CONNECT_WITHIN, connect).await?
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        path: &str,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), BoxError> {
        let request = Request::get(format!("{}/{path}", self.prefix))
            .header(HOST, format!("{}:{}", self.host, self.port))
            .body(Empty::new())?;
        let answer = async {
            connection.ready().await?;
            let response = connection.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), limit).collect().await?;
            Ok::<_, BoxError>((status, body.to_bytes()))
        };
        let answer = timeout(ANSWER_WITHIN, answer).await??;
        self.idle().push(connection);
        Ok(answer)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle();
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader")
            .field("url", &self.url(""))
            .finish_non_exhaustive()
    }
}

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The largest bundle at 1 MB/s.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
