use crate::{
    author::{Author, Place, Sealed},
    stage::{Stage, assert_refused, did, done, get},
};
use medanchor_dag::{
    Block, CarReader, CarWriter, Cid, Codec, Record, StreamId, links, to_canonical,
};
use medanchor_testnet::{Home, Ran};
use std::{collections::BTreeMap, fs, path::Path};

#[test]
fn records_go_into_a_car_and_back_onto_nodes_that_lost_every_block() {
    let mut stage = Stage::start(3);
    let device = stage.device("holter");
    // In the record itself, in one block, and in several.
    let payloads = [vec![1; 100], vec![2; 20_000], vec![3; 600_000]];
    let stored: Vec<Ran> = (0..)
        .zip(&payloads)
        .map(|(number, payload)| {
            let file = stage.file(&format!("payload-{number}"), payload);
            stage.put(&device, &file).success().unwrap()
        })
        .collect();
    let records: Vec<String> = stored
        .iter()
        .map(|put| put.text("record").unwrap())
        .collect();

    let car = stage.path("records.car");
    let exported = export(&device, &records, &car);
    assert_eq!(exported.json["records"][2]["seq"], 2);
    let bytes = fs::read(&car).unwrap();
    assert_eq!(exported.json["size_bytes"], bytes.len());
    assert_whole(&bytes, &records, &stored);
    for put in &stored {
        let receipt = put.text("receipt").unwrap();
        done(device.run(["verify", &receipt, car.to_str().unwrap()]));
    }

    // The same bytes from another node, and by the name of the stream.
    let other = stage.path("other.car");
    let other_node = ["--node", "hospital-c", "car", "export"].map(str::to_owned);
    let output = ["-o".to_owned(), text(&other)];
    done(device.run(other_node.iter().chain(&records).chain(&output)));
    assert_eq!(fs::read(&other).unwrap(), bytes);
    let (who, stream) = (did(&device), stored[0].text("stream").unwrap());
    let by_stream = ["car", "export", "--device", &who, "--stream", &stream];
    let streamed = done(device.run([&by_stream[..], &["-o", other.to_str().unwrap()]].concat()));
    assert_eq!(streamed.json["gaps_and_forks"], 0);
    assert_eq!(fs::read(&other).unwrap(), bytes);

    lose_all_blocks(&mut stage);
    let copy = stage.path("copy");
    let lost = get(&stage.clinician, &records[2], "TREAT", &copy).unwrap();
    assert_refused(&lost, 1, "not-found");
    let refused = stage.path("never.car");
    let asked = [
        "car",
        "export",
        &records[0],
        "-o",
        refused.to_str().unwrap(),
    ];
    assert_refused(&device.run(asked).unwrap(), 1, "not-found");
    assert!(!refused.exists());

    // A damaged one is refused before anything is sent.
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let damaged = import(&device, &stage.file("damaged.car", &damaged));
    assert_refused(&damaged, 4, "not-verified");
    assert_eq!(blocks(&stage), 0);

    // Of one that ends too early, what lacks is said.
    let wrap = wrap_section(&bytes);
    let cut = import(
        &device,
        &stage.file("cut.car", &bytes[..bytes.len() - wrap]),
    );
    assert_eq!(cut.code, 4, "{}", cut.errors);
    let roots = cut.json["roots"].as_array().unwrap();
    let missing: Vec<_> = roots.iter().map(|root| &root["missing"]).collect();
    assert_eq!(missing, [0, 0, 1]);
    assert_eq!(
        roots[2]["missing_block"],
        exported.json["records"][2]["wrap"]
    );

    for _ in 0..2 {
        let imported = import(&device, &car).success().unwrap();
        let roots = imported.json["roots"].as_array().unwrap();
        for (root, record) in roots
            .iter()
            .zip(&exported.json["records"].as_array().unwrap()[..])
        {
            assert_eq!(root["root"], record["record"]);
            assert_eq!(
                (&root["kind"], &root["missing"]),
                (&"record".into(), &0.into())
            );
            assert_eq!(root["anchored_index"], record["anchored_index"]);
        }
        assert_eq!(roots.len(), 3);
    }
    for (record, payload) in records.iter().zip(&payloads) {
        assert_eq!(stage.read(record), *payload);
    }
    export(&device, &records, &other);
    assert_eq!(fs::read(&other).unwrap(), bytes);
}

