//! Keys that are rotated: a device's stream and a person's access go on, the old key is worth nothing, and all of it verifies
//! without a server.

use crate::stage::{Stage, assert_refused, did, done, get};
use medanchor_testnet::{Home, Ran};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

fn put(stage: &Stage, device: &Home, name: &str) -> Ran {
    let file = stage.file(name, name.as_bytes());
    stage.put(device, &file)
}

/// The same home with what its identity file was.
fn with_old_key(home: &Home, identity: &[u8]) -> Vec<u8> {
    let now = fs::read(identity_of(home)).unwrap();
    fs::write(identity_of(home), identity).unwrap();
    now
}

fn identity_of(home: &Home) -> PathBuf {
    home.path().join("identity.toml")
}

fn next_of(home: &Home) -> PathBuf {
    home.path().join("identity-next.toml")
}

fn text(ran: &Ran, field: &str) -> String {
    ran.text(field).unwrap()
}

#[test]
fn device_and_clinician_go_on_with_other_keys() {
    let stage = Stage::start(3);
    let device = stage.device("holter");
    let name = did(&device);
    let one = done(Ok(put(&stage, &device, "one")));

    // Sealed while it may not act: the record stays in the outbox, signed with the key of then.
    done(stage.hospital.run(["device", "suspend", &name]));
    assert_refused(&put(&stage, &device, "two"), 3, "inactive");
    done(stage.hospital.run(["device", "reinstate", &name]));

    let old_device = fs::read(identity_of(&device)).unwrap();
    let rotated = done(device.run(["key", "rotate"]));
    assert_eq!(text(&rotated, "did"), name);
    assert_eq!(text(&rotated, "before"), name);
    assert_eq!(rotated.json["resumed"], false);
    let second_key = text(&rotated, "key");
    assert_ne!(second_key, name);
    assert!(!next_of(&device).exists());
    let shown = done(device.run(["key", "show"]));
    assert_eq!(
        (text(&shown, "did"), text(&shown, "key")),
        (name.clone(), second_key.clone())
    );
    let listed = done(stage.hospital.run(["device", "list"]));
    let listed = &listed.json["principals"][0];
    assert_eq!(
        (&listed["did"], &listed["key"]),
        (&name.as_str().into(), &second_key.as_str().into())
    );

    // What waits is sent first, vouched for by the new key. The stream has no gap.
    let three = done(Ok(put(&stage, &device, "three")));
    done(device.run(["key", "rotate"]));
    let four = done(Ok(put(&stage, &device, "four")));
    assert_eq!(text(&one, "stream"), text(&four, "stream"));
    for (stored, seq) in [(&one, 0), (&three, 2), (&four, 3)] {
        assert_eq!(stored.json["seq"], seq);
    }
    let records = stage.anchored();
    assert_eq!(records.len(), 4);

    // Whoever has the old key anchors nothing more.
    let now = with_old_key(&device, &old_device);
    let stolen = put(&stage, &device, "five");
    assert_refused(&stolen, 3, "inactive");
    fs::write(identity_of(&device), now).unwrap();
    // The device itself takes up what was sealed.
    let six = done(Ok(put(&stage, &device, "six")));
    assert_eq!(six.json["seq"], 5);

    // The clinician reads before and after, and by the stream's device.
    let before = text(&one, "record");
    assert_eq!(stage.read(&before), b"one");
    let old_clinician = fs::read(identity_of(&stage.clinician)).unwrap();
    let rotated = done(stage.clinician.run(["key", "rotate"]));
    let clinician = text(&rotated, "did");
    assert_eq!(stage.read(&text(&four, "record")), b"four");
    // What was granted to the key of before opens still, and is not asked for again.
    assert_eq!(stage.read(&before), b"one");
    let stream = text(&one, "stream");
    for of in [&name, &second_key] {
        let folder = stage.path(&format!("stream-{of}"));
        let into = folder.to_str().unwrap();
        let of_stream = [
            "get",
            "--device",
            of,
            "--stream",
            &stream,
            "--purpose",
            "TREAT",
            "--into",
            into,
        ];
        let got = done(stage.clinician.run(of_stream));
        assert_eq!(
            got.json["failed"].as_array().map(Vec::len),
            Some(0),
            "{}",
            got.json
        );
        let files = fs::read_dir(&folder).unwrap().filter_map(Result::ok);
        let names = files.map(|file| file.file_name().into_string().unwrap());
        assert_eq!(names.filter(|name| name != "manifest.jsonl").count(), 6);
    }
    let now = with_old_key(&stage.clinician, &old_clinician);
    let copy = stage.path("stolen");
    let five = &stage.anchored()[4];
    fs::remove_file(stage.clinician.path().join(format!("grants/{five}.grant"))).unwrap();
    let stolen = get(&stage.clinician, five, "TREAT", &copy).unwrap();
    assert_refused(&stolen, 3, "not-enrolled");
    fs::write(identity_of(&stage.clinician), now).unwrap();

    // What was released to either key is one account's.
    let exposed = done(
        stage
            .hospital
            .run(["audit", "exposure", "--of", &clinician]),
    );
    let rows = exposed.json["disclosures"].as_array().unwrap();
    let requesters: Vec<&str> = rows
        .iter()
        .map(|row| row["requester"].as_str().unwrap())
        .collect();
    assert_eq!(requesters[0], clinician);
    assert!(
        requesters[1..]
            .iter()
            .all(|key| *key == text(&rotated, "key"))
    );
    assert!(requesters.len() >= 3, "{}", exposed.json);
    for row in rows {
        let leaf = row["leaf_index"].to_string();
        let explained = done(stage.hospital.run(["audit", "explain", &leaf]));
        assert_eq!(text(&explained, "agreement"), "same");
    }
    done(
        stage
            .clinician
            .run(["audit", "account", "--of", &clinician]),
    );

    // Other roles.
    let roles = ["person", "roles", &clinician, "--role", "engineer"];
    done(stage.hospital.run(roles));
    let denied = get(&stage.clinician, five, "TREAT", &copy).unwrap();
    assert_refused(&denied, 3, "role-not-permitted");

    // All of it, by what is kept.
    for stored in [&one, &three, &four, &six] {
        let receipt = text(stored, "receipt");
        done(device.run(["verify", &receipt, &text(stored, "record")]));
    }
    done(device.run(["verify", &text(&rotated, "receipt")]));
    let checked = done(stage.hospital.run(["log", "fsck"]));
    assert_eq!(checked.json["ok"], true, "{}", checked.json);
}

