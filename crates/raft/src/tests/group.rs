use super::cluster::{Cluster, assert_holds, submission};
use medanchor_anchor::{AppendError, Appended, Group, SignedStatement};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_is_answered_in_order_wherever_it_is_submitted() {
    let cluster = Cluster::founded(3, |_| ()).await;
    let mut all = Vec::new();
    for node in [cluster.leader().await, cluster.follower().await] {
        let names: Vec<String> = (0..5).map(|n| format!("{node}-{n}")).collect();
        let appended = append(&cluster, node, names.iter().map(|name| signed(name))).await;
        let again = append(&cluster, node, names.iter().map(|name| signed(name))).await;
        assert_eq!(appended, again);
        all.extend(appended);
    }
    let indices: Vec<u64> = all.iter().map(|appended| appended.index).collect();
    assert_eq!(indices, (1..=10).collect::<Vec<u64>>());
    cluster.assert_equal().await;
    for node in cluster.nodes.values() {
        assert_holds(&node.replica, &all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_statement_spoils_no_other_of_its_group() {
    let cluster = Cluster::founded(3, |_| ()).await;
    for node in [cluster.leader().await, cluster.follower().await] {
        let mut bad = signed("mallory");
        bad.statement = signed("eve").statement;
        let statements = vec![signed("ada"), bad, signed("bob")];
        let answers = cluster.replica(node).append_group(group(statements)).await;
        assert!(
            matches!(
                answers.as_slice(),
                [Ok(_), Err(AppendError::Rejected("bad-signature")), Ok(_)]
            ),
            "{answers:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_survives_the_death_of_the_leader() {
    let mut cluster = Cluster::founded(3, |_| ()).await;
    let dead = cluster.leader().await;
    let survivor = cluster.follower().await;
    cluster.kill(dead).await;
    // The survivor still takes the dead node for the leader.
    let names = ["ada", "bob", "eve"];
    let appended = append(&cluster, survivor, names.map(signed).into_iter()).await;
    assert_holds(cluster.replica(survivor), &appended);
    cluster.assert_equal().await;
}

async fn append(
    cluster: &Cluster,
    node: u64,
    statements: impl Iterator<Item = SignedStatement>,
) -> Vec<Appended> {
    let group = group(statements.collect());
    let answers = cluster.replica(node).append_group(group).await;
    answers.into_iter().map(Result::unwrap).collect()
}

fn group(statements: Vec<SignedStatement>) -> Group {
    Group {
        statements,
        holds: Vec::new(),
        lists: Vec::new(),
    }
}

fn signed(name: &str) -> SignedStatement {
    submission(name).signed
}
