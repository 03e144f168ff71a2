use super::cluster::{Cluster, submission};
use crate::{NodeId, RaftServer, ReplicaConfig};
use medanchor_anchor::Group;
use medanchor_api::pb::raft::{self as pb, raft_service_server::RaftService};
use std::sync::Arc;
use tonic::{Code, Request};

#[tokio::test]
async fn messages_of_strangers_and_for_others_are_refused() {
    let cluster = Cluster::founded(1, usual).await;
    let replica = cluster.replica(1);
    // The caller as the connection proves it, the vote's node, the addressee, the answer.
    let cases = [
        (None, 1, 1, Code::PermissionDenied),
        (Some(7), 7, 1, Code::PermissionDenied),
        (Some(1), 2, 1, Code::PermissionDenied),
        (Some(1), 1, 2, Code::FailedPrecondition),
    ];
    for (caller, candidate, to, code) in cases {
        let server = RaftServer::new(replica.clone(), Arc::new(move |_| caller));
        let vote = vote(candidate);
        let request = pb::VoteRequest {
            to,
            vote,
            last_log_id: None,
        };
        let answer = server.vote(Request::new(request)).await;
        assert_eq!(answer.unwrap_err().code(), code, "{caller:?}");
        let request = pb::AppendEntriesRequest {
            to,
            vote,
            ..pb::AppendEntriesRequest::default()
        };
        let answer = server.append_entries(Request::new(request)).await;
        assert_eq!(answer.unwrap_err().code(), code, "{caller:?}");
    }
    let server = RaftServer::new(replica.clone(), Arc::new(|_| None));
    let answer = server.propose(Request::new(pb::ProposeRequest::default()));
    assert_eq!(answer.await.unwrap_err().code(), Code::PermissionDenied);
    let answer = server.read_index(Request::new(pb::ReadIndexRequest {}));
    assert_eq!(answer.await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn malformed_messages_are_refused() {
    let cluster = Cluster::founded(1, usual).await;
    let server = RaftServer::new(cluster.replica(1).clone(), Arc::new(|_| Some(1)));
    let entry_without_place = pb::AppendEntriesRequest {
        to: 1,
        vote: vote(1),
        entries: vec![pb::Entry::default()],
        ..pb::AppendEntriesRequest::default()
    };
    let answer = server.append_entries(Request::new(entry_without_place));
    assert_eq!(answer.await.unwrap_err().code(), Code::InvalidArgument);
    let answer = server.vote(Request::new(pb::VoteRequest::default()));
    assert_eq!(answer.await.unwrap_err().code(), Code::InvalidArgument);
    let answer = server.propose(Request::new(pb::ProposeRequest::default()));
    assert_eq!(answer.await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn node_that_does_not_lead_says_of_a_whole_group_who_does() {
    let cluster = Cluster::founded(3, usual).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let server = RaftServer::new(cluster.replica(follower).clone(), Arc::new(|_| Some(1)));
    let group = Group {
        statements: vec![submission("ada").signed; 3],
        holds: Vec::new(),
        lists: Vec::new(),
    };
    let answer = server.propose_group(Request::new((&group).into()));
    let proposed = answer.await.unwrap().into_inner().proposed;
    let redirect = pb::ProposeResponse {
        outcome: Some(pb::propose_response::Outcome::LeaderNodeId(leader)),
    };
    assert_eq!(proposed, vec![redirect; 3]);
}

fn vote(node_id: NodeId) -> Option<pb::Vote> {
    Some(pb::Vote {
        term: 1,
        node_id,
        committed: false,
    })
}

fn usual(_: &mut ReplicaConfig) {}
