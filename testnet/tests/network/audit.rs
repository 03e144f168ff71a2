//! The log as an outsider audits it, over HTTPS.

use crate::stage::{PROGRAM, Stage, done, until};
use medanchor_testnet::Home;
use serde_json::Value;
use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn log_is_audited_from_outside() {
    let stage = Stage::start(3);
    let auditor = invite(&stage, "supervisor");
    let guest = stage.network.invite(0, "somebody").unwrap();

    let checked = done(auditor.run(["log", "fsck"]));
    assert_eq!(checked.json["tree_size"], stage.tree_size());
    for node in ["hospital-a", "hospital-b", "hospital-c"] {
        let mut monitor = guest.command(["--node", node, "log", "monitor", "--once"]);
        let printed = monitor.output().unwrap().stdout;
        assert_eq!(lines(printed).len(), 2);
    }
    // Checkpoints and hash tiles are for everybody, entries are not.
    assert_eq!(guest.run(["log", "fsck"]).unwrap().code, 3);

    let before = stage.tree_size();
    done(stage.hospital.run(["custody", "new", "--kind", "person"]));
    let kept = done(guest.run(["log", "consistency", "kept"]));
    assert_eq!(kept.json["old_size"], before);
    assert!(kept.json["new_size"].as_u64() > Some(before));

    let receipt = stage.path("leaf");
    done(guest.run(["log", "prove", "2", "-o", receipt.to_str().unwrap()]));
    let verified = done(guest.run(["verify", receipt.to_str().unwrap()]));
    assert_eq!(verified.json["leaf_index"], 2);
    done(guest.run(["log", "consistency", receipt.to_str().unwrap()]));
}

#[test]
fn watch_prints_each_leaf_and_ends_cleanly_when_interrupted() {
    let stage = Stage::start(1);
    let printed = stage.path("watched");
    let mut watch = stage
        .hospital
        .command(["log", "watch", "--from", "0"])
        .stdin(Stdio::null())
        .stdout(File::create(&printed).unwrap())
        .spawn()
        .unwrap();
    let rows = || fs::read_to_string(&printed).unwrap();
    until("the first leaf is printed", || {
        rows().contains("\"founded\"")
    });
    done(stage.hospital.run(["custody", "new", "--kind", "dataset"]));
    let last = format!("\"leaf_index\":{}", stage.tree_size() - 1);
    until("the new leaf is printed", || rows().contains(&last));
    let pid = watch.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.unwrap().success());
    assert_eq!(watch.wait().unwrap().code(), Some(0));
    let lines = lines(rows().into_bytes());
    assert_eq!(lines.last().unwrap()["leaves"], stage.tree_size());
}

/// What was printed, a JSON object a line, each of which says that all is well.
fn lines(printed: Vec<u8>) -> Vec<Value> {
    let printed = String::from_utf8(printed).unwrap();
    let lines = printed.lines().map(serde_json::from_str);
    let lines: Vec<Value> = lines.collect::<Result<_, _>>().unwrap();
    assert!(lines.iter().all(|line| line["ok"] == true), "{printed}");
    lines
}

pub(crate) fn invite(stage: &Stage, name: &str) -> Home {
    let home = stage.path(name);
    let node = stage.network.nodes.first().unwrap().folder().to_owned();
    let invited = Command::new(PROGRAM)
        .args(["medanchord", "--data"])
        .arg(node)
        .args(["invite", "--auditor", name, "--home"])
        .arg(&home)
        .status();
    assert!(invited.unwrap().success());
    Home::new(home, Path::new(PROGRAM))
}
