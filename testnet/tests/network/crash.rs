use crate::{
    author::Author,
    stage::{Stage, did, done, put_arguments, until},
};
use medanchor_anchor::Leaf;
use medanchor_api::StreamHead;
use medanchor_testnet::{Home, Ran};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

#[test]
fn nothing_acknowledged_is_lost_when_any_one_process_is_killed() {
    let mut stage = Stage::start(3);
    let load = Load::new(&stage);
    thread::scope(|scope| {
        // A failed check ends the load too, or the scope would wait for it.
        let _end = load.end_on_drop();
        scope.spawn(|| load.run());
        load.wait_for_more();
        for name in stage.names_from_the_leader() {
            stage.network.process(&name).unwrap().kill().unwrap();
            // One dead process stops nothing.
            load.wait_for_more();
            stage.network.process(&name).unwrap().start().unwrap();
            stage.network.wait_until_ready().unwrap();
            load.wait_for_more();
        }
    });
    let device = load.device.clone();
    let acknowledged = load.acknowledged();

    stage.assert_replicas_agree();
    let records: Vec<&str> = acknowledged.iter().map(|put| put.record.as_str()).collect();
    assert_eq!(
        stage.anchored(),
        records,
        "each once, in the order of the stream"
    );
    let sequence: Vec<u64> = acknowledged.iter().map(|put| put.seq).collect();
    assert!(
        sequence.iter().copied().eq(0..sequence.len() as u64),
        "{sequence:?}"
    );
    for put in &acknowledged {
        put.assert_kept(&stage);
    }
    let head = stream_head(&device);
    let last = acknowledged.last().unwrap();
    assert_eq!((head.seq, head.gaps_and_forks), (last.seq, 0));
    assert_eq!(head.record.to_string(), last.record);
}

#[test]
fn killed_put_goes_on_from_its_outbox() {
    let stage = Stage::start(3);
    let device = stage.device("holter-1");
    let payload: Vec<u8> = (0..=250).cycle().take(24 << 20).collect();
    let file = stage.file("payload", &payload);

    // Killed while it seals: what was sealed so far is thrown away, and nothing is said of it.
    stage.kill_put(&device, &file, |outbox| is_there(outbox, "sealing"));
    assert!(stage.anchored().is_empty());
    // Killed once it is sealed: that very record is what is sent.
    stage.kill_put(&device, &file, |outbox| is_there(outbox, ""));
    let sealed = sealed_record(&device);
    let stored = done(Ok(stage.put(&device, &file)));
    assert_eq!(stored.json["resumed"], true);
    assert_eq!(stored.text("record").unwrap(), sealed);
    assert_eq!(stored.json["seq"], 0);
    assert_eq!(stage.anchored(), [sealed.as_str()]);
    assert!(stage.read(&sealed) == payload);
    assert_eq!(stream_head(&device).gaps_and_forks, 0);
    assert_eq!(folders(&device.path().join("outbox")).len(), 0);
}

#[test]
fn terminated_nodes_drain_and_resume() {
    let mut stage = Stage::start(3);
    let load = Load::new(&stage);
    let names = stage.names_from_the_leader();
    thread::scope(|scope| {
        let _end = load.end_on_drop();
        scope.spawn(|| load.run());
        for name in &names {
            load.wait_for_more();
            stage.stop_cleanly(name);
            load.wait_for_more();
            stage.network.process(name).unwrap().start().unwrap();
            stage.network.wait_until_ready().unwrap();
        }
    });
    let acknowledged = load.acknowledged();
    let before = stage.tree_size();
    for name in &names {
        stage.stop_cleanly(name);
    }
    stage.network.start().unwrap();
    stage.assert_replicas_agree();
    assert!(stage.tree_size() >= before);
    let last = acknowledged.last().unwrap();
    assert_eq!(stage.read(&last.record), last.payload);
    let records: Vec<&str> = acknowledged.iter().map(|put| put.record.as_str()).collect();
    assert_eq!(stage.anchored(), records);
}

impl Stage {
    /// The leader, the other nodes, and the witness.
    fn names_from_the_leader(&self) -> Vec<String> {
        let status = self.status();
        let leader = status.text("leader").unwrap();
        let nodes = self.network.nodes.iter().chain(&self.network.witness);
        let mut names: Vec<String> = nodes.map(|node| node.name.clone()).collect();
        names.sort_by_key(|name| *name != leader);
        names
    }

    pub(crate) fn start_again(&mut self, name: &str) {
        self.network.process(name).unwrap().start().unwrap();
        self.network.wait_for(name).unwrap();
    }

    pub(crate) fn stop_cleanly(&mut self, name: &str) {
        let node = self.network.process(name).unwrap();
        let status = node.stop().unwrap().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{name}");
    }

    /// Every replica ends with the same leaves, under the same published tree.
    pub(crate) fn assert_replicas_agree(&self) {
        let author = Author::of(&self.hospital);
        let nodes: Vec<_> = author.session.client.node_names().collect();
        let logs = || -> BTreeSet<Option<Vec<Vec<u8>>>> {
            nodes.iter().map(|node| author.log_of(node)).collect()
        };
        until("the replicas agree", || {
            let logs = logs();
            logs.len() == 1 && !logs.contains(&None)
        });
        until("the newest tree is published everywhere", || {
            let status = self.status();
            let nodes = status.json["nodes"].as_array().unwrap();
            nodes.iter().all(|node| {
                node["tree_size"] == status.json["tree_size"]
                    && node["published_size"] == node["tree_size"]
            })
        });
    }

