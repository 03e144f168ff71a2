use crate::{
    crash::folders,
    folder::{anchored, assert_stream, terminate},
    stage::{Stage, until},
};
use medanchor_testnet::Home;
use serde_json::Value;
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Stdio},
};

#[test]
fn watcher_that_is_killed_while_offline_catches_up_in_order_and_exactly_once() {
    let mut stage = Stage::start(3);
    let gateway = stage.device("gateway");
    let inbox = stage.path("inbox");
    fs::create_dir(&inbox).unwrap();
    let outbox = gateway.path().join("outbox");
    let mut watcher = watch(&stage, &gateway, &inbox);
    for number in 0..3 {
        drop_in(&inbox, number);
    }
    until("what came is anchored", || anchored(&stage) == 3);
    until("it has left the outbox", || sealed(&outbox) == 0);

    // No node is there. What comes is sealed and kept all the same; what is half written is not.
    stage.network.stop().unwrap();
    fs::write(inbox.join("half.part"), b"half").unwrap();
    for number in 3..20 {
        drop_in(&inbox, number);
    }
    until("what came is sealed", || sealed(&outbox) == 17);
    watcher.kill().unwrap();
    assert_eq!(watcher.wait().unwrap().signal(), Some(9));

    // It starts without the network, too, and goes on sealing.
    let watcher = watch(&stage, &gateway, &inbox);
    for number in 20..25 {
        drop_in(&inbox, number);
    }
    until("what came is sealed", || sealed(&outbox) == 22);
    stage.network.start().unwrap();
    until("all of it is anchored", || anchored(&stage) == 25);
    until("all of it has left the outbox", || sealed(&outbox) == 0);

    terminate(&watcher);
    let output = watcher.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&said["stored"], &said["left"]),
        (&22.into(), &0.into()),
        "{said}"
    );
    assert_stream(&stage, &gateway, 25);

    let manifest = fs::read_to_string(said["manifest"].as_str().unwrap()).unwrap();
    let lines = manifest
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let mut lines: Vec<Value> = lines.collect();
    lines.sort_by_key(|line| line["seq"].as_u64());
    let in_order: Vec<&str> = lines
        .iter()
        .map(|l| l["record"].as_str().unwrap())
        .collect();
    assert_eq!(in_order, stage.anchored());
    for line in &lines {
        let payload = fs::read(line["path"].as_str().unwrap()).unwrap();
        assert_eq!(stage.read(line["record"].as_str().unwrap()), payload);
    }

    // What is there already is not put again by another watcher.
    let watcher = watch(&stage, &gateway, &inbox);
    drop_in(&inbox, 25);
    until("what came is anchored", || anchored(&stage) == 26);
    terminate(&watcher);
    assert_eq!(watcher.wait_with_output().unwrap().status.code(), Some(0));
    assert_stream(&stage, &gateway, 26);
}

/// As a program should: under another name until it is whole.
fn drop_in(inbox: &Path, number: usize) {
    let payload: Vec<u8> = (0..=250)
        .cycle()
        .skip(number)
        .take(20_000 * (number % 3))
        .collect();
    let payload = [format!("heartbeat {number}").into_bytes(), payload].concat();
    let part = inbox.join(format!(".{number}.tmp"));
    fs::write(&part, payload).unwrap();
    fs::rename(part, inbox.join(format!("ecg-{number:02}"))).unwrap();
}

fn watch(stage: &Stage, gateway: &Home, inbox: &Path) -> Child {
    let arguments = ["put", "--watch", inbox.to_str().unwrap()];
    let more = ["--custody", &stage.custody, "--class", "telemetry"];
    let mut watch = gateway.command(arguments.into_iter().chain(more));
    let watch = watch.stdout(Stdio::piped()).stderr(Stdio::inherit());
    watch.spawn().unwrap()
}

/// Records in the outbox.
fn sealed(outbox: &Path) -> usize {
    let folders = folders(outbox).into_iter();
    folders
        .filter(|folder| folder.extension().is_none())
        .count()
}
