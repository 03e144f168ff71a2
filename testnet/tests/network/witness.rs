//! A network names a witness that others run: another network's node, over HTTPS.

use crate::stage::{PROGRAM, Stage, assert_refused, done, until};
use medanchor_anchor::{SignedNote, TrustPolicy, VerifierKey};
use medanchor_node::{Config, Folder, WitnessedLog};
use medanchor_testnet::{Home, NodeProcess, Ran, free_addresses};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const WITNESS: &str = "clinic.example/log/clinic-x";

#[test]
fn witness_is_added_to_a_running_network_and_removed_again() {
    let mut stage = Stage::start(3);
    let device = stage.device("holter");
    let policy = stage.path("policy.txt");
    fs::copy(stage.hospital.path().join("policy.txt"), &policy).unwrap();
    let before = put(&stage, &device, "before");
    let (clinic, key) = witness(&stage);
    stage.network.nodes.push(clinic);
    stage.network.process("clinic-x").unwrap().start().unwrap();

    let operators = [0, 1].map(|number| stage.network.operator(number).unwrap());
    let draft = stage.path("addition");
    let url = {
        let config = Config::open(&Folder::new(stage.path("clinic-x")).config()).unwrap();
        format!("https://{}", config.log_listen.unwrap())
    };
    let authority = stage.path("clinic-x").join("tls/own-ca.pem");
    let drafted = operators[0].run([
        "admin",
        "witness",
        "draft-addition",
        &key.to_string(),
        "--url",
        &url,
        "--certificate",
        text(&authority),
        "--quorum",
        "5",
        "-o",
        text(&draft),
    ]);
    // Five of five: the tools say what that means.
    let drafted = done(drafted);
    assert_eq!(drafted.json["policy_warnings"].as_array().unwrap().len(), 5);
    let refused = operators[0].run(["admin", "witness", "add", text(&draft)]);
    assert_refused(&refused.unwrap(), 2, "usage");
    done(operators[1].run(["admin", "witness", "approve", text(&draft)]));
    let other_command = operators[1].run(["admin", "witness", "remove", text(&draft)]);
    assert_refused(&other_command.unwrap(), 2, "usage");
    let added = done(operators[1].run(["admin", "witness", "add", text(&draft)]));
    let listed = done(operators[1].run(["admin", "witness", "list"]));
    let last = &listed.json["witnesses"][1];
    assert_eq!(last["key"], key.to_string());
    assert_eq!(last["added_at"], added.json["leaf_index"]);

    // Nothing is published without it from then on, and receipts need its signature.
    let needs_it = put(&stage, &device, "needs it");
    assert!(bears(&needs_it, &key));

    let draft = stage.path("removal");
    let drafted = operators[0].run([
        "admin",
        "witness",
        "draft-removal",
        WITNESS,
        "--quorum",
        "3",
        "-o",
        text(&draft),
    ]);
    done(drafted);
    done(operators[1].run(["admin", "witness", "approve", text(&draft)]));
    // The removal is published under the policy before it: with the witness.
    let removed = done(operators[0].run(["admin", "witness", "remove", text(&draft)]));
    stage.network.process("clinic-x").unwrap().kill().unwrap();
    let after = put(&stage, &device, "after");
    assert!(!bears(&after, &key));

    // Each receipt is judged by the policy in force for it, offline.
    let receipts = [
        before,
        needs_it.clone(),
        after,
        added.text("receipt").unwrap().into(),
        removed.text("receipt").unwrap().into(),
    ];
    let paths = receipts.iter().map(|receipt| text(receipt));
    done(device.run(["policy", "update"].into_iter().chain(paths)));
    let chain = device.path().join("policy-chain");
    let stranger = Home::new(stage.path("stranger"), Path::new(PROGRAM));
    let verify = |receipt: &Path| -> Ran {
        let chain = ["--policy", text(&policy), "--chain", text(&chain)];
        let arguments = ["verify", text(receipt)].into_iter().chain(chain);
        stranger.run(arguments).unwrap()
    };
    for receipt in &receipts {
        verify(receipt).success().unwrap();
    }
    let without = without(&needs_it, &key);
    let path = stage.file("without.tlog-proof", without.as_bytes());
    assert_refused(&verify(&path), 4, "not-verified");
}

/// A network of one, which witnesses the stage's log too.
fn witness(stage: &Stage) -> (NodeProcess, VerifierKey) {
    let folder = Folder::new(stage.path("clinic-x"));
    let data = ["medanchord", "--data", text(folder.path())];
    let medanchord = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        let command = command.args(data).args(arguments).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "{arguments:?}");
    };
    let addresses = free_addresses(3).unwrap();
    let [services, swarm, log] = [0, 1, 2].map(|n| addresses[n].to_string());
    medanchord(&[
        "--listen",
        &services,
        "--swarm-listen",
        &swarm,
        "--log-listen",
        &log,
        "--no-passphrase",
        "found",
        "clinic-x",
        "--origin",
        "clinic.example/log",
    ]);
    let policy = |path: PathBuf| -> TrustPolicy {
        let text = fs::read_to_string(path).unwrap();
        text.parse().unwrap()
    };
    let witnessed = policy(stage.hospital.path().join("policy.txt"));
    let keys = witnessed.logs().map(ToString::to_string).collect();
    let origin = witnessed.logs().next().unwrap().name().to_owned();
    let config = Config {
        witnessed_logs: vec![WitnessedLog {
            origin: origin.clone(),
            keys,
        }],
        ..Config::open(&folder.config()).unwrap()
    };
    fs::write(folder.config(), config.to_text().unwrap()).unwrap();
    medanchord(&["witness-log", &origin]);
    let own = policy(folder.policy());
    let key = own.witnesses().next().unwrap().clone();
    assert_eq!(key.name(), WITNESS);
    let process = NodeProcess::new("clinic-x", folder.path(), Path::new(PROGRAM));
    (process, key)
}

fn put(stage: &Stage, device: &Home, content: &str) -> PathBuf {
    let file = stage.file("payload", content.as_bytes());
    let mut receipt = PathBuf::new();
    // A node that has just started a policy may have no quorum yet.
    until("it is published", || {
        let put = stage.put(device, &file);
        let published = put.code == 0;
        if published {
            receipt = put.text("receipt").unwrap().into();
        }
        published
    });
    receipt
}

fn bears(receipt: &Path, key: &VerifierKey) -> bool {
    let text = fs::read_to_string(receipt).unwrap();
    let (_, note) = text.split_once("\n\n").unwrap();
    let note = SignedNote::parse(note).unwrap();
    !note.signers([key]).unwrap().is_empty()
}

/// The receipt without this witness's signature.
fn without(receipt: &Path, key: &VerifierKey) -> String {
    let text = fs::read_to_string(receipt).unwrap();
    let is_its = |line: &&str| line.starts_with(&format!("\u{2014} {} ", key.name()));
    let lines = text.split_inclusive('\n').filter(|line| !is_its(line));
    lines.collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
