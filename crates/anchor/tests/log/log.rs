use crate::{Change, outcome, rejected};
use medanchor_anchor::{
    Applied, Batch, Body, Kind, Log, MemoryTables, Outcome, PrincipalKind, SignedStatement,
    Statement,
    testing::{BEGINNING, HOUR, MEMBERS, ORIGIN, World, cid, enrolled, founded, key, standing},
};
use medanchor_dag::{Signature, SigningKey};

fn found(body: medanchor_anchor::Founded, authors: &[&str]) -> Applied {
    let keys: Vec<SigningKey> = authors.iter().map(|name| key(name)).collect();
    let keys: Vec<&SigningKey> = keys.iter().collect();
    World::empty().say(Body::Founded(body), &keys)
}

#[test]
fn founding_enrols_the_members_and_nothing_else() {
    let world = World::new();
    let state = world.state();
    assert_eq!(state.tree_size().unwrap(), 1);
    assert_eq!(state.founded().unwrap().unwrap().origin, ORIGIN);
    assert_eq!(state.principals(None, 10).unwrap().len(), MEMBERS.len());
    assert_eq!(state.leaf(0).unwrap().unwrap().kind, Kind::Founded);
}

#[test]
fn founding_needs_every_founder_and_nobody_else() {
    let body = || founded(cid("policy"));
    let [a, b, c] = MEMBERS;
    assert_eq!(rejected(&found(body(), &[a, b])), "founders-missing");
    assert_eq!(
        rejected(&found(body(), &[a, b, c, "other"])),
        "founders-missing"
    );
    assert_eq!(outcome(&found(body(), &[c, a, b])), Outcome::Ok);
}

#[test]
fn founding_happens_once_and_first() {
    let mut world = World::new();
    let orgs = MEMBERS.map(key);
    let authors: Vec<&SigningKey> = orgs.iter().collect();
    let again = world.say(Body::Founded(founded(cid("other"))), &authors);
    assert_eq!(rejected(&again), "already-founded");
    let body = enrolled("holter", PrincipalKind::Device, MEMBERS[0], &[]);
    let early = World::empty().say(body, &[&orgs[0]]);
    assert_eq!(rejected(&early), "not-founded");
}

#[test]
fn founding_out_of_bounds_is_rejected() {
    let changes: [Change<medanchor_anchor::Founded>; 10] = [
        ("no members", |body| body.members.clear()),
        ("no copies", |body| body.copies = 0),
        ("more copies than members there can be", |body| {
            body.copies = 33;
        }),
        ("no quorum", |body| body.quorum = 0),
        ("more co-signatures than co-signers", |body| body.quorum = 4),
        ("name with a space", |body| {
            body.members[0].name = "a b".into();
        }),
        ("same name", |body| {
            body.members[1].name = body.members[0].name.clone();
        }),
        ("node key of another", |body| {
            body.members[1].node = body.members[0].node;
        }),
        ("node id 0", |body| body.members[0].node_id = 0),
        ("too many witnesses", |body| {
            body.witnesses = vec!["w".into(); 33];
        }),
    ];
    for (name, change) in changes {
        let mut body = founded(cid("policy"));
        change(&mut body);
        assert_eq!(rejected(&found(body, &MEMBERS)), "malformed", "{name}");
    }
}

#[test]
fn same_statement_twice_has_one_leaf() {
    let mut world = World::new();
    let body = enrolled("holter", PrincipalKind::Device, MEMBERS[0], &["device"]);
    let signed = world.statement(body).sign(&[&key(MEMBERS[0])]);
    let first = world.submit(signed.clone());
    let both = world.apply(vec![signed.clone(), signed]);
    assert_eq!(both, [first.clone(), first]);
    assert_eq!(world.state().tree_size().unwrap(), 2);
}

#[test]
fn bad_or_unknown_signature_makes_no_leaf() {
    let mut world = World::new();
    let before = world.tables.clone();
    let body = enrolled("holter", PrincipalKind::Device, MEMBERS[0], &[]);
    let mut signed = world.statement(body.clone()).sign(&[&key(MEMBERS[0])]);
    signed.signatures[0].1 = Signature::new([7; 64]);
    assert_eq!(rejected(&world.submit(signed)), "bad-signature");
    let stranger = world.say(body.clone(), &[&key("stranger")]);
    assert_eq!(rejected(&stranger), "unknown-author");
    let beside = world.say(body, &[&key(MEMBERS[0]), &key("stranger")]);
    assert_eq!(rejected(&beside), "unknown-author");
    assert_eq!(world.tables, before);
}

