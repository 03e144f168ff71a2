//! What was disclosed, and to whom: all of it, and what a node withholds is found.

use crate::{
    liar::Liar,
    stage::{Stage, assert_refused, did, done, enrol, get},
};
use medanchor_testnet::{Home, Ran};

/// A record of the patient's.
fn put(stage: &Stage, device: &Home, content: &str) -> String {
    let stored = stage.put(device, &stage.file(content, content.as_bytes()));
    done(Ok(stored)).text("record").unwrap()
}

fn read(stage: &Stage, reader: &Home, record: &str, purpose: &str) -> Ran {
    let copy = stage.path("copy");
    let _ = std::fs::remove_file(&copy);
    get(reader, record, purpose, &copy).unwrap()
}

fn exposure(asker: &Home, of: &str, more: &[&str]) -> Ran {
    let arguments = ["audit", "exposure", "--of", of];
    asker.run(arguments.iter().chain(more)).unwrap()
}

/// Who was given the keys of which records, in this order.
fn disclosed(ran: &Ran) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let rows = ran.json["disclosures"].as_array().unwrap().iter();
    rows.flat_map(|row| {
        let parts = row["parts"].as_array().unwrap().iter();
        let records = parts.flat_map(|part| part["records"].as_array().unwrap());
        records.map(|record| (text(&row["requester"]), text(record)))
    })
    .collect()
}

#[test]
fn exposure_has_what_was_released_and_nothing_else() {
    let mut stage = Stage::start(3);
    let device = stage.device("holter");
    let [first, second, third] = ["one", "two", "three"].map(|name| put(&stage, &device, name));
    let colleague = stage.network.invite(0, "colleague").unwrap();
    enrol(&stage.hospital, "person", &colleague, "clinician");
    let researcher = stage.network.invite(1, "researcher").unwrap();
    let institute = stage.network.operator(1).unwrap();
    enrol(&institute, "person", &researcher, "researcher");
    let clinician = did(&stage.clinician);

    // Nothing yet, which is no error.
    let none = done(Ok(exposure(&stage.hospital, &clinician, &[])));
    assert_eq!((&none.json["count"], disclosed(&none)), (&0.into(), vec![]));

    let given = |who: &Home, record: &str, purpose| done(Ok(read(&stage, who, record, purpose)));
    given(&stage.clinician, &first, "TREAT");
    given(&colleague, &third, "TREAT");
    // Keys that one has are not asked for again.
    given(&stage.clinician, &first, "TREAT");
    let refused = read(&stage, &researcher, &first, "HRESCH");
    assert_refused(&refused, 3, "not-permitted");
    let party = did(&researcher);
    let custody = stage.custody.as_str();
    let give = ["consent", "give", custody, "--party", &party];
    let give = give.iter().chain(&["--purpose", "HRESCH"]);
    done(stage.hospital.run(give));
    given(&researcher, &first, "HRESCH");
    let revoke = ["person", "revoke", &did(&colleague)];
    let revoked = done(stage.hospital.run(revoke)).json["leaf_index"].clone();
    let refused = read(&stage, &colleague, &second, "TREAT");
    assert_refused(&refused, 3, "inactive");
    given(&stage.clinician, &second, "TREAT");

    let row = |who: &str, record: &String| (who.to_owned(), record.clone());
    let [to_clinician, to_colleague] = [
        vec![row(&clinician, &first), row(&clinician, &second)],
        vec![row(&did(&colleague), &third)],
    ];
    let to_researcher = vec![row(&party, &first)];
    let to_hospital = vec![
        to_clinician[0].clone(),
        to_colleague[0].clone(),
        to_clinician[1].clone(),
    ];
    let (hospital, other) = (did(&stage.hospital), did(&institute));
    for (of, expected) in [
        (&clinician, &to_clinician),
        (&did(&colleague), &to_colleague),
        (&party, &to_researcher),
        (&hospital, &to_hospital),
        (&other, &to_researcher),
    ] {
        let listed = done(Ok(exposure(&stage.hospital, of, &[])));
        assert_eq!(&disclosed(&listed), expected, "{}", listed.json);
        assert_eq!(listed.json["said_by"].as_array().unwrap().len(), 3);
        assert_eq!(
            listed.json["disclosures"][0]["parts"][0]["custody"],
            custody
        );
    }
    // From a leaf or a time on.
    let since = revoked.to_string();
    let later = done(Ok(exposure(
        &stage.hospital,
        &hospital,
        &["--since", &since],
    )));
    assert_eq!(disclosed(&later), [to_clinician[1].clone()]);
    assert_eq!(later.json["count"], 3);
    let last = later.json["disclosures"][0]["at"].as_str().unwrap();
    let later = exposure(&stage.hospital, &hospital, &["--since", &last[..10]]);
    assert_eq!(disclosed(&done(Ok(later))), to_hospital);
    let never = exposure(&stage.hospital, &hospital, &["--since", "2999-01-01"]);
    assert_eq!(disclosed(&done(Ok(never))), []);
    assert_eq!(exposure(&stage.hospital, "nobody", &[]).code, 2);

    // One's own is one's own to see, and nobody else's.
    let own = done(Ok(exposure(&researcher, &party, &[])));
    assert_eq!(disclosed(&own), to_researcher);
    for (asker, of) in [
        (&researcher, &clinician),
        (&stage.clinician, &hospital),
        (&colleague, &did(&colleague)),
    ] {
        assert_refused(&exposure(asker, of, &[]), 3, "not-its-account");
    }
    // What a node that is away would say is not known, and that is said.
    let away = stage.network.nodes[2].name.clone();
    stage.network.process(&away).unwrap().stop().unwrap();
    let listed = done(Ok(exposure(&stage.hospital, &clinician, &[])));
    assert_eq!(disclosed(&listed), to_clinician);
    assert_eq!(listed.json["said_by"].as_array().unwrap().len(), 2);
    assert_eq!(listed.json["silent"][0]["node"], away.as_str());
}

