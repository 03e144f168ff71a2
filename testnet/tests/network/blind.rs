use crate::stage::{Stage, configure, done, until};
use medanchor_testnet::Network;
use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

#[test]
fn node_without_custody_keys_sees_neither_plaintext_nor_keys() {
    let wires = Wires::default();
    let stage = Stage::start_with(3, |network| wires.between(network));
    let device = stage.device("device");
    let payload = CANARY.repeat(20_000);
    let file = stage.file(&format!("{NAME_CANARY}.dat"), payload.as_bytes());
    let record = done(Ok(stage.put(&device, &file))).text("record").unwrap();
    assert!(stage.read(&record) == payload.as_bytes());
    // Other nodes hold the record: its blocks went over the swarm.
    until("the record is replicated", || wires.bytes() > payload.len());

    let mut secrets: Vec<(&str, Vec<u8>)> = vec![
        ("plaintext", CANARY.into()),
        ("file name", NAME_CANARY.into()),
    ];
    // A content key never leaves the code that seals and opens; whoever has one of these has it.
    for (name, home) in [("device", &device), ("clinician", &stage.clinician)] {
        let keys = medanchor_cli::Home::new(home.path()).own_keys().unwrap();
        for key in [keys.signing.to_seed(), keys.receiving.to_bytes()] {
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            secrets.push((name, hex.into_bytes()));
            secrets.push((name, key.to_vec()));
        }
    }
    // The search finds what is there.
    assert_eq!(found(&payload.into_bytes(), &secrets), ["plaintext"]);
    assert!(
        found_below(device.path(), &secrets)
            .iter()
            .any(|(_, what)| *what == "device")
    );

    for node in &stage.network.nodes[1..] {
        assert_eq!(found_below(node.folder(), &secrets), [], "{}", node.name);
    }
    for bytes in wires.captured() {
        assert_eq!(found(&bytes, &secrets), [""; 0]);
    }
}

/// What went one way through one connection.
type Wire = Arc<Mutex<Vec<u8>>>;

/// What goes between nodes.
#[derive(Clone, Default)]
struct Wires(Arc<Mutex<Vec<Wire>>>);

impl Wires {
    /// Has every node reach the others, by swarm and by gRPC, through a wire that is listened to.
    fn between(&self, network: &Network) {
        configure(network, |config| {
            let others = config.members.iter_mut();
            for member in others.filter(|member| member.name != config.name) {
                member.swarm = self.to(member.swarm);
                member.address = self.to(member.address);
            }
        });
    }

    fn to(&self, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let wires = self.clone();
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let Ok(far) = TcpStream::connect(target) else {
                    continue;
                };
                let clone = |socket: &TcpStream| socket.try_clone().unwrap();
                wires.record(clone(&near), clone(&far));
                wires.record(far, near);
            }
        });
        address
    }

    fn record(&self, mut from: TcpStream, mut to: TcpStream) {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        self.0.lock().unwrap().push(Arc::clone(&bytes));
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                bytes.lock().unwrap().extend(&buffer[..read]);
                if to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            // Fails when the other side is gone already.
            let _ = to.shutdown(Shutdown::Write);
        });
    }

    fn bytes(&self) -> usize {
        let wires = self.0.lock().unwrap();
        wires.iter().map(|wire| wire.lock().unwrap().len()).sum()
    }

    /// What went in one direction of each connection.
    fn captured(&self) -> Vec<Vec<u8>> {
        let wires = self.0.lock().unwrap();
        wires
            .iter()
            .map(|wire| wire.lock().unwrap().clone())
            .collect()
    }
}

/// Which of the secrets stand in these bytes.
fn found<'a>(bytes: &[u8], secrets: &[(&'a str, Vec<u8>)]) -> Vec<&'a str> {
    let stands = |secret: &Vec<u8>| bytes.windows(secret.len()).any(|window| window == secret);
    let found = secrets.iter().filter(|(_, secret)| stands(secret));
    found.map(|(name, _)| *name).collect()
}

fn found_below<'a>(folder: &Path, secrets: &[(&'a str, Vec<u8>)]) -> Vec<(PathBuf, &'a str)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(found_below(&path, secrets));
        } else if path.is_file() {
            let found = found(&fs::read(&path).unwrap(), secrets);
            all.extend(found.into_iter().map(|what| (path.clone(), what)));
        }
    }
    all
}

const CANARY: &str = "a canary sings in the ECG of nobody";
const NAME_CANARY: &str = "canary-in-the-name-of-a-file";
