use super::admission::{LEADER, append, entry, head, other_batch, signed};
use super::cluster::{Cluster, Remains, append as submit, submission};
use crate::types::Entry;
use crate::{Alarm, NodeId, ReplicaConfig};
use medanchor_anchor::{Append, BatchConflictKind, BatchHead, Read};
use medanchor_api::pb::raft::append_entries_response::Outcome;
use medanchor_dag::Hash;
use std::time::Duration;

/// Two followers, and a leader that tells each something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_shows_two_batches_is_named_by_both_who_saw_them() {
    let cluster = followers().await;
    take(&cluster, 2, entry(0, Some(signed(&head(0), LEADER)))).await;
    take(&cluster, 3, other_batch()).await;
    for id in [2, 3] {
        let kind = conflict(&cluster, id).await;
        assert!(
            matches!(kind, BatchConflictKind::TwoBatches { .. }),
            "{kind}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_writes_on_two_trees_is_named_by_both_who_saw_them() {
    let cluster = followers().await;
    for (id, root) in [(2, "one tree"), (3, "another tree")] {
        let head = BatchHead {
            size: 7,
            root: Hash::of(root.as_bytes()),
            ..head(0)
        };
        take(&cluster, id, entry(0, Some(signed(&head, LEADER)))).await;
    }
    for id in [2, 3] {
        let kind = conflict(&cluster, id).await;
        assert_eq!(kind, BatchConflictKind::TwoTrees { size: 7 });
    }
}

/// What one refuses because it knows better proves the lie to another that took the honest half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_head_is_evidence_for_others() {
    let cluster = followers().await;
    take(&cluster, 3, entry(0, Some(signed(&head(0), LEADER)))).await;
    let forked = BatchHead {
        root: Hash::of(b"another tree"),
        ..head(0)
    };
    let forked = entry(0, Some(signed(&forked, LEADER)));
    let outcome = append(&cluster, 2, vec![forked]).await;
    assert!(matches!(outcome, Some(Outcome::Refused(_))), "{outcome:?}");
    let kind = conflict(&cluster, 3).await;
    assert_eq!(kind, BatchConflictKind::TwoTrees { size: 0 });
}

/// Whoever was lied to alone proves it to those who were told nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_heads_that_another_node_shows_name_their_leader() {
    let cluster = followers().await;
    take(&cluster, 2, entry(0, Some(signed(&head(0), LEADER)))).await;
    let outcome = append(&cluster, 2, vec![other_batch()]).await;
    assert!(matches!(outcome, Some(Outcome::Refused(_))), "{outcome:?}");
    for id in [2, 3] {
        let kind = conflict(&cluster, id).await;
        assert!(
            matches!(kind, BatchConflictKind::TwoBatches { .. }),
            "{kind}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_leaders_are_never_accused() {
    let mut cluster = Cluster::founded(3, often).await;
    for round in 0..3 {
        let leader = cluster.leader().await;
        let names = (0..5).map(|n| format!("person-{round}-{n}"));
        submit(cluster.replica(leader), names).await;
        let remains = cluster.kill(leader).await;
        let survivor = *cluster.nodes.keys().next().unwrap();
        let name = format!("person-{round}");
        cluster
            .replica(survivor)
            .append(submission(&name))
            .await
            .unwrap();
        cluster.start(leader, remains).await;
        cluster.replica(leader).barrier().await.unwrap();
    }
    for node in cluster.nodes.values() {
        let mut comparison = node.replica.comparison();
        comparison.start_over();
        comparison.compare().await.unwrap();
        assert_eq!(*node.alarms.borrow(), Vec::new());
    }
}

async fn followers() -> Cluster {
    let mut cluster = Cluster::new(3, often).await;
    for id in [2, 3] {
        cluster.start(id, Remains::new()).await;
    }
    cluster
}

async fn take(cluster: &Cluster, id: NodeId, entry: Entry) {
    let outcome = append(cluster, id, vec![entry]).await;
    assert!(matches!(outcome, Some(Outcome::Success(_))), "{outcome:?}");
}

async fn conflict(cluster: &Cluster, id: NodeId) -> BatchConflictKind {
    let alarm = |alarm: &Alarm| matches!(alarm, Alarm::Conflict { .. });
    match cluster.alarm(id, alarm).await {
        Alarm::Conflict {
            node_id: LEADER,
            kind,
            heads,
        } => {
            assert_eq!(heads[0].conflict(&heads[1]), Some(kind));
            kind
        }
        other => panic!("{other}"),
    }
}

fn often(config: &mut ReplicaConfig) {
    config.compare_every = Duration::from_millis(50);
}
