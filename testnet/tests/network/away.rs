use crate::{
    author::Author,
    stage::{Stage, configure, until},
};
use medanchor_anchor::{Body, Enrolled, PrincipalKind, SignedStatement, Statement};
use medanchor_dag::SigningKey;
use medanchor_node::Folder;
use medanchor_testnet::Network;
use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

#[test]
fn node_that_was_away_gets_a_snapshot_and_then_the_rest() {
    let mut stage = Stage::start_with(3, frequent_snapshots);
    let author = Author::of(&stage.hospital);
    let leader = stage.status().text("leader").unwrap();
    let mut away = ["hospital-b", "hospital-c"].into_iter();
    let away = away.find(|name| *name != leader).unwrap();
    stage.network.process(away).unwrap().kill().unwrap();

    // What it lacks is purged: the others have certified a snapshot far beyond it.
    for number in 0..90 {
        author.submit_now(&enrolment(&author, number));
    }
    let others: Vec<String> = stage
        .network
        .nodes
        .iter()
        .map(|node| node.name.clone())
        .collect();
    for name in others.iter().filter(|name| *name != away) {
        until("a snapshot is certified", || {
            newest(&stage.log(name), "the snapshot is certified") >= Some(60)
        });
    }

    // It dies in the middle of it, and a second time it is done.
    assert!(!stage.log(away).contains("installing a snapshot"));
    let node = stage.network.process(away).unwrap();
    node.start().unwrap();
    let log = node.log();
    until("a snapshot arrives", || {
        fs::read_to_string(&log)
            .unwrap()
            .contains("installing a snapshot")
    });
    stage.network.process(away).unwrap().kill().unwrap();
    for number in 90..100 {
        author.submit_now(&enrolment(&author, number));
    }
    stage.network.process(away).unwrap().start().unwrap();
    stage.network.wait_until_ready().unwrap();
    stage.assert_replicas_agree();
}

#[test]
fn node_that_lost_its_replica_does_not_start() {
    let mut stage = Stage::start(3);
    stage.stop_cleanly("hospital-c");
    let node = stage.network.process("hospital-c").unwrap();
    fs::remove_dir_all(Folder::new(node.folder()).raft()).unwrap();
    node.start().unwrap();
    let mut ended = None;
    until("it ends", || {
        ended = node.ended().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(1));
    let log = fs::read_to_string(node.log()).unwrap();
    assert!(log.contains("join again as a new member"), "{log}");
    assert!(!Folder::new(node.folder()).raft().exists());
}

impl Stage {
    fn log(&self, name: &str) -> String {
        let mut nodes = self.network.nodes.iter();
        let node = nodes.find(|node| node.name == name).unwrap();
        fs::read_to_string(node.log()).unwrap()
    }
}

impl Author {
    /// Submits, and does not wait for a receipt.
    fn submit_now(&self, signed: &SignedStatement) {
        self.block_on(self.session.client.submit(signed, None))
            .unwrap();
    }
}

fn frequent_snapshots(network: &Network) {
    configure(network, |config| {
        config.snapshot_every = Some(20);
    });
}

/// Somebody of the author's organisation, another one for each number.
pub(crate) fn enrolment(author: &Author, number: u128) -> SignedStatement {
    let body = Body::Enrolled(Box::new(Enrolled {
        who: SigningKey::generate().unwrap().did(),
        kind: PrincipalKind::Person,
        org: author.keys.signing.did(),
        roles: vec!["clinician".to_owned()],
        label: None,
        device: None,
    }));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let not_after = u64::try_from(now.as_millis()).unwrap() + 3_600_000;
    let origin = &author.session.origin;
    let statement = Statement::new(origin, body, number.to_be_bytes(), not_after);
    statement.sign(&[&author.keys.signing])
}

/// The last `index=` in a line of the log that says `what`.
fn newest(log: &str, what: &str) -> Option<u64> {
    let line = log.lines().rfind(|line| line.contains(what))?;
    let (_, rest) = line.split_once("index=")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
