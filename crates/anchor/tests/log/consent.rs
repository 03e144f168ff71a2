use crate::{outcome, rejected};
use medanchor_anchor::{
    Actor, Body, Class, Consented, CustodyKind, Effect, Kind, Outcome, Period, PrincipalKind,
    Provision, Withdrawn,
    testing::{
        MEMBERS, World, attested, consent_id, consented, custody, custody_id, did, enrolled, key,
        node_key, standing,
    },
};

const OWNER: &str = MEMBERS[0];
const PARTNER: &str = MEMBERS[1];

fn world() -> World {
    let mut world = World::new();
    world.enrol("patient", PrincipalKind::Person, OWNER, &["patient"]);
    let mut body = custody("patient-1", OWNER, CustodyKind::Person);
    body.controller = Some(did("patient"));
    world.accept(Body::Custody(body), &[&key(OWNER)]);
    world
}

fn consent() -> Consented {
    consented("study", "patient-1", PARTNER, "HRESCH")
}

fn withdrawal(name: &str) -> Body {
    Body::Withdrawn(Withdrawn {
        consent: consent_id(name),
        custody: custody_id("patient-1"),
    })
}

#[test]
fn consent_is_given_by_controller_or_owner_only() {
    let mut world = world();
    let mut give = |author: &str| outcome(&world.say(Body::Consented(consent()), &[&key(author)]));
    assert_eq!(give(OWNER), Outcome::Ok);
    assert_eq!(give("patient"), Outcome::Ok);
    assert_eq!(give(PARTNER), Outcome::Forbidden);
}

#[test]
fn suspended_controller_gives_no_consent() {
    let mut world = world();
    world.stand(Kind::Suspended, "patient", OWNER);
    let applied = world.say(Body::Consented(consent()), &[&key("patient")]);
    assert_eq!(outcome(&applied), Outcome::Inactive);
}

#[test]
fn consent_names_only_who_is_known() {
    let mut world = world();
    let mut stranger = consent();
    stranger.provision.actors = vec![Actor::party(did("stranger"))];
    let mut elsewhere = consent();
    elsewhere.custody = custody_id("other");
    for body in [stranger, elsewhere] {
        let applied = world.say(Body::Consented(body), &[&key(OWNER)]);
        assert_eq!(outcome(&applied), Outcome::Unknown);
    }
}

#[test]
fn consent_is_withdrawn_once_and_may_be_given_again() {
    let mut world = world();
    let unknown = world.say(withdrawal("study"), &[&key("patient")]);
    assert_eq!(outcome(&unknown), Outcome::Unknown);
    world.accept(Body::Consented(consent()), &[&key(OWNER)]);
    let by_partner = world.say(withdrawal("study"), &[&key(PARTNER)]);
    assert_eq!(outcome(&by_partner), Outcome::Forbidden);
    let end = world.accept(withdrawal("study"), &[&key("patient")]);
    let entries = world.state().consents(&custody_id("patient-1")).unwrap();
    assert!(entries[0].withdrawn && entries[0].since == end.index);
    let twice = world.say(withdrawal("study"), &[&key("patient")]);
    assert_eq!(outcome(&twice), Outcome::Conflict);
    world.accept(Body::Consented(consent()), &[&key("patient")]);
    let entries = world.state().consents(&custody_id("patient-1")).unwrap();
    assert_eq!((entries.len(), entries[0].withdrawn), (1, false));
}

/// Once the patient has given or withdrawn a consent itself, its hospital gives none for it, neither that one nor a new one. It
/// may still withdraw.
#[test]
fn what_the_controller_has_taken_into_its_hands_is_not_given_by_the_owner() {
    type First = fn(&mut World);
    let firsts: [First; 2] = [
        |world| {
            world.accept(Body::Consented(consent()), &[&key(OWNER)]);
            world.accept(withdrawal("study"), &[&key("patient")]);
        },
        |world| {
            world.accept(Body::Consented(consent()), &[&key("patient")]);
        },
    ];
    for first in firsts {
        let mut world = world();
        first(&mut world);
        let other = consented("other", "patient-1", PARTNER, "HRESCH");
        for body in [consent(), other] {
            let by_owner = world.say(Body::Consented(body.clone()), &[&key(OWNER)]);
            assert_eq!(outcome(&by_owner), Outcome::Forbidden);
            world.accept(Body::Consented(body), &[&key("patient")]);
        }
        world.accept(withdrawal("other"), &[&key(OWNER)]);
    }
}

