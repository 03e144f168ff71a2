use super::cluster::{Cluster, Remains, identity};
use crate::admission::{Admission, Refusal};
use crate::codec::entry_to_pb;
use crate::types::{Entry, LogId, NodeId, Proposal, Vote};
use crate::{Alarm, RaftServer, ReplicaConfig};
use bytes::Bytes;
use medanchor_anchor::testing::BEGINNING;
use medanchor_anchor::{Batch, BatchHead, SignedBatchHead, tree};
use medanchor_api::pb::raft::{
    self as pb, append_entries_response::Outcome, raft_service_server::RaftService,
};
use medanchor_dag::Hash;
use openraft::{CommittedLeaderId, EntryPayload};
use std::sync::Arc;
use tonic::Request;

#[tokio::test]
async fn batch_is_taken_with_its_leaders_head_alone() {
    let cluster = follower().await;
    let admission = cluster.replica(2).admission();
    let good = signed(&head(0), LEADER);
    assert_eq!(judge(admission, entry(0, Some(good))), None);

    let other_place = BatchHead {
        index: 1,
        ..head(0)
    };
    let other_term = BatchHead { term: 4, ..head(0) };
    let other_batch = BatchHead {
        batch: Hash::of(b"another"),
        ..head(0)
    };
    let other_network = BatchHead {
        origin: "another.example".to_owned(),
        ..head(0)
    };
    let another_member = BatchHead {
        node: identity(3).key.did(),
        ..head(0)
    };
    let wrong = [
        (signed(&other_place, LEADER), "another place"),
        (signed(&other_term, LEADER), "another term"),
        (signed(&other_batch, LEADER), "another batch"),
        (signed(&other_network, LEADER), "another network"),
        (signed(&another_member, 3), "another member"),
        (signed(&head(0), 3), "another key"),
        (Bytes::from_static(b"head"), "no head"),
    ];
    for (head, name) in wrong {
        let refused = judge(admission, entry(0, Some(head)));
        assert_eq!(refused, Some(Refusal::WrongHead), "{name}");
    }
    assert_eq!(judge(admission, entry(0, None)), Some(Refusal::NoHead));
    let alarm = |alarm: &Alarm| {
        matches!(
            alarm,
            Alarm::NotSigned {
                node_id: LEADER,
                ..
            }
        )
    };
    cluster.alarm(2, alarm).await;
}

#[tokio::test]
async fn every_flipped_bit_of_a_head_or_its_batch_is_refused() {
    let cluster = follower().await;
    let admission = cluster.replica(2).admission();
    let (good, batch) = (signed(&head(0), LEADER), batch(BEGINNING));
    for bit in 0..good.len() * 8 {
        let refused = judge(admission, entry(0, Some(flipped(&good, bit))));
        assert_eq!(refused, Some(Refusal::WrongHead), "bit {bit} of the head");
    }
    for bit in 0..batch.len() * 8 {
        let proposal = Proposal {
            batch: flipped(&batch, bit),
            head: Some(good.clone()),
        };
        let refused = judge(admission, placed(0, LEADER, proposal));
        assert_eq!(refused, Some(Refusal::WrongHead), "bit {bit} of the batch");
    }
}

#[tokio::test]
async fn batch_of_a_leader_that_is_no_member_is_refused() {
    let cluster = follower().await;
    let mut stranger = entry(0, Some(signed(&head(0), LEADER)));
    stranger.log_id = LogId::new(CommittedLeaderId::new(TERM, 9), 0);
    let refused = judge(cluster.replica(2).admission(), stranger);
    assert_eq!(refused, Some(Refusal::UnknownLeader));
}

#[tokio::test]
async fn batch_on_another_tree_is_refused_and_its_head_kept() {
    let cluster = follower().await;
    let admission = cluster.replica(2).admission();
    let forked = BatchHead {
        root: Hash::of(b"another tree"),
        ..head(0)
    };
    let forked = signed(&forked, LEADER);
    let refused = judge(admission, entry(0, Some(forked.clone())));
    assert_eq!(refused, Some(Refusal::OtherTree));
    assert_eq!(admission.refused_heads().unwrap(), vec![forked]);
    let alarm = |alarm: &Alarm| {
        matches!(
            alarm,
            Alarm::OtherTree {
                node_id: LEADER,
                ..
            }
        )
    };
    cluster.alarm(2, alarm).await;

    // A tree that is not applied here yet is nobody's lie.
    let ahead = BatchHead {
        size: 7,
        root: Hash::of(b"seven leaves"),
        ..head(0)
    };
    assert_eq!(
        judge(admission, entry(0, Some(signed(&ahead, LEADER)))),
        None
    );
}

#[tokio::test]
async fn batch_is_taken_up_to_five_seconds_ahead_and_however_old() {
    let cluster = follower().await;
    let admission = cluster.replica(2).admission();
    let cases = [
        (BEGINNING - 3_600_000, None),
        (BEGINNING, None),
        (BEGINNING + 5000, None),
        (BEGINNING + 5001, Some(Refusal::FromTheFuture)),
        (u64::MAX, Some(Refusal::FromTheFuture)),
    ];
    for (proposed_at, expected) in cases {
        assert_eq!(judge(admission, stamped(proposed_at)), expected);
    }
    assert_eq!(Refusal::FromTheFuture.code(), "from-the-future");
    let by = std::time::Duration::from_millis(5001);
    let node_id = LEADER;
    cluster
        .alarm(2, |alarm| *alarm == Alarm::FromTheFuture { node_id, by })
        .await;
}

