//! A network that nobody founded for the others: each organisation makes its own keys.

use crate::stage::{PROGRAM, Turn, done, enrol, put_arguments, until};
use medanchor_anchor::{Epochs, PolicyChain, Receipt, Strength, TrustPolicy};
use medanchor_testnet::{Home, NodeProcess, free_addresses};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

const ORIGIN: &str = "hospitals.example/medanchor";
const NAMES: [&str; 3] = ["hospital-a", "hospital-b", "hospital-c"];

#[test]
fn network_grows_from_one_to_three_without_a_central_party() {
    let _turn = Turn::take();
    let network = Growing::default();
    let [a, b, c] = NAMES;
    network.medanchord(a, &["found", a, "--origin", ORIGIN, "--copies", "2"]);
    let mut nodes = vec![network.start(a)];
    let (device, custody) = network.device();
    let payload = network.path("payload");
    fs::write(&payload, b"one heartbeat").unwrap();
    // Two nodes have to hold it, and there is one.
    let refused = device.run(put_arguments(&payload, &custody)).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.json);

    network.join(b, "2", &[a]);
    nodes.push(network.start(b));
    network.join(c, "3", &[a, b]);
    nodes.push(network.start(c));

    let listed = done(network.operator(c).run(["admin", "member", "list"]));
    assert_eq!(listed.json["quorum"], 3);
    let members = listed.json["members"].as_array().unwrap();
    assert!(members.iter().map(|member| &member["name"]).eq(NAMES));
    let stored = done(device.run(put_arguments(&payload, &custody)));
    let receipt = stored.text("receipt").unwrap();
    let receipt: Receipt = fs::read_to_string(receipt).unwrap().parse().unwrap();

    // From A's own policy the chain leads to one that asks for all three.
    done(device.run(["policy", "update"]));
    let chain = fs::read(device.path().join("policy-chain")).unwrap();
    let chain = PolicyChain::from_bytes(&chain).unwrap();
    let root = fs::read_to_string(network.path(a).join("policy.txt")).unwrap();
    let root: TrustPolicy = root.parse().unwrap();
    assert_eq!(root.witnesses().count(), 1);
    let epochs = Epochs::follow(root, &chain).unwrap();
    let verified = receipt.verify(&epochs, Strength::Published).unwrap();
    assert_eq!(verified.checkpoint.cosigners.len(), 3);
    assert_eq!(epochs.current().logs().count(), 3);

    // Whoever founded it never had the others' secrets.
    for name in [b, c] {
        let keys = network.path(name).join("keys");
        for key in fs::read_dir(keys).unwrap() {
            let key = fs::read_to_string(key.unwrap().path()).unwrap();
            let secret = key.split_whitespace().last().unwrap();
            assert!(!holds(&network.path(a), secret.as_bytes()), "{name}");
        }
    }
    for node in &mut nodes {
        node.stop().unwrap();
    }
}

/// Folders of three organisations, which share nothing but the files that they send each other.
struct Growing(TempDir);

impl Default for Growing {
    fn default() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Growing {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn operator(&self, name: &str) -> Home {
        Home::new(self.path(name).join("operator"), Path::new(PROGRAM))
    }

    /// Runs `medanchord` for an organisation, with addresses for a new node.
    fn medanchord(&self, name: &str, arguments: &[&str]) {
        let addresses = free_addresses(3).unwrap();
        let options = ["--listen", "--swarm-listen", "--log-listen"];
        let mut command = Command::new(PROGRAM);
        command.arg("medanchord").arg("--data").arg(self.path(name));
        command.arg("--no-passphrase");
        for (option, address) in options.iter().zip(addresses) {
            command.args([option, address.to_string().as_str()]);
        }
        let command = command.args(arguments).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "{arguments:?}");
    }

    /// As `docs/operations.md` says: prepare, approve, add, welcome, join.
    fn join(&self, name: &str, quorum: &str, members: &[&str]) {
        let file = |what: &str| {
            let path = self.path(&format!("{what}-of-{name}"));
            path.to_str().unwrap().to_owned()
        };
        let (request, welcome) = (file("request"), file("welcome"));
        let prepare = ["prepare", name, "--origin", ORIGIN, "--quorum", quorum];
        let prepare: Vec<&str> = prepare.into_iter().chain(["-o", &request]).collect();
        self.medanchord(name, &prepare);
        for member in members {
            done(
                self.operator(member)
                    .run(["admin", "member", "approve", &request]),
            );
        }
        let last = members.last().unwrap();
        done(
            self.operator(last)
                .run(["admin", "member", "add", &request]),
        );
        self.medanchord(last, &["welcome", "-o", &welcome]);
        self.medanchord(name, &["join", &welcome]);
    }

    /// Until it takes part.
    fn start(&self, name: &str) -> NodeProcess {
        let mut node = NodeProcess::new(name, &self.path(name), Path::new(PROGRAM));
        node.start().unwrap();
        let operator = self.operator(name);
        until("it takes part", || {
            assert!(node.ended().unwrap().is_none(), "`{name}` has ended");
            let status = operator.run(["status"]).unwrap();
            let role = status.json["role"].as_str().unwrap_or_default();
            status.json["node"] == name && ["leader", "follower"].contains(&role)
        });
        node
    }

    /// A device of hospital A, and a patient's custody key.
    fn device(&self) -> (Home, String) {
        let home = self.path("holter");
        let invite = ["invite", "holter", "--home", home.to_str().unwrap()];
        self.medanchord(NAMES[0], &invite);
        let device = Home::new(home, Path::new(PROGRAM));
        done(device.run(["key", "new", "--no-passphrase"]));
        let operator = self.operator(NAMES[0]);
        enrol(&operator, "device", &device, "device");
        let made = done(operator.run(["custody", "new", "--kind", "person"]));
        let custody = made.text("custody").unwrap();
        (device, custody)
    }
}

/// Whether a file in this folder, however deep, holds these bytes.
fn holds(folder: &Path, secret: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => holds(&path, secret),
            false => {
                let content = fs::read(path).unwrap();
                content.windows(secret.len()).any(|window| window == secret)
            }
        }
    })
}
