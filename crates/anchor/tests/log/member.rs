use crate::{Change, outcome, rejected};
use medanchor_anchor::{
    Applied, Body, Class, CustodyKind, Hold, Kind, Log, MemberAdded, MemberRemoved, Outcome,
    PrincipalKind,
    testing::{
        self, HOUR, MEMBERS, ORIGIN, World, did, enrolled, founded, joining, key, node_key,
        standing,
    },
};
use medanchor_dag::{Hash, SigningKey};

const A: &str = MEMBERS[0];
const B: &str = MEMBERS[1];
const C: &str = MEMBERS[2];
const D: &str = "hospital-d";

fn say(world: &mut World, body: Body, by: &[&str]) -> Applied {
    let keys: Vec<SigningKey> = by.iter().map(|name| key(name)).collect();
    world.say(body, &keys.iter().collect::<Vec<_>>())
}

fn join(world: &mut World, body: MemberAdded, by: &[&str]) -> Applied {
    say(world, Body::MemberAdded(Box::new(body)), by)
}

fn names(world: &World) -> Vec<(u64, String)> {
    let members = world.state().members().unwrap();
    members.into_iter().map(|m| (m.node_id, m.name)).collect()
}

#[test]
fn organisation_joins_with_its_own_and_a_majoritys_signatures() {
    let mut world = World::new();
    let leaf = world.join(D, 4, &[A, C]);
    assert_eq!(leaf.leaf.kind, Kind::MemberAdded);
    let state = world.state();
    let entries = state.member_entries().unwrap();
    let [.., last] = entries.as_slice() else {
        panic!("no members")
    };
    assert_eq!((last.member.node_id, last.member.org), (4, did(D)));
    assert_eq!(
        last.contact.as_ref().unwrap().address,
        joining(D, 4).address
    );
    assert_eq!((last.added_at, last.removed_at), (leaf.index, None));
    assert_eq!(state.quorum().unwrap(), 4);
    assert_eq!(state.policy_changes().unwrap(), [leaf.index]);
    assert_eq!(
        state.principal(&did(D)).unwrap().unwrap().roles,
        ["custodian", "member"]
    );
}

#[test]
fn nobody_joins_with_too_few_signatures_or_without_their_own() {
    let mut world = World::new();
    // A node speaks for no organisation, and neither does one that is enrolled but no member.
    world.enrol("vendor", PrincipalKind::Organisation, "vendor", &[]);
    let node = format!("{B}/node");
    for by in [
        vec![D, A],
        vec![A, B, C],
        vec![D, A, node.as_str()],
        vec![D, A, "vendor"],
    ] {
        let refused = join(&mut world, joining(D, 3), &by);
        assert_eq!(outcome(&refused), Outcome::Forbidden, "{by:?}");
    }
    assert_eq!(
        rejected(&join(&mut world, joining(D, 3), &[D, A, "stranger"])),
        "unknown-author"
    );
    let body = Body::MemberAdded(Box::new(joining(D, 3)));
    let mut twice = world.statement(body).sign(&[&key(D), &key(A)]);
    twice.signatures.push(twice.signatures[1]);
    assert_eq!(rejected(&world.submit(twice)), "malformed");
    assert_eq!(names(&world).len(), 3);
}

#[test]
fn signature_on_something_else_is_no_approval() {
    let mut world = World::new();
    let other = world.statement(Body::MemberAdded(Box::new(joining(D, 3))));
    let approval = other.sign(&[&key(B)]).signatures[0];
    let mut signed = world
        .statement(Body::MemberAdded(Box::new(joining(D, 3))))
        .sign(&[&key(D), &key(A)]);
    signed.signatures.push(approval);
    assert_eq!(rejected(&world.submit(signed)), "bad-signature");
}

