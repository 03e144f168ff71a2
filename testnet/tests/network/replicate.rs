use crate::{
    author::Author,
    stage::{Stage, assert_refused, configure, done, until},
};
use medanchor_dag::Cid;
use medanchor_node::Config;
use medanchor_testnet::{Home, Network, Ran};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};

const ALL: [&str; 5] = [
    "hospital-a",
    "hospital-b",
    "hospital-c",
    "hospital-d",
    "hospital-e",
];

#[test]
fn two_of_five_nodes_are_lost_and_everything_has_three_copies_again() {
    let mut stage = Stage::start_with(5, impatient);
    place(&stage, 3, "[[rule]]\ncopies = 3\n");
    let device = stage.device("holter");
    let mut records = Vec::new();
    let mut put = |stage: &Stage| {
        let number = records.len();
        let file = stage.file("payload", &payload(number));
        records.push(done(Ok(stage.put(&device, &file))).text("record").unwrap());
    };
    for _ in 0..12 {
        put(&stage);
    }

    // Two at once, while more comes in, and a third while it repairs what they held.
    for lost in ["hospital-d", "hospital-e"] {
        stage.network.process(lost).unwrap().kill().unwrap();
    }
    for _ in 0..4 {
        put(&stage);
    }
    let repairing = ["hospital-b", "hospital-c"];
    until("repair is under way", || {
        let mut repairing = repairing.iter();
        repairing.any(|node| replication(&stage, node, "fetched") > 0)
    });
    let node = stage.network.process("hospital-c").unwrap();
    node.kill().unwrap();
    node.start().unwrap();
    stage.network.wait_for("hospital-c").unwrap();
    put(&stage);

    let left: BTreeSet<&str> = ALL.into_iter().take(3).collect();
    for (number, record) in records.iter().enumerate() {
        until("it has three copies", || whole(&stage, record) == left);
        assert!(stage.read(record) == payload(number), "record {number}");
    }
    until("the nodes know it", || {
        let mut left = left.iter();
        left.all(|node| replication(&stage, node, "below_target") == 0)
    });
    assert_eq!(done(stage.hospital.run(["status"])).json["ok"], true);

    // They come back: what others took in their place is given back, and freed.
    for lost in ["hospital-d", "hospital-e"] {
        stage.network.process(lost).unwrap().start().unwrap();
        stage.network.wait_for(lost).unwrap();
    }
    for record in &records {
        until("it has no more copies than it needs", || {
            holders(&stage, record).len() == 3 && whole(&stage, record).len() == 3
        });
    }
    let given: u64 = ALL
        .iter()
        .map(|node| replication(&stage, node, "given_back"))
        .sum();
    assert!(given > 0);
    for (number, record) in records.iter().enumerate() {
        assert!(stage.read(record) == payload(number), "record {number}");
    }
    stage.assert_replicas_agree();
}

#[test]
fn records_move_when_the_rules_say_so_and_stay_at_home() {
    let stage = Stage::start_with(3, impatient);
    let device = stage.device("holter");
    let mut records = Vec::new();
    for number in 0..8 {
        let file = stage.file("payload", &payload(number));
        let ran = done(Ok(stage.put(&device, &file)));
        records.push(ran.text("record").unwrap());
    }
    let home = "[[rule]]\nclasses = [\"waveform.ecg\"]\ncopies = 1\nat_home = true\n";
    place(&stage, 2, home);
    let shown = done(stage.hospital.run(["admin", "placement", "show"]));
    assert_eq!(shown.json["rule"][0]["at_home"], true);
    for record in &records {
        until("it is at home, and nowhere else", || {
            whole(&stage, record) == BTreeSet::from(["hospital-a"])
        });
    }
    let file = stage.file("payload", b"from now on");
    let ran = done(Ok(stage.put(&device, &file)));
    assert_eq!(holders(&stage, &ran.text("record").unwrap()).len(), 1);

    // A node that is to hold nothing is emptied.
    let rules = "[[node]]\nname = \"hospital-a\"\nweight = 0\n[[rule]]\ncopies = 2\n";
    place(&stage, 2, rules);
    for (number, record) in records.iter().enumerate() {
        until("it has left", || {
            whole(&stage, record) == BTreeSet::from(["hospital-b", "hospital-c"])
        });
        assert!(stage.read(record) == payload(number), "record {number}");
    }
}

