use crate::{
    DialFailure, FetchError, Fetched, PeerAddress, PeerConfig, PeerError,
    config::{Timing, allowed},
    fetch::Finder,
    local::LocalBlocks,
    network::{Network, Parts},
    pace::Pace,
    session::Session,
};
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use medanchor_dag::{Block, BlockSource, BlockStore, Cid, SourceError};
use std::{fmt, sync::Arc};
use tokio::{sync::mpsc, time::Instant};

/// A running peer of a private IPFS network. It stops when it is dropped or [`Peer::shutdown`].
pub struct Peer {
    parts: Parts,
    finder: Finder,
    listen_addresses: Vec<String>,
}

impl Peer {
    /// Binds the configured addresses, then connects to the configured peers in the background and
    /// answers them from `store`.
    ///
    /// # Errors
    ///
    /// [`PeerError`] when the configuration is wrong or an address cannot be bound.
    pub async fn start(config: PeerConfig, store: Arc<dyn BlockStore>) -> Result<Self, PeerError> {
        Self::start_with(config, store, Timing::default()).await
    }

    pub(crate) async fn start_with(
        config: PeerConfig,
        store: Arc<dyn BlockStore>,
        timing: Timing,
    ) -> Result<Self, PeerError> {
        let (local, corrupt) = LocalBlocks::new(store);
        let (network, parts) = Network::bind(&config, timing, Arc::new(local)).await?;
        let finder = Finder {
            exchange: Arc::clone(&parts.exchange),
            local: Arc::clone(&parts.local),
        };
        let listen_addresses = network.listen_addresses();
        parts.tasks.spawn(network.run());
        let stopping = parts.stopping.clone();
        let repairing = repair(finder.clone(), corrupt);
        parts.tasks.spawn(async move {
            stopping.run_until_cancelled_owned(repairing).await;
        });
        Ok(Self {
            parts,
            finder,
            listen_addresses,
        })
    }

    /// Replaces the allow-list: peers that are new on it are dialled, and the connections of those that are no
    /// longer on it are closed. When this returns, the list is in force: a fetch waits for those that are dialled.
    ///
    /// # Errors
    ///
    /// [`PeerError`] when a peer id or an address is wrong; the list is then as before.
    pub async fn allow(&self, peers: &[PeerAddress]) -> Result<(), PeerError> {
        self.parts.allow(allowed(peers)?).await;
        Ok(())
    }

    /// Closes all connections and returns when nothing of this peer runs any more.
    pub async fn shutdown(&self) {
        self.parts.stopping.cancel();
        self.parts.tasks.close();
        self.parts.tasks.wait().await;
    }

    /// Where others reach this peer, such as `/ip4/127.0.0.1/tcp/4001`, with the ports that were given.
    pub fn listen_addresses(&self) -> &[String] {
        &self.listen_addresses
    }

    /// The ids of the peers that are connected now.
    pub fn connected(&self) -> Vec<String> {
        let peers = self.finder.exchange.peers();
        peers.iter().map(ToString::to_string).collect()
    }

    /// The configured peers that could not be connected, and why the last attempt failed.
    pub fn unreachable(&self) -> Vec<(String, DialFailure)> {
        let failures = self.finder.exchange.failures().into_iter();
        failures
            .map(|(peer, why)| (peer.to_string(), why))
            .collect()
    }

    /// How many corrupt blocks in the local store were replaced since the start.
    pub fn repaired(&self) -> u64 {
        self.finder.local.repaired()
    }

    /// Fetches what the local store lacks of the DAGs below `roots`, several peers at a time and the peer
    /// `hint` first. When this returns, every block of them was read back whole or is on disk, fsynced:
    /// this is what a holder's signature rests on (I1).
    ///
    /// # Errors
    ///
    /// [`FetchError`]; what was saved until then is kept, and a later call goes on from there.
    pub async fn fetch_dag(
        &self,
        roots: &[Cid],
        hint: Option<&str>,
    ) -> Result<Fetched, FetchError> {
        self.finder.fetch_dag(roots, &session(hint), None).await
    }

    /// The same, from whoever has it, at no more than this many bytes per second.
    ///
    /// # Errors
    ///
    /// As [`Peer::fetch_dag`].
    pub async fn fetch_dag_at(
        &self,
        roots: &[Cid],
        bytes_per_second: u64,
    ) -> Result<Fetched, FetchError> {
        let pace = Pace::new(bytes_per_second, Instant::now());
        let session = session(None);
        self.finder.fetch_dag(roots, &session, Some(pace)).await
    }

    /// Blocks in the order in which they come, from the local store or from peers, the peer `hint` first.
    /// They are not kept.
    pub fn fetch_from(
        &self,
        cids: Vec<Cid>,
        hint: Option<&str>,
    ) -> BoxStream<'static, Result<Block, SourceError>> {
        self.finder.clone().obtain_all(cids, session(hint)).boxed()
    }
}

impl BlockSource for Peer {
    /// The block from the local store, or else from whichever peer has it. It is not kept, unless it
    /// replaces a corrupt copy.
    fn fetch<'a>(&'a self, cid: &'a Cid) -> BoxFuture<'a, Result<Block, SourceError>> {
        Box::pin(async move {
            let obtained = self.finder.obtain(*cid, &session(None)).await?;
            Ok(obtained.into_block())
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.parts.stopping.cancel();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("listen_addresses", &self.listen_addresses)
            .field("connected", &self.connected())
            .finish_non_exhaustive()
    }
}

/// A hint that is no peer id helps nobody and harms nobody.
fn session(hint: Option<&str>) -> Arc<Session> {
    Arc::new(Session::new(hint.and_then(|peer| peer.parse().ok())))
}

/// Replaces corrupt blocks that were found while answering others.
async fn repair(finder: Finder, mut corrupt: mpsc::Receiver<Cid>) {
    while let Some(cid) = corrupt.recv().await {
        // A block that was repaired in the meantime is not corrupt any more.
        if let Err(error) = finder.obtain(cid, &session(None)).await {
            tracing::warn!(%cid, error = &error as &dyn std::error::Error, "block stays corrupt");
        }
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
