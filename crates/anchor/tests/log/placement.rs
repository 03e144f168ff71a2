use crate::{Change, outcome, rejected};
use medanchor_anchor::{
    Applied, Body, Class, CustodyKind, Hold, Holding, Member, Outcome, PlacedNode, Placement,
    PlacementRule, PrincipalKind, Quota,
    testing::{MEMBERS, ORIGIN, World, cid, did, key, node_key},
};
use medanchor_dag::{Cid, Did, SigningKey};
use std::collections::BTreeMap;

const OWNER: &str = MEMBERS[0];
const OTHER: &str = MEMBERS[1];
const THIRD: &str = MEMBERS[2];

/// Three members and a fourth, a device, and a custody key of the first.
fn world() -> World {
    let mut world = World::new();
    world.join("hospital-d", 3, &[OWNER, OTHER]);
    world.enrol("holter", PrincipalKind::Device, OWNER, &["device"]);
    world.custody("patient-1", OWNER, CustodyKind::Person);
    world
}

fn rule(copies: u8) -> PlacementRule {
    PlacementRule {
        classes: Vec::new(),
        copies,
        only: Vec::new(),
        at_home: false,
    }
}

fn node(node_id: u64, weight: u8, zone: Option<&str>) -> PlacedNode {
    PlacedNode {
        node_id,
        weight,
        zone: zone.map(str::to_owned),
    }
}

fn rules_of(nodes: Vec<PlacedNode>, rules: Vec<PlacementRule>) -> Placement {
    let quotas = Vec::new();
    Placement {
        nodes,
        rules,
        quotas,
    }
}

fn place(world: &mut World, placement: Placement, by: &[&str]) -> Applied {
    let keys: Vec<SigningKey> = by.iter().map(|name| key(name)).collect();
    let authors: Vec<&SigningKey> = keys.iter().collect();
    world.say(Body::Placed(Box::new(placement)), &authors)
}

fn placed(world: &mut World, placement: Placement) {
    let applied = place(world, placement, &[OWNER, OTHER, THIRD]);
    assert_eq!(outcome(&applied), Outcome::Ok);
}

/// Names of the members that may hold a record, best first.
fn order(world: &World, record: &str) -> Vec<String> {
    order_without(world, record, "nobody")
}

fn order_without(world: &World, record: &str, missing: &str) -> Vec<String> {
    let state = world.state();
    let placing = state.placing().unwrap().unwrap();
    let body = world.anchored(record, "holter", "patient-1", Class::Ecg);
    let places = state.places(&placing, &body).unwrap();
    let ordered = places.in_order(|member: &Member| member.name != missing);
    ordered.into_iter().map(|one| one.name.clone()).collect()
}

fn records() -> impl Iterator<Item = String> {
    (0..300).map(|number| format!("record-{number}"))
}

#[test]
fn records_spread_over_all_nodes_and_move_only_from_the_one_that_is_missing() {
    let world = world();
    let mut firsts: BTreeMap<String, usize> = BTreeMap::new();
    for record in records() {
        let all = order(&world, &record);
        assert_eq!(all.len(), 4);
        *firsts.entry(all[0].clone()).or_default() += 1;
        let without = order_without(&world, &record, THIRD);
        let rest: Vec<_> = all.into_iter().filter(|name| name != THIRD).collect();
        assert_eq!(without, rest, "{record}");
    }
    assert_eq!(firsts.len(), 4);
    assert!(firsts.values().all(|count| *count > 40), "{firsts:?}");
}

#[test]
fn joining_member_takes_records_and_moves_no_other() {
    let mut world = world();
    let before: Vec<_> = records().map(|record| order(&world, &record)).collect();
    world.join("hospital-e", 3, &[OWNER, OTHER, THIRD]);
    for (record, before) in records().zip(before) {
        let mut now = order(&world, &record);
        now.retain(|name| name != "hospital-e");
        assert_eq!(now, before);
    }
}

