use crate::{Change, outcome, rejected};
use medanchor_anchor::{
    Applied, Body, Class, CustodyKind, Kind, Log, Outcome, PrincipalKind, Refused, Released,
    SignedStatement, Statement,
    testing::{BEGINNING, HOUR, MEMBERS, ORIGIN, World, cid, key, node_key},
};
use medanchor_dag::{Cid, Signature};

const OWNER: &str = MEMBERS[0];
const PARTNER: &str = MEMBERS[1];
const THIRD: &str = MEMBERS[2];

fn world() -> (World, Cid) {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, OWNER, &["device"]);
    world.enrol("rita", PrincipalKind::Person, PARTNER, &["researcher"]);
    world.custody("patient-1", OWNER, CustodyKind::Person);
    world.consent("study", "patient-1", PARTNER, "HRESCH");
    let record = world.anchor("ecg-1", "holter", "patient-1", Class::Ecg);
    (world, record)
}

fn ask(world: &mut World, records: &[Cid]) -> SignedStatement {
    world.request("rita", "researcher", "HRESCH", records)
}

fn release(world: &mut World, body: Released) -> Applied {
    world.say(Body::Released(Box::new(body)), &[&node_key(OWNER)])
}

fn refusal(world: &World, request: &SignedStatement) -> Body {
    Body::Refused(Box::new(Refused {
        request: request.clone(),
        code: "no-consent".to_owned(),
        basis: world.basis(request),
        decided_at: world.now,
    }))
}

#[test]
fn release_on_a_standing_basis_answers_the_request() {
    let (mut world, record) = world();
    let request = ask(&mut world, &[record]);
    let body = world.released(&request);
    let Applied::Leaf(appended) = release(&mut world, body) else {
        panic!("rejected")
    };
    assert_eq!(appended.leaf.outcome, Outcome::Ok);
    let answer = world.state().request(&request.statement.hash()).unwrap();
    assert_eq!(answer, Some(appended.index));
}

#[test]
fn request_alone_is_not_for_the_log() {
    let (mut world, record) = world();
    let request = ask(&mut world, &[record]);
    assert_eq!(rejected(&world.submit(request)), "not-for-the-log");
}

/// I5: whatever a decision rests on, a change of it between decision and leaf makes the release stale.
#[test]
fn release_on_what_changed_meanwhile_is_stale() {
    let changes: [Change<World>; 9] = [
        ("policy set", |world| {
            world.set_policy(b"another");
        }),
        ("consent withdrawn", |world| {
            world.withdraw("study", "patient-1");
        }),
        ("consent given", |world| {
            world.consent("more", "patient-1", PARTNER, "TREAT");
        }),
        ("requester suspended", |world| {
            world.stand(Kind::Suspended, "rita", PARTNER);
        }),
        ("requester suspended and back", |world| {
            world.stand(Kind::Suspended, "rita", PARTNER);
            world.stand(Kind::Reinstated, "rita", PARTNER);
        }),
        ("second broker listed", |world| {
            world.list_broker("patient-1", THIRD);
        }),
        ("device revoked", |world| {
            world.stand(Kind::Revoked, "holter", OWNER);
        }),
        ("time is over", |world| world.now += 2),
        ("nothing", |_| ()),
    ];
    for (name, change) in changes {
        let (mut world, record) = world();
        let request = ask(&mut world, &[record]);
        let mut body = world.released(&request);
        body.valid_until = world.now + 1;
        change(&mut world);
        let expected = match name {
            "nothing" => Outcome::Ok,
            _ => Outcome::Stale,
        };
        assert_eq!(outcome(&release(&mut world, body)), expected, "{name}");
    }
}

#[test]
fn stale_release_is_decided_again() {
    let (mut world, record) = world();
    let request = ask(&mut world, &[record]);
    let old = world.released_with(&request, |list| list.parts[0].consent = None);
    assert_eq!(outcome(&release(&mut world, old)), Outcome::Stale);
    let now = world.released(&request);
    assert_eq!(outcome(&release(&mut world, now)), Outcome::Ok);
}