#[test]
fn newcomer_counts_from_the_next_statement_on() {
    let mut world = World::new();
    world.join(D, 4, &[A, B]);
    // A majority of four is three.
    let two = join(&mut world, joining("hospital-e", 4), &["hospital-e", A, B]);
    assert_eq!(outcome(&two), Outcome::Forbidden);
    world.join("hospital-e", 4, &[A, B, D]);
    // Within one batch too.
    let statements = ["f", "g"].map(|name| {
        let by = [key(name), key(A), key(B), key(D), key("f")];
        let authors: Vec<_> = by.iter().take(if name == "f" { 4 } else { 5 }).collect();
        world
            .statement(Body::MemberAdded(Box::new(joining(name, 4))))
            .sign(&authors)
    });
    let applied = world.apply(statements.into());
    assert!(
        applied
            .iter()
            .all(|applied| outcome(applied) == Outcome::Ok),
        "{applied:?}"
    );
    assert_eq!(names(&world).len(), 7);
}

#[test]
fn node_ids_are_never_used_again() {
    let mut world = World::new();
    world.join(D, 3, &[A, B]);
    world.leave(D, 3, &[A, B]);
    let mut back = joining(D, 3);
    let fresh = joining("fresh", 3);
    back.node = fresh.node;
    back.certificate = fresh.certificate;
    back.peer_id = fresh.peer_id;
    back.log_key = testing::verifier_key(ORIGIN, 1, &did("fresh/log"));
    back.cosigner_key = testing::verifier_key(&format!("{ORIGIN}/{D}"), 4, &did("fresh/cosigner"));
    let same_key: [Change<MemberAdded>; 5] = [
        ("node", |body| body.node = joining(D, 3).node),
        ("certificate", |body| {
            body.certificate = joining(D, 3).certificate;
        }),
        ("peer id", |body| body.peer_id = joining(D, 3).peer_id),
        ("log key", |body| body.log_key = joining(D, 3).log_key),
        ("co-signing key", |body| {
            body.cosigner_key = joining(D, 3).cosigner_key;
        }),
    ];
    for (what, change) in same_key {
        let mut body = back.clone();
        change(&mut body);
        let refused = join(&mut world, body, &[D, A, B]);
        assert_eq!(outcome(&refused), Outcome::Conflict, "{what}");
    }
    let back = join(&mut world, back, &[D, A, B]);
    assert_eq!(outcome(&back), Outcome::Ok);
    let ids: Vec<u64> = names(&world).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [1, 2, 3, 5]);
    assert_eq!(world.state().policy_changes().unwrap().len(), 3);
}

#[test]
fn every_name_and_key_of_a_newcomer_is_new() {
    let changes: [Change<MemberAdded>; 8] = [
        ("name", |body| {
            body.name = A.to_owned();
            body.cosigner_key =
                testing::verifier_key(&format!("{ORIGIN}/{A}"), 4, &did("fresh/cosigner"));
        }),
        ("organisation", |body| body.org = did(A)),
        ("organisation is a node", |body| {
            body.org = node_key(A).did();
        }),
        ("node", |body| body.node = node_key(A).did()),
        ("node is an organisation", |body| body.node = did(A)),
        ("certificate", |body| {
            body.certificate = Hash::of(A.as_bytes());
        }),
        ("peer id", |body| {
            body.peer_id = founded(testing::cid("policy")).members[0].peer_id.clone();
        }),
        ("log key is a co-signing key", |body| {
            body.log_key = testing::verifier_key(ORIGIN, 1, &did(&format!("{B}/cosigner")));
        }),
    ];
    for (what, change) in changes {
        let mut world = World::new();
        let mut body = joining(D, 3);
        change(&mut body);
        let org = [D, A]
            .map(key)
            .into_iter()
            .find(|key| key.did() == body.org);
        let org = org.unwrap_or_else(|| node_key(A));
        let (b, c) = (key(B), key(C));
        let refused = world.say(Body::MemberAdded(Box::new(body)), &[&org, &b, &c]);
        assert_eq!(outcome(&refused), Outcome::Conflict, "{what}");
        assert_eq!(names(&world).len(), 3);
    }
}

