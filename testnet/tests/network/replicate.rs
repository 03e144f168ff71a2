use crate::{
    author::Author,
    copies::{Copies, impatient, kill_while_it_fetches, place, put_many, replication, slow},
    crash::Load,
    stage::{Stage, assert_refused, done, until},
};
use medanchor_dag::Cid;
use std::{collections::BTreeSet, thread};

const ALL: [&str; 5] = [
    "hospital-a",
    "hospital-b",
    "hospital-c",
    "hospital-d",
    "hospital-e",
];

#[test]
fn two_of_five_nodes_are_lost_under_load_and_everything_has_three_copies_again() {
    let mut stage = Stage::start_with(5, |network| {
        impatient(network);
        for node in &network.nodes {
            slow(node, 30_000);
        }
    });
    place(&stage, 3, "[[rule]]\ncopies = 3\n");
    let many = put_many(&stage, 500);
    let copies = Copies::of(&stage);
    let load = Load::new(&stage);
    thread::scope(|scope| {
        // A failed check ends the load too, or the scope would wait for it.
        let _end = load.end_on_drop();
        scope.spawn(|| load.run());
        load.wait_for_more();
        // Two at once, while more comes in, and a third in the middle of what it fetches in their place.
        for lost in ["hospital-d", "hospital-e"] {
            stage.network.process(lost).unwrap().kill().unwrap();
        }
        kill_while_it_fetches(&mut stage, "hospital-c");
        load.wait_for_more();
    });
    let acknowledged = load.acknowledged();

    let loaded = acknowledged.iter().map(|put| &put.record);
    let records: Vec<&String> = many.keys().chain(loaded).collect();
    let left: BTreeSet<&str> = ALL.into_iter().take(3).collect();
    for record in &records {
        until("it has three copies", || {
            copies.whole(record, &left) == left
        });
    }
    until("the nodes know it", || {
        stage.status().json["records"]["at_target"] == records.len()
    });
    // Nothing is below target; that two are away is said, until they are back or removed.
    let status = stage.status();
    assert_eq!(status.json["records"]["below_target"], 0);
    assert_eq!(status.code, 4);
    let anchored = stage.anchored();
    for put in &acknowledged {
        let times = anchored.iter().filter(|record| **record == put.record);
        assert_eq!(times.count(), 1);
        put.assert_kept(&stage);
    }

    // They come back: what others took in their place is given back, and freed.
    for lost in ["hospital-d", "hospital-e"] {
        stage.start_again(lost);
    }
    for record in &records {
        until("it has no more copies than it needs", || {
            let holders = copies.holders(record);
            holders.is_some_and(|them| them.len() == 3 && copies.whole(record, &them) == them)
        });
    }
    let given = ALL.map(|node| replication(&stage, node, "given_back"));
    assert!(given.iter().sum::<u64>() > 0);
    stage.until_all_is_well();
    for (record, payload) in many.iter().step_by(50) {
        assert!(stage.read(record) == *payload, "{record}");
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

pub(crate) fn payload(number: usize) -> Vec<u8> {
    vec![u8::try_from(number % 251).unwrap(); 150_000 + number * 3000]
}

/// Names of the nodes that say they have the record whole, and answer for it.
pub(crate) fn whole<'n>(stage: &Stage, record: &str) -> BTreeSet<&'n str> {
    let status = stage.hospital.run(["status", record]).unwrap();
    let nodes = status.json["nodes"].as_array().unwrap();
    let has = |name: &&str| {
        let row = nodes.iter().find(|node| node["node"] == **name);
        row.is_some_and(|row| row["holder"] == true && row["whole"] == true)
    };
    ALL.into_iter().filter(has).collect()
}

pub(crate) fn holders(stage: &Stage, record: &str) -> Vec<String> {
    let author = Author::of(&stage.hospital);
    let cid: Cid = record.parse().unwrap();
    let record = author.block_on(author.session.client.record(&cid)).unwrap();
    record.holders.iter().map(ToString::to_string).collect()
}
