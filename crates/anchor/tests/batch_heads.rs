//! What a leader signs when it replicates a batch, and what two such heads prove against it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

use medanchor_anchor::{
    Batch, BatchConflict, BatchConflictError, BatchConflictKind, BatchHead, Class, CustodyKind,
    Epochs, PrincipalKind, Receipt, SignedBatchHead, Strength, TrustPolicy,
    testing::{MEMBERS, ORIGIN, World, did, founded, key, node_key},
};
use medanchor_dag::{Hash, SigningKey, to_canonical};
use proptest::prelude::*;

#[test]
fn head_is_read_back_and_every_flipped_bit_of_it_is_refused() {
    let signed = head("batch").sign(&node_key(MEMBERS[0]));
    let bytes = signed.to_bytes();
    assert_eq!(SignedBatchHead::verify(&bytes).unwrap(), signed);
    for bit in 0..bytes.len() * 8 {
        assert!(
            SignedBatchHead::verify(&flipped(&bytes, bit)).is_err(),
            "bit {bit}"
        );
    }
    for length in 0..bytes.len() {
        assert!(SignedBatchHead::verify(&bytes[..length]).is_err());
    }
}

#[test]
fn head_of_another_version_or_by_another_key_is_refused() {
    let newer = BatchHead {
        v: 2,
        ..head("batch")
    };
    let newer = newer.sign(&node_key(MEMBERS[0]));
    assert!(SignedBatchHead::verify(&newer.to_bytes()).is_err());
    let other = head("batch").sign(&node_key(MEMBERS[1]));
    assert!(SignedBatchHead::verify(&other.to_bytes()).is_err());
}

/// What one leader may say twice, and what it may not.
#[test]
fn only_what_an_honest_leader_never_signs_is_a_conflict() {
    let first = head("batch");
    let next = BatchHead {
        index: first.index + 1,
        ..head("next")
    };
    let later_term = BatchHead {
        term: first.term + 1,
        ..head("other")
    };
    let grown = BatchHead {
        size: first.size + 1,
        root: Hash::of(b"grown"),
        ..next.clone()
    };
    for honest in [first.clone(), next.clone(), later_term, grown] {
        assert_eq!(conflict(&first, &honest), None, "{honest:?}");
    }
    let (term, index) = (first.term, first.index);
    assert_eq!(
        conflict(&first, &head("other")),
        Some(BatchConflictKind::TwoBatches { term, index })
    );
    let other_tree = BatchHead {
        root: Hash::of(b"another tree"),
        ..next
    };
    assert_eq!(
        conflict(&first, &other_tree),
        Some(BatchConflictKind::TwoTrees { size: first.size })
    );
    let other_network = BatchHead {
        origin: "other.example".to_owned(),
        ..head("other")
    };
    assert_eq!(conflict(&first, &other_network), None);
}

#[test]
fn two_leaders_do_not_contradict_each_other() {
    let other = MEMBERS[1];
    let of_other = BatchHead {
        node: node_key(other).did(),
        ..head("other")
    };
    let one = head("batch").sign(&node_key(MEMBERS[0]));
    assert_eq!(one.conflict(&of_other.sign(&node_key(other))), None);
}

#[test]
fn proof_of_a_conflict_names_the_liar() {
    let (proof, epochs) = proof();
    let read: BatchConflict = proof.to_string().parse().unwrap();
    assert_eq!(read, proof);
    let liar = read.verify(&epochs, Strength::Published).unwrap();
    assert_eq!((liar.org, liar.name), (did(MEMBERS[0]), MEMBERS[0]));
    assert_eq!(liar.origin, ORIGIN);
    assert!(matches!(
        liar.conflict,
        BatchConflictKind::TwoBatches { .. }
    ));
}

#[test]
fn every_flipped_bit_of_a_proof_is_seen() {
    let (proof, epochs) = proof();
    let text = proof.to_string().into_bytes();
    for bit in 0..text.len() * 8 {
        let accepted = String::from_utf8(flipped(&text, bit))
            .ok()
            .and_then(|text| text.parse::<BatchConflict>().ok())
            .is_some_and(|proof| proof.verify(&epochs, Strength::Published).is_ok());
        assert!(!accepted, "bit {bit}");
    }
}

