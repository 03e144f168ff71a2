use crate::{
    liar::Liar,
    refusals::Told,
    stage::{Stage, did, done, enrol},
};
use medanchor_testnet::{Home, Ran};
use serde_json::Value;
use std::{collections::BTreeSet, fs};

/// Files of each patient.
const EACH: usize = 40;

/// How a node changes what it answers.
type Lie = fn(&mut Told<'_>);

/// A partner gets the records of several patients of two hospitals with one release by each of their brokers, and nobody sees
/// more of those than is theirs.
#[test]
fn dataset_of_many_patients_is_released_as_one_leaf_by_each_broker() {
    let stage = Stage::start(3);
    let hospitals = [stage.hospital.clone(), stage.network.operator(1).unwrap()];
    let institute = stage.network.invite(0, "institute").unwrap();
    enrol(&stage.hospital, "org", &institute, "researcher");
    let researcher = stage.network.invite(0, "researcher").unwrap();
    enrol(&institute, "person", &researcher, "researcher");
    let party = did(&institute);
    let mut patients = Vec::new();
    for (number, hospital) in hospitals.iter().enumerate() {
        let name = format!("monitor-{number}");
        let device = stage.network.invite(number, &name).unwrap();
        enrol(hospital, "device", &device, "device");
        for patient in 0..3 {
            let made = done(hospital.run(["custody", "new", "--kind", "person"]));
            let custody = made.text("custody").unwrap();
            put_files(&stage, &device, &custody, &format!("{number}-{patient}"));
            // The last patient of each hospital has consented to nothing.
            if patient < 2 {
                let consent = ["consent", "give", &custody, "--party", &party];
                done(hospital.run(consent.into_iter().chain(["--purpose", "HRESCH"])));
            }
            patients.push(custody);
        }
    }

    let into = stage.path("dataset");
    let get = || {
        let what = ["get", "--class", "waveform.ecg", "--purpose", "HRESCH"];
        let into = ["--into", into.to_str().unwrap()];
        done(researcher.run(what.into_iter().chain(into)))
    };
    let got = get();
    assert_eq!(got.json["fetched"], 4 * EACH, "{}", got.json);
    let releases = got.json["releases"].as_array().unwrap();
    let sizes: Vec<_> = releases
        .iter()
        .map(|release| (release["records"].as_u64(), release["custodies"].as_u64()))
        .collect();
    assert_eq!(sizes, [(Some(2 * EACH as u64), Some(2)); 2], "{}", got.json);
    let leaves: Vec<String> = releases
        .iter()
        .map(|release| release["leaf_index"].to_string())
        .collect();

    // What is there is not asked for again, and what is lost is opened with the keys that are kept.
    let mut lost = fs::read_dir(&into)
        .unwrap()
        .map(|file| file.unwrap().path());
    let lost = lost.find(|path| path.file_name().unwrap() != "manifest.jsonl");
    fs::remove_file(lost.unwrap()).unwrap();
    let again = get();
    assert_eq!(
        (&again.json["fetched"], &again.json["kept"]),
        (&1.into(), &(4 * EACH - 1).into())
    );
    assert_eq!(again.json["releases"], serde_json::json!([]));

    exposure_is_all_of_it(&stage, &researcher, &patients);
    for (hospital, own) in hospitals.iter().zip(patients.chunks(3)) {
        accounts_are_each_patients_own(&stage, hospital, own, &patients);
    }
    for leaf in &leaves {
        let explained = done(stage.hospital.run(["audit", "explain", leaf]));
        assert_eq!(explained.json["agreement"], "same", "{}", explained.json);
        assert_eq!(
            explained.json["records"].as_array().unwrap().len(),
            2 * EACH
        );
        assert_eq!(explained.json["missing"], serde_json::json!([]));
    }
}

/// An operator who lies about a release of many keys (I2): none of them is kept.
#[test]
fn keys_that_are_not_those_of_the_release_are_refused_all_together() {
    let stage = Stage::start(3);
    let device = stage.device("monitor");
    put_files(&stage, &device, &stage.custody, "ward7");
    let liar = Liar::between(&stage.clinician, &stage.network.nodes[0]);
    let into = stage.path("into");
    let get = || {
        let what = ["get", "--custody", &stage.custody, "--purpose", "TREAT"];
        let into = ["--into", into.to_str().unwrap()];
        stage.clinician.run(what.into_iter().chain(into)).unwrap()
    };
    let lies: [(&str, Lie); 6] = [
        ("two keys are swapped", |told| told.wraps.wraps.swap(0, 1)),
        ("a key is missing", |told| drop(told.wraps.wraps.pop())),
        ("a bit of a key", |told| {
            *told.wraps.wraps[7].last_mut().unwrap() ^= 1;
        }),
        ("two rows are swapped", |told| {
            told.change_list(|list| list.parts[0].rows.swap(0, 1));
        }),
        ("a row is missing", |told| {
            told.change_list(|list| list.parts[0].rows.truncate(EACH - 1));
            told.wraps.wraps.pop();
        }),
        ("a bit of a row", |told| {
            told.change_list(|list| list.parts[0].rows[9].device ^= 1);
        }),
    ];
    for (name, lie) in lies {
        liar.tells(move |answer| lie(&mut Told::of(answer)));
        let ran = get();
        assert_eq!(ran.code, 4, "{name}: {}{}", ran.errors, ran.json);
        let kept = fs::read_dir(stage.clinician.path().join("grants")).unwrap();
        assert_eq!(kept.count(), 0, "{name}");
    }
    liar.tells(|_| ());
    let got = done(Ok(get()));
    assert_eq!(got.json["fetched"], EACH);
    assert_eq!(got.json["releases"][0]["records"], EACH);
}

fn put_files(stage: &Stage, device: &Home, custody: &str, name: &str) {
    let folder = stage.path(name);
    fs::create_dir(&folder).unwrap();
    for number in 0..EACH {
        fs::write(folder.join(number.to_string()), format!("{name}/{number}")).unwrap();
    }
    let folder = folder.to_str().unwrap();
    let class = ["--class", "waveform.ecg"];
    let put = ["put", folder, "--custody", custody]
        .into_iter()
        .chain(class);
    let ran = done(device.run(put));
    assert_eq!(ran.json["stored"], EACH);
}

fn parts(ran: &Ran) -> Vec<Value> {
    let rows = ran.json["disclosures"].as_array().unwrap().iter();
    rows.flat_map(|row| row["parts"].as_array().unwrap().clone())
        .collect()
}

/// Who asks what somebody was given sees all of it.
fn exposure_is_all_of_it(stage: &Stage, researcher: &Home, patients: &[String]) {
    let of = did(researcher);
    let listed = done(stage.hospital.run(["audit", "exposure", "--of", &of]));
    assert_eq!(listed.json["count"], 2);
    let parts = parts(&listed);
    let found: BTreeSet<&str> = parts
        .iter()
        .map(|part| part["custody"].as_str().unwrap())
        .collect();
    let expected: BTreeSet<&str> = [0, 1, 3, 4].map(|n| patients[n].as_str()).into();
    assert_eq!(found, expected);
    assert!(
        parts
            .iter()
            .all(|part| part["records"].as_array().unwrap().len() == EACH)
    );
}

/// Who asks for a patient sees that patient's records, all of them, and no word of another.
fn accounts_are_each_patients_own(
    stage: &Stage,
    hospital: &Home,
    own: &[String],
    patients: &[String],
) {
    for (number, custody) in own.iter().enumerate() {
        let file = stage.path(&format!("{custody}.account"));
        let out = ["--out", file.to_str().unwrap()];
        let account = ["audit", "account", "--custody", custody];
        let account = done(hospital.run(account.into_iter().chain(out)));
        let parts = parts(&account);
        if number == 2 {
            assert_eq!((&account.json["count"], parts.len()), (&0.into(), 0));
            continue;
        }
        assert_eq!((&account.json["count"], parts.len()), (&1.into(), 1));
        assert_eq!(parts[0]["custody"].as_str(), Some(custody.as_str()));
        assert_eq!(parts[0]["records"].as_array().unwrap().len(), EACH);
        // Not even in the file, which has the requester's own words.
        let bytes = fs::read(&file).unwrap();
        for other in patients.iter().filter(|other| *other != custody) {
            let id = hex::decode(other).unwrap();
            let is_named = bytes.windows(id.len()).any(|window| window == id);
            assert!(!is_named, "{other} is in the account of {custody}");
        }
        let verified = done(hospital.run(["verify", file.to_str().unwrap()]));
        assert_eq!(verified.json["disclosures"].as_array().unwrap().len(), 1);
    }
}
