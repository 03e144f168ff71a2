//! Kubo, the reference IPFS node, as a foreign peer in the same private network, in both directions.
//!
//! `testnet/foreign/kubo_pin.py` runs it. Set `MEDANCHOR_PYTHON` to an interpreter that has the packages of
//! `testnet/foreign/requirements.txt`, then `cargo test -p medanchor-ipfs --test kubo -- --ignored`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use medanchor_dag::{Block, BlockStore, Cid, Codec, MemoryStore, to_canonical};
use medanchor_ipfs::{Peer, PeerAddress, PeerConfig, PeerKey, SwarmKey};
use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};
use tempfile::TempDir;

const LEAVES: u32 = 400;
const LEAF_BYTES: usize = 256 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Kubo node"]
async fn kubo_pins_a_dag_that_we_serve() {
    let network = Network::new();
    let blocks = dag();
    let store = Arc::new(MemoryStore::default());
    store.put(&blocks).unwrap();
    let key = PeerKey::generate().unwrap();
    let own_id = key.peer_id();
    let peer = network.start(key, None, store).await;

    let address = format!("{}/p2p/{own_id}", peer.listen_addresses()[0]);
    let root = blocks[0].cid().to_string();
    let mut kubo = network.kubo(&["--connect", &address, "--cid", &root]);
    let pinned = kubo.line_after(&format!("pinned {root}: ")).await;
    let bytes: usize = blocks.iter().map(|block| block.bytes().len()).sum();
    assert_eq!(
        pinned,
        format!("{} blocks, {bytes} bytes, every hash checked", blocks.len())
    );
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Kubo node"]
async fn we_fetch_a_dag_that_kubo_serves() {
    let network = Network::new();
    let blocks = dag();
    let folder = network.folder.path().join("blocks");
    fs::create_dir(&folder).unwrap();
    for block in &blocks {
        fs::write(folder.join(block.cid().to_string()), block.bytes()).unwrap();
    }
    let mut kubo = network.kubo(&["--add", folder.to_str().unwrap(), "--serve"]);
    let serving = kubo.line_after("serving ").await;
    let (address, _) = serving.split_once("/p2p/").unwrap();

    let store = Arc::new(MemoryStore::default());
    let key = PeerKey::generate().unwrap();
    let peer = network
        .start(key, Some(address.to_owned()), Arc::clone(&store) as _)
        .await;
    let fetched = peer.fetch_dag(&[*blocks[0].cid()], None).await.unwrap();
    assert_eq!(fetched.blocks, u64::from(LEAVES) + 1);
    for block in &blocks {
        assert_eq!(store.block(block.cid()).unwrap().as_ref(), Some(block));
    }
    peer.shutdown().await;
}

/// A private network of one Kubo node and one of ours.
struct Network {
    folder: TempDir,
    kubo_id: String,
}

impl Network {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SwarmKey::generate().unwrap();
        fs::write(folder.path().join("swarm.key"), key.to_text().as_str()).unwrap();
        let mut network = Self {
            folder,
            kubo_id: String::new(),
        };
        // Makes its repository and says who it is.
        network.kubo_id = network.kubo(&[]).line_after_now("peer ");
        network
    }

    async fn start(&self, key: PeerKey, kubo: Option<String>, store: Arc<dyn BlockStore>) -> Peer {
        let text = fs::read_to_string(self.folder.path().join("swarm.key")).unwrap();
        let config = PeerConfig {
            key,
            swarm_key: SwarmKey::parse(&text).unwrap(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            peers: vec![PeerAddress {
                peer_id: self.kubo_id.clone(),
                address: kubo,
            }],
        };
        Peer::start(config, store).await.unwrap()
    }

    fn kubo(&self, arguments: &[&str]) -> Kubo {
        let path = |name: &str| self.folder.path().join(name);
        let python = env::var_os("MEDANCHOR_PYTHON").unwrap_or_else(|| "python3".into());
        let mut process = Command::new(python)
            .arg(tool())
            .arg("--repo")
            .arg(path("kubo"))
            .arg("--swarm-key")
            .arg(path("swarm.key"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Kubo {
            process,
            output: Some(output),
        }
    }
}

/// A running `kubo_pin.py`. It ends when its standard input closes.
struct Kubo {
    process: Child,
    output: Option<BufReader<std::process::ChildStdout>>,
}

impl Kubo {
    /// The rest of the first line that begins like this.
    async fn line_after(&mut self, start: &str) -> String {
        let output = self.output.take().unwrap();
        let start = start.to_owned();
        let reading = tokio::task::spawn_blocking(move || {
            let mut output = output;
            let line = line_after(&mut output, &start);
            (output, line)
        });
        let (output, line) = reading.await.unwrap();
        self.output = Some(output);
        line
    }

    fn line_after_now(&mut self, start: &str) -> String {
        line_after(self.output.as_mut().unwrap(), start)
    }
}

impl Drop for Kubo {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

fn line_after(output: &mut impl BufRead, start: &str) -> String {
    output
        .lines()
        .map(|line| line.unwrap())
        .find_map(|line| line.strip_prefix(start).map(str::to_owned))
        .unwrap_or_else(|| panic!("Kubo ended and did not say `{start}`"))
}

fn tool() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testnet/foreign/kubo_pin.py")
}

/// A root, first, and its raw leaves.
fn dag() -> Vec<Block> {
    let leaf = |number: u32| {
        let mut bytes = vec![0x5a; LEAF_BYTES];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Block::new(Codec::Raw, bytes).unwrap()
    };
    let leaves: Vec<Block> = (0..LEAVES).map(leaf).collect();
    let links: Vec<Cid> = leaves.iter().map(|block| *block.cid()).collect();
    let root = Block::new(Codec::DagCbor, to_canonical(&links)).unwrap();
    [vec![root], leaves].concat()
}
