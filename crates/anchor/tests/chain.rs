//! Receipts from before and after a change of the members, judged by the policy of their time.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what goes wrong here is a failed test"
)]

use medanchor_anchor::{
    ChainError, Epochs, PolicyChain, Receipt, ReceiptError, Strength, TrustError, TrustPolicy,
    testing::{MEMBERS, World, cid, founded},
};
use proptest::prelude::*;

const A: &str = MEMBERS[0];
const B: &str = MEMBERS[1];
const C: &str = MEMBERS[2];
const D: &str = "hospital-d";
const E: &str = "hospital-e";

fn root() -> TrustPolicy {
    TrustPolicy::founded(&founded(cid("policy"))).unwrap()
}

/// D joins at leaf 3, C leaves at leaf 6, and the log goes on to 9 leaves.
struct Story {
    world: World,
    chain: PolicyChain,
}

impl Story {
    fn new() -> Self {
        let mut world = World::new();
        world.enrol("ada", medanchor_anchor::PrincipalKind::Person, A, &[]);
        world.enrol("bob", medanchor_anchor::PrincipalKind::Person, A, &[]);
        let joined = world.join(D, 3, &[A, B]).index;
        world.enrol("cat", medanchor_anchor::PrincipalKind::Person, A, &[]);
        world.enrol("dan", medanchor_anchor::PrincipalKind::Person, A, &[]);
        let left = world.leave(C, 3, &[A, B]).index;
        world.enrol("eve", medanchor_anchor::PrincipalKind::Person, A, &[]);
        world.enrol("fay", medanchor_anchor::PrincipalKind::Person, A, &[]);
        assert_eq!((joined, left), (3, 6));
        let mut story = Self {
            chain: PolicyChain::default(),
            world,
        };
        // The first change is published under three of three; the second under three of four.
        story.chain.changes = vec![
            story.receipt(joined, joined + 1, B, &[A, B, C]),
            story.receipt(left, left + 1, D, &[A, B, D]),
        ];
        story.chain.head = Some(story.world.checkpoint(9, D, &[A, B, D]));
        for size in [2, 4, 6, 7] {
            let proof = story.world.state().consistency_proof(size, 9).unwrap();
            story.chain.proofs.insert(size, proof);
        }
        story
    }

    fn receipt(&self, index: u64, size: u64, log: &str, cosigners: &[&str]) -> Receipt {
        let checkpoint = self.world.checkpoint(size, log, cosigners);
        self.world.receipt(index, checkpoint)
    }

    fn epochs(&self) -> Epochs {
        Epochs::follow(root(), &self.chain).unwrap()
    }
}

fn why(receipt: &Receipt, epochs: &Epochs) -> TrustError {
    use medanchor_anchor::InclusionError;
    match receipt.verify(epochs, Strength::Published).unwrap_err() {
        ReceiptError::Inclusion(InclusionError::Trust(error)) => error,
        error => panic!("{error}"),
    }
}

#[test]
fn receipts_of_every_epoch_verify_by_the_policy_of_their_time() {
    let story = Story::new();
    let epochs = story.epochs();
    assert_eq!((epochs.changes(), epochs.current_after()), (2, 7));
    for receipt in [
        story.receipt(1, 2, A, &[A, B, C]),
        story.receipt(1, 4, C, &[A, B, C]),
        story.receipt(4, 6, D, &[B, C, D]),
        story.receipt(1, 7, C, &[A, C, D]),
        story.receipt(1, 8, D, &[A, B, D]),
        story.receipt(8, 9, A, &[A, B, D]),
    ] {
        receipt.verify(&epochs, Strength::Published).unwrap();
    }
}

#[test]
fn keys_count_in_their_own_time_alone() {
    let story = Story::new();
    let epochs = story.epochs();
    // D before it joined, C after it left, by the log key and by too few co-signers.
    for receipt in [
        story.receipt(1, 2, D, &[A, B, C]),
        story.receipt(1, 2, A, &[A, B, D]),
        story.receipt(1, 8, C, &[A, B, D]),
        story.receipt(1, 8, A, &[A, B, C]),
    ] {
        let error = why(&receipt, &epochs);
        let expected = matches!(error, TrustError::Unsigned | TrustError::Quorum { .. });
        assert!(expected, "{error}");
    }
    // Without the chain, the founders' policy knows nothing of D.
    let alone = Epochs::new(root());
    assert_eq!(
        why(&story.receipt(8, 9, D, &[A, B, D]), &alone),
        TrustError::Unsigned
    );
}

