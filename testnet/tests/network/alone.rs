use crate::stage::{PROGRAM, Turn, did, done, enrol, get, put_arguments, until};
use medanchor_testnet::Home;
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

#[test]
fn node_without_config_serves_and_restart_keeps_its_state() {
    let _turn = Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let operator = Home::new(data.join("operator"), Path::new(PROGRAM));

    let node = Node::start(&data, &free_addresses());
    serves(&operator);
    let device = Home::new(folder.path().join("device"), Path::new(PROGRAM));
    invite(&data, &device);
    enrol(&operator, "device", &device, "device");
    let made = done(operator.run(["custody", "new", "--kind", "person"]));
    let custody = made.text("custody").unwrap();
    let clinician = Home::new(folder.path().join("clinician"), Path::new(PROGRAM));
    invite(&data, &clinician);
    enrol(&operator, "person", &clinician, "clinician");
    let payload = folder.path().join("payload");
    fs::write(&payload, b"one heartbeat").unwrap();
    let stored = done(device.run(put_arguments(&payload, &custody)));
    let record = stored.text("record").unwrap();
    let before = done(operator.run(["status"]));
    node.terminate();

    // The config says where it listens now.
    let node = Node::start(&data, &[]);
    serves(&operator);
    let after = done(operator.run(["status"]));
    assert_eq!(after.json["tree_size"], before.json["tree_size"]);
    assert_eq!(after.json["did"], before.json["did"]);
    let copy = folder.path().join("copy");
    done(get(&clinician, &record, "TREAT", &copy));
    assert_eq!(fs::read(copy).unwrap(), b"one heartbeat");
    node.terminate();
}

#[test]
fn node_that_cannot_write_ends_with_a_code_of_its_own_and_comes_back() {
    let _turn = Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let operator = Home::new(data.join("operator"), Path::new(PROGRAM));
    let device = Home::new(folder.path().join("device"), Path::new(PROGRAM));
    let mut node = Node::start(&data, &free_addresses());
    serves(&operator);
    invite(&data, &device);

    // What it co-signs next has no place to be written to.
    let mut cosigned = fs::read_dir(data.join("cosigned")).unwrap();
    let record = cosigned.next().unwrap().unwrap().path();
    let obstacle = record.with_extension("new");
    fs::create_dir(&obstacle).unwrap();
    let enrolment = ["device", "enrol", &did(&device), "--role", "device"];
    let refused = operator.run(enrolment).unwrap();
    assert_ne!(refused.code, 0, "{}", refused.json);
    assert_eq!(node.0.wait().unwrap().code(), Some(74));

    fs::remove_dir(obstacle).unwrap();
    let node = Node::start(&data, &[]);
    serves(&operator);
    let other = Home::new(folder.path().join("other"), Path::new(PROGRAM));
    invite(&data, &other);
    enrol(&operator, "device", &other, "device");
    node.terminate();
}

struct Node(Child);

impl Node {
    fn start(data: &Path, listen: &[SocketAddr]) -> Self {
        let flags = ["--listen", "--swarm-listen", "--log-listen"]
            .iter()
            .zip(listen);
        let mut command = Command::new(PROGRAM);
        command
            .args(["medanchord", "--no-passphrase", "--data"])
            .arg(data);
        for (flag, address) in flags {
            command.arg(flag).arg(address.to_string());
        }
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }

    fn terminate(mut self) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.unwrap().success());
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn invite(data: &Path, who: &Home) {
    let invited = Command::new(PROGRAM)
        .args(["medanchord", "--data"])
        .arg(data)
        .args(["invite", "somebody", "--home"])
        .arg(who.path())
        .status();
    assert!(invited.unwrap().success());
    done(who.run(["key", "new", "--no-passphrase"]));
}

fn serves(operator: &Home) {
    until("the node serves", || {
        let status = operator.run(["status"]).unwrap();
        status.code == 0 && status.json["published_size"].as_u64() > Some(0)
    });
}

fn free_addresses() -> [SocketAddr; 3] {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    [bind(), bind(), bind()].map(|listener| listener.local_addr().unwrap())
}
