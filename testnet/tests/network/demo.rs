use crate::stage::{PROGRAM, Turn, processes_of, until};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn demo_prints_one_object_and_leaves_nothing_behind() {
    let _turn = Turn::take();
    let temporary = tempfile::tempdir().unwrap();
    let output = demo(temporary.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["ok"], true, "{errors}");
    assert!(output.status.success());
    let steps = told["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, STEPS);
    for step in steps {
        assert_eq!(step["ok"], true, "{step}");
        assert!(step["ms"].is_u64(), "{step}");
    }
    let step = |name: &str| &steps[STEPS.iter().position(|step| *step == name).unwrap()];
    assert_eq!(step("get")["identical"], true);
    assert_eq!(step("deny-purpose")["code"], "purpose-not-covered");
    assert!(step("bit-flip")["blocks_repaired"].as_u64() >= Some(1));
    assert_clean(temporary.path());
}

#[test]
fn interrupted_demo_says_so_and_cleans_up() {
    let _turn = Turn::take();
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = demo(temporary.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut story = BufReader::new(demo.stderr.take().unwrap()).lines();
    let first = story.next().unwrap().unwrap();
    assert!(first.contains("ok"), "{first}");
    let pid = demo.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let rest: Vec<String> = story.map(Result::unwrap).collect();
    let mut output = String::new();
    let mut stdout = demo.stdout.take().unwrap();
    stdout.read_to_string(&mut output).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(1));
    let told: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(told["ok"], false);
    assert!(rest.last().unwrap().contains("interrupted"), "{rest:?}");
    assert_clean(temporary.path());
}

fn demo(temporary: &Path) -> Command {
    let mut demo = Command::new(PROGRAM);
    demo.args(["demo", "--json"]).env("TMPDIR", temporary);
    demo
}

fn assert_clean(temporary: &Path) {
    until("the nodes end", || processes_of(temporary).is_empty());
    assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
}

const STEPS: [&str; 14] = [
    "start",
    "enrol",
    "custody",
    "consent",
    "put",
    "get",
    "verify",
    "treat",
    "deny-purpose",
    "firmware",
    "kill-leader",
    "withdraw",
    "bit-flip",
    "log",
];
