use crate::{Change, outcome, rejected};
use medanchor_anchor::{
    Applied, Body, Custody, CustodyKind, Kind, Outcome, PrincipalKind,
    testing::{
        MEMBERS, World, attested, custody, custody_id, did, key, node_key, standing, with_broker,
    },
};

const OWNER: &str = MEMBERS[0];
const OTHER: &str = MEMBERS[1];

fn fresh() -> Custody {
    custody("patient-1", OWNER, CustodyKind::Person)
}

fn submit(world: &mut World, body: Custody) -> Applied {
    world.say(Body::Custody(body), &[&key(OWNER)])
}

/// The same key with the other member's node as a second broker.
fn with_other(body: Custody) -> Custody {
    with_broker(body, OTHER)
}

fn next_epoch(mut body: Custody) -> Custody {
    body.epoch += 1;
    body.key[0] ^= 1;
    let attest = |holder| attested(holder, body.custody, body.epoch, &body.key);
    body.held_by = vec![attest(&node_key(OWNER)), attest(&key(OWNER))];
    body
}

#[test]
fn custody_begins_at_epoch_0_and_goes_on_one_by_one() {
    let mut world = World::new();
    let skipped = submit(&mut world, next_epoch(fresh()));
    assert_eq!(outcome(&skipped), Outcome::Conflict);
    assert_eq!(outcome(&submit(&mut world, fresh())), Outcome::Ok);
    assert_eq!(outcome(&submit(&mut world, fresh())), Outcome::Conflict);
    let second = next_epoch(fresh());
    assert_eq!(outcome(&submit(&mut world, second.clone())), Outcome::Ok);
    let entry = world.state().custody(&custody_id("patient-1")).unwrap();
    assert_eq!(entry.unwrap().custody, second);
    assert_eq!(world.state().custodies(None, 10).unwrap().len(), 1);
}

#[test]
fn custody_keeps_owner_and_kind() {
    let mut world = World::new();
    submit(&mut world, fresh());
    let mut other_kind = next_epoch(fresh());
    other_kind.kind = CustodyKind::Open;
    assert_eq!(outcome(&submit(&mut world, other_kind)), Outcome::Conflict);
    let mut taken = next_epoch(fresh());
    taken.owner = did(OTHER);
    let attest = |holder| attested(holder, taken.custody, taken.epoch, &taken.key);
    taken.held_by = vec![attest(&node_key(OWNER)), attest(&key(OTHER))];
    let applied = world.say(Body::Custody(taken), &[&key(OTHER)]);
    assert_eq!(outcome(&applied), Outcome::Conflict);
}

#[test]
fn custody_is_signed_by_its_owner_an_active_organisation() {
    let mut world = World::new();
    let by_other = world.say(Body::Custody(fresh()), &[&key(OTHER)]);
    assert_eq!(outcome(&by_other), Outcome::Forbidden);
    let guest = |world: &mut World| {
        let mut body = custody("firmware", "vendor", CustodyKind::Open);
        body.brokers = vec![node_key(OWNER).did()];
        let attest = |holder| attested(holder, body.custody, 0, &body.key);
        body.held_by = vec![attest(&node_key(OWNER)), attest(&key("vendor"))];
        outcome(&world.say(Body::Custody(body), &[&key("vendor")]))
    };
    world.enrol("vendor", PrincipalKind::Organisation, "vendor", &["vendor"]);
    assert_eq!(guest(&mut world), Outcome::Ok);
    world.accept(standing(Kind::Suspended, "vendor"), &[&key(OTHER)]);
    assert_eq!(guest(&mut world), Outcome::Inactive);
}

#[test]
fn custody_needs_two_holders_and_a_broker_among_them() {
    let mut world = World::new();
    let id = custody_id("patient-1");
    let mut held_by = |holders: &[medanchor_dag::SigningKey]| {
        let mut body = fresh();
        let attest = |holder| attested(holder, id, 0, &body.key);
        body.held_by = holders.iter().map(attest).collect();
        outcome(&submit(&mut world, body))
    };
    assert_eq!(held_by(&[node_key(OWNER)]), Outcome::Forbidden);
    assert_eq!(held_by(&[key(OWNER)]), Outcome::Forbidden);
    assert_eq!(held_by(&[key(OWNER), node_key(OTHER)]), Outcome::Forbidden);
    assert_eq!(
        held_by(&[node_key(OWNER), node_key(OTHER)]),
        Outcome::Forbidden
    );
    assert_eq!(
        held_by(&[node_key(OWNER), key("stranger")]),
        Outcome::Forbidden
    );
    assert_eq!(held_by(&[node_key(OWNER), key(OWNER)]), Outcome::Ok);
}

#[test]
fn brokers_and_writers_change_under_the_same_key() {
    let mut world = World::new();
    submit(&mut world, fresh());
    let mut both = with_other(fresh());
    both.writers.push(did(OTHER));
    assert_eq!(outcome(&submit(&mut world, both.clone())), Outcome::Ok);
    // Attestations of those that stay may be repeated, or left out where enough others hold it.
    let mut other_alone = both.clone();
    other_alone.brokers.remove(0);
    other_alone.held_by.remove(0);
    assert_eq!(
        outcome(&submit(&mut world, other_alone.clone())),
        Outcome::Ok
    );
    let entry = world.state().custody(&custody_id("patient-1")).unwrap();
    assert_eq!(entry.unwrap().custody, other_alone);
    // What is as it was said before is no change.
    assert_eq!(outcome(&submit(&mut world, other_alone)), Outcome::Conflict);
    assert_eq!(outcome(&submit(&mut world, both)), Outcome::Ok);
}

