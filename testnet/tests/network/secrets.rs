use crate::stage::{PROGRAM, Turn, assert_refused, custody_key, put_arguments, until};
use medanchor_testnet::{Home, Ran, free_addresses};
use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

/// A hospital whose keys are under passphrases, and what its programs say while all goes well and while it does not.
#[test]
fn keys_are_in_no_log_no_error_no_output_and_no_core() {
    let _turn = Turn::take();
    let place = Place::new();
    let node_passphrase = place.file("node-passphrase", NODE_PASSPHRASE);
    let own_passphrase = place.file("own-passphrase", OWN_PASSPHRASE);
    let wrong = place.file("wrong-passphrase", WRONG_PASSPHRASE);
    let addresses = free_addresses(3).unwrap();

    // Without a word about a passphrase no node is made.
    let unsaid = place.node(&[]).wait();
    assert_eq!(unsaid.code(), Some(2));
    assert!(!place.data().exists());
    let node = place.found(&addresses, &node_passphrase);
    let mut said = Said::default();
    let operator = place.user(&place.data().join("operator"), &node_passphrase);
    until("the node serves", || {
        let status = operator.run(&["status"]);
        status.code == 0 && status.json["published_size"].as_u64() > Some(0)
    });

    // All goes well.
    let clinician = place.invite("clinician", &own_passphrase);
    let device = place.invite("device", &own_passphrase);
    for who in [&clinician, &device] {
        said.success(who.run(&["key", "new"]));
    }
    for (kind, who, role) in [
        ("person", &clinician, "clinician"),
        ("device", &device, "device"),
    ] {
        let shown = said.success(who.run(&["key", "show"]));
        said.success(operator.run(&[kind, "enrol", &shown, "--role", role]));
    }
    let made = operator.run(&["custody", "new", "--kind", "person"]);
    let custody = made.text("custody").unwrap();
    said.add(&made);
    let payload = place.file("payload", "one heartbeat");
    let stored = device.run(&put_arguments(&payload, &custody));
    let record = stored.text("record").unwrap();
    said.add(&stored);
    let copy = place.path("copy");
    let copy = copy.to_str().unwrap();
    said.success(clinician.run(&["get", &record, "--purpose", "TREAT", "-o", copy]));

    // And badly: without permission, with a wrong passphrase, with none, with a damaged file.
    let denied = clinician.run(&["get", &record, "--purpose", "HMARKT", "-o", "other"]);
    assert_eq!(denied.code, 3, "{}", denied.errors);
    said.add(&denied);
    let intruder = place.user(&clinician.folder, &wrong);
    let refused = intruder.run(&["key", "show"]);
    assert_refused(&refused, 1, "wrong-passphrase");
    said.add(&refused);
    let changed = intruder.run(&["key", "passphrase", "--no-passphrase"]);
    assert_refused(&changed, 1, "wrong-passphrase");
    said.add(&changed);
    let secrets = Secrets::of(&place, &[&operator, &clinician, &device], &custody);
    let identity = device.folder.join("identity.toml");
    said.success(device.run(&["key", "passphrase", "--no-passphrase"]));
    let plain = fs::read_to_string(&identity).unwrap();
    assert!(!secrets.found(plain.as_bytes()).is_empty());
    fs::write(
        &identity,
        plain.replace("signing_seed = \"", "signing_seed = \"0"),
    )
    .unwrap();
    let damaged = device.run(&["key", "show"]);
    assert_refused(&damaged, 1, "failed");
    said.add(&damaged);

    // A node is in no core, neither by its limit nor by what the system is told of it.
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.0.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let numbers: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(numbers, ["0", "0"]);
    let ended = node.signal("ABRT").wait();
    assert_eq!(ended.signal(), Some(6));
    assert!(!ended.core_dumped());
    let left: Vec<_> = fs::read_dir(place.path("cwd")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    // With a wrong passphrase, or none, it does not start, and says so.
    for (arguments, means) in [
        (["--passphrase-file", wrong.to_str().unwrap()], "wrong"),
        (
            ["--passphrase-file", "/nowhere/passphrase"],
            "/nowhere/passphrase",
        ),
    ] {
        let before = place.log().len();
        assert_eq!(place.node(&arguments).wait().code(), Some(1));
        let log = &place.log()[before..];
        assert!(
            log.contains("failed to start") && log.contains(means),
            "{log}"
        );
    }
    let file = place.file("other-passphrase", OTHER_PASSPHRASE);
    let file = file.to_str().unwrap();
    let changed = place
        .node(&["passphrase", "--new-passphrase-file", file])
        .wait();
    assert!(changed.success());
    assert_eq!(place.node(&[]).wait().code(), Some(1));
    // With the new one it has the custody key still.
    let node = place.node(&["--passphrase-file", file]);
    until("the node serves again", || {
        clinician
            .run(&["get", &record, "--purpose", "TREAT", "-o", copy])
            .code
            == 0
    });
    assert_eq!(node.signal("TERM").wait().code(), Some(0));

    let log = place.log();
    assert!(log.contains("DEBUG"), "the log is not read");
    assert_eq!(secrets.found(log.as_bytes()), [""; 0]);
    assert_eq!(secrets.found(&said.0), [""; 0]);
    // They lie nowhere on the node's disk either.
    assert_eq!(secrets.found_below(&place.data()), []);
}

/// Everything that must show nowhere.
struct Secrets(Vec<(&'static str, Vec<u8>)>);

impl Secrets {
    fn of(place: &Place, users: &[&User], custody: &str) -> Self {
        let mut secrets = Self(Vec::new());
        for user in users {
            let home = medanchor_cli::Home::new(&user.folder);
            let home = home.with_passphrase_file(Some(user.passphrase.clone()));
            let keys = home.own_keys().unwrap();
            secrets.add_key("signing seed", &keys.signing.to_seed()[..]);
            secrets.add_key("receiving key", &keys.receiving.to_bytes()[..]);
        }
        let passphrase = medanchor_secrets::Passphrase::read(&place.path("node-passphrase"));
        let passphrase = passphrase.unwrap();
        for name in ["custody-store", "factors"] {
            let file = place.data().join(format!("keys/{name}.key"));
            let text = medanchor_secrets::open(&fs::read(file).unwrap(), &passphrase);
            let text = text.unwrap();
            let digits = text.split_whitespace().next_back().unwrap();
            secrets.add_key("key of the node", &hex::decode(digits).unwrap());
        }
        let copy = place
            .data()
            .join(format!("operator/custody/{custody}-0.toml"));
        let operator = medanchor_cli::Home::new(place.data().join("operator"));
        let operator = operator.with_passphrase_file(Some(place.path("node-passphrase")));
        secrets.add_key("custody key", &custody_key(&operator, &copy)[..]);
        let file = place.data().join("operator/epoch-key.toml");
        let text = medanchor_secrets::open(&fs::read(file).unwrap(), &passphrase).unwrap();
        let text: toml::Table = text.parse().unwrap();
        let digits = text["epoch_private"].as_str().unwrap();
        secrets.add_key("epoch key", &hex::decode(digits).unwrap());
        for passphrase in [
            NODE_PASSPHRASE,
            OWN_PASSPHRASE,
            WRONG_PASSPHRASE,
            OTHER_PASSPHRASE,
        ] {
            secrets.0.push(("passphrase", passphrase.into()));
        }
        secrets
    }

    /// As it may be written: raw, in hexadecimal, in base64, and as a list of numbers.
    fn add_key(&mut self, name: &'static str, key: &[u8]) {
        assert_eq!(key.len(), 32);
        let hex = hex::encode(key);
        let list = format!("{key:?}");
        let forms = [
            hex.to_uppercase(),
            hex,
            data_encoding::BASE64_NOPAD.encode(key),
            data_encoding::BASE64URL_NOPAD.encode(key),
            list.trim_matches(['[', ']']).to_owned(),
        ];
        self.0.push((name, key.to_vec()));
        self.0.extend(forms.map(|form| (name, form.into_bytes())));
    }

    /// Which of them stand in these bytes.
    fn found(&self, bytes: &[u8]) -> Vec<&'static str> {
        let stands = |secret: &Vec<u8>| bytes.windows(secret.len()).any(|window| window == secret);
        let found = self.0.iter().filter(|(_, secret)| stands(secret));
        found.map(|(name, _)| *name).collect()
    }

    fn found_below(&self, folder: &Path) -> Vec<(PathBuf, &'static str)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                all.extend(self.found_below(&path));
            } else {
                let found = self.found(&fs::read(&path).unwrap());
                all.extend(found.into_iter().map(|name| (path.clone(), name)));
            }
        }
        all
    }
}

