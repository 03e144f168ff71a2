use crate::codec::{
    entry_from_pb, entry_to_pb, from_row, membership_from_pb, membership_to_pb, meta_from_pb,
    meta_to_pb, snapshot_meta, to_row, vote_from_pb, vote_to_pb,
};
use crate::snapshot::SnapshotFile;
use crate::types::{Entry, LogId, Membership, Proposal, StoredMembership, Vote};
use crate::{CodecError, NodeId};
use medanchor_api::pb::raft as pb;
use openraft::{CommittedLeaderId, EntryPayload};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use std::io::Write;

proptest! {
    #[test]
    fn entry_survives_wire_and_disk(entry in entry()) {
        let row = to_row(&entry_to_pb(&entry));
        let read = entry_from_pb(from_row(&row).unwrap()).unwrap();
        assert_eq!(read, entry);
    }

    #[test]
    fn vote_survives_the_wire(term: u64, node_id: NodeId, committed: bool) {
        let vote = if committed { Vote::new_committed(term, node_id) } else { Vote::new(term, node_id) };
        assert_eq!(vote_from_pb(Some(&vote_to_pb(&vote))).unwrap(), vote);
    }

    #[test]
    fn snapshot_meta_survives_the_wire(last in log_id(), membership in membership()) {
        let meta = snapshot_meta(Some(last), StoredMembership::new(Some(last), membership));
        assert_eq!(meta_from_pb(&meta_to_pb(&meta)).unwrap(), meta);
    }

    #[test]
    fn any_bytes_are_a_row_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        // Whatever they are, nothing panics.
        let _entry = from_row::<pb::Entry>(&bytes).map(entry_from_pb);
    }

    #[test]
    fn any_bytes_after_the_magic_are_no_snapshot(bytes in vec(any::<u8>(), 0..200)) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"medanchor-snap\0\x01").unwrap();
        file.write_all(&bytes).unwrap();
        assert!(SnapshotFile::verify(file).is_err());
    }
}

#[test]
fn row_of_another_version_is_refused() {
    let mut row = to_row(&pb::Entry::default());
    row[0] = 2;
    let read = from_row::<pb::Entry>(&row);
    assert!(matches!(read, Err(CodecError::Version(2))), "{read:?}");
    assert!(from_row::<pb::Entry>(&[]).is_err());
}

#[test]
fn membership_that_nobody_agreed_on_is_refused() {
    let set = |ids: &[NodeId]| pb::NodeSet {
        node_ids: ids.to_vec(),
    };
    let cases = [
        ("no voter", vec![set(&[])], vec![1]),
        ("voter that is no node", vec![set(&[1, 2])], vec![1]),
        ("three configurations", vec![set(&[1]); 3], vec![1]),
        ("too many nodes", vec![set(&[1])], (1..=65).collect()),
    ];
    for (name, configs, nodes) in cases {
        let membership = pb::Membership { configs, nodes };
        assert!(membership_from_pb(&membership).is_err(), "{name}");
    }
    let agreed = Membership::new(vec![[1, 2].into()], ());
    assert_eq!(
        membership_from_pb(&membership_to_pb(&agreed)).unwrap(),
        agreed
    );
}

fn entry() -> impl Strategy<Value = Entry> {
    let payload = prop_oneof![
        proptest::strategy::Just(EntryPayload::Blank),
        (
            vec(any::<u8>(), 0..100),
            option::of(vec(any::<u8>(), 1..100))
        )
            .prop_map(|(batch, head)| {
                EntryPayload::Normal(Proposal {
                    batch: batch.into(),
                    head: head.map(Into::into),
                })
            }),
        membership().prop_map(EntryPayload::Membership),
    ];
    (log_id(), payload).prop_map(|(log_id, payload)| Entry { log_id, payload })
}

fn log_id() -> impl Strategy<Value = LogId> {
    any::<(u64, NodeId, u64)>()
        .prop_map(|(term, node, index)| LogId::new(CommittedLeaderId::new(term, node), index))
}

fn membership() -> impl Strategy<Value = Membership> {
    vec(btree_set(1_u64..50, 1..10), 1..=2).prop_map(|configs| Membership::new(configs, ()))
}