#[test]
fn newcomer_out_of_bounds_is_rejected() {
    let changes: [Change<MemberAdded>; 12] = [
        ("name", |body| body.name = "Hospital".to_owned()),
        ("no quorum", |body| body.quorum = 0),
        ("address", |body| {
            body.address = "hospital.example:7440".to_owned();
        }),
        ("address form", |body| {
            body.address = "192.0.2.1:07440".to_owned();
        }),
        ("no port", |body| body.swarm = "192.0.2.1:0".to_owned()),
        ("authority", |body| body.authority.clear()),
        ("long authority", |body| {
            body.authority = vec![0; MemberAdded::MAX_AUTHORITY_BYTES + 1];
        }),
        ("log key of another log", |body| {
            body.log_key = testing::verifier_key("other", 1, &did("fresh/log"));
        }),
        ("log key of another type", |body| {
            body.log_key = testing::verifier_key(ORIGIN, 4, &did("fresh/log"));
        }),
        ("co-signing key of another name", |body| {
            body.cosigner_key = testing::verifier_key(ORIGIN, 4, &did("fresh/cosigner"));
        }),
        ("no key", |body| body.log_key = "key".to_owned()),
        ("one key for both", |body| {
            body.log_key = testing::verifier_key(ORIGIN, 1, &did(&format!("{D}/cosigner")));
        }),
    ];
    for (what, change) in changes {
        let mut world = World::new();
        let mut body = joining(D, 3);
        change(&mut body);
        assert_eq!(
            rejected(&join(&mut world, body, &[D, A, B])),
            "malformed",
            "{what}"
        );
    }
}

#[test]
fn quorum_can_be_reached() {
    let mut world = World::new();
    let refused = join(&mut world, joining(D, 5), &[D, A, B]);
    assert_eq!(outcome(&refused), Outcome::Conflict);
    world.join(D, 4, &[A, B]);
    let gone = Body::MemberRemoved(world.leaving(D, 4));
    assert_eq!(outcome(&say(&mut world, gone, &[A, B])), Outcome::Conflict);
    world.leave(D, 3, &[A, B]);
    assert_eq!(world.state().quorum().unwrap(), 3);
}

#[test]
fn enrolled_organisation_joins_if_it_is_active() {
    let mut world = World::new();
    world.enrol(D, PrincipalKind::Organisation, D, &["researcher"]);
    let enrolled_at = world
        .state()
        .principal(&did(D))
        .unwrap()
        .unwrap()
        .enrolled_at;
    world.stand(Kind::Suspended, D, A);
    assert_eq!(
        outcome(&join(&mut world, joining(D, 3), &[D, A, B])),
        Outcome::Inactive
    );
    world.stand(Kind::Reinstated, D, A);
    world.join(D, 3, &[A, B]);
    let entry = world.state().principal(&did(D)).unwrap().unwrap();
    assert_eq!(entry.roles, ["custodian", "member", "researcher"]);
    assert_eq!(entry.enrolled_at, enrolled_at);
    // A member's standing does not change the way of others.
    assert_eq!(
        outcome(&say(&mut world, standing(Kind::Suspended, D), &[A])),
        Outcome::Forbidden
    );
}

#[test]
fn member_is_removed_by_a_majority_of_the_others() {
    let mut world = World::new();
    world.join(D, 3, &[A, B]);
    let gone = |world: &World| Body::MemberRemoved(world.leaving(D, 3));
    // Of the three others, two; its own signature does not count.
    for by in [vec![A], vec![A, D]] {
        let body = gone(&world);
        assert_eq!(
            outcome(&say(&mut world, body, &by)),
            Outcome::Forbidden,
            "{by:?}"
        );
    }
    let body = gone(&world);
    assert_eq!(outcome(&say(&mut world, body, &[A, B])), Outcome::Ok);
    assert_eq!(names(&world).len(), 3);
    let entry = world.state().principal(&did(D)).unwrap().unwrap();
    assert_eq!(entry.roles, ["custodian"]);
    assert!(entry.is_active());
}

