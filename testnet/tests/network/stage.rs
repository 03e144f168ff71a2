use medanchor_node::{Config, Folder};
use medanchor_testnet::{Home, Network, NetworkOptions, Ran};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The testnet's own program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_medanchor-testnet");

/// A running network with a hospital that has a clinician and a patient.
pub(crate) struct Stage {
    pub(crate) network: Network,
    /// Operator of hospital A.
    pub(crate) hospital: Home,
    pub(crate) clinician: Home,
    /// The patient's custody key.
    pub(crate) custody: String,
    folder: TempDir,
    _turn: Turn,
}

impl Stage {
    pub(crate) fn start(nodes: u8) -> Self {
        Self::start_with(nodes, |_| ())
    }

    /// `prepare` changes the network before it starts.
    pub(crate) fn start_with(nodes: u8, prepare: impl FnOnce(&Network)) -> Self {
        let turn = Turn::take();
        let folder = tempfile::tempdir().unwrap();
        let options = NetworkOptions {
            program: PROGRAM.into(),
            nodes,
            witness: true,
            foreign_witnesses: Vec::new(),
        };
        let mut network = Network::found(&folder.path().join("network"), &options).unwrap();
        prepare(&network);
        network.start().unwrap();
        let hospital = network.operator(0).unwrap();
        let clinician = network.invite(0, "clinician").unwrap();
        enrol(&hospital, "person", &clinician, "clinician");
        let made = hospital.run(["custody", "new", "--kind", "person"]);
        Self {
            network,
            hospital,
            clinician,
            custody: done(made).text("custody").unwrap(),
            folder,
            _turn: turn,
        }
    }

    /// A device of hospital A.
    pub(crate) fn device(&self, name: &str) -> Home {
        let device = self.network.invite(0, name).unwrap();
        enrol(&self.hospital, "device", &device, "device");
        device
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of a node.
    pub(crate) fn folder(&mut self, name: &str) -> Folder {
        Folder::new(self.network.process(name).unwrap().folder().to_owned())
    }

    /// A file with this content.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn put(&self, device: &Home, file: &Path) -> Ran {
        device.run(put_arguments(file, &self.custody)).unwrap()
    }

    /// What the clinician reads when it asks for a record.
    pub(crate) fn read(&self, record: &str) -> Vec<u8> {
        let copy = self.path("copy");
        done(get(&self.clinician, record, "TREAT", &copy));
        fs::read(copy).unwrap()
    }

    /// Records that the log says are anchored, in its order.
    pub(crate) fn anchored(&self) -> Vec<String> {
        let log = done(self.hospital.run(["log", "list", "--limit", "10000"]));
        let leaves = log.json["leaves"].as_array().unwrap().iter();
        leaves
            .filter(|leaf| leaf["kind"] == "anchored" && leaf["outcome"] == "ok")
            .map(|leaf| leaf["record"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Leaves in the log, as hospital A sees it.
    pub(crate) fn tree_size(&self) -> u64 {
        self.status().json["tree_size"].as_u64().unwrap()
    }

    /// What `medanchor status` says, also while not all is well.
    pub(crate) fn status(&self) -> Ran {
        let ran = self.hospital.run(["status"]).unwrap();
        assert!([0, 4].contains(&ran.code), "{}{}", ran.errors, ran.json);
        ran
    }

    /// Waits until `medanchor status` ends with 0.
    pub(crate) fn until_all_is_well(&self) {
        until("all is well", || self.status().code == 0);
    }
}

/// A folder and all that is in it, at a place where nothing is yet.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&from, &to),
            false => drop(fs::copy(&from, &to).unwrap()),
        }
    }
}

/// Changes the config of every node, before the network starts.
pub(crate) fn configure(network: &Network, mut change: impl FnMut(&mut Config)) {
    for node in &network.nodes {
        node.configure(&mut change).unwrap();
    }
}

/// One story's turn: networks do not run beside each other.
pub(crate) struct Turn(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Turn {
    pub(crate) fn take() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        Self(TURN.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) fn enrol(by: &Home, kind: &str, who: &Home, role: &str) {
    let did = did(who);
    done(by.run([kind, "enrol", &did, "--role", role]));
}

pub(crate) fn did(home: &Home) -> String {
    done(home.run(["key", "show"])).text("did").unwrap()
}

pub(crate) fn put_arguments<'a>(file: &'a Path, custody: &'a str) -> [&'a str; 6] {
    let file = file.to_str().unwrap();
    ["put", file, "--custody", custody, "--class", "waveform.ecg"]
}

pub(crate) fn get(reader: &Home, record: &str, purpose: &str, copy: &Path) -> anyhow::Result<Ran> {
    let copy = copy.to_str().unwrap();
    reader.run(["get", record, "--purpose", purpose, "-o", copy])
}

/// The private half of a custody key, in its operator's copy.
pub(crate) fn custody_key(operator: &medanchor_cli::Home, copy: &Path) -> Vec<u8> {
    operator
        .open_custody_copy(copy)
        .unwrap()
        .to_bytes()
        .to_vec()
}

/// Has a policy set signed by two of three members, and submits it. `policies` absent: the set that is shipped.
pub(crate) fn set_policies(stage: &Stage, policies: Option<&Path>) -> Ran {
    let draft = stage.path("policy-set");
    let _ = fs::remove_file(&draft);
    let output = draft.to_str().unwrap();
    let mut drafting = vec!["admin", "access-policy", "draft", "--output", output];
    if let Some(policies) = policies {
        drafting.extend(["--policies", policies.to_str().unwrap()]);
    }
    done(stage.hospital.run(drafting));
    let set = ["admin", "access-policy", "set", output];
    assert_refused(&stage.hospital.run(set).unwrap(), 2, "usage");
    let other = stage.network.operator(1).unwrap();
    let approved = done(other.run(["admin", "access-policy", "approve", output]));
    assert_eq!(approved.json["signed_by"].as_array().unwrap().len(), 2);
    assert!(approved.text("policies").unwrap().contains("@id"));
    done(stage.hospital.run(set))
}

pub(crate) fn done(ran: anyhow::Result<Ran>) -> Ran {
    ran.unwrap().success().unwrap()
}

/// It failed with this exit code and this stable code.
#[track_caller]
pub(crate) fn assert_refused(ran: &Ran, exit: i32, code: &str) {
    let said = ran.json["code"].as_str().unwrap_or_default();
    assert_eq!((ran.code, said), (exit, code), "{}{}", ran.errors, ran.json);
    assert_eq!(ran.json["ok"], false);
    assert!(!ran.errors.contains("panicked"), "{}", ran.errors);
}

/// Waits for what another process does.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Processes with `path` in their command line.
pub(crate) fn processes_of(path: &Path) -> Vec<String> {
    let path = path.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let commands = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    commands
        .map(|command| String::from_utf8_lossy(&command).replace('\0', " "))
        .filter(|command| command.contains(path))
        .collect()
}

const PATIENCE: Duration = Duration::from_secs(60);