    /// Starts a put and kills it as soon as its outbox is as it should be.
    fn kill_put(&self, device: &Home, file: &Path, is_time: impl Fn(&Path) -> bool) {
        let outbox = device.path().join("outbox");
        let mut put = device
            .command(put_arguments(file, &self.custody))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the put is midway", || is_time(&outbox));
        put.kill().unwrap();
        let status = put.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "the put was over already");
    }
}

impl Author {
    /// Every leaf that a node has, `None` when it does not answer.
    fn log_of(&self, node: &str) -> Option<Vec<Vec<u8>>> {
        use futures::TryStreamExt;
        let client = self.session.client.only(node).unwrap();
        let leaves = client
            .leaves(0, None)
            .map_ok(|entry| Leaf::to_bytes(&entry.leaf));
        self.block_on(leaves.try_collect()).ok()
    }
}

/// A device that puts one small file after the other.
pub(crate) struct Load {
    device: Home,
    custody: String,
    folder: PathBuf,
    pub(crate) acknowledged: Mutex<Vec<Put>>,
    ended: AtomicBool,
}

/// A put that was acknowledged.
pub(crate) struct Put {
    pub(crate) record: String,
    seq: u64,
    receipt: PathBuf,
    pub(crate) payload: Vec<u8>,
}

impl Put {
    /// It is read as it was put, and its receipt is good.
    pub(crate) fn assert_kept(&self, stage: &Stage) {
        assert_eq!(stage.read(&self.record), self.payload);
        let receipt = self.receipt.to_str().unwrap();
        done(stage.hospital.run(["verify", receipt]));
    }
}

impl Load {
    pub(crate) fn new(stage: &Stage) -> Self {
        let folder = stage.path("payloads");
        fs::create_dir(&folder).unwrap();
        Self {
            device: stage.device("holter-1"),
            custody: stage.custody.clone(),
            folder,
            acknowledged: Mutex::default(),
            ended: AtomicBool::new(false),
        }
    }

    pub(crate) fn run(&self) {
        for number in 0.. {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let payload = format!("heartbeat {number}").into_bytes();
            let file = self.folder.join(number.to_string());
            fs::write(&file, &payload).unwrap();
            let stored = self.put(&file);
            let put = Put {
                record: stored.text("record").unwrap(),
                seq: stored.json["seq"].as_u64().unwrap(),
                receipt: stored.text("receipt").unwrap().into(),
                payload,
            };
            self.acknowledged.lock().unwrap().push(put);
        }
    }

    /// "Unavailable" is no acknowledgement: the same again goes on with what is in the outbox.
    fn put(&self, file: &Path) -> Ran {
        let attempt = || self.device.run(put_arguments(file, &self.custody)).unwrap();
        let mut attempts = (0..20).map(|_| attempt()).filter(|ran| ran.code != 5);
        attempts
            .next()
            .expect("the network is back")
            .success()
            .unwrap()
    }

    /// Waits until some more puts are acknowledged.
    pub(crate) fn wait_for_more(&self) {
        let len = || self.acknowledged.lock().unwrap().len();
        let before = len();
        until("puts are acknowledged", || len() >= before + 3);
    }

    /// All that was acknowledged, in order.
    pub(crate) fn acknowledged(self) -> Vec<Put> {
        self.acknowledged.into_inner().unwrap()
    }

    pub(crate) fn end_on_drop(&self) -> EndOnDrop<'_> {
        EndOnDrop(&self.ended)
    }
}

pub(crate) struct EndOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn stream_head(device: &Home) -> StreamHead {
    let author = Author::of(device);
    let state = fs::read_to_string(device.path().join("device-stream.toml")).unwrap();
    let state: toml::Table = state.parse().unwrap();
    let stream = state["stream"].as_str().unwrap().parse().unwrap();
    let device = did(device).parse().unwrap();
    let head = author.block_on(author.session.client.stream(&device, &stream));
    head.unwrap().value.unwrap()
}

/// CID of the record that waits in a device's outbox.
fn sealed_record(device: &Home) -> String {
    use ipld_core::ipld::Ipld;
    use medanchor_dag::{Record, from_canonical};
    let folders = folders(&device.path().join("outbox"));
    let [folder] = folders.as_slice() else {
        panic!("not one upload: {folders:?}");
    };
    let upload = fs::read(folder.join("upload")).unwrap();
    let upload: Ipld = from_canonical(&upload, upload.len()).unwrap();
    let Ok(Some(Ipld::Bytes(record))) = upload.get("record") else {
        panic!("no record in {upload:?}");
    };
    Record::from_bytes(record.clone())
        .unwrap()
        .cid()
        .to_string()
}

/// Whether the outbox has a folder with this extension, `""` for none.
fn is_there(outbox: &Path, extension: &str) -> bool {
    let of = |folder: &PathBuf| folder.extension().unwrap_or_default() == extension;
    folders(outbox).iter().any(of)
}

pub(crate) fn folders(outbox: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(outbox).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}
