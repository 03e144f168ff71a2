//! Another member's node, as this one reaches it: one gRPC channel, connected when first used and kept, and
//! HTTPS. Both demand the very certificate that the log names.

use crate::{
    http::{Client, Server},
    tls::{self, Tls},
};
use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use medanchor_anchor::{MemberEntry, VerifierKey, WitnessPlace, WitnessUrl};
use medanchor_dag::Hash;
use rustls::pki_types::{CertificateDer, ServerName};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};

/// A member's node.
pub(crate) struct Remote {
    pub(crate) node_id: u64,
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) channel: Channel,
    pub(crate) cosigner: RemoteCosigner,
    certificate: Hash,
}

/// A co-signer on another machine.
pub(crate) struct RemoteCosigner {
    pub(crate) server: Server,
    pub(crate) http: Client,
    /// What it signs with.
    pub(crate) key: VerifierKey,
}

/// How a witness that others run is reached. It is trusted for nothing but its co-signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForeignServer {
    url: WitnessUrl,
    /// What it shows, or who issues that; `None` where nothing is encrypted.
    certificate: Option<CertificateDer<'static>>,
}

impl ForeignServer {
    /// At this URL prefix, with the certificate in this PEM text.
    pub(crate) fn new(url: &str, certificate: Option<&str>) -> Result<Self> {
        let url: WitnessUrl = url.parse().with_context(|| format!("read `{url}`"))?;
        let certificate = certificate.map(tls::certificate).transpose()?;
        Self { url, certificate }.checked()
    }

    /// As the log says.
    pub(crate) fn of(place: &WitnessPlace) -> Result<Self> {
        let url: WitnessUrl = place.url.parse().context("read its URL")?;
        let certificate = Some(&place.certificate).filter(|certificate| !certificate.is_empty());
        let certificate = certificate.map(|certificate| certificate.clone().into());
        Self { url, certificate }.checked()
    }

    fn checked(self) -> Result<Self> {
        anyhow::ensure!(
            self.certificate.is_some() || !self.url.is_https(),
            "`{}` needs the certificate that it shows, or its authority's",
            self.url
        );
        self.client()?;
        Ok(self)
    }

    /// Requests to it, by this key.
    pub(crate) fn cosigner(&self, key: VerifierKey) -> Result<RemoteCosigner> {
        Ok(RemoteCosigner {
            server: Server::at(&self.url),
            http: self.client()?,
            key,
        })
    }

    fn client(&self) -> Result<Client> {
        let certificate = self.certificate.clone().filter(|_| self.url.is_https());
        Ok(Client::new(certificate.map(tls::foreign).transpose()?))
    }
}

impl Remote {
    /// The node of a member. Nothing is connected yet; call it within a tokio runtime.
    pub(crate) fn new(entry: &MemberEntry, address: SocketAddr, tls: &Tls) -> Result<Self> {
        let member = &entry.member;
        let name = &member.name;
        let connector = Connector {
            address,
            name: ServerName::try_from(name.clone()).context("name the node")?,
            tls: Arc::new(tls.member(entry, &[b"h2"])?).into(),
        };
        // The connector encrypts; the scheme only says that nobody else is to.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .context("address the node")?
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        Ok(Self {
            node_id: member.node_id,
            name: name.clone(),
            address,
            channel: endpoint.connect_with_connector_lazy(connector),
            cosigner: RemoteCosigner {
                server: Server::of_node(name, address),
                http: Client::new(Some(tls.member(entry, &[b"http/1.1"])?)),
                key: member.cosigner_key.parse().context("read its key")?,
            },
            certificate: member.certificate,
        })
    }

    /// Whether it is the node of this member, at this address.
    pub(crate) fn is(&self, entry: &MemberEntry, address: SocketAddr) -> bool {
        self.node_id == entry.member.node_id
            && self.certificate == entry.member.certificate
            && self.address == address
    }
}

#[derive(Clone)]
struct Connector {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, name, tls } = self.clone();
        Box::pin(async move {
            let connect = async {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                tls.connect(name, stream).await
            };
            Ok(TokioIo::new(timeout(CONNECT_WITHIN, connect).await??))
        })
    }
}

const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
