use crate::{
    author::Author,
    stage::{Stage, configure, done, until},
};
use medanchor_dag::{Block, Codec};
use medanchor_testnet::Network;
use serde_json::Value;

#[test]
fn what_nothing_needs_is_freed_and_nothing_else_also_when_nodes_are_killed() {
    let mut stage = Stage::start_with(3, busy_collector);
    let device = stage.device("device");
    let payload = |n: usize| vec![u8::try_from(n % 251).unwrap(); 200_000 + n];
    let mut records = Vec::new();
    let mut put = |stage: &Stage| {
        let file = stage.file("payload", &payload(records.len()));
        let record = done(Ok(stage.put(&device, &file))).text("record").unwrap();
        records.push(record);
        records.len()
    };
    put(&stage);
    // Uploads that were never finished, in rows and in files.
    let garbage: Vec<_> = (0..400_usize)
        .map(|n| vec![0xee; n % 7 * 5000 + n])
        .map(|bytes| Block::new(Codec::Raw, bytes).unwrap())
        .collect();
    Author::of(&stage.hospital).upload(&garbage);
    let have = blocks(&stage);
    let (having, _) = have.iter().max_by_key(|(_, blocks)| *blocks).unwrap();

    // In the middle of it, and again.
    for _ in 0..2 {
        until("blocks are freed", || {
            put(&stage);
            freed(&stage, having) > 0
        });
        stage.network.process(having).unwrap().kill().unwrap();
        stage.network.process(having).unwrap().start().unwrap();
        stage.network.wait_for(having).unwrap();
    }
    let mut count = 0;
    until("all of it is freed", || {
        count = put(&stage);
        freed(&stage, having) >= 400
    });
    until("a whole cycle more", || cycles(&stage, having) >= 2);

    stage.until_all_is_well();
    for (n, record) in records.iter().enumerate() {
        assert!(stage.read(record) == payload(n), "record {n} of {count}");
        let status = done(stage.hospital.run(["status", record]));
        assert_eq!(status.json["ok"], true, "record {n} of {count}");
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

fn freed(stage: &Stage, node: &str) -> u64 {
    figure(stage, node, "blocks")
}

fn cycles(stage: &Stage, node: &str) -> u64 {
    figure(stage, node, "cycles")
}

fn figure(stage: &Stage, node: &str, name: &str) -> u64 {
    let status = stage.hospital.run(["--node", node, "status"]).unwrap();
    match &status.json["collection"][name] {
        Value::Number(number) => number.as_u64().unwrap(),
        // It is just being elected.
        _ => 0,
    }
}

fn busy_collector(network: &Network) {
    configure(network, |config| {
        config.collect_every_seconds = Some(1);
        config.keep_unanchored_seconds = Some(5);
        config.hold_seconds = Some(5);
    });
}
