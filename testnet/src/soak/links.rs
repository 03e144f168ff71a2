//! The connections between nodes, each through a relay of this process, so that any of them can be cut.

use anyhow::{Context, Result};
use medanchor_node::{Config, Folder};
use std::{collections::BTreeMap, fmt, io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Handle,
    sync::watch,
};

/// The ways from each node to each other process.
#[derive(Debug)]
pub(crate) struct Links(BTreeMap<(String, String), watch::Sender<Way>>);

/// What a way does with what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It arrives.
    Open,
    /// Connections are closed, and new ones too.
    Refused,
    /// Nothing arrives, and nobody is told.
    Silent,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Refused => "refused",
            Self::Silent => "silent",
        })
    }
}

impl Links {
    /// Puts a relay before everything that the nodes with these folders connect to. Their configs are
    /// rewritten: call it before they start.
    pub(crate) fn lay(runtime: &Handle, folders: &[&std::path::Path]) -> Result<Self> {
        let mut links = Self(BTreeMap::new());
        for folder in folders {
            let path = Folder::new(*folder).config();
            let mut config = Config::open(&path)?;
            let from = config.name.clone();
            for member in config.members.iter_mut().filter(|m| m.name != from) {
                let way = links.way(&from, &member.name);
                member.address = relay(runtime, member.address, way.clone())?;
                member.swarm = relay(runtime, member.swarm, way)?;
            }
            for witness in &mut config.witnesses {
                let way = links.way(&from, &witness.name);
                witness.address = relay(runtime, witness.address, way)?;
            }
            std::fs::write(&path, config.to_text()?).context("write the config")?;
        }
        Ok(links)
    }

    fn way(&mut self, from: &str, to: &str) -> watch::Receiver<Way> {
        let key = (from.to_owned(), to.to_owned());
        let way = self.0.entry(key);
        way.or_insert_with(|| watch::Sender::new(Way::Open))
            .subscribe()
    }

    /// Changes the ways from and to this node.
    pub(crate) fn set_around(&self, name: &str, way: Way) {
        for ((from, to), link) in &self.0 {
            if from == name || to == name {
                link.send_replace(way);
            }
        }
    }

    /// Changes the way from one node to another alone.
    pub(crate) fn set(&self, from: &str, to: &str, way: Way) {
        if let Some(link) = self.0.get(&(from.to_owned(), to.to_owned())) {
            link.send_replace(way);
        }
    }

    /// Opens every way.
    pub(crate) fn open_all(&self) {
        self.0.values().for_each(|link| {
            link.send_replace(Way::Open);
        });
    }
}

/// Listens on a port of its own and passes on to `target`.
fn relay(runtime: &Handle, target: SocketAddr, way: watch::Receiver<Way>) -> Result<SocketAddr> {
    let _entered = runtime.enter();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    listener.set_nonblocking(true).context("set up a relay")?;
    let address = listener.local_addr().context("find a free port")?;
    let listener = TcpListener::from_std(listener).context("set up a relay")?;
    runtime.spawn(async move {
        // It ends with the process.
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(pass_on(stream, target, way.clone()));
        }
    });
    Ok(address)
}

/// Until either end closes or the way is refused.
async fn pass_on(stream: TcpStream, target: SocketAddr, mut way: watch::Receiver<Way>) {
    let open = way.wait_for(|way| *way != Way::Silent).await;
    if open.is_ok_and(|way| *way == Way::Refused) {
        return;
    }
    let Ok(onward) = TcpStream::connect(target).await else {
        return;
    };
    // What cannot be set only slows the relay down.
    let _ = (stream.set_nodelay(true), onward.set_nodelay(true));
    let (near_read, near_write) = stream.into_split();
    let (far_read, far_write) = onward.into_split();
    let refused = {
        let mut way = way.clone();
        async move { way.wait_for(|way| *way == Way::Refused).await.map(drop) }
    };
    tokio::select! {
        _ended = copy(near_read, far_write, way.clone()) => (),
        _ended = copy(far_read, near_write, way) => (),
        _refused = refused => (),
    }
}

/// Copies while the way is open.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut bytes).await?;
        let Some(read) = bytes.get(..count).filter(|read| !read.is_empty()) else {
            return to.shutdown().await;
        };
        // An error means that the run is over.
        let _ = way.wait_for(|way| *way != Way::Silent).await;
        to.write_all(read).await?;
    }
}
