//! Another implementation of IPFS as a foreign peer in the same private network, in both directions, one after the
//! other and at once, with windows of 1, 16 and 64 blocks, blocks of 4 KiB to 1 MiB, and DAGs that lack a block. Prints
//! a table.
//!
//! `interop/run` starts it; see there. `MEDANCHOR_FOREIGN` is the shell command of a program with the options of
//! `testnet/foreign/kubo_pin.py`, `MEDANCHOR_FOREIGN_WINDOWS` the windows that it is given as `--window`, `own` for
//! none, `MEDANCHOR_FOREIGN_KNOWN` the line that is known to fail by its fault, and
//! `MEDANCHOR_INTEROP_MIB` the size of each DAG.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by a panic and prints its table"
)]

use medanchor_dag::{Block, BlockStore, Cid, Codec, MemoryStore, SourceError, to_canonical};
use medanchor_ipfs::{FetchError, Peer, PeerAddress, PeerConfig, PeerKey, SwarmKey};
use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
};
use tempfile::TempDir;
use tokio::{
    task::{block_in_place, spawn_blocking, yield_now},
    time::Instant,
};

const SIZES: [usize; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
const WINDOWS: [usize; 3] = [1, 16, 64];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a foreign node"]
async fn foreign_node_and_ours_exchange_blocks() {
    let network = Network::new();
    let mut table = Table::default();
    we_fetch(&network, &mut table).await;
    they_fetch(&network, &mut table).await;
    both_fetch(&network, &mut table).await;
    println!("{}", table.text);
    assert_eq!(table.failed, 0);
}

async fn we_fetch(network: &Network, table: &mut Table) {
    let dags: Vec<Dag> = SIZES.map(|size| Dag::new(size, 0)).into();
    let incomplete = Dag::new(64 << 10, 1);
    let served = dags.iter().chain([&incomplete]).flat_map(Dag::blocks);
    let missing = incomplete.leaves[incomplete.leaves.len() / 2].cid();
    let folder = network.write("blocks", served.filter(|block| block.cid() != missing));
    let deadline = seconds();
    let add = ["--add", &folder, "--deadline", &deadline, "--serve"];
    let mut foreign = network.foreign("server", &add);
    let serving = foreign.line_after("serving ");
    let (address, id) = serving.split_once("/p2p/").unwrap();
    let start = |key: PeerKey| async move {
        let peer = PeerAddress {
            peer_id: id.to_owned(),
            address: Some(address.to_owned()),
        };
        let store = Arc::new(MemoryStore::default());
        let peer = network.start(key, vec![peer], Arc::clone(&store) as _);
        (peer.await, store)
    };
    let someone = || PeerKey::generate().unwrap();
    for dag in &dags {
        for window in WINDOWS {
            let (peer, _store) = start(someone()).await;
            let began = Instant::now();
            let fetched = dag.fetch(&peer, window).await;
            let what = format!("we fetch   {:>7}  window {window:>3}", dag.block_bytes);
            table.row(&what, fetched.map(|()| dag.rate(began)));
            peer.shutdown().await;
        }
        let (peer, store) = start(someone()).await;
        let began = Instant::now();
        let fetched = dag.fetch_whole(&peer, &store).await;
        let what = format!("we fetch   {:>7}  window own", dag.block_bytes);
        table.row(&what, fetched.map(|()| dag.rate(began)));
        peer.shutdown().await;
    }
    let (peer, _store) = start(network.key()).await;
    let refused = match peer.fetch_dag(&[*incomplete.root()], None).await {
        Err(FetchError::Block(SourceError::NotFound(cid))) if cid == *missing => {
            Ok("not found".to_owned())
        }
        other => Err(format!("{other:?}")),
    };
    table.row("we fetch   incomplete", refused);
    peer.shutdown().await;
    let (peer, store) = start(network.key()).await;
    let began = Instant::now();
    let fetched = dags[1].fetch_whole(&peer, &store).await;
    table.row("we return", fetched.map(|()| dags[1].rate(began)));
    peer.shutdown().await;
}

async fn they_fetch(network: &Network, table: &mut Table) {
    let windows = windows();
    // Its repository remembers what it fetched: every time another DAG.
    let mut plans = Vec::new();
    for size in SIZES {
        for window in &windows {
            plans.push((Dag::new(size, plans.len() as u64 + 2), window));
        }
    }
    let incomplete = Dag::new(64 << 10, 1);
    let missing = incomplete.leaves[incomplete.leaves.len() / 2].cid();
    let store = Arc::new(MemoryStore::default());
    for dag in plans.iter().map(|(dag, _)| dag).chain([&incomplete]) {
        let mut blocks = [dag.nodes.as_slice(), &dag.leaves].concat();
        blocks.retain(|block| block.cid() != missing);
        store.put(&blocks).unwrap();
    }
    let peer = network.start_for("client", store).await;
    let address = network.address(&peer);
    let pin = |dag: &Dag, window: &str, deadline: &str| {
        let root = dag.root().to_string();
        let mut arguments = vec!["--connect", &address, "--cid", &root];
        arguments.extend(["--deadline", deadline]);
        arguments.extend(window_option(window));
        network.foreign("client", &arguments).end()
    };
    for (dag, window) in &plans {
        let (status, said) = pin(dag, window, &seconds());
        let what = format!("they fetch {:>7}  window {window:>3}", dag.block_bytes);
        let done = status.success() && said.contains(&format!("pinned {}", dag.whole()));
        table.row(&what, done.then(|| "whole".to_owned()).ok_or(said));
    }
    let (status, said) = pin(&incomplete, &windows[0], "10");
    let refused = !status.success() && !said.contains("pinned");
    table.row(
        "they fetch incomplete",
        refused.then(|| "not pinned".to_owned()).ok_or(said),
    );
    peer.shutdown().await;
}

/// Each asks the other for a DAG over the same connection at the same time.
async fn both_fetch(network: &Network, table: &mut Table) {
    let window = windows().pop().unwrap();
    for (number, size) in SIZES.into_iter().enumerate() {
        let [ours, theirs] = [100, 200].map(|base| Dag::new(size, base + number as u64));
        let repository = format!("both{number}");
        let folder = network.write(&format!("{repository}-blocks"), theirs.blocks());
        let store = Arc::new(MemoryStore::default());
        store
            .put(&[ours.nodes.as_slice(), &ours.leaves].concat())
            .unwrap();
        let peer = network
            .start_for(&repository, Arc::clone(&store) as _)
            .await;
        let (address, root, deadline) =
            (network.address(&peer), ours.root().to_string(), seconds());
        let mut arguments = vec!["--add", &folder, "--connect", &address, "--cid", &root];
        arguments.extend(["--deadline", &deadline, "--serve"]);
        arguments.extend(window_option(&window));
        let mut foreign = network.foreign(&repository, &arguments);
        let pinning = spawn_blocking(move || {
            let line = foreign.line("pinned ");
            (foreign, line)
        });
        while peer.connected().is_empty() && !pinning.is_finished() {
            yield_now().await;
        }
        let began = Instant::now();
        let fetched = theirs.fetch_whole(&peer, &store).await;
        let rate = theirs.rate(began);
        let (foreign, pinned) = pinning.await.unwrap();
        let pinned = pinned.filter(|line| line.starts_with(&ours.whole()));
        let what = format!("both fetch {size:>7}  window {window:>3}");
        table.row(
            &what,
            match (fetched, pinned) {
                (Ok(()), Some(_)) => Ok(rate),
                (Ok(()), None) => Err(format!("they did not; we: {rate}")),
                (Err(error), pinned) => Err(format!("we: {error}; they: {pinned:?}")),
            },
        );
        drop(foreign);
        peer.shutdown().await;
    }
}

/// What it is asked to fetch with.
fn windows() -> Vec<String> {
    let windows = env::var("MEDANCHOR_FOREIGN_WINDOWS").unwrap_or_else(|_| "own".to_owned());
    windows.split_whitespace().map(str::to_owned).collect()
}

fn window_option(window: &str) -> Vec<&str> {
    if window == "own" {
        Vec::new()
    } else {
        vec!["--window", window]
    }
}

/// How long it may take, for DAGs of any size.
fn seconds() -> String {
    (60 + mib()).to_string()
}

fn mib() -> usize {
    env::var("MEDANCHOR_INTEROP_MIB").map_or(4, |mib| mib.parse().unwrap())
}

/// What was tried and what came of it, a line each.
#[derive(Default)]
struct Table {
    text: String,
    failed: u32,
}

impl Table {
    fn row(&mut self, what: &str, outcome: Result<String, String>) {
        let known = env::var("MEDANCHOR_FOREIGN_KNOWN").is_ok_and(|known| what == known);
        self.failed += u32::from(outcome.is_err() != known);
        let said = match (outcome, known) {
            (Ok(said), false) => said,
            (Err(error), false) => format!("FAILED: {error}"),
            (Ok(said), true) => format!("FAILED: was known to fail: {said}"),
            (Err(error), true) => format!("known to fail: {error}"),
        };
        self.text += &format!("{what:<31} {said}\n");
    }
}

/// A root over index nodes over raw leaves.
struct Dag {
    block_bytes: usize,
    /// The root comes last.
    nodes: Vec<Block>,
    leaves: Vec<Block>,
}

impl Dag {
    /// One that shares no leaf with those of another number or size.
    fn new(block_bytes: usize, number: u64) -> Self {
        let leaf = |index: usize| {
            let mut bytes = vec![0x5a; block_bytes];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            bytes[8..16].copy_from_slice(&(index as u64).to_be_bytes());
            Block::new(Codec::Raw, bytes).unwrap()
        };
        let leaves: Vec<Block> = (0..(mib() << 20) / block_bytes).map(leaf).collect();
        let mut nodes: Vec<Block> = leaves.chunks(500).map(node).collect();
        nodes.push(node(&nodes));
        Self {
            block_bytes,
            nodes,
            leaves,
        }
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.nodes.iter().chain(&self.leaves)
    }

    /// What a foreign node says that pinned all of it.
    fn whole(&self) -> String {
        let blocks = self.nodes.len() + self.leaves.len();
        format!("{}: {blocks} blocks, ", self.root())
    }

    fn root(&self) -> &Cid {
        self.nodes[self.nodes.len() - 1].cid()
    }

    /// Asks for `window` blocks at a time, and for more only when all of them came.
    async fn fetch(&self, peer: &Peer, window: usize) -> Result<(), String> {
        let blocks = [self.nodes.as_slice(), &self.leaves].concat();
        for some in blocks.chunks(window) {
            let cids = some.iter().map(|block| *block.cid());
            let fetches =
                cids.map(|cid| async move { medanchor_dag::BlockSource::fetch(peer, &cid).await });
            let fetched = futures::future::try_join_all(fetches).await;
            let fetched = fetched.map_err(|error| error.to_string())?;
            if fetched != some {
                return Err("other blocks than it was asked for".to_owned());
            }
        }
        Ok(())
    }

    async fn fetch_whole(&self, peer: &Peer, store: &MemoryStore) -> Result<(), String> {
        let fetched = peer.fetch_dag(&[*self.root()], None).await;
        fetched.map_err(|error| error.to_string())?;
        self.check(store)
    }

    fn check(&self, store: &MemoryStore) -> Result<(), String> {
        for block in self.blocks() {
            if store.block(block.cid()).unwrap().as_ref() != Some(block) {
                return Err(format!("`{}` was not kept", block.cid()));
            }
        }
        Ok(())
    }

    fn rate(&self, began: Instant) -> String {
        let bytes = self.leaves.len() * self.block_bytes;
        let rate = bytes as f64 / 1e6 / began.elapsed().as_secs_f64();
        format!("whole, {rate:.1} MB/s")
    }
}

fn node(blocks: &[Block]) -> Block {
    let links: Vec<Cid> = blocks.iter().map(|block| *block.cid()).collect();
    Block::new(Codec::DagCbor, to_canonical(&links)).unwrap()
}

/// A private network of one foreign node and one of ours.
struct Network {
    folder: TempDir,
    key: PeerKey,
}

impl Network {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SwarmKey::generate().unwrap();
        fs::write(folder.path().join("swarm.key"), key.to_text().as_str()).unwrap();
        Self {
            folder,
            key: PeerKey::generate().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder with these blocks in files that are named by their CIDs.
    fn write<'a>(&self, name: &str, blocks: impl Iterator<Item = &'a Block>) -> String {
        let folder = self.path(name);
        fs::create_dir(&folder).unwrap();
        for block in blocks {
            fs::write(folder.join(block.cid().to_string()), block.bytes()).unwrap();
        }
        folder.to_str().unwrap().to_owned()
    }

    /// Where a foreign node connects to.
    fn address(&self, peer: &Peer) -> String {
        format!("{}/p2p/{}", peer.listen_addresses()[0], self.key.peer_id())
    }

    /// Starts a peer that admits the foreign node of this repository, which is made.
    async fn start_for(&self, repository: &str, store: Arc<dyn BlockStore>) -> Peer {
        let foreign = PeerAddress {
            peer_id: self.foreign(repository, &[]).line_after("peer "),
            address: None,
        };
        self.start(self.key(), vec![foreign], store).await
    }

    /// The key of the peer that comes back.
    fn key(&self) -> PeerKey {
        PeerKey::from_seed(&self.key.to_seed())
    }

    async fn start(
        &self,
        key: PeerKey,
        peers: Vec<PeerAddress>,
        store: Arc<dyn BlockStore>,
    ) -> Peer {
        let text = fs::read_to_string(self.path("swarm.key")).unwrap();
        let config = PeerConfig {
            key,
            swarm_key: SwarmKey::parse(&text).unwrap(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            peers,
        };
        Peer::start(config, store).await.unwrap()
    }

    fn foreign(&self, repository: &str, arguments: &[&str]) -> Foreign {
        let command = env::var("MEDANCHOR_FOREIGN").unwrap();
        let mut process = Command::new("sh")
            .args(["-c", &format!("exec {command} \"$@\""), "foreign", "--repo"])
            .arg(self.path(repository))
            .arg("--swarm-key")
            .arg(self.path("swarm.key"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Foreign { process, output }
    }
}

/// A running foreign node. It ends when its standard input closes.
struct Foreign {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Foreign {
    fn line_after(&mut self, start: &str) -> String {
        let line = self.line(start);
        line.unwrap_or_else(|| panic!("the foreign node ended and did not say `{start}`"))
    }

    /// The rest of the first line that begins like this, if it says one before it ends.
    fn line(&mut self, start: &str) -> Option<String> {
        block_in_place(|| {
            let mut lines = self.output.by_ref().lines().map(|line| line.unwrap());
            lines.find_map(|line| line.strip_prefix(start).map(str::to_owned))
        })
    }

    /// How it ends by itself, and what it said until then.
    fn end(mut self) -> (ExitStatus, String) {
        block_in_place(|| {
            let mut said = String::new();
            self.output.read_to_string(&mut said).unwrap();
            (self.process.wait().unwrap(), said)
        })
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}