#[test]
fn retired_keys_count_only_for_what_is_in_the_log_still() {
    let mut story = Story::new();
    let receipt = story.receipt(1, 3, A, &[A, B, C]);
    assert_eq!(why(&receipt, &story.epochs()), TrustError::Retired(3));
    // All of the old keys together sign a log that never was.
    let mut fork = World::new();
    fork.enrol("mallory", medanchor_anchor::PrincipalKind::Person, A, &[]);
    let forged = fork.receipt(1, fork.checkpoint(2, A, &[A, B, C]));
    forged.verify(&root(), Strength::Published).unwrap();
    assert_eq!(why(&forged, &story.epochs()), TrustError::Rewritten(2));
    // Without a head nothing retired is shown.
    story.chain.head = None;
    let headless = story.epochs();
    let old = story.receipt(1, 2, A, &[A, B, C]);
    assert_eq!(why(&old, &headless), TrustError::Retired(2));
    for receipt in [
        story.receipt(8, 9, D, &[A, B, D]),
        // What the chain itself rests on.
        story.receipt(1, 7, D, &[A, B, D]),
    ] {
        receipt.verify(&headless, Strength::Published).unwrap();
    }
}

#[test]
fn change_under_any_other_policy_than_the_one_before_is_refused() {
    let story = Story::new();
    let follow = |chain: PolicyChain| Epochs::follow(root(), &chain).unwrap_err();
    // By the policy that it makes itself; by too few; by a later checkpoint than its own.
    for (change, index) in [
        (story.receipt(3, 4, D, &[A, B, C]), 0),
        (story.receipt(3, 4, A, &[A, B, D]), 0),
        (story.receipt(6, 7, A, &[A, B, C]), 1),
    ] {
        let mut chain = story.chain.clone();
        chain.changes[index] = change;
        let expected = index + 1;
        if index == 0 {
            let error = follow(chain);
            assert!(
                matches!(error, ChainError::Receipt { number, .. } if number == expected),
                "{error}"
            );
        } else {
            // Three of four are A, B and C as well.
            Epochs::follow(root(), &chain).unwrap();
        }
    }
    let mut later = story.chain.clone();
    later.changes[0] = story.receipt(3, 5, A, &[A, B, C]);
    assert!(matches!(follow(later), ChainError::NoChange(1)));
}

#[test]
fn chain_with_a_gap_or_another_leaf_is_refused() {
    let story = Story::new();
    let follow = |change: &dyn Fn(&mut PolicyChain)| {
        let mut chain = story.chain.clone();
        change(&mut chain);
        Epochs::follow(root(), &chain).unwrap_err()
    };
    follow(&|chain| {
        chain.changes.remove(0);
    });
    follow(&|chain| chain.changes.swap(0, 1));
    let twice = follow(&|chain| chain.changes.insert(0, chain.changes[0].clone()));
    assert!(matches!(twice, ChainError::NoChange(2)), "{twice}");
    let other = follow(&|chain| chain.changes[0] = story.receipt(1, 2, A, &[A, B, C]));
    assert!(matches!(other, ChainError::NoChange(1)), "{other}");
    let withheld = follow(&|chain| chain.changes[0].opening = None);
    assert!(matches!(withheld, ChainError::NoChange(1)), "{withheld}");
    let old_head = follow(&|chain| chain.head = Some(story.world.checkpoint(9, C, &[A, B, C])));
    assert!(matches!(old_head, ChainError::Head(_)), "{old_head}");
    let unproved = follow(&|chain| {
        chain.proofs.remove(&4);
    });
    assert!(matches!(unproved, ChainError::Rewritten(1)), "{unproved}");
}