/// Withdrawing a denial permits more: that is for who may give.
#[test]
fn denial_of_the_controller_is_not_withdrawn_by_the_owner() {
    let mut denial = consent();
    denial.effect = Effect::Deny;
    let mut with_denial = consent();
    with_denial.except = vec![Provision {
        classes: vec![Class::Imaging],
        ..Provision::default()
    }];
    for body in [denial, with_denial] {
        let mut world = world();
        world.accept(Body::Consented(body.clone()), &[&key(OWNER)]);
        // Before the controller has spoken, the owner speaks for it.
        world.accept(withdrawal("study"), &[&key(OWNER)]);
        world.accept(Body::Consented(body), &[&key("patient")]);
        let by_owner = world.say(withdrawal("study"), &[&key(OWNER)]);
        assert_eq!(outcome(&by_owner), Outcome::Forbidden);
        world.accept(withdrawal("study"), &[&key("patient")]);
    }
}

#[test]
fn denial_may_say_nothing_of_who_and_what_for() {
    let mut world = world();
    let mut dissent = consent();
    dissent.effect = Effect::Deny;
    dissent.provision = Provision::default();
    dissent.except = vec![consent().provision];
    world.accept(Body::Consented(dissent.clone()), &[&key("patient")]);
    dissent.effect = Effect::Silent;
    world.accept(Body::Consented(dissent), &[&key("patient")]);
}

#[test]
fn consent_names_only_devices_that_are_known() {
    let mut world = world();
    let mut by_device = consent();
    by_device.except = vec![Provision {
        devices: vec![did("holter")],
        ..Provision::default()
    }];
    let applied = world.say(Body::Consented(by_device.clone()), &[&key(OWNER)]);
    assert_eq!(outcome(&applied), Outcome::Unknown);
    world.enrol("holter", PrincipalKind::Device, OWNER, &["device"]);
    world.accept(Body::Consented(by_device.clone()), &[&key(OWNER)]);
    // What is no device makes no data: a denial of it would deny nothing.
    by_device.except[0].devices = vec![did(PARTNER)];
    let applied = world.say(Body::Consented(by_device), &[&key(OWNER)]);
    assert_eq!(outcome(&applied), Outcome::Forbidden);
}

#[test]
fn custody_key_has_at_most_a_hundred_consents() {
    let mut world = world();
    for number in 0..Consented::MAX_PER_CUSTODY {
        let consent = consented(&number.to_string(), "patient-1", PARTNER, "HRESCH");
        world.accept(Body::Consented(consent), &[&key(OWNER)]);
    }
    let applied = world.say(Body::Consented(consent()), &[&key(OWNER)]);
    assert_eq!(outcome(&applied), Outcome::Conflict);
    let again = consented("7", "patient-1", PARTNER, "TREAT");
    world.accept(Body::Consented(again), &[&key(OWNER)]);
}

#[test]
fn controller_that_has_spoken_is_replaced_only_by_itself() {
    // By the next epoch, or under the same key.
    for epoch in [1, 0] {
        let next = |controller: Option<&str>| {
            let mut changed = custody("patient-1", OWNER, CustodyKind::Person);
            changed.epoch = epoch;
            changed.controller = controller.map(did);
            let attest = |holder| attested(holder, changed.custody, epoch, &changed.key);
            changed.held_by = vec![attest(&node_key(OWNER)), attest(&key(OWNER))];
            Body::Custody(changed)
        };
        let mut world = world();
        world.enrol("heir", PrincipalKind::Person, OWNER, &["patient"]);
        world.accept(Body::Consented(consent()), &[&key("patient")]);
        for controller in [None, Some("heir")] {
            let by_owner = world.say(next(controller), &[&key(OWNER)]);
            assert_eq!(outcome(&by_owner), Outcome::Forbidden);
        }
        world.accept(next(Some("heir")), &[&key(OWNER), &key("patient")]);
        let by_owner = world.say(Body::Consented(consent()), &[&key(OWNER)]);
        assert_eq!(outcome(&by_owner), Outcome::Forbidden);
        world.accept(Body::Consented(consent()), &[&key("heir")]);

        // Of one that never has, the owner is trusted to know who it is.
        let mut world = self::world();
        world.enrol("heir", PrincipalKind::Person, OWNER, &["patient"]);
        world.accept(next(Some("heir")), &[&key(OWNER)]);
    }
}

