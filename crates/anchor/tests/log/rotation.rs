use crate::{outcome, rejected};
use medanchor_anchor::{
    Account, AccountHead, AccountOf, Anchored, Attestation, Body, BreakGlassReviewed, Class,
    CustodyKind, Finding, Kind, Log, MemoryTables, Outcome, PrincipalEntry, PrincipalKind, State,
    StreamName,
    testing::{
        MEMBERS, World, break_glass, break_glass_rule, cid, consent_id, consented, custody,
        custody_id, did, enrolled, epoch_key, everything, joining, key, node_key, roles_changed,
        rotated, standing, stream_id,
    },
};
use medanchor_dag::{Did, SigningKey};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;

const OWNER: &str = MEMBERS[0];
const OTHER: &str = MEMBERS[1];

/// A device, a clinician whose emergencies `rosa` reviews, and a patient who speaks for her own custody key.
fn world() -> World {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, OWNER, &["device"]);
    for (name, role) in [
        ("clara", "clinician"),
        ("rosa", "officer"),
        ("paula", "patient"),
    ] {
        world.enrol(name, PrincipalKind::Person, OWNER, &[role]);
    }
    let mut body = custody("patient-1", OWNER, CustodyKind::Person);
    body.controller = Some(did("paula"));
    world.accept(Body::Custody(body), &[&key(OWNER)]);
    let rule = break_glass_rule(OWNER, "rosa");
    world.accept(Body::BreakGlassRule(rule), &[&key(OWNER)]);
    world
}

fn entry(world: &World, who: &str) -> PrincipalEntry {
    world.state().principal(&did(who)).unwrap().unwrap()
}

fn signer(world: &World, name: &str) -> Option<Did> {
    let signer = world.state().signer(&did(name)).unwrap();
    signer.map(|(who, _)| who)
}

fn ecg(world: &World, name: &str, key: &str) -> Anchored {
    world.anchored(name, key, "patient-1", Class::Ecg)
}

fn say(world: &mut World, body: Body, authors: &[&str]) -> Outcome {
    let keys: Vec<SigningKey> = authors.iter().map(|name| key(name)).collect();
    let keys: Vec<&SigningKey> = keys.iter().collect();
    outcome(&world.say(body, &keys))
}

#[test]
fn principal_goes_on_with_the_key_that_it_rotated_to() {
    let mut world = world();
    let before = entry(&world, "clara");
    let index = world.rotate("clara", "clara", "clara/2").index;
    let after = entry(&world, "clara");
    let expected = PrincipalEntry {
        key: Some(did("clara/2")),
        since: index,
        ..before
    };
    assert_eq!(after, expected);
    assert_eq!(signer(&world, "clara"), None);
    assert_eq!(signer(&world, "clara/2"), Some(did("clara")));
    assert_eq!(signer(&world, "clara/3"), None);
    for name in ["clara", "clara/2"] {
        let (who, known) = world.state().identity(&did(name)).unwrap().unwrap();
        assert_eq!((who, &known), (did("clara"), &after));
    }
    assert_eq!(world.state().principal(&did("clara/2")).unwrap(), None);
}

#[test]
fn three_rotations_in_a_row_leave_the_last_key_in_force() {
    let mut world = world();
    let keys = ["clara", "clara/2", "clara/3", "clara/4"];
    for pair in keys.windows(2) {
        world.rotate("clara", pair[0], pair[1]);
    }
    for old in &keys[..3] {
        assert_eq!(signer(&world, old), None, "{old}");
        let to = rotated("clara", "clara/5");
        let refused = world.say(to, &[&key(old), &key("clara/5")]);
        assert_eq!(rejected(&refused), "unknown-author", "{old}");
        // No key comes back, not even to whom it belonged.
        let back = rotated("clara", old);
        let applied = world.say(back, &[&key("clara/4"), &key(old)]);
        assert_eq!(outcome(&applied), Outcome::Conflict, "{old}");
    }
    assert_eq!(signer(&world, "clara/4"), Some(did("clara")));
}