#[test]
fn order_of_the_heads_changes_nothing() {
    let (one, two, receipt) = parts();
    let proof = BatchConflict::new(one.clone(), two.clone(), receipt.clone());
    assert_eq!(proof, BatchConflict::new(two, one, receipt));
}

#[test]
fn proof_without_a_conflict_accuses_nobody() {
    let (one, _, receipt) = parts();
    let proof = BatchConflict::new(one.clone(), one, receipt);
    assert_eq!(
        proof.verify(&epochs(), Strength::Published),
        Err(BatchConflictError::NoConflict)
    );
}

#[test]
fn key_that_is_no_members_accuses_nobody() {
    let (_, _, receipt) = parts();
    let stranger = key("stranger");
    let sign = |batch: &str| {
        let head = BatchHead {
            node: stranger.did(),
            ..head(batch)
        };
        head.sign(&stranger)
    };
    let proof = BatchConflict::new(sign("batch"), sign("other"), receipt);
    assert_eq!(
        proof.verify(&epochs(), Strength::Published),
        Err(BatchConflictError::Nobody)
    );
}

#[test]
fn receipt_of_another_leaf_accuses_nobody() {
    let (one, two, _) = parts();
    let world = world();
    let proof = BatchConflict::new(one, two, receipt(&world, 1));
    assert_eq!(
        proof.verify(&epochs(), Strength::Published),
        Err(BatchConflictError::Nobody)
    );
}

#[test]
fn time_of_a_batch_is_found_without_parsing_it() {
    let mut world = world();
    world.custody("patient", "hospital-a", CustodyKind::Person);
    world.anchor("record", "monitor", "patient", Class::Ecg);
    for batch in &world.batches {
        let found = Batch::proposed_at_of(&batch.to_bytes());
        assert_eq!(found, Some(batch.proposed_at));
    }
}

proptest! {
    #[test]
    fn bytes_are_judged_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Batch::proposed_at_of(&bytes);
        prop_assert!(SignedBatchHead::verify(&bytes).is_err());
    }

    #[test]
    fn every_batch_says_when_it_was_proposed(proposed_at in any::<u64>()) {
        let batch = Batch { v: 1, proposed_at, entries: vec![], holds: vec![], lists: vec![] };
        prop_assert_eq!(Batch::proposed_at_of(&batch.to_bytes()), Some(proposed_at));
        prop_assert_eq!(Batch::proposed_at_of(&to_canonical(&(proposed_at, 1))), None);
    }

    #[test]
    fn parse_of_arbitrary_proof_never_panics(text in "\\PC*") {
        let text = format!("medanchor/v1/batch-conflict\n{text}");
        prop_assert!(text.parse::<BatchConflict>().is_err());
    }
}

fn head(batch: &str) -> BatchHead {
    BatchHead {
        v: 1,
        origin: ORIGIN.to_owned(),
        node: node_key(MEMBERS[0]).did(),
        term: 3,
        index: 17,
        size: 5,
        root: Hash::of(b"root"),
        batch: Hash::of(batch.as_bytes()),
    }
}

fn conflict(one: &BatchHead, two: &BatchHead) -> Option<BatchConflictKind> {
    let [one, two] = [one, two].map(|head| head.clone().sign(&node_key(MEMBERS[0])));
    assert_eq!(one.conflict(&two), two.conflict(&one));
    one.conflict(&two)
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

fn proof() -> (BatchConflict, Epochs) {
    let (one, two, receipt) = parts();
    (BatchConflict::new(one, two, receipt), epochs())
}

fn parts() -> (SignedBatchHead, SignedBatchHead, Receipt) {
    let node: SigningKey = node_key(MEMBERS[0]);
    let (one, two) = (head("batch").sign(&node), head("other").sign(&node));
    (one, two, receipt(&world(), 0))
}

fn epochs() -> Epochs {
    let founded = founded(medanchor_anchor::testing::cid("policy"));
    Epochs::new(TrustPolicy::founded(&founded).unwrap())
}

fn world() -> World {
    let mut world = World::new();
    world.enrol("monitor", PrincipalKind::Device, "hospital-a", &["device"]);
    world
}

fn receipt(world: &World, index: u64) -> Receipt {
    let size = world.state().tree_size().unwrap();
    world.receipt(index, world.checkpoint(size, "hospital-a", &MEMBERS))
}