#[test]
fn release_that_a_node_leaves_out_is_found() {
    let stage = Stage::start(3);
    let device = stage.device("holter");
    let of = did(&stage.clinician);
    let release = |name: &str| {
        let record = put(&stage, &device, name);
        done(Ok(read(&stage, &stage.clinician, &record, "TREAT")));
    };
    release("one");
    release("two");
    let before = done(Ok(exposure(&stage.hospital, &of, &[])));
    release("three");
    let node = &stage.network.nodes[0];
    let liar = Liar::between(&stage.hospital, node);
    let alone = ["--node", &node.name];
    let all = done(Ok(exposure(&stage.hospital, &of, &alone)));
    assert_eq!(disclosed(&all).len(), 3);
    let leaves = [0, 2].map(|at| all.json["disclosures"][at]["leaf_index"].as_u64());

    for leaf in leaves {
        liar.lists(move |disclosures| {
            disclosures.retain(|disclosure| Some(disclosure.leaf_index) != leaf);
        });
        let ran = exposure(&stage.hospital, &of, &alone);
        assert_refused(&ran, 4, "not-verified");
        assert!(ran.errors.contains("withheld"), "{}", ran.errors);
    }
    // One is put in the place of another, and one has no content.
    liar.lists(|disclosures| disclosures[1] = disclosures[0].clone());
    assert_refused(&exposure(&stage.hospital, &of, &alone), 4, "not-verified");
    liar.lists(|disclosures| disclosures[1].opening.clear());
    assert_refused(&exposure(&stage.hospital, &of, &alone), 4, "not-verified");

    // A node that also lies about their number is contradicted by the others.
    liar.lists(move |disclosures| {
        disclosures.retain(|disclosure| Some(disclosure.leaf_index) != leaves[1]);
    });
    let head = before.text("head").unwrap();
    liar.states(2, hex::decode(head).unwrap());
    let ran = exposure(&stage.hospital, &of, &[]);
    assert_refused(&ran, 4, "not-verified");
    // So is one that only says that there is nothing.
    liar.lists(|_| ());
    liar.states(0, vec![0; 32]);
    let ran = exposure(&stage.hospital, &of, &[]);
    assert_refused(&ran, 4, "not-verified");
    assert!(ran.errors.contains(&node.name), "{}", ran.errors);
}

/// A patient who has her own key, with a custody key that she controls.
fn patient(stage: &Stage) -> (Home, String) {
    let patient = stage.network.invite(0, "patient").unwrap();
    enrol(&stage.hospital, "person", &patient, "patient");
    let controller = did(&patient);
    let new = [
        "custody",
        "new",
        "--kind",
        "person",
        "--controller",
        &controller,
    ];
    let custody = done(stage.hospital.run(new)).text("custody").unwrap();
    (patient, custody)
}

fn account(asker: &Home, custody: &str, more: &[&str]) -> Ran {
    let arguments = ["audit", "account", "--custody", custody];
    asker.run(arguments.iter().chain(more)).unwrap()
}