#[test]
fn rotation_needs_the_key_in_force_and_the_new_one_and_nobody_else() {
    let mut world = world();
    world.enrol("cleo", PrincipalKind::Person, OWNER, &["clinician"]);
    let to = || rotated("clara", "clara/2");
    for (name, authors) in [
        ("the new key is missing", &["clara"][..]),
        ("another principal's key", &["cleo", "clara/2"]),
        ("the organisation for it", &[OWNER, "clara/2"]),
        ("the organisation as well", &["clara", "clara/2", OWNER]),
        ("another key than it says", &["clara", "cleo"]),
    ] {
        assert_eq!(say(&mut world, to(), authors), Outcome::Forbidden, "{name}");
    }
    for (name, authors) in [
        ("the key in force is missing", &["clara/2"][..]),
        ("a stranger's key", &["stranger", "clara/2"]),
        (
            "an unknown key beside both",
            &["clara", "clara/2", "clara/3"],
        ),
    ] {
        let keys: Vec<SigningKey> = authors.iter().map(|name| key(name)).collect();
        let keys: Vec<&SigningKey> = keys.iter().collect();
        let applied = world.say(to(), &keys);
        assert_eq!(rejected(&applied), "unknown-author", "{name}");
    }
    assert_eq!(entry(&world, "clara").key, None);
    assert_eq!(signer(&world, "clara"), Some(did("clara")));
}

#[test]
fn nobody_rotates_to_a_key_that_somebody_has_or_had() {
    let mut world = world();
    world.enrol("cleo", PrincipalKind::Person, OWNER, &["clinician"]);
    world.rotate("cleo", "cleo", "cleo/2");
    world.stand(Kind::Revoked, "rosa", OWNER);
    world.leave(MEMBERS[2], 2, &[OWNER, OTHER]);
    for (what, new) in [
        ("its own", key("clara")),
        ("another's in force", key("cleo/2")),
        ("another's rotated", key("cleo")),
        ("a revoked one's", key("rosa")),
        ("an organisation's", key(OTHER)),
        ("a node's", node_key(OTHER)),
        ("a node's that is gone", node_key(MEMBERS[2])),
    ] {
        let body = Body::Rotated(medanchor_anchor::Rotated {
            who: did("clara"),
            key: new.did(),
        });
        let old = key("clara");
        let authors: &[&SigningKey] = match new.did() == old.did() {
            true => &[&old, &key("cleo/2")],
            false => &[&old, &new],
        };
        let applied = world.say(body, authors);
        assert_eq!(outcome(&applied), Outcome::Conflict, "{what}");
        assert_eq!(entry(&world, "clara").key, None, "{what}");
    }
}

#[test]
fn key_that_was_rotated_to_is_enrolled_for_nobody() {
    let mut world = world();
    world.rotate("clara", "clara", "clara/2");
    world.rotate("clara", "clara/2", "clara/3");
    for name in ["clara", "clara/2", "clara/3"] {
        let again = enrolled(name, PrincipalKind::Person, OTHER, &[]);
        assert_eq!(
            say(&mut world, again, &[OTHER]),
            Outcome::Conflict,
            "{name}"
        );
        let mut member = joining("hospital-d", 3);
        member.node = did(name);
        let body = Body::MemberAdded(Box::new(member));
        let joined = say(&mut world, body, &["hospital-d", OWNER, OTHER]);
        assert_eq!(joined, Outcome::Conflict, "{name}");
        if name != "clara/3" {
            continue;
        }
        let mut member = joining("hospital-d", 3);
        member.org = did(name);
        let body = Body::MemberAdded(Box::new(member));
        let joined = say(&mut world, body, &[name, OWNER, OTHER]);
        assert_ne!(joined, Outcome::Ok);
    }
}

#[test]
fn organisations_and_nodes_do_not_rotate() {
    let mut world = world();
    world.enrol("vendor", PrincipalKind::Organisation, "vendor", &[]);
    for who in [OWNER, "vendor"] {
        let body = rotated(who, "next");
        assert_eq!(say(&mut world, body, &[who, "next"]), Outcome::Forbidden);
    }
    let body = Body::Rotated(medanchor_anchor::Rotated {
        who: node_key(OWNER).did(),
        key: did("next"),
    });
    let applied = world.say(body, &[&node_key(OWNER), &key("next")]);
    assert_eq!(outcome(&applied), Outcome::Forbidden);
    let nobody = rotated("nobody", "next");
    assert_eq!(
        say(&mut world, nobody, &["clara", "next"]),
        Outcome::Unknown
    );
}