#[test]
fn statement_of_another_network_makes_no_leaf() {
    let mut world = World::new();
    let body = enrolled("holter", PrincipalKind::Device, MEMBERS[0], &[]);
    let elsewhere = Statement::new("other.example/log", body, [1; 16], BEGINNING + HOUR);
    let applied = world.submit(elsewhere.sign(&[&key(MEMBERS[0])]));
    assert_eq!(rejected(&applied), "wrong-origin");
}

#[test]
fn expiry_is_judged_by_log_time() {
    let mut world = World::new();
    let enrol = |name: &str, not_after| {
        let body = enrolled(name, PrincipalKind::Device, MEMBERS[0], &[]);
        Statement::new(ORIGIN, body, [1; 16], not_after).sign(&[&key(MEMBERS[0])])
    };
    let expired = world.submit(enrol("late", BEGINNING - 1));
    assert_eq!(outcome(&expired), Outcome::Expired);
    let last_moment = world.submit(enrol("just", BEGINNING));
    assert_eq!(outcome(&last_moment), Outcome::Ok);
    let longest = BEGINNING + Log::MAX_VALIDITY_MS;
    assert_eq!(outcome(&world.submit(enrol("far", longest))), Outcome::Ok);
    let too_far = world.submit(enrol("farther", longest + 1));
    assert_eq!(rejected(&too_far), "expiry-too-far");
}

#[test]
fn log_time_never_goes_back() {
    let mut world = World::new();
    world.now = BEGINNING - HOUR;
    let appended = world.accept(
        enrolled("holter", PrincipalKind::Device, MEMBERS[0], &[]),
        &[&key(MEMBERS[0])],
    );
    assert_eq!(appended.leaf.at, BEGINNING);
    world.now = BEGINNING + 5;
    let appended = world.stand(Kind::Suspended, "holter", MEMBERS[0]);
    assert_eq!(appended.leaf.at, BEGINNING + 5);
    assert_eq!(world.state().log_time().unwrap(), BEGINNING + 5);
}

#[test]
fn batch_of_another_version_or_too_long_is_rejected() {
    let mut world = World::new();
    let signed = world
        .statement(standing(Kind::Suspended, MEMBERS[1]))
        .sign(&[&key(MEMBERS[0])]);
    let mut batch = world.batches[0].clone();
    batch.entries[0].signed = signed;
    batch.v = 2;
    let applied = Log::apply(&mut world.tables, &batch).unwrap();
    assert_eq!(applied, [Applied::Rejected("malformed")]);
    batch.v = 1;
    batch.entries = vec![batch.entries[0].clone(); Batch::MAX_ENTRIES + 1];
    let applied = Log::apply(&mut world.tables, &batch).unwrap();
    assert!(applied.iter().all(|one| rejected(one) == "malformed"));
}

#[test]
fn openings_open_their_leaves_and_may_be_deleted() {
    use medanchor_anchor::{Table, Tables};
    let mut world = World::new();
    let leaf = world.state().leaf(0).unwrap().unwrap();
    let opening = world.state().opening(0).unwrap().unwrap();
    assert_eq!(opening.commitment(), leaf.opening);
    let root = world.state().root().unwrap();
    let key = 0_u64.to_be_bytes();
    world.tables.remove(Table::Openings, &key).unwrap();
    assert_eq!(world.state().opening(0).unwrap(), None);
    assert_eq!(world.state().root().unwrap(), root);
}

#[test]
fn replay_gives_equal_tables() {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, MEMBERS[0], &["device"]);
    world.stand(Kind::Suspended, "holter", MEMBERS[0]);
    world.now += HOUR;
    world.stand(Kind::Reinstated, "holter", MEMBERS[0]);
    let mut replica = MemoryTables::default();
    for batch in &world.batches {
        let read_back = Batch::from_bytes(&batch.to_bytes()).unwrap();
        Log::apply(&mut replica, &read_back).unwrap();
    }
    assert_eq!(replica, world.tables);
}

#[test]
fn pages_continue_where_they_ended() {
    let mut world = World::new();
    for i in 0..5 {
        world.enrol(
            &format!("device-{i}"),
            PrincipalKind::Device,
            MEMBERS[0],
            &[],
        );
    }
    let all = world.state().principals(None, 100).unwrap();
    let mut paged = Vec::new();
    while let page = world
        .state()
        .principals(paged.last().map(|(did, _)| did), 3)
        .unwrap()
        && !page.is_empty()
    {
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert_eq!(all.len(), 8);
}

#[test]
fn signed_statement_survives_its_bytes() {
    let mut world = World::new();
    let signed = world
        .statement(standing(Kind::Revoked, "holter"))
        .sign(&[&key(MEMBERS[0])]);
    let read_back = SignedStatement::from_bytes(&signed.to_bytes()).unwrap();
    assert_eq!(read_back, signed);
}