#[test]
fn account_of_disclosures_is_complete_by_proof() {
    let mut stage = Stage::start(3);
    let device = stage.device("holter");
    let (patient, custody) = patient(&stage);
    let other = put(&stage, &device, "another patient's");
    stage.custody = custody.clone();
    let [first, second] = ["one", "two"].map(|name| put(&stage, &device, name));
    let clinician = did(&stage.clinician);

    // Nothing was disclosed yet, and that is proved too.
    let none = done(Ok(account(&patient, &custody, &[])));
    assert_eq!((&none.json["count"], disclosed(&none)), (&0.into(), vec![]));
    let researcher = stage.network.invite(1, "researcher").unwrap();
    let institute = stage.network.operator(1).unwrap();
    enrol(&institute, "person", &researcher, "researcher");
    assert_refused(
        &read(&stage, &researcher, &first, "HRESCH"),
        3,
        "not-permitted",
    );
    for record in [&first, &other, &second] {
        done(Ok(read(&stage, &stage.clinician, record, "TREAT")));
    }
    let expected = [&first, &second].map(|record| (clinician.clone(), record.clone()));
    let file = stage.path("account");
    let kept = ["--out", file.to_str().unwrap()];
    let all = done(Ok(account(&patient, &custody, &kept)));
    assert_eq!(disclosed(&all), expected);
    assert_eq!(all.json["count"], 2);
    assert_eq!(all.json["stated_by"], did(&patient));
    let why = &all.json["disclosures"][0];
    assert_eq!(
        (&why["purpose"], &why["role"]),
        (&"TREAT".into(), &"clinician".into())
    );
    assert_eq!(why["policies"][0], "clinician-treats");
    // The owner's is the same; for others there is none, and no leaf.
    let owners = done(Ok(account(&stage.hospital, &custody, &[])));
    assert_eq!(owners.json["head"], all.json["head"]);
    let size = stage.tree_size();
    for stranger in [&stage.clinician, &researcher] {
        assert_refused(&account(stranger, &custody, &[]), 3, "not-its-account");
    }
    assert_eq!(stage.tree_size(), size);
    // Any member has proof of what somebody was given.
    let given = institute.run(["audit", "account", "--of", &clinician]);
    assert_eq!(done(given).json["count"], 3);

    // Without any server, and by others.
    stage.network.stop().unwrap();
    let verified = done(researcher.run(["verify", file.to_str().unwrap()]));
    assert_eq!(disclosed(&verified), expected);
    let mut changed = std::fs::read(&file).unwrap();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let changed = stage.file("changed", &changed);
    let refused = researcher.run(["verify", changed.to_str().unwrap()]);
    assert_refused(&refused.unwrap(), 4, "not-verified");
}

#[test]
fn disclosure_that_a_node_withholds_from_the_patient_is_found() {
    let mut stage = Stage::start(3);
    let device = stage.device("holter");
    let (patient, custody) = patient(&stage);
    stage.custody = custody.clone();
    let release = |name: &str| {
        let record = put(&stage, &device, name);
        done(Ok(read(&stage, &stage.clinician, &record, "TREAT")));
    };
    release("one");
    release("two");
    let before = done(Ok(account(&patient, &custody, &[])));
    release("three");
    let node = &stage.network.nodes[0];
    let liar = Liar::between(&patient, node);
    let alone = ["--node", &node.name];
    let all = done(Ok(account(&patient, &custody, &alone)));
    assert_eq!(disclosed(&all).len(), 3);
    let leaves = [0, 1, 2].map(|at| all.json["disclosures"][at]["leaf_index"].as_u64());

    let file = stage.path("account");
    let kept = [alone.as_slice(), &["--out", file.to_str().unwrap()]].concat();
    for leaf in leaves {
        liar.lists(move |disclosures| {
            disclosures.retain(|disclosure| Some(disclosure.leaf_index) != leaf);
        });
        let ran = account(&patient, &custody, &kept);
        assert_refused(&ran, 4, "not-verified");
        assert!(ran.errors.contains("withheld"), "{}", ran.errors);
        assert!(!file.exists());
    }
    // Even if the only node that is asked also lies about their number: the log does not.
    let head = before.text("head").unwrap();
    liar.states(2, hex::decode(head).unwrap());
    let ran = account(&patient, &custody, &kept);
    assert_refused(&ran, 4, "not-verified");
    assert!(ran.errors.contains("withheld"), "{}", ran.errors);
    // Another node gives them all.
    let honest = ["--node", &stage.network.nodes[1].name];
    let all = done(Ok(account(&patient, &custody, &honest)));
    assert_eq!(disclosed(&all).len(), 3);
}
