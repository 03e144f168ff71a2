use crate::{
    author::Author,
    crash::{EndOnDrop, Load},
    stage::{Stage, configure, done, get, until},
};
use futures::StreamExt;
use medanchor_dag::{Block, Cid, DiskStore};
use medanchor_node::Folder;
use medanchor_testnet::Network;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

#[test]
fn damage_on_a_disk_is_found_and_repaired_from_another_node() {
    let mut stage = Stage::start_with(3, busy_scrub);
    let device = stage.device("device");
    let payload: Vec<u8> = (0..1_500_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = stage.file("payload", &payload);
    let record = done(Ok(stage.put(&device, &file))).text("record").unwrap();
    let author = Author::of(&stage.hospital);
    let cid: Cid = record.parse().unwrap();
    let anchored = author.block_on(author.session.client.record(&cid)).unwrap();
    let holders: Vec<String> = anchored.holders.iter().map(ToString::to_string).collect();
    let nodes = stage.status().json["nodes"].clone();
    let victim = nodes.as_array().unwrap().iter();
    let mut victim =
        victim.filter(|node| holders.contains(&node["did"].as_str().unwrap().to_owned()));
    let victim = victim.next().unwrap()["node"].as_str().unwrap().to_owned();
    let folder = stage.network.process(&victim).unwrap().folder().to_owned();
    let folder = Folder::new(folder).blocks();
    let files = block_files(&folder);
    assert!(
        files.len() >= 5,
        "the payload has {} large blocks",
        files.len()
    );

    // While others put and get, who are never given a bad byte.
    let load = Load::new(&stage);
    let (gets, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let get_on = || {
        let copy = stage.path("copy");
        while !ended.load(Ordering::Relaxed) {
            done(get(&stage.clinician, &record, "TREAT", &copy));
            assert!(fs::read(&copy).unwrap() == payload);
            gets.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let _end = (load.end_on_drop(), EndOnDrop(&ended));
        scope.spawn(|| load.run());
        let getting = scope.spawn(get_on);
        let wait_for_gets = || {
            let before = gets.load(Ordering::Relaxed);
            until("what was begun after this is read", || {
                assert!(!getting.is_finished(), "a get failed");
                gets.load(Ordering::Relaxed) >= before + 2
            });
        };

        // It is found even where nobody reads.
        let damages: [fn(&Path, &[u8]); 3] = [flip, truncate, delete];
        for (damage, path) in damages.iter().zip(&files) {
            let good = fs::read(path).unwrap();
            damage(path, &good);
            until("the file is as it was", || {
                fs::read(path).is_ok_and(|now| now == good)
            });
        }
        until("all is well", || health(&stage, &victim) == [3, 3, 0]);

        for damage in damages {
            let good: Vec<_> = files.iter().map(|path| fs::read(path).unwrap()).collect();
            for (path, good) in files.iter().zip(&good) {
                damage(path, good);
            }
            wait_for_gets();
            load.wait_for_more();
            until("every file is as it was", || {
                let mut files = files.iter().zip(&good);
                files.all(|(path, good)| fs::read(path).is_ok_and(|now| now == *good))
            });
            until("nothing is missing", || health(&stage, &victim)[2] == 0);
        }
    });
    for put in load.acknowledged.into_inner().unwrap() {
        assert_eq!(stage.read(&put.record), put.payload);
    }

    // What happened to a node that did not run: a row that says something else, and one that is gone.
    let wrap = anchored.anchored.wrap;
    let good = [cid, wrap].map(|cid| own_copy(&author, &victim, cid).unwrap());
    let [_, _, missing] = health(&stage, &victim);
    assert_eq!(missing, 0);
    let before = health(&stage, &victim)[1];
    stage.stop_cleanly(&victim);
    assert!(DiskStore::open(&folder).unwrap().remove(&wrap).unwrap());
    flip_row(&folder, good[0].bytes());
    let orphan = folder.join("blocks/00").join("0".repeat(64));
    fs::write(&orphan, b"half a blo").unwrap();
    stage.start_again(&victim);
    until("both rows are repaired", || {
        let [_, repaired, missing] = health(&stage, &victim);
        repaired == before + 2 && missing == 0
    });
    for block in good {
        assert_eq!(own_copy(&author, &victim, *block.cid()), Some(block));
    }
    // No collection ends on the day of the start.
    until("the file without a row is gone", || !orphan.exists());
}

#[test]
fn block_that_nobody_has_is_listed_until_somebody_does() {
    let mut stage = Stage::start_with(3, busy_scrub);
    let device = stage.device("device");
    let file = stage.file("payload", &[7; 400_000]);
    let record = done(Ok(stage.put(&device, &file))).text("record").unwrap();
    let whole = done(stage.hospital.run(["status", &record]));
    assert_eq!(
        (&whole.json["target"], &whole.json["whole"]),
        (&2.into(), &2.into())
    );
    let names: Vec<String> = stage
        .network
        .nodes
        .iter()
        .map(|node| node.name.clone())
        .collect();
    let folder_of = |stage: &mut Stage, name: &str| {
        Folder::new(stage.network.process(name).unwrap().folder()).blocks()
    };
    let mut having = Vec::new();
    for name in &names {
        if !block_files(&folder_of(&mut stage, name)).is_empty() {
            having.push(name.clone());
        }
    }
    let victim = having[0].clone();
    let path = block_files(&folder_of(&mut stage, &victim)).remove(0);
    let good = fs::read(&path).unwrap();
    for name in names.iter().filter(|name| **name != victim) {
        stage.stop_cleanly(name);
    }

    flip(&path, &good);
    until("it is listed", || health(&stage, &victim) == [1, 0, 1]);
    let status = stage.hospital.run(["--node", &victim, "status"]).unwrap();
    assert_eq!((status.code, &status.json["ok"]), (4, &Value::Bool(false)));
    assert!(!path.exists());
    let status = stage.hospital.run(["status", &record]).unwrap();
    assert_eq!((status.code, &status.json["ok"]), (4, &Value::Bool(false)));
    assert_eq!(status.json["whole"], 0);
    let copies = status.json["nodes"].as_array().unwrap();
    let copy = copies.iter().find(|copy| copy["node"] == *victim).unwrap();
    assert_eq!(
        (&copy["whole"], &copy["missing"]),
        (&Value::Bool(false), &1.into())
    );

    // Also after it was killed.
    stage.network.process(&victim).unwrap().kill().unwrap();
    stage.network.process(&victim).unwrap().start().unwrap();
    until("it is still listed", || {
        health(&stage, &victim) == [1, 0, 1]
    });

    for name in names.iter().filter(|name| **name != victim) {
        stage.network.process(name).unwrap().start().unwrap();
    }
    stage.network.wait_until_ready().unwrap();
    until("it is repaired", || health(&stage, &victim) == [1, 1, 0]);
    assert!(fs::read(&path).unwrap() == good);
    assert_eq!(stage.read(&record), [7; 400_000]);
    stage.until_all_is_well();
    let whole = done(stage.hospital.run(["status", &record]));
    assert_eq!(whole.json["whole"], 2);
}

/// Blocks that a node found bad, how many of these it repaired, and how many are missing now.
fn health(stage: &Stage, node: &str) -> [u64; 3] {
    let status = stage.hospital.run(["--node", node, "status"]).unwrap();
    let figures = ["blocks_found_bad", "blocks_repaired", "blocks_missing"];
    figures.map(|figure| status.json[figure].as_u64().unwrap_or(u64::MAX))
}

fn busy_scrub(network: &Network) {
    configure(network, |config| {
        config.scrub_bytes_per_second = Some(64 << 20);
        config.scrub_every_seconds = Some(1);
    });
}

/// What a node has on its own disk.
fn own_copy(author: &Author, node: &str, cid: Cid) -> Option<Block> {
    let client = author.session.client.only(node).unwrap();
    author.block_on(async {
        let blocks = client.blocks(&[cid], true).await.unwrap();
        Box::pin(blocks).next().await.unwrap().unwrap().ok()
    })
}

fn block_files(folder: &Path) -> Vec<PathBuf> {
    let shards = fs::read_dir(folder.join("blocks")).unwrap();
    let files = shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

fn flip(path: &Path, good: &[u8]) {
    let mut bad = good.to_vec();
    bad[good.len() / 2] ^= 4;
    fs::write(path, bad).unwrap();
}

fn truncate(path: &Path, good: &[u8]) {
    fs::write(path, &good[..good.len() - 1]).unwrap();
}

fn delete(path: &Path, _: &[u8]) {
    fs::remove_file(path).unwrap();
}

/// Flips a bit of a block that is kept in a row.
fn flip_row(folder: &Path, block: &[u8]) {
    let path = folder.join("blocks.redb");
    let mut index = fs::read(&path).unwrap();
    let places: Vec<_> = (0..=index.len() - block.len())
        .filter(|at| index[*at..].starts_with(block))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        index[at + block.len() / 2] ^= 1;
    }
    fs::write(path, index).unwrap();
}
