//! Losing a node loses no patient: custody keys that a node has lost are given back, and other nodes release meanwhile.

use crate::{
    author::Author,
    stage::{Stage, assert_refused, did, done, enrol, get},
};
use medanchor_api::{CreateKey, ImportKey};
use medanchor_node::Folder;
use medanchor_testnet::{Home, Ran};
use std::{fs, path::Path};

#[test]
fn node_that_lost_its_custody_keys_releases_again_when_it_has_them_back() {
    let mut stage = Stage::start(3);
    let device = stage.device("holter");
    let put = |stage: &Stage, payload: &[u8]| {
        let put = done(Ok(stage.put(&device, &stage.file("payload", payload))));
        put.text("record").unwrap()
    };
    let (first, second) = (put(&stage, b"one beat"), put(&stage, b"the next"));
    let made = done(stage.hospital.run(["custody", "new", "--kind", "dataset"]));
    let other = made.text("custody").unwrap();
    assert_eq!(stage.read(&first), b"one beat");
    let checked = done(stage.hospital.run(["custody", "check"]));
    assert_eq!(checked.json["custodies"].as_array().unwrap().len(), 2);

    stage.lose_custody_keys("hospital-a");
    let copy = stage.path("copy");
    let lost = get(&stage.clinician, &second, "TREAT", &copy).unwrap();
    assert_refused(&lost, 5, "key-not-held");
    assert!(lost.errors.contains("custody restore"), "{}", lost.errors);
    let checked = stage.hospital.run(["custody", "check"]).unwrap();
    assert_refused_report(&checked, 4);
    let row = &checked.json["custodies"][0];
    assert_eq!(row["brokers"][0]["state"], "lost", "{row}");
    assert_eq!((&row["copy"], &row["holders"]), (&"held".into(), &1.into()));

    // No other key is made in its place, and only the operator may give one.
    let (create, import) = (create_key(&stage.custody), import_key(&stage.custody));
    let refused = |home: &Home| {
        let author = Author::of(home);
        let node = author.session.client.only("hospital-a").unwrap();
        [
            author
                .block_on(node.create_custody_key(create))
                .unwrap_err(),
            author
                .block_on(node.import_custody_key(import.clone()))
                .unwrap_err(),
        ]
    };
    let codes = refused(&stage.hospital).map(|error| error.code().to_owned());
    assert_eq!(codes, ["custody-exists", "copy-unusable"]);
    let codes = refused(&stage.clinician).map(|error| error.code().to_owned());
    assert_eq!(codes, ["not-the-operator", "not-the-operator"]);
    let author = Author::of(&stage.clinician);
    let ids = [stage.custody.parse().unwrap()];
    let checked = author.block_on(author.session.client.check_custody_keys(&ids));
    assert_eq!(checked.unwrap_err().code(), "not-an-auditor");

    // What is not the key that the log has never reaches the node.
    let kept = stage.hospital.path().join("custody");
    let kept = |custody: &str| kept.join(format!("{custody}-0.toml"));
    let copy_of_other = fs::read_to_string(kept(&other)).unwrap();
    let forged = copy_of_other.replace(&other, &stage.custody);
    let forged = stage.file("forged.toml", forged.as_bytes());
    let restore = |copy: &Path| {
        let copy = copy.to_str().unwrap();
        let arguments = [
            "custody",
            "restore",
            "--custody",
            &stage.custody,
            "--copy",
            copy,
        ];
        stage.hospital.run(arguments).unwrap()
    };
    assert_refused(&restore(&forged), 4, "not-verified");
    assert_refused(&restore(&kept(&other)), 2, "usage");

    let elsewhere = stage.path("safe.toml");
    fs::rename(kept(&stage.custody), &elsewhere).unwrap();
    let restored = restore(&elsewhere).success().unwrap();
    assert_eq!(restored.json["keys"][0]["state"], "restored");
    assert_eq!(restored.json["keys"][0]["listed"], serde_json::Value::Null);
    fs::rename(&elsewhere, kept(&stage.custody)).unwrap();
    let all = done(stage.hospital.run(["custody", "restore", "--all"]));
    assert_eq!(
        (&all.json["restored"], &all.json["held"]),
        (&1.into(), &1.into())
    );
    done(stage.hospital.run(["custody", "check"]));

    done(get(&stage.clinician, &second, "TREAT", &copy));
    assert_eq!(fs::read(&copy).unwrap(), b"the next");
    let third = put(&stage, b"a later one");
    assert_eq!(stage.read(&third), b"a later one");
}

