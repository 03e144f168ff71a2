//! What was decided is decided again, from the log alone.
#![expect(clippy::unwrap_used, reason = "what goes wrong here is a failed test")]

use medanchor_anchor::{
    Appended, Attestation, Body, BreakGlassReviewed, Class, CustodyKind, EpochKeyChanged, Finding,
    Kind, LeafIndex, Placement, PlacementRule, PrincipalKind, Refused, ReleaseList, Released,
    SignedStatement,
    testing::{
        BEGINNING, MEMBERS, World, break_glass, break_glass_rule, consented, custody, custody_id,
        did, epoch_key, everything, key, node_key, roles_changed, watching,
    },
};
use medanchor_dag::{Cid, CustodyId, Hash, SigningKey};
use medanchor_policy::{Agreement, Policies, PolicySets, Replay, Replayed, Verdict, decide};

const HOSPITAL: &str = MEMBERS[0];
const INSTITUTE: &str = MEMBERS[1];

/// A patient's ECG at a hospital, and a researcher elsewhere.
fn clinic() -> (World, Cid) {
    let mut world = World::with_policy(Policies::default_set().unwrap().cid());
    let person = PrincipalKind::Person;
    world.enrol("holter", PrincipalKind::Device, HOSPITAL, &["device"]);
    world.enrol("patient", person, HOSPITAL, &["patient"]);
    world.enrol("clara", person, HOSPITAL, &["clinician"]);
    world.enrol("rita", person, INSTITUTE, &["researcher"]);
    let mut own = custody("patient-1", HOSPITAL, CustodyKind::Person);
    own.controller = Some(did("patient"));
    world.accept(Body::Custody(own), &[&key(HOSPITAL)]);
    let ecg = world.anchor("ecg-1", "holter", "patient-1", Class::Ecg);
    world.anchor("ecg-2", "holter", "patient-1", Class::Ecg);
    (world, ecg)
}

fn consent(world: &mut World) -> Appended {
    let study = consented("study", "patient-1", INSTITUTE, "HRESCH");
    world.accept(Body::Consented(study), &[&key(HOSPITAL)])
}

/// What a broker says on the state as it is now.
fn decided(world: &World, request: &SignedStatement) -> Body {
    decided_of(world, request, &[])
}

/// The same on a request that selects what is under these custody keys.
fn decided_of(world: &World, request: &SignedStatement, cohort: &[CustodyId]) -> Body {
    let (state, sets) = (world.state(), PolicySets::default());
    let decision = decide(&state, &sets, request, cohort, world.now).unwrap();
    let (basis, decided_at) = (decision.basis, world.now);
    match decision.verdict {
        Verdict::Permit(permit) => {
            let wraps = || std::iter::repeat(Hash::of(b"wrap"));
            let parts = permit.parts.iter().map(|part| part.listed(wraps()));
            let list = ReleaseList {
                parts: parts.collect(),
            };
            Body::Released(Box::new(Released {
                valid_until: permit.until(),
                policies: permit.policies(),
                basis,
                decided_at,
                ..world.released_as(request, list)
            }))
        }
        Verdict::Deny { code, .. } => Body::Refused(Box::new(Refused {
            code: code.to_string(),
            request: request.clone(),
            basis,
            decided_at,
        })),
    }
}

fn record(world: &mut World, body: Body) -> LeafIndex {
    world.accept(body, &[&node_key(HOSPITAL)]).index
}

/// Replays the decision of a leaf, without the openings of some.
fn replay_without(world: &World, index: LeafIndex, redacted: &[LeafIndex]) -> Replayed {
    let state = world.state();
    let signed = state.opening(index).unwrap().unwrap().0.signed;
    let list = state.release_list(index).unwrap();
    let mut replay = Replay::of(&signed, list).unwrap();
    for index in 0..index {
        let leaf = state.leaf(index).unwrap().unwrap();
        let opening = state.opening(index).unwrap();
        let opening = opening.filter(|_| !redacted.contains(&index));
        match state.erased_with(index).unwrap() {
            Some(custody) => replay.take_erased(index, &leaf, custody),
            None => replay.take(index, &leaf, opening.as_ref()).unwrap(),
        }
    }
    replay.finish().unwrap()
}

