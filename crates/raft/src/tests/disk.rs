use super::backend::{Disk, SyncFailure};
use super::cluster::{Cluster, Node, Remains, append, assert_holds, founded, identity, submission};
use crate::replica::chain;
use crate::tables::definition;
use crate::{OpenError, Replica, ReplicaConfig, Role};
use futures::future::join_all;
use medanchor_anchor::testing::BEGINNING;
use medanchor_anchor::{Append, AppendError, Group, Read, ReadError, Table};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn every_acknowledged_append_was_synced() {
    let cluster = Cluster::founded(1, usual).await;
    let node = &cluster.nodes[&1];
    for n in 0..10 {
        let before = node.log.syncs();
        append(&node.replica, std::iter::once(format!("person-{n}"))).await;
        assert!(node.log.syncs() > before, "append {n}");
    }
}

#[tokio::test]
async fn leader_sends_what_it_has_not_synced_and_acknowledges_what_it_has() {
    let cluster = Cluster::founded(3, usual).await;
    let leader = cluster.leader().await;
    let size = cluster.replica(leader).status().tree_size;
    let others = cluster.nodes.iter().filter(|(id, _)| **id != leader);
    let followers: Vec<&Node> = others.map(|(_, node)| node).collect();
    let syncs: Vec<u64> = followers.iter().map(|node| node.log.syncs()).collect();

    cluster.nodes[&leader].log.hold(true);
    let replica = cluster.replica(leader).clone();
    let appended = tokio::spawn(async move { replica.append(submission("ada")).await });
    for (follower, before) in followers.iter().zip(syncs) {
        while follower.log.syncs() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // Both followers have it, and the leader has not: nobody believes that it is committed.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!appended.is_finished());
    for node in cluster.nodes.values() {
        assert_eq!(node.replica.status().tree_size, size);
    }

    cluster.nodes[&leader].log.hold(false);
    let appended = appended.await.unwrap().unwrap();
    cluster.assert_equal().await;
    assert_holds(cluster.replica(leader), &[appended]);
}

#[tokio::test]
async fn nothing_is_acknowledged_before_a_quorum_has_synced_it() {
    let cluster = Cluster::founded(3, patient).await;
    for slow in 0..2 {
        cluster.assert_equal().await;
        let leader = cluster.leader().await;
        let size = cluster.replica(leader).status().tree_size;
        let others = cluster.nodes.iter().filter(|(id, _)| **id != leader);
        let mut followers: Vec<&Node> = others.map(|(_, node)| node).collect();
        let slow = followers.remove(slow);
        let quick = followers.remove(0);
        let log = &cluster.nodes[&leader].log;
        let syncs = log.syncs();

        slow.log.hold(true);
        quick.log.hold(true);
        let replica = cluster.replica(leader).clone();
        let statement = submission(&format!("person-{size}"));
        let appended = tokio::spawn(async move { replica.append(statement).await });
        while log.syncs() == syncs {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The leader has it on its disk, and is alone with that.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!appended.is_finished());
        for node in cluster.nodes.values() {
            assert_eq!(node.replica.status().tree_size, size);
        }

        // Two of three are enough: nobody waits for the slowest.
        quick.log.hold(false);
        let appended = appended.await.unwrap().unwrap();
        assert_holds(cluster.replica(leader), std::slice::from_ref(&appended));
        assert_eq!(slow.replica.status().tree_size, size);

        slow.log.hold(false);
        cluster.assert_equal().await;
        assert_holds(&slow.replica, &[appended]);
    }
}

#[tokio::test]
async fn concurrent_appends_share_entries_of_the_log() {
    let cluster = Cluster::founded(1, usual).await;
    let node = &cluster.nodes[&1];
    let syncs = node.log.syncs();
    let submissions = (0..500).map(|n| node.replica.append(submission(&format!("person-{n}"))));
    let acknowledged: Vec<_> = join_all(submissions)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let syncs = node.log.syncs() - syncs;
    assert!(syncs <= 20, "{syncs} syncs for 500 statements");
    assert_holds(&node.replica, &acknowledged);
}

#[tokio::test]
async fn queue_of_waiting_submissions_is_bounded() {
    let cluster = Cluster::founded(1, usual).await;
    let replica = cluster.replica(1);
    let answers = join_all((0..5000).map(|_| replica.append(submission("ada")))).await;
    let overloaded = answers
        .iter()
        .filter(|answer| matches!(answer, Err(AppendError::Overloaded { retry_after }) if !retry_after.is_zero()));
    let acknowledged = answers.iter().filter(|answer| answer.is_ok());
    assert!(overloaded.count() > 0);
    assert!(acknowledged.count() >= 4096);
}

#[tokio::test]
async fn queue_counts_statements_and_whoever_asked_hears_that_it_is_full() {
    let cluster = Cluster::founded(3, usual).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let group = Group {
        statements: vec![submission("ada").signed; 1000],
        holds: Vec::new(),
        lists: Vec::new(),
    };
    // Two groups are on their way to the disk, four wait.
    cluster.nodes[&leader].log.hold(true);
    let replica = cluster.replica(follower);
    let appends = join_all((0..10).map(|_| replica.append_group(group.clone())));
    let release = async {
        tokio::time::sleep(Duration::from_millis(1000)).await;
        cluster.nodes[&leader].log.hold(false);
    };
    let (answers, ()) = tokio::join!(appends, release);
    let is_overloaded = |answer: &Result<_, AppendError>| matches!(answer, Err(AppendError::Overloaded { retry_after }) if !retry_after.is_zero());
    let (overloaded, others): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|answers| answers.iter().any(is_overloaded));
    assert!(overloaded.len() >= 4 && others.len() >= 4);
    assert!(overloaded.iter().flatten().all(is_overloaded));
    assert!(others.iter().flatten().all(Result::is_ok));
}

