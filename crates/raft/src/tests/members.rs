use super::cluster::{Cluster, Remains, append, assert_holds, founded};
use crate::members::{Step, Wanted, next_step};
use crate::types::Membership;
use crate::{NodeId, Replica, ReplicaConfig};
use medanchor_anchor::testing::{MEMBERS, World, joining, key};
use medanchor_anchor::{
    Append, Body, MemberRemoved, Outcome, Read, SignedStatement, State, Submission,
};
use std::collections::BTreeSet;

const NEWCOMER: &str = "hospital-d";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomer_learns_the_log_and_then_votes() {
    let cluster = three_and_a_newcomer(usual).await;
    let acknowledged = append(cluster.replica(1), names()).await;
    say(cluster.replica(2), joins()).await;
    admit(&cluster);
    voters(&cluster, &[1, 2, 3, 4]).await;
    cluster.assert_equal().await;
    assert_holds(cluster.replica(4), &acknowledged);
    // It appends like any other.
    let more = append(
        cluster.replica(4),
        names().map(|name| format!("{name}-more")),
    )
    .await;
    assert_holds(cluster.replica(4), &more);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomer_that_is_not_admitted_gets_nothing() {
    let cluster = three_and_a_newcomer(usual).await;
    say(cluster.replica(1), joins()).await;
    let first = say(cluster.replica(1), leaves(3)).await;
    // The removal is carried out, so the addition before it was looked at.
    voters(&cluster, &[1, 2]).await;
    assert_eq!(cluster.replica(4).status().applied, None);
    assert!(!cluster.replica(1).is_member(4));
    for replica in [1, 2].map(|id| cluster.replica(id)) {
        replica.admit_before(first);
    }
    voters(&cluster, &[1, 2, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_leader_goes_on_where_the_last_one_died() {
    let mut cluster = three_and_a_newcomer(usual).await;
    // The newcomer follows nobody yet.
    let status = cluster.replica(1).wait(|now| now.leader.is_some()).await;
    let leader = status.leader.unwrap();
    say(cluster.replica(leader), joins()).await;
    let remains = cluster.kill(leader).await;
    admit(&cluster);
    voters(&cluster, &[1, 2, 3, 4]).await;
    cluster.start(leader, remains).await;
    voters(&cluster, &[1, 2, 3, 4]).await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_member_is_removed_and_no_longer_counts() {
    let mut cluster = Cluster::founded(3, usual).await;
    let dead = cluster.leader().await;
    let remains = cluster.kill(dead).await;
    let alive: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    say(cluster.replica(alive[0]), leaves(dead)).await;
    voters(&cluster, &alive).await;
    assert!(!cluster.replica(alive[0]).is_member(dead));
    let acknowledged = append(cluster.replica(alive[1]), names()).await;
    // It comes back, and nobody listens.
    cluster.start(dead, remains).await;
    let more = append(
        cluster.replica(alive[0]),
        names().map(|name| format!("{name}-more")),
    )
    .await;
    assert_holds(cluster.replica(alive[0]), &acknowledged);
    assert_holds(cluster.replica(alive[0]), &more);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_can_be_removed() {
    let cluster = Cluster::founded(3, usual).await;
    let leader = cluster.leader().await;
    say(cluster.replica(leader), leaves(leader)).await;
    let others: Vec<NodeId> = (1..=3).filter(|id| *id != leader).collect();
    for id in &others {
        let mut metrics = cluster.replica(*id).raft().metrics();
        let is_done = |now: &openraft::RaftMetrics<NodeId, ()>| {
            now.membership_config.voter_ids().eq(others.iter().copied())
                && now.current_leader.is_some_and(|now| now != leader)
        };
        metrics.wait_for(is_done).await.unwrap();
    }
    append(cluster.replica(others[0]), names()).await;
}

#[test]
fn steps_lead_to_what_the_log_says() {
    let set = |ids: &[NodeId]| ids.iter().copied().collect::<BTreeSet<_>>();
    let membership = |voters: &[&[NodeId]], nodes: &[NodeId]| {
        let configs = voters.iter().map(|ids| set(ids)).collect();
        Membership::new(
            configs,
            nodes
                .iter()
                .map(|id| (*id, ()))
                .collect::<std::collections::BTreeMap<_, _>>(),
        )
    };
    let wanted = |members: &[NodeId], admitted: &[NodeId]| Wanted {
        members: set(members),
        admitted: set(admitted),
    };
    let three: &[&[NodeId]] = &[&[1, 2, 3]];
    let cases = [
        (
            "before the founding",
            wanted(&[], &[]),
            membership(three, &[1, 2, 3]),
            vec![],
            None,
        ),
        (
            "as wanted",
            wanted(&[1, 2, 3], &[1, 2, 3]),
            membership(three, &[1, 2, 3]),
            vec![],
            None,
        ),
        (
            "newcomer",
            wanted(&[1, 2, 3, 4], &[1, 2, 3, 4]),
            membership(three, &[1, 2, 3]),
            vec![4],
            Some(Step::AddLearner(4)),
        ),
        (
            "newcomer not admitted",
            wanted(&[1, 2, 3, 4], &[1, 2, 3]),
            membership(three, &[1, 2, 3]),
            vec![4],
            None,
        ),
        (
            "newcomer behind",
            wanted(&[1, 2, 3, 4], &[1, 2, 3, 4]),
            membership(three, &[1, 2, 3, 4]),
            vec![],
            None,
        ),
        (
            "newcomer caught up",
            wanted(&[1, 2, 3, 4], &[1, 2, 3, 4]),
            membership(three, &[1, 2, 3, 4]),
            vec![4],
            Some(Step::SetVoters(set(&[1, 2, 3, 4]))),
        ),
        (
            "admitted before a restart",
            wanted(&[1, 2, 3], &[1, 2]),
            membership(three, &[1, 2, 3]),
            vec![],
            None,
        ),
        (
            "removed",
            wanted(&[1, 2], &[1, 2]),
            membership(three, &[1, 2, 3]),
            vec![],
            Some(Step::SetVoters(set(&[1, 2]))),
        ),
        (
            "removed while one is behind",
            wanted(&[1, 2, 4], &[1, 2, 4]),
            membership(three, &[1, 2, 3, 4]),
            vec![],
            Some(Step::SetVoters(set(&[1, 2]))),
        ),
        (
            "half done",
            wanted(&[1, 2], &[1, 2]),
            membership(&[&[1, 2, 3], &[1, 2]], &[1, 2, 3]),
            vec![],
            Some(Step::SetVoters(set(&[1, 2]))),
        ),
        (
            "learner removed",
            wanted(&[1, 2, 3], &[1, 2, 3]),
            membership(three, &[1, 2, 3, 4]),
            vec![4],
            Some(Step::Forget(set(&[4]))),
        ),
    ];
    for (what, wanted, membership, caught_up, step) in cases {
        let next = next_step(&wanted, &membership, |id| caught_up.contains(&id));
        assert_eq!(next, step, "{what}");
    }
}

/// Three founders, and a node 4 that runs and waits.
async fn three_and_a_newcomer(tune: fn(&mut ReplicaConfig)) -> Cluster {
    let mut cluster = Cluster::new(4, tune).await;
    cluster.founders = 3;
    for id in 1..=4 {
        cluster.start(id, Remains::new()).await;
    }
    for id in 1..=3 {
        cluster.replica(id).found(founded()).await.unwrap();
    }
    cluster
}

fn admit(cluster: &Cluster) {
    for node in cluster.nodes.values() {
        node.replica.admit_before(u64::MAX);
    }
}

/// Waits until every node that runs and is one of them has these voters, by a uniform configuration.
async fn voters(cluster: &Cluster, expected: &[NodeId]) {
    for id in expected.iter().filter(|id| cluster.nodes.contains_key(id)) {
        let mut metrics = cluster.replica(*id).raft().metrics();
        let agreed = |now: &openraft::RaftMetrics<NodeId, ()>| {
            let membership = now.membership_config.membership();
            membership.get_joint_config().len() == 1
                && membership.voter_ids().eq(expected.iter().copied())
        };
        metrics.wait_for(agreed).await.unwrap();
    }
}

fn joins() -> SignedStatement {
    let body = Body::MemberAdded(Box::new(joining(NEWCOMER, 3)));
    let by = [NEWCOMER, MEMBERS[0], MEMBERS[1]].map(key);
    World::empty().statement(body).sign(&by.each_ref())
}

/// A founder is removed by the two others.
fn leaves(node_id: NodeId) -> SignedStatement {
    let world = World::new();
    let index = usize::try_from(node_id - 1).unwrap();
    let body: MemberRemoved = world.leaving(MEMBERS[index], 2);
    let others = MEMBERS.iter().filter(|name| **name != MEMBERS[index]);
    let by: Vec<_> = others.map(|name| key(name)).collect();
    World::empty()
        .statement(Body::MemberRemoved(body))
        .sign(&by.iter().collect::<Vec<_>>())
}

/// The leaf after it.
async fn say(replica: &Replica, signed: SignedStatement) -> u64 {
    let submission = Submission {
        signed,
        holds: Vec::new(),
        list: None,
    };
    let appended = replica.append(submission).await.unwrap();
    assert_eq!(appended.leaf.outcome, Outcome::Ok);
    let view = replica.view().unwrap();
    State::new(&*view).tree_size().unwrap()
}

fn names() -> impl Iterator<Item = String> {
    (0..5).map(|n| format!("person-{n}"))
}

fn usual(_: &mut ReplicaConfig) {}
