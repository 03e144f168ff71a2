use crate::{
    author::Author,
    stage::{Stage, assert_refused, done, put_arguments, until},
};
use medanchor_dag::Cid;
use medanchor_node::{Config, Folder, Newcomer, PlannedMember, join, prepare, welcome};
use medanchor_testnet::{Home, NodeProcess, Ran};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

const NEWCOMER: &str = "hospital-d";
const DEAD: &str = "hospital-c";

#[test]
fn hospital_joins_under_load_and_a_dead_one_is_removed() {
    let mut stage = Stage::start(3);
    let device = stage.device("holter");
    let policy = stage.path("policy.txt");
    fs::copy(stage.hospital.path().join("policy.txt"), &policy).unwrap();
    let before = stage.anchor(&device, "before");

    // Nothing stops meanwhile.
    let load = Load::start(&stage, device.clone());
    let request = stage.path("request");
    let newcomer = stage.newcomer(4);
    prepare(&newcomer, &request).unwrap();
    let operators = [0, 1, 2].map(|number| stage.network.operator(number).unwrap());
    let too_few = change(&operators[0], "approve", &request);
    assert_eq!(too_few.json["signed_by"].as_array().unwrap().len(), 2);
    let refused = operators[0].run(["admin", "member", "add", text(&request)]);
    let refused = refused.unwrap();
    assert_refused(&refused, 2, "usage");
    change(&operators[1], "approve", &request);
    let added = change(&operators[2], "add", &request);
    let added_at = added.json["leaf_index"].as_u64().unwrap();

    // A checkpoint under the policy after the change: what the newcomer is shown ends with it.
    stage.anchor(&stage.device("second holter"), "joining");
    let folder = Folder::new(&newcomer.member.folder);
    let welcomed = stage.path("welcome");
    welcome(&Folder::new(stage.node("hospital-a")), &welcomed).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert_eq!(runtime.block_on(join(&folder, &welcomed)).unwrap(), 4);
    let program = Path::new(crate::stage::PROGRAM);
    let process = NodeProcess::new(NEWCOMER, folder.path(), program);
    stage.network.nodes.push(process);
    stage.start_again(NEWCOMER);
    let newcomer_home = Home::new(folder.operator(), program);
    until("the newcomer has a vote", || {
        let status = newcomer_home.run(["status"]).unwrap();
        status.json["role"] == "follower" || status.json["role"] == "leader"
    });
    let anchored_meanwhile = load.stop();
    assert!(anchored_meanwhile > 0);

    // It takes part: what is published bears its co-signature, and it holds records.
    let author = Author::of(&stage.hospital);
    let newcomers_key = stage.listed(NEWCOMER)["node"].as_str().unwrap().to_owned();
    let mut between = stage.anchor(&device, "between");
    until("the newcomer co-signs and holds", || {
        between = stage.anchor(&device, "between");
        let cid: Cid = between.record.parse().unwrap();
        let record = author.block_on(author.session.client.record(&cid)).unwrap();
        let held = record
            .holders
            .iter()
            .any(|by| by.to_string() == newcomers_key);
        held && cosigned(&between.receipt, NEWCOMER)
    });

    // A node that is dead for good is removed. It has no say.
    let visitor = stage.visitor_with_certificate_of(DEAD);
    let visit = ["--node", "hospital-a", "admin", "member", "list"];
    done(visitor.run(visit));
    stage.network.process(DEAD).unwrap().kill().unwrap();
    let draft = stage.path("removal");
    let drafted = [
        "admin",
        "member",
        "draft-removal",
        DEAD,
        "--quorum",
        "3",
        "-o",
    ];
    let drafted = drafted.into_iter().chain([text(&draft)]);
    done(operators[0].run(drafted));
    let refused = operators[0].run(["admin", "member", "remove", text(&draft)]);
    assert_refused(&refused.unwrap(), 2, "usage");
    change(&newcomer_home, "approve", &draft);
    let removed = change(&newcomer_home, "remove", &draft);
    let removed_at = removed.json["leaf_index"].as_u64().unwrap();
    assert_eq!(stage.listed(DEAD)["removed_at"], removed_at);
    let after = stage.anchor(&device, "after");
    assert!(!cosigned(&after.receipt, DEAD));

    // Its certificates let nobody in any more.
    until("the removed one is refused", || {
        visitor.run(visit).unwrap().code == 5
    });

    // All receipts verify, offline, by the policy that the network began with and its chain.
    let receipts = [&before, &between, &after].map(|put| put.receipt.clone());
    let paths = receipts.iter().map(|receipt| text(receipt));
    let update = ["policy", "update"].into_iter().chain(paths);
    let updated = done(stage.hospital.run(update));
    assert_eq!(updated.json["changes"], 2);
    let chain = stage.hospital.path().join("policy-chain");
    let stranger = Home::new(stage.path("stranger"), program);
    let verify = |receipt: &Path, chain: Option<&Path>| {
        let mut arguments = vec!["verify", text(receipt), "--policy", text(&policy)];
        arguments.extend(chain.iter().flat_map(|chain| ["--chain", text(chain)]));
        stranger.run(arguments).unwrap()
    };
    for receipt in &receipts {
        verify(receipt, Some(&chain)).success().unwrap();
    }
    for change in [&added, &removed] {
        let receipt = change.text("receipt").unwrap();
        verify(Path::new(&receipt), Some(&chain)).success().unwrap();
    }
    assert_eq!(verify(&before.receipt, None).code, 0);
    assert!(added_at < removed_at);

    // The removed node does not come back under its id, and says what to do.
    let dead = Folder::new(stage.node(DEAD));
    fs::copy(folder.policy_chain(), dead.policy_chain()).unwrap();
    let node = stage.network.process(DEAD).unwrap();
    node.start().unwrap();
    let mut ended = None;
    until("the removed node ends", || {
        ended = node.ended().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(1));
    let log = fs::read_to_string(node.log()).unwrap();
    assert!(log.contains("id 3 was removed"), "{log}");
    assert!(log.contains("medanchord prepare"), "{log}");
    stage.network.nodes.retain(|node| node.name != DEAD);
}

struct Put {
    record: String,
    receipt: PathBuf,
}

/// Records that are put one after another, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    putting: thread::JoinHandle<u64>,
}

