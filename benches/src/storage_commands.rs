//! Our side of the benchmark `storage`: each a process of its own, as Kubo's are.

use crate::{author::Author, cpu, process_memory::peak_mib};
use anyhow::{Context, Result, ensure};
use medanchor_dag::{Block, BlockStore, Cid, CustodyId, DiskStore};
use medanchor_envelope::{Identity, Suite};
use medanchor_ipfs::{Peer, PeerAddress, PeerConfig, PeerKey, SwarmKey};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    iter,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

/// First argument of the process that seals a file and stores it: folder, input.
pub(crate) const ADD: &str = "add-blocks";
/// First argument of the process that serves a store until its standard input closes: folder.
pub(crate) const SERVE: &str = "serve-blocks";
/// First argument of the process that fetches a DAG and keeps it: folder, address, roots.
pub(crate) const FETCH: &str = "fetch-blocks";

/// What a command took, without its start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    /// Processor time, user and system, of all its threads.
    pub(crate) processor_seconds: f64,
    peak_kib: f64,
    /// The roots that were added, with commas between them.
    #[serde(default)]
    pub(crate) cid: String,
}

impl Figures {
    /// The most memory that the process had.
    pub(crate) fn peak_mib(&self) -> f64 {
        self.peak_kib / 1024.0
    }
}

/// When what is measured began.
struct Start {
    at: Instant,
    processor: Duration,
}

/// Runs one of the three with the arguments after its name.
pub(crate) fn run(name: &str, mut arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let mut next = || arguments.next().context("an argument is missing");
    let folder = PathBuf::from(next()?);
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    match name {
        ADD => add(&folder, Path::new(&next()?)),
        SERVE => runtime.block_on(serve(&folder)),
        _ => {
            let (address, roots) = (next()?, next()?);
            let text = |word: &OsString| word.to_str().context("not UTF-8").map(str::to_owned);
            runtime.block_on(fetch(&folder, &text(&address)?, &text(&roots)?))
        }
    }
}

/// Seals on one thread and stores on others: while one waits for the disk, another writes.
fn add(folder: &Path, input: &Path) -> Result<()> {
    let store = DiskStore::open(folder).context("open the store")?;
    let custody = Identity::generate()?.recipient();
    let mut author = Author::new(CustodyId::generate()?, custody)?;
    let input = File::open(input).context("open the input")?;
    let start = Start::now()?;
    let (sender, receiver) = mpsc::sync_channel::<Vec<Block>>(1);
    let receiver = Arc::new(Mutex::new(receiver));
    let roots = thread::scope(|scope| {
        let storing: Vec<_> = (0..STORING)
            .map(|_| {
                let (store, receiver) = (&store, Arc::clone(&receiver));
                scope.spawn(move || groups(&receiver).try_for_each(|group| store.put(&group)))
            })
            .collect();
        // It ends with those that store, so that nobody waits for them then.
        drop(receiver);
        let mut group = Group::default();
        let sealed = author.seal(input, Suite::ChaCha20Poly1305, &mut |block| {
            let gone = |_| io::Error::other("the store failed");
            group
                .add(block)
                .map_or(Ok(()), |full| sender.send(full).map_err(gone))
        })?;
        let roots = sealed.blocks();
        let names: Vec<String> = roots.iter().map(|root| root.cid().to_string()).collect();
        group.blocks.extend(roots);
        let last = sender.send(group.blocks);
        drop(sender);
        for thread in storing {
            let stored = thread.join();
            let stored = stored.map_err(|_| anyhow::anyhow!("the store panicked"))?;
            stored.context("store the blocks")?;
        }
        last.context("store the last blocks")?;
        anyhow::Ok(names)
    })?;
    start.say(roots.join(","))
}

/// What is to be stored, for one of several that share it.
fn groups(receiver: &Mutex<mpsc::Receiver<Vec<Block>>>) -> impl Iterator<Item = Vec<Block>> {
    iter::from_fn(|| {
        let receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.recv().ok()
    })
}

async fn serve(folder: &Path) -> Result<()> {
    let store = Arc::new(DiskStore::open(folder).context("open the store")?);
    let other = PeerKey::from_seed(&FETCHER).peer_id();
    let allowed = PeerAddress {
        peer_id: other,
        address: None,
    };
    let peer = Peer::start(config(&SERVER, vec![allowed])?, store).await?;
    let address = peer
        .listen_addresses()
        .first()
        .context("it listens nowhere")?;
    println!("serving {address}");
    let until_closed = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
    until_closed.await??;
    peer.shutdown().await;
    Ok(())
}

async fn fetch(folder: &Path, address: &str, roots: &str) -> Result<()> {
    let roots = roots.split(',').map(Cid::try_from);
    let roots: Vec<Cid> = roots.collect::<Result<_, _>>().context("parse the roots")?;
    let store = Arc::new(DiskStore::open(folder).context("open the store")?);
    let server = PeerAddress {
        peer_id: PeerKey::from_seed(&SERVER).peer_id(),
        address: Some(address.to_owned()),
    };
    let peer = Peer::start(config(&FETCHER, vec![server])?, store).await?;
    let connecting = Instant::now();
    while peer.connected().is_empty() {
        ensure!(
            connecting.elapsed() < CONNECT,
            "the server at `{address}` cannot be reached"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let start = Start::now()?;
    peer.fetch_dag(&roots, None).await?;
    start.say(String::new())?;
    peer.shutdown().await;
    Ok(())
}

fn config(seed: &[u8; 32], peers: Vec<PeerAddress>) -> Result<PeerConfig> {
    Ok(PeerConfig {
        key: PeerKey::from_seed(seed),
        swarm_key: SwarmKey::parse(SWARM_KEY)?,
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        peers,
    })
}

impl Start {
    fn now() -> Result<Self> {
        Ok(Self {
            processor: cpu::of_processes(&[std::process::id()])?,
            at: Instant::now(),
        })
    }

    /// Says what it took since then.
    fn say(&self, cid: String) -> Result<()> {
        let seconds = self.at.elapsed().as_secs_f64();
        let processor = cpu::of_processes(&[std::process::id()])?;
        let figures = Figures {
            seconds,
            processor_seconds: processor.saturating_sub(self.processor).as_secs_f64(),
            peak_kib: peak_mib(std::process::id())? * 1024.0,
            cid,
        };
        println!("{}", serde_json::to_string(&figures)?);
        Ok(())
    }
}

/// Blocks that share their syncs.
#[derive(Default)]
struct Group {
    blocks: Vec<Block>,
    bytes: usize,
}

impl Group {
    /// Adds a block; what is to be stored now, if it is time.
    fn add(&mut self, block: Block) -> Option<Vec<Block>> {
        self.bytes += block.bytes().len();
        self.blocks.push(block);
        (self.bytes >= GROUP_BYTES).then(|| {
            self.bytes = 0;
            std::mem::take(&mut self.blocks)
        })
    }
}

/// As a node stores what is uploaded.
pub(crate) const GROUP_BYTES: usize = 8 << 20;
/// A node stores more uploads than that at a time.
const STORING: usize = 3;
/// How long the server may take to be there.
const CONNECT: Duration = Duration::from_secs(30);
const SERVER: [u8; 32] = [1; 32];
const FETCHER: [u8; 32] = [2; 32];
/// Of the private network in which both are, and Kubo's two.
pub(crate) const SWARM_KEY: &str = "/key/swarm/psk/1.0.0/\n/base16/\n0707070707070707070707070707070707070707070707070707070707070707\n";
