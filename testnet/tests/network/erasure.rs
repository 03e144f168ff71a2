//! A patient is forgotten: nothing that anybody still has, and no backup, opens what was theirs; and everybody can see who has
//! destroyed what.

use crate::{
    collect::busy_collector,
    stage::{Stage, assert_refused, copy_folder, done, get, put_arguments, until},
};
use medanchor_broker::{Custody, CustodyError};
use medanchor_dag::{Cid, DiskStore};
use medanchor_testnet::Ran;
use std::{fs, path::PathBuf};

#[test]
fn forgotten_patient_stays_forgotten_also_with_every_backup_and_every_ciphertext() {
    let mut stage = Stage::start_with(3, busy_collector);
    let device = stage.device("holter");
    let records: Vec<String> = ["one beat", "the next"]
        .map(|payload| {
            let file = stage.file("payload", payload.as_bytes());
            done(Ok(stage.put(&device, &file))).text("record").unwrap()
        })
        .into();
    let other = done(stage.hospital.run(["custody", "new", "--kind", "person"]));
    let other = other.text("custody").unwrap();
    let file = stage.file("payload", b"somebody else's");
    let put = done(device.run(put_arguments(&file, &other)));
    let kept = put.text("record").unwrap();
    assert_eq!(stage.read(&records[0]), b"one beat");
    let grant = stage.clinician.path().join("grants");
    assert!(grant.exists());

    // Everything that backups have: the key store, the operator's copies, the blocks. Not the epoch keys.
    let backup = back_up(&mut stage);

    // It has to be meant, and a legal hold blocks it, in the log.
    let erase = |stage: &Stage, more: &[&str]| -> Ran {
        let arguments = ["erase", "--subject", &stage.custody];
        let arguments = arguments.iter().chain(more).copied();
        stage.hospital.run(arguments).unwrap()
    };
    let unsaid = erase(&stage, &[]);
    assert_refused(&unsaid, 2, "usage");
    assert!(unsaid.errors.contains("1 releases"), "{}", unsaid.errors);
    let other_hospital = stage.network.operator(1).unwrap();
    let custody = stage.custody.clone();
    let place = [
        "legal-hold",
        "place",
        "--custody",
        &custody,
        "--matter",
        "7 O 123/26",
    ];
    let placed = done(other_hospital.run(place));
    let hold = placed.text("legal_hold").unwrap();
    let held = erase(&stage, &["--yes"]);
    assert_refused(&held, 3, "legal-hold");
    assert_eq!(stage.read(&records[1]), b"the next");
    let release = ["legal-hold", "release", &hold];
    done(other_hospital.run(release));

    // Copies that another node did not take yet: it holds none, and they are sealed to its epoch key.
    let [shared, held_by_other] = ["shared", "held"].map(|name| stage.path(name));
    let (shared, held_by_other) = (shared.to_str().unwrap(), held_by_other.to_str().unwrap());
    let share = [
        "custody",
        "share",
        "--all",
        "--to",
        "hospital-b",
        "--out",
        shared,
    ];
    done(stage.hospital.run(share));

    // A node that is away is named, and does its part when it is back.
    stage.network.process("hospital-c").unwrap().kill().unwrap();
    let begun = erase(&stage, &["--yes", "--wait-for", "1"]);
    assert_eq!(begun.code, 5, "{}{}", begun.errors, begun.json);
    assert!(!begun.json["missing"].as_array().unwrap().is_empty());
    let late = get(&stage.clinician, &records[1], "TREAT", &stage.path("late")).unwrap();
    assert_refused(&late, 1, "not-found");
    stage.start_again("hospital-c");
    let certificate = stage.path("certificate");
    let output = certificate.to_str().unwrap();
    let mut done_by_all = None;
    until("everybody has destroyed what was theirs", || {
        let again = erase(&stage, &["--wait-for", "5", "--out", output]);
        assert!(
            [0, 5].contains(&again.code),
            "{}{}",
            again.errors,
            again.json
        );
        done_by_all = (again.code == 0).then_some(again);
        done_by_all.is_some()
    });
    let erased = done_by_all.unwrap().json;
    assert_eq!(
        erased["disclosures"].as_array().unwrap().len(),
        2,
        "{erased}"
    );
    // The operator's copy, hospital A's key, and what three nodes had.
    assert_eq!(erased["destroyed"].as_array().unwrap().len(), 5, "{erased}");

    // Nobody has to be asked for the certificate.
    let verified = done(stage.clinician.run(["verify", output]));
    assert_eq!(verified.json["missing"], serde_json::json!([]));
    done(stage.hospital.run(["log", "fsck"]));

    // That opens nothing any more, whoever it is of.
    let hold = ["custody", "hold", shared, "--out", held_by_other];
    let refused = other_hospital.run(hold).unwrap();
    assert_ne!(refused.code, 0, "{}", refused.json);
    let failed = refused.json["failed"].as_array().unwrap();
    let of_other = failed.iter().find(|row| row["custody"] == other.as_str());
    let error = of_other.unwrap()["error"].as_str().unwrap();
    assert!(error.contains("does not open"), "{error}");
    assert_eq!(failed.len(), 2, "{}", refused.json);

    // Nothing is written under it any more; others go on, also after a restart with the new epoch key.
    let file = stage.file("payload", b"too late");
    let refused = device.run(put_arguments(&file, &custody)).unwrap();
    assert_ne!(refused.code, 0, "{}", refused.json);
    stage.stop_cleanly("hospital-a");
    stage.start_again("hospital-a");
    assert_eq!(stage.read(&kept), b"somebody else's");
    // That decision is made again from the log, which shows no more what was erased.
    let mut leaves = (0..stage.tree_size()).rev().map(|leaf| leaf.to_string());
    let released = leaves.find(|leaf| {
        let shown = done(stage.hospital.run(["log", "show", leaf]));
        shown.json["kind"] == "released"
    });
    let explain = ["audit", "explain", &released.unwrap()];
    let explained = done(stage.hospital.run(explain)).json;
    assert_eq!(explained["agreement"], "same", "{explained}");
    assert_eq!(explained["missing"], serde_json::json!([]), "{explained}");
    let passed_over = explained["passed_over"].as_array().unwrap();
    assert!(!passed_over.is_empty(), "{explained}");
    let restored = stage.hospital.run([
        "custody",
        "restore",
        "--custody",
        &custody,
        "--copy",
        backup.copy.to_str().unwrap(),
    ]);
    let restored = restored.unwrap();
    assert_refused(&restored, 4, "not-verified");

    // No node has a block of it. The backup has all of them, and no key that is left opens it.
    for name in ["hospital-a", "hospital-b", "hospital-c"] {
        stage.stop_cleanly(name);
    }
    let known = |folder: &PathBuf, record: &String| {
        let store = DiskStore::open(folder).unwrap();
        store.knows(&record.parse::<Cid>().unwrap()).unwrap()
    };
    for name in ["hospital-a", "hospital-b", "hospital-c"] {
        let blocks = stage.folder(name).blocks();
        for record in &records {
            assert!(!known(&blocks, record), "{name} has {record}");
        }
    }
    assert!(records.iter().all(|record| known(&backup.blocks, record)));
    let folder = stage.folder("hospital-a");
    let key = fs::read_to_string(folder.keys().join("custody-store.key")).unwrap();
    let hex = key.split_whitespace().last().unwrap();
    let mut kek = zeroize::Zeroizing::new([0; 32]);
    hex::decode_to_slice(hex, kek.as_mut()).unwrap();
    let opened = Custody::open(&backup.custody, kek);
    assert!(matches!(opened, Err(CustodyError::OtherKek)));
}

