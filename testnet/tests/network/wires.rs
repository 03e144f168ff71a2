//! A loopback capture: connections that go through this process.

use crate::stage::configure;
use medanchor_testnet::{Home, Network};
use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What went one way through one connection.
type Wire = Arc<Mutex<Vec<u8>>>;

/// Connections that are listened to.
#[derive(Clone, Default)]
pub(crate) struct Wires(Arc<Mutex<Vec<Wire>>>);

impl Wires {
    /// Has every node reach the others, by swarm and by gRPC, through a wire that is listened to.
    pub(crate) fn between(&self, network: &Network) {
        configure(network, |config| {
            let others = config.members.iter_mut();
            for member in others.filter(|member| member.name != config.name) {
                member.swarm = self.to(member.swarm);
                member.address = self.to(member.address);
            }
        });
    }

    /// Has a user reach every node likewise.
    pub(crate) fn before(&self, user: &Home) {
        let path = user.path().join("client.toml");
        let mut client: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        for node in client["nodes"].as_array_mut().unwrap() {
            let address = node["address"].as_str().unwrap().parse().unwrap();
            node["address"] = self.to(address).to_string().into();
        }
        fs::write(path, client.to_string()).unwrap();
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

    pub(crate) fn bytes(&self) -> usize {
        let wires = self.0.lock().unwrap();
        wires.iter().map(|wire| wire.lock().unwrap().len()).sum()
    }

    /// What went in one direction of each connection.
    pub(crate) fn captured(&self) -> Vec<Vec<u8>> {
        let wires = self.0.lock().unwrap();
        wires
            .iter()
            .map(|wire| wire.lock().unwrap().clone())
            .collect()
    }
}
