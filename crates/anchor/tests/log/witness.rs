use crate::{Change, outcome, rejected};
use medanchor_anchor::{
    Applied, Body, Kind, Log, Outcome, TrustPolicy, WitnessAdded, WitnessRemoved,
    testing::{
        HOUR, MEMBERS, ORIGIN, World, cid, did, founded, joining, key, verifier_key, watching,
    },
};
use medanchor_dag::SigningKey;

const A: &str = MEMBERS[0];
const B: &str = MEMBERS[1];
const C: &str = MEMBERS[2];
const W: &str = "witness.example/w";

fn say(world: &mut World, body: Body, by: &[&str]) -> Applied {
    let keys: Vec<SigningKey> = by.iter().map(|name| key(name)).collect();
    world.say(body, &keys.iter().collect::<Vec<_>>())
}

fn add(world: &mut World, body: WitnessAdded, by: &[&str]) -> Applied {
    say(world, Body::WitnessAdded(Box::new(body)), by)
}

fn remove(world: &mut World, name: &str, quorum: u8, by: &[&str]) -> Applied {
    let key = watching(name, quorum).key;
    say(
        world,
        Body::WitnessRemoved(WitnessRemoved { key, quorum }),
        by,
    )
}

/// A network with a witness of its founding.
fn witnessed() -> World {
    let mut founding = founded(cid("policy"));
    founding.witnesses = vec![watching("regulator", 3).key];
    World::founded_as(founding)
}

#[test]
fn witness_comes_and_goes_by_a_majority_of_the_members() {
    let mut world = witnessed();
    let added = world.watch(W, 4, &[A, C]);
    assert_eq!(added.leaf.kind, Kind::WitnessAdded);
    let state = world.state();
    let entries = state.witness_entries().unwrap();
    let [regulator, foreign] = entries.as_slice() else {
        panic!("{entries:?}")
    };
    assert_eq!((&regulator.place, regulator.added_at), (&None, 0));
    let place = foreign.place.clone().unwrap();
    assert_eq!(place.url, watching(W, 4).url);
    assert_eq!((foreign.added_at, foreign.removed_at), (added.index, None));
    assert_eq!(state.quorum().unwrap(), 4);
    assert_eq!(state.policy_changes().unwrap(), [added.index]);

    // That of the founding can be removed, too.
    assert_eq!(
        outcome(&remove(&mut world, "regulator", 3, &[A, B])),
        Outcome::Ok
    );
    assert_eq!(outcome(&remove(&mut world, W, 3, &[B, C])), Outcome::Ok);
    let state = world.state();
    assert_eq!(state.witnesses().unwrap(), Vec::<String>::new());
    let entries = state.witness_entries().unwrap();
    assert!(entries.iter().all(|entry| entry.place.is_none()));
    assert_eq!(state.policy_changes().unwrap().len(), 3);
    // It was nobody's to forget: with the same key it may come back.
    let again = world.watch(W, 3, &[A, B]);
    assert_eq!(world.state().witnesses().unwrap(), [watching(W, 3).key]);
    assert_eq!(
        world.state().witness_entries().unwrap()[2].added_at,
        again.index
    );
}

#[test]
fn minority_and_strangers_change_no_witness() {
    let mut world = witnessed();
    let node = format!("{B}/node");
    for by in [vec![A], vec![A, node.as_str()]] {
        let refused = add(&mut world, watching(W, 3), &by);
        assert_eq!(outcome(&refused), Outcome::Forbidden, "{by:?}");
        let refused = remove(&mut world, "regulator", 3, &by);
        assert_eq!(outcome(&refused), Outcome::Forbidden, "{by:?}");
    }
    let refused = add(&mut world, watching(W, 3), &[A, B, W]);
    assert_eq!(rejected(&refused), "unknown-author");
    assert_eq!(
        outcome(&remove(&mut world, W, 3, &[A, B])),
        Outcome::Unknown
    );
    assert_eq!(world.state().witnesses().unwrap().len(), 1);
}

