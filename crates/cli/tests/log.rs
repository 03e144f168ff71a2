//! The commands that read a log from outside, against servers that lie.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what goes wrong here is a failed test"
)]

use medanchor_anchor::{
    Checkpoint, Kind, Leaf, MemoryTables, Outcome, SignatureKind, Table, Tables, Tile, TrustPolicy,
    VerifierKey, cosign, tree,
};
use medanchor_dag::{Hash, SigningKey};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    time::Instant,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
        version::TLS13,
    },
};

#[test]
fn fsck_recomputes_an_honest_log() {
    for size in [1, 255, 256, 257, 600, 66_000] {
        let server = Server::start(Log::new(size, "honest"));
        let checked = server.run(&["fsck"]);
        assert_eq!(checked.code, 0, "{size}: {checked:?}");
        assert_eq!(checked.last()["tree_size"], size);
    }
}

#[test]
fn fsck_says_what_is_wrong_and_where() {
    let entries = "the entries make the checkpoint's root";
    let tiles = "the hash tiles make the checkpoint's root";
    let both = "only what is named is wrong";
    for (path, change, at, leaf, verdict) in [
        (
            "tile/entries/001",
            Change::LastByte,
            "tile/entries/001",
            511,
            tiles,
        ),
        (
            "tile/entries/002.p/88",
            Change::Missing,
            "tile/entries/002.p/88",
            512,
            both,
        ),
        (
            "tile/entries/001",
            Change::Cut,
            "tile/entries/001",
            256,
            both,
        ),
        ("tile/0/001", Change::LastByte, "tile/0/001", 511, entries),
        ("tile/0/001", Change::Cut, "tile/0/001", 256, both),
        ("tile/0/000", Change::Missing, "tile/0/000", 0, both),
        (
            "tile/0/002.p/88",
            Change::LastByte,
            "tile/0/002.p/88",
            599,
            entries,
        ),
        (
            "tile/1/000.p/2",
            Change::LastByte,
            "tile/1/000.p/2",
            256,
            both,
        ),
        ("tile/1/000.p/2", Change::Missing, "tile/1/000.p/2", 0, both),
    ] {
        let server = Server::start(Log::new(600, "honest"));
        server.change(path, change);
        let checked = server.run(&["fsck"]);
        assert_eq!(checked.code, 4, "{path} {change:?}: {checked:?}");
        let found = checked.lines.first().unwrap();
        assert_eq!((&found["ok"], &found["at"]), (&false.into(), &at.into()));
        assert_eq!(found["leaf_index"], leaf, "{path} {change:?}: {found}");
        let last = checked.last();
        assert_eq!(last["code"], "not-verified");
        assert!(
            last["error"].as_str().unwrap().contains(verdict),
            "{path} {change:?}: {last}"
        );
    }
}

/// What a run was given, in order.
fn bundles(server: &Server) -> Vec<String> {
    let asked = server.asked();
    let bundles = asked
        .into_iter()
        .filter(|path| path.starts_with("tile/entries/"));
    bundles.collect()
}