#[test]
fn who_may_not_act_does_not_rotate() {
    let mut world = world();
    let rotate = |world: &mut World| {
        let body = rotated("clara", "clara/2");
        say(world, body, &["clara", "clara/2"])
    };
    world.stand(Kind::Suspended, "clara", OWNER);
    assert_eq!(rotate(&mut world), Outcome::Inactive);
    world.stand(Kind::Reinstated, "clara", OWNER);
    assert_eq!(rotate(&mut world), Outcome::Ok);
    world.stand(Kind::Revoked, "clara", OWNER);
    let again = rotated("clara", "clara/3");
    let refused = say(&mut world, again, &["clara/2", "clara/3"]);
    assert_eq!(refused, Outcome::Inactive);

    world.enrol("vendor", PrincipalKind::Organisation, "vendor", &[]);
    world.enrol("service", PrincipalKind::Service, "vendor", &["vendor"]);
    world.accept(standing(Kind::Suspended, "vendor"), &[&key(OWNER)]);
    let body = rotated("service", "service/2");
    let refused = say(&mut world, body, &["service", "service/2"]);
    assert_eq!(refused, Outcome::Inactive);
}

#[test]
fn standing_and_roles_go_by_who_it_is() {
    let mut world = world();
    world.rotate("clara", "clara", "clara/2");
    let by_key = standing(Kind::Suspended, "clara/2");
    assert_eq!(say(&mut world, by_key, &[OWNER]), Outcome::Unknown);
    world.stand(Kind::Suspended, "clara", OWNER);
    assert_eq!(entry(&world, "clara").key, Some(did("clara/2")));
    let emergency = Body::BreakGlass(break_glass("clara", "patient-1"));
    assert_eq!(say(&mut world, emergency, &["clara/2"]), Outcome::Inactive);
}

/// Everything that a person, a device or a reviewer may say: with the key of before it is refused, with the one in force it is
/// taken.
#[test]
fn key_that_was_rotated_signs_nothing() {
    let mut world = world();
    let emergency = world.accept(
        Body::BreakGlass(break_glass("clara", "patient-1")),
        &[&key("clara")],
    );
    world.accept(
        Body::Consented(consented("study", "patient-1", OTHER, "HRESCH")),
        &[&key("paula")],
    );
    for who in ["clara", "rosa", "paula", "holter"] {
        world.rotate(who, who, &format!("{who}/2"));
    }
    let head = AccountHead::default();
    let reviewed = BreakGlassReviewed {
        who: did("clara"),
        custody: custody_id("patient-1"),
        emergency: emergency.index,
        finding: Finding::Justified,
    };
    let withdrawn = medanchor_anchor::Withdrawn {
        consent: consent_id("study"),
        custody: custody_id("patient-1"),
    };
    let mut next = custody("patient-1", OWNER, CustodyKind::Person);
    next.controller = Some(did("clara"));
    let bodies = [
        ("paula", Body::Withdrawn(withdrawn)),
        (
            "paula",
            Body::Consented(consented("care", "patient-1", OTHER, "TREAT")),
        ),
        (
            "paula",
            Body::Account(Account::new(
                AccountOf::Custody(custody_id("patient-1")),
                head,
            )),
        ),
        (
            "clara",
            Body::Account(Account::new(AccountOf::Principal(did("clara")), head)),
        ),
        ("rosa", Body::BreakGlassReviewed(reviewed)),
        ("clara", Body::BreakGlass(break_glass("clara", "patient-1"))),
    ];
    for (who, body) in bodies {
        let kind = body.kind();
        let refused = world.say(body.clone(), &[&key(who)]);
        assert_eq!(rejected(&refused), "unknown-author", "{kind} by {who}");
        let new = format!("{who}/2");
        // Beside the key in force it adds nothing, and is not let through.
        let both = world.say(body.clone(), &[&key(who), &key(&new)]);
        assert_eq!(rejected(&both), "unknown-author", "{kind} by {who}");
        let taken = world.say(body, &[&key(&new)]);
        assert_eq!(outcome(&taken), Outcome::Ok, "{kind} by {who}");
    }
    // A controller that has spoken for itself is replaced with its consent alone: by its key in force.
    let body = Body::Custody(next);
    let by_old = world.say(body.clone(), &[&key(OWNER), &key("paula")]);
    assert_eq!(rejected(&by_old), "unknown-author");
    assert_eq!(say(&mut world, body, &[OWNER, "paula/2"]), Outcome::Ok);
}

