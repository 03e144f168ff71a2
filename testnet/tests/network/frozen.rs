use crate::{
    fetch::block_files,
    stage::{Stage, done, put_arguments, until},
};
use serde_json::Value;
use std::{
    fs,
    process::{Child, Stdio},
};

/// A node that runs no further, and keeps its connections: nothing says that it is gone.
#[test]
fn frozen_node_stops_no_get_no_put_and_no_fetch_between_nodes() {
    let mut stage = Stage::start(4);
    let device = stage.device("scanner");
    let payload: Vec<u8> = (0..=250).cycle().take(12 << 20).collect();
    let file = stage.file("payload", &payload);
    let record = done(Ok(stage.put(&device, &file))).text("record").unwrap();
    // The first node took it; of the others some have it from there, and one has nothing.
    let mut others: Vec<(usize, String)> = stage.network.nodes[1..]
        .iter()
        .map(|node| {
            (
                block_files(&node.folder().join("blocks")).len(),
                node.name.clone(),
            )
        })
        .collect();
    others.sort();
    let (empty, full) = (others[0].clone(), others[2].clone());
    assert!(empty.0 == 0 && full.0 > 40, "{others:?}");

    // While somebody gets it from all of them. If it was just asked for something, it is noted as unreachable.
    let got = stage.freeze_during(&full.1, |stage| stage.spawn_slow_get(&record, &[]));
    let mut noted = got["noted_nodes"].as_array().unwrap().iter();
    let is_fair = |noted: &Value| noted["node"] == *full.1 && noted["note"] == "unreachable";
    assert!(noted.all(is_fair), "{got}");
    assert!(fs::read(stage.path("copy")).unwrap() == payload);

    // While a node that has nothing fetches it from the others.
    fs::remove_file(stage.path("copy")).unwrap();
    let only = ["--node", &empty.1];
    stage.freeze_during(&full.1, |stage| stage.spawn_slow_get(&record, &only));
    assert!(fs::read(stage.path("copy")).unwrap() == payload);

    // While it takes what somebody puts.
    let other: Vec<u8> = payload.iter().rev().copied().collect();
    let file = stage.file("other", &other);
    let first = stage.network.nodes[0].name.clone();
    let before = stage.blocks(&first);
    let mut putting = device
        .command(put_arguments(&file, &stage.custody))
        .args(SLOWLY)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("blocks have come", || stage.blocks(&first) > before + 3);
    assert!(putting.try_wait().unwrap().is_none(), "it is over already");
    stage.network.process(&first).unwrap().pause().unwrap();
    let put = ended(putting);
    let record = put["record"].as_str().unwrap().to_owned();
    stage.thaw(&first);
    assert!(stage.read(&record) == other);
}

impl Stage {
    /// Freezes a node once some blocks have come, and has it go on when the command has ended well. What it printed.
    fn freeze_during(&mut self, node: &str, spawn: impl FnOnce(&Self) -> Child) -> Value {
        let mut child = spawn(self);
        let folder = self.path("");
        until("blocks have come", || {
            let files = fs::read_dir(&folder).unwrap().flatten();
            let partial = files
                .map(|entry| entry.path())
                .find(|path| path.extension().is_some_and(|kind| kind == "partial"));
            partial.is_some_and(|path| fs::metadata(path).is_ok_and(|file| file.len() > 1 << 20))
        });
        assert!(child.try_wait().unwrap().is_none(), "it is over already");
        self.network.process(node).unwrap().pause().unwrap();
        let printed = ended(child);
        self.thaw(node);
        printed
    }

    fn thaw(&mut self, node: &str) {
        self.network.process(node).unwrap().resume().unwrap();
        self.network.wait_for(node).unwrap();
    }

    fn spawn_slow_get(&self, record: &str, before: &[&str]) -> Child {
        let copy = self.path("copy");
        let get = [
            "get",
            record,
            "--purpose",
            "TREAT",
            "-o",
            copy.to_str().unwrap(),
        ];
        self.clinician
            .command(before.iter().copied().chain(get))
            .args(SLOWLY)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn blocks(&self, node: &str) -> usize {
        let node = self
            .network
            .nodes
            .iter()
            .find(|one| one.name == node)
            .unwrap();
        block_files(&node.folder().join("blocks")).len()
    }
}

/// What a command printed that ended well.
fn ended(child: Child) -> Value {
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Slow enough to act meanwhile.
const SLOWLY: [&str; 2] = ["--limit", "3M"];
