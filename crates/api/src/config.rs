use crate::BoxError;
use std::{fmt, time::Duration};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use zeroize::Zeroizing;

/// Where the nodes are and how the client proves who it is.
#[derive(Clone)]
pub struct ClientConfig {
    /// The nodes, the preferred one first.
    pub nodes: Vec<NodeAddress>,
    /// Certificates of the network's authority, PEM.
    pub ca: String,
    /// The client's certificate chain, PEM.
    pub certificate: String,
    /// The client's TLS key, PEM.
    pub key: Zeroizing<String>,
}

/// A node, by the name that its certificate must carry and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Short name: `[a-z0-9-]{1,32}`, a DNS name in the node's certificate.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

/// Why a client cannot be made of a configuration: correct it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No node is listed.
    #[error("no node is listed")]
    NoNodes,
    /// A node's address is not `host:port`.
    #[error("address `{0}` is not host:port")]
    Address(String),
    /// A certificate or the key is not usable.
    #[error("certificates for node `{node}` are not usable")]
    Tls {
        /// The node.
        node: String,
        /// What is wrong.
        #[source]
        source: BoxError,
    },
}

impl ClientConfig {
    /// A channel to one of the nodes, that connects when it is first used and again when it has to.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the address or the certificates cannot be used.
    pub fn channel(&self, node: &NodeAddress) -> Result<Channel, ConfigError> {
        let bad_address = || ConfigError::Address(node.address.chars().take(80).collect());
        if !is_host_and_port(&node.address) {
            return Err(bad_address());
        }
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(Identity::from_pem(&self.certificate, self.key.as_bytes()))
            .domain_name(&node.name);
        let endpoint = Endpoint::from_shared(format!("https://{}", node.address))
            .map_err(|_| bad_address())?
            .tls_config(tls)
            .map_err(|source| ConfigError::Tls {
                node: node.name.clone(),
                source: source.into(),
            })?;
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_lazy())
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

/// A URI would also take a path or a user name.
fn is_host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', '?', '#']) && port.parse::<u16>().is_ok()
    })
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Two of the largest blocks: one on its way while the other is read.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
