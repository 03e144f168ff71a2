//! The peer: three nodes of [`etcd`](https://etcd.io), with the same certificates, disk and machine as ours.
//!
//! The client speaks etcd's gRPC API by the few messages that a put needs, written down by hand: so nothing
//! has to be generated, and the client costs what tonic costs, as ours does.

use anyhow::{Context, Result};
use medanchor_node::Folder;
use medanchor_testnet::{NodeProcess, free_addresses};
use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

/// A running cluster. Its nodes are stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct Etcd {
    /// What the program says of itself.
    pub(crate) version: String,
    nodes: Vec<Node>,
    tls: ClientTlsConfig,
}

#[derive(Debug)]
struct Node {
    client: SocketAddr,
    process: Child,
}

impl Etcd {
    /// Starts three nodes in `dir`, each with the certificate of one of `hospitals`; `None` when the program
    /// is not installed.
    pub(crate) fn start(dir: &Path, hospitals: &[NodeProcess]) -> Result<Option<Self>> {
        let Ok(version) = Command::new(PROGRAM).arg("--version").output() else {
            return Ok(None);
        };
        let version = String::from_utf8_lossy(&version.stdout);
        let version = version.lines().next().unwrap_or_default();
        let tls: Vec<PathBuf> = hospitals
            .iter()
            .map(|node| Folder::new(node.folder()).tls())
            .collect();
        let addresses = free_addresses(2 * tls.len())?;
        let (clients, peers) = addresses.split_at(tls.len());
        let names = peers.iter().zip(1..);
        let cluster: Vec<String> = names
            .map(|(peer, number)| format!("n{number}=https://{peer}"))
            .collect();
        let mut etcd = Self {
            version: version.trim().to_owned(),
            nodes: Vec::new(),
            tls: client_tls(tls.first().context("a cluster needs a node")?)?,
        };
        for (number, ((tls, client), peer)) in (1..).zip(tls.iter().zip(clients).zip(peers)) {
            let process = Command::new(PROGRAM)
                .args(options(&format!("n{number}"), tls, *client, *peer))
                .args(["--initial-cluster", &cluster.join(",")])
                .arg("--data-dir")
                .arg(dir.join(format!("n{number}")))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(dir.join(format!("n{number}.log")))?)
                .spawn()
                .context("start etcd")?;
            etcd.nodes.push(Node {
                client: *client,
                process,
            });
        }
        Ok(Some(etcd))
    }

    /// Waits until a put succeeds.
    pub(crate) async fn wait_until_ready(&self) -> Result<()> {
        let began = Instant::now();
        let client = self.client(0)?;
        loop {
            match client.put(vec![Put::new(b"ready", b"yes")]).await {
                Ok(()) => return Ok(()),
                Err(error) if began.elapsed() > READY_WITHIN => {
                    return Err(error.context("etcd is not ready"));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// A client with a connection of its own, to one node after the other.
    pub(crate) fn client(&self, number: usize) -> Result<EtcdClient> {
        let node = number.checked_rem(self.nodes.len());
        let node = node.and_then(|place| self.nodes.get(place));
        let address = node.context("etcd has no node")?.client;
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?
            .tls_config(self.tls.clone())
            .context("use the certificate for etcd")?
            .tcp_nodelay(true);
        Ok(EtcdClient(endpoint.connect_lazy()))
    }

    /// The processes' ids.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().map(|node| node.process.id())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // It may have ended by itself; either way it is gone then.
            let _ = node.process.kill();
            let _ = node.process.wait();
        }
    }
}

/// A connection to one node.
#[derive(Clone, Debug)]
pub(crate) struct EtcdClient(Channel);

impl EtcdClient {
    /// Puts one pair, or several in one transaction: as durable as our leaf, on disk at a quorum.
    pub(crate) async fn put(&self, mut puts: Vec<Put>) -> Result<()> {
        match puts.pop() {
            Some(put) if puts.is_empty() => self.call("/etcdserverpb.KV/Put", put).await,
            last => {
                let puts = puts.into_iter().chain(last);
                let success = puts.map(|put| Operation { put: Some(put) }).collect();
                let transaction = Transaction { success };
                self.call("/etcdserverpb.KV/Txn", transaction).await
            }
        }
    }

    async fn call(&self, path: &'static str, message: impl prost::Message + 'static) -> Result<()> {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.context("connect to etcd")?;
        let mut request = Request::new(message);
        request.set_timeout(DEADLINE);
        // The answers say more; whether they came is enough here.
        let codec = ProstCodec::<_, Answer>::default();
        let path = PathAndQuery::from_static(path);
        grpc.unary(request, path, codec).await.context("etcd")?;
        Ok(())
    }
}

/// `etcdserverpb.PutRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl Put {
    pub(crate) fn new(key: &[u8], value: &[u8]) -> Self {
        Self {
            key: key.to_vec(),
            value: value.to_vec(),
        }
    }
}

/// `etcdserverpb.TxnRequest`, without conditions.
#[derive(Clone, PartialEq, prost::Message)]
struct Transaction {
    #[prost(message, repeated, tag = "2")]
    success: Vec<Operation>,
}

/// `etcdserverpb.RequestOp`, which can also be others.
#[derive(Clone, PartialEq, prost::Message)]
struct Operation {
    #[prost(message, optional, tag = "2")]
    put: Option<Put>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answer {}

/// The defaults but for addresses and TLS, which every connection has on both ends.
fn options(name: &str, tls: &Path, client: SocketAddr, peer: SocketAddr) -> Vec<String> {
    let (client, peer) = (format!("https://{client}"), format!("https://{peer}"));
    let file = |name: &str| tls.join(name).to_string_lossy().into_owned();
    [
        format!("--name={name}"),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--cert-file={}", file("cert.pem")),
        format!("--key-file={}", file("key.pem")),
        format!("--trusted-ca-file={}", file("ca.pem")),
        "--client-cert-auth".to_owned(),
        format!("--peer-cert-file={}", file("cert.pem")),
        format!("--peer-key-file={}", file("key.pem")),
        format!("--peer-trusted-ca-file={}", file("ca.pem")),
        "--peer-client-cert-auth".to_owned(),
        "--logger=zap".to_owned(),
        "--log-level=error".to_owned(),
    ]
    .into()
}

fn client_tls(tls: &Path) -> Result<ClientTlsConfig> {
    let read = |name: &str| fs::read(tls.join(name)).context("read a certificate");
    Ok(ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")?))
        .identity(Identity::from_pem(read("cert.pem")?, read("key.pem")?)))
}

const PROGRAM: &str = "etcd";
const READY_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(30);