#[tokio::test]
async fn failed_sync_of_the_log_stops_the_replica() {
    for failure in [SyncFailure::Lost, SyncFailure::Persisted] {
        let mut cluster = Cluster::founded(1, usual).await;
        let acknowledged = append(cluster.replica(1), names()).await;
        cluster.nodes[&1].log.fail(failure);

        let replica = cluster.replica(1);
        let answer = replica.append(submission("lost")).await;
        assert!(
            matches!(answer, Err(AppendError::Stopped(_))),
            "{failure:?}: {answer:?}"
        );
        let reason = std::error::Error::source(&replica.stopped().await)
            .unwrap()
            .to_string();
        assert!(reason.contains("the disk fails"), "{failure:?}: {reason}");
        replica.wait(|now| now.role == Role::Stopped).await;
        let read = replica.barrier().await;
        assert!(matches!(read, Err(ReadError::Stopped(_))), "{read:?}");

        // Whether the disk kept the statement or not, saying it again is safe.
        let remains = cluster.kill(1).await;
        cluster.start(1, remains).await;
        let again = cluster.replica(1).append(submission("lost")).await.unwrap();
        let third = cluster.replica(1).append(submission("lost")).await.unwrap();
        assert_eq!(again, third, "{failure:?}");
        assert_holds(cluster.replica(1), &acknowledged);
        assert_eq!(cluster.replica(1).status().tree_size, again.index + 1);
    }
}

#[tokio::test]
async fn failed_sync_of_the_state_stops_the_replica() {
    let mut cluster = Cluster::founded(1, usual).await;
    let acknowledged = append(cluster.replica(1), names()).await;
    cluster.nodes[&1].state.fail(SyncFailure::Lost);
    append(cluster.replica(1), std::iter::once("more".to_owned())).await;
    // The state is made durable now and then: that fails.
    cluster.replica(1).stopped().await;

    let remains = cluster.kill(1).await;
    cluster.start(1, remains).await;
    cluster.replica(1).barrier().await.unwrap();
    assert_holds(cluster.replica(1), &acknowledged);
}

#[tokio::test]
async fn stopped_replica_that_knows_no_leader_says_that_it_has_stopped() {
    let mut cluster = Cluster::new(3, usual).await;
    cluster.start(2, Remains::new()).await;
    let replica = cluster.replica(2);
    replica.shutdown().await.unwrap();
    let (append, read) = (
        replica.append(submission("ada")).await,
        replica.barrier().await,
    );
    assert!(matches!(append, Err(AppendError::Stopped(_))), "{append:?}");
    assert!(matches!(read, Err(ReadError::Stopped(_))), "{read:?}");
}

#[tokio::test]
async fn full_disk_stops_the_replica_and_room_brings_it_back() {
    for fill in [
        |node: &Node| node.log.set_full(true),
        |node: &Node| {
            node.state.set_full(true);
        },
    ] {
        let mut cluster = Cluster::founded(1, usual).await;
        let mut acknowledged = append(cluster.replica(1), names()).await;
        fill(&cluster.nodes[&1]);
        // The state may be kept in memory for a while, and the log then takes what comes.
        let last = cluster.replica(1).append(submission("last")).await;
        acknowledged.extend(last.ok());
        let stopped = cluster.replica(1).stopped().await;
        let said = chain(&stopped);
        assert!(said.contains("no storage space"), "{said}");

        // While it is full it does not come back; what was acknowledged is there when it does.
        let remains = cluster.kill(1).await;
        cluster.start(1, remains).await;
        cluster.replica(1).barrier().await.unwrap();
        assert_holds(cluster.replica(1), &acknowledged);
        append(cluster.replica(1), names().map(|name| name + "-more")).await;
    }
}