#[test]
fn stream_goes_on_over_a_rotation() {
    let mut world = world();
    world.anchor("one", "holter", "patient-1", Class::Ecg);
    world.rotate("holter", "holter", "holter/2");
    world.anchor("two", "holter/2", "patient-1", Class::Ecg);
    world.rotate("holter", "holter/2", "holter/3");
    let last = world.anchor("three", "holter/3", "patient-1", Class::Ecg);
    let state = world.state();
    let head = state.stream(&did("holter"), &stream_id("main")).unwrap();
    let head = head.unwrap();
    assert_eq!((head.seq, head.record, head.gaps_and_forks), (2, last, 0));
    for name in ["holter/2", "holter/3"] {
        let other = state.stream(&did(name), &stream_id("main")).unwrap();
        assert_eq!(other, None, "{name}");
    }
    for (name, sealer) in [("one", "holter"), ("two", "holter/2")] {
        let record = state.record(&cid(name)).unwrap().unwrap();
        assert_eq!(record.anchored.device, did(sealer));
        assert_eq!(state.device_of(&record.anchored).unwrap(), did("holter"));
    }
}

#[test]
fn record_sealed_before_a_rotation_is_anchored_after_it_with_the_new_keys_counter_signature() {
    let mut world = world();
    let late = ecg(&world, "late", "holter");
    world.rotate("holter", "holter", "holter/2");
    let body = || Body::Anchored(late.clone());
    assert_eq!(say(&mut world, body(), &["holter"]), Outcome::Inactive);
    // Whoever has the old key is not vouched for by the organisation or another device.
    world.enrol("pump", PrincipalKind::Device, OWNER, &["device"]);
    for other in [OWNER, "pump"] {
        let refused = say(&mut world, body(), &["holter", other]);
        assert_eq!(refused, Outcome::Inactive, "{other}");
    }
    // What the new key says alone does not show that the device sealed it.
    assert_eq!(say(&mut world, body(), &["holter/2"]), Outcome::Forbidden);
    assert_eq!(
        say(&mut world, body(), &["holter", "holter/2"]),
        Outcome::Ok
    );
    world.anchor("next", "holter/2", "patient-1", Class::Ecg);
    let head = world.state().stream(&did("holter"), &stream_id("main"));
    let head = head.unwrap().unwrap();
    assert_eq!((head.seq, head.gaps_and_forks), (1, 0));
}

#[test]
fn late_record_of_a_device_that_rotated_and_is_revoked_is_vouched_for_by_its_organisation() {
    let mut world = world();
    let late = ecg(&world, "late", "holter");
    world.rotate("holter", "holter", "holter/2");
    world.stand(Kind::Revoked, "holter", OWNER);
    let body = || Body::Anchored(late.clone());
    let both = say(&mut world, body(), &["holter", "holter/2"]);
    assert_eq!(both, Outcome::Inactive);
    assert_eq!(say(&mut world, body(), &["holter", OWNER]), Outcome::Ok);
}

#[test]
fn stranger_leaves_no_leaf_by_a_rotation_or_a_record() {
    let mut world = world();
    let size = world.state().tree_size().unwrap();
    let alone = world.say(rotated("clara", "stranger"), &[&key("stranger")]);
    assert_eq!(rejected(&alone), "unknown-author");
    let mut record = ecg(&world, "ecg", "holter");
    record.device = did("stranger");
    let applied = world.say(Body::Anchored(record), &[&key("stranger")]);
    assert_eq!(rejected(&applied), "unknown-author");
    assert_eq!(world.state().tree_size().unwrap(), size);
}

#[test]
fn release_to_who_rotates_meanwhile_is_stale() {
    let mut world = world();
    let record = world.anchor("ecg", "holter", "patient-1", Class::Ecg);
    let request = world.request("clara", "clinician", "TREAT", &[record]);
    let under_way = Body::Released(Box::new(world.released(&request)));
    world.rotate("clara", "clara", "clara/2");
    let applied = world.say(under_way, &[&node_key(OWNER)]);
    assert_eq!(outcome(&applied), Outcome::Stale);
    // What a broker decides now on the key of before has no effect either.
    let afresh = Body::Released(Box::new(world.released(&request)));
    let applied = world.say(afresh, &[&node_key(OWNER)]);
    assert_eq!(outcome(&applied), Outcome::Stale);

    let request = world.request("clara/2", "clinician", "TREAT", &[record]);
    let body = Body::Released(Box::new(world.released(&request)));
    let taken = world.say(body, &[&node_key(OWNER)]);
    assert_eq!(outcome(&taken), Outcome::Ok);
}

