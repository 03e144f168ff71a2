use crate::{Change, outcome, rejected};
use medanchor_anchor::{
    Appended, Body, BreakGlass, BreakGlassReviewed, BreakGlassRule, Class, CustodyKind, Emergency,
    EmergencyEntry, Finding, Kind, LeafIndex, Outcome, OverrideReason, PrincipalEntry,
    PrincipalKind, Status,
    testing::{
        HOUR, MEMBERS, World, break_glass, break_glass_rule, custody_id, did, key, node_key,
    },
};

const HOSPITAL: &str = MEMBERS[0];
const CLINIC: &str = MEMBERS[1];

/// A patient of the hospital, and a clinician of the clinic whose emergencies `rosa` reviews.
fn world() -> World {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, HOSPITAL, &["device"]);
    world.enrol("kim", PrincipalKind::Person, HOSPITAL, &["clinician"]);
    for (name, roles) in [
        ("clara", &["clinician", "researcher"][..]),
        ("rosa", &["officer"]),
        ("cleo", &["clinician"]),
    ] {
        world.enrol(name, PrincipalKind::Person, CLINIC, roles);
    }
    world.enrol("pump", PrincipalKind::Device, CLINIC, &["clinician"]);
    world.custody("patient", HOSPITAL, CustodyKind::Person);
    world.custody("other", HOSPITAL, CustodyKind::Person);
    world.custody("study", HOSPITAL, CustodyKind::Dataset);
    world.anchor("ecg", "holter", "patient", Class::Ecg);
    world
}

fn armed() -> World {
    let mut world = world();
    set_rule(&mut world, break_glass_rule(CLINIC, "rosa"));
    world
}

fn set_rule(world: &mut World, rule: BreakGlassRule) -> Appended {
    world.accept(Body::BreakGlassRule(rule), &[&key(CLINIC)])
}

fn begin(world: &mut World, body: BreakGlass, by: &str) -> Outcome {
    outcome(&world.say(Body::BreakGlass(body), &[&key(by)]))
}

fn began(world: &mut World, custody: &str) -> LeafIndex {
    let body = Body::BreakGlass(break_glass("clara", custody));
    world.accept(body, &[&key("clara")]).index
}

fn reviewed(world: &World, emergency: LeafIndex, finding: Finding) -> BreakGlassReviewed {
    let entry = world.state().emergency(emergency).unwrap();
    BreakGlassReviewed {
        who: did("clara"),
        custody: entry.map_or(custody_id("patient"), |entry| entry.broken.custody),
        emergency,
        finding,
    }
}

fn review(world: &mut World, emergency: LeafIndex, finding: Finding, by: &str) -> Outcome {
    let body = Body::BreakGlassReviewed(reviewed(world, emergency, finding));
    outcome(&world.say(body, &[&key(by)]))
}

fn entry(world: &World, who: &str) -> PrincipalEntry {
    world.state().principal(&did(who)).unwrap().unwrap()
}

fn emergency(world: &World, since: LeafIndex) -> EmergencyEntry {
    world.state().emergency(since).unwrap().unwrap()
}

fn release(world: &mut World) -> Outcome {
    let record = medanchor_anchor::testing::cid("ecg");
    let request = world.request("clara", "clinician", "BTG", &[record]);
    let body = Body::Released(Box::new(world.released(&request)));
    outcome(&world.say(body, &[&node_key(HOSPITAL)]))
}

#[test]
fn organisation_says_who_may_and_people_of_its_own_review() {
    let mut world = world();
    let before = entry(&world, CLINIC).since;
    for (by, reviewer, expected) in [
        (HOSPITAL, "rosa", Outcome::Forbidden),
        ("rosa", "rosa", Outcome::Forbidden),
        (CLINIC, "kim", Outcome::Forbidden),
        (CLINIC, "pump", Outcome::Forbidden),
        (CLINIC, CLINIC, Outcome::Forbidden),
        (CLINIC, "nobody", Outcome::Unknown),
    ] {
        let rule = Body::BreakGlassRule(break_glass_rule(CLINIC, reviewer));
        assert_eq!(
            outcome(&world.say(rule, &[&key(by)])),
            expected,
            "{by} {reviewer}"
        );
    }
    assert_eq!(entry(&world, CLINIC).since, before);
    let rule = break_glass_rule(CLINIC, "rosa");
    let set = set_rule(&mut world, rule.clone());
    assert_eq!(entry(&world, CLINIC).break_glass, Some(rule.clone()));
    // The basis of whatever its people were permitted moves on.
    let basis = world.state().requester_basis(&did("clara")).unwrap();
    assert_eq!(basis.unwrap().requester_org, set.index);

    let next = BreakGlassRule {
        roles: Vec::new(),
        ..rule
    };
    set_rule(&mut world, next.clone());
    assert_eq!(entry(&world, CLINIC).break_glass, Some(next));
    let forbidden = begin(&mut world, break_glass("clara", "patient"), "clara");
    assert_eq!(forbidden, Outcome::Forbidden);
}