#[test]
fn fsck_that_could_not_go_on_is_taken_up_where_it_was() {
    let server = Server::start(Log::new(66_000, "honest"));
    server.change("tile/entries/100", Change::Denied);
    assert_eq!(server.run(&["fsck"]).code, 3);
    server.heal();
    server.forget_asked();
    let checked = server.run(&["fsck"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert_eq!(checked.last()["resumed_from"], 100 * 256);
    assert_eq!(checked.last()["tree_size"], 66_000);
    let bundles = bundles(&server);
    assert_eq!(bundles.len(), 258 - 100);
    assert!(!bundles.contains(&"tile/entries/099".to_owned()));
    // What ended well is not resumed: the next run reads everything.
    let again = server.run(&["fsck"]);
    assert_eq!(again.last()["resumed_from"], 0);
    assert_eq!(again.last()["pieces"], checked.last()["pieces"]);
    assert_eq!(again.last()["size_bytes"], checked.last()["size_bytes"]);
}

#[test]
fn fsck_takes_up_a_log_that_grew_meanwhile() {
    let server = Server::start(Log::new(30_000, "honest"));
    server.change("tile/entries/100", Change::Denied);
    assert_eq!(server.run(&["fsck"]).code, 3);
    server.heal();
    server.show(Log::new(66_000, "honest"));
    let checked = server.run(&["fsck"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert_eq!(checked.last()["resumed_from"], 100 * 256);
    assert_eq!(checked.last()["tree_size"], 66_000);
}

#[test]
fn fsck_begins_afresh_when_what_it_had_verified_is_not_of_the_log() {
    let begin = || {
        let server = Server::start(Log::new(3_000, "honest"));
        server.change("tile/entries/010", Change::Denied);
        assert_eq!(server.run(&["fsck"]).code, 3);
        server.heal();
        server
    };
    let kept = |server: &Server| {
        let logs = folders(&server.home.path().join("checkpoints"));
        let mut files = logs.iter().flat_map(|log| folders(log));
        files
            .find(|path| path.to_string_lossy().contains("fsck-"))
            .unwrap()
    };

    // A log whose checkpoints this home has never seen: only the state knows the other one.
    let server = begin();
    let newest = kept(&server).with_file_name("newest");
    fs::remove_file(newest).unwrap();
    server.show(Log::new(3_000, "another"));
    let checked = server.run(&["fsck"]);
    assert_eq!(
        (checked.code, &checked.last()["resumed_from"]),
        (0, &0.into())
    );

    let server = begin();
    let mut bytes = fs::read(kept(&server)).unwrap();
    bytes[100] ^= 1;
    fs::write(kept(&server), bytes).unwrap();
    let checked = server.run(&["fsck"]);
    assert_eq!(
        (checked.code, &checked.last()["resumed_from"]),
        (0, &0.into())
    );

    let server = begin();
    let checked = server.run(&["fsck", "--afresh"]);
    assert_eq!(
        (checked.code, &checked.last()["resumed_from"]),
        (0, &0.into())
    );
}

#[test]
fn fsck_that_found_something_finds_it_again_when_it_is_taken_up() {
    let server = Server::start(Log::new(3_000, "honest"));
    server.change("tile/0/004", Change::LastByte);
    server.change("tile/entries/009", Change::Denied);
    let first = server.run(&["fsck"]);
    assert_eq!(first.code, 3, "{first:?}");
    assert_eq!(first.lines[0]["at"], "tile/0/004");
    server.heal();
    server.change("tile/0/004", Change::LastByte);
    let second = server.run(&["fsck"]);
    assert_eq!(second.code, 4, "{second:?}");
    assert_eq!(second.lines[0]["at"], "tile/0/004");
}

#[test]
fn fsck_that_is_killed_or_interrupted_is_taken_up() {
    for signal in ["-KILL", "-INT"] {
        let server = Server::start(Log::new(66_000, "honest"));
        server.change("tile/entries/200", Change::Stalled);
        let mut words = server.words(&server.url, server.home.path(), &["fsck"]);
        let mut run = Command::new(env!("CARGO_BIN_EXE_medanchor"))
            .args(words.split_off(1))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It reads a few ahead, and nothing beyond is asked for before all before it are verified.
        wait_for(|| server.asked().contains(&"tile/entries/207".to_owned()));
        let killed = Command::new("kill")
            .args([signal, &run.id().to_string()])
            .status();
        assert!(killed.unwrap().success());
        let ended = run.wait().unwrap();
        assert_eq!(ended.code(), (signal == "-INT").then_some(1));
        server.heal();
        let checked = server.run(&["fsck"]);
        assert_eq!(checked.code, 0, "{checked:?}");
        let resumed = checked.last()["resumed_from"].as_u64().unwrap();
        match signal {
            "-INT" => assert_eq!(resumed, 200 * 256),
            // At most what lies between two writes is verified again.
            _ => assert_eq!(resumed, 3 * 16_384),
        }
    }
}

#[test]
fn fsck_knows_a_checkpoint_of_another_log() {
    let mut log = Log::new(600, "honest");
    log.checkpoint = Log::new(600, "another").checkpoint;
    let server = Server::start(log);
    let checked = server.run(&["fsck"]);
    assert_eq!((checked.code, checked.lines.len()), (4, 1), "{checked:?}");
    let said = checked.last()["error"].as_str().unwrap();
    assert!(said.contains("it is of another log"), "{said}");
}

#[test]
fn fsck_finds_a_leaf_that_goes_back_in_time_or_is_none() {
    for (leaf, problem) in [
        (leaf(3, "late", 1), "older than the one before"),
        (b"not a leaf".to_vec(), "not a leaf"),
    ] {
        let mut leaves: Vec<_> = (0..9).map(|index| leaf_of(index, "honest")).collect();
        leaves[5] = leaf;
        let server = Server::start(Log::of(&leaves));
        let checked = server.run(&["fsck"]);
        assert_eq!(checked.code, 4, "{checked:?}");
        let found = checked.lines.first().unwrap();
        assert_eq!(found["leaf_index"], 5);
        assert!(
            found["problem"].as_str().unwrap().contains(problem),
            "{found}"
        );
    }
}

#[test]
fn refusal_and_silence_have_their_exit_codes() {
    let server = Server::start(Log::new(600, "honest"));
    server.change("tile/entries/001", Change::Denied);
    assert_eq!(server.run(&["fsck"]).code, 3);
    server.change("checkpoint", Change::Missing);
    assert_eq!(server.run(&["fsck"]).code, 1);
    let home = tempfile::tempdir().unwrap();
    let nobody = server.run_at("https://127.0.0.1:1", home.path(), &["monitor", "--once"]);
    assert_eq!(nobody.code, 5, "{nobody:?}");
}

#[test]
fn unpublished_checkpoint_is_not_believed() {
    let mut log = Log::new(9, "honest");
    log.checkpoint = log.sign(0);
    let server = Server::start(log);
    for command in [
        &["fsck"] as &[&str],
        &["monitor", "--once"],
        &["consistency", "1"],
    ] {
        assert_eq!(server.run(command).code, 4, "{command:?}");
    }
}

#[test]
fn monitor_takes_growth_and_remembers_it() {
    let server = Server::start(Log::new(300, "honest"));
    for size in [300, 300, 301, 600] {
        server.show(Log::new(size, "honest"));
        let seen = server.run(&["monitor", "--once"]);
        assert_eq!(seen.code, 0, "{size}: {seen:?}");
        assert_eq!(seen.last()["tree_size"], size);
    }
    assert_eq!(server.evidence(), Vec::<(String, String)>::new());
}

#[test]
fn monitor_alarms_on_forks_and_rollbacks_and_keeps_both_checkpoints() {
    for (size, salt) in [
        (300, "another"),
        (301, "another"),
        (600, "another"),
        (299, "another"),
        (299, "honest"),
        (1, "honest"),
    ] {
        let honest = Log::new(300, "honest");
        let kept = honest.checkpoint.clone();
        let server = Server::start(honest);
        assert_eq!(server.run(&["monitor", "--once"]).code, 0);
        let lie = Log::new(size, salt);
        let shown = lie.checkpoint.clone();
        server.show(lie);
        // Again and again: the lie never becomes what is known.
        for _ in 0..2 {
            let seen = server.run(&["monitor", "--once"]);
            assert_eq!(seen.code, 4, "{size} {salt}: {seen:?}");
            let evidence = server.evidence();
            assert!(
                evidence.contains(&(kept.clone(), shown.clone())),
                "{size} {salt}"
            );
        }
        server.show(Log::new(400, "honest"));
        assert_eq!(server.run(&["monitor", "--once"]).code, 0, "{size} {salt}");
    }
}

#[test]
fn every_command_knows_what_the_others_were_shown() {
    let server = Server::start(Log::new(300, "honest"));
    assert_eq!(server.run(&["fsck"]).code, 0);
    server.show(Log::new(600, "another"));
    for command in [
        &["fsck"] as &[&str],
        &["monitor", "--once"],
        &["consistency", "kept"],
    ] {
        let refused = server.run(command);
        assert_eq!(refused.code, 4, "{command:?}: {refused:?}");
    }
}

#[test]
fn commands_that_read_a_log_say_what_is_weak_in_the_policy() {
    let server = Server::start(Log::new(3, "honest"));
    for command in [
        &["fsck"] as &[&str],
        &["monitor", "--once"],
        &["consistency", "1"],
    ] {
        let mut words = server.words(&server.url, server.home.path(), command);
        let mut run = Command::new(env!("CARGO_BIN_EXE_medanchor"));
        let ran = run.args(words.split_off(1)).output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(ran.status.success(), "{command:?}: {said}");
        let warning = said.lines().filter(|line| line.contains("trust policy: "));
        assert_eq!(warning.count(), 1, "{command:?}: {said}");
    }
}

#[test]
fn consistency_is_proved_between_sizes_and_files() {
    let server = Server::start(Log::new(600, "honest"));
    for (old, new) in [
        ("1", "600"),
        ("0", "7"),
        ("256", "257"),
        ("255", "newest"),
        ("600", "600"),
    ] {
        let proved = server.run(&["consistency", old, new]);
        assert_eq!(proved.code, 0, "{old} {new}: {proved:?}");
        let proved = proved.last();
        let root = tree::root(
            &Log::new(600, "honest").tables,
            proved["old_size"].as_u64().unwrap(),
        );
        assert_eq!(proved["old_root"], root.unwrap().to_string());
    }
    for (old, new) in [("7", "6"), ("1", "601")] {
        assert_eq!(
            server.run(&["consistency", old, new]).code,
            2,
            "{old} {new}"
        );
    }
    for (salt, code) in [("honest", 0), ("another", 4)] {
        let file = server.home.path().join(salt);
        fs::write(&file, Log::new(100, salt).checkpoint).unwrap();
        let proved = server.run(&["consistency", file.to_str().unwrap()]);
        assert_eq!(proved.code, code, "{salt}: {proved:?}");
    }
}

#[test]
fn changed_tiles_prove_nothing() {
    for path in ["tile/0/001.p/44", "tile/1/000.p/1"] {
        let server = Server::start(Log::new(300, "honest"));
        server.change(path, Change::LastByte);
        assert_eq!(server.run(&["consistency", "299"]).code, 4, "{path}");
    }
}

/// What a server does to a piece.
#[derive(Clone, Copy, Debug)]
enum Change {
    LastByte,
    Cut,
    Missing,
    Denied,
    Stalled,
}

/// A log with everything that is served of it.
struct Log {
    tables: MemoryTables,
    size: u64,
    checkpoint: String,
}

impl Log {
    /// Logs of different salts share their first leaf alone.
    fn new(size: u64, salt: &str) -> Self {
        let leaves: Vec<_> = (0..size).map(|index| leaf_of(index, salt)).collect();
        Self::of(&leaves)
    }

    fn of(leaves: &[Vec<u8>]) -> Self {
        let mut tables = MemoryTables::default();
        for (index, leaf) in (0..).zip(leaves) {
            let key = u64::to_be_bytes(index);
            tables.put(Table::Leaves, &key, leaf).unwrap();
            tree::append(&mut tables, index, leaf).unwrap();
        }
        let mut log = Self {
            tables,
            size: leaves.len().try_into().unwrap(),
            checkpoint: String::new(),
        };
        log.checkpoint = log.sign(1);
        log
    }

    fn sign(&self, cosigners: usize) -> String {
        let checkpoint = Checkpoint {
            origin: ORIGIN.to_owned(),
            size: self.size,
            root: tree::root(&self.tables, self.size).unwrap(),
        };
        let mut note = checkpoint.sign(&log_key()).unwrap();
        for _ in 0..cosigners {
            let signature = cosign(&note, WITNESS, &witness_key(), 1_000).unwrap();
            note.add(signature).unwrap();
        }
        note.to_string()
    }

    fn piece(&self, path: &str) -> Option<Vec<u8>> {
        if path == "checkpoint" {
            return Some(self.checkpoint.clone().into_bytes());
        }
        let tile: Tile = path.parse().ok()?;
        tile.read(&self.tables).unwrap()
    }
}

fn leaf_of(index: u64, salt: &str) -> Vec<u8> {
    let salt = if index == 0 { "both" } else { salt };
    leaf(index, salt, 1_792_000_000_000 + index)
}

fn leaf(index: u64, salt: &str, at: u64) -> Vec<u8> {
    let leaf = Leaf {
        v: 1,
        kind: Kind::Suspended,
        at,
        outcome: Outcome::Ok,
        record: None,
        opening: Hash::of(format!("{salt} {index}").as_bytes()),
    };
    leaf.to_bytes()
}

/// Serves a log over HTTPS, and is asked by a client with a home of its own.
struct Server {
    served: Arc<Mutex<Served>>,
    url: String,
    home: TempDir,
    _runtime: Runtime,
}

struct Served {
    log: Log,
    changes: BTreeMap<String, Change>,
    asked: Vec<String>,
}

#[derive(Debug)]
struct Ran {
    code: u8,
    lines: Vec<Value>,
}

impl Ran {
    fn last(&self) -> &Value {
        self.lines.last().unwrap()
    }
}

impl Server {
    fn start(log: Log) -> Self {
        let home = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(home.path().join("ca.pem"), certificate.pem()).unwrap();
        let tls = tls(certificate.der().clone(), &key);
        let log_line = VerifierKey::new(ORIGIN, SignatureKind::Ed25519, log_key().did()).unwrap();
        let witness = SignatureKind::Cosignature;
        let witness = VerifierKey::new(WITNESS, witness, witness_key().did()).unwrap();
        let policy = TrustPolicy::new(&[log_line], &[witness], 1).unwrap();
        fs::write(home.path().join("policy.txt"), policy.to_string()).unwrap();

        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let served = Arc::new(Mutex::new(Served {
            log,
            changes: BTreeMap::new(),
            asked: Vec::new(),
        }));
        let shared = Arc::clone(&served);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, tls.clone(), Arc::clone(&shared)));
            }
        });
        Self {
            served,
            url,
            home,
            _runtime: runtime,
        }
    }

    fn change(&self, path: &str, change: Change) {
        let mut served = self.served.lock().unwrap();
        served.changes.insert(path.to_owned(), change);
    }

    fn heal(&self) {
        self.served.lock().unwrap().changes.clear();
    }

    fn asked(&self) -> Vec<String> {
        self.served.lock().unwrap().asked.clone()
    }

    fn forget_asked(&self) {
        self.served.lock().unwrap().asked.clear();
    }

    fn show(&self, log: Log) {
        self.served.lock().unwrap().log = log;
    }

    /// Runs `medanchor log` with this server's URL.
    fn run(&self, command: &[&str]) -> Ran {
        self.run_at(&self.url, self.home.path(), command)
    }

    fn words(&self, url: &str, home: &Path, command: &[&str]) -> Vec<OsString> {
        let file = |name: &str| self.home.path().join(name).into_os_string();
        let mut words: Vec<OsString> = ["medanchor", "--json", "--home"].map(Into::into).into();
        words.push(home.into());
        words.push("log".into());
        words.extend(command.iter().map(Into::into));
        words.extend(["--url".into(), url.into(), "--ca".into(), file("ca.pem")]);
        words.extend(["--policy".into(), file("policy.txt")]);
        words
    }

    fn run_at(&self, url: &str, home: &Path, command: &[&str]) -> Ran {
        let words = self.words(url, home, command);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = medanchor_cli::run(words, &mut out, &mut err);
        let out = String::from_utf8(out).unwrap();
        let lines = out.lines().map(|line| serde_json::from_str(line).unwrap());
        Ran {
            code: exit.code(),
            lines: lines.collect(),
        }
    }

    /// Pairs of checkpoints that were kept as evidence: what was known, and what was shown.
    fn evidence(&self) -> Vec<(String, String)> {
        let logs = folders(&self.home.path().join("checkpoints"));
        let evidence = logs.iter().flat_map(|log| folders(&log.join("evidence")));
        let read = |folder: PathBuf| {
            let file = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
            (file("kept"), file("shown"))
        };
        evidence.map(read).collect()
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn tls(certificate: CertificateDer<'static>, key: &KeyPair) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// As little HTTP/1.1 as the client needs.
async fn serve(stream: TcpStream, tls: TlsAcceptor, served: Arc<Mutex<Served>>) {
    let Ok(mut stream) = tls.accept(stream).await else {
        return;
    };
    let mut request = Vec::new();
    loop {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => request.extend(byte),
            _ => return,
        }
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut request)).unwrap();
        let path = text
            .strip_prefix("GET /")
            .and_then(|rest| rest.split_once(' '));
        let (path, _) = path.unwrap_or_else(|| panic!("not a request: {text}"));
        let answered = answer(&mut served.lock().unwrap(), path);
        let Some((status, body)) = answered else {
            return std::future::pending().await;
        };
        let head = format!(
            "HTTP/1.1 {status} .\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(&[head.into_bytes(), body].concat())
            .await
            .unwrap();
        stream.flush().await.unwrap();
    }
}

/// `None`: it never answers.
fn answer(served: &mut Served, path: &str) -> Option<(u16, Vec<u8>)> {
    served.asked.push(path.to_owned());
    let Some(mut body) = served.log.piece(path) else {
        return Some((404, Vec::new()));
    };
    match served.changes.get(path) {
        Some(Change::LastByte) => *body.last_mut().unwrap() ^= 1,
        Some(Change::Cut) => body.truncate(body.len() - 1),
        Some(Change::Missing) => return Some((404, Vec::new())),
        Some(Change::Denied) => return Some((403, Vec::new())),
        Some(Change::Stalled) => return None,
        None => (),
    }
    Some((200, body))
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn log_key() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

fn witness_key() -> SigningKey {
    SigningKey::from_seed(&[2; 32])
}

const ORIGIN: &str = "anchor.example/log";
const WITNESS: &str = "anchor.example/witness";