#[test]
fn removal_names_the_member_as_it_is() {
    let mut world = World::new();
    world.join(D, 3, &[A, B]);
    let changes: [Change<MemberRemoved>; 4] = [
        ("organisation", |body| body.org = did(A)),
        ("log key", |body| body.log_key = joining("e", 1).log_key),
        ("co-signing key", |body| {
            body.cosigner_key = joining("e", 1).cosigner_key;
        }),
        ("node of another", |body| body.node_id = 1),
    ];
    for (what, change) in changes {
        let mut body = world.leaving(D, 3);
        change(&mut body);
        let refused = say(&mut world, Body::MemberRemoved(body), &[A, B, C]);
        assert_eq!(outcome(&refused), Outcome::Conflict, "{what}");
    }
    let mut unknown = world.leaving(D, 3);
    unknown.node_id = 9;
    let refused = say(&mut world, Body::MemberRemoved(unknown), &[A, B]);
    assert_eq!(outcome(&refused), Outcome::Unknown);
    let again = Body::MemberRemoved(world.leaving(D, 3));
    world.leave(D, 3, &[A, B]);
    assert_eq!(outcome(&say(&mut world, again, &[A, B])), Outcome::Conflict);
}

#[test]
fn statement_said_again_changes_nothing() {
    let mut world = World::new();
    let body = Body::MemberAdded(Box::new(joining(D, 3)));
    let added = world.statement(body).sign(&[&key(D), &key(A), &key(B)]);
    let first = world.submit(added.clone());
    world.leave(D, 3, &[A, B]);
    let before = world.tables.clone();
    assert_eq!(world.submit(added), first);
    assert_eq!(world.tables, before);
    assert_eq!(names(&world).len(), 3);
}

#[test]
fn copies_need_as_many_members() {
    let mut world = World::new();
    world.leave(C, 2, &[A, B]);
    let body = Body::MemberRemoved(world.leaving(B, 1));
    assert_eq!(outcome(&say(&mut world, body, &[A])), Outcome::Conflict);
    assert_eq!(names(&world).len(), 2);
}

#[test]
fn last_member_cannot_be_removed() {
    let mut world = World::empty();
    let mut alone = founded(testing::cid("policy"));
    alone.members.truncate(1);
    (alone.quorum, alone.copies) = (1, 1);
    world.accept(Body::Founded(alone), &[&key(A)]);
    let body = Body::MemberRemoved(world.leaving(A, 1));
    assert_eq!(outcome(&say(&mut world, body, &[A])), Outcome::Forbidden);
}

#[test]
fn holds_and_releases_of_a_removed_node_are_worth_nothing() {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, A, &["device"]);
    world.custody("patient", A, CustodyKind::Person);
    world.leave(C, 2, &[A, B]);
    let body = world.anchored("record", "holter", "patient", Class::Ecg);
    let signed = world
        .statement(Body::Anchored(body))
        .sign(&[&key("holter")]);
    let hold = |world: &World, name| {
        let held = vec![signed.statement.hash()];
        Hold::sign(&node_key(name), ORIGIN, held, world.now + HOUR)
    };
    let holds = [A, C].map(|name| hold(&world, name));
    let refused = world.apply_with(vec![signed.clone()], holds.into());
    assert_eq!(rejected(&refused[0]), "not-held");
    let holds = [A, B].map(|name| hold(&world, name));
    let accepted = world.apply_with(vec![signed], holds.into());
    assert_eq!(outcome(&accepted[0]), Outcome::Ok);
    // Its organisation enrols its own people still, but no other organisation.
    world.enrol("carl", PrincipalKind::Person, C, &[]);
    let institute = enrolled("institute", PrincipalKind::Organisation, "institute", &[]);
    assert_eq!(
        outcome(&say(&mut world, institute, &[C])),
        Outcome::Forbidden
    );
}

#[test]
fn statements_about_members_may_be_signed_for_two_weeks() {
    let mut world = World::new();
    let mut statement = world.statement(Body::MemberAdded(Box::new(joining(D, 3))));
    let latest = world.now + Log::MAX_MEMBER_VALIDITY_MS;
    statement.not_after_unix_ms = Some(latest + 1);
    let signed = statement.clone().sign(&[&key(D), &key(A), &key(B)]);
    assert_eq!(rejected(&world.submit(signed)), "expiry-too-far");
    statement.not_after_unix_ms = Some(latest);
    let signed = statement.sign(&[&key(D), &key(A), &key(B)]);
    assert_eq!(outcome(&world.submit(signed)), Outcome::Ok);
}