fn replay(world: &World, index: LeafIndex) -> Replayed {
    replay_without(world, index, &[])
}

#[test]
fn releases_and_refusals_come_out_the_same_whatever_followed() {
    let (mut world, ecg) = clinic();
    consent(&mut world);
    let mut leaves = Vec::new();
    for (who, role, purpose) in [
        ("rita", "researcher", "HRESCH"),
        ("rita", "researcher", "HMARKT"),
        ("rita", "clinician", "TREAT"),
        ("clara", "clinician", "TREAT"),
        ("clara", "clinician", "BTG"),
        ("patient", "patient", "PATRQT"),
    ] {
        let request = world.request(who, role, purpose, &[ecg]);
        let body = decided(&world, &request);
        leaves.push(record(&mut world, body));
    }
    world.withdraw("study", "patient-1");
    world.stand(Kind::Revoked, "clara", HOSPITAL);
    world.set_policy(b"no policy set");
    let request = world.request("patient", "patient", "PATRQT", &[ecg]);
    let body = decided(&world, &request);
    leaves.push(record(&mut world, body));
    assert_come_out_the_same(&world, &leaves);
}

fn assert_come_out_the_same(world: &World, leaves: &[LeafIndex]) {
    for leaf in leaves {
        let replayed = replay(world, *leaf);
        assert_eq!(
            replayed.agrees,
            Agreement::Same,
            "leaf {leaf}: {replayed:?}"
        );
        assert!(replayed.missing.is_empty());
    }
}

/// What was decided for one key is decided the same when it was rotated since, and for the next key, too.
#[test]
fn decisions_before_and_after_a_rotation_come_out_the_same() {
    let (mut world, ecg) = clinic();
    consent(&mut world);
    let mut leaves = Vec::new();
    let mut ask = |world: &mut World, who: &str| {
        for purpose in ["HRESCH", "HMARKT"] {
            let request = world.request(who, "researcher", purpose, &[ecg]);
            let body = decided(world, &request);
            leaves.push(record(world, body));
        }
    };
    ask(&mut world, "rita");
    world.rotate("rita", "rita", "rita/2");
    ask(&mut world, "rita/2");
    // Nobody has that key now: a broker says so.
    ask(&mut world, "rita");
    let changed = roles_changed("rita", &["clinician"]);
    world.accept(changed, &[&key(INSTITUTE)]);
    ask(&mut world, "rita/2");
    assert_come_out_the_same(&world, &leaves);
}

/// A broker decides on the log as it is, and others go on writing.
#[test]
fn refusal_that_was_overtaken_comes_out_the_same() {
    let (mut world, ecg) = clinic();
    let given = consented("care", "patient-1", INSTITUTE, "TREAT");
    world.accept(Body::Consented(given), &[&key(HOSPITAL)]);
    let request = world.request("rita", "researcher", "HRESCH", &[ecg]);
    let body = decided(&world, &request);
    consent(&mut world);
    let leaf = record(&mut world, body);
    let replayed = replay(&world, leaf);
    assert_eq!(replayed.agrees, Agreement::Same, "{replayed:?}");
    // The same words on the newer log would be a lie.
    let request = world.request("rita", "researcher", "HRESCH", &[ecg]);
    let Body::Released(permitted) = decided(&world, &request) else {
        unreachable!()
    };
    let lie = Refused {
        code: "purpose-not-covered".to_owned(),
        basis: world.basis(&request),
        request,
        decided_at: permitted.decided_at,
    };
    let leaf = record(&mut world, Body::Refused(Box::new(lie)));
    assert_eq!(replay(&world, leaf).agrees, Agreement::Differs);
}