#[test]
fn node_that_weighs_more_gets_more_and_one_that_weighs_nothing_gets_nothing() {
    let mut world = world();
    let nodes = vec![node(1, 4, None), node(2, 0, None)];
    let rules = Vec::new();
    placed(&mut world, rules_of(nodes, rules));
    let orders: Vec<_> = records().map(|record| order(&world, &record)).collect();
    assert!(
        orders
            .iter()
            .all(|order| !order.contains(&OTHER.to_owned()))
    );
    let heavy = orders.iter().filter(|order| order[0] == OWNER).count();
    // Four tickets of six.
    assert!((160..240).contains(&heavy), "{heavy} of 300");
}

#[test]
fn copies_are_in_different_zones_while_there_are_some() {
    let mut world = world();
    let zone = |node_id| node(node_id, 1, Some("north"));
    let nodes = vec![zone(1), zone(2), zone(3)];
    let rules = Vec::new();
    placed(&mut world, rules_of(nodes, rules));
    for record in records() {
        let order = order(&world, &record);
        let place = order.iter().position(|name| name == "hospital-d").unwrap();
        assert!(place < 2, "{record}: {order:?}");
    }
}

#[test]
fn rules_are_made_by_a_majority_and_can_be_kept() {
    let mut world = world();
    let two = || rules_of(Vec::new(), vec![rule(2)]);
    let few = place(&mut world, two(), &[OWNER, OTHER]);
    assert_eq!(outcome(&few), Outcome::Forbidden);
    let unknown: Change<Placement> = ("an unknown node", |p| p.nodes = vec![node(9, 1, None)]);
    let many: Change<Placement> = ("more copies than nodes", |p| p.rules[0].copies = 5);
    let empty: Change<Placement> = ("nobody left", |p| {
        p.nodes = (1..=3).map(|id| node(id, 0, None)).collect();
    });
    let strangers: Change<Placement> = ("strangers", |p| p.rules[0].only = vec![did("nobody")]);
    for ((what, change), expected) in [
        (unknown, Outcome::Unknown),
        (many, Outcome::Conflict),
        (empty, Outcome::Conflict),
        (strangers, Outcome::Conflict),
    ] {
        let mut placement = two();
        change(&mut placement);
        let applied = place(&mut world, placement, &[OWNER, OTHER, THIRD]);
        assert_eq!(outcome(&applied), expected, "{what}");
    }
    let malformed: [Change<Placement>; 6] = [
        ("no copies", |p| p.rules[0].copies = 0),
        ("two rules for the rest", |p| p.rules.push(rule(1))),
        ("a class twice", |p| {
            p.rules[0].classes = vec![Class::Ecg, Class::Ecg];
        }),
        ("two copies at home", |p| p.rules[0].at_home = true),
        ("too heavy", |p| p.nodes = vec![node(1, 17, None)]),
        ("a node twice", |p| {
            p.nodes = vec![node(1, 1, None), node(1, 2, None)];
        }),
    ];
    for (what, change) in malformed {
        let mut placement = two();
        change(&mut placement);
        let applied = place(&mut world, placement, &[OWNER, OTHER, THIRD]);
        assert_eq!(rejected(&applied), "malformed", "{what}");
    }
    assert_eq!(world.state().placement().unwrap(), Placement::default());
    placed(&mut world, two());
    assert_eq!(world.state().placement().unwrap(), two());
}

#[test]
fn member_that_a_rule_needs_is_not_removed() {
    let mut world = world();
    let only = {
        let mut orgs = vec![did(OWNER), did(OTHER)];
        orgs.sort_unstable();
        orgs
    };
    let rules = vec![PlacementRule { only, ..rule(2) }];
    let nodes = Vec::new();
    placed(&mut world, rules_of(nodes, rules));
    let keys = [OWNER, THIRD, "hospital-d"].map(key);
    let authors: Vec<&SigningKey> = keys.iter().collect();
    let leaving = Body::MemberRemoved(world.leaving(OTHER, 2));
    assert_eq!(outcome(&world.say(leaving, &authors)), Outcome::Conflict);
    world.leave("hospital-d", 2, &[OWNER, OTHER]);
}