#[test]
fn witness_that_no_policy_can_name_is_refused() {
    let changes: [Change<WitnessAdded>; 11] = [
        ("no key", |body| body.key = "w".into()),
        ("log key", |body| body.key = verifier_key(W, 0x01, &did(W))),
        ("name of a member", |body| {
            body.key = verifier_key(&format!("{ORIGIN}/hospital-d"), 0x04, &did(W));
        }),
        ("name of a group", |body| {
            body.key = verifier_key("cosigners", 0x04, &did(W));
        }),
        ("name of no quorum", |body| {
            body.key = verifier_key("none", 0x04, &did(W));
        }),
        ("in clear", |body| {
            body.url = "http://witness.example".into();
        }),
        ("no url", |body| body.url = "witness.example".into()),
        ("no certificate", |body| body.certificate.clear()),
        ("long certificate", |body| {
            body.certificate = vec![0; WitnessAdded::MAX_CERTIFICATE_BYTES + 1];
        }),
        ("needless certificate", |body| {
            body.url = "http://127.0.0.1:7380".into();
        }),
        ("no quorum", |body| body.quorum = 0),
    ];
    for (what, change) in changes {
        let mut world = witnessed();
        let mut body = watching(W, 3);
        change(&mut body);
        assert_eq!(
            rejected(&add(&mut world, body, &[A, B])),
            "malformed",
            "{what}"
        );
    }
    let conflicts: [Change<WitnessAdded>; 4] = [
        ("name of another", |body| {
            body.key = verifier_key("regulator", 0x04, &did(W));
        }),
        ("key of another", |body| {
            body.key = verifier_key(W, 0x04, &did("regulator/cosigner"));
        }),
        ("key of a member", |body| {
            body.key = verifier_key(W, 0x04, &did(&format!("{A}/cosigner")));
        }),
        ("quorum of more than there are", |body| body.quorum = 6),
    ];
    for (what, change) in conflicts {
        let mut world = witnessed();
        let mut body = watching(W, 3);
        change(&mut body);
        let refused = add(&mut world, body, &[A, B]);
        assert_eq!(outcome(&refused), Outcome::Conflict, "{what}");
    }
    let mut world = witnessed();
    let refused = remove(&mut world, "regulator", 4, &[A, B]);
    assert_eq!(outcome(&refused), Outcome::Conflict);
}

#[test]
fn there_are_at_most_as_many_witnesses_as_a_network_may_be_founded_with() {
    let mut world = World::new();
    for n in 0..32 {
        world.watch(&format!("witness-{n}.example"), 3, &[A, B]);
    }
    let refused = add(&mut world, watching(W, 3), &[A, B]);
    assert_eq!(outcome(&refused), Outcome::Conflict);
    let mut now = founded(cid("policy"));
    now.witnesses = world.state().witnesses().unwrap();
    assert_eq!(TrustPolicy::founded(&now).unwrap().witnesses().count(), 35);
}

#[test]
fn witnesses_count_when_members_choose_a_quorum() {
    let mut world = World::new();
    let key_of_d = key("hospital-d");
    let join = |world: &mut World, quorum| {
        let body = Body::MemberAdded(Box::new(joining("hospital-d", quorum)));
        let applied = world.say(body, &[&key_of_d, &key(A), &key(B)]);
        outcome(&applied)
    };
    assert_eq!(join(&mut world, 5), Outcome::Conflict);
    world.watch(W, 3, &[A, B]);
    // In the same batch as well: the second sees what the first changed.
    assert_eq!(join(&mut world, 5), Outcome::Ok);
    assert_eq!(
        outcome(&remove(&mut world, W, 5, &[A, B, C])),
        Outcome::Conflict
    );
    // A member cannot take a witness's key.
    let mut body = joining("hospital-e", 3);
    body.cosigner_key = verifier_key(
        &format!("{ORIGIN}/hospital-e"),
        0x04,
        &did(&format!("{W}/cosigner")),
    );
    let body = Body::MemberAdded(Box::new(body));
    let refused = say(&mut world, body, &["hospital-e", A, B, C]);
    assert_eq!(outcome(&refused), Outcome::Conflict);
}

#[test]
fn members_have_two_weeks_to_sign() {
    let mut world = World::new();
    let latest = world.now + Log::MAX_MEMBER_VALIDITY_MS;
    for (not_after, accepted) in [(latest + HOUR, false), (latest, true)] {
        let mut statement = world.statement(Body::WitnessAdded(Box::new(watching(W, 3))));
        statement.not_after_unix_ms = Some(not_after);
        let applied = world.submit(statement.sign(&[&key(A), &key(B)]));
        assert_eq!(matches!(applied, Applied::Leaf(_)), accepted);
    }
}
