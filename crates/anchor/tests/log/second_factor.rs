use crate::{outcome, rejected};
use medanchor_anchor::{
    Applied, Body, Factor, FactorEnrolled, FactorMethod, FactorRemoved, FactorVerified, Nonce,
    Outcome, PrincipalKind,
    testing::{MEMBERS, World, did, key, node_key},
};
use medanchor_dag::SigningKey;

const HOSPITAL: &str = MEMBERS[0];

fn world() -> World {
    let mut world = World::new();
    world.enrol("clara", PrincipalKind::Person, HOSPITAL, &["clinician"]);
    world.enrol("holter", PrincipalKind::Device, HOSPITAL, &["device"]);
    world
}

fn enrolled(who: &str, factor: u8, node: &str) -> Body {
    Body::FactorEnrolled(FactorEnrolled {
        who: did(who),
        factor: Nonce::new([factor; 16]),
        method: FactorMethod::Totp,
        node: node_key(node).did(),
    })
}

fn removed(who: &str, factor: u8) -> Body {
    Body::FactorRemoved(FactorRemoved {
        who: did(who),
        factor: Nonce::new([factor; 16]),
    })
}

fn factors(world: &World, who: &str) -> Vec<Factor> {
    let entry = world.state().principal(&did(who)).unwrap();
    entry.unwrap().factors
}

/// Its organisation, and the node that verifies it.
fn say(world: &mut World, body: Body, by: &[&SigningKey]) -> Outcome {
    outcome(&world.say(body, by))
}

#[test]
fn organisation_and_node_enrol_a_factor_together_and_the_basis_moves_on() {
    let mut world = world();
    let (org, node) = (key(HOSPITAL), node_key(HOSPITAL));
    let before = world
        .state()
        .requester_basis(&did("clara"))
        .unwrap()
        .unwrap();
    for by in [&[&org][..], &[&node], &[&key("clara"), &node]] {
        let said = say(&mut world, enrolled("clara", 1, HOSPITAL), by);
        assert_eq!(said, Outcome::Forbidden);
    }
    let Applied::Leaf(leaf) = world.say(enrolled("clara", 1, HOSPITAL), &[&org, &node]) else {
        panic!("rejected")
    };
    assert_eq!(leaf.leaf.outcome, Outcome::Ok);
    let factor = Factor {
        factor: Nonce::new([1; 16]),
        method: FactorMethod::Totp,
        node: node.did(),
        since: leaf.index,
    };
    assert_eq!(factors(&world, "clara"), [factor]);
    let after = world
        .state()
        .requester_basis(&did("clara"))
        .unwrap()
        .unwrap();
    assert_ne!(after, before);
    assert_eq!(after.requester, leaf.index);

    let again = enrolled("clara", 1, HOSPITAL);
    assert_eq!(say(&mut world, again, &[&org, &node]), Outcome::Conflict);
    // Another member's node may verify it as well.
    let other = node_key(MEMBERS[1]);
    let elsewhere = enrolled("clara", 2, MEMBERS[1]);
    assert_eq!(say(&mut world, elsewhere, &[&org, &other]), Outcome::Ok);
    for factor in 3..=u8::try_from(Factor::MAX).unwrap() {
        let more = enrolled("clara", factor, HOSPITAL);
        assert_eq!(say(&mut world, more, &[&org, &node]), Outcome::Ok);
    }
    let too_many = enrolled("clara", 99, HOSPITAL);
    assert_eq!(say(&mut world, too_many, &[&org, &node]), Outcome::Conflict);

    let stranger = key(MEMBERS[1]);
    assert_eq!(
        say(&mut world, removed("clara", 1), &[&stranger]),
        Outcome::Forbidden
    );
    assert_eq!(
        say(&mut world, removed("clara", 1), &[&key("clara")]),
        Outcome::Forbidden
    );
    assert_eq!(say(&mut world, removed("clara", 1), &[&org]), Outcome::Ok);
    assert_eq!(
        say(&mut world, removed("clara", 1), &[&org]),
        Outcome::Unknown
    );
    assert_eq!(factors(&world, "clara").len(), Factor::MAX - 1);
    let last = world
        .state()
        .requester_basis(&did("clara"))
        .unwrap()
        .unwrap();
    assert!(last.requester > after.requester);
}

#[test]
fn only_people_have_factors_and_only_members_nodes_verify_them() {
    let mut world = world();
    let (org, node) = (key(HOSPITAL), node_key(HOSPITAL));
    let device = enrolled("holter", 1, HOSPITAL);
    assert_eq!(say(&mut world, device, &[&org, &node]), Outcome::Forbidden);
    let nobody = enrolled("nobody", 1, HOSPITAL);
    assert_eq!(say(&mut world, nobody, &[&org, &node]), Outcome::Unknown);
    let no_node = Body::FactorEnrolled(FactorEnrolled {
        who: did("clara"),
        factor: Nonce::new([1; 16]),
        method: FactorMethod::Totp,
        node: did("holter"),
    });
    assert_eq!(
        say(&mut world, no_node, &[&org, &key("holter")]),
        Outcome::Unknown
    );
    let shown = Body::FactorVerified(FactorVerified {
        who: did("clara"),
        factor: Nonce::new([1; 16]),
        since: 0,
    });
    assert_eq!(rejected(&world.say(shown, &[&node])), "not-for-the-log");
}

#[test]
fn request_carries_nothing_but_what_one_node_says_in_this_network() {
    let mut world = world();
    world.custody("patient", HOSPITAL, medanchor_anchor::CustodyKind::Person);
    let record = world.anchor("ecg", "holter", "patient", medanchor_anchor::Class::Log);
    let node = node_key(HOSPITAL);
    let shown = world.statement(Body::FactorVerified(FactorVerified {
        who: did("clara"),
        factor: Nonce::new([1; 16]),
        since: 0,
    }));
    let mut elsewhere = shown.clone();
    elsewhere.origin = "other.example".to_owned();
    let no_factor = world.statement(Body::Suspended(medanchor_anchor::Standing {
        who: did("clara"),
    }));
    let mut release = |shown: medanchor_anchor::SignedStatement| {
        let mut request = world.request("clara", "clinician", "TREAT", &[record]);
        if let Body::AccessRequest(body) = &mut request.statement.body {
            body.second_factor = Some(Box::new(shown));
        }
        let request = request.statement.sign(&[&key("clara")]);
        let released = world.released(&request);
        world.say(Body::Released(Box::new(released)), &[&node])
    };
    assert_eq!(outcome(&release(shown.clone().sign(&[&node]))), Outcome::Ok);
    for bad in [
        elsewhere.sign(&[&node]),
        no_factor.sign(&[&node]),
        shown.sign(&[&node, &key(HOSPITAL)]),
    ] {
        assert_eq!(rejected(&release(bad)), "malformed");
    }
}
