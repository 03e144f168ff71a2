use crate::{outcome, rejected};
use medanchor_anchor::{
    Applied, Body, Class, CustodyKind, Holding, LegalHold, LegalHoldPlaced, Outcome, PlacedNode,
    Placement, PlacementRule, PrincipalKind,
    testing::{MEMBERS, World, cid, consent_id, custody_id, did, key, node_key},
};
use medanchor_dag::{Cid, Did, SigningKey};

const OWNER: &str = MEMBERS[0];
const OTHER: &str = MEMBERS[1];
const THIRD: &str = MEMBERS[2];

/// Three members, and a device and two custody keys of the first.
fn world() -> World {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, OWNER, &["device"]);
    for patient in ["patient-1", "patient-2"] {
        world.custody(patient, OWNER, CustodyKind::Person);
    }
    world
}

/// A hold of `org` on what `patient-1` has.
fn hold(id: &str, org: &str, record: Option<&str>) -> LegalHold {
    LegalHold {
        hold: consent_id(id),
        org: did(org),
        custody: custody_id("patient-1"),
        record: record.map(cid),
    }
}

fn place(world: &mut World, legal_hold: LegalHold, author: &str) -> Applied {
    let matter = "7 O 123/26".to_owned();
    let body = LegalHoldPlaced { legal_hold, matter };
    world.say(Body::LegalHoldPlaced(body), &[&key(author)])
}

fn placed(world: &mut World, legal_hold: LegalHold, author: &str) {
    let applied = place(world, legal_hold, author);
    assert_eq!(outcome(&applied), Outcome::Ok);
}

fn release(world: &mut World, legal_hold: LegalHold, author: &str) -> Outcome {
    outcome(&world.say(Body::LegalHoldReleased(legal_hold), &[&key(author)]))
}

/// Anchors a record under `patient-1`, held by all three.
fn anchor(world: &mut World, record: &str) -> Cid {
    world.anchor(record, "holter", "patient-1", Class::Ecg)
}

fn say(world: &mut World, by: &str, holds: &[Cid], gives_back: &[Cid]) -> Outcome {
    let body = Holding {
        node: node_key(by).did(),
        holds: holds.to_vec(),
        gives_back: gives_back.to_vec(),
    };
    outcome(&world.say(Body::Holding(body), &[&node_key(by)]))
}

fn holders(world: &World, record: &Cid) -> Vec<Did> {
    world.state().record(record).unwrap().unwrap().holders
}

fn set_rules(world: &mut World, placement: Placement) {
    let keys: Vec<SigningKey> = MEMBERS.iter().map(|name| key(name)).collect();
    let authors: Vec<&SigningKey> = keys.iter().collect();
    world.accept(Body::Placed(Box::new(placement)), &authors);
}

#[test]
fn member_takes_the_duty_on_itself_alone() {
    let mut world = world();
    let record = anchor(&mut world, "ecg-1");
    assert_eq!(record, cid("ecg-1"));
    world.enrol("lab", PrincipalKind::Organisation, "lab", &["researcher"]);
    world.enrol("lawyer", PrincipalKind::Person, THIRD, &["clinician"]);
    let all = |org| hold("one", org, None);
    let other_record = LegalHold {
        custody: custody_id("patient-2"),
        ..hold("one", THIRD, Some("ecg-1"))
    };
    let other_custody = LegalHold {
        custody: custody_id("nobody"),
        ..all(THIRD)
    };
    for (what, legal_hold, author, expected) in [
        ("for another", all(THIRD), OTHER, Outcome::Forbidden),
        ("by a person", all(THIRD), "lawyer", Outcome::Forbidden),
        ("without a node", all("lab"), "lab", Outcome::Forbidden),
        ("an unknown key", other_custody, THIRD, Outcome::Unknown),
        (
            "an unknown record",
            hold("one", THIRD, Some("ecg-2")),
            THIRD,
            Outcome::Unknown,
        ),
        ("another's record", other_record, THIRD, Outcome::Conflict),
        ("all records", all(THIRD), THIRD, Outcome::Ok),
        ("the same again", all(THIRD), THIRD, Outcome::Conflict),
        ("all of its own", all(OWNER), OWNER, Outcome::Ok),
        (
            "one record",
            hold("two", THIRD, Some("ecg-1")),
            THIRD,
            Outcome::Ok,
        ),
    ] {
        let applied = place(&mut world, legal_hold, author);
        assert_eq!(outcome(&applied), expected, "{what}");
    }
    let state = world.state();
    let all = state.legal_holds(None, 9).unwrap();
    assert_eq!(all.len(), 3);
    let after = Some(&all[0].legal_hold);
    assert_eq!(state.legal_holds(after, 9).unwrap(), all[1..]);
    assert_eq!(state.legal_holds_of(&did(THIRD)).unwrap().len(), 2);
}