/// What commands printed.
#[derive(Default)]
struct Said(Vec<u8>);

impl Said {
    fn add(&mut self, ran: &Ran) {
        self.0.extend(ran.json.to_string().into_bytes());
        self.0.extend(ran.errors.as_bytes());
    }

    /// It went well; the did:key that it prints, if any.
    fn success(&mut self, ran: Ran) -> String {
        let ran = ran.success().unwrap();
        self.add(&ran);
        ran.text("did").unwrap_or_default()
    }
}

/// A user whose keys are under a passphrase.
struct User {
    folder: PathBuf,
    home: Home,
    passphrase: PathBuf,
}

impl User {
    fn run(&self, arguments: &[&str]) -> Ran {
        let option = ["--passphrase-file", self.passphrase.to_str().unwrap()];
        self.home.run(option.iter().chain(arguments)).unwrap()
    }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("cwd")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// A file that its owner alone may read.
    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn user(&self, folder: &Path, passphrase: &Path) -> User {
        User {
            folder: folder.to_owned(),
            home: Home::new(folder, Path::new(PROGRAM)),
            passphrase: passphrase.to_owned(),
        }
    }

    fn invite(&self, name: &str, passphrase: &Path) -> User {
        let home = self.path(name);
        let invited = self.node(&["invite", name, "--home", home.to_str().unwrap()]);
        assert!(invited.wait().success());
        self.user(&home, passphrase)
    }

