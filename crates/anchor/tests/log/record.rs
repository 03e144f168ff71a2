use crate::{outcome, rejected};
use medanchor_anchor::{
    Anchored, Applied, Body, Class, CustodyKind, Hold, Kind, Outcome, PrincipalKind,
    testing::{
        HOUR, MEMBERS, ORIGIN, World, cid, custody, did, key, node_key, standing, stream_id,
    },
};
use medanchor_dag::{Codec, Hash, cid_of, sha256};

const OWNER: &str = MEMBERS[0];
const OTHER: &str = MEMBERS[1];
const THIRD: &str = MEMBERS[2];

fn world() -> World {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, OWNER, &["device"]);
    world.custody("patient-1", OWNER, CustodyKind::Person);
    world
}

fn ecg(world: &World, name: &str) -> Anchored {
    world.anchored(name, "holter", "patient-1", Class::Ecg)
}

fn submit(world: &mut World, body: Anchored) -> Applied {
    world.say(Body::Anchored(body), &[&key("holter")])
}

#[test]
fn record_is_anchored_with_its_holders() {
    let mut world = world();
    let record = world.anchor("ecg-1", "holter", "patient-1", Class::Ecg);
    let entry = world.state().record(&record).unwrap().unwrap();
    assert_eq!(entry.holders.len(), 3);
    assert!(entry.holders.is_sorted());
    let leaf = world.state().leaf(entry.index).unwrap().unwrap();
    assert_eq!((leaf.record, leaf.at), (Some(record), entry.at));
}

#[test]
fn pages_of_records_are_all_records_in_order() {
    let mut world = world();
    let mut anchored: Vec<_> = (0..7)
        .map(|n| world.anchor(&format!("ecg-{n}"), "holter", "patient-1", Class::Ecg))
        .collect();
    anchored.sort_by_key(|record| record.hash().digest().to_vec());
    for limit in [1, 3, 7] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = world.state().records(after.as_ref(), limit).unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(last.anchored.record);
            listed.extend(page.iter().map(|entry| entry.anchored.record));
        }
        assert_eq!(listed, anchored);
    }
}

#[test]
fn record_held_by_too_few_is_rejected() {
    let mut world = world();
    let body = ecg(&world, "ecg-1");
    let (record, now) = (body.record, world.now);
    let signed = world
        .statement(Body::Anchored(body))
        .sign(&[&key("holter")]);
    let held = vec![signed.statement.hash()];
    let hold = |name, until| Hold::sign(&node_key(name), ORIGIN, held.clone(), until);
    let mut forged = hold(OTHER, now);
    forged.holder = node_key(THIRD).did();
    let cid_hash = Hash::of(&record.to_bytes());
    let cases = [
        ("none", vec![]),
        (
            "the same twice",
            vec![hold(OWNER, now), hold(OWNER, now + 1)],
        ),
        ("over", vec![hold(OWNER, now), hold(OTHER, now - 1)]),
        ("forged", vec![hold(OWNER, now), forged]),
        (
            "no node",
            vec![
                hold(OWNER, now),
                Hold::sign(&key(OTHER), ORIGIN, held.clone(), now),
            ],
        ),
        (
            "another network",
            vec![
                hold(OWNER, now),
                Hold::sign(&node_key(OTHER), "other", held.clone(), now),
            ],
        ),
        (
            "nothing",
            vec![
                hold(OWNER, now),
                Hold::sign(&node_key(OTHER), ORIGIN, vec![], now),
            ],
        ),
        (
            "the record instead of the statement",
            vec![
                hold(OWNER, now),
                Hold::sign(&node_key(OTHER), ORIGIN, vec![cid_hash], now),
            ],
        ),
    ];
    for (name, holds) in cases {
        let applied = world.apply_with(vec![signed.clone()], holds);
        assert_eq!(rejected(&applied[0]), "not-held", "{name}");
    }
    let holds = vec![hold(OWNER, now), hold(OTHER, now + HOUR)];
    let applied = world.apply_with(vec![signed], holds);
    assert_eq!(outcome(&applied[0]), Outcome::Ok);
}