#[test]
fn operator_erases_with_damaged_copies_after_a_crash_and_with_an_epoch_key_of_before() {
    let stage = Stage::start(3);
    let home = stage.hospital.path();
    let [now, next] = ["epoch-key.toml", "next-epoch-key.toml"].map(|name| home.join(name));
    let copy = |custody: &str| home.join("custody").join(format!("{custody}-0.toml"));
    let new = || done(stage.hospital.run(["custody", "new", "--kind", "person"]));
    let [first, second, third] = [(); 3].map(|()| new().text("custody").unwrap());
    let erase = |custody: &str, more: &[&str]| {
        let arguments = ["erase", "--subject", custody, "--wait-for", "1"];
        stage
            .hospital
            .run(arguments.iter().chain(more).copied())
            .unwrap()
    };
    let is_key_gone = |erased: &Ran| {
        let mut rows = erased.json["destroyed"].as_array().unwrap().iter();
        rows.any(|row| row["who"] == erased.json["by"] && row["gone"] == "key")
    };

    // In a folder without the epoch key that the log has, nothing begins, since another one may have it.
    let epoch_key = fs::read(&now).unwrap();
    let second_copy = fs::read(copy(&second)).unwrap();
    fs::remove_file(&now).unwrap();
    for elsewhere in [
        erase(&first, &["--yes"]),
        stage
            .hospital
            .run(["custody", "new", "--kind", "person"])
            .unwrap(),
        stage.hospital.run(["custody", "new-epoch"]).unwrap(),
    ] {
        assert_refused(&elsewhere, 2, "usage");
        assert!(
            elsewhere.errors.contains("new-epoch --lost"),
            "{}",
            elsewhere.errors
        );
    }
    assert!(copy(&first).exists());

    // What does not open stops nothing, and two erasures at a time take both keys.
    fs::write(&now, &epoch_key).unwrap();
    fs::write(home.join("custody/notes.toml"), "colour = 1").unwrap();
    fs::write(
        copy(&third),
        fs::read_to_string(copy(&third))
            .unwrap()
            .replace("sealed = \"", "sealed = \"00"),
    )
    .unwrap();
    let erased = erase(&first, &["--yes"]);
    assert!(is_key_gone(&erased), "{}{}", erased.errors, erased.json);
    assert!(erased.errors.contains("notes.toml"), "{}", erased.errors);
    assert!(erased.errors.contains(&third), "{}", erased.errors);
    assert!(!copy(&first).exists());
    assert_ne!(fs::read(&now).unwrap(), epoch_key);

    // A crash after the epoch key was destroyed, before the next one had its name.
    fs::rename(&now, &next).unwrap();
    fs::write(&now, vec![0; epoch_key.len()]).unwrap();
    let restore = ["custody", "restore", "--custody", &second];
    let restored = done(stage.hospital.run(restore));
    assert_eq!(restored.json["held"], 1, "{}", restored.json);
    assert!(!next.exists());

    // An epoch key of before opens what a backup has, and never comes into force again.
    fs::write(&now, &epoch_key).unwrap();
    fs::write(copy(&second), &second_copy).unwrap();
    assert_refused(&stage.hospital.run(restore).unwrap(), 2, "usage");
    done(stage.hospital.run(["custody", "new-epoch", "--lost"]));
    assert_ne!(fs::read(&now).unwrap(), epoch_key);
    assert_ne!(fs::read(copy(&second)).unwrap(), second_copy);
    done(stage.hospital.run(restore));
    done(stage.hospital.run(["custody", "new-epoch"]));
    new();

    // A next one that a backup has brought back, and that was in force before, is given up.
    let in_force = fs::read(&now).unwrap();
    done(stage.hospital.run(["custody", "new-epoch"]));
    fs::write(&next, &in_force).unwrap();
    let refused = stage.hospital.run(["custody", "new-epoch"]).unwrap();
    assert_refused(&refused, 1, "conflict");
    done(stage.hospital.run(["custody", "new-epoch"]));

    // A copy that does not open is destroyed as any other.
    for custody in [&second, &third] {
        let erased = erase(custody, &["--yes"]);
        assert!(is_key_gone(&erased), "{}{}", erased.errors, erased.json);
        assert!(!copy(custody).exists());
    }
    done(stage.hospital.run(["log", "fsck"]));
}

struct Backup {
    custody: PathBuf,
    copy: PathBuf,
    blocks: PathBuf,
}

/// Of hospital A, while its node does not run.
fn back_up(stage: &mut Stage) -> Backup {
    stage.stop_cleanly("hospital-a");
    let folder = stage.folder("hospital-a");
    let backup = Backup {
        custody: stage.path("backup.redb"),
        copy: stage.path("backup.toml"),
        blocks: stage.path("backup-blocks"),
    };
    fs::copy(folder.custody(), &backup.custody).unwrap();
    let copy = format!("{}-0.toml", stage.custody);
    fs::copy(
        stage.hospital.path().join("custody").join(copy),
        &backup.copy,
    )
    .unwrap();
    copy_folder(&folder.blocks(), &backup.blocks);
    stage
        .network
        .process("hospital-a")
        .unwrap()
        .start()
        .unwrap();
    stage.network.wait_until_ready().unwrap();
    backup
}