#[test]
fn another_members_node_releases_while_the_owners_is_lost() {
    let mut stage = Stage::start(5);
    let device = stage.device("holter");
    let records = [&b"one"[..], b"two", b"three", b"four"].map(|payload| {
        let put = done(Ok(stage.put(&device, &stage.file("payload", payload))));
        put.text("record").unwrap()
    });
    let researcher = stage.network.invite(2, "researcher").unwrap();
    let [other, third] = [1, 2].map(|number| stage.network.operator(number).unwrap());
    enrol(&third, "person", &researcher, "researcher");
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

    // Hospital B agrees to hold the key, and only then hospital A lists its node.
    let (shared, held) = (stage.path("shared"), stage.path("held"));
    let [shared, held] = [&shared, &held].map(|path| path.to_str().unwrap());
    let share = [
        "custody",
        "share",
        "--custody",
        &stage.custody,
        "--to",
        "hospital-b",
    ];
    done(
        stage
            .hospital
            .run(share.into_iter().chain(["--out", shared])),
    );
    let elsewhere = third
        .run(["custody", "hold", shared, "--out", held])
        .unwrap();
    assert_refused(&elsewhere, 2, "usage");
    let other_name = ["custody", "brokers", "--add", held, "--of", "hospital-c"];
    let add = ["custody", "brokers", "--add", held, "--of", "hospital-b"];
    done(other.run(["custody", "hold", shared, "--out", held]));
    assert_eq!(stage.brokers().len(), 1);
    let by_other = other.run(add).unwrap();
    assert_refused_report(&by_other, 2);
    // Of the node that it is meant to be, and of no other.
    assert_refused(&stage.hospital.run(other_name).unwrap(), 2, "usage");
    assert_eq!(stage.brokers().len(), 1);
    done(stage.hospital.run(add));
    let [owners, others] = stage.brokers().try_into().unwrap();
    let again = done(stage.hospital.run(add));
    assert_eq!(again.json["keys"][0]["recorded"], serde_json::Value::Null);
    let checked = done(stage.hospital.run(["custody", "check"]));
    assert_eq!(checked.json["custodies"][0]["holders"], 3);

    let ask = |who: &Home, record: &str, purpose: &str| {
        who.run(["request", record, "--purpose", purpose]).unwrap()
    };
    let released_by = |granted: Ran| {
        let leaf = granted.success().unwrap().json["leaf_index"].to_string();
        let explained = done(third.run(["audit", "explain", &leaf]));
        assert_eq!(explained.json["agreement"], "same", "{}", explained.json);
        explained.text("broker").unwrap()
    };
    let granted = ask(&researcher, &records[0], "HRESCH");
    assert_eq!(released_by(granted), owners);
    stage.network.process("hospital-a").unwrap().kill().unwrap();
    let granted = ask(&researcher, &records[1], "HRESCH");
    assert_eq!(released_by(granted), others);
    let copy = stage.path("copy");
    done(get(&researcher, &records[1], "HRESCH", &copy));
    assert_eq!(fs::read(&copy).unwrap(), b"two");
    stage.network.process("hospital-b").unwrap().kill().unwrap();
    let nobody = ask(&researcher, &records[2], "HRESCH");
    assert_refused(&nobody, 5, "no-broker");
    assert!(
        nobody
            .errors
            .contains("no broker of the custody key can be reached")
    );

    // A broker that has lost its key hands the request to one that has not.
    stage.restart("hospital-b");
    stage.lose_custody_keys("hospital-a");
    let granted = ask(&stage.clinician, &records[2], "TREAT");
    assert_eq!(released_by(granted), others);
    let remove = ["custody", "brokers", "--remove", "hospital-a", "--all"];
    done(stage.hospital.run(remove));
    assert_eq!(stage.brokers(), std::slice::from_ref(&others));
    let granted = ask(&stage.clinician, &records[3], "TREAT");
    assert_eq!(released_by(granted), others);
    // With the key a node that is no broker becomes one.
    let restored = done(stage.hospital.run(["custody", "restore", "--all"]));
    assert!(
        restored.json["keys"][0]["listed"]["leaf_index"].is_u64(),
        "{}",
        restored.json
    );
    assert_eq!(stage.brokers(), [others, owners]);
    done(stage.hospital.run(["custody", "check"]));
}

impl Stage {
    /// The node runs again, with a key store that is empty.
    fn lose_custody_keys(&mut self, name: &str) {
        let node = self.network.process(name).unwrap();
        node.stop().unwrap();
        fs::remove_file(Folder::new(node.folder()).custody()).unwrap();
        self.restart(name);
    }

    fn restart(&mut self, name: &str) {
        self.start_again(name);
    }

    /// did:key of the brokers of the patient's custody key.
    fn brokers(&self) -> Vec<String> {
        let listed = done(self.hospital.run(["custody", "list"]));
        let mut custodies = listed.json["custodies"].as_array().unwrap().iter();
        let custody = custodies
            .find(|row| row["custody"] == self.custody)
            .unwrap();
        let brokers = custody["brokers"].as_array().unwrap().iter();
        brokers
            .map(|broker| broker.as_str().unwrap().to_owned())
            .collect()
    }
}

/// A key of the first epoch, with a copy for anybody.
fn create_key(custody: &str) -> CreateKey {
    CreateKey {
        custody: custody.parse().unwrap(),
        epoch: 0,
        recovery_recipient: [9; 32],
    }
}

/// A copy that nobody can open.
fn import_key(custody: &str) -> ImportKey {
    ImportKey {
        custody: custody.parse().unwrap(),
        epoch: 0,
        copy: b"sealed to nobody".as_slice().into(),
    }
}

/// It ended with a report that says that not all is well.
#[track_caller]
fn assert_refused_report(ran: &Ran, exit: i32) {
    assert_eq!(
        (ran.code, &ran.json["ok"]),
        (exit, &false.into()),
        "{}{}",
        ran.errors,
        ran.json
    );
}
