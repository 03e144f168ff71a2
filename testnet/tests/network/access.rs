//! Who decides, by which policies, and what a requester learns by asking.

use crate::stage::{Stage, assert_refused, did, done, enrol, get, set_policies};
use medanchor_dag::{Codec, cid_of};
use medanchor_testnet::Home;
use std::fs;

#[test]
fn policies_that_the_members_set_decide_at_once() {
    let stage = Stage::start(3);
    let device = stage.device("holter");
    let record = done(Ok(stage.put(&device, &stage.file("payload", b"one beat"))));
    let record = record.text("record").unwrap();
    assert_eq!(stage.read(&record), b"one beat");
    let founded = done(stage.clinician.run(["admin", "access-policy", "show"]));
    assert_eq!(founded.json["leaf_index"], 0);

    // What is not sound is not even drafted.
    let broken = stage.file(
        "broken.cedar",
        b"permit (principal, action, resource) when { context.rol == \"x\" };",
    );
    let draft = stage.path("broken");
    let arguments = [
        "admin",
        "access-policy",
        "draft",
        "--policies",
        broken.to_str().unwrap(),
    ];
    let output = ["--output", draft.to_str().unwrap()];
    let ran = stage.hospital.run(arguments.iter().chain(&output)).unwrap();
    assert_refused(&ran, 2, "usage");
    assert!(!draft.exists());

    let nobody = br#"@id("closed-for-audit") forbid (principal, action, resource);"#;
    let changed = set_policies(&stage, Some(&stage.file("nobody.cedar", nobody)));
    let copy = stage.path("copy");
    fs::remove_file(&copy).unwrap();
    // Keys that were released before are the requester's to keep; a new request is decided anew.
    let record_2 = done(Ok(stage.put(&device, &stage.file("next", b"the next"))));
    let record_2 = record_2.text("record").unwrap();
    let denied = get(&stage.clinician, &record_2, "TREAT", &copy).unwrap();
    assert_refused(&denied, 3, "forbidden");
    assert!(
        denied.errors.contains("closed-for-audit"),
        "{}",
        denied.errors
    );

    let folder = stage.path("shown");
    let show = [
        "admin",
        "access-policy",
        "show",
        "--output",
        folder.to_str().unwrap(),
    ];
    let shown = done(stage.clinician.run(show));
    assert_eq!(shown.json["leaf_index"], changed.json["leaf_index"]);
    assert_eq!(fs::read(folder.join("policies.cedar")).unwrap(), nobody);

    // Both decisions come out the same from the log alone, each by the policies of its time.
    let denied_at = denied.json["leaf_index"].as_u64().unwrap().to_string();
    let explain = |leaf: &str| stage.hospital.run(["audit", "explain", leaf]);
    let explained = done(explain(&denied_at));
    assert_eq!(explained.json["agreement"], "same", "{}", explained.json);
    assert_eq!(explained.json["denied"], "forbidden");
    assert_eq!(
        explained.json["basis"]["policy"],
        changed.json["leaf_index"]
    );
    let released_at = (0..stage.tree_size()).map(|leaf| leaf.to_string());
    let released_at = released_at.rev().find(|leaf| {
        let shown = done(stage.hospital.run(["log", "show", leaf]));
        shown.json["kind"] == "released"
    });
    let explained = done(explain(&released_at.unwrap()));
    assert_eq!(explained.json["agreement"], "same", "{}", explained.json);
    assert_eq!(explained.json["policies"][0], "clinician-treats");
    assert_eq!(explained.json["basis"]["policy"], 0);
    assert_refused(&explain("0").unwrap(), 2, "usage");
    let no_auditor = stage
        .clinician
        .run(["audit", "explain", &denied_at])
        .unwrap();
    assert_ne!(no_auditor.code, 0);

    set_policies(&stage, None);
    done(get(&stage.clinician, &record_2, "TREAT", &copy));
    assert_eq!(fs::read(&copy).unwrap(), b"the next");
    let again = done(stage.clinician.run(["admin", "access-policy", "show"]));
    assert_eq!(again.json["access_policy"], founded.json["access_policy"]);
}

/// The hospital's node alone may release; the researcher asks its own institute's.
#[test]
fn request_finds_its_broker_from_any_node_and_a_refusal_shows_no_record() {
    let mut stage = Stage::start(3);
    let device = stage.device("holter");
    let record = done(Ok(stage.put(&device, &stage.file("payload", b"one beat"))));
    let record = record.text("record").unwrap();
    let second = done(Ok(stage.put(&device, &stage.file("next", b"the next"))));
    let second = second.text("record").unwrap();
    let researcher = stage.network.invite(1, "researcher").unwrap();
    let operator = stage.network.operator(1).unwrap();
    enrol(&operator, "person", &researcher, "researcher");
    let absent = cid_of(Codec::DagCbor, &[7; 32]).to_string();
    let ask = |who: &Home, record: &str| {
        let arguments = ["request", record, "--purpose", "HRESCH"];
        who.run(arguments).unwrap()
    };

    let refusals = [ask(&researcher, &record), ask(&researcher, &absent)];
    for refusal in &refusals {
        assert_refused(refusal, 3, "not-permitted");
    }
    assert_eq!(refusals[0].json["reason"], refusals[1].json["reason"]);

    let party = did(&researcher);
    let give = [
        "consent",
        "give",
        &stage.custody,
        "--party",
        &party,
        "--purpose",
        "HRESCH",
    ];
    done(stage.hospital.run(give));
    ask(&researcher, &record).success().unwrap();
    let copy = stage.path("copy");
    done(get(&researcher, &record, "HRESCH", &copy));
    assert_eq!(fs::read(&copy).unwrap(), b"one beat");

    // Without its broker nobody releases, and that is what is said: no refusal. What is forbidden stays a refusal.
    stage.network.process("hospital-a").unwrap().kill().unwrap();
    let unavailable = ask(&researcher, &second);
    assert_refused(&unavailable, 5, "no-broker");
    let outsider = stage.network.invite(2, "outsider").unwrap();
    let operator = stage.network.operator(2).unwrap();
    enrol(&operator, "person", &outsider, "researcher");
    for record in [&second, &absent] {
        assert_refused(&ask(&outsider, record), 3, "not-permitted");
    }
}
