use crate::{
    author::Author,
    crash::Load,
    stage::{Stage, configure, done, until},
};
use medanchor_api::Collected;
use medanchor_dag::{Block, Codec, DiskStore};
use medanchor_testnet::Network;
use std::thread;

#[test]
fn what_nothing_needs_is_freed_and_nothing_else_also_when_nodes_are_killed() {
    let mut stage = Stage::start_with(3, busy_collector);
    let device = stage.device("device");
    let payload = |n: u8| vec![n; 200_000];
    let records: Vec<String> = (0..5)
        .map(|n| stage.file("payload", &payload(n)))
        .map(|file| done(Ok(stage.put(&device, &file))).text("record").unwrap())
        .collect();
    // Uploads that were never finished, in rows and in files.
    let garbage: Vec<_> = (0..GARBAGE)
        .map(|n| n.to_be_bytes().repeat(if n % 5 == 0 { 2100 } else { 20 }))
        .map(|bytes| Block::new(Codec::Raw, bytes).unwrap())
        .collect();
    let author = Author::of(&stage.hospital);
    author.upload(&garbage);
    let have = blocks(&stage);
    let (having, _) = have.iter().max_by_key(|(_, blocks)| *blocks).unwrap();
    let node = author.session.client.only(having).unwrap();
    let collected = || -> Option<Collected> {
        let status = author.block_on(node.status()).ok();
        status.map(|status| status.collection)
    };
    let folder = stage.folder(having).blocks();
    // While the node does not run.
    let left = || {
        let store = DiskStore::open(&folder).unwrap();
        let left = garbage
            .iter()
            .filter(|block| store.knows(block.cid()).unwrap());
        (left.count(), store.figures().unwrap().freed_blocks)
    };

    let load = Load::new(&stage);
    thread::scope(|scope| {
        let _end = load.end_on_drop();
        scope.spawn(|| load.run());
        // In the middle of it, and again.
        let mut before = (garbage.len(), 0);
        for _ in 0..2 {
            until("blocks are freed", || {
                collected().is_some_and(|collected| collected.blocks > before.1 + 200)
            });
            stage.network.process(having).unwrap().kill().unwrap();
            let now = left();
            assert!(0 < now.0 && now.0 < before.0, "{now:?} after {before:?}");
            before = now;
            stage.start_again(having);
        }
        until("all of it is freed", || {
            collected().is_some_and(|collected| collected.cycles >= 2)
        });
    });
    stage.stop_cleanly(having);
    assert_eq!(left().0, 0);
    stage.network.process(having).unwrap().start().unwrap();
    stage.network.wait_until_ready().unwrap();

    stage.until_all_is_well();
    for (record, payload) in records.iter().zip((0..5).map(payload)) {
        assert!(stage.read(record) == payload, "record {record}");
        let status = done(stage.hospital.run(["status", record]));
        assert_eq!(status.json["ok"], true, "record {record}");
    }
    for put in load.acknowledged() {
        put.assert_kept(&stage);
    }
}

fn blocks(stage: &Stage) -> Vec<(String, u64)> {
    let status = stage.status();
    let nodes = status.json["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| {
            let name = node["node"].as_str().unwrap().to_owned();
            (name, node["blocks"].as_u64().unwrap())
        })
        .collect()
}

pub(crate) fn busy_collector(network: &Network) {
    configure(network, |config| {
        config.collect_every_seconds = Some(1);
        config.collect_rest = Some(1);
        config.keep_unanchored_seconds = Some(5);
        config.hold_seconds = Some(5);
    });
}

/// Many steps of a collection, so that a kill falls between two of them.
const GARBAGE: u32 = 10_000;