#[test]
fn witness_counts_from_its_change_to_the_next() {
    const W: &str = "witness.example/w";
    let mut world = World::new();
    let came = world.watch(W, 4, &[A, B]).index;
    world.enrol("ada", medanchor_anchor::PrincipalKind::Person, A, &[]);
    let body = medanchor_anchor::WitnessRemoved {
        key: medanchor_anchor::testing::watching(W, 4).key,
        quorum: 3,
    };
    let members = [A, B].map(medanchor_anchor::testing::key);
    let body = medanchor_anchor::Body::WitnessRemoved(body);
    let went = world.accept(body, &members.each_ref()).index;
    world.enrol("bob", medanchor_anchor::PrincipalKind::Person, A, &[]);
    assert_eq!((came, went), (1, 3));
    let receipt = |index, size, by: &[&str]| world.receipt(index, world.checkpoint(size, A, by));
    let founding = founded(cid("policy"));
    let mut chain = PolicyChain {
        changes: vec![receipt(1, 2, &[A, B, C])],
        ..PolicyChain::default()
    };
    let follow = |chain: &PolicyChain| Epochs::follow(root(), chain);
    let policy = follow(&chain).unwrap().current().clone();
    assert_eq!(policy.witnesses().count(), 4);
    // Four of four: nobody may be missing, the witness neither.
    let all = [A, B, C, W];
    receipt(2, 3, &all)
        .verify(&policy, Strength::Published)
        .unwrap();
    let too_few = receipt(2, 3, &[A, B, C]);
    assert!(too_few.verify(&policy, Strength::Published).is_err());
    assert_eq!(chain.quorum(&founding), 4);
    let witnesses = chain.witnesses(&founding.witnesses);
    assert!(witnesses[0].is_active() && witnesses[0].place.is_some());

    // Its removal is published with it, under the policy before.
    chain.changes.push(receipt(3, 4, &[A, B, C]));
    let error = follow(&chain).unwrap_err();
    assert!(
        matches!(error, ChainError::Receipt { number: 2, .. }),
        "{error}"
    );
    chain.changes[1] = receipt(3, 4, &all);
    let chain = PolicyChain::from_bytes(&chain.to_bytes()).unwrap();
    let epochs = follow(&chain).unwrap();
    assert_eq!(epochs.current().to_string(), root().to_string());
    assert_eq!(chain.quorum(&founding), 3);
    assert!(!chain.witnesses(&founding.witnesses)[0].is_active());
    receipt(4, 5, &[A, B, C])
        .verify(&epochs, Strength::Published)
        .unwrap();
    for (size, witnesses) in [(2, 3), (3, 4), (4, 4), (5, 3)] {
        assert_eq!(epochs.at(size).witnesses().count(), witnesses, "{size}");
    }
}

#[test]
fn refused_change_changes_nothing() {
    let mut world = World::new();
    let body =
        medanchor_anchor::Body::MemberAdded(Box::new(medanchor_anchor::testing::joining(D, 3)));
    let [d, a] = [D, A].map(medanchor_anchor::testing::key);
    world.say(body, &[&d, &a]);
    let chain = PolicyChain {
        changes: vec![world.receipt(1, world.checkpoint(2, A, &[A, B, C]))],
        ..PolicyChain::default()
    };
    let refused = Epochs::follow(root(), &chain).unwrap_err();
    assert!(matches!(refused, ChainError::NoChange(1)), "{refused}");
}

#[test]
fn policy_of_another_shape_has_no_successor() {
    let story = Story::new();
    let text = root()
        .to_string()
        .replace("quorum cosigners", "group both 1 cosigners\nquorum both");
    let nested: TrustPolicy = text.parse().unwrap();
    let refused = Epochs::follow(nested, &story.chain).unwrap_err();
    assert!(matches!(refused, ChainError::Root), "{refused}");
}

#[test]
fn members_come_and_go_for_long() {
    let mut world = World::new();
    let mut chain = PolicyChain::default();
    for n in 0..6 {
        let name = format!("guest-{n}");
        let at = world.join(&name, 4, &[A, B]).index;
        chain
            .changes
            .push(world.receipt(at, world.checkpoint(at + 1, A, &[A, B, C])));
        let at = world.leave(&name, 3, &[A, B]).index;
        let by = [A, B, C, name.as_str()];
        chain
            .changes
            .push(world.receipt(at, world.checkpoint(at + 1, &name, &by)));
    }
    let at = world.join(E, 4, &[A, B]).index;
    chain
        .changes
        .push(world.receipt(at, world.checkpoint(at + 1, A, &[A, B, C])));
    let epochs = Epochs::follow(root(), &PolicyChain::from_bytes(&chain.to_bytes()).unwrap());
    let current = epochs.unwrap().current().clone();
    assert_eq!(
        (current.logs().count(), current.witnesses().count()),
        (4, 4)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn chain_with_a_flipped_bit_is_refused_or_says_the_same(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let story = Story::new();
        let mut bytes = story.chain.to_bytes();
        prop_assert_eq!(&PolicyChain::from_bytes(&bytes).unwrap(), &story.chain);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(chain) = PolicyChain::from_bytes(&bytes)
            && let Ok(epochs) = Epochs::follow(root(), &chain)
        {
            // Only a proof that nothing rests on yet may differ: what it is for is then not shown.
            let expected = story.epochs();
            prop_assert_eq!(epochs.current(), expected.current());
            for size in 0..=10 {
                prop_assert_eq!(epochs.at(size), expected.at(size));
            }
        }
    }

    #[test]
    fn any_bytes_are_a_chain_or_an_error(bytes: Vec<u8>) {
        let _ = PolicyChain::from_bytes(&bytes);
    }
}
