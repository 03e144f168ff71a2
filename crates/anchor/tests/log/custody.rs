use crate::{Change, outcome, rejected};
use medanchor_anchor::{
    Applied, Attestation, Body, Custody, CustodyKind, Kind, Outcome, PrincipalKind,
    testing::{MEMBERS, World, custody, custody_id, did, key, node_key, standing},
};

const OWNER: &str = MEMBERS[0];
const OTHER: &str = MEMBERS[1];

fn fresh() -> Custody {
    custody("patient-1", OWNER, CustodyKind::Person)
}

fn submit(world: &mut World, body: Custody) -> Applied {
    world.say(Body::Custody(body), &[&key(OWNER)])
}

fn next_epoch(mut body: Custody) -> Custody {
    body.epoch += 1;
    body.key[0] ^= 1;
    let attest = |holder| Attestation::sign(holder, body.custody, body.epoch, &body.key);
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
    let attest = |holder| Attestation::sign(holder, taken.custody, taken.epoch, &taken.key);
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
        let attest = |holder| Attestation::sign(holder, body.custody, 0, &body.key);
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
        let attest = |holder| Attestation::sign(holder, id, 0, &body.key);
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
fn attestation_of_another_key_is_a_bad_signature() {
    let mut world = World::new();
    let mut body = fresh();
    body.held_by[1] = Attestation::sign(&key(OWNER), body.custody, 0, &[0; 32]);
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