    fn found(&self, addresses: &[SocketAddr], passphrase: &Path) -> Node {
        let options = ["--listen", "--swarm-listen", "--log-listen"];
        let mut arguments = vec![
            "--passphrase-file".to_owned(),
            passphrase.to_str().unwrap().to_owned(),
        ];
        for (option, address) in options.iter().zip(addresses) {
            arguments.extend([(*option).to_owned(), address.to_string()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.node(&arguments)
    }

    /// `medanchord` where cores may be as large as they like, with all that it logs in one file.
    fn node(&self, arguments: &[&str]) -> Node {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let program = [PROGRAM, "medanchord", "--data"].map(OsString::from);
        let unlimited = "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$@\"";
        let child = Command::new("sh")
            .args(["-c", unlimited, "sh"])
            .args(program)
            .arg(self.data())
            .args(arguments)
            .env("MEDANCHOR_LOG", "debug")
            .env_remove("MEDANCHOR_PASSPHRASE_FILE")
            .current_dir(self.path("cwd"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        Node(child.unwrap())
    }
}

struct Node(Child);

impl Node {
    fn signal(self, signal: &str) -> Self {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status();
        assert!(sent.unwrap().success());
        self
    }

    fn wait(mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const NODE_PASSPHRASE: &str = "canary of the node's passphrase";
const OWN_PASSPHRASE: &str = "canary of somebody's passphrase";
const WRONG_PASSPHRASE: &str = "canary that opens nothing at all";
const OTHER_PASSPHRASE: &str = "canary that comes after the first";