#[test]
fn rule_out_of_bounds_is_malformed() {
    let changes: [Change<BreakGlassRule>; 9] = [
        ("no reviewer", |rule| rule.reviewers.clear()),
        ("a reviewer twice", |rule| {
            rule.reviewers = vec![did("rosa"); 2];
        }),
        ("too many reviewers", |rule| {
            rule.reviewers = (0..17).map(|n| did(&n.to_string())).collect();
            rule.reviewers.sort();
        }),
        ("roles out of order", |rule| {
            rule.roles = vec!["nurse".to_owned(), "clinician".to_owned()];
        }),
        ("no role's name", |rule| {
            rule.roles = vec!["Clinician".to_owned()];
        }),
        ("too short", |rule| {
            rule.lasts_ms = BreakGlassRule::MIN_LASTS_MS - 1;
        }),
        ("too long", |rule| {
            rule.lasts_ms = BreakGlassRule::MAX_LASTS_MS + 1;
            rule.review_within_ms = BreakGlassRule::MAX_REVIEW_WITHIN_MS;
        }),
        ("reviewed before it is over", |rule| {
            rule.review_within_ms = rule.lasts_ms - 1;
        }),
        ("reviewed too late", |rule| {
            rule.review_within_ms = BreakGlassRule::MAX_REVIEW_WITHIN_MS + 1;
        }),
    ];
    let mut world = world();
    for (name, change) in changes {
        let mut rule = break_glass_rule(CLINIC, "rosa");
        change(&mut rule);
        let said = world.say(Body::BreakGlassRule(rule), &[&key(CLINIC)]);
        assert_eq!(rejected(&said), "malformed", "{name}");
    }
    let mut body = break_glass("clara", "patient");
    body.role = "Clinician".to_owned();
    let said = world.say(Body::BreakGlass(body), &[&key("clara")]);
    assert_eq!(rejected(&said), "malformed");
}

#[test]
fn emergency_begins_for_who_may_and_for_nobody_else() {
    let mut world = world();
    let body = || break_glass("clara", "patient");
    let without_rule = begin(&mut world, body(), "clara");
    assert_eq!(without_rule, Outcome::Forbidden);
    set_rule(&mut world, break_glass_rule(CLINIC, "rosa"));
    let changed = |change: fn(&mut BreakGlass)| {
        let mut body = body();
        change(&mut body);
        body
    };
    let cases = [
        ("another signs", body(), "cleo", Outcome::Forbidden),
        ("its organisation signs", body(), CLINIC, Outcome::Forbidden),
        (
            "role not let",
            changed(|body| body.role = "researcher".to_owned()),
            "clara",
            Outcome::Forbidden,
        ),
        (
            "role not held",
            break_glass("rosa", "patient"),
            "rosa",
            Outcome::Forbidden,
        ),
        (
            "no person",
            break_glass("pump", "patient"),
            "pump",
            Outcome::Forbidden,
        ),
        (
            "organisation without a rule",
            break_glass("kim", "patient"),
            "kim",
            Outcome::Forbidden,
        ),
        (
            "no such custody key",
            changed(|body| body.custody = custody_id("nobody")),
            "clara",
            Outcome::Unknown,
        ),
        (
            "no person's data",
            changed(|body| body.custody = custody_id("study")),
            "clara",
            Outcome::Forbidden,
        ),
    ];
    for (name, body, by, expected) in cases {
        assert_eq!(begin(&mut world, body, by), expected, "{name}");
    }
    let at = world.now;
    let since = began(&mut world, "patient");
    let clara = entry(&world, "clara");
    let open = Emergency {
        since,
        custody: custody_id("patient"),
        role: "clinician".to_owned(),
        until: at + HOUR,
        due: at + 2 * HOUR,
    };
    assert_eq!((clara.emergencies, clara.since), (vec![open], since));
    let expected = EmergencyEntry {
        broken: body(),
        org: did(CLINIC),
        since,
        at,
        until: at + HOUR,
        due: at + 2 * HOUR,
        review: None,
    };
    assert_eq!(emergency(&world, since), expected);

    assert_eq!(begin(&mut world, body(), "clara"), Outcome::Conflict);
    world.stand(Kind::Suspended, "clara", CLINIC);
    let other = break_glass("clara", "other");
    assert_eq!(begin(&mut world, other, "clara"), Outcome::Inactive);
}

