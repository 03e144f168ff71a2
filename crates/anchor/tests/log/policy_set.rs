use crate::{outcome, rejected};
use medanchor_anchor::{
    Applied, Body, Outcome, PolicySet,
    testing::{BEGINNING, MEMBERS, World, cid, key},
};
use medanchor_dag::SigningKey;

fn set(world: &mut World, set: &[u8], by: &[&str]) -> Applied {
    let keys: Vec<SigningKey> = by.iter().map(|name| key(name)).collect();
    let authors: Vec<&SigningKey> = keys.iter().collect();
    world.say(Body::PolicySet(PolicySet { set: set.to_vec() }), &authors)
}

#[test]
fn majority_of_the_members_puts_a_policy_set_in_force() {
    let mut world = World::with_policy(cid("founded"));
    let founded = world.state().access_policy().unwrap().unwrap();
    assert_eq!((founded.policy, founded.since), (cid("founded"), 0));
    assert_eq!(founded.set, None);

    let minority = set(&mut world, b"first", &MEMBERS[..1]);
    assert_eq!(outcome(&minority), Outcome::Forbidden);
    assert_eq!(world.state().access_policy().unwrap(), Some(founded));

    let Applied::Leaf(first) = set(&mut world, b"first", &MEMBERS[..2]) else {
        panic!("rejected")
    };
    assert_eq!(first.leaf.outcome, Outcome::Ok);
    let entry = world.state().access_policy().unwrap().unwrap();
    assert_eq!(entry.since, first.index);
    assert_eq!(entry.set.as_deref(), Some(&b"first".to_vec()));
    assert_eq!(
        entry.policy,
        PolicySet {
            set: b"first".to_vec()
        }
        .cid()
    );
}

#[test]
fn set_that_is_in_force_is_not_set_again_and_an_earlier_one_is() {
    let mut world = World::new();
    assert_eq!(outcome(&set(&mut world, b"first", &MEMBERS)), Outcome::Ok);
    assert_eq!(
        outcome(&set(&mut world, b"first", &MEMBERS)),
        Outcome::Conflict
    );
    assert_eq!(outcome(&set(&mut world, b"second", &MEMBERS)), Outcome::Ok);
    assert_eq!(outcome(&set(&mut world, b"first", &MEMBERS)), Outcome::Ok);
}

#[test]
fn members_have_two_weeks_to_sign_it() {
    let mut world = World::new();
    let mut later = world.statement(Body::PolicySet(PolicySet {
        set: b"set".to_vec(),
    }));
    let keys = MEMBERS.map(key);
    let authors: Vec<&SigningKey> = keys.iter().collect();
    later.not_after_unix_ms = Some(BEGINNING + medanchor_anchor::Log::MAX_MEMBER_VALIDITY_MS);
    assert_eq!(outcome(&world.submit(later.sign(&authors))), Outcome::Ok);
}

#[test]
fn set_of_no_or_too_many_bytes_is_rejected() {
    for size in [0, PolicySet::MAX_BYTES + 1] {
        let mut world = World::new();
        let applied = set(&mut world, &vec![b'x'; size], &MEMBERS);
        assert_eq!(rejected(&applied), "malformed", "{size}");
    }
    let largest = vec![b'x'; PolicySet::MAX_BYTES];
    assert_eq!(
        outcome(&set(&mut World::new(), &largest, &MEMBERS)),
        Outcome::Ok
    );
}
