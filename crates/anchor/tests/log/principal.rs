use crate::{Change, outcome, rejected};
use medanchor_anchor::{
    Body, DeviceDetails, Kind, Outcome, PrincipalKind, Status,
    testing::{MEMBERS, World, did, enrolled, key, node_key, standing},
};

const HOME: &str = MEMBERS[0];
const OTHER: &str = MEMBERS[1];

fn with_device() -> World {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, HOME, &["device"]);
    world
}

#[test]
fn organisation_is_enrolled_by_any_member_and_by_no_other() {
    let mut world = World::new();
    let institute = || enrolled("institute", PrincipalKind::Organisation, "institute", &[]);
    world.enrol("anna", PrincipalKind::Person, HOME, &["clinician"]);
    let by_person = world.say(institute(), &[&key("anna")]);
    assert_eq!(outcome(&by_person), Outcome::Forbidden);
    world.accept(institute(), &[&key(OTHER)]);
    let second = enrolled("vendor", PrincipalKind::Organisation, "vendor", &[]);
    let by_guest = world.say(second, &[&key("institute")]);
    assert_eq!(outcome(&by_guest), Outcome::Forbidden);
}

#[test]
fn others_are_enrolled_by_their_own_active_organisation() {
    let mut world = World::new();
    let anna = |org| enrolled("anna", PrincipalKind::Person, org, &["clinician"]);
    assert_eq!(
        outcome(&world.say(anna(HOME), &[&key(OTHER)])),
        Outcome::Forbidden
    );
    assert_eq!(
        outcome(&world.say(anna("nobody"), &[&key(HOME)])),
        Outcome::Unknown
    );
    world.enrol("vendor", PrincipalKind::Organisation, "vendor", &["vendor"]);
    world.accept(standing(Kind::Suspended, "vendor"), &[&key(HOME)]);
    assert_eq!(
        outcome(&world.say(anna("vendor"), &[&key("vendor")])),
        Outcome::Inactive
    );
    world.enrol("anna", PrincipalKind::Person, HOME, &["clinician"]);
    let entry = world.state().principal(&did("anna")).unwrap().unwrap();
    assert_eq!((entry.org, entry.standing), (did(HOME), Status::Active));
    assert_eq!(entry.since, entry.enrolled_at);
    let under_person = enrolled("probe", PrincipalKind::Device, "anna", &[]);
    assert_eq!(
        outcome(&world.say(under_person, &[&key("anna")])),
        Outcome::Forbidden
    );
}

#[test]
fn nobody_is_enrolled_twice_and_no_node_is_a_principal() {
    let mut world = with_device();
    let again = enrolled("holter", PrincipalKind::Device, OTHER, &[]);
    assert_eq!(
        outcome(&world.say(again, &[&key(OTHER)])),
        Outcome::Conflict
    );
    let node = enrolled(&format!("{HOME}/node"), PrincipalKind::Device, HOME, &[]);
    assert_eq!(outcome(&world.say(node, &[&key(HOME)])), Outcome::Conflict);
}

#[test]
fn enrolment_out_of_bounds_is_rejected() {
    let changes: [Change<medanchor_anchor::Enrolled>; 10] = [
        ("role in capitals", |body| {
            body.roles = vec!["Clinician".into()];
        }),
        ("empty role", |body| body.roles = vec![String::new()]),
        ("roles unsorted", |body| {
            body.roles = vec!["b".into(), "a".into()];
        }),
        ("17 roles", |body| {
            body.roles = ('a'..='q').map(String::from).collect();
        }),
        ("label too long", |body| body.label = Some("x".repeat(65))),
        ("label with a line break", |body| {
            body.label = Some("a\nb".into());
        }),
        ("details of a person", |body| {
            body.device = Some(DeviceDetails::default());
        }),
        ("model too long", |body| {
            body.kind = PrincipalKind::Device;
            body.device = Some(DeviceDetails {
                model: Some("x".repeat(65)),
                ..DeviceDetails::default()
            });
        }),
        ("UDI with a space", |body| {
            body.kind = PrincipalKind::Device;
            body.device = Some(DeviceDetails {
                udi: Some("(01) 00844588003288".into()),
                ..DeviceDetails::default()
            });
        }),
        ("organisation of another", |body| {
            body.kind = PrincipalKind::Organisation;
        }),
    ];
    for (name, change) in changes {
        let mut world = World::new();
        let Body::Enrolled(mut body) = enrolled("anna", PrincipalKind::Person, HOME, &[]) else {
            unreachable!()
        };
        change(&mut body);
        let applied = world.say(Body::Enrolled(body), &[&key(HOME)]);
        assert_eq!(rejected(&applied), "malformed", "{name}");
    }
}

#[test]
fn suspend_reinstate_suspend_are_three_leaves() {
    let mut world = with_device();
    let first = world.stand(Kind::Suspended, "holter", HOME);
    world.stand(Kind::Reinstated, "holter", HOME);
    let third = world.stand(Kind::Suspended, "holter", HOME);
    assert_eq!(third.index, first.index + 2);
    let entry = world.state().principal(&did("holter")).unwrap().unwrap();
    assert_eq!(
        (entry.standing, entry.since),
        (Status::Suspended, third.index)
    );
}

#[test]
fn standing_changes_only_as_it_may() {
    let mut world = with_device();
    let mut say =
        |kind, author: &str| outcome(&world.say(standing(kind, "holter"), &[&key(author)]));
    assert_eq!(say(Kind::Reinstated, HOME), Outcome::Conflict);
    assert_eq!(say(Kind::Suspended, OTHER), Outcome::Forbidden);
    assert_eq!(say(Kind::Suspended, "holter"), Outcome::Forbidden);
    assert_eq!(say(Kind::Suspended, HOME), Outcome::Ok);
    assert_eq!(say(Kind::Suspended, HOME), Outcome::Conflict);
    assert_eq!(say(Kind::Revoked, HOME), Outcome::Ok);
    for kind in [Kind::Suspended, Kind::Reinstated, Kind::Revoked] {
        assert_eq!(say(kind, HOME), Outcome::Conflict, "revoked is final");
    }
}

#[test]
fn standing_of_unknown_and_of_members_does_not_change() {
    let mut world = World::new();
    let unknown = world.say(standing(Kind::Revoked, "nobody"), &[&key(HOME)]);
    assert_eq!(outcome(&unknown), Outcome::Unknown);
    let member = world.say(standing(Kind::Revoked, OTHER), &[&key(HOME)]);
    assert_eq!(outcome(&member), Outcome::Forbidden);
}

#[test]
fn guest_organisation_is_suspended_by_members_and_then_enrols_nobody() {
    let mut world = World::new();
    world.enrol("vendor", PrincipalKind::Organisation, "vendor", &["vendor"]);
    world.enrol("service", PrincipalKind::Service, "vendor", &["vendor"]);
    let itself = world.say(standing(Kind::Suspended, "vendor"), &[&key("vendor")]);
    assert_eq!(outcome(&itself), Outcome::Forbidden);
    world.accept(standing(Kind::Suspended, "vendor"), &[&key(OTHER)]);
    let inactive = world.say(standing(Kind::Revoked, "service"), &[&key("vendor")]);
    assert_eq!(outcome(&inactive), Outcome::Inactive);
}

#[test]
fn node_key_is_an_author_but_has_no_authority_over_principals() {
    let mut world = with_device();
    let applied = world.say(standing(Kind::Revoked, "holter"), &[&node_key(HOME)]);
    assert_eq!(outcome(&applied), Outcome::Forbidden);
}
