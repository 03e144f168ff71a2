//! `medanchor status` says whether every record is safe right now.

use crate::{
    copies::{Copies, impatient, place, row, slow},
    stage::{Stage, configure, done, until},
};
use medanchor_testnet::Ran;
use serde_json::{Value, json};

#[test]
fn status_ends_with_four_at_once_when_copies_are_out_of_reach_and_with_zero_when_all_are_back() {
    // The others would take its share after ten minutes.
    let mut stage = Stage::start_with(3, |network| {
        configure(network, |config| config.replicate_every_seconds = Some(1));
    });
    let mut records = put_until(&stage, |copies, records| {
        let on_c = |record: &String| copies.holders(record).unwrap().contains("hospital-c");
        records.iter().any(on_c) && !records.iter().all(on_c)
    });
    let copies = Copies::of(&stage);
    records.sort_by_key(|record| copies.holders(record).unwrap().contains("hospital-c"));
    let on_c = |record: &&String| copies.holders(record).unwrap().contains("hospital-c");
    let lost = records.iter().filter(on_c).count();
    let (elsewhere, endangered) = (&records[0], records.last().unwrap());
    until("all of them are seen", || {
        let status = stage.status();
        status.code == 0 && status.json["records"]["anchored"] == records.len()
    });
    assert_eq!(stage.status().json["records"]["below_target"], 0);

    // One is lost.
    stage.network.process("hospital-c").unwrap().kill().unwrap();
    let status = stage.status();
    assert_eq!((status.code, &status.json["ok"]), (4, &json!(false)));
    let down = &status.json["nodes"][2];
    assert_eq!(
        (&down["node"], &down["member"]),
        (&json!("hospital-c"), &json!(true))
    );
    until("its copies are missed", || {
        let seen = ["hospital-a", "hospital-b"].map(|node| row(&stage, node));
        seen.iter().all(|row| row["replication"]["awaited"] == lost)
    });
    let status = stage.status();
    assert_eq!(status.code, 4);
    assert_eq!(status.json["records"]["below_target"], lost);
    let found = row(&stage, "hospital-a");
    assert_eq!(found["away"], json!(["hospital-c"]));
    assert_eq!(found["cut_off"], false);
    assert_eq!(found["replication"]["to_fetch"], 0);
    let oldest = &found["replication"];
    let (since, at) = (&oldest["oldest_below_since"], &oldest["oldest_at"]);
    // Of one form, so that the text is in the order of time.
    assert!(since.as_str().unwrap() > at.as_str().unwrap(), "{oldest}");
    let shown = status_of(&stage, endangered, 4);
    assert_eq!((&shown["target"], &shown["whole"]), (&json!(2), &json!(1)));
    assert_eq!(copy(&shown, "hospital-c")["holder"], true);
    assert_eq!(status_of(&stage, elsewhere, 0)["whole"], 2);

    // Who is left reaches no majority: what it says may be old.
    stage.network.process("hospital-b").unwrap().kill().unwrap();
    assert_eq!(stage.status().code, 4);
    until("it is cut off, and says so", || {
        let status = stage.status();
        assert_eq!(status.code, 4);
        status.json["cut_off"] == true && status.json["records"].is_null()
    });
    // Also when it knows nothing of the time before.
    let last = stage.network.process("hospital-a").unwrap();
    last.kill().unwrap();
    last.start().unwrap();
    until("it answers again", || {
        let status = stage.hospital.run(["status"]).unwrap();
        assert_ne!(status.code, 0, "{}", status.json);
        status.json["cut_off"] == true && status.json["replication"]["looked_at"].is_null()
    });

    for name in ["hospital-b", "hospital-c"] {
        stage.network.process(name).unwrap().start().unwrap();
    }
    stage.network.wait_until_ready().unwrap();
    stage.until_all_is_well();
    assert_eq!(stage.status().json["records"]["at_target"], records.len());
}

