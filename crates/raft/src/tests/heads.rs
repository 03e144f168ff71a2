use super::backend::SyncFailure;
use super::cluster::{Cluster, append, identity, submission};
use crate::{Replica, ReplicaConfig};
use medanchor_anchor::{Append, SignedBatchHead};
use std::collections::BTreeMap;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_batch_has_one_head_everywhere_by_the_leader_that_wrote_it() {
    let mut cluster = Cluster::founded(3, usual).await;
    let first = cluster.leader().await;
    append(cluster.replica(first), names(0..5)).await;
    let remains = cluster.kill(first).await;
    let second = cluster.leader().await;
    append(cluster.replica(second), names(5..10)).await;
    cluster.start(first, remains).await;
    cluster.assert_equal().await;

    let of_first = heads(cluster.replica(first));
    assert!(of_first.len() >= 11, "{}", of_first.len());
    for node in cluster.nodes.values() {
        assert_eq!(heads(&node.replica), of_first);
        for head in of_first.values() {
            assert!(!node.replica.admission().is_other_tree(head).unwrap());
        }
    }
    let signers: Vec<_> = of_first.values().map(|signed| signed.head.node).collect();
    assert_eq!(*signers.first().unwrap(), identity(first).key.did());
    assert_eq!(*signers.last().unwrap(), identity(second).key.did());
}

/// What is on disk of one start to the next, whether the disk kept what it failed to sync or not.
#[tokio::test]
async fn leader_that_starts_again_signs_no_place_twice() {
    for failure in [SyncFailure::Lost, SyncFailure::Persisted] {
        let mut cluster = Cluster::founded(1, usual).await;
        append(cluster.replica(1), names(0..3)).await;
        let mut signed = heads(cluster.replica(1));
        for start in 1..4 {
            let term = cluster.replica(1).status().term;
            cluster.nodes[&1].log.fail(failure);
            let lost = cluster.replica(1).append(submission("lost")).await;
            assert!(lost.is_err());
            let remains = cluster.kill(1).await;
            cluster.start(1, remains).await;
            keep(&mut signed, heads(cluster.replica(1)));
            append(cluster.replica(1), names(start * 3..start * 3 + 3)).await;
            assert!(cluster.replica(1).status().term > term);
            keep(&mut signed, heads(cluster.replica(1)));
        }
        assert!(signed.len() >= 13, "{failure:?}: {}", signed.len());
    }
}

#[tokio::test]
async fn head_costs_no_sync_of_its_own() {
    let cluster = Cluster::founded(1, usual).await;
    let node = &cluster.nodes[&1];
    let (syncs, kept) = (node.log.syncs(), heads(&node.replica).len());
    append(&node.replica, names(0..10)).await;
    assert_eq!(heads(&node.replica).len(), kept + 10);
    // One for each entry, and now and then one for the vote.
    assert!(node.log.syncs() - syncs <= 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_outlive_their_entries() {
    let cluster = Cluster::founded(3, frequent_snapshots).await;
    let replica = cluster.replica(cluster.leader().await);
    append(replica, names(0..30)).await;
    let mut metrics = replica.raft().metrics();
    metrics
        .wait_for(|now| now.purged.is_some_and(|purged| purged.index > 5))
        .await
        .unwrap();
    let kept = heads(replica);
    assert!(kept.len() >= 31, "{}", kept.len());
}

/// The heads that a replica keeps, by term and index.
pub(super) fn heads(replica: &Replica) -> Heads {
    let mut found = Heads::new();
    for bytes in replica.admission().heads_from(0, usize::MAX).unwrap() {
        let signed = SignedBatchHead::verify(&bytes).unwrap();
        found.insert((signed.head.term, signed.head.index), signed);
    }
    found
}

/// All of `before` is still there, and nothing contradicts it.
fn keep(before: &mut Heads, now: Heads) {
    for (place, signed) in &*before {
        assert_eq!(now.get(place), Some(signed), "{place:?}");
    }
    *before = now;
}

type Heads = BTreeMap<(u64, u64), SignedBatchHead>;

fn names(range: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    range.map(|n| format!("person-{n}"))
}

fn usual(_: &mut ReplicaConfig) {}

fn frequent_snapshots(config: &mut ReplicaConfig) {
    config.snapshot_every = 10;
    config.keep_entries = 2;
}