#[tokio::test]
async fn shutdown_answers_what_waits_and_makes_the_state_durable() {
    let mut cluster = Cluster::founded(1, usual).await;
    let replica = cluster.replica(1).clone();
    let waiting = join_all((0..50).map(|n| replica.append(submission(&format!("person-{n}")))));
    let (answers, shutdown) = tokio::join!(waiting, replica.shutdown());
    shutdown.unwrap();
    let mut acknowledged = Vec::new();
    for answer in answers {
        match answer {
            Ok(appended) => acknowledged.push(appended),
            Err(error) => assert!(matches!(error, AppendError::Stopped(_)), "{error:?}"),
        }
    }
    assert!(matches!(
        replica.append(submission("late")).await,
        Err(AppendError::Stopped(_))
    ));
    let remains = cluster.kill(1).await;
    cluster.start(1, remains).await;
    // Nothing has to be applied again.
    assert_holds(cluster.replica(1), &acknowledged);
}

#[test]
fn replica_finds_its_files_again() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("replica");
    // A runtime of its own for each start: all that holds the files ends with it.
    let run = || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let replica = Replica::open(alone(data_dir.clone())).await.unwrap();
            replica.found(founded()).await.unwrap();
            let appended = replica.append(submission("ada")).await.unwrap();
            replica.shutdown().await.unwrap();
            (appended, replica.status().tree_size)
        })
    };
    assert_eq!(run(), run());

    // Its state can be made anew from its log.
    let before = run();
    let old_state = Replica::rebuild_state(&data_dir).unwrap();
    assert!(old_state.exists());
    assert_eq!(run(), before);
}

#[test]
fn state_is_put_aside_only_where_there_is_a_whole_replica_that_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("replica");
    assert!(Replica::rebuild_state(&data_dir).is_err());
    Replica::create(&data_dir).unwrap();
    {
        let _running = crate::databases::Databases::open(&data_dir).unwrap();
        assert!(Replica::rebuild_state(&data_dir).is_err());
    }
    Replica::rebuild_state(&data_dir).unwrap();
    assert!(Replica::exists(&data_dir).unwrap());
}

#[tokio::test]
async fn rewritten_leaf_stops_the_replica_and_the_log_makes_it_anew() {
    let mut cluster = Cluster::founded(1, usual).await;
    let acknowledged = append(cluster.replica(1), names()).await;
    cluster.replica(1).shutdown().await.unwrap();
    let remains = cluster.kill(1).await;
    {
        let base = remains.state.database();
        let txn = base.begin_write().unwrap();
        {
            let mut leaves = txn.open_table(definition(Table::Leaves)).unwrap();
            let key = acknowledged[2].index.to_be_bytes();
            let other = acknowledged[3].leaf.to_bytes();
            leaves.insert(key.as_slice(), other.as_slice()).unwrap();
        }
        txn.commit().unwrap();
    }
    cluster.start(1, remains).await;
    let said = chain(&cluster.replica(1).stopped().await);
    let leaf = format!("leaf {} is not the one", acknowledged[2].index);
    assert!(said.contains(&leaf), "{said}");

    let remains = cluster.kill(1).await;
    let anew = Remains {
        state: Disk::default(),
        ..remains
    };
    cluster.start(1, anew).await;
    cluster.replica(1).barrier().await.unwrap();
    assert_holds(cluster.replica(1), &acknowledged);
}

#[tokio::test]
async fn open_refuses_a_configuration_that_contradicts_itself() {
    let dir = tempfile::tempdir().unwrap();
    let usual = alone(dir.path().to_owned());
    let nameless = ReplicaConfig {
        node_id: 0,
        ..usual.clone()
    };
    let nameless_founder = ReplicaConfig {
        founders: [0, 1].into(),
        ..usual.clone()
    };
    let back_too_soon = ReplicaConfig {
        step_aside: Duration::from_secs(7),
        ..usual.clone()
    };
    let slow_heartbeat = ReplicaConfig {
        heartbeat: Duration::from_secs(3),
        ..usual
    };
    for config in [nameless, nameless_founder, back_too_soon, slow_heartbeat] {
        let answer = Replica::open(config).await;
        assert!(matches!(answer, Err(OpenError::Config(_))), "{answer:?}");
    }
}

/// The only node of a network.
fn alone(data_dir: PathBuf) -> ReplicaConfig {
    ReplicaConfig::new(
        1,
        [1].into(),
        identity(1),
        data_dir,
        Arc::new(|_| unreachable!("there is no other node")),
        Arc::new(|| BEGINNING),
    )
}

fn usual(_: &mut ReplicaConfig) {}

/// On a busy machine nobody else is elected meanwhile.
fn patient(config: &mut ReplicaConfig) {
    config.election = (Duration::from_secs(30), Duration::from_secs(60));
}

fn names() -> impl Iterator<Item = String> {
    (0..5).map(|n| format!("person-{n}"))
}