/// The key is on disk before any node hears of it. Wherever it is killed, the same again ends it.
#[test]
fn rotation_that_is_interrupted_is_ended_by_the_same_again() {
    let mut stage = Stage::start(3);
    let device = stage.device("holter");
    let name = did(&device);
    done(Ok(put(&stage, &device, "one")));
    let before = fs::read(identity_of(&device)).unwrap();

    // Nobody can take it.
    for node in NODES {
        stage.network.process(node).unwrap().kill().unwrap();
    }
    let failed = device.run(["key", "rotate"]).unwrap();
    assert_refused(&failed, 5, "unreachable");
    assert_eq!(fs::read(identity_of(&device)).unwrap(), before);
    let next = fs::read(next_of(&device)).unwrap();
    assert_eq!(done(device.run(["key", "show"])).json["rotating"], true);
    let other = ["key", "passphrase", "--no-passphrase"];
    assert_refused(&device.run(other).unwrap(), 2, "usage");
    for node in NODES {
        stage.network.process(node).unwrap().start().unwrap();
    }
    stage.network.wait_until_ready().unwrap();

    let ended = done(device.run(["key", "rotate"]));
    assert_eq!(ended.json["resumed"], true);
    let after = fs::read(identity_of(&device)).unwrap();
    // Killed after the log had it, and before the home did; and after both.
    for identity in [&before, &after] {
        fs::write(identity_of(&device), identity).unwrap();
        fs::write(next_of(&device), &next).unwrap();
        let again = done(device.run(["key", "rotate"]));
        for field in ["key", "leaf_index", "did", "before"] {
            assert_eq!(again.json[field], ended.json[field], "{field}");
        }
        assert_eq!(fs::read(identity_of(&device)).unwrap(), after);
        assert!(!next_of(&device).exists());
    }
    assert_eq!(did(&device), name);
    let two = done(Ok(put(&stage, &device, "two")));
    assert_eq!(two.json["seq"], 1);
    // What is under a passphrase stays under it.
    let passphrase = stage.file("passphrase", b"correct horse battery\n");
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    let passphrase = passphrase.to_str().unwrap();
    done(device.run(["key", "passphrase", "--new-passphrase-file", passphrase]));
    let third = done(device.run(["--passphrase-file", passphrase, "key", "rotate"]));
    assert_eq!(third.json["before"], ended.json["key"]);
    let kept = fs::read_to_string(identity_of(&device)).unwrap();
    assert!(kept.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"));
    let shown = done(device.run(["--passphrase-file", passphrase, "key", "show"]));
    assert_eq!(
        (text(&shown, "did"), &shown.json["key"]),
        (name, &third.json["key"])
    );

    // An organisation keeps its key, and nothing is left of the attempt.
    let refused = stage.hospital.run(["key", "rotate"]).unwrap();
    assert_refused(&refused, 3, "forbidden");
    assert!(!next_of(&stage.hospital).exists());
}

const NODES: [&str; 3] = ["hospital-a", "hospital-b", "hospital-c"];
