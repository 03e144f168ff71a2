use super::cluster::{Cluster, Remains, append, assert_holds, submission};
use crate::{Alarm, NodeId, Replica, ReplicaConfig};
use medanchor_anchor::testing::{BEGINNING, HOUR};
use medanchor_anchor::{Append, Read, State};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_an_hour_ahead_moves_no_time_and_another_leads() {
    let cluster = Cluster::founded(3, usual).await;
    let wrong = cluster.leader().await;
    let (first, rest) = ("person-0".to_owned(), (1..5).map(|n| format!("person-{n}")));
    let mut acknowledged = append(cluster.replica(wrong), std::iter::once(first)).await;

    set(&cluster, wrong, BEGINNING + HOUR);
    acknowledged.extend(append(cluster.replica(wrong), rest).await);
    cluster
        .alarm(wrong, |alarm| *alarm == Alarm::ClockAhead)
        .await;
    assert_ne!(cluster.leader().await, wrong);
    cluster.assert_equal().await;
    for node in cluster.nodes.values() {
        assert_eq!(log_time(&node.replica), BEGINNING);
        assert_holds(&node.replica, &acknowledged);
    }
    for id in cluster.nodes.keys().filter(|id| **id != wrong) {
        let about = |alarm: &Alarm| matches!(alarm, Alarm::FromTheFuture { node_id, .. } if *node_id == wrong);
        cluster.alarm(*id, about).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_is_founded_although_the_founder_is_an_hour_ahead() {
    let mut cluster = Cluster::new(3, usual).await;
    set(&cluster, 1, BEGINNING + HOUR);
    for id in 1..=3 {
        cluster.start(id, Remains::new()).await;
    }
    cluster.found().await;
    let appended = append(cluster.replica(1), std::iter::once("ada".to_owned())).await;
    cluster.assert_equal().await;
    for node in cluster.nodes.values() {
        assert_eq!(log_time(&node.replica), BEGINNING);
        assert_holds(&node.replica, &appended);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_an_hour_behind_falls_behind_alone_until_its_clock_is_right() {
    let cluster = Cluster::founded(3, usual).await;
    let leader = cluster.leader().await;
    let wrong = cluster.follower().await;
    // The status comes a little after what it tells of.
    let founded = cluster.replica(wrong).wait(|now| now.tree_size == 1);
    let before = founded.await;

    set(&cluster, wrong, BEGINNING - HOUR);
    let names = (0..5).map(|n| format!("person-{n}"));
    let acknowledged = append(cluster.replica(leader), names).await;
    let behind = |alarm: &Alarm| matches!(alarm, Alarm::ClockBehind { .. });
    let alarm = cluster.alarm(wrong, behind).await;
    let by = Duration::from_millis(HOUR);
    assert_eq!(alarm, Alarm::ClockBehind { by });
    assert_eq!(cluster.replica(wrong).status().tree_size, before.tree_size);
    // It follows all the same, and disturbs nobody.
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.replica(wrong).status().term, before.term);

    set(&cluster, wrong, BEGINNING);
    cluster.assert_equal().await;
    assert_holds(cluster.replica(wrong), &acknowledged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_an_hour_ahead_says_so_and_takes_everything() {
    let (cluster, leader, ahead) = leader_and_its_only_follower().await;
    set(&cluster, ahead, BEGINNING + HOUR);
    let acknowledged = append(cluster.replica(leader), std::iter::once("ada".to_owned())).await;
    cluster.assert_equal().await;
    assert_holds(cluster.replica(ahead), &acknowledged);
    let backdated = |alarm: &Alarm| matches!(alarm, Alarm::Backdated { .. });
    let (node_id, by) = (leader, Duration::from_millis(HOUR));
    assert_eq!(
        cluster.alarm(ahead, backdated).await,
        Alarm::Backdated { node_id, by }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_whose_clock_goes_back_an_hour_moves_time_back_nowhere() {
    let (cluster, leader, follower) = leader_and_its_only_follower().await;
    set(&cluster, leader, BEGINNING - HOUR);
    let appended = cluster.replica(leader).append(submission("ada")).await;
    assert_eq!(appended.unwrap().leaf.at, BEGINNING);
    cluster.assert_equal().await;
    let backdated = |alarm: &Alarm| matches!(alarm, Alarm::Backdated { .. });
    cluster.alarm(follower, backdated).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_entries_in_catch_up_raise_no_alarm() {
    let mut cluster = Cluster::founded(3, usual).await;
    let away = cluster.follower().await;
    let remains = cluster.kill(away).await;
    let leader = cluster.leader().await;
    append(
        cluster.replica(leader),
        (0..5).map(|n| format!("person-{n}")),
    )
    .await;
    for id in 1..=3 {
        set(&cluster, id, BEGINNING + HOUR);
    }
    // Leaves committed under this leader, and then under another: all old, all honest.
    cluster.start(away, remains).await;
    cluster.assert_equal().await;
    assert_eq!(*cluster.nodes[&away].alarms.borrow(), Vec::new());
}

/// Nothing is committed without this follower, so that it sees everything fresh.
async fn leader_and_its_only_follower() -> (Cluster, NodeId, NodeId) {
    let mut cluster = Cluster::founded(3, usual).await;
    let away = cluster.follower().await;
    cluster.kill(away).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    (cluster, leader, follower)
}

fn set(cluster: &Cluster, id: NodeId, unix_ms: u64) {
    cluster.clocks[&id].store(unix_ms, Ordering::SeqCst);
}

fn log_time(replica: &Replica) -> u64 {
    State::new(&*replica.view().unwrap()).log_time().unwrap()
}

fn usual(_: &mut ReplicaConfig) {}
