use super::cluster::{Cluster, Remains, append, assert_holds, founded, submission};
use crate::ReplicaConfig;
use medanchor_anchor::{Append, AppendError, Read, ReadError};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_and_followers_append_to_one_log() {
    let cluster = Cluster::founded(3, usual).await;
    let leader = cluster.replica(cluster.leader().await);
    let follower = cluster.replica(cluster.follower().await);

    let on_leader = leader.append(submission("ada")).await.unwrap();
    let on_follower = follower.append(submission("bob")).await.unwrap();
    assert_eq!((on_leader.index, on_follower.index), (1, 2));
    assert_holds(leader, &[on_leader.clone(), on_follower.clone()]);
    // Acknowledged means applied here.
    assert_holds(follower, &[on_follower]);

    let again = follower.append(submission("ada")).await.unwrap();
    assert_eq!(again, on_leader);
    let refused = follower.append(submission("").tampered()).await;
    assert!(
        matches!(refused, Err(AppendError::Rejected("bad-signature"))),
        "{refused:?}"
    );
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_goes_on_when_the_leader_dies_and_loses_nothing() {
    let mut cluster = Cluster::founded(3, usual).await;
    let dead = cluster.leader().await;
    let names = |from: u32| (from..from + 5).map(|n| format!("person-{n}"));
    let mut acknowledged = append(cluster.replica(dead), names(0)).await;

    let remains = cluster.kill(dead).await;
    let survivor = *cluster.nodes.keys().next().unwrap();
    acknowledged.extend(append(cluster.replica(survivor), names(5)).await);
    assert_ne!(cluster.leader().await, dead);

    cluster.start(dead, remains).await;
    acknowledged.extend(append(cluster.replica(dead), names(10)).await);
    cluster.assert_equal().await;
    for node in cluster.nodes.values() {
        assert_holds(&node.replica, &acknowledged);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_everywhere_keeps_what_was_acknowledged() {
    let mut cluster = Cluster::founded(3, usual).await;
    let follower = cluster.follower().await;
    let names = (0..10).map(|n| format!("person-{n}"));
    let acknowledged = append(cluster.replica(follower), names).await;
    let before = cluster.assert_equal().await;

    let mut remains = Vec::new();
    for id in 1..=3 {
        remains.push((id, cluster.kill(id).await));
    }
    for (id, remains) in remains {
        cluster.start(id, remains).await;
    }
    // A founder that starts again founds nothing.
    cluster.replica(1).found(founded()).await.unwrap();
    assert_eq!(cluster.assert_equal().await, before);
    for node in cluster.nodes.values() {
        assert_holds(&node.replica, &acknowledged);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_is_far_behind_catches_up_by_snapshot() {
    let mut cluster = Cluster::founded(3, frequent_snapshots).await;
    let behind = cluster.follower().await;
    let remains = cluster.kill(behind).await;
    let leader = cluster.leader().await;
    let names = (0..40).map(|n| format!("person-{n}"));
    let acknowledged = append(cluster.replica(leader), names).await;
    // The entries that it lacks are gone from the log.
    let mut metrics = cluster.replica(leader).raft().metrics();
    metrics
        .wait_for(|now| now.purged.is_some_and(|purged| purged.index > 20))
        .await
        .unwrap();

    assert!(!remains.dir.path().join("snapshot").exists());
    cluster.start(behind, remains).await;
    cluster.assert_equal().await;
    assert_holds(cluster.replica(behind), &acknowledged);
    assert!(cluster.nodes[&behind].dir.path().join("snapshot").exists());

    // It starts again from what it installed.
    let remains = cluster.kill(behind).await;
    cluster.start(behind, remains).await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minority_neither_appends_nor_reads() {
    let mut cluster = Cluster::new(3, short_deadline).await;
    cluster.start(1, Remains::new()).await;
    let alone = cluster.replica(1);
    let answer = alone.append(submission("ada")).await;
    assert!(
        matches!(answer, Err(AppendError::Unavailable(_))),
        "{answer:?}"
    );
    let answer = alone.barrier().await;
    assert!(
        matches!(answer, Err(ReadError::Unavailable(_))),
        "{answer:?}"
    );
}

fn usual(_: &mut ReplicaConfig) {}

fn frequent_snapshots(config: &mut ReplicaConfig) {
    config.snapshot_every = 10;
    config.keep_entries = 2;
}

fn short_deadline(config: &mut ReplicaConfig) {
    config.deadline = Duration::from_millis(200);
}

trait Tamper {
    fn tampered(self) -> Self;
}

impl Tamper for medanchor_anchor::Submission {
    fn tampered(mut self) -> Self {
        self.signed.statement.nonce = Some(medanchor_anchor::Nonce::new([9; 16]));
        self
    }
}
