//! Snapshots between replicas: what an honest leader offers is installed, and what a lying one offers is not.

use super::cluster::{Cluster, Remains, append, assert_holds, identity};
use crate::codec::meta_to_pb;
use crate::snapshot::SnapshotFile;
use crate::{Alarm, NodeId, Replica, ReplicaConfig};
use medanchor_anchor::{Appended, Digested, Read as _, StateDigest, testing};
use medanchor_api::pb::raft::{self as pb, install_snapshot_request::Part};
use medanchor_dag::{Hash, SigningKey};
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::{Code, Request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_snapshot_the_same_bytes_at_the_same_entries() {
    let cluster = Cluster::founded(3, frequent).await;
    let leader = cluster.leader().await;
    let names = (0..35).map(|n| format!("person-{n}"));
    append(cluster.replica(leader), names).await;
    cluster.assert_equal().await;
    // One entry and one leaf for each statement: snapshots are due after 10, 20 and 40 of both, then after 80.
    let mut contents = Vec::new();
    for node in cluster.nodes.values() {
        certified(&node.replica, 15).await;
        let path = node.dir.path().join("snapshot");
        let (meta, file) = SnapshotFile::verify(File::open(path).unwrap()).unwrap();
        let mut content = Vec::new();
        file.content().read_to_end(&mut content).unwrap();
        contents.push((meta, content));
    }
    assert_eq!(contents[0], contents[1]);
    assert_eq!(contents[0], contents[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_of_a_lying_leader_is_refused_and_changes_nothing() {
    let Attack {
        cluster,
        honest,
        content,
        acknowledged,
    } = Attack::prepare().await;
    let said = honest.said();
    let another = Digested {
        digest: Hash::of(b"another state"),
        ..said
    };
    let key = |node_id| identity(node_id).key;
    let sign = |key: &SigningKey, said| StateDigest::sign(key, testing::ORIGIN, said);
    let good = [sign(&key(1), said), sign(&key(2), said)];
    let mut forged = good.clone();
    forged[1].sig = forged[0].sig;
    let stranger = sign(&testing::key("stranger"), said);
    let mut longer = content.clone();
    longer.push(0);
    let mut changed = content.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;

    let lies: [Lie<'_>; 9] = [
        ("none", &[], said, &content, Code::FailedPrecondition),
        ("one", &good[..1], said, &content, Code::FailedPrecondition),
        (
            "twice",
            &[good[0].clone(), good[0].clone()],
            said,
            &content,
            Code::FailedPrecondition,
        ),
        ("forged", &forged, said, &content, Code::FailedPrecondition),
        (
            "stranger",
            &[good[0].clone(), stranger],
            said,
            &content,
            Code::FailedPrecondition,
        ),
        (
            "announced",
            &good,
            another,
            &content,
            Code::FailedPrecondition,
        ),
        ("changed", &good, said, &changed, Code::DataLoss),
        ("cut", &good, said, &content[..middle], Code::DataLoss),
        ("longer", &good, said, &longer, Code::InvalidArgument),
    ];
    for (lie, certificate, announced, bytes, code) in lies {
        let answer = offer(&cluster, &honest, certificate, announced, bytes).await;
        assert_eq!(answer.unwrap_err(), code, "{lie}");
        assert_eq!(cluster.replica(3).status().tree_size, 0, "{lie}");
        assert!(
            !cluster.nodes[&3].dir.path().join("snapshot").exists(),
            "{lie}"
        );
    }

    offer(&cluster, &honest, &good, said, &content)
        .await
        .unwrap();
    let victim = cluster.replica(3);
    victim.wait(|now| now.tree_size == said.tree_size).await;
    let covered = usize::try_from(said.tree_size - 1).unwrap();
    assert_holds(victim, &acknowledged[..covered]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_installed_where_two_members_signed_different_states() {
    let Attack {
        cluster,
        honest,
        content,
        ..
    } = Attack::prepare().await;
    let said = honest.said();
    let another = Digested {
        digest: Hash::of(b"another state"),
        ..said
    };
    let sign = |node_id, said| StateDigest::sign(&identity(node_id).key, testing::ORIGIN, said);
    let request = pb::ExchangeDigestsRequest {
        state_digests: vec![sign(3, another).to_bytes()],
    };
    let mut client = cluster.client(2, 3);
    let told = client.exchange_digests(request).await.unwrap().into_inner();
    assert_eq!(told.state_digests, [sign(3, another).to_bytes()]);

    let certificate = [sign(1, said), sign(2, said)];
    let answer = offer(&cluster, &honest, &certificate, said, &content).await;
    assert_eq!(answer.unwrap_err(), Code::FailedPrecondition);
    let disputed = [sign(1, said), sign(2, said), sign(3, another)];
    let answer = offer(&cluster, &honest, &disputed, said, &content).await;
    assert_eq!(answer.unwrap_err(), Code::FailedPrecondition);
    assert_eq!(cluster.replica(3).status().tree_size, 0);

    let alarm = |alarm: &Alarm| matches!(alarm, Alarm::OtherState { .. });
    let Alarm::OtherState { names, digests } = cluster.alarm(3, alarm).await else {
        unreachable!("it was asked for");
    };
    assert_eq!(*names, ["hospital-a", "hospital-c"].map(str::to_owned));
    assert_eq!(digests.map(|digest| digest.said()), [said, another]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_log_whose_snapshots_were_lost_does_not_wait_for_ever() {
    static EVERY: AtomicU64 = AtomicU64::new(1_000_000);
    let tune = |config: &mut ReplicaConfig| {
        frequent(config);
        config.snapshot_every = EVERY.load(Ordering::SeqCst);
        config.snapshot_again = Duration::from_millis(50);
    };
    let mut cluster = Cluster::founded(3, tune).await;
    let leader = cluster.leader().await;
    // One leaf, and entries that say the same again: far more than the log may hold, and far from the next
    // snapshot.
    let replica = cluster.replica(leader).clone();
    let is_far = |status: crate::ReplicaStatus| {
        let work = status.applied.unwrap_or(0) + 1 + status.tree_size;
        work > 60 && work % 10 == 1
    };
    while !is_far(replica.status()) {
        append(&replica, std::iter::once("ada".to_owned())).await;
    }
    drop(replica);
    for id in 1..=3 {
        cluster.replica(id).shutdown().await.unwrap();
    }
    EVERY.store(10, Ordering::SeqCst);
    for id in 1..=3 {
        let remains = cluster.kill(id).await;
        cluster.start(id, remains).await;
    }
    let leader = cluster.leader().await;
    certified(cluster.replica(leader), 50).await;
    append(cluster.replica(leader), std::iter::once("bob".to_owned())).await;
}

/// At its worst moment: the snapshot has its name, its rows are not loaded, and the old log is still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_died_while_it_installed_a_snapshot_goes_on() {
    let mut cluster = Cluster::founded(3, frequent).await;
    let leader = cluster.leader().await;
    let mut acknowledged = append(cluster.replica(leader), ["first".to_owned()].into_iter()).await;
    let away = cluster.nodes.keys().copied().find(|id| *id != leader);
    let away = away.unwrap();
    cluster.replica(away).barrier().await.unwrap();
    let remains = cluster.kill(away).await;
    let names = (0..30).map(|n| format!("person-{n}"));
    acknowledged.extend(append(cluster.replica(leader), names).await);
    certified(cluster.replica(leader), 15).await;

    let snapshot = cluster.nodes[&leader].dir.path().join("snapshot");
    std::fs::copy(snapshot, remains.dir.path().join("snapshot")).unwrap();
    cluster.start(away, remains).await;
    cluster.assert_equal().await;
    assert_holds(cluster.replica(away), &acknowledged);
}

/// A new third node that only a liar talks to.
struct Attack {
    cluster: Cluster,
    honest: SnapshotFile,
    content: Vec<u8>,
    acknowledged: Vec<Appended>,
}

impl Attack {
    async fn prepare() -> Self {
        let mut cluster = Cluster::new(3, frequent).await;
        for id in 1..=2 {
            cluster.start(id, Remains::new()).await;
        }
        for node in cluster.nodes.values() {
            node.replica.found(super::cluster::founded()).await.unwrap();
        }
        let leader = cluster.leader().await;
        let names = (0..20).map(|n| format!("person-{n}"));
        let acknowledged = append(cluster.replica(leader), names).await;
        certified(cluster.replica(leader), 15).await;
        let path = cluster.nodes[&leader].dir.path().join("snapshot");
        let (_, honest) = SnapshotFile::verify(File::open(path).unwrap()).unwrap();
        let mut content = Vec::new();
        honest.content().read_to_end(&mut content).unwrap();
        for id in 1..=2 {
            cluster.kill(id).await;
        }
        cluster.start(3, Remains::new()).await;
        Self {
            cluster,
            honest,
            content,
            acknowledged,
        }
    }
}

/// What is wrong, the certificate, what the header announces, the bytes, and the answer.
type Lie<'a> = (&'a str, &'a [StateDigest], Digested, &'a [u8], Code);

/// Offers node 3 what `announced` and `certificate` say, with these bytes.
async fn offer(
    cluster: &Cluster,
    honest: &SnapshotFile,
    certificate: &[StateDigest],
    announced: Digested,
    content: &[u8],
) -> Result<(), Code> {
    let (meta, _) = SnapshotFile::verify(honest.file()).unwrap();
    let header = pb::SnapshotHeader {
        to: 3,
        vote: Some(pb::Vote {
            term: 1_000_000,
            node_id: 1,
            committed: true,
        }),
        size_bytes: announced.size,
        sha256: announced.digest.as_bytes().to_vec(),
        tree_size: announced.tree_size,
        certificate: certificate.iter().map(StateDigest::to_bytes).collect(),
        ..meta_to_pb(&meta)
    };
    let parts = [Part::Header(header), Part::Chunk(content.to_vec())];
    let parts = parts.map(|part| pb::InstallSnapshotRequest { part: Some(part) });
    let request = Request::new(futures::stream::iter(parts));
    let answer = cluster.client(1, 3).install_snapshot(request).await;
    answer.map(drop).map_err(|status| status.code())
}

/// Waits until openraft knows of a certified snapshot that covers the entry at `index`.
async fn certified(replica: &Replica, index: u64) {
    let mut metrics = replica.raft().metrics();
    let covers = |now: &openraft::RaftMetrics<NodeId, ()>| {
        now.snapshot.is_some_and(|snapshot| snapshot.index >= index)
    };
    metrics.wait_for(covers).await.unwrap();
}

fn frequent(config: &mut ReplicaConfig) {
    config.snapshot_every = 10;
    config.keep_entries = 2;
    config.deadline = Duration::from_secs(60);
}
