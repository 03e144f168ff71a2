//! Another implementation of IPFS as a foreign peer in the same private network, in both directions, with windows of
//! 1, 16 and 64 blocks, blocks of 4 KiB to 1 MiB, and DAGs that lack a block. Prints a table.
//!
//! `interop/run` starts it; see there. `MEDANCHOR_FOREIGN` is the shell command of a program with the options of
//! `testnet/foreign/kubo_pin.py`, `MEDANCHOR_FOREIGN_WINDOWS` the windows that it takes as `--window`, if any, and
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
use tokio::{task::block_in_place, time::Instant};

const SIZES: [usize; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
const WINDOWS: [usize; 3] = [1, 16, 64];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a foreign node"]
async fn foreign_node_and_ours_exchange_blocks() {
    let network = Network::new();
    let mut table = Table::default();
    we_fetch(&network, &mut table).await;
    they_fetch(&network, &mut table).await;
    println!("{}", table.text);
    assert_eq!(table.failed, 0);
}

async fn we_fetch(network: &Network, table: &mut Table) {
    let dags: Vec<Dag> = SIZES.map(|size| Dag::new(size, 0)).into();
    let incomplete = Dag::new(64 << 10, 1);
    let served = dags.iter().chain([&incomplete]);
    let served = served.flat_map(|dag| dag.nodes.iter().chain(&dag.leaves));
    let missing = incomplete.leaves[incomplete.leaves.len() / 2].cid();
    let folder = network.path("blocks");
    fs::create_dir(&folder).unwrap();
    for block in served.filter(|block| block.cid() != missing) {
        fs::write(folder.join(block.cid().to_string()), block.bytes()).unwrap();
    }
    let add = ["--add", folder.to_str().unwrap(), "--serve"];
    let mut foreign = network.foreign("server", &add);
    let serving = foreign.line_after("serving ");
    let (address, id) = serving.split_once("/p2p/").unwrap();
    let start = || async {
        let peer = PeerAddress {
            peer_id: id.to_owned(),
            address: Some(address.to_owned()),
        };
        let store = Arc::new(MemoryStore::default());
        let peer = network.start(vec![peer], Arc::clone(&store) as _).await;
        (peer, store)
    };
    for dag in &dags {
        for window in WINDOWS {
            let (peer, _store) = start().await;
            let began = Instant::now();
            let fetched = dag.fetch(&peer, window).await;
            let what = format!("we fetch   {:>7}  window {window:>3}", dag.block_bytes);
            table.row(&what, fetched.map(|()| dag.rate(began)));
            peer.shutdown().await;
        }
        let (peer, store) = start().await;
        let began = Instant::now();
        let fetched = peer.fetch_dag(&[*dag.root()], None).await;
        let fetched = fetched.map_err(|error| error.to_string());
        let fetched = fetched.and_then(|_| dag.check(&store));
        let what = format!("we fetch   {:>7}  window own", dag.block_bytes);
        table.row(&what, fetched.map(|()| dag.rate(began)));
        peer.shutdown().await;
    }
    let (peer, _store) = start().await;
    let refused = match peer.fetch_dag(&[*incomplete.root()], None).await {
        Err(FetchError::Block(SourceError::NotFound(cid))) if cid == *missing => {
            Ok("not found".to_owned())
        }
        other => Err(format!("{other:?}")),
    };
    table.row("we fetch   incomplete", refused);
    peer.shutdown().await;
}

async fn they_fetch(network: &Network, table: &mut Table) {
    let windows = env::var("MEDANCHOR_FOREIGN_WINDOWS").unwrap_or_default();
    let mut windows: Vec<Option<&str>> = windows.split_whitespace().map(Some).collect();
    if windows.is_empty() {
        windows.push(None);
    }
    // Its repository remembers what it fetched: every time another DAG.
    let mut plans = Vec::new();
    for size in SIZES {
        for window in &windows {
            plans.push((Dag::new(size, plans.len() as u64 + 2), *window));
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
    // Makes its repository and says who it is.
    let id = network.foreign("client", &[]).line_after("peer ");
    let client = PeerAddress {
        peer_id: id,
        address: None,
    };
    let peer = network.start(vec![client], store).await;
    let address = format!("{}/p2p/{}", peer.listen_addresses()[0], network.id());
    let pin = |dag: &Dag, window: Option<&str>, deadline: &str| {
        let root = dag.root().to_string();
        let mut arguments = vec![
            "--connect",
            &address,
            "--cid",
            &root,
            "--deadline",
            deadline,
        ];
        arguments.extend(window.iter().flat_map(|window| ["--window", window]));
        network.foreign("client", &arguments).end()
    };
    for (dag, window) in &plans {
        let (status, said) = pin(dag, *window, "60");
        let blocks = dag.nodes.len() + dag.leaves.len();
        let whole = format!("pinned {}: {blocks} blocks, ", dag.root());
        let what = format!(
            "they fetch {:>7}  window {:>3}",
            dag.block_bytes,
            window.unwrap_or("own")
        );
        let done = status.success() && said.contains(&whole);
        table.row(&what, done.then(|| "whole".to_owned()).ok_or(said));
    }
    let (status, said) = pin(&incomplete, windows[0], "10");
    let refused = !status.success() && !said.contains("pinned");
    table.row(
        "they fetch incomplete",
        refused.then(|| "not pinned".to_owned()).ok_or(said),
    );
    peer.shutdown().await;
}

/// What was tried and what came of it, a line each.
#[derive(Default)]
struct Table {
    text: String,
    failed: u32,
}

impl Table {
    fn row(&mut self, what: &str, outcome: Result<String, String>) {
        self.failed += u32::from(outcome.is_err());
        let said = outcome.unwrap_or_else(|error| format!("FAILED: {error}"));
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
        let mib = env::var("MEDANCHOR_INTEROP_MIB").map_or(4, |mib| mib.parse().unwrap());
        let leaf = |index: usize| {
            let mut bytes = vec![0x5a; block_bytes];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            bytes[8..16].copy_from_slice(&(index as u64).to_be_bytes());
            Block::new(Codec::Raw, bytes).unwrap()
        };
        let leaves: Vec<Block> = (0..(mib << 20) / block_bytes).map(leaf).collect();
        let mut nodes: Vec<Block> = leaves.chunks(500).map(node).collect();
        nodes.push(node(&nodes));
        Self {
            block_bytes,
            nodes,
            leaves,
        }
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

    fn check(&self, store: &MemoryStore) -> Result<(), String> {
        for block in self.nodes.iter().chain(&self.leaves) {
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

    fn id(&self) -> String {
        self.key.peer_id()
    }

    async fn start(&self, peers: Vec<PeerAddress>, store: Arc<dyn BlockStore>) -> Peer {
        let text = fs::read_to_string(self.path("swarm.key")).unwrap();
        let config = PeerConfig {
            key: PeerKey::from_seed(&self.key.to_seed()),
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
    /// The rest of the first line that begins like this.
    fn line_after(&mut self, start: &str) -> String {
        let line = block_in_place(|| {
            let mut lines = self.output.by_ref().lines().map(|line| line.unwrap());
            lines.find_map(|line| line.strip_prefix(start).map(str::to_owned))
        });
        line.unwrap_or_else(|| panic!("the foreign node ended and did not say `{start}`"))
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