#[test]
fn newest_consent_is_the_head_and_survives_rotation() {
    let mut world = world();
    let head = |world: &World| {
        let entry = world.state().custody(&custody_id("patient-1")).unwrap();
        entry.unwrap().newest_consent
    };
    assert_eq!(head(&world), None);
    let given = world.accept(Body::Consented(consent()), &[&key(OWNER)]);
    assert_eq!(head(&world), Some(given.index));
    let end = world.accept(withdrawal("study"), &[&key(OWNER)]);
    assert_eq!(head(&world), Some(end.index));
    let mut rotated = custody("patient-1", OWNER, CustodyKind::Person);
    rotated.epoch = 1;
    let attest = |holder| attested(holder, rotated.custody, 1, &rotated.key);
    rotated.held_by = vec![attest(&node_key(OWNER)), attest(&key(OWNER))];
    world.accept(Body::Custody(rotated), &[&key(OWNER)]);
    assert_eq!(head(&world), Some(end.index));
}

#[test]
fn consents_of_one_custody_are_not_those_of_the_next() {
    let mut world = world();
    world.custody("patient-2", OWNER, CustodyKind::Person);
    for name in ["one", "two", "three"] {
        world.consent(name, "patient-1", PARTNER, "TREAT");
    }
    world.consent("four", "patient-2", PARTNER, "TREAT");
    let count = |name| world.state().consents(&custody_id(name)).unwrap().len();
    assert_eq!((count("patient-1"), count("patient-2")), (3, 1));
}

#[test]
fn consent_out_of_bounds_is_rejected() {
    let backwards = Period {
        from: Some(2),
        until: Some(1),
    };
    type Fault = fn(&mut Consented, Period);
    let faults: [Fault; 19] = [
        |body, _| body.provision.actors.clear(),
        |body, _| body.provision.actors = vec![Actor::party(did(PARTNER)); 2],
        |body, _| body.provision.actors[0].party = None,
        |body, _| body.provision.actors[0].role = Some("Clinician".into()),
        |body, _| {
            body.provision.actors = (0..65).map(|n| Actor::party(did(&n.to_string()))).collect();
        },
        |body, _| body.provision.purposes.clear(),
        |body, _| body.provision.purposes = vec!["hresch".into()],
        |body, _| body.provision.purposes = vec!["HRESCH".into(); 2],
        |body, _| body.provision.classes = vec![Class::Log; 2],
        |body, _| body.provision.devices = vec![did("holter"); 2],
        |body, period| body.provision.captured = period,
        |body, period| body.provision.valid = period,
        |body, _| body.provision.valid.until = Some(Period::MAX_UNIX_MS + 1),
        |body, _| body.provision.captured.from = Some(u64::MAX),
        // What is excepted from a denial is permitted: to somebody, for something.
        |body, _| {
            body.effect = Effect::Deny;
            body.except = vec![Provision::default()];
        },
        |body, _| body.effect = Effect::Silent,
        |body, _| {
            body.effect = Effect::Silent;
            body.except = vec![body.provision.clone()];
        },
        |body, _| body.except = vec![Provision::default(); 17],
        |body, period| {
            body.except = vec![Provision {
                valid: period,
                ..Provision::default()
            }];
        },
    ];
    let bodies = faults.map(|fault| {
        let mut body = consent();
        fault(&mut body, backwards);
        body
    });
    for body in bodies {
        let applied = world().say(Body::Consented(body.clone()), &[&key(OWNER)]);
        assert_eq!(rejected(&applied), "malformed", "{body:?}");
    }
}

#[test]
fn suspended_owner_gives_no_consent() {
    let mut world = World::new();
    world.accept(
        enrolled("clinic", PrincipalKind::Organisation, "clinic", &[]),
        &[&key(OWNER)],
    );
    let mut body = custody("patient-3", OWNER, CustodyKind::Person);
    body.owner = did("clinic");
    let attest = |holder| attested(holder, body.custody, 0, &body.key);
    body.held_by = vec![attest(&node_key(OWNER)), attest(&key("clinic"))];
    world.accept(Body::Custody(body), &[&key("clinic")]);
    world.accept(standing(Kind::Suspended, "clinic"), &[&key(OWNER)]);
    let given = Body::Consented(consented("study", "patient-3", PARTNER, "HRESCH"));
    assert_eq!(
        outcome(&world.say(given, &[&key("clinic")])),
        Outcome::Inactive
    );
}