#[test]
fn release_of_a_record_whose_device_rotates_meanwhile_is_stale() {
    let mut world = world();
    let record = world.anchor("ecg", "holter", "patient-1", Class::Ecg);
    let request = world.request("clara", "clinician", "TREAT", &[record]);
    let under_way = Body::Released(Box::new(world.released(&request)));
    world.rotate("holter", "holter", "holter/2");
    let applied = world.say(under_way, &[&node_key(OWNER)]);
    assert_eq!(outcome(&applied), Outcome::Stale);
}

#[test]
fn account_has_what_was_released_to_every_key() {
    let mut world = world();
    let record = world.anchor("ecg", "holter", "patient-1", Class::Ecg);
    let mut released = Vec::new();
    for key_name in ["clara", "clara/2", "clara/3"] {
        let request = world.request(key_name, "clinician", "TREAT", &[record]);
        let body = Body::Released(Box::new(world.released(&request)));
        released.push(world.accept(body, &[&node_key(OWNER)]).index);
        let next = match key_name {
            "clara" => "clara/2",
            "clara/2" => "clara/3",
            _ => continue,
        };
        world.rotate("clara", key_name, next);
    }
    let state = world.state();
    for of in ["clara", OWNER] {
        let of = AccountOf::Principal(did(of));
        assert_eq!(state.disclosures(&of, 0, 10).unwrap(), released);
    }
    for of in ["clara/2", "clara/3"] {
        let account = state.account(&AccountOf::Principal(did(of))).unwrap();
        assert_eq!(account, AccountHead::default());
    }
}

#[test]
fn selection_of_a_stream_has_what_every_key_sealed() {
    let mut world = world();
    let one = world.anchor("one", "holter", "patient-1", Class::Ecg);
    world.rotate("holter", "holter", "holter/2");
    let two = world.anchor("two", "holter/2", "patient-1", Class::Ecg);
    world.enrol("pump", PrincipalKind::Device, OWNER, &["device"]);
    world.anchor("other", "pump", "patient-1", Class::Ecg);
    let mut selection = everything(&[custody_id("patient-1")]);
    selection.stream = Some(StreamName {
        device: did("holter"),
        stream: stream_id("main"),
    });
    let request = world.request_all("clara", "clinician", "TREAT", selection);
    let list = world.list(&request, &[custody_id("patient-1")]);
    let listed: Vec<_> = list.rows().map(|row| row.record).collect();
    assert_eq!(listed, [one, two]);
    let body = Body::Released(Box::new(world.released_as(&request, list)));
    world.accept(body, &[&node_key(OWNER)]);
}

#[test]
fn holder_of_a_custody_key_is_known_by_the_key_in_force_or_as_the_log_has_it() {
    let mut world = world();
    world.enrol("olga", PrincipalKind::Person, OWNER, &["custodian"]);
    let held_by = |name: &str, custody: &str| {
        let mut body = medanchor_anchor::testing::custody(custody, OWNER, CustodyKind::Person);
        let under = epoch_key(&did("olga"));
        let held = Attestation::sign(&key(name), body.custody, 0, &body.key, under);
        body.held_by[1] = held;
        body
    };
    let recorded = held_by("olga", "first");
    world.accept(Body::Custody(recorded.clone()), &[&key(OWNER)]);
    world.rotate("olga", "olga", "olga/2");
    // The same key of which the log has it already gets another writer.
    let mut changed = recorded;
    changed.writers = vec![did(OTHER)];
    world.accept(Body::Custody(changed), &[&key(OWNER)]);
    for (name, expected) in [("olga", Outcome::Forbidden), ("olga/2", Outcome::Ok)] {
        let body = Body::Custody(held_by(name, "second"));
        assert_eq!(say(&mut world, body, &[OWNER]), expected, "{name}");
    }
}