impl Load {
    fn start(stage: &Stage, device: Home) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (file, custody) = (stage.path("load"), stage.custody.clone());
        let putting = thread::spawn(move || {
            let mut number: u64 = 0;
            while !stopped.load(Ordering::Relaxed) {
                fs::write(&file, number.to_be_bytes()).unwrap();
                done(device.run(put_arguments(&file, &custody)));
                number += 1;
            }
            number
        });
        Self { stop, putting }
    }

    /// Gives how many were anchored.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.putting.join().unwrap()
    }
}

impl Stage {
    fn anchor(&self, device: &Home, name: &str) -> Put {
        let put = done(Ok(self.put(device, &self.file(name, name.as_bytes()))));
        Put {
            record: put.text("record").unwrap(),
            receipt: put.text("receipt").unwrap().into(),
        }
    }

    fn newcomer(&self, quorum: u8) -> Newcomer {
        let config = Folder::new(self.node("hospital-a")).config();
        let config = Config::open(&config).unwrap();
        let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [listen, swarm_listen, log_listen] = ports.map(|port| port.local_addr().unwrap());
        Newcomer {
            origin: config.origin,
            member: PlannedMember {
                name: NEWCOMER.to_owned(),
                folder: self.network.dir().join(NEWCOMER),
                listen,
                swarm_listen,
                log_listen,
                passphrase_file: None,
            },
            quorum,
        }
    }

    fn node(&self, name: &str) -> PathBuf {
        self.network.dir().join(name)
    }

    /// What the log says of the newest member of this name.
    fn listed(&self, name: &str) -> serde_json::Value {
        let members = done(self.hospital.run(["admin", "member", "list"]));
        let members = members.json["members"].as_array().unwrap().iter();
        let mut named = members.filter(|member| member["name"] == name);
        named.next_back().unwrap().clone()
    }

    /// A home that shows the certificate of a hospital's node.
    fn visitor_with_certificate_of(&self, name: &str) -> Home {
        let (node, home) = (Folder::new(self.node(name)), self.path("visitor"));
        fs::create_dir(&home).unwrap();
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            fs::copy(node.tls().join(file), home.join(file)).unwrap();
        }
        for file in ["client.toml", "policy.txt"] {
            fs::copy(node.operator().join(file), home.join(file)).unwrap();
        }
        Home::new(home, Path::new(crate::stage::PROGRAM))
    }
}

fn change(home: &Home, command: &str, draft: &Path) -> Ran {
    done(home.run(["admin", "member", command, text(draft)]))
}

/// Whether a receipt bears a co-signature of this hospital.
fn cosigned(receipt: &Path, hospital: &str) -> bool {
    let receipt = fs::read_to_string(receipt).unwrap();
    receipt.contains(&format!("/{hospital} "))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