#[test]
fn release_to_a_suspended_requester_is_inactive_even_on_a_true_basis() {
    let (mut world, record) = world();
    let request = ask(&mut world, &[record]);
    world.stand(Kind::Suspended, "rita", PARTNER);
    let body = world.released(&request);
    assert_eq!(outcome(&release(&mut world, body)), Outcome::Inactive);
}

#[test]
fn release_is_signed_by_a_listed_broker() {
    let (mut world, record) = world();
    let request = ask(&mut world, &[record]);
    for author in [node_key(THIRD), key(OWNER), key("rita")] {
        let body = Body::Released(Box::new(world.released(&request)));
        assert_eq!(outcome(&world.say(body, &[&author])), Outcome::Forbidden);
    }
}

#[test]
fn release_on_an_expired_request_is_expired() {
    let (mut world, record) = world();
    let Body::AccessRequest(body) = ask(&mut world, &[record]).statement.body else {
        unreachable!()
    };
    let request = Statement::new(ORIGIN, Body::AccessRequest(body), [9; 16], BEGINNING - 1);
    let request = request.sign(&[&key("rita")]);
    let body = world.released(&request);
    assert_eq!(outcome(&release(&mut world, body)), Outcome::Expired);
}

#[test]
fn release_names_only_known_records_under_one_custody_key() {
    let (mut world, record) = world();
    let request = ask(&mut world, &[record, cid("absent")]);
    let body = world.released(&request);
    assert_eq!(outcome(&release(&mut world, body)), Outcome::Unknown);
    world.custody("patient-2", OWNER, CustodyKind::Person);
    let other = world.anchor("ecg-2", "holter", "patient-2", Class::Ecg);
    let request = ask(&mut world, &[record, other]);
    let body = world.released(&request);
    assert_eq!(outcome(&release(&mut world, body)), Outcome::Conflict);
}

#[test]
fn release_to_an_unknown_requester_is_refused() {
    let (mut world, record) = world();
    let request = world.request("stranger", "researcher", "HRESCH", &[record]);
    let body = world.released(&request);
    assert_eq!(outcome(&release(&mut world, body)), Outcome::Unknown);
}

#[test]
fn request_is_released_once() {
    let (mut world, record) = world();
    let request = ask(&mut world, &[record]);
    let body = world.released(&request);
    let signed = world
        .statement(Body::Released(Box::new(body.clone())))
        .sign(&[&node_key(OWNER)]);
    let first = world.submit(signed.clone());
    assert_eq!(outcome(&first), Outcome::Ok);
    assert_eq!(world.submit(signed), first, "a retry is the same leaf");
    assert_eq!(outcome(&release(&mut world, body)), Outcome::Conflict);
}

#[test]
fn embedded_request_must_be_the_requesters() {
    let (mut world, record) = world();
    let mut request = ask(&mut world, &[record]);
    request.signatures[0].1 = Signature::new([1; 64]);
    let refused = refusal(&world, &request);
    let body = world.released(&request);
    assert_eq!(rejected(&release(&mut world, body)), "bad-signature");
    let applied = world.say(refused, &[&node_key(OWNER)]);
    assert_eq!(rejected(&applied), "bad-signature");
}

#[test]
fn access_out_of_bounds_is_rejected() {
    let changes: [Change<Released>; 8] = [
        ("record missing", |body| body.list.records = 0),
        ("record too many", |body| body.list.records = 2),
        ("another custody key", |body| body.list.parts = 2),
        ("no custody key", |body| body.list.parts = 0),
        ("basis that tells of records", |body| body.basis.custody = 1),
        ("policies unsorted", |body| {
            body.policies = vec!["b".into(), "a".into()];
        }),
        ("not a request", |body| {
            let enrolled =
                medanchor_anchor::testing::enrolled("x", PrincipalKind::Device, OWNER, &[]);
            body.request.statement.body = enrolled;
        }),
        ("request in another network", |body| {
            body.request.statement.origin = "other".into();
        }),
    ];
    for (name, change) in changes {
        let (mut world, record) = world();
        let request = ask(&mut world, &[record]);
        let mut body = world.released(&request);
        change(&mut body);
        assert_eq!(rejected(&release(&mut world, body)), "malformed", "{name}");
    }
}