#[test]
fn change_under_the_same_key_keeps_key_owner_and_kind() {
    let attest_anew = |body: &mut Custody| {
        let attest = |holder| attested(holder, body.custody, body.epoch, &body.key);
        body.held_by = [&node_key(OWNER), &key(OWNER), &node_key(OTHER)]
            .map(attest)
            .into();
    };
    let changes: [Change<Custody>; 3] = [
        ("another key", |body| body.key[0] ^= 1),
        ("another kind", |body| body.kind = CustodyKind::Open),
        ("an earlier epoch", |body| body.epoch = 0),
    ];
    for (name, change) in changes {
        let mut world = World::new();
        submit(&mut world, fresh());
        let second = next_epoch(fresh());
        submit(&mut world, second.clone());
        let mut body = with_other(second);
        change(&mut body);
        attest_anew(&mut body);
        assert_eq!(
            outcome(&submit(&mut world, body)),
            Outcome::Conflict,
            "{name}"
        );
    }
    let mut world = World::new();
    submit(&mut world, fresh());
    let by_other = world.say(Body::Custody(with_other(fresh())), &[&key(OTHER)]);
    assert_eq!(outcome(&by_other), Outcome::Forbidden);
}

#[test]
fn broker_is_listed_only_when_it_attests_that_it_holds_the_key() {
    let mut unheld = with_other(fresh());
    unheld.held_by.pop();
    // Neither for a new key, nor later, nor for the next one.
    assert_eq!(
        outcome(&submit(&mut World::new(), unheld.clone())),
        Outcome::Forbidden
    );
    let mut world = World::new();
    submit(&mut world, fresh());
    assert_eq!(outcome(&submit(&mut world, unheld)), Outcome::Forbidden);
    let both = with_other(fresh());
    assert_eq!(outcome(&submit(&mut world, both.clone())), Outcome::Ok);
    let of_the_first_key = next_epoch(both.clone());
    assert_eq!(
        outcome(&submit(&mut world, of_the_first_key)),
        Outcome::Forbidden
    );
    // Of the key that is in force it attested once, and that stays in the log.
    let mut stays = both;
    stays.writers.push(did(OTHER));
    stays.held_by.pop();
    assert_eq!(outcome(&submit(&mut world, stays)), Outcome::Ok);
}

#[test]
fn change_under_the_same_key_leaves_two_holders_and_a_broker() {
    let mut world = World::new();
    submit(&mut world, fresh());
    let both = with_other(fresh());
    submit(&mut world, both.clone());
    let mut one_holder = both.clone();
    one_holder.brokers.remove(0);
    one_holder.held_by.drain(..2);
    assert_eq!(outcome(&submit(&mut world, one_holder)), Outcome::Forbidden);
    let mut no_broker_holds = both;
    no_broker_holds.held_by = vec![no_broker_holds.held_by[1].clone()];
    assert_eq!(
        outcome(&submit(&mut world, no_broker_holds)),
        Outcome::Forbidden
    );
}

#[test]
fn node_that_left_the_network_is_no_longer_listed() {
    let mut world = World::new();
    submit(&mut world, fresh());
    let both = with_other(fresh());
    submit(&mut world, both.clone());
    world.leave(OTHER, 2, &[MEMBERS[0], MEMBERS[2]]);
    let mut listed = both;
    listed.writers.push(did(OTHER));
    assert_eq!(outcome(&submit(&mut world, listed)), Outcome::Unknown);
    assert_eq!(outcome(&submit(&mut world, fresh())), Outcome::Ok);
}

#[test]
fn attestation_of_another_key_is_a_bad_signature() {
    let mut world = World::new();
    let mut body = fresh();
    body.held_by[1] = attested(&key(OWNER), body.custody, 0, &[0; 32]);
    assert_eq!(rejected(&submit(&mut world, body)), "bad-signature");
}

#[test]
fn custody_names_only_who_is_known() {
    let changes: [Change<Custody>; 3] = [
        ("broker", |body| body.brokers.push(did("stranger"))),
        ("writer", |body| body.writers.push(did("stranger"))),
        ("controller", |body| body.controller = Some(did("stranger"))),
    ];
    for (name, change) in changes {
        let mut body = fresh();
        change(&mut body);
        let applied = submit(&mut World::new(), body);
        assert_eq!(outcome(&applied), Outcome::Unknown, "{name}");
    }
}

#[test]
fn custody_out_of_bounds_is_rejected() {
    let changes: [Change<Custody>; 5] = [
        ("other kem", |body| body.kem = 0x0010),
        ("short key", |body| body.key.truncate(31)),
        ("no broker", |body| body.brokers.clear()),
        ("broker twice", |body| body.brokers.push(body.brokers[0])),
        ("holder twice", |body| {
            body.held_by.push(body.held_by[0].clone());
        }),
    ];
    for (name, change) in changes {
        let mut body = fresh();
        change(&mut body);
        let applied = submit(&mut World::new(), body);
        assert_eq!(rejected(&applied), "malformed", "{name}");
    }
}
