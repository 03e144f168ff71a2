use crate::{
    crash::{folders, stream_head},
    stage::{Stage, assert_refused, did, done, until},
};
use medanchor_testnet::{Home, Ran};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

#[test]
fn killed_put_of_a_folder_goes_on_and_every_file_is_anchored_once_in_order() {
    let mut stage = Stage::start(3);
    let device = stage.device("gateway");
    let folder = stage.path("ward7");
    let payloads = files(&folder, 60);

    // Killed while some are anchored, some are sealed and some are neither.
    let mut put = spawn_put(&stage, &device, &folder);
    let receipts = device.path().join("receipts");
    until_at_work("some are anchored", &mut put, || entries(&receipts) >= 5);
    put.kill().unwrap();
    assert_eq!(put.wait().unwrap().signal(), Some(9), "it was over already");
    assert!(anchored(&stage) < payloads.len());

    // Interrupted once more: it says what is left, and loses nothing.
    let mut put = spawn_put(&stage, &device, &folder);
    let before = entries(&receipts);
    until_at_work("more are anchored", &mut put, || {
        entries(&receipts) > before + 3
    });
    terminate(&put);
    let output = put.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said["left"].as_u64().unwrap() > 0, "{said}");
    assert_eq!(said["failed"].as_array().unwrap().len(), 0, "{said}");

    // A node dies meanwhile, and a file cannot be put: it stops no other.
    let odd = folder.join(OsStr::from_bytes(b"b/\xff"));
    fs::write(&odd, b"odd").unwrap();
    stage.network.process("hospital-b").unwrap().kill().unwrap();
    let ran = put_folder(&stage, &device, &folder);
    assert_refused(&ran, 1, "failed");
    let failed = ran.json["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 1, "{}", ran.json);
    assert!(failed[0]["error"].as_str().unwrap().contains("UTF-8"));
    assert_eq!(ran.json["left"], 0, "{}", ran.json);
    fs::remove_file(&odd).unwrap();
    let node = stage.network.process("hospital-b").unwrap();
    node.start().unwrap();
    stage.network.wait_until_ready().unwrap();

    // A re-run finds everything there. What changed is another record, and nothing else is.
    let ran = done(Ok(put_folder(&stage, &device, &folder)));
    assert_eq!(ran.json["kept"].as_u64(), Some(payloads.len() as u64));
    assert_eq!(ran.json["stored"], 0);
    let changed = folder.join("a/0");
    fs::write(&changed, b"another heartbeat").unwrap();
    let ran = done(Ok(put_folder(&stage, &device, &folder)));
    assert_eq!(ran.json["stored"], 1, "{}", ran.json);

    let manifest = manifest(&ran);
    let mut by_seq = BTreeMap::new();
    for (path, payload) in &payloads {
        let line = &manifest[path];
        assert_eq!(line["state"], "anchored");
        assert_eq!(
            line["size_bytes"].as_u64(),
            Some(fs::metadata(path).unwrap().len())
        );
        let record = line["record"].as_str().unwrap();
        by_seq.insert(line["seq"].as_u64().unwrap(), record.to_owned());
        if Path::new(path) != changed && payload.len() > 400_000 {
            assert!(stage.read(record) == *payload, "{path}");
        }
        done(device.run(["verify", line["receipt"].as_str().unwrap(), record]));
    }
    assert_stream(&stage, &device, payloads.len() + 1);
    let in_order = stage.anchored();
    let mut listed = in_order.iter();
    for record in by_seq.values() {
        assert!(listed.any(|anchored| anchored == record), "out of order");
    }
    get_the_stream(&stage, &device, &in_order);
}