#[test]
fn refusal_is_recorded_and_does_not_settle_the_request() {
    let (mut world, record) = world();
    let request = ask(&mut world, &[record]);
    let body = refusal(&world, &request);
    let refused = world.accept(body, &[&node_key(OWNER)]);
    let hash = request.statement.hash();
    assert_eq!(world.state().request(&hash).unwrap(), Some(refused.index));
    let body = world.released(&request);
    let Applied::Leaf(released) = release(&mut world, body) else {
        panic!("rejected")
    };
    assert_eq!(released.leaf.outcome, Outcome::Ok);
    let late = refusal(&world, &request);
    world.accept(late, &[&node_key(OWNER)]);
    assert_eq!(world.state().request(&hash).unwrap(), Some(released.index));
}

/// Who refuses shows nothing: whatever was asked for, a refusal that tells of no record is any node's.
#[test]
fn refusal_that_tells_of_no_record_comes_from_any_node_and_any_other_from_a_broker() {
    let (mut world, record) = world();
    for records in [
        vec![record],
        vec![cid("absent")],
        vec![cid("absent"), record],
    ] {
        let request = ask(&mut world, &records);
        let told = refusal(&world, &request);
        let expected = match records.contains(&record) {
            true => Outcome::Forbidden,
            false => Outcome::Unknown,
        };
        let by_other = world.say(told.clone(), &[&node_key(THIRD)]);
        assert_eq!(outcome(&by_other), expected);
        if records.contains(&record) {
            world.accept(told, &[&node_key(OWNER)]);
        }

        let untold = untold(&world, &request);
        for author in [key(OWNER), key("rita")] {
            let by_no_node = world.say(untold.clone(), &[&author]);
            assert_eq!(outcome(&by_no_node), Outcome::Forbidden);
        }
        world.accept(untold, &[&node_key(THIRD)]);
    }
}

/// A refusal that says nothing of the records.
fn untold(world: &World, request: &SignedStatement) -> Body {
    let requester = request.author().unwrap();
    Body::Refused(Box::new(Refused {
        request: request.clone(),
        code: "not-permitted".to_owned(),
        basis: world.state().requester_basis(requester).unwrap().unwrap(),
        decided_at: world.now,
    }))
}

/// What begins later must not count already because a broker's clock is ahead.
#[test]
fn decision_from_the_future_is_stale() {
    for (ahead, expected) in [
        (Log::MAX_AHEAD_MS, Outcome::Ok),
        (Log::MAX_AHEAD_MS + 1, Outcome::Stale),
        (u64::MAX - BEGINNING, Outcome::Stale),
    ] {
        let (mut world, record) = world();
        let request = ask(&mut world, &[record]);
        let mut body = world.released(&request);
        body.decided_at += ahead;
        assert_eq!(outcome(&release(&mut world, body)), expected);
        let (mut world, record) = self::world();
        let request = ask(&mut world, &[record]);
        let Body::Refused(mut body) = refusal(&world, &request) else {
            unreachable!()
        };
        body.decided_at += ahead;
        let refused = world.say(Body::Refused(body), &[&node_key(OWNER)]);
        assert_eq!(outcome(&refused), expected);
    }
}

#[test]
fn refusal_of_an_expired_request_by_a_stranger_is_recorded() {
    let (mut world, record) = world();
    let request = world.request("stranger", "researcher", "HRESCH", &[record]);
    world.now += 2 * HOUR;
    let body = refusal(&world, &request);
    world.accept(body, &[&node_key(OWNER)]);
}
