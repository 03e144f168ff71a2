//! An emergency: consent is overridden, everybody whom it concerns sees it at once, and somebody reviews it.

use crate::stage::{Stage, assert_refused, did, done, enrol, get};
use medanchor_testnet::Home;
use std::fs;

/// A person of the node's organisation.
fn person(stage: &Stage, node: usize, name: &str, role: &str) -> Home {
    let person = stage.network.invite(node, name).unwrap();
    let operator = stage.network.operator(node).unwrap();
    enrol(&operator, "person", &person, role);
    person
}

fn begin(who: &Home, custody: &str) -> medanchor_testnet::Ran {
    let begin = ["break-glass", "begin", custody, "--reason", "OVRER"];
    who.run(begin).unwrap()
}

/// What `who` sees of emergencies: the leaf of each and its state.
fn seen(who: &Home) -> Vec<(u64, String)> {
    let listed = done(who.run(["break-glass", "list"]));
    let rows = listed.json["emergencies"].as_array().unwrap().iter();
    rows.map(|row| {
        let state = row["state"].as_str().unwrap().to_owned();
        (row["emergency"].as_u64().unwrap(), state)
    })
    .collect()
}

#[test]
fn clinician_of_another_hospital_overrides_consent_and_answers_for_it() {
    let stage = Stage::start(3);
    let device = stage.device("holter");
    let put = |name: &str| {
        let put = done(Ok(stage.put(&device, &stage.file(name, name.as_bytes()))));
        put.text("record").unwrap()
    };
    let [one, two] = ["one", "two"].map(put);
    let (custody, copy) = (stage.custody.as_str(), stage.path("copy"));
    let clara = person(&stage, 1, "clara", "clinician");
    let rosa = person(&stage, 1, "rosa", "officer");
    let other = person(&stage, 2, "other", "clinician");
    let (clinic, who) = (stage.network.operator(1).unwrap(), did(&clara));

    // Until its organisation has said who reviews it, nobody may; and without an emergency there is nothing to be had.
    assert_refused(&begin(&clara, custody), 3, "forbidden");
    let reviewer = did(&rosa);
    let rule = ["break-glass", "rule", "--role", "clinician"];
    let rule = rule.into_iter().chain(["--reviewer", &reviewer]);
    done(clinic.run(rule));
    let denied = get(&clara, &one, "BTG", &copy).unwrap();
    assert_refused(&denied, 3, "not-permitted");

    let begun = done(Ok(begin(&clara, custody)));
    let emergency = begun.json["leaf_index"].as_u64().unwrap();
    let got = done(get(&clara, &one, "BTG", &copy));
    assert_eq!(fs::read(&copy).unwrap(), b"one");
    // What is there for whom it was not begun is not even named.
    assert_refused(
        &get(&other, &two, "BTG", &copy).unwrap(),
        3,
        "not-permitted",
    );
    assert_refused(
        &get(&clara, &two, "TREAT", &copy).unwrap(),
        3,
        "not-permitted",
    );

    // All records of the patient, whose names nobody told it.
    let into = stage.path("all");
    let all = ["get", "--custody", custody, "--purpose", "BTG", "--into"];
    done(clara.run(all.into_iter().chain([into.to_str().unwrap()])));
    for (record, content) in [(&one, "one"), (&two, "two")] {
        assert_eq!(fs::read_to_string(into.join(record)).unwrap(), content);
    }

    // Everybody whom it concerns sees it, and nobody else.
    for home in [&stage.hospital, &clara, &rosa, &clinic] {
        assert_eq!(seen(home), [(emergency, "open".to_owned())]);
    }
    assert_eq!(seen(&other), []);
    let account = ["audit", "exposure", "--of", &who];
    let exposed = done(stage.hospital.run(account));
    let disclosures = exposed.json["disclosures"].as_array().unwrap();
    let purposes: Vec<_> = disclosures.iter().map(|one| &one["purpose"]).collect();
    assert_eq!(purposes, ["BTG"; 2]);
    // The log shows to whoever decides again why it was permitted.
    let leaf = got.json["leaf_index"].as_u64().unwrap().to_string();
    let explained = done(stage.hospital.run(["audit", "explain", &leaf]));
    assert_eq!(explained.json["agreement"], "same", "{}", explained.json);

    let name = emergency.to_string();
    let review = |by: &Home, found: &str| by.run(["break-glass", "review", &name, found]).unwrap();
    assert_refused(&review(&clara, "--justified"), 3, "forbidden");
    assert_refused(&review(&stage.hospital, "--justified"), 3, "forbidden");
    done(Ok(review(&rosa, "--justified")));
    assert_eq!(seen(&clara), [(emergency, "justified".to_owned())]);
    // It is over with that.
    let three = put("three");
    assert_refused(
        &get(&clara, &three, "BTG", &copy).unwrap(),
        3,
        "not-permitted",
    );

    // Without a reason, whoever did it may do nothing any more.
    let begun = done(Ok(begin(&clara, custody)));
    let name = begun.json["leaf_index"].as_u64().unwrap().to_string();
    done(get(&clara, &three, "BTG", &copy));
    done(rosa.run(["break-glass", "review", &name, "--unjustified"]));
    let four = put("four");
    assert_refused(&get(&clara, &four, "TREAT", &copy).unwrap(), 3, "inactive");
    assert_refused(&begin(&clara, custody), 3, "inactive");
    done(clinic.run(["person", "reinstate", &who]));
}
