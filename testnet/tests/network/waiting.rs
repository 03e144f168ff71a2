//! What a caller waits for, and what answers say they were read from.

use crate::stage::{Stage, assert_refused, done, get, put_arguments};
use medanchor_testnet::{Home, Ran};
use serde_json::Value;
use std::{fs, path::Path};

#[test]
fn what_members_decided_need_not_be_waited_for() {
    let stage = Stage::start(1);
    let rules = stage.file("rules.toml", b"[[rule]]\ncopies = 1\n");
    let (rules, draft) = (rules.to_str().unwrap(), stage.path("draft"));
    let draft = draft.to_str().unwrap();
    let placement = ["admin", "placement"];
    let drafting = placement.into_iter().chain(["draft", rules, "-o", draft]);
    done(stage.hospital.run(drafting));
    let setting = placement.into_iter().chain(["set", draft]);
    let set = done(stage.hospital.run(setting.chain(["--wait", "committed"])));
    assert_eq!(set.json["strength"], "committed");
    assert_eq!(set.json["receipt"], Value::Null);
    let statement = set.text("statement").unwrap();
    let receipt = stage.path("receipt");
    let proving = ["log", "prove", &statement, "-o", receipt.to_str().unwrap()];
    let proved = done(stage.hospital.run(proving));
    assert_eq!(proved.json["leaf_index"], set.json["leaf_index"]);
}

#[test]
fn what_was_only_committed_is_kept_until_a_receipt_shows_it() {
    let stage = Stage::start(3);
    let device = stage.device("holter");
    let put = |name: &str, wait: &str| {
        // Written once: the same file again is the same upload.
        let file = match stage.path(name) {
            path if path.exists() => path,
            _ => stage.file(name, name.as_bytes()),
        };
        put_waiting(&device, &file, &stage.custody, wait)
    };
    let first = put("first", "committed");
    assert_eq!(first.json["strength"], "committed");
    assert_eq!(first.json["receipt"], Value::Null);
    assert_eq!(first.json["tree_size"], Value::Null);
    assert_eq!(uploads(&device), 1);

    // Its receipt comes by its record, by its statement and by its index, and is of the same leaf.
    let index = first.json["leaf_index"].to_string();
    for name in [
        first.text("record").unwrap(),
        first.text("statement").unwrap(),
        index.clone(),
    ] {
        let receipt = stage.path("receipt");
        let receipt = receipt.to_str().unwrap();
        let proved = done(device.run(["log", "prove", &name, "-o", receipt]));
        assert_eq!(proved.json["leaf_index"], first.json["leaf_index"]);
        let verified = done(device.run(["verify", receipt]));
        assert_eq!(verified.json["record"], first.json["record"]);
        assert_eq!(verified.json["strength"], "published");
        // The opening is given to those who can name what it opens.
        let signed = !verified.json["signed_by"].as_array().unwrap().is_empty();
        assert_eq!(signed, name != index);
    }

    // The next one takes care of it, and waits for nothing itself.
    let second = put("second", "committed");
    assert_ne!(second.json["record"], first.json["record"]);
    assert_eq!(uploads(&device), 1);
    let record = first.text("record").unwrap();
    let kept = device
        .path()
        .join("receipts")
        .join(format!("{record}.tlog-proof"));
    assert!(kept.exists());
    // The same file again is the same record, with its receipt now.
    let again = put("second", "witnessed");
    assert_eq!(again.json["record"], second.json["record"]);
    assert_eq!(again.json["strength"], "witnessed");
    assert!(again.json["tree_size"].as_u64() > again.json["leaf_index"].as_u64());
    assert_eq!(uploads(&device), 0);
    let third = put("third", "published");
    assert_eq!(third.json["strength"], "published");
    assert_eq!(uploads(&device), 0);

    // No key is opened without a receipt, however strong a one is asked for.
    let copy = stage.path("copy");
    let copy = copy.to_str().unwrap();
    let get = ["get", &record, "--purpose", "TREAT", "-o", copy];
    let refused = stage
        .clinician
        .run(get.into_iter().chain(["--wait", "committed"]));
    assert_eq!(refused.unwrap().code, 2);
    let ask = [
        "request",
        &record,
        "--purpose",
        "TREAT",
        "--wait",
        "published",
    ];
    let granted = done(stage.clinician.run(ask));
    assert_eq!(granted.json["strength"], "published");
    assert!(granted.json["tree_size"].as_u64() > granted.json["leaf_index"].as_u64());
    done(stage.clinician.run(get));
    assert_eq!(fs::read(copy).unwrap(), b"first");
}

#[test]
fn answers_say_what_they_were_read_from_and_lists_are_for_auditors() {
    let stage = Stage::start(3);
    let guest = stage.device("holter");
    let supervisor = crate::audit::invite(&stage, "supervisor");
    let size = stage.tree_size();
    for list in [
        &["person", "list"] as &[&str],
        &["custody", "list"],
        &["log", "list"],
    ] {
        for reader in [&stage.hospital, &supervisor] {
            let listed = done(reader.run(list.iter().copied()));
            assert_eq!(listed.json["tree_size"], size, "{list:?}");
        }
        let refused = guest.run(list.iter().copied()).unwrap();
        assert_refused(&refused, 3, "not-an-auditor");
    }
    // Beyond the end there is nothing, and that too is of a log of some size.
    let none = done(stage.hospital.run(["log", "list", "--from", "1000"]));
    assert_eq!(none.json["tree_size"], size);
    assert!(none.json["leaves"].as_array().unwrap().is_empty());
    // Whoever can name it may read it.
    let consents = done(guest.run(["consent", "list", &stage.custody]));
    assert_eq!(consents.json["tree_size"], size);
    let file = stage.file("payload", b"payload");
    let record = done(Ok(stage.put(&guest, &file))).text("record").unwrap();
    let copy = stage.path("copy");
    done(get(&stage.clinician, &record, "TREAT", &copy));
}

fn put_waiting(device: &Home, file: &Path, custody: &str, wait: &str) -> Ran {
    let arguments = put_arguments(file, custody).into_iter();
    done(device.run(arguments.chain(["--wait", wait])))
}

fn uploads(device: &Home) -> usize {
    let entries = fs::read_dir(device.path().join("outbox")).unwrap();
    let folders = entries.filter(|entry| entry.as_ref().unwrap().path().is_dir());
    folders.count()
}