#[test]
fn decisions_that_the_log_does_not_give_are_found() {
    let (mut world, ecg) = clinic();
    // Released without consent: the log takes it, for it never runs the policies.
    let request = world.request("clara", "clinician", "HRESCH", &[ecg]);
    let Body::Refused(refused) = decided(&world, &request) else {
        unreachable!()
    };
    let released = Released {
        policies: vec!["clinician-treats".to_owned()],
        valid_until: request.statement.not_after_unix_ms.unwrap(),
        decided_at: refused.decided_at,
        ..world.released(&request)
    };
    let wrongly = record(&mut world, Body::Released(Box::new(released)));
    let replayed = replay(&world, wrongly);
    assert_eq!(replayed.agrees, Agreement::Differs);
    assert!(matches!(replayed.decision.verdict, Verdict::Deny { .. }));

    // Any node may say that it is not permitted; that does not make it true.
    let request = world.request("clara", "clinician", "TREAT", &[ecg]);
    let requester = *request.author().unwrap();
    let untrue = Refused {
        basis: world.state().requester_basis(&requester).unwrap().unwrap(),
        code: "not-permitted".to_owned(),
        request,
        decided_at: world.now,
    };
    let untrue = world.accept(Body::Refused(Box::new(untrue)), &[&node_key(INSTITUTE)]);
    assert_eq!(replay(&world, untrue.index).agrees, Agreement::Differs);

    // Another policy's name, and a longer grant.
    for change in [
        |body: &mut Released| body.policies = vec!["patient-sees-own-data".to_owned()],
        |body: &mut Released| body.valid_until += 1,
    ] {
        let request = world.request("clara", "clinician", "TREAT", &[ecg]);
        let Body::Released(mut body) = decided(&world, &request) else {
            unreachable!()
        };
        change(&mut body);
        let changed = record(&mut world, Body::Released(body));
        assert_eq!(replay(&world, changed).agrees, Agreement::Differs);
    }
}

#[test]
fn refusal_for_bytes_is_the_brokers_own() {
    let (mut world, ecg) = clinic();
    let request = world.request("clara", "clinician", "TREAT", &[ecg]);
    let Body::Released(permitted) = decided(&world, &request) else {
        unreachable!()
    };
    let refused = Refused {
        code: "wrap-unusable".to_owned(),
        request,
        basis: permitted.basis,
        decided_at: permitted.decided_at,
    };
    let leaf = record(&mut world, Body::Refused(Box::new(refused)));
    assert_eq!(replay(&world, leaf).agrees, Agreement::RefusedForBytes);
}

#[test]
fn openings_that_are_gone_are_named() {
    let (mut world, ecg) = clinic();
    let given = consent(&mut world).index;
    let request = world.request("rita", "researcher", "HRESCH", &[ecg]);
    let body = decided(&world, &request);
    let leaf = record(&mut world, body);
    let replayed = replay_without(&world, leaf, &[given]);
    assert_eq!(replayed.agrees, Agreement::Differs);
    assert_eq!(replayed.missing, [given]);
    // What no decision reads is not missed.
    let other = world
        .state()
        .record(&medanchor_anchor::testing::cid("ecg-2"));
    let other = other.unwrap().unwrap().index;
    let replayed = replay_without(&world, leaf, &[other]);
    assert_eq!(replayed.agrees, Agreement::Same);
    assert!(replayed.missing.is_empty());
}

/// Erases a patient's custody key, and sweeps all that was of it.
fn erase(world: &mut World, patient: &str) {
    let state = world.state();
    let entry = state.custody(&custody_id(patient)).unwrap().unwrap();
    let erased = state.to_erase(&entry).unwrap();
    world.accept(Body::Erased(Box::new(erased)), &[&key(HOSPITAL)]);
    let is_swept = |world: &World| {
        let entry = world.state().erasure(&custody_id(patient)).unwrap();
        entry.unwrap().is_swept
    };
    while !is_swept(world) {
        world.apply(Vec::new());
    }
}