#[test]
fn hold_for_another_statement_about_the_record_does_not_count() {
    let mut world = world();
    let body = ecg(&world, "ecg-1");
    let (device, now) = (key("holter"), world.now);
    let mut sign = |body: &Anchored| {
        let statement = world.statement(Body::Anchored(body.clone()));
        statement.sign(&[&device])
    };
    let signed = sign(&body);
    let mut other_wrap = body.clone();
    other_wrap.wrap = cid("another wrap");
    let mut other_size = body.clone();
    other_size.size += 1;
    let others = [sign(&other_wrap), sign(&other_size)];
    let hold = |name, held| Hold::sign(&node_key(name), ORIGIN, held, now);
    for other in others {
        let held = vec![other.statement.hash()];
        let holds = vec![
            hold(OWNER, vec![signed.statement.hash()]),
            hold(OTHER, held.clone()),
            hold(THIRD, held),
        ];
        let applied = world.apply_with(vec![signed.clone()], holds);
        assert_eq!(rejected(&applied[0]), "not-held");
    }
    assert_eq!(outcome(&world.submit(signed)), Outcome::Ok);
}

#[test]
fn record_is_signed_by_its_active_device() {
    let mut world = world();
    let body = ecg(&world, "ecg-1");
    let by_owner = world.say(Body::Anchored(body.clone()), &[&key(OWNER)]);
    assert_eq!(outcome(&by_owner), Outcome::Forbidden);
    world.enrol("anna", PrincipalKind::Person, OWNER, &[]);
    let person = world.anchored("note", "anna", "patient-1", Class::Document);
    let by_person = world.say(Body::Anchored(person), &[&key("anna")]);
    assert_eq!(outcome(&by_person), Outcome::Forbidden);
    world.stand(Kind::Suspended, "holter", OWNER);
    assert_eq!(
        outcome(&submit(&mut world, body.clone())),
        Outcome::Inactive
    );
    let vouched = world.say(Body::Anchored(body), &[&key("holter"), &key(OWNER)]);
    assert_eq!(
        outcome(&vouched),
        Outcome::Inactive,
        "suspended may come back"
    );
}

#[test]
fn revoked_devices_late_record_needs_its_owners_counter_signature() {
    let mut world = world();
    let body = ecg(&world, "ecg-1");
    world.stand(Kind::Revoked, "holter", OWNER);
    let refused = submit(&mut world, body.clone());
    assert_eq!(outcome(&refused), Outcome::Inactive);
    assert_eq!(
        submit(&mut world, body.clone()),
        refused,
        "one leaf per answer"
    );
    let other = [&key("holter"), &key(OTHER)];
    let by_other = world.say(Body::Anchored(body.clone()), &other);
    assert_eq!(by_other, refused);
    let vouched = world.say(Body::Anchored(body.clone()), &[&key("holter"), &key(OWNER)]);
    assert_eq!(outcome(&vouched), Outcome::Ok);
    assert_eq!(submit(&mut world, body), vouched, "settled");
}

#[test]
fn refused_record_is_accepted_once_its_custody_exists() {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, OWNER, &["device"]);
    let body = ecg(&world, "ecg-1");
    assert_eq!(outcome(&submit(&mut world, body.clone())), Outcome::Unknown);
    world.custody("patient-1", OWNER, CustodyKind::Person);
    assert_eq!(outcome(&submit(&mut world, body)), Outcome::Ok);
}

#[test]
fn only_owner_and_writers_write_under_a_custody_key() {
    let mut world = world();
    world.enrol("release", PrincipalKind::Service, OTHER, &["vendor"]);
    let body = world.anchored("fw-1", "release", "patient-1", Class::Firmware);
    let applied = world.say(Body::Anchored(body), &[&key("release")]);
    assert_eq!(outcome(&applied), Outcome::Forbidden);
    let mut shared = custody("devices", OWNER, CustodyKind::Dataset);
    shared.writers = vec![did(OTHER)];
    world.accept(Body::Custody(shared), &[&key(OWNER)]);
    world.anchor("fw-2", "release", "devices", Class::Firmware);
}