#[test]
fn each_organisation_releases_its_own_hold_once() {
    let mut world = world();
    anchor(&mut world, "ecg-1");
    let one = || hold("one", THIRD, None);
    let is_held = |world: &World| {
        let entry = world.state().record(&cid("ecg-1")).unwrap().unwrap();
        [OWNER, OTHER, THIRD].map(|org| {
            let held = world.state().is_legally_held(&did(org), &entry.anchored);
            held.unwrap()
        })
    };
    assert_eq!(release(&mut world, one(), THIRD), Outcome::Unknown);
    placed(&mut world, one(), THIRD);
    placed(&mut world, hold("one", OTHER, Some("ecg-1")), OTHER);
    assert_eq!(is_held(&world), [false, true, true]);
    for stranger in [OWNER, OTHER] {
        assert_eq!(release(&mut world, one(), stranger), Outcome::Forbidden);
    }
    let narrower = hold("one", THIRD, Some("ecg-1"));
    assert_eq!(release(&mut world, narrower, THIRD), Outcome::Unknown);
    // Two matters are two holds: the end of one is not that of the other.
    placed(&mut world, hold("two", THIRD, None), THIRD);
    assert_eq!(release(&mut world, one(), THIRD), Outcome::Ok);
    assert_eq!(is_held(&world), [false, true, true]);
    assert_eq!(release(&mut world, one(), THIRD), Outcome::Unknown);
    let two = hold("two", THIRD, None);
    assert_eq!(release(&mut world, two, THIRD), Outcome::Ok);
    assert_eq!(is_held(&world), [false, true, false]);
}

#[test]
fn what_is_held_legally_is_not_given_back() {
    let mut world = world();
    let first = anchor(&mut world, "ecg-1");
    placed(&mut world, hold("all", THIRD, None), THIRD);
    let later = anchor(&mut world, "ecg-2");
    for record in [first, later] {
        let given = say(&mut world, THIRD, &[], &[record]);
        assert_eq!(given, Outcome::Conflict);
    }
    // Whoever has no such hold may.
    assert_eq!(say(&mut world, OTHER, &[], &[first]), Outcome::Ok);
    placed(&mut world, hold("one", THIRD, Some("ecg-2")), THIRD);
    let all = hold("all", THIRD, None);
    assert_eq!(release(&mut world, all, THIRD), Outcome::Ok);
    let third = anchor(&mut world, "ecg-3");
    let both = say(&mut world, THIRD, &[], &[third, later]);
    assert_eq!(both, Outcome::Conflict, "all of it or nothing");
    assert_eq!(say(&mut world, THIRD, &[], &[third]), Outcome::Ok);
    // A release takes no record below its number of copies.
    let below = say(&mut world, THIRD, &[], &[first]);
    assert_eq!(below, Outcome::Conflict);
}

#[test]
fn node_that_weighs_nothing_keeps_a_copy_that_does_not_count() {
    let mut world = world();
    let record = anchor(&mut world, "ecg-1");
    let weightless = PlacedNode {
        node_id: 3,
        weight: 0,
        zone: None,
    };
    let rules = Placement {
        nodes: vec![weightless],
        ..Placement::default()
    };
    set_rules(&mut world, rules);
    assert_eq!(say(&mut world, THIRD, &[], &[record]), Outcome::Ok);
    assert_eq!(say(&mut world, THIRD, &[record], &[]), Outcome::Forbidden);
    placed(&mut world, hold("one", THIRD, None), THIRD);
    assert_eq!(say(&mut world, THIRD, &[record], &[]), Outcome::Ok);
    assert!(holders(&world, &record).contains(&node_key(THIRD).did()));
    assert_eq!(say(&mut world, OWNER, &[], &[record]), Outcome::Conflict);
}

#[test]
fn rule_for_others_alone_is_not_got_round() {
    let mut world = world();
    let [had, new] = ["ecg-1", "ecg-2"].map(|record| anchor(&mut world, record));
    assert_eq!(say(&mut world, THIRD, &[], &[new]), Outcome::Ok);
    let mut only = vec![did(OWNER), did(OTHER)];
    only.sort_unstable();
    let rule = PlacementRule {
        classes: Vec::new(),
        copies: 2,
        only,
        at_home: false,
    };
    placed(&mut world, hold("one", THIRD, None), THIRD);
    let rules = Placement {
        rules: vec![rule],
        ..Placement::default()
    };
    set_rules(&mut world, rules);
    assert_eq!(say(&mut world, THIRD, &[new], &[]), Outcome::Forbidden);
    // What it has it keeps.
    assert_eq!(say(&mut world, THIRD, &[], &[had]), Outcome::Conflict);
}

#[test]
fn member_that_left_releases_what_it_held() {
    let mut world = world();
    anchor(&mut world, "ecg-1");
    placed(&mut world, hold("one", THIRD, None), THIRD);
    world.leave(THIRD, 2, &[OWNER, OTHER]);
    let another = place(&mut world, hold("two", THIRD, None), THIRD);
    assert_eq!(outcome(&another), Outcome::Forbidden);
    assert_eq!(world.state().legal_holds(None, 9).unwrap().len(), 1);
    let one = hold("one", THIRD, None);
    assert_eq!(release(&mut world, one, THIRD), Outcome::Ok);
    assert_eq!(world.state().legal_holds(None, 9).unwrap(), []);
}

#[test]
fn matter_is_a_short_line() {
    let mut world = world();
    for matter in [String::new(), "a\nb".to_owned(), "x".repeat(257)] {
        let body = LegalHoldPlaced {
            legal_hold: hold("one", THIRD, None),
            matter,
        };
        let applied = world.say(Body::LegalHoldPlaced(body), &[&key(THIRD)]);
        assert_eq!(rejected(&applied), "malformed");
    }
}