/// A wrong release of the first patient's record, and a refusal of the second's that is right.
fn wrong_and_right() -> (World, LeafIndex, LeafIndex) {
    let (mut world, ecg) = clinic();
    world.custody("patient-2", HOSPITAL, CustodyKind::Person);
    let other = world.anchor("ecg-3", "holter", "patient-2", Class::Ecg);
    world.consent("study-2", "patient-2", INSTITUTE, "HRESCH");
    world.withdraw("study-2", "patient-2");
    let request = world.request("clara", "clinician", "HRESCH", &[ecg]);
    let released = world.released(&request);
    let wrong = record(&mut world, Body::Released(Box::new(released)));
    let request = world.request("rita", "researcher", "HRESCH", &[other]);
    let body = decided(&world, &request);
    assert_eq!(body.kind(), Kind::Refused);
    let right = record(&mut world, body);
    (world, wrong, right)
}

/// One erasure must not keep the wrong decisions on everybody else's records from being found.
#[test]
fn erasure_of_somebody_else_hides_no_wrong_decision() {
    let (mut world, wrong, _) = wrong_and_right();
    erase(&mut world, "patient-2");
    let replayed = replay(&world, wrong);
    assert_eq!(replayed.agrees, Agreement::Differs);
    assert_eq!(replayed.missing, [0; 0]);
    // Custody key, consent, withdrawal.
    assert_eq!(replayed.passed_over.len(), 3, "{replayed:?}");
    // A decision that comes after the tombstone as well.
    let ecg = medanchor_anchor::testing::cid("ecg-1");
    let request = world.request("clara", "clinician", "TREAT", &[ecg]);
    let body = decided(&world, &request);
    let later = record(&mut world, body);
    let replayed = replay(&world, later);
    assert_eq!(replayed.agrees, Agreement::Same);
    assert_eq!(replayed.missing, [0; 0]);
    assert_eq!(replayed.passed_over.len(), 4, "{replayed:?}");
}

#[test]
fn what_was_erased_of_the_decisions_own_records_is_missing() {
    let (mut world, _, right) = wrong_and_right();
    let state = world.state();
    let signed = state.opening(right).unwrap().unwrap().0.signed;
    assert_eq!(replay(&world, right).missing, [0; 0]);
    erase(&mut world, "patient-2");
    let state = world.state();
    let mut replay = Replay::of(&signed, None).unwrap();
    for index in 0..right {
        let leaf = state.leaf(index).unwrap().unwrap();
        let opening = state.opening(index).unwrap();
        match state.erased_with(index).unwrap() {
            Some(custody) => replay.take_erased(index, &leaf, custody),
            None => replay.take(index, &leaf, opening.as_ref()).unwrap(),
        }
    }
    let replayed = replay.finish().unwrap();
    // Custody key, record, consent, withdrawal.
    assert_eq!(replayed.missing.len(), 4, "{replayed:?}");
    assert_eq!(replayed.passed_over, [0; 0]);
}

/// Whoever shows the log does not get an enrolment passed over by saying that it was erased.
#[test]
fn leaf_that_is_of_everybody_is_missing_whatever_is_said_of_it() {
    let (mut world, ecg) = clinic();
    let request = world.request("clara", "clinician", "TREAT", &[ecg]);
    let body = decided(&world, &request);
    let leaf = record(&mut world, body);
    let state = world.state();
    let enrolled_at = state.principal(&did("clara")).unwrap().unwrap().enrolled_at;
    let signed = state.opening(leaf).unwrap().unwrap().0.signed;
    let mut replay = Replay::of(&signed, state.release_list(leaf).unwrap()).unwrap();
    for index in 0..leaf {
        let leaf = state.leaf(index).unwrap().unwrap();
        let opening = state.opening(index).unwrap();
        match index == enrolled_at {
            true => replay.take_erased(index, &leaf, custody_id("patient-9")),
            false => replay.take(index, &leaf, opening.as_ref()).unwrap(),
        }
    }
    assert_eq!(replay.finish().unwrap().missing, [enrolled_at]);
}