#[test]
fn suspended_organisations_devices_anchor_nothing() {
    let mut world = world();
    world.enrol("vendor", PrincipalKind::Organisation, "vendor", &[]);
    world.enrol("release", PrincipalKind::Service, "vendor", &[]);
    let mut shared = custody("devices", OWNER, CustodyKind::Dataset);
    shared.writers = vec![did("vendor")];
    world.accept(Body::Custody(shared), &[&key(OWNER)]);
    world.accept(standing(Kind::Suspended, "vendor"), &[&key(OWNER)]);
    let body = world.anchored("fw-1", "release", "devices", Class::Firmware);
    let applied = world.say(Body::Anchored(body), &[&key("release")]);
    assert_eq!(outcome(&applied), Outcome::Inactive);
}

#[test]
fn second_record_under_one_header_is_a_conflict() {
    let mut world = world();
    let first = ecg(&world, "ecg-1");
    submit(&mut world, first.clone());
    let mut same_header = ecg(&world, "ecg-2");
    same_header.header = first.header;
    assert_eq!(outcome(&submit(&mut world, same_header)), Outcome::Conflict);
    let mut same_record = ecg(&world, "ecg-3");
    same_record.record = first.record;
    assert_eq!(outcome(&submit(&mut world, same_record)), Outcome::Conflict);
    assert_eq!(world.state().header(&first.header).unwrap(), Some(3));
}

#[test]
fn gaps_and_forks_are_anchored_and_counted() {
    let mut world = world();
    let head = |world: &World| {
        let entry = world.state().stream(&did("holter"), &stream_id("main"));
        entry.unwrap().unwrap()
    };
    world.anchor("ecg-0", "holter", "patient-1", Class::Ecg);
    world.anchor("ecg-1", "holter", "patient-1", Class::Ecg);
    assert_eq!((head(&world).seq, head(&world).gaps_and_forks), (1, 0));

    let mut gap = ecg(&world, "ecg-5");
    gap.seq = 5;
    assert_eq!(outcome(&submit(&mut world, gap)), Outcome::Ok);
    assert_eq!((head(&world).seq, head(&world).gaps_and_forks), (5, 1));

    let mut fork = ecg(&world, "ecg-1-again");
    fork.seq = 1;
    assert_eq!(outcome(&submit(&mut world, fork)), Outcome::Ok);
    assert_eq!((head(&world).seq, head(&world).gaps_and_forks), (5, 2));
    assert_eq!(
        head(&world).record,
        cid("ecg-5"),
        "a fork does not move the head"
    );

    let mut other_prev = ecg(&world, "ecg-6");
    other_prev.prev = None;
    assert_eq!(outcome(&submit(&mut world, other_prev)), Outcome::Ok);
    assert_eq!((head(&world).seq, head(&world).gaps_and_forks), (6, 3));
}

type Case = (&'static str, Box<dyn Fn(&mut Anchored)>);

#[test]
fn record_out_of_bounds_is_rejected() {
    let raw = cid_of(Codec::Raw, &sha256(b"raw"));
    let changes: [Case; 4] = [
        ("raw record", Box::new(move |body| body.record = raw)),
        ("raw wrap", Box::new(move |body| body.wrap = raw)),
        (
            "prev is no cid",
            Box::new(|body| body.prev = Some(vec![1, 2, 3].into())),
        ),
        (
            "prev is raw",
            Box::new(move |body| body.prev = Some(raw.to_bytes().into())),
        ),
    ];
    for (name, change) in changes {
        let mut world = world();
        let mut body = ecg(&world, "ecg-1");
        change(&mut body);
        assert_eq!(rejected(&submit(&mut world, body)), "malformed", "{name}");
    }
}

#[test]
fn thousand_records_fit_one_batch() {
    let mut world = world();
    let mut bodies = Vec::new();
    for seq in 0..1000_u64 {
        let mut body = ecg(&world, &format!("ecg-{seq}"));
        body.seq = seq;
        body.prev = seq
            .checked_sub(1)
            .map(|before| cid(&format!("ecg-{before}")).to_bytes().into());
        bodies.push(
            world
                .statement(Body::Anchored(body))
                .sign(&[&key("holter")]),
        );
    }
    let applied = world.apply(bodies);
    assert!(applied.iter().all(|one| outcome(one) == Outcome::Ok));
    let head = world.state().stream(&did("holter"), &stream_id("main"));
    let head = head.unwrap().unwrap();
    assert_eq!((head.seq, head.gaps_and_forks), (999, 0));
}