#[test]
fn import_says_which_roots_are_no_record_not_anchored_or_nowhere() {
    let stage = Stage::start(1);
    let device = stage.device("holter");
    let author = Author::of(&device);
    let place = Place {
        stream: StreamId::generate().unwrap(),
        seq: 0,
        prev: None,
    };
    let custody = stage.custody.parse().unwrap();
    let sealed = Sealed::new(&author.keys.signing, custody, place, &[7; 200_000]);
    let list = Block::new(Codec::DagCbor, to_canonical(&[*sealed.wrap.cid()])).unwrap();
    let nowhere = Block::new(Codec::Raw, &b"nowhere"[..]).unwrap();
    let record = sealed.record.to_block();
    let roots = [&record, &list, &nowhere].map(|block| *block.cid());
    let mut car = CarWriter::new(Vec::new(), &roots).unwrap();
    // All but the first chunk, in no order.
    let blocks = sealed.chunks[1..].iter().chain([&list, &record]);
    blocks.for_each(|block| car.write(block).unwrap());
    let car = stage.file("odd.car", &car.finish().unwrap());

    let imported = import(&device, &car);
    assert_eq!(imported.code, 4, "{}", imported.errors);
    let roots = imported.json["roots"].as_array().unwrap();
    let said: Vec<_> = roots
        .iter()
        .map(|root| {
            let [blocks, missing] = ["blocks", "missing"].map(|name| root[name].as_u64().unwrap());
            assert!(root["anchored_index"].is_null());
            (root["kind"].as_str().unwrap(), blocks, missing)
        })
        .collect();
    let chunks = u64::try_from(sealed.chunks.len()).unwrap();
    let expected = [
        ("record", 1 + chunks, 1),
        ("other", 1, 0),
        ("missing", 1, 1),
    ];
    assert_eq!(said, expected);
    assert_eq!(
        roots[0]["missing_block"],
        sealed.chunks[0].cid().to_string()
    );

    // What the log does not have is not exported.
    let never = stage.path("never.car");
    let record = sealed.record.cid().to_string();
    let asked = ["car", "export", &record, "-o", never.to_str().unwrap()];
    assert_refused(&device.run(asked).unwrap(), 1, "not-found");
    assert!(!never.exists());
}

/// The roots are the records; each DAG is there depth first, with the record's wrap behind it.
fn assert_whole(car: &[u8], records: &[String], stored: &[Ran]) {
    let mut car = CarReader::new(car).unwrap();
    let roots: Vec<String> = car.roots().iter().map(Cid::to_string).collect();
    assert_eq!(roots, records);
    let mut sizes = BTreeMap::new();
    for put in stored {
        let record: Cid = put.text("record").unwrap().parse().unwrap();
        let wrap: Cid = put.text("wrap").unwrap().parse().unwrap();
        let mut todo = vec![wrap, record];
        while let Some(cid) = todo.pop() {
            let block = car.next().unwrap().unwrap();
            assert_eq!(*block.cid(), cid);
            if cid == wrap {
                continue;
            }
            todo.extend(links(&block).unwrap().into_iter().rev());
            if let Ok(record) = Record::from_block(&block) {
                record.verify_signature().unwrap();
                sizes.insert(record.seq(), record.size_bytes());
            }
        }
    }
    assert!(car.next().is_none());
    assert_eq!(sizes, BTreeMap::from([(0, 100), (1, 20_000), (2, 600_000)]));
}

/// Bytes of the last section, a wrap.
fn wrap_section(car: &[u8]) -> usize {
    let last = CarReader::new(car).unwrap().last().unwrap().unwrap();
    2 + 36 + last.bytes().len()
}

fn lose_all_blocks(stage: &mut Stage) {
    stage.network.stop().unwrap();
    for node in &stage.network.nodes {
        fs::remove_dir_all(node.folder().join("blocks")).unwrap();
    }
    stage.network.start().unwrap();
}

/// Blocks on all nodes.
fn blocks(stage: &Stage) -> u64 {
    // Its code says that blocks are missing.
    let status = stage.hospital.run(["status"]).unwrap();
    let nodes = status.json["nodes"].as_array().unwrap().iter();
    nodes.map(|node| node["blocks"].as_u64().unwrap()).sum()
}

fn export(by: &Home, records: &[String], car: &Path) -> Ran {
    let command = ["car".to_owned(), "export".to_owned()];
    let output = ["--out".to_owned(), text(car)];
    done(by.run(command.iter().chain(records).chain(&output)))
}

fn import(by: &Home, car: &Path) -> Ran {
    by.run(["car", "import", car.to_str().unwrap()]).unwrap()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