/// A replay takes no epoch keys, and whoever holds a custody key may have gone over to another.
#[test]
fn decision_under_a_custody_key_of_a_later_epoch_key_comes_out_the_same() {
    let (mut world, _) = clinic();
    let node = node_key(HOSPITAL);
    let to = [7; 32];
    let changed = EpochKeyChanged {
        holder: node.did(),
        from: epoch_key(&node.did()).into(),
        to: to.into(),
    };
    world.accept(Body::EpochKey(changed), &[&node]);
    let mut own = custody("patient-2", HOSPITAL, CustodyKind::Person);
    own.held_by[0] = Attestation::sign(&node, own.custody, own.epoch, &own.key, to);
    world.accept(Body::Custody(own), &[&key(HOSPITAL)]);
    let ecg = world.anchor("ecg-3", "holter", "patient-2", Class::Ecg);
    let request = world.request("clara", "clinician", "TREAT", &[ecg]);
    let body = decided(&world, &request);
    assert_eq!(body.kind(), Kind::Released);
    let leaf = record(&mut world, body);
    assert_come_out_the_same(&world, &[leaf]);
}

#[test]
fn only_decisions_are_replayed() {
    let (mut world, ecg) = clinic();
    let request = world.request("clara", "clinician", "TREAT", &[ecg]);
    assert!(Replay::of(&request, None).is_none());
}

/// Rules that are judged by other rules: each must be there when the next is judged again.
#[test]
fn decision_after_the_members_changed_is_made_again_whole() {
    let (mut world, ecg) = clinic();
    let keys = MEMBERS.map(key);
    let all: Vec<&SigningKey> = keys.iter().collect();
    let joining = Body::WitnessAdded(Box::new(watching("witness.example/w", 4)));
    world.accept(joining, &all);
    let placement = Placement {
        nodes: Vec::new(),
        rules: vec![PlacementRule {
            classes: Vec::new(),
            copies: 1,
            only: Vec::new(),
            at_home: false,
        }],
        quotas: Vec::new(),
    };
    world.accept(Body::Placed(Box::new(placement)), &all);
    let leaving = Body::MemberRemoved(world.leaving(MEMBERS[2], 3));
    world.accept(leaving, &all[..2]);
    let request = world.request("clara", "clinician", "TREAT", &[ecg]);
    let body = decided(&world, &request);
    let leaf = record(&mut world, body);
    let replayed = replay(&world, leaf);
    assert_eq!(replayed.missing, [0; 0]);
    assert_eq!(replayed.agrees, Agreement::Same);
}

/// A node of an earlier version denies what it cannot decide. That is no lie.
#[test]
fn refusal_of_a_broker_that_cannot_read_the_policies_is_no_decision() {
    let (mut world, ecg) = clinic();
    let request = world.request("clara", "clinician", "TREAT", &[ecg]);
    let basis = world
        .state()
        .requester_basis(&did("clara"))
        .unwrap()
        .unwrap();
    let refused = |code: &str| {
        Body::Refused(Box::new(Refused {
            request: request.clone(),
            code: code.to_owned(),
            basis: basis.clone(),
            decided_at: BEGINNING,
        }))
    };
    for (code, expected) in [
        ("policy-mismatch", Agreement::NotDecided),
        ("not-permitted", Agreement::Differs),
        ("no-such-code", Agreement::Differs),
    ] {
        let leaf = record(&mut world, refused(code));
        assert_eq!(replay(&world, leaf).agrees, expected, "{code}");
    }
}

