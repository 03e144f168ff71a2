use crate::{
    stage::{Stage, assert_refused, configure, done, until},
    wires::Wires,
};
use medanchor_testnet::{Network, Ran};
use serde_json::Value;
use std::{
    fs,
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

#[test]
fn killed_get_goes_on_with_every_block_that_came() {
    let (stage, records) = stage_with_records();
    let big = &records[0];
    let wires = Wires::default();
    wires.before(&stage.clinician);
    let folder = stage.path("fetched");
    let partial = folder.join(format!("{}.partial", big.cid));
    let mut get = stage.spawn_get(&[&big.cid], &folder, SLOWLY);
    until("blocks have come", || on_disk(&partial) > 10 * CHUNK);
    get.kill().unwrap();
    assert_eq!(get.wait().unwrap().signal(), Some(9), "it was over already");
    assert!(!folder.join(&big.cid).exists(), "it is not whole");
    let held = held(&partial, &big.payload);
    // Each of those on their way may have been written in part.
    assert!(held + UNDER_WAY > 10, "{held}");
    // Of all that came on the wire it has lost the blocks that were on their way, and what is no block is less than
    // one.
    let came = wires.bytes() / SEALED_CHUNK;
    assert!(came <= held + UNDER_WAY + 1, "{held} of {came}");
    let blocks = big.payload.len().div_ceil(CHUNK);
    assert!(held < blocks, "{held}");

    // Without a record: what the manifest says is missing.
    let got = done(stage.get(&[], &folder));
    let counts = ["blocks_kept", "blocks_fetched"].map(|name| count(&got, name));
    assert_eq!(counts, [held, blocks - held]);
    assert!(fs::read(folder.join(&big.cid)).unwrap() == big.payload);
    assert!(!partial.exists());

    // One file, without a manifest, goes on likewise, and so does a part.
    let (first, last) = (3 * CHUNK - 7, 40 * CHUNK + 7);
    let range = format!("{first}-{last}");
    for (part, wanted, blocks) in [
        (&[][..], &big.payload[..], blocks),
        (&["--range", &range], &big.payload[first..=last], 39),
    ] {
        let copy = stage.path("copy");
        let get = ["get", &big.cid, "-o", copy.to_str().unwrap()];
        let get: Vec<&str> = get.into_iter().chain(part.iter().copied()).collect();
        let partial = match part {
            [] => format!("{}.partial", big.cid),
            _ => format!("{}.{range}.partial", big.cid),
        };
        let partial = stage.path(&partial);
        let mut getting = stage
            .clinician
            .command(&get)
            .args(SLOWLY)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("blocks have come", || on_disk(&partial) > 10 * CHUNK);
        getting.kill().unwrap();
        getting.wait().unwrap();
        assert!(!copy.exists(), "it is not whole");
        let got = done(stage.clinician.run(&get));
        let [kept, fetched] = ["blocks_kept", "blocks_fetched"].map(|name| count(&got, name));
        assert_eq!(kept + fetched, blocks);
        assert!(kept + UNDER_WAY > 10, "{}", got.json);
        assert!(fs::read(&copy).unwrap() == wanted);
        assert!(!partial.exists());
        fs::remove_file(copy).unwrap();
    }
}

#[test]
fn dead_and_corrupt_nodes_stop_no_get_and_what_failed_is_named() {
    let (mut stage, records) = stage_with_records();
    let cids: Vec<&str> = records.iter().map(|record| record.cid.as_str()).collect();
    let holder = stage.holder_besides_a();

    // A node that holds the blocks dies while they are fetched.
    let folder = stage.path("one-died");
    let get = stage.spawn_get(&cids, &folder, SLOWLY);
    let partial = folder.join(format!("{}.partial", records[0].cid));
    until("blocks have come", || len(&partial) > 3 * CHUNK);
    stage.network.process(&holder).unwrap().kill().unwrap();
    let output = get.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_complete(&folder, &records);

    // Every block of its copy is damaged when it is back.
    stage.damage(&holder);
    stage.start_again(&holder);
    let folder = stage.path("one-is-corrupt");
    let list = stage.file("records", (cids.join("\n") + "\n").as_bytes());
    let granted = ["--records", list.to_str().unwrap()];
    let got = done(stage.get(&granted, &folder));
    assert_complete(&folder, &records);
    let noted = got.json["noted_nodes"].as_array().unwrap();
    let corrupt = noted.iter().find(|noted| noted["node"] == holder.as_str());
    assert_eq!(corrupt.unwrap()["note"], "corrupt", "{}", got.json);

    // A record that nobody has fails alone; what is there is not fetched again.
    let nobodys = "bafyreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let mut asked = cids.clone();
    asked.push(nobodys);
    fs::remove_file(folder.join(cids[1])).unwrap();
    let ran = stage.get(&asked, &folder).unwrap();
    assert_refused(&ran, 1, "not-found");
    let counts = ["records", "kept", "fetched"].map(|name| count(&ran, name));
    assert_eq!(counts, [4, 2, 1], "{}", ran.json);
    let failed = ran.json["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["record"], nobodys);
    let names = ["hospital-a", "hospital-b", "hospital-c"];
    let said = failed[0]["error"].as_str().unwrap();
    assert!(names.iter().all(|name| said.contains(name)), "{said}");
    assert_complete(&folder, &records);
    let manifest = manifest(&folder);
    let line = manifest.iter().find(|line| line["record"] == nobodys);
    assert_eq!(line.unwrap()["state"], "failed");

    // Of a damaged file only the damaged block is fetched again.
    let file = folder.join(cids[0]);
    let mut damaged = records[0].payload.clone();
    damaged[5 * CHUNK] ^= 1;
    fs::write(&file, damaged).unwrap();
    let got = done(stage.get(&cids, &folder));
    assert_eq!(count(&got, "blocks_fetched"), 1, "{}", got.json);
    assert_complete(&folder, &records);

    // Everything that the clinician holds a grant for.
    let folder = stage.path("granted");
    done(stage.get(&["--granted"], &folder));
    assert_complete(&folder, &records);

    let big = &records[0];
    let copy = stage.path("range");
    let range = |range: &str| {
        let copy = copy.to_str().unwrap();
        let arguments = ["get", &big.cid, "-o", copy, "--range", range];
        stage.clinician.run(arguments).unwrap()
    };
    let (first, last) = (CHUNK - 3, 2 * CHUNK + 4);
    let got = done(Ok(range(&format!("{first}-{last}"))));
    assert_eq!(count(&got, "blocks_fetched"), 3);
    assert_eq!(fs::read(&copy).unwrap(), big.payload[first..=last]);
    done(Ok(range("12582900-99999999")));
    assert_eq!(fs::read(&copy).unwrap(), big.payload[12_582_900..]);
    assert_refused(&range("99999999-"), 2, "usage");
}

/// A record and what is in it.
struct Stored {
    cid: String,
    payload: Vec<u8>,
}

/// The first is large, the second has some blocks, the last has none.
fn stage_with_records() -> (Stage, Vec<Stored>) {
    let stage = Stage::start_with(3, no_scrub);
    let device = stage.device("holter-1");
    let records = [12 << 20, 700_000, 11];
    let records = records.map(|size| {
        let payload: Vec<u8> = (0..=250).cycle().take(size).collect();
        let file = stage.file("payload", &payload);
        let cid = done(Ok(stage.put(&device, &file))).text("record").unwrap();
        Stored { cid, payload }
    });
    (stage, records.into())
}

impl Stage {
    fn get(&self, arguments: &[&str], folder: &Path) -> anyhow::Result<Ran> {
        let into = ["--into", folder.to_str().unwrap(), "--purpose", "TREAT"];
        let arguments = arguments.iter().copied().chain(into);
        self.clinician.run(["get"].into_iter().chain(arguments))
    }

    fn spawn_get(&self, records: &[&str], folder: &Path, more: [&str; 2]) -> Child {
        self.clinician
            .command(["get", "--into", folder.to_str().unwrap()])
            .args(["--purpose", "TREAT"])
            .args(more)
            .args(records)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The hospital besides A that has the most blocks.
    fn holder_besides_a(&self) -> String {
        let others = self.network.nodes.iter().skip(1);
        let holder = others.max_by_key(|node| block_files(&node.folder().join("blocks")).len());
        holder.unwrap().name.clone()
    }

    /// Flips a byte in every block that a node keeps in a file of its own.
    fn damage(&mut self, node: &str) {
        let folder = self.network.process(node).unwrap().folder();
        let blocks = block_files(&folder.join("blocks"));
        assert!(blocks.len() > 40, "{}", blocks.len());
        for block in blocks {
            let mut bytes = fs::read(&block).unwrap();
            if let Some(byte) = bytes.last_mut() {
                *byte ^= 1;
            }
            fs::write(block, bytes).unwrap();
        }
    }
}

/// Readers alone find what is damaged.
fn no_scrub(network: &Network) {
    configure(network, |config| {
        config.scrub_bytes_per_second = Some(0);
    });
}

/// Every record is in the folder, whole, and the manifest says so.
#[track_caller]
fn assert_complete(folder: &Path, records: &[Stored]) {
    let manifest = manifest(folder);
    for Stored { cid, payload } in records {
        assert!(fs::read(folder.join(cid)).unwrap() == *payload, "{cid}");
        let line = manifest.iter().find(|line| line["record"] == cid.as_str());
        let line = line.unwrap();
        assert_eq!(line["state"], "complete");
        assert_eq!(line["size_bytes"].as_u64(), Some(payload.len() as u64));
    }
    let left = fs::read_dir(folder).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.path()).collect();
    let is_partial = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "partial");
    assert!(!left.iter().any(is_partial), "{left:?}");
}

fn manifest(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("manifest.jsonl")).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.map(Result::unwrap).collect()
}