#[test]
fn status_says_what_is_done_about_a_record_and_how_much_there_is_to_fetch() {
    // Two nodes plan, and do nothing.
    let stage = Stage::start_with(3, |network| {
        impatient(network);
        for node in [&network.nodes[0], &network.nodes[2]] {
            slow(node, 0);
        }
    });
    let are_on = |copies: &Copies, records: &[String], node: &str| {
        let mut records = records.iter();
        records.position(|record| {
            let holders = copies.holders(record).unwrap();
            holders.contains("hospital-a") && holders.contains(node)
        })
    };
    let records = put_until(&stage, |copies, records| {
        let both = ["hospital-b", "hospital-c"];
        both.iter()
            .all(|node| are_on(copies, records, node).is_some())
    });
    let copies = Copies::of(&stage);
    let [at_b, at_c] =
        ["hospital-b", "hospital-c"].map(|node| &records[are_on(&copies, &records, node).unwrap()]);
    let to_fetch = records.iter().filter(|record| {
        let holders = copies.holders(record).unwrap();
        !holders.contains("hospital-c")
    });
    let to_fetch = to_fetch.count();

    // Hospital A is to hold nothing: the others are to have what it has.
    let rules = "[[node]]\nname = \"hospital-a\"\nweight = 0\n[[rule]]\ncopies = 2\n";
    place(&stage, 2, rules);
    let doing = |record: &str, node: &str| {
        let status = stage.hospital.run(["status", record]).unwrap();
        copy(&status.json, node)["doing"].clone()
    };
    until("one that holds it in its place has it", || {
        copies.holders(at_c).unwrap().len() == 3
    });
    until("it is being given back", || {
        doing(at_c, "hospital-a") == "gives-back"
    });
    until("the other is being fetched", || {
        doing(at_b, "hospital-c") == "fetches"
    });
    until("how much it is", || {
        let status = stage.status();
        let records = &status.json["records"];
        records["bytes_to_fetch"] == to_fetch * PAYLOAD && records["below_target"] == to_fetch
    });
    let found = row(&stage, "hospital-c");
    assert_eq!(found["replication"]["to_fetch"], to_fetch);
    assert_eq!(found["replication"]["bytes_to_fetch"], to_fetch * PAYLOAD);
    assert_eq!(stage.status().code, 4);
}

#[test]
fn status_of_a_record_says_when_it_was_verified_last_without_reading_it() {
    let stage = Stage::start_with(3, |network| {
        configure(network, |config| config.scrub_bytes_per_second = Some(0));
        network.nodes[1]
            .configure(|config| {
                config.scrub_bytes_per_second = Some(64 << 20);
                config.scrub_every_seconds = Some(1);
            })
            .unwrap();
    });
    // On one node that scrubs and one that does not.
    let records = put_until(&stage, |copies, records| {
        let holders = copies.holders(records.last().unwrap()).unwrap();
        holders.contains("hospital-b")
    });
    let record = records.last().unwrap();
    let copies = Copies::of(&stage);
    let holders = copies.holders(record).unwrap();
    let other = holders.iter().find(|name| **name != "hospital-b").unwrap();
    let verified = |shown: &Value, node: &str| copy(shown, node)["verified_at"].clone();
    let scrubbed = || verified(&status_of(&stage, record, 0), "hospital-b");
    until("it is scrubbed", || scrubbed().is_string());
    let first = scrubbed();
    until("it is scrubbed again", || scrubbed() != first);
    let shown = status_of(&stage, record, 0);
    assert!(verified(&shown, other).is_null(), "{shown}");
    assert!(
        copy(&shown, other)["size_bytes"].is_null(),
        "nothing was read"
    );

    let read = done(stage.hospital.run(["status", record, "--read"])).json;
    for node in ["hospital-b", other] {
        assert!(verified(&read, node).as_str() > first.as_str(), "{read}");
        let bytes = copy(&read, node)["size_bytes"].as_u64().unwrap();
        assert!(bytes > PAYLOAD as u64, "{read}");
    }
}

/// Puts records, six at least, until they lie as they should.
fn put_until(stage: &Stage, are_right: impl Fn(&Copies, &[String]) -> bool) -> Vec<String> {
    let device = stage.device("holter");
    let copies = Copies::of(stage);
    let mut records = Vec::new();
    until("records lie as they should", || {
        let file = stage.file("payload", format!("{:>PAYLOAD$}", records.len()).as_bytes());
        records.push(done(Ok(stage.put(&device, &file))).text("record").unwrap());
        records.len() >= 6 && are_right(&copies, &records)
    });
    records
}

fn status_of(stage: &Stage, record: &str, code: i32) -> Value {
    let Ran {
        code: ended, json, ..
    } = stage.hospital.run(["status", record]).unwrap();
    assert_eq!(ended, code, "{json}");
    json
}

/// What `medanchor status RECORD` says of a node.
fn copy<'v>(shown: &'v Value, node: &str) -> &'v Value {
    let mut nodes = shown["nodes"].as_array().unwrap().iter();
    nodes.find(|copy| copy["node"] == node).unwrap()
}

/// Bytes of a payload.
const PAYLOAD: usize = 1000;