/// The emergencies of whoever asks are read, also those for whom nothing is asked here.
#[test]
fn release_in_an_emergency_comes_out_the_same_whatever_followed() {
    let (mut world, ecg) = clinic();
    world.custody("patient-2", HOSPITAL, CustodyKind::Person);
    world.enrol("rosa", PrincipalKind::Person, INSTITUTE, &["officer"]);
    world.enrol("cleo", PrincipalKind::Person, INSTITUTE, &["clinician"]);
    let rule = break_glass_rule(INSTITUTE, "rosa");
    world.accept(Body::BreakGlassRule(rule), &[&key(INSTITUTE)]);
    for patient in ["patient-2", "patient-1"] {
        let body = Body::BreakGlass(break_glass("cleo", patient));
        world.accept(body, &[&key("cleo")]);
    }
    let request = world.request("cleo", "clinician", "BTG", &[ecg]);
    let body = decided(&world, &request);
    assert_eq!(body.kind(), Kind::Released);
    let leaf = record(&mut world, body);
    let since = {
        let entry = world.state().principal(&did("cleo")).unwrap().unwrap();
        entry.emergencies.last().unwrap().since
    };
    let reviewed = Body::BreakGlassReviewed(BreakGlassReviewed {
        who: did("cleo"),
        custody: custody_id("patient-1"),
        emergency: since,
        finding: Finding::Unjustified,
    });
    world.accept(reviewed, &[&key("rosa")]);
    let request = world.request("cleo", "clinician", "BTG", &[ecg]);
    let body = decided(&world, &request);
    assert_eq!(body.kind(), Kind::Refused);
    let refused = record(&mut world, body);
    let state = world.state();
    for index in [leaf, refused] {
        let replayed = replay(&world, index);
        assert_eq!(replayed.agrees, Agreement::Same, "{replayed:?}");
        assert_eq!(replayed.missing, [0; 0]);
        let signed = state.opening(index).unwrap().unwrap().0.signed;
        let list = state.release_list(index).unwrap();
        let replay = Replay::of(&signed, list).unwrap();
        let mut replay = replay.under(vec![custody_id("patient-1")]);
        for index in 0..index {
            let opening = state.opening(index).unwrap();
            let leaf = state.leaf(index).unwrap().unwrap();
            replay.take(index, &leaf, opening.as_ref()).unwrap();
        }
        let replayed = replay.finish().unwrap();
        assert_eq!(replayed.agrees, Agreement::Same, "{replayed:?}");
        assert_eq!(replayed.missing, [0; 0]);
    }
}

/// What was decided before something changed, and recorded after it.
#[test]
fn refusal_that_was_overtaken_is_found_on_what_it_rested_on() {
    let (mut world, ecg) = clinic();
    let request = world.request("rita", "researcher", "HRESCH", &[ecg]);
    let body = decided(&world, &request);
    consent(&mut world);
    let leaf = record(&mut world, body);
    let state = world.state();
    let signed = state.opening(leaf).unwrap().unwrap().0.signed;
    let sets = PolicySets::default();
    let on_state = Replay::of(&signed, None).unwrap();
    let on_state = on_state.on(&state, &sets).unwrap();
    assert_eq!(on_state, None);
    assert_eq!(replay(&world, leaf).agrees, Agreement::Same);
    let replay = Replay::of(&signed, None).unwrap();
    let mut replay = replay.under(vec![custody_id("patient-1")]);
    for index in 0..leaf {
        let opening = state.opening(index).unwrap();
        let leaf = state.leaf(index).unwrap().unwrap();
        replay.take(index, &leaf, opening.as_ref()).unwrap();
    }
    assert_eq!(replay.finish().unwrap().agrees, Agreement::Same);
}

/// A clinic with a second patient, whose records the researcher may have too.
fn cohort() -> (World, Vec<CustodyId>) {
    let (mut world, _) = clinic();
    consent(&mut world);
    world.custody("patient-2", HOSPITAL, CustodyKind::Person);
    world.anchor("ecg-3", "holter", "patient-2", Class::Ecg);
    world.consent("study-2", "patient-2", INSTITUTE, "HRESCH");
    world.custody("patient-3", HOSPITAL, CustodyKind::Person);
    world.anchor("ecg-4", "holter", "patient-3", Class::Ecg);
    let names = ["patient-1", "patient-2", "patient-3"];
    let mut cohort = names.map(custody_id).to_vec();
    cohort.sort_unstable();
    (world, cohort)
}

fn select(world: &mut World, who: &str, role: &str, cohort: &[CustodyId]) -> SignedStatement {
    world.request_all(who, role, "HRESCH", everything(cohort))
}