/// Anchors a record with the words of these members.
fn anchor_with(world: &mut World, record: &str, class: Class, members: &[&str]) -> Applied {
    let body = world.anchored(record, "holter", "patient-1", class);
    let signed = world
        .statement(Body::Anchored(body))
        .sign(&[&key("holter")]);
    let hash = signed.statement.hash();
    let hold = |name: &&str| Hold::sign(&node_key(name), ORIGIN, vec![hash], world.now);
    let holds = members.iter().map(hold).collect();
    world.apply_with(vec![signed], holds).remove(0)
}

#[test]
fn record_is_anchored_only_where_its_rule_wants_it() {
    let mut world = world();
    let home = PlacementRule {
        classes: vec![Class::Document],
        at_home: true,
        ..rule(1)
    };
    let listed = PlacementRule {
        classes: vec![Class::Imaging],
        only: vec![did(THIRD)],
        ..rule(1)
    };
    let rules = vec![home, listed, rule(3)];
    let nodes = Vec::new();
    placed(&mut world, rules_of(nodes, rules));
    let mut try_with = |class, members: &[&str]| {
        let record = format!("{class:?} on {members:?}");
        let applied = anchor_with(&mut world, &record, class, members);
        match applied {
            Applied::Rejected(code) => Err(code),
            Applied::Leaf(appended) => {
                assert_eq!(appended.leaf.outcome, Outcome::Ok);
                let entry = world.state().record(&cid(&record)).unwrap().unwrap();
                Ok(entry.holders.len())
            }
        }
    };
    assert_eq!(try_with(Class::Document, &[OTHER, THIRD]), Err("not-held"));
    // Who may not have it does not count, whatever it says.
    assert_eq!(try_with(Class::Document, &[OWNER, OTHER]), Ok(1));
    assert_eq!(try_with(Class::Imaging, &[OWNER, OTHER]), Err("not-held"));
    assert_eq!(try_with(Class::Imaging, &[THIRD]), Ok(1));
    assert_eq!(try_with(Class::Ecg, &[OWNER, OTHER]), Err("not-held"));
    assert_eq!(try_with(Class::Ecg, &[OWNER, OTHER, THIRD]), Ok(3));
}

fn hold(world: &mut World, by: &str, holds: &[Cid], gives_back: &[Cid]) -> Applied {
    let body = Holding {
        node: node_key(by).did(),
        holds: holds.to_vec(),
        gives_back: gives_back.to_vec(),
    };
    world.say(Body::Holding(body), &[&node_key(by)])
}

fn holders(world: &World, record: &Cid) -> Vec<Did> {
    world.state().record(record).unwrap().unwrap().holders
}

#[test]
fn record_moves_and_never_has_fewer_copies_than_it_is_to_have() {
    let mut world = world();
    let record = cid("ecg-1");
    let applied = anchor_with(&mut world, "ecg-1", Class::Ecg, &[OWNER, OTHER]);
    assert_eq!(outcome(&applied), Outcome::Ok);
    let early = hold(&mut world, OWNER, &[], &[record]);
    assert_eq!(outcome(&early), Outcome::Conflict);
    let new = hold(&mut world, THIRD, &[record], &[]);
    assert_eq!(outcome(&new), Outcome::Ok);
    assert!(holders(&world, &record).is_sorted());
    assert_eq!(holders(&world, &record).len(), 3);
    let moved = hold(&mut world, OWNER, &[], &[record]);
    assert_eq!(outcome(&moved), Outcome::Ok);
    let twice = hold(&mut world, OWNER, &[], &[record]);
    assert_eq!(outcome(&twice), Outcome::Conflict);
    let mut left = vec![node_key(OTHER).did(), node_key(THIRD).did()];
    left.sort_unstable();
    assert_eq!(holders(&world, &record), left);
    // The copy of who is no longer a member does not count.
    hold(&mut world, "hospital-d", &[record], &[]);
    world.leave("hospital-d", 2, &[OWNER, OTHER]);
    let last = hold(&mut world, THIRD, &[], &[record]);
    assert_eq!(outcome(&last), Outcome::Conflict);
}