/// Whoever can name a stream gets it, and who names none what they may have.
fn get_the_stream(stage: &Stage, device: &Home, records: &[String]) {
    let state = fs::read_to_string(device.path().join("device-stream.toml")).unwrap();
    let state: toml::Table = state.parse().unwrap();
    let did = did(device);
    let stream = [
        "--device",
        &did,
        "--stream",
        state["stream"].as_str().unwrap(),
    ];
    let into = stage.path("stream");
    let get = |what: &[&str]| {
        let into = ["--into", into.to_str().unwrap(), "--purpose", "TREAT"];
        let arguments = ["get"].iter().chain(what).chain(&into);
        stage.clinician.run(arguments).unwrap()
    };
    let ran = get(&[&stream[..], &["--class", "telemetry"]].concat());
    assert_refused(&ran, 2, "usage");
    let ran = get(&[&stream[..], &["--until", "2020-01-01"]].concat());
    assert_refused(&ran, 2, "usage");
    let ran = get(&["--custody", &stage.custody, "--role", "researcher"]);
    assert_refused(&ran, 3, "not-listed");
    let ran = done(Ok(get(&[&stream[..], &["--from", "2020-01-01"]].concat())));
    assert_eq!(ran.json["fetched"].as_u64(), Some(records.len() as u64));
    for record in records {
        assert!(into.join(record).exists(), "{record}");
    }
}

#[test]
fn folder_of_a_device_that_may_not_write_leaves_no_gap_in_its_stream() {
    let stage = Stage::start(3);
    let device = stage.device("gateway");
    let folder = stage.path("ward7");
    let payloads = files(&folder, 12);
    let elsewhere = stage.network.operator(1).unwrap();
    let custody = done(elsewhere.run(["custody", "new", "--kind", "person"]));
    let custody = custody.text("custody").unwrap();
    let arguments = ["put", folder.to_str().unwrap(), "--class", "waveform.ecg"];
    let ran = device.run(arguments.into_iter().chain(["--custody", &custody]));
    let ran = ran.unwrap();
    assert_refused(&ran, 3, "denied");
    assert_eq!(ran.json["failed"][0]["code"], "forbidden", "{}", ran.json);
    assert_eq!(ran.json["left"].as_u64(), Some(payloads.len() as u64 - 1));
    assert_eq!(folders(&device.path().join("outbox")).len(), 0);

    done(Ok(put_folder(&stage, &device, &folder)));
    assert_stream(&stage, &device, payloads.len());
}

/// The stream of a device has this many records, each anchored once and after the one before it.
#[track_caller]
pub(crate) fn assert_stream(stage: &Stage, device: &Home, records: usize) {
    let head = stream_head(device);
    assert_eq!((head.seq, head.gaps_and_forks), (records as u64 - 1, 0));
    assert_eq!(anchored(stage), records);
    assert_eq!(folders(&device.path().join("outbox")).len(), 0);
}

pub(crate) fn anchored(stage: &Stage) -> usize {
    stage.anchored().len()
}

/// Small ones and some of several blocks, in two folders.
fn files(folder: &Path, count: usize) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for (number, sub) in (0..count).zip(["a", "b"].into_iter().cycle()) {
        let len = if number % 10 == 9 {
            700_000
        } else {
            11 * number
        };
        let payload: Vec<u8> = (0..=250).cycle().skip(number).take(len).collect();
        let folder = folder.join(sub);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(number.to_string());
        fs::write(&path, &payload).unwrap();
        let path = fs::canonicalize(path).unwrap();
        files.insert(path.to_str().unwrap().to_owned(), payload);
    }
    files
}

fn arguments<'a>(stage: &'a Stage, folder: &'a Path) -> [&'a str; 6] {
    crate::stage::put_arguments(folder, &stage.custody)
}

pub(crate) fn put_folder(stage: &Stage, device: &Home, folder: &Path) -> Ran {
    device.run(arguments(stage, folder)).unwrap()
}

fn spawn_put(stage: &Stage, device: &Home, folder: &Path) -> Child {
    device
        .command(arguments(stage, folder))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for what `put` does. It may have come so far that it is over.
#[track_caller]
fn until_at_work(what: &str, put: &mut Child, mut holds: impl FnMut() -> bool) {
    until(what, || {
        let is_over = put.try_wait().unwrap().is_some();
        holds() || {
            assert!(!is_over, "{what}: it has ended");
            false
        }
    });
}

/// The last line of each file.
pub(crate) fn manifest(ran: &Ran) -> BTreeMap<String, Value> {
    let path: PathBuf = ran.text("manifest").unwrap().into();
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["path"].as_str().unwrap().to_owned(), line)
    });
    lines.collect()
}

pub(crate) fn terminate(process: &Child) {
    let pid = process.id().to_string();
    let mut kill = Command::new("kill");
    assert!(kill.args(["-TERM", &pid]).status().unwrap().success());
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}