#[test]
fn organisation_without_room_is_refused_and_goes_on_when_it_gets_more() {
    let stage = Stage::start_with(3, impatient);
    let device = stage.device("holter");
    let quota = |bytes: usize| format!("[[quota]]\norg = \"hospital-a\"\nbytes = {bytes}\n");
    place(&stage, 2, &quota(payload(0).len() + 100));
    let file = stage.file("payload", &payload(0));
    done(Ok(stage.put(&device, &file)));
    let next = stage.file("next", &payload(1));
    let ran = stage.put(&device, &next);
    assert_refused(&ran, 1, "over-quota");
    let shown = done(stage.hospital.run(["admin", "placement", "show"]));
    assert_eq!(shown.json["used_bytes"][0], payload(0).len());
    place(&stage, 2, &quota(1 << 20));
    let record = done(Ok(stage.put(&device, &next))).text("record").unwrap();
    assert!(stage.read(&record) == payload(1));
}

/// Nodes are missed soon, and what nothing needs is freed soon.
fn impatient(network: &Network) {
    configure(network, |config| {
        *config = Config {
            absent_after_seconds: Some(2),
            replicate_every_seconds: Some(1),
            collect_every_seconds: Some(1),
            keep_unanchored_seconds: Some(1),
            hold_seconds: Some(5),
            ..config.clone()
        };
    });
}

/// Has the rules signed by as many members as needed, and submits them.
fn place(stage: &Stage, members: usize, rules: &str) {
    let rules = stage.file("rules.toml", rules.as_bytes());
    let draft = stage.path("placement");
    let _ = fs::remove_file(&draft);
    let run = |home: &Home, arguments: &[&Path]| -> Ran {
        let words = ["admin", "placement"].map(Path::new);
        done(home.run(words.iter().chain(arguments)))
    };
    let (rules, output) = (rules.as_path(), draft.as_path());
    let drafting = [Path::new("draft"), rules, Path::new("--output"), output];
    run(&stage.hospital, &drafting);
    for number in 1..members {
        let operator = stage.network.operator(number).unwrap();
        run(&operator, &[Path::new("approve"), output]);
    }
    run(&stage.hospital, &[Path::new("set"), output]);
}

fn payload(number: usize) -> Vec<u8> {
    vec![u8::try_from(number % 251).unwrap(); 150_000 + number * 3000]
}

/// Names of the nodes that say they have the record whole, and answer for it.
fn whole<'n>(stage: &Stage, record: &str) -> BTreeSet<&'n str> {
    let status = stage.hospital.run(["status", record]).unwrap();
    let nodes = status.json["nodes"].as_array().unwrap();
    let has = |name: &&str| {
        let row = nodes.iter().find(|node| node["node"] == **name);
        row.is_some_and(|row| row["holder"] == true && row["whole"] == true)
    };
    ALL.into_iter().filter(has).collect()
}

fn holders(stage: &Stage, record: &str) -> Vec<String> {
    let author = Author::of(&stage.hospital);
    let cid: Cid = record.parse().unwrap();
    let record = author.block_on(author.session.client.record(&cid)).unwrap();
    record.holders.iter().map(ToString::to_string).collect()
}

fn replication(stage: &Stage, node: &str, figure: &str) -> u64 {
    let status = stage.hospital.run(["--node", node, "status"]).unwrap();
    match &status.json["replication"][figure] {
        Value::Number(number) => number.as_u64().unwrap(),
        // It is down, or just being elected.
        _ => 0,
    }
}
