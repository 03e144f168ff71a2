use crate::stage::{Stage, assert_refused, configure, did, done};
use medanchor_dag::{CarReader, Cid, DiskStore, links};
use medanchor_node::Folder;
use medanchor_testnet::Ran;
use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn record_that_is_lost_stops_no_other() {
    // What is lost stays lost: nobody looks for it.
    let mut stage = Stage::start_with(3, |network| {
        configure(network, |config| config.scrub_bytes_per_second = Some(0));
    });
    let device = stage.device("holter");
    let payloads: Vec<Vec<u8>> = (0..5).map(|number| vec![number; 20_000]).collect();
    let puts: Vec<Ran> = payloads
        .iter()
        .map(|payload| {
            let file = stage.file(&format!("payload-{}", payload[0]), payload);
            done(Ok(stage.put(&device, &file)))
        })
        .collect();
    let records: Vec<String> = puts.iter().map(|put| put.text("record").unwrap()).collect();
    let stream = puts[0].text("stream").unwrap();
    let device_did = did(&device);
    let of_stream = ["--device", &device_did, "--stream", &stream];

    let whole = stage.path("whole.car");
    let export = |stage: &Stage, car: &Path| {
        let output = ["-o", car.to_str().unwrap()];
        let arguments = ["car", "export"].into_iter().chain(of_stream).chain(output);
        stage.hospital.run(arguments).unwrap()
    };
    let exported = export(&stage, &whole).success().unwrap();
    assert_eq!(roots(&whole), records);
    assert_eq!(exported.json["failed"].as_array().unwrap().len(), 0);

    // The record of one, and the payload of another.
    let payload = payload_block(&whole, &records[3]);
    stage.lose(&[records[1].parse().unwrap(), payload]);
    let folder = stage.path("stream");
    let into = ["--into", folder.to_str().unwrap(), "--purpose", "TREAT"];
    let get = ["get"].into_iter().chain(of_stream).chain(into);
    let got = stage.clinician.run(get.clone()).unwrap();
    assert_refused(&got, 1, "not-found");
    assert_eq!(
        (&got.json["records"], &got.json["fetched"]),
        (&5.into(), &3.into())
    );
    let lost = BTreeSet::from([records[1].as_str(), records[3].as_str()]);
    assert_eq!(failed(&got), lost);
    for number in [0, 2, 4] {
        assert!(fs::read(folder.join(&records[number])).unwrap() == payloads[number]);
    }

    let partly = stage.path("partly.car");
    let exported = export(&stage, &partly);
    assert_refused(&exported, 1, "not-found");
    assert_eq!(failed(&exported), lost);
    let left = [0, 2, 4].map(|number| records[number].clone());
    assert_eq!(roots(&partly), left);
    assert_eq!(exported.json["records"].as_array().unwrap().len(), 3);

    let named = stage.path("named.car");
    let output = ["-o", named.to_str().unwrap()];
    let all = records.iter().map(String::as_str);
    let arguments = ["car", "export"].into_iter().chain(all).chain(output);
    let exported = stage.hospital.run(arguments).unwrap();
    assert_refused(&exported, 1, "not-found");
    assert_eq!((failed(&exported), roots(&named)), (lost, left.to_vec()));

    // Brought back from the first CAR, all of it is there.
    done(device.run(["car", "import", whole.to_str().unwrap()]));
    let got = done(stage.clinician.run(get));
    assert_eq!(
        (&got.json["kept"], &got.json["fetched"]),
        (&3.into(), &2.into())
    );
    for (record, payload) in records.iter().zip(&payloads) {
        assert!(fs::read(folder.join(record)).unwrap() == *payload);
    }
}

impl Stage {
    /// Every node that has these blocks loses them.
    fn lose(&mut self, blocks: &[Cid]) {
        self.network.stop().unwrap();
        let nodes = self.network.nodes.iter();
        let stores = nodes.map(|node| Folder::new(node.folder()).blocks());
        let stores: Vec<DiskStore> = stores
            .map(|folder| DiskStore::open(&folder).unwrap())
            .collect();
        for block in blocks {
            let lost = stores.iter().filter(|store| store.remove(block).unwrap());
            assert!(lost.count() > 0, "nobody had {block}");
        }
        drop(stores);
        self.network.start().unwrap();
    }
}

/// Records that failed because nobody has them.
fn failed(ran: &Ran) -> BTreeSet<&str> {
    let failed = ran.json["failed"].as_array().unwrap().iter();
    failed
        .map(|failed| {
            assert_eq!(failed["code"], "not-found", "{failed}");
            failed["record"].as_str().unwrap()
        })
        .collect()
}

fn roots(car: &Path) -> Vec<String> {
    let car = fs::read(car).unwrap();
    let car = CarReader::new(&car[..]).unwrap();
    car.roots().iter().map(Cid::to_string).collect()
}

/// The block that a record's payload is in.
fn payload_block(car: &Path, record: &str) -> Cid {
    let car = fs::read(car).unwrap();
    let mut blocks = CarReader::new(&car[..]).unwrap().map(Result::unwrap);
    let record = blocks.find(|block| block.cid().to_string() == record);
    links(&record.unwrap()).unwrap()[0]
}
