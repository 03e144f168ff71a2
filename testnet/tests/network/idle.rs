//! A log to which nothing happens.

use crate::stage::{Stage, configure, until};
use medanchor_anchor::{SignedNote, Strength, TrustPolicy};
use medanchor_api::{ClientConfig, LogReader};
use medanchor_node::{Config, Folder};
use medanchor_testnet::{Home, Network, NodeProcess};
use std::fs;
use tokio::runtime::Runtime;

#[test]
fn idle_logs_checkpoint_is_signed_again_and_every_node_shows_it() {
    let stage = Stage::start_with(3, sign_again_soon);
    let size = stage.tree_size();
    let runtime = Runtime::new().unwrap();
    for node in &stage.network.nodes {
        let reader = reader(&stage.hospital, node);
        let policy = fs::read_to_string(node.folder().join("policy.txt")).unwrap();
        let policy: TrustPolicy = policy.parse().unwrap();
        // Size, and when the first and the last of its co-signers signed it.
        let shown = || {
            let note: SignedNote = runtime.block_on(reader.checkpoint()).unwrap();
            let checked = policy.check(&note, Strength::Published).unwrap();
            let times = checked.cosigners.iter().map(|by| by.at_unix_seconds);
            let times: Vec<u64> = times.collect();
            let (first, last) = (times.iter().min(), times.iter().max());
            (checked.checkpoint.size, *first.unwrap(), *last.unwrap())
        };
        until("it shows the newest checkpoint", || shown().0 == size);
        let (_, _, last) = shown();
        until("it shows one that all co-signers signed later", || {
            let (now, first, _) = shown();
            assert_eq!(now, size, "nothing was submitted");
            first > last
        });
    }
}

fn sign_again_soon(network: &Network) {
    configure(network, |config| {
        config.reissue_after_seconds = Some(2);
    });
}

/// Reads the log that a node serves over HTTPS, as this user.
fn reader(user: &Home, node: &NodeProcess) -> LogReader {
    let pem = |name: &str| fs::read_to_string(user.path().join(name)).unwrap();
    let config = Config::open(&Folder::new(node.folder()).config()).unwrap();
    let client = ClientConfig {
        nodes: Vec::new(),
        ca: pem("ca.pem"),
        certificate: pem("cert.pem"),
        key: pem("key.pem").into(),
    };
    let url = format!("https://{}", config.log_listen.unwrap());
    client.log_reader(&url, Some(&node.name)).unwrap()
}