/// Through the service: what is refused is not appended, and what comes before it is.
#[tokio::test]
async fn nothing_of_a_refused_batch_reaches_raft() {
    let cluster = follower().await;
    let future = stamped(BEGINNING + 3_600_000);
    let outcome = append(&cluster, 2, vec![future.clone()]).await;
    assert_eq!(outcome, refused("from-the-future"));
    assert_eq!(last_index(&cluster), None);

    let first = entry(0, Some(signed(&head(0), LEADER)));
    let outcome = append(&cluster, 2, vec![first.clone(), at(1, future)]).await;
    let place = crate::codec::log_id_to_pb(&first.log_id);
    assert_eq!(outcome, Some(Outcome::PartialSuccess(place)));
    assert_eq!(last_index(&cluster), Some(0));
}

#[tokio::test]
async fn second_head_for_one_place_is_refused_and_names_the_liar() {
    let cluster = follower().await;
    let first = entry(0, Some(signed(&head(0), LEADER)));
    let outcome = append(&cluster, 2, vec![first.clone()]).await;
    assert_eq!(outcome, Some(Outcome::Success(pb::Success {})));
    // The same again is only a repetition.
    let outcome = append(&cluster, 2, vec![first]).await;
    assert_eq!(outcome, Some(Outcome::Success(pb::Success {})));

    let outcome = append(&cluster, 2, vec![stamped(BEGINNING + 1)]).await;
    assert_eq!(outcome, refused("batch-conflict"));
    let alarm = |alarm: &Alarm| matches!(alarm, Alarm::Conflict { .. });
    let Alarm::Conflict { node_id, heads, .. } = cluster.alarm(2, alarm).await else {
        unreachable!("it is a conflict");
    };
    assert_eq!(node_id, LEADER);
    let [one, two] = *heads;
    assert!(one.conflict(&two).is_some());
    let kept = cluster.replica(2).admission().refused_heads().unwrap();
    assert_eq!(kept, vec![Bytes::from(two.to_bytes())]);
}

pub(super) const LEADER: NodeId = 1;
const TERM: u64 = 3;

/// A node that waits for its leader.
async fn follower() -> Cluster {
    let mut cluster = Cluster::new(3, usual).await;
    cluster.start(2, Remains::new()).await;
    cluster
}

/// Another batch in the same place.
pub(super) fn other_batch() -> Entry {
    stamped(BEGINNING + 1)
}

pub(super) fn head(index: u64) -> BatchHead {
    BatchHead {
        v: 1,
        origin: identity(LEADER).origin,
        node: identity(LEADER).key.did(),
        term: TERM,
        index,
        size: 0,
        root: tree::empty_root(),
        batch: Hash::of(&batch(BEGINNING)),
    }
}

pub(super) fn signed(head: &BatchHead, by: NodeId) -> Bytes {
    head.clone().sign(&identity(by).key).to_bytes().into()
}

fn batch(proposed_at: u64) -> Bytes {
    let batch = Batch {
        v: 1,
        proposed_at,
        entries: Vec::new(),
        holds: Vec::new(),
        lists: Vec::new(),
    };
    batch.to_bytes().into()
}

pub(super) fn entry(index: u64, head: Option<Bytes>) -> Entry {
    let batch = batch(BEGINNING);
    placed(index, LEADER, Proposal { batch, head })
}

/// A batch with this time and the head that goes with it, in the first place.
fn stamped(proposed_at: u64) -> Entry {
    let batch = batch(proposed_at);
    let head = BatchHead {
        batch: Hash::of(&batch),
        ..head(0)
    };
    let head = Some(signed(&head, LEADER));
    placed(0, LEADER, Proposal { batch, head })
}

/// The same batch in another place.
fn at(index: u64, entry: Entry) -> Entry {
    let EntryPayload::Normal(proposal) = entry.payload else {
        unreachable!("it is a batch");
    };
    let head = SignedBatchHead::verify(&proposal.head.unwrap())
        .unwrap()
        .head;
    let head = BatchHead { index, ..head };
    let head = Some(signed(&head, LEADER));
    let batch = proposal.batch;
    placed(index, LEADER, Proposal { batch, head })
}

fn placed(index: u64, leader: NodeId, proposal: Proposal) -> Entry {
    Entry {
        log_id: LogId::new(CommittedLeaderId::new(TERM, leader), index),
        payload: EntryPayload::Normal(proposal),
    }
}

fn judge(admission: &Admission, entry: Entry) -> Option<Refusal> {
    let vote = Vote::new_committed(TERM, LEADER);
    let admitted = admission.admit(&vote, None, vec![entry]).unwrap();
    assert_eq!(admitted.entries.is_empty(), admitted.refused.is_some());
    admitted.refused
}

fn flipped(bytes: &[u8], bit: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes.into()
}

/// What node `to` answers node 1, which sends these as its first entries.
pub(super) async fn append(cluster: &Cluster, to: NodeId, entries: Vec<Entry>) -> Option<Outcome> {
    let server = RaftServer::new(cluster.replica(to).clone(), Arc::new(|_| Some(LEADER)));
    let request = pb::AppendEntriesRequest {
        to,
        vote: Some(pb::Vote {
            term: TERM,
            node_id: LEADER,
            committed: true,
        }),
        prev_log_id: None,
        entries: entries.iter().map(entry_to_pb).collect(),
        leader_commit: None,
    };
    let answer = server.append_entries(Request::new(request)).await;
    answer.unwrap().into_inner().outcome
}

fn refused(code: &str) -> Option<Outcome> {
    let code = code.to_owned();
    Some(Outcome::Refused(pb::EntryRefused { code }))
}

fn last_index(cluster: &Cluster) -> Option<u64> {
    cluster.replica(2).raft().metrics().borrow().last_log_index
}

fn usual(_: &mut ReplicaConfig) {}