#[test]
fn release_of_a_selection_comes_out_the_same_whatever_was_left_out_and_whatever_followed() {
    let (mut world, cohort) = cohort();
    let request = select(&mut world, "rita", "researcher", &cohort);
    let all = decided_of(&world, &request, &cohort);
    let leaf = record(&mut world, all);
    let list = world.state().release_list(leaf).unwrap().unwrap();
    assert_eq!(list.rows().count(), 3, "patient-3 has consented to nothing");
    // A broker of one of the custody keys leaves the other to others.
    let request = select(&mut world, "rita", "researcher", &cohort);
    let Body::Released(part) = decided_of(&world, &request, &cohort) else {
        unreachable!()
    };
    let mut list = list;
    let own = list
        .parts
        .iter_mut()
        .find(|part| part.rows.len() == 2)
        .unwrap();
    (own.since, own.consent) = (0, None);
    own.rows.clear();
    let released = Released {
        list: world.released_as(&request, list).list,
        ..*part
    };
    let of_one = record(&mut world, Body::Released(Box::new(released)));
    world.withdraw("study-2", "patient-2");
    for leaf in [leaf, of_one] {
        let replayed = replay(&world, leaf);
        assert_eq!(replayed.agrees, Agreement::Same, "{replayed:?}");
        assert_eq!(replayed.missing, [0; 0]);
    }
}

#[test]
fn record_that_was_slipped_into_a_selection_is_found() {
    for (patient, slipped) in [("patient-3", "ecg-4"), ("patient-2", "firmware")] {
        let (mut world, cohort) = cohort();
        world.anchor("firmware", "holter", "patient-2", Class::Firmware);
        let mut only = consented("only-ecg", "patient-2", INSTITUTE, "HRESCH");
        only.provision.classes = vec![Class::Ecg];
        world.withdraw("study-2", "patient-2");
        world.accept(Body::Consented(only), &[&key(HOSPITAL)]);
        let request = select(&mut world, "rita", "researcher", &cohort);
        let Body::Released(part) = decided_of(&world, &request, &cohort) else {
            unreachable!()
        };
        // The log takes it: it is selected, and its broker says that it is permitted.
        let all = world.list(&request, &cohort);
        let record_of = medanchor_anchor::testing::cid(slipped);
        let mut list = all.clone();
        for part in &mut list.parts {
            let permitted = [
                medanchor_anchor::testing::cid("ecg-1"),
                medanchor_anchor::testing::cid("ecg-2"),
                medanchor_anchor::testing::cid("ecg-3"),
                record_of,
            ];
            part.rows.retain(|row| permitted.contains(&row.record));
            if part.rows.is_empty() {
                (part.since, part.consent) = (0, None);
            }
        }
        assert!(list.rows().any(|row| row.record == record_of), "{patient}");
        let released = Released {
            list: world.released_as(&request, list).list,
            ..*part
        };
        let leaf = record(&mut world, Body::Released(Box::new(released)));
        let replayed = replay(&world, leaf);
        assert_eq!(
            replayed.agrees,
            Agreement::Differs,
            "{slipped}: {replayed:?}"
        );
        assert!(matches!(replayed.decision.verdict, Verdict::Deny { .. }));
    }
}

/// What the log does not show cannot be decided again, and is not taken for something else.
#[test]
fn release_without_its_list_and_refusal_of_a_selection_are_not_replayed() {
    let (mut world, cohort) = cohort();
    let request = select(&mut world, "rita", "researcher", &cohort);
    let body = decided_of(&world, &request, &cohort);
    let leaf = record(&mut world, body);
    let signed = world.state().opening(leaf).unwrap().unwrap().0.signed;
    assert!(Replay::of(&signed, None).is_none());
    let mut other = world.state().release_list(leaf).unwrap().unwrap();
    other.parts[0].since += 1;
    assert!(Replay::of(&signed, Some(other)).is_none());
    let request = select(&mut world, "clara", "clinician", &cohort);
    let body = decided_of(&world, &request, &cohort);
    assert_eq!(body.kind(), Kind::Refused);
    let leaf = record(&mut world, body);
    let signed = world.state().opening(leaf).unwrap().unwrap().0.signed;
    assert!(Replay::of(&signed, None).is_none());
}