/// Chunks of the payload that are in the file, in their places.
fn held(file: &Path, payload: &[u8]) -> usize {
    let file = fs::read(file).unwrap();
    let chunks = file.chunks(CHUNK).zip(payload.chunks(CHUNK));
    chunks.filter(|(held, chunk)| held == chunk).count()
}

pub(crate) fn block_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let named_by_hash = path.file_name().is_some_and(|name| name.len() == 64);
        if path.is_dir() {
            files.extend(block_files(&path));
        } else if named_by_hash {
            files.push(path);
        }
    }
    files
}

fn count(ran: &Ran, field: &str) -> usize {
    let number = ran.json[field].as_u64();
    usize::try_from(number.unwrap()).unwrap()
}

/// Bytes of a file that are there: it may have holes.
fn on_disk(file: &Path) -> usize {
    fs::metadata(file).map_or(0, |file| usize::try_from(file.blocks() * 512).unwrap())
}

fn len(file: &Path) -> usize {
    fs::metadata(file).map_or(0, |file| usize::try_from(file.len()).unwrap())
}

/// Plaintext in a full chunk.
const CHUNK: usize = (1 << 18) - 16;
/// With its tag.
const SEALED_CHUNK: usize = 1 << 18;
/// Blocks of one record that are fetched at a time.
const UNDER_WAY: usize = 8;
/// Slow enough to act meanwhile.
const SLOWLY: [&str; 2] = ["--limit", "3M"];