#[test]
fn nobody_begins_what_only_they_could_review() {
    let mut world = world();
    set_rule(&mut world, break_glass_rule(CLINIC, "clara"));
    let alone = begin(&mut world, break_glass("clara", "patient"), "clara");
    assert_eq!(alone, Outcome::Forbidden);
    let mut rule = break_glass_rule(CLINIC, "clara");
    rule.reviewers.push(did("rosa"));
    rule.reviewers.sort();
    set_rule(&mut world, rule);
    world.stand(Kind::Suspended, "rosa", CLINIC);
    let nobody = begin(&mut world, break_glass("clara", "patient"), "clara");
    assert_eq!(nobody, Outcome::Forbidden);
    world.stand(Kind::Reinstated, "rosa", CLINIC);
    let since = began(&mut world, "patient");
    let own = review(&mut world, since, Finding::Justified, "clara");
    assert_eq!(own, Outcome::Forbidden);
    let rosas = review(&mut world, since, Finding::Justified, "rosa");
    assert_eq!(rosas, Outcome::Ok);
}

#[test]
fn nobody_has_more_than_so_many_at_once_and_a_review_makes_room() {
    let mut world = armed();
    let mut first = None;
    for n in 0..Emergency::MAX {
        let name = format!("patient-{n}");
        world.custody(&name, HOSPITAL, CustodyKind::Person);
        let since = began(&mut world, &name);
        first.get_or_insert(since);
    }
    let more = begin(&mut world, break_glass("clara", "patient"), "clara");
    assert_eq!(more, Outcome::Conflict);
    let reviewed = review(&mut world, first.unwrap(), Finding::Justified, "rosa");
    assert_eq!(reviewed, Outcome::Ok);
    began(&mut world, "patient");
}

#[test]
fn another_may_begin_when_the_first_is_over() {
    let mut world = armed();
    let first = began(&mut world, "patient");
    world.now += HOUR;
    let again = break_glass("clara", "patient");
    assert_eq!(begin(&mut world, again.clone(), "clara"), Outcome::Conflict);
    world.now += 1;
    assert_eq!(begin(&mut world, again, "clara"), Outcome::Ok);
    assert_eq!(entry(&world, "clara").emergencies.len(), 2);
    let all = world.state().emergencies(0, 10).unwrap();
    assert_eq!(all.len(), 2);
    let later = world.state().emergencies(first + 1, 10).unwrap();
    assert_eq!(later, all[1..]);
    assert_eq!(world.state().emergencies(0, 1).unwrap(), all[..1]);
    assert_eq!(all[0].since, first);
}

#[test]
fn role_is_suspended_from_when_the_review_is_due_until_there_is_one() {
    let mut world = armed();
    let since = began(&mut world, "patient");
    world.now += 2 * HOUR;
    assert_eq!(release(&mut world), Outcome::Ok);
    world.now += 1;
    // Whatever a broker permits.
    assert_eq!(release(&mut world), Outcome::Inactive);
    let other = break_glass("clara", "other");
    assert_eq!(begin(&mut world, other, "clara"), Outcome::Inactive);
    let clara = entry(&world, "clara");
    assert!(clara.is_overdue("clinician", world.now) && clara.is_active());
    assert!(!clara.is_overdue("researcher", world.now));

    let late = review(&mut world, since, Finding::Justified, "rosa");
    assert_eq!(late, Outcome::Ok);
    assert_eq!(release(&mut world), Outcome::Ok);
    assert!(entry(&world, "clara").emergencies.is_empty());
    let kept = emergency(&world, since).review.unwrap();
    assert_eq!(
        (kept.by, kept.finding, kept.at),
        (did("rosa"), Finding::Justified, world.now)
    );
}

#[test]
fn unjustified_emergency_suspends_whoever_began_it() {
    let mut world = armed();
    let since = began(&mut world, "patient");
    for by in ["clara", "cleo", CLINIC, HOSPITAL, "kim"] {
        let said = review(&mut world, since, Finding::Unjustified, by);
        assert_eq!(said, Outcome::Forbidden, "{by}");
    }
    let other_leaf = review(&mut world, since + 1, Finding::Unjustified, "rosa");
    assert_eq!(other_leaf, Outcome::Unknown);
    let found = review(&mut world, since, Finding::Unjustified, "rosa");
    assert_eq!(found, Outcome::Ok);
    let clara = entry(&world, "clara");
    assert_eq!(clara.standing, Status::Suspended);
    assert!(clara.emergencies.is_empty());
    assert_eq!(release(&mut world), Outcome::Inactive);
    let again = review(&mut world, since, Finding::Justified, "rosa");
    assert_eq!(again, Outcome::Unknown);
    world.stand(Kind::Reinstated, "clara", CLINIC);
    assert_eq!(release(&mut world), Outcome::Ok);

    // A finding never reinstates anybody.
    let since = began(&mut world, "patient");
    world.stand(Kind::Revoked, "clara", CLINIC);
    let found = review(&mut world, since, Finding::Unjustified, "rosa");
    assert_eq!(found, Outcome::Ok);
    assert_eq!(entry(&world, "clara").standing, Status::Revoked);
}