#[test]
fn nobody_speaks_for_another_node_or_of_what_it_may_not_hold() {
    let mut world = world();
    let record = cid("ecg-1");
    anchor_with(&mut world, "ecg-1", Class::Ecg, &[OWNER, OTHER]);
    let body = || Holding {
        node: node_key(THIRD).did(),
        holds: vec![record],
        gives_back: Vec::new(),
    };
    for author in [node_key(OTHER), key(THIRD)] {
        let applied = world.say(Body::Holding(body()), &[&author]);
        assert_eq!(outcome(&applied), Outcome::Forbidden);
    }
    world.enrol("server", PrincipalKind::Service, OWNER, &[]);
    let stranger = Holding {
        node: did("server"),
        ..body()
    };
    let applied = world.say(Body::Holding(stranger), &[&key("server")]);
    assert_eq!(outcome(&applied), Outcome::Forbidden);
    let unknown = hold(&mut world, THIRD, &[record, cid("nothing")], &[]);
    assert_eq!(outcome(&unknown), Outcome::Unknown);
    assert_eq!(holders(&world, &record).len(), 2, "all of it or nothing");
    let nodes = vec![node(3, 0, None)];
    let rules = Vec::new();
    placed(&mut world, rules_of(nodes, rules));
    let barred = hold(&mut world, THIRD, &[record], &[]);
    assert_eq!(outcome(&barred), Outcome::Forbidden);
    for (what, holds, gives_back) in [
        ("nothing", vec![], vec![]),
        ("twice", vec![record, record], vec![]),
        ("both", vec![record], vec![record]),
        (
            "too many",
            (0..=Holding::MAX_RECORDS)
                .map(|n| cid(&format!("{n}")))
                .collect(),
            vec![],
        ),
    ] {
        let applied = hold(&mut world, OTHER, &holds, &gives_back);
        assert_eq!(rejected(&applied), "malformed", "{what}");
    }
}

#[test]
fn organisation_anchors_as_much_as_it_may_and_no_more() {
    let mut world = world();
    let quota = |org: &str, bytes| Quota {
        org: did(org),
        bytes,
    };
    let mut limited = Placement {
        quotas: vec![quota(OWNER, 1200), quota(OTHER, 0)],
        ..Placement::default()
    };
    placed(&mut world, limited.clone());
    // 500 bytes each.
    let anchor = |world: &mut World, record: &str| {
        let applied = anchor_with(world, record, Class::Ecg, &[OWNER, OTHER, THIRD]);
        match applied {
            Applied::Rejected(code) => Err(code),
            Applied::Leaf(appended) => Ok(appended.leaf.outcome),
        }
    };
    assert_eq!(anchor(&mut world, "ecg-1"), Ok(Outcome::Ok));
    assert_eq!(anchor(&mut world, "ecg-2"), Ok(Outcome::Ok));
    assert_eq!(world.state().usage(&did(OWNER)).unwrap(), 1000);
    let size = world.state().tree_size().unwrap();
    assert_eq!(anchor(&mut world, "ecg-3"), Err("over-quota"));
    assert_eq!(world.state().tree_size().unwrap(), size, "no leaf");
    // What does not take effect takes no room.
    assert_eq!(anchor(&mut world, "ecg-2"), Ok(Outcome::Conflict));
    assert_eq!(world.state().usage(&did(OWNER)).unwrap(), 1000);
    limited.quotas[0].bytes = 1500;
    placed(&mut world, limited);
    assert_eq!(anchor(&mut world, "ecg-3"), Ok(Outcome::Ok));
    assert_eq!(anchor(&mut world, "ecg-4"), Err("over-quota"));
}
