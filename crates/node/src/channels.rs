//! gRPC channels to the other members' nodes: one each, connected when first used and kept.

use crate::{config::Config, tls::Tls};
use anyhow::{Context, Result};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tonic::transport::{Channel, Endpoint};

/// A member's node, as this node reaches it.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) name: String,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) channel: Channel,
}

/// The other members' nodes, by node id.
#[derive(Clone)]
pub(crate) struct Channels(Arc<BTreeMap<u64, Remote>>);

impl Channels {
    pub(crate) fn new(config: &Config, tls: &Tls) -> Result<Self> {
        let others = config
            .members
            .iter()
            .filter(|member| member.name != config.name);
        let remotes = others.map(|member| {
            let endpoint = Endpoint::from_shared(format!("https://{}", member.address))
                .context("address the node")?
                .tls_config(tls.channel(&member.name))
                .context("use the node's certificate")?
                .connect_timeout(CONNECT_WITHIN)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .keep_alive_while_idle(true)
                .tcp_nodelay(true);
            let remote = Remote {
                name: member.name.clone(),
                address: member.address,
                channel: endpoint.connect_lazy(),
            };
            anyhow::Ok((member.node_id, remote))
        });
        Ok(Self(Arc::new(remotes.collect::<Result<_>>()?)))
    }

    /// The node with this id; `None` for this node itself and for strangers.
    pub(crate) fn to(&self, node_id: u64) -> Option<&Remote> {
        self.0.get(&node_id)
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Remote> {
        self.0.values()
    }
}

const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
