use crate::{
    copies::{impatient, place, replication},
    replicate::{holders, payload, whole},
    stage::{Stage, assert_refused, done, until},
};
use medanchor_testnet::{Home, Ran};
use std::collections::BTreeSet;

#[test]
fn hospital_keeps_what_it_has_a_legal_hold_on_until_it_releases_it() {
    let mut stage = Stage::start_with(3, impatient);
    place(&stage, 2, WITHOUT_C);
    let device = stage.device("holter");
    let put = |stage: &Stage, number: usize| {
        let file = stage.file("payload", &payload(number));
        let ran = done(Ok(stage.put(&device, &file)));
        ran.text("record").unwrap()
    };
    let mut records: Vec<String> = (0..3).map(|number| put(&stage, number)).collect();
    let operator = stage.network.operator(2).unwrap();
    let placing = ["place", "--custody", &stage.custody, "--matter", MATTER];
    let placed = done(legal_hold(&operator, &placing));
    let hold = placed.text("legal_hold").unwrap();
    // What comes later is under it, too.
    records.extend((3..5).map(|number| put(&stage, number)));
    until_held_by(&stage, &records, &["hospital-a", "hospital-b", C]);
    let status = done(stage.hospital.run(["status", &records[4]]));
    assert_eq!(status.json["legal_holders"][0], C);
    let list = done(legal_hold(&stage.hospital, &["list"]));
    let row = &list.json["legal_holds"][0];
    assert_eq!(row["legal_hold"], hold.as_str());
    assert_eq!(row["matter"], MATTER);

    // Whether it is to hold them or not, and whatever happens to it, C keeps them.
    place(&stage, 2, WITHOUT_A);
    until_held_by(&stage, &records, &["hospital-b", C]);
    place(&stage, 2, WITHOUT_C);
    let node = stage.network.process(C).unwrap();
    node.kill().unwrap();
    node.start().unwrap();
    stage.network.wait_for(C).unwrap();
    until_held_by(&stage, &records, &["hospital-a", "hospital-b", C]);
    let before = looked_at(&stage);
    until("C has looked again", || {
        let now = looked_at(&stage);
        now.is_some() && now != before
    });
    assert_eq!(replication(&stage, C, "to_give_back"), 0);
    assert_eq!(replication(&stage, C, "given_back"), 0);

    // Nobody else releases it.
    let foreign = legal_hold(&stage.hospital, &["release", &hold]).unwrap();
    assert_refused(&foreign, 2, "usage");
    done(legal_hold(&operator, &["release", &hold]));
    until_held_by(&stage, &records, &["hospital-a", "hospital-b"]);
    let status = done(stage.hospital.run(["status", &records[0]]));
    assert_eq!(status.json["legal_holders"].as_array().unwrap().len(), 0);
    for (number, record) in records.iter().enumerate() {
        assert!(stage.read(record) == payload(number), "record {number}");
    }
    stage.assert_replicas_agree();
}

/// All along they have the two copies that they are to have.
#[track_caller]
fn until_held_by(stage: &Stage, records: &[String], names: &[&str]) {
    let names: BTreeSet<&str> = names.iter().copied().collect();
    for record in records {
        until("it is held by these", || {
            assert!(holders(stage, record).len() >= 2);
            whole(stage, record) == names
        });
    }
}

/// When C last looked at all records.
fn looked_at(stage: &Stage) -> Option<String> {
    let status = stage.hospital.run(["--node", C, "status"]).unwrap();
    let looked_at = status.json["replication"]["looked_at"].as_str();
    looked_at.map(str::to_owned)
}

fn legal_hold(home: &Home, arguments: &[&str]) -> anyhow::Result<Ran> {
    home.run(["legal-hold"].iter().chain(arguments))
}

const C: &str = "hospital-c";
const MATTER: &str = "District court, 7 O 123/26";
const WITHOUT_A: &str = "[[node]]\nname = \"hospital-a\"\nweight = 0\n";
const WITHOUT_C: &str = "[[node]]\nname = \"hospital-c\"\nweight = 0\n";
