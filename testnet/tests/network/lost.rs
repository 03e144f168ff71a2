use crate::{
    author::Author,
    collect::busy_collector,
    stage::{Stage, configure, done, until},
};
use medanchor_dag::{Block, BlockStore, Cid, Codec, DiskStore};
use medanchor_node::Folder;
use medanchor_testnet::Ran;

#[test]
fn nothing_is_freed_for_a_record_that_is_not_whole_until_it_is_said_to_be_lost() {
    let mut stage = Stage::start_with(1, |network| {
        busy_collector(network);
        configure(network, |config| config.scrub_every_seconds = Some(1));
    });
    let name = stage.network.nodes[0].name.clone();
    let folder = stage.network.nodes[0].folder().to_owned();
    let folder = Folder::new(folder).blocks();
    let device = stage.device("device");
    let put = |stage: &Stage, payload: &[u8]| {
        let file = stage.file("payload", payload);
        done(Ok(stage.put(&device, &file))).text("record").unwrap()
    };
    let (lost, kept) = (put(&stage, &[1; 400_000]), put(&stage, &[2; 400_000]));
    let author = Author::of(&stage.hospital);
    let cid: Cid = lost.parse().unwrap();
    let anchored = author.block_on(author.session.client.record(&cid)).unwrap();
    let wrap = anchored.anchored.wrap;
    let garbage: Vec<_> = (0..50_u8)
        .map(|n| Block::new(Codec::Raw, vec![n; 1000]).unwrap())
        .collect();
    author.upload(&garbage);

    // What nobody has any more, and below it chunks that nobody else names.
    stage.stop_cleanly(&name);
    let store = DiskStore::open(&folder).unwrap();
    let record = store.block(&cid).unwrap().unwrap();
    let chunks: Vec<Cid> = medanchor_dag::links(&record).unwrap();
    assert!(!chunks.is_empty());
    assert!(store.remove(&cid).unwrap());
    let freed = store.figures().unwrap().freed_blocks;
    drop(store);
    restart(&mut stage, &name);
    let mut number = 0_u32;
    let mut later = |stage: &Stage| {
        number += 1;
        put(stage, &number.to_be_bytes());
        status(stage)
    };
    until("it stands still", || {
        later(&stage).json["collection"]["waits_for"] == lost
    });
    let waiting = status(&stage);
    assert_eq!((waiting.code, &waiting.json["ok"]), (4, &false.into()));
    assert_eq!(waiting.json["collection"]["blocks"], freed);
    assert_eq!(waiting.json["collection"]["cycles"], 0);

    stage.stop_cleanly(&name);
    configure(&stage.network, |config| {
        config.lost_records = vec![lost.clone()];
    });
    restart(&mut stage, &name);
    until("a whole cycle and another", || {
        later(&stage).json["collection"]["cycles"].as_u64() >= Some(2)
    });
    let status = status(&stage);
    assert_eq!(
        status.json["collection"]["waits_for"],
        serde_json::Value::Null
    );
    // What is lost is still missed.
    assert_eq!((status.code, &status.json["ok"]), (4, &false.into()));
    assert!(status.json["blocks_missing"].as_u64() > Some(0));
    assert_eq!(stage.read(&kept), [2; 400_000]);

    stage.stop_cleanly(&name);
    let store = DiskStore::open(&folder).unwrap();
    let mut gone = garbage.iter().map(Block::cid).chain(&chunks);
    assert!(gone.all(|cid| !store.knows(cid).unwrap()));
    assert!(store.knows(&wrap).unwrap());
}

fn restart(stage: &mut Stage, name: &str) {
    stage.network.process(name).unwrap().start().unwrap();
    stage.network.wait_until_ready().unwrap();
}

fn status(stage: &Stage) -> Ran {
    stage.hospital.run(["status"]).unwrap()
}