#[test]
fn roles_are_changed_by_who_enrolled_and_by_no_other() {
    let mut world = world();
    world.enrol("vendor", PrincipalKind::Organisation, "vendor", &[]);
    let body = || roles_changed("clara", &["clinician", "researcher"]);
    for other in ["clara", OTHER, "vendor"] {
        assert_eq!(say(&mut world, body(), &[other]), Outcome::Forbidden);
    }
    let index = world.accept(body(), &[&key(OWNER)]).index;
    let after = entry(&world, "clara");
    assert_eq!(after.roles, ["clinician", "researcher"]);
    assert_eq!(after.since, index);
    assert_eq!(say(&mut world, body(), &[OWNER]), Outcome::Conflict);
    // An organisation's by any member, and a member's own by nobody: they follow from its membership.
    let of_vendor = roles_changed("vendor", &["vendor"]);
    assert_eq!(say(&mut world, of_vendor, &[OTHER]), Outcome::Ok);
    let of_member = roles_changed(OTHER, &[]);
    assert_eq!(say(&mut world, of_member, &[OWNER]), Outcome::Forbidden);
    let unknown = roles_changed("nobody", &[]);
    assert_eq!(say(&mut world, unknown, &[OWNER]), Outcome::Unknown);
    for roles in [&["b", "a"][..], &["Clinician"], &[""]] {
        let applied = world.say(roles_changed("clara", roles), &[&key(OWNER)]);
        assert_eq!(rejected(&applied), "malformed");
    }
    world.stand(Kind::Suspended, "clara", OWNER);
    let none = || roles_changed("clara", &[]);
    assert_eq!(say(&mut world, none(), &[OWNER]), Outcome::Ok);
    assert!(!entry(&world, "clara").is_active(), "it stays suspended");
    world.stand(Kind::Revoked, "clara", OWNER);
    assert_eq!(say(&mut world, body(), &[OWNER]), Outcome::Conflict);
}

#[test]
fn release_to_who_is_given_other_roles_meanwhile_is_stale() {
    let mut world = world();
    let record = world.anchor("ecg", "holter", "patient-1", Class::Ecg);
    let request = world.request("clara", "clinician", "TREAT", &[record]);
    let under_way = Body::Released(Box::new(world.released(&request)));
    world.accept(roles_changed("clara", &["nurse"]), &[&key(OWNER)]);
    let applied = world.say(under_way, &[&node_key(OWNER)]);
    assert_eq!(outcome(&applied), Outcome::Stale);
}

#[test]
fn emergency_that_is_not_reviewed_outlasts_a_rotation_and_other_roles() {
    let mut world = world();
    let begun = Body::BreakGlass(break_glass("clara", "patient-1"));
    world.accept(begun, &[&key("clara")]);
    let before = entry(&world, "clara").emergencies;
    world.rotate("clara", "clara", "clara/2");
    for roles in [&[][..], &["clinician"]] {
        world.accept(roles_changed("clara", roles), &[&key(OWNER)]);
    }
    assert_eq!(entry(&world, "clara").emergencies, before);
    let again = Body::BreakGlass(break_glass("clara", "patient-1"));
    assert_eq!(say(&mut world, again, &["clara/2"]), Outcome::Conflict);
}

const KEYS: [&str; 6] = ["clara", "paula", "key-1", "key-2", "key-3", "key-4"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is said, a key is one principal's for ever, and each has one key in force: as a map says it.
    #[test]
    fn keys_are_as_in_a_map(steps in vec((0..2_usize, 0..6_usize, 0..6_usize), 0..16)) {
        let mut world = world();
        let mut owners = BTreeMap::from([("clara", "clara"), ("paula", "paula")]);
        let mut in_force = owners.clone();
        for (who, from, to) in steps {
            let (who, from, to) = (["clara", "paula"][who], KEYS[from], KEYS[to]);
            if from == to {
                continue;
            }
            let applied = world.say(rotated(who, to), &[&key(from), &key(to)]);
            let takes_effect = in_force[who] == from && !owners.contains_key(to);
            let is_ok = matches!(&applied, medanchor_anchor::Applied::Leaf(appended)
                if appended.leaf.outcome == Outcome::Ok);
            prop_assert_eq!(is_ok, takes_effect);
            if is_ok {
                owners.insert(to, who);
                in_force.insert(who, to);
            }
        }
        let state = world.state();
        for name in KEYS {
            let known = state.identity(&did(name)).unwrap().map(|(who, _)| who);
            prop_assert_eq!(known, owners.get(name).map(|who| did(who)));
            let signs = in_force.iter().find(|(_, key)| **key == name);
            let signer = state.signer(&did(name)).unwrap().map(|(who, _)| who);
            prop_assert_eq!(signer, signs.map(|(who, _)| did(who)));
        }
        let mut replica = MemoryTables::default();
        for batch in &world.batches {
            Log::apply(&mut replica, batch).unwrap();
        }
        prop_assert_eq!(State::new(&replica).root().unwrap(), state.root().unwrap());
        prop_assert_eq!(&replica, &world.tables);
    }
}