/// An organisation that the members have not let in, or have removed, gives itself no access to people's data.
#[test]
fn only_members_arm_themselves_and_only_their_people_begin() {
    let mut world = armed();
    world.enrol("vendor", PrincipalKind::Organisation, "vendor", &[]);
    for (name, role) in [("vera", "clinician"), ("vito", "officer")] {
        world.enrol(name, PrincipalKind::Person, "vendor", &[role]);
    }
    let rule = Body::BreakGlassRule(break_glass_rule("vendor", "vito"));
    let said = world.say(rule, &[&key("vendor")]);
    assert_eq!(outcome(&said), Outcome::Forbidden);
    let body = break_glass("vera", "patient");
    assert_eq!(begin(&mut world, body, "vera"), Outcome::Forbidden);

    let since = began(&mut world, "patient");
    world.leave(CLINIC, 2, &[HOSPITAL, MEMBERS[2]]);
    let other = break_glass("clara", "other");
    assert_eq!(begin(&mut world, other, "clara"), Outcome::Forbidden);
    let rule = Body::BreakGlassRule(break_glass_rule(CLINIC, "rosa"));
    assert_eq!(
        outcome(&world.say(rule, &[&key(CLINIC)])),
        Outcome::Forbidden
    );
    // What is open can still be closed.
    let closed = review(&mut world, since, Finding::Justified, "rosa");
    assert_eq!(closed, Outcome::Ok);
}

#[test]
fn review_names_whose_emergency_it_closes_and_each_is_closed_by_itself() {
    let mut world = armed();
    let first = began(&mut world, "patient");
    let second = began(&mut world, "other");
    let mut spliced = reviewed(&world, first, Finding::Justified);
    spliced.custody = custody_id("other");
    let said = world.say(Body::BreakGlassReviewed(spliced), &[&key("rosa")]);
    assert_eq!(outcome(&said), Outcome::Unknown);

    world.now += 2 * HOUR + 1;
    let one = review(&mut world, first, Finding::Justified, "rosa");
    assert_eq!(one, Outcome::Ok);
    assert_eq!(release(&mut world), Outcome::Inactive);
    world.stand(Kind::Suspended, "rosa", CLINIC);
    let suspended = review(&mut world, second, Finding::Justified, "rosa");
    assert_eq!(suspended, Outcome::Inactive);
    // Another one, whom the organisation names instead.
    set_rule(&mut world, break_glass_rule(CLINIC, "cleo"));
    world.stand(Kind::Reinstated, "rosa", CLINIC);
    let replaced = review(&mut world, second, Finding::Justified, "rosa");
    assert_eq!(replaced, Outcome::Forbidden);
    let two = review(&mut world, second, Finding::Justified, "cleo");
    assert_eq!(two, Outcome::Ok);
    assert_eq!(release(&mut world), Outcome::Ok);
}

#[test]
fn release_decided_before_an_emergency_or_its_review_is_stale() {
    let mut world = armed();
    let record = medanchor_anchor::testing::cid("ecg");
    let mut stale_after = |change: &dyn Fn(&mut World)| {
        let request = world.request("clara", "clinician", "BTG", &[record]);
        let decided = world.released(&request);
        change(&mut world);
        let body = Body::Released(Box::new(decided));
        outcome(&world.say(body, &[&node_key(HOSPITAL)]))
    };
    let begins = stale_after(&|world| {
        began(world, "patient");
    });
    assert_eq!(begins, Outcome::Stale);
    let reviewed = stale_after(&|world| {
        let since = entry(world, "clara").emergencies[0].since;
        review(world, since, Finding::Justified, "rosa");
    });
    assert_eq!(reviewed, Outcome::Stale);
}

#[test]
fn reason_is_one_of_the_codes_of_hl7() {
    for reason in OverrideReason::ALL {
        assert_eq!(reason.as_str().parse(), Ok(reason));
        assert_eq!(reason.to_string(), reason.as_str());
    }
    for text in ["", "ovrer", "OVR", "BTG", "OVRER "] {
        assert!(text.parse::<OverrideReason>().is_err(), "{text}");
    }
}
