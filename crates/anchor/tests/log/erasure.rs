use crate::{outcome, rejected};
use medanchor_anchor::{
    Account, AccountOf, Applied, Attestation, Body, Class, CustodyKind, Damage, Destroyed,
    Disclosed, Disclosure, EpochKeyChanged, Erased, ErasureEntry, Gone, Kind, LeafIndex, LegalHold,
    LegalHoldPlaced, Outcome, PrincipalKind, Receipt, SignedStatement, StatedAccount,
    StatedErasure, StatedErasureError, Strength, Table, TrustPolicy, View,
    testing::{
        MEMBERS, ORIGIN, World, attested, break_glass, break_glass_rule, cid, consent_id,
        consented, custody, custody_id, did, epoch_key, everything, founded, joining, key,
        node_key, with_broker,
    },
};
use medanchor_dag::{Cid, CustodyId, Did, Hash, SigningKey};
use serde_bytes::ByteArray;

const OWNER: &str = MEMBERS[0];
const OTHER: &str = MEMBERS[1];
const PATIENT: &str = "patient-1";

/// Two patients of the first member with two records each, and a researcher.
fn world() -> World {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, OWNER, &["device"]);
    world.enrol("rita", PrincipalKind::Person, OTHER, &["researcher"]);
    for patient in [PATIENT, "patient-2"] {
        world.custody(patient, OWNER, CustodyKind::Person);
        world.consent("study", patient, OTHER, "HRESCH");
        for number in 0..2 {
            world.anchor(&record(patient, number), "holter", patient, Class::Ecg);
        }
    }
    world
}

fn record(patient: &str, number: usize) -> String {
    format!("{patient}/{number}")
}

fn to_erase(world: &World, custody: &str) -> Erased {
    let entry = world.state().custody(&custody_id(custody)).unwrap();
    world.state().to_erase(&entry.unwrap()).unwrap()
}

fn say_erased(world: &mut World, body: Erased, by: &SigningKey) -> Applied {
    world.say(Body::Erased(Box::new(body)), &[by])
}

/// Erases the patient, and takes everything of theirs out of the state.
fn erase(world: &mut World) -> LeafIndex {
    let index = erase_of(world, PATIENT);
    sweep(world, index);
    index
}

fn erase_of(world: &mut World, custody: &str) -> LeafIndex {
    let erased = to_erase(world, custody);
    let leaf = world.accept(Body::Erased(Box::new(erased)), &[&key(OWNER)]);
    leaf.index
}

fn entry(world: &World) -> ErasureEntry {
    let entry = world.state().erasure(&custody_id(PATIENT)).unwrap();
    entry.unwrap()
}

/// Says the erasure again until it is done; how often that was.
fn sweep(world: &mut World, erasure: LeafIndex) -> usize {
    let opening = world.state().opening(erasure).unwrap().unwrap();
    let mut said = 0;
    while !entry(world).is_swept {
        let again = world.submit(opening.0.signed.clone());
        assert!(matches!(again, Applied::Leaf(leaf) if leaf.index == erasure));
        said += 1;
    }
    said
}

fn release(world: &mut World, names: &[Cid]) -> LeafIndex {
    let request = world.request("rita", "researcher", "HRESCH", names);
    let body = Body::Released(Box::new(world.released(&request)));
    world.accept(body, &[&node_key(OWNER)]).index
}

fn next_epoch_key(world: &mut World, holder: &SigningKey) -> Outcome {
    let to = *Hash::of(&epoch_key_now(world, holder)).as_bytes();
    change_epoch_key(world, holder, to)
}

fn change_epoch_key(world: &mut World, holder: &SigningKey, to: [u8; 32]) -> Outcome {
    let body = EpochKeyChanged {
        holder: holder.did(),
        from: epoch_key_now(world, holder).into(),
        to: to.into(),
    };
    outcome(&world.say(Body::EpochKey(body), &[holder]))
}

fn epoch_key_now(world: &World, holder: &SigningKey) -> [u8; 32] {
    let now = world.state().epoch_key(&holder.did()).unwrap();
    now.unwrap().key.into_array()
}

fn say_destroyed(world: &mut World, by: &SigningKey, gone: Gone) -> Applied {
    let body = Destroyed {
        by: by.did(),
        custody: custody_id(PATIENT),
        erasure: entry(world).since,
        gone,
    };
    world.say(Body::Destroyed(body), &[by])
}

fn holders() -> [SigningKey; 2] {
    [key(OWNER), node_key(OWNER)]
}

#[test]
fn erasure_names_all_that_have_something_and_all_that_was_disclosed_or_is_stale() {
    let mut world = world();
    release(&mut world, &[cid(&record(PATIENT, 0))]);
    let right = to_erase(&world, PATIENT);
    let mut expected: Vec<Did> = holders().iter().map(SigningKey::did).collect();
    expected.sort_unstable();
    let named: Vec<Did> = right.holders.iter().map(|holder| holder.who).collect();
    assert_eq!(named, expected);
    for holder in &right.holders {
        assert_eq!(*holder.epoch_key, epoch_key(&holder.who));
    }
    assert_eq!(right.replicas.len(), MEMBERS.len());
    assert_eq!(right.disclosed.count, 1);
    let changes: [crate::Change<Erased>; 5] = [
        ("a holder is left out", |body| body.holders.truncate(1)),
        ("a replica is left out", |body| body.replicas.truncate(2)),
        ("another replica", |body| {
            body.replicas[2] = Did::new([0xff; 32]);
        }),
        ("no disclosure", |body| body.disclosed = Default::default()),
        ("another count", |body| body.disclosed.count += 1),
    ];
    for (name, change) in changes {
        let mut body = right.clone();
        change(&mut body);
        let applied = say_erased(&mut world, body, &key(OWNER));
        assert_eq!(outcome(&applied), Outcome::Stale, "{name}");
    }
    release(&mut world, &[cid(&record(PATIENT, 1))]);
    let late = say_erased(&mut world, right, &key(OWNER));
    assert_eq!(outcome(&late), Outcome::Stale);
    let right = to_erase(&world, PATIENT);
    let done = say_erased(&mut world, right.clone(), &key(OWNER));
    assert_eq!(outcome(&done), Outcome::Ok);
    let again = say_erased(&mut world, right, &key(OWNER));
    assert_eq!(outcome(&again), Outcome::Erased);
}

#[test]
fn holder_that_goes_over_to_another_epoch_key_meanwhile_is_listed_with_that() {
    let mut world = world();
    let said = to_erase(&world, PATIENT);
    let node = node_key(OWNER);
    assert_eq!(next_epoch_key(&mut world, &node), Outcome::Ok);
    let now = to_erase(&world, PATIENT);
    assert_ne!(now, said);
    let applied = say_erased(&mut world, said, &key(OWNER));
    assert_eq!(outcome(&applied), Outcome::Ok);
    assert_eq!(entry(&world).erased, now);
    let too_early = say_destroyed(&mut world, &node, Gone::Key);
    assert_eq!(outcome(&too_early), Outcome::Conflict);
}

#[test]
fn erasure_is_the_owners_to_say() {
    let mut world = world();
    world.enrol("anna", PrincipalKind::Person, OWNER, &["clinician"]);
    let right = to_erase(&world, PATIENT);
    for by in [key(OTHER), key("anna"), key("holter"), node_key(OWNER)] {
        let applied = say_erased(&mut world, right.clone(), &by);
        assert_eq!(outcome(&applied), Outcome::Forbidden);
    }
    let unknown = Erased {
        custody: custody_id("nobody"),
        ..right
    };
    let applied = say_erased(&mut world, unknown, &key(OWNER));
    assert_eq!(outcome(&applied), Outcome::Unknown);
}

#[test]
fn whoever_ever_held_a_key_or_kept_the_log_is_listed() {
    let mut world = world();
    world.list_broker(PATIENT, OTHER);
    world.unlist_broker(PATIENT, OTHER);
    world.leave(OTHER, 2, &[MEMBERS[0], MEMBERS[2]]);
    let erased = to_erase(&world, PATIENT);
    let left = node_key(OTHER).did();
    assert!(erased.holders.iter().any(|holder| holder.who == left));
    assert!(erased.replicas.contains(&left));
    world.custody("later", OWNER, CustodyKind::Person);
    let later = to_erase(&world, "later");
    assert!(!later.replicas.contains(&left));
    assert_eq!(later.holders.len(), 2);
}

#[test]
fn nothing_is_said_under_an_erased_key() {
    let mut world = world();
    world.enrol("rosa", PrincipalKind::Person, OWNER, &["reviewer"]);
    let rule = break_glass_rule(OWNER, "rosa");
    world.accept(Body::BreakGlassRule(rule), &[&key(OWNER)]);
    world.enrol("carl", PrincipalKind::Person, OWNER, &["clinician"]);
    let request = world.request("rita", "researcher", "HRESCH", &[cid(&record(PATIENT, 0))]);
    let decided = world.released(&request);
    let anchored = world.anchored("late", "holter", PATIENT, Class::Ecg);
    let erased = to_erase(&world, PATIENT);
    world.accept(Body::Erased(Box::new(erased)), &[&key(OWNER)]);
    let mut rotated = custody(PATIENT, OWNER, CustodyKind::Person);
    rotated.epoch = 1;
    rotated.key[0] ^= 1;
    let attest = |holder| attested(holder, rotated.custody, 1, &rotated.key);
    rotated.held_by = vec![attest(&node_key(OWNER)), attest(&key(OWNER))];
    let hold = LegalHoldPlaced {
        legal_hold: hold(OTHER, None),
        matter: "7 O 123/26".to_owned(),
    };
    let withdrawn = medanchor_anchor::Withdrawn {
        consent: consent_id("study"),
        custody: custody_id(PATIENT),
    };
    for (body, by) in [
        (Body::Custody(rotated), key(OWNER)),
        (
            Body::Consented(consented("more", PATIENT, OTHER, "HRESCH")),
            key(OWNER),
        ),
        (Body::Withdrawn(withdrawn), key(OWNER)),
        (Body::LegalHoldPlaced(hold), key(OTHER)),
        (Body::BreakGlass(break_glass("carl", PATIENT)), key("carl")),
    ] {
        let kind = body.kind();
        let applied = world.say(body, &[&by]);
        assert_eq!(outcome(&applied), Outcome::Erased, "{kind}");
    }
    // Its records are out of the state by now.
    let released = Body::Released(Box::new(decided));
    let applied = world.say(released, &[&node_key(OWNER)]);
    assert_eq!(outcome(&applied), Outcome::Unknown);
    let statement = medanchor_anchor::Statement::anchored(ORIGIN, anchored);
    let late = world.submit(statement.sign(&[&key("holter")]));
    assert_eq!(outcome(&late), Outcome::Erased);
    assert_eq!(world.state().consents(&custody_id(PATIENT)).unwrap(), []);
    // What is of somebody else goes on.
    world.anchor("other", "holter", "patient-2", Class::Ecg);
}

fn hold(org: &str, record: Option<Cid>) -> LegalHold {
    LegalHold {
        hold: consent_id("matter"),
        org: did(org),
        custody: custody_id(PATIENT),
        record,
    }
}

#[test]
fn legal_hold_of_anybody_blocks_erasure_visibly() {
    let held = Some(cid(&record(PATIENT, 1)));
    for (org, record) in [(OWNER, None), (OTHER, None), (OTHER, held)] {
        let mut world = world();
        let hold = hold(org, record);
        let placed = LegalHoldPlaced {
            legal_hold: hold.clone(),
            matter: "7 O 123/26".to_owned(),
        };
        world.accept(Body::LegalHoldPlaced(placed), &[&key(org)]);
        if org == OTHER {
            world.leave(OTHER, 2, &[MEMBERS[0], MEMBERS[2]]);
        }
        let erased = to_erase(&world, PATIENT);
        let blocked = say_erased(&mut world, erased.clone(), &key(OWNER));
        assert_eq!(outcome(&blocked), Outcome::LegallyHeld);
        world.accept(Body::LegalHoldReleased(hold), &[&key(org)]);
        let done = say_erased(&mut world, erased, &key(OWNER));
        assert_eq!(outcome(&done), Outcome::Ok);
    }
}

#[test]
fn erased_records_and_openings_leave_the_state_and_no_proof_breaks() {
    let mut world = world();
    let mine: Vec<Cid> = (0..2).map(|n| cid(&record(PATIENT, n))).collect();
    let alone = release(&mut world, &mine);
    let cohort = [custody_id(PATIENT), custody_id("patient-2")];
    let mut sorted = cohort;
    sorted.sort_unstable();
    let selection = everything(&sorted);
    let request = world.request_all("rita", "researcher", "HRESCH", selection);
    let shared = world.released_as(&request, world.list(&request, &sorted));
    let shared = world.accept(Body::Released(Box::new(shared)), &[&node_key(OWNER)]);
    let before = world.state().leaves(0, usize::MAX).unwrap();
    let usage = world.state().usage(&did(OWNER)).unwrap();
    let erasure = erase(&mut world);
    let state = world.state();
    for name in &mine {
        assert_eq!(state.record(name).unwrap(), None);
    }
    assert_eq!(state.records(None, 9).unwrap().len(), 2);
    assert_eq!(state.usage(&did(OWNER)).unwrap(), usage / 2);
    assert_eq!(entry(&world).records, 2);
    assert_eq!(state.opening(alone).unwrap(), None);
    assert_eq!(state.release_list(alone).unwrap(), None);
    assert!(state.opening(shared.index).unwrap().is_some());
    assert!(state.release_list(shared.index).unwrap().is_some());
    assert!(state.opening(erasure).unwrap().is_some());
    // Every opening that is left is of something else.
    let id = custody_id(PATIENT);
    for index in (0..state.tree_size().unwrap()).filter(|index| *index != erasure) {
        if let Some(opening) = state.opening(index).unwrap() {
            let bytes = opening.to_bytes();
            let mut windows = bytes.windows(16);
            assert!(!windows.any(|w| w == id.as_bytes()), "leaf {index}");
        }
    }
    let after = state.leaves(0, usize::MAX).unwrap();
    assert_eq!(after[..before.len()], before);
    let size = state.tree_size().unwrap();
    assert_eq!(Damage::find_in_page(&world.tables, 0, size).unwrap(), None);
    // What was disclosed is still counted.
    let account = state.account(&AccountOf::Custody(id)).unwrap();
    assert_eq!(account.count, 2);
    let anchored_again = medanchor_anchor::Statement::anchored(
        ORIGIN,
        world.anchored(&record(PATIENT, 0), "holter", "patient-2", Class::Ecg),
    );
    let applied = world.submit(anchored_again.sign(&[&key("holter")]));
    assert_eq!(outcome(&applied), Outcome::Conflict);
}

#[test]
fn refusal_that_names_a_record_is_redacted_with_it() {
    let mut world = world();
    let request = world.request("rita", "researcher", "HRESCH", &[cid(&record(PATIENT, 0))]);
    let refused = refused(&world, request);
    let refused = world.accept(refused, &[&node_key(OWNER)]);
    erase(&mut world);
    assert_eq!(world.state().opening(refused.index).unwrap(), None);
}

fn refused(world: &World, request: SignedStatement) -> Body {
    Body::Refused(Box::new(medanchor_anchor::Refused {
        code: "no-consent".to_owned(),
        basis: world.basis(&request),
        decided_at: world.now,
        request,
    }))
}

#[test]
fn refusal_that_names_several_patients_is_redacted_with_any_of_them() {
    for first in [PATIENT, "patient-2"] {
        let mut world = world();
        let mut names = [PATIENT, "patient-2"].map(|patient| cid(&record(patient, 0)));
        if first != PATIENT {
            names.reverse();
        }
        let request = world.request("rita", "researcher", "HRESCH", &names);
        let refused = refused(&world, request);
        let refused = world.accept(refused, &[&node_key(OWNER)]);
        erase(&mut world);
        assert_eq!(world.state().opening(refused.index).unwrap(), None);
        // That it is noted under the other one, too, does no harm.
        erase_of(&mut world, "patient-2");
        assert!(world.state().leaf(refused.index).unwrap().is_some());
    }
}

#[test]
fn opening_under_a_key_that_is_erased_is_kept_for_its_receipt_and_no_longer() {
    let mut world = world();
    let request = world.request("rita", "researcher", "HRESCH", &[cid(&record(PATIENT, 0))]);
    let refused = refused(&world, request);
    let erased = to_erase(&world, PATIENT);
    let refused = world.statement(refused).sign(&[&node_key(OWNER)]);
    let erased = world.statement(Body::Erased(Box::new(erased)));
    // In one batch, so that the records are known still.
    let mut applied = world.apply(vec![erased.sign(&[&key(OWNER)]), refused]);
    let before = applied.pop().unwrap();
    assert_eq!(outcome(&applied[0]), Outcome::Ok);
    let erasure = entry(&world).since;
    sweep(&mut world, erasure);
    let consent = Body::Consented(consented("more", PATIENT, OTHER, "HRESCH"));
    let consent = world.say(consent, &[&key(OWNER)]);
    let anchored = world.anchored("late", "holter", PATIENT, Class::Ecg);
    let anchored = medanchor_anchor::Statement::anchored(ORIGIN, anchored);
    let anchored = world.submit(anchored.sign(&[&key("holter")]));
    let of = AccountOf::Custody(custody_id(PATIENT));
    let account = Account::new(of, world.state().account(&of).unwrap());
    let account = world.say(Body::Account(account), &[&key(OWNER)]);
    // An account is not stated any more either: the erasure has the last one.
    let late = [before, consent, anchored, account];
    let late = late.iter().map(|late| {
        assert_eq!(outcome(late), Outcome::Erased);
        match late {
            Applied::Leaf(late) => late.index,
            Applied::Rejected(code) => panic!("{code}"),
        }
    });
    let late: Vec<LeafIndex> = late.collect();
    let is_kept = |world: &World, index: LeafIndex| {
        let state = world.state();
        let with = state.erased_with(index).unwrap();
        let is_kept = state.opening(index).unwrap().is_some();
        assert_eq!(with, (!is_kept).then(|| custody_id(PATIENT)));
        is_kept
    };
    world.now += KEPT - 1;
    // What waits for its time holds up no other erasure.
    let other = erase_of(&mut world, "patient-2");
    let opening = world.state().opening(other).unwrap().unwrap();
    for _ in 0..3 {
        world.submit(opening.0.signed.clone());
    }
    let swept = world.state().erasure(&custody_id("patient-2")).unwrap();
    assert!(swept.unwrap().is_swept);
    assert!(late.iter().all(|index| is_kept(&world, *index)));
    world.now += 1;
    world.apply(Vec::new());
    assert!(!late.iter().any(|index| is_kept(&world, *index)));
    assert!(entry(&world).is_swept);
    assert_eq!(world.tables.range(Table::Sweeps, &[], None, 9).unwrap(), []);
}

/// How long an opening under an erased custody key is kept, in ms.
const KEPT: u64 = 10 * 60 * 1000;

#[test]
fn leaf_that_lost_its_opening_says_with_which_custody_key() {
    let mut world = world();
    let of = |world: &World, name: &str| {
        let state = world.state();
        let records = state.records_under(&custody_id(name), 0, 9).unwrap();
        let entry = state.custody(&custody_id(name)).unwrap().unwrap();
        let mut leaves: Vec<_> = records.iter().map(|record| record.index).collect();
        leaves.extend([entry.made_at, entry.newest_consent.unwrap()]);
        leaves
    };
    let (mine, others) = (of(&world, PATIENT), of(&world, "patient-2"));
    let erasure = erase(&mut world);
    let state = world.state();
    for index in mine {
        let with = state.erased_with(index).unwrap();
        assert_eq!(with, Some(custody_id(PATIENT)), "leaf {index}");
    }
    for index in others.into_iter().chain([0, erasure]) {
        assert_eq!(state.erased_with(index).unwrap(), None, "leaf {index}");
    }
}

#[test]
fn several_erasures_are_swept_one_after_another_in_their_order() {
    for order in [[PATIENT, "patient-2"], ["patient-2", PATIENT]] {
        let mut world = world();
        let says = order.map(|name| {
            let erased = Body::Erased(Box::new(to_erase(&world, name)));
            world.statement(erased).sign(&[&key(OWNER)])
        });
        world.apply(says.to_vec());
        let is_swept = |world: &World| {
            order.map(|name| {
                let entry = world.state().erasure(&custody_id(name)).unwrap();
                entry.unwrap().is_swept
            })
        };
        let mut seen = vec![is_swept(&world)];
        while seen.last() != Some(&[true, true]) {
            world.apply(Vec::new());
            let now = is_swept(&world);
            if seen.last() != Some(&now) {
                seen.push(now);
            }
        }
        assert_eq!(seen, [[false, false], [true, false], [true, true]]);
        assert_eq!(world.tables.range(Table::Sweeps, &[], None, 9).unwrap(), []);
    }
}

#[test]
fn erasures_wait_for_whoever_has_something_until_it_says_that_nothing_is_left() {
    let mut world = world();
    world.list_broker(PATIENT, OTHER);
    let waiting = |world: &World, who: &SigningKey| -> Vec<CustodyId> {
        let (mut waiting, mut after) = (Vec::new(), None);
        loop {
            let state = world.state();
            let page = state.erasures_waiting_for(&who.did(), after.as_ref(), 1);
            let Some(entry) = page.unwrap().pop() else {
                return waiting;
            };
            after = Some(entry.erased.custody);
            waiting.push(entry.erased.custody);
        }
    };
    let [owner, node] = holders();
    let other = node_key(OTHER);
    let mut both = [custody_id(PATIENT), custody_id("patient-2")];
    both.sort_unstable();
    assert_eq!(waiting(&world, &node), []);
    erase(&mut world);
    erase_of(&mut world, "patient-2");
    for who in [&owner, &node, &other, &node_key(MEMBERS[2])] {
        assert_eq!(waiting(&world, who), both);
    }
    assert_eq!(waiting(&world, &key("rita")), []);
    next_epoch_key(&mut world, &node);
    say_destroyed(&mut world, &node, Gone::Key);
    // It has the data still.
    assert_eq!(waiting(&world, &node), both);
    say_destroyed(&mut world, &node, Gone::Data);
    assert_eq!(waiting(&world, &node), [custody_id("patient-2")]);
    assert_eq!(waiting(&world, &other), both);
    say_destroyed(&mut world, &node_key(MEMBERS[2]), Gone::Data);
    assert_eq!(
        waiting(&world, &node_key(MEMBERS[2])),
        [custody_id("patient-2")]
    );
}

/// The most holders that a custody key may have, and the most nodes that a network may ever have.
#[test]
fn custody_key_can_be_erased_however_many_held_it_or_kept_the_log() {
    let mut world = world();
    for number in 3..Erased::MAX_REPLICAS {
        let name = format!("member-{number}");
        world.join(&name, 3, &MEMBERS[..2]);
        world.leave(&name, 3, &MEMBERS[..2]);
    }
    let one_more = Body::MemberAdded(Box::new(joining("one-more", 3)));
    let authors = [key(MEMBERS[0]), key(MEMBERS[1]), key("one-more")];
    let authors: Vec<&SigningKey> = authors.iter().collect();
    assert_eq!(outcome(&world.say(one_more, &authors)), Outcome::Conflict);
    let names: Vec<String> = (2..=Erased::MAX_HOLDERS)
        .map(|number| format!("person-{number}"))
        .collect();
    for name in &names {
        world.enrol(name, PrincipalKind::Person, OWNER, &["clinician"]);
    }
    let (last, names) = names.split_last().unwrap();
    for names in names.chunks(30) {
        let held = held_anew(&world, names);
        world.accept(held, &[&key(OWNER)]);
    }
    let one_more = held_anew(&world, std::slice::from_ref(last));
    let refused = world.say(one_more, &[&key(OWNER)]);
    assert_eq!(outcome(&refused), Outcome::Conflict);
    let erased = to_erase(&world, PATIENT);
    assert_eq!(erased.holders.len(), Erased::MAX_HOLDERS);
    assert_eq!(erased.replicas.len(), Erased::MAX_REPLICAS);
    let done = say_erased(&mut world, erased, &key(OWNER));
    assert_eq!(outcome(&done), Outcome::Ok);
}

/// The patient's custody key in its next epoch, held by its node and these people.
fn held_anew(world: &World, names: &[String]) -> Body {
    let entry = world.state().custody(&custody_id(PATIENT)).unwrap();
    let mut body = entry.unwrap().custody;
    body.epoch += 1;
    body.key[0] ^= 1;
    let people = names.iter().map(|name| key(name));
    let holders = [node_key(OWNER)].into_iter().chain(people);
    body.held_by = holders
        .map(|holder| attested(&holder, body.custody, body.epoch, &body.key))
        .collect();
    Body::Custody(body)
}

#[test]
fn much_is_taken_out_in_many_batches_that_write_no_leaf() {
    let mut world = world();
    for number in 2..2500 {
        world.anchor(&record(PATIENT, number), "holter", PATIENT, Class::Ecg);
    }
    let erased = to_erase(&world, PATIENT);
    let leaf = world.accept(Body::Erased(Box::new(erased)), &[&key(OWNER)]);
    let size = world.state().tree_size().unwrap();
    let said = sweep(&mut world, leaf.index);
    assert!((4..=8).contains(&said), "{said}");
    assert_eq!(world.state().tree_size().unwrap(), size);
    assert_eq!(entry(&world).records, 2500);
    assert_eq!(world.state().records(None, 9).unwrap().len(), 2);
}

#[test]
fn key_is_gone_only_when_its_epoch_key_is() {
    let mut world = world();
    erase(&mut world);
    let [owner, node] = holders();
    let too_early = say_destroyed(&mut world, &node, Gone::Key);
    assert_eq!(outcome(&too_early), Outcome::Conflict);
    assert_eq!(next_epoch_key(&mut world, &node), Outcome::Ok);
    let done = say_destroyed(&mut world, &node, Gone::Key);
    assert_eq!(outcome(&done), Outcome::Ok);
    let twice = say_destroyed(&mut world, &node, Gone::Key);
    assert_eq!(outcome(&twice), Outcome::Conflict);
    let missing: Vec<_> = entry(&world)
        .missing()
        .filter(|(_, gone)| *gone == Gone::Key)
        .collect();
    assert_eq!(missing, [(owner.did(), Gone::Key)]);
}

/// Whoever went over to another epoch key before the tombstone goes over to one more: it lists the one in force.
#[test]
fn key_is_gone_only_when_the_epoch_key_of_the_tombstone_is_whichever_were_before() {
    let mut world = world();
    let [_, node] = holders();
    let first = epoch_key_now(&world, &node);
    next_epoch_key(&mut world, &node);
    let second = epoch_key_now(&world, &node);
    world.list_broker(PATIENT, OTHER);
    erase(&mut world);
    let erased = entry(&world).erased;
    let mut of_node = erased.holders.iter().filter(|by| by.who == node.did());
    assert_eq!(of_node.next().map(|by| *by.epoch_key), Some(second));
    assert_eq!(of_node.next(), None);
    let too_early = say_destroyed(&mut world, &node, Gone::Key);
    assert_eq!(outcome(&too_early), Outcome::Conflict);
    let back = change_epoch_key(&mut world, &node, first);
    assert_eq!(back, Outcome::Conflict);
    assert_eq!(next_epoch_key(&mut world, &node), Outcome::Ok);
    let done = say_destroyed(&mut world, &node, Gone::Key);
    assert_eq!(outcome(&done), Outcome::Ok);
    // INVARIANT (I9): nor does the one that it has destroyed come back afterwards.
    for before in [first, second] {
        let back = change_epoch_key(&mut world, &node, before);
        assert_eq!(back, Outcome::Conflict);
    }
}

#[test]
fn nobody_keeps_another_from_an_epoch_key_by_saying_it_first() {
    let mut world = world();
    let [owner, node] = holders();
    let to = [9; 32];
    for holder in [&node, &owner] {
        assert_eq!(change_epoch_key(&mut world, holder, to), Outcome::Ok);
    }
}

#[test]
fn data_is_gone_only_when_the_state_has_none_of_it() {
    let mut world = world();
    let erased = to_erase(&world, PATIENT);
    let leaf = world.accept(Body::Erased(Box::new(erased)), &[&key(OWNER)]);
    let node = node_key(OTHER);
    let too_early = say_destroyed(&mut world, &node, Gone::Data);
    assert_eq!(rejected(&too_early), "not-swept");
    sweep(&mut world, leaf.index);
    let done = say_destroyed(&mut world, &node, Gone::Data);
    assert_eq!(outcome(&done), Outcome::Ok);
}

#[test]
fn replica_says_nothing_while_its_epoch_key_is_older_than_the_erasure() {
    let mut world = world();
    erase(&mut world);
    let node = node_key(OWNER);
    let old = say_destroyed(&mut world, &node, Gone::Data);
    assert_eq!(outcome(&old), Outcome::Conflict);
    next_epoch_key(&mut world, &node);
    let new = say_destroyed(&mut world, &node, Gone::Data);
    assert_eq!(outcome(&new), Outcome::Ok);
    // The log has no epoch key of this one.
    let none = say_destroyed(&mut world, &node_key(OTHER), Gone::Data);
    assert_eq!(outcome(&none), Outcome::Ok);
}

#[test]
fn nobody_says_it_for_somebody_else_or_of_what_is_not_listed() {
    let mut world = world();
    let erasure = erase(&mut world);
    let body = |by: &SigningKey, gone| Destroyed {
        by: by.did(),
        custody: custody_id(PATIENT),
        erasure,
        gone,
    };
    let (node, other) = (node_key(OWNER), node_key(OTHER));
    for (body, by, expected) in [
        (body(&node, Gone::Data), &other, Outcome::Forbidden),
        (body(&other, Gone::Key), &other, Outcome::Conflict),
        (
            body(&key(OTHER), Gone::Data),
            &key(OTHER),
            Outcome::Conflict,
        ),
        (
            Destroyed {
                erasure: erasure - 1,
                ..body(&node, Gone::Data)
            },
            &node,
            Outcome::Conflict,
        ),
        (
            Destroyed {
                custody: custody_id("patient-2"),
                ..body(&node, Gone::Data)
            },
            &node,
            Outcome::Unknown,
        ),
    ] {
        let applied = world.say(Body::Destroyed(body), &[by]);
        assert_eq!(outcome(&applied), expected);
    }
}

#[test]
fn epoch_key_goes_on_from_the_one_in_force_and_is_the_holders_own() {
    let mut world = world();
    let [owner, node] = holders();
    assert_eq!(next_epoch_key(&mut world, &node), Outcome::Ok);
    let mut from = ByteArray::new(epoch_key(&owner.did()));
    let body = |from, to| EpochKeyChanged {
        holder: owner.did(),
        from,
        to: ByteArray::new(to),
    };
    let by_another = world.say(Body::EpochKey(body(from, [7; 32])), &[&node]);
    assert_eq!(outcome(&by_another), Outcome::Forbidden);
    let unchanged = world.say(Body::EpochKey(body(from, *from)), &[&owner]);
    assert_eq!(rejected(&unchanged), "malformed");
    from[0] ^= 1;
    let elsewhere = world.say(Body::EpochKey(body(from, [7; 32])), &[&owner]);
    assert_eq!(outcome(&elsewhere), Outcome::Conflict);
    let stranger = EpochKeyChanged {
        holder: did("rita"),
        from,
        to: ByteArray::new([7; 32]),
    };
    let applied = world.say(Body::EpochKey(stranger), &[&key("rita")]);
    assert_eq!(outcome(&applied), Outcome::Unknown);
}

#[test]
fn key_is_attested_under_the_epoch_key_in_force_and_old_attestations_are_repeated_as_they_were() {
    let mut world = world();
    let node = node_key(OWNER);
    next_epoch_key(&mut world, &node);
    let body = custody("patient-3", OWNER, CustodyKind::Person);
    let under_the_old = world.say(Body::Custody(body.clone()), &[&key(OWNER)]);
    assert_eq!(outcome(&under_the_old), Outcome::Conflict);
    let entry = world.state().custody(&custody_id(PATIENT)).unwrap();
    let known = with_broker(entry.unwrap().custody, OTHER);
    let repeated = world.say(Body::Custody(known), &[&key(OWNER)]);
    assert_eq!(outcome(&repeated), Outcome::Ok);
    let under = world.state().epoch_key(&node.did()).unwrap().unwrap().key;
    let mut anew = body;
    anew.held_by[0] = Attestation::sign(
        &node,
        anew.custody,
        anew.epoch,
        &anew.key,
        under.into_array(),
    );
    let applied = world.say(Body::Custody(anew), &[&key(OWNER)]);
    assert_eq!(outcome(&applied), Outcome::Ok);
}

/// A certificate of everything so far, by a checkpoint that all have signed.
fn certificate(world: &World, account: LeafIndex, disclosures: &[LeafIndex]) -> StatedErasure {
    let state = world.state();
    let size = state.tree_size().unwrap();
    let receipt = |index| world.receipt(index, world.checkpoint(size, OWNER, &MEMBERS));
    let entry = entry(world);
    let disclosure = |index: &LeafIndex| Disclosure {
        index: *index,
        leaf: state.leaf(*index).unwrap().unwrap(),
        opening: state.opening(*index).unwrap(),
        disclosed: state
            .release_list(*index)
            .unwrap()
            .and_then(|list| list.prove_part(&custody_id(PATIENT)))
            .map(Disclosed::Part),
        proof: state.inclusion_proof(*index, size).unwrap(),
    };
    StatedErasure {
        erased: receipt(entry.since),
        destroyed: entry.destroyed.iter().map(|by| receipt(by.leaf)).collect(),
        disclosed: StatedAccount {
            receipt: receipt(account),
            disclosures: disclosures.iter().map(disclosure).collect(),
        },
    }
}

fn policy() -> TrustPolicy {
    TrustPolicy::founded(&founded(cid("policy"))).unwrap()
}

/// An erasure in which the owner and its node have destroyed the key, and one node its data; what was stated of the account
/// is shown as it was before.
fn erased_world() -> (World, StatedErasure) {
    let mut world = world();
    let released = release(&mut world, &[cid(&record(PATIENT, 0))]);
    let of = AccountOf::Custody(custody_id(PATIENT));
    let account = Account::new(of, world.state().account(&of).unwrap());
    let account = world.accept(Body::Account(account), &[&key(OWNER)]).index;
    let erased = to_erase(&world, PATIENT);
    let leaf = world.accept(Body::Erased(Box::new(erased)), &[&key(OWNER)]);
    let before = certificate(&world, account, &[released]);
    sweep(&mut world, leaf.index);
    for holder in holders() {
        next_epoch_key(&mut world, &holder);
        say_destroyed(&mut world, &holder, Gone::Key);
    }
    say_destroyed(&mut world, &node_key(OWNER), Gone::Data);
    let after = certificate(&world, account, &[released]);
    let certificate = StatedErasure {
        disclosed: before.disclosed,
        ..after
    };
    (world, certificate)
}

#[test]
fn certificate_shows_who_has_destroyed_what_who_has_not_and_what_was_disclosed() {
    let (_, certificate) = erased_world();
    let read = StatedErasure::from_bytes(&certificate.to_bytes()).unwrap();
    assert_eq!(read, certificate);
    let policy = policy();
    let shown = read.verify(&policy, Strength::Published).unwrap();
    assert_eq!(shown.erased.custody, custody_id(PATIENT));
    assert_eq!(*shown.by, did(OWNER));
    assert_eq!(shown.destroyed.len(), 3);
    let mut expected = vec![
        (node_key(MEMBERS[1]).did(), Gone::Data),
        (node_key(MEMBERS[2]).did(), Gone::Data),
    ];
    expected.sort_unstable();
    assert_eq!(shown.missing, expected);
    let released = read.disclosed.disclosures[0].released().unwrap();
    assert_eq!(released.request.author(), Some(&did("rita")));
}

#[test]
fn certificate_of_anything_else_is_refused() {
    let (mut world, good) = erased_world();
    let policy = policy();
    let size = world.state().tree_size().unwrap();
    let receipt = |world: &World, index| {
        let checkpoint = world.checkpoint(size, OWNER, &MEMBERS);
        world.receipt(index, checkpoint)
    };
    let verify = |certificate: &StatedErasure| {
        let verified = certificate.verify(&policy, Strength::Published);
        verified.map(drop).unwrap_err()
    };
    let none_is_hidden = StatedErasure {
        disclosed: StatedAccount {
            disclosures: Vec::new(),
            ..good.disclosed.clone()
        },
        ..good.clone()
    };
    assert!(matches!(
        verify(&none_is_hidden),
        StatedErasureError::Account(_)
    ));
    let of_an_enrolment = StatedErasure {
        erased: receipt(&world, 1),
        ..good.clone()
    };
    assert_eq!(verify(&of_an_enrolment), StatedErasureError::NotAnErasure);
    let enrolment_as_destroyed = StatedErasure {
        destroyed: vec![receipt(&world, 1)],
        ..good.clone()
    };
    assert_eq!(
        verify(&enrolment_as_destroyed),
        StatedErasureError::NotDestroyed(1)
    );
    let redacted = StatedErasure {
        erased: Receipt {
            opening: None,
            ..good.erased.clone()
        },
        ..good.clone()
    };
    assert_eq!(verify(&redacted), StatedErasureError::NotAnErasure);
    // Somebody says it who is not listed, or of another erasure; or the log has refused it.
    let refused = say_destroyed(&mut world, &node_key(OWNER), Gone::Data);
    assert_eq!(outcome(&refused), Outcome::Conflict);
    let Applied::Leaf(refused) = refused else {
        panic!("it has a leaf");
    };
    let size = world.state().tree_size().unwrap();
    let checkpoint = world.checkpoint(size, OWNER, &MEMBERS);
    let refused_as_destroyed = StatedErasure {
        destroyed: vec![world.receipt(refused.index, checkpoint)],
        ..good.clone()
    };
    assert_eq!(
        verify(&refused_as_destroyed),
        StatedErasureError::NotDestroyed(refused.index)
    );
    let of_two = {
        let erased = to_erase(&world, "patient-2");
        let of = AccountOf::Custody(custody_id("patient-2"));
        let account = Account::new(of, world.state().account(&of).unwrap());
        world.accept(Body::Account(account), &[&key(OWNER)]);
        world
            .accept(Body::Erased(Box::new(erased)), &[&key(OWNER)])
            .index
    };
    let size = world.state().tree_size().unwrap();
    let checkpoint = world.checkpoint(size, OWNER, &MEMBERS);
    let other = StatedErasure {
        erased: world.receipt(of_two, checkpoint),
        ..good
    };
    assert!(matches!(
        verify(&other),
        StatedErasureError::NotDestroyed(_)
    ));
    let other = StatedErasure {
        destroyed: Vec::new(),
        ..other
    };
    assert_eq!(verify(&other), StatedErasureError::OtherAccount);
}

#[test]
fn no_flipped_bit_of_a_certificate_is_believed() {
    let (_, good) = erased_world();
    let (policy, bytes) = (policy(), good.to_bytes());
    let shown = |certificate: &StatedErasure| {
        let shown = certificate.verify(&policy, Strength::Published).ok()?;
        Some((shown.erased.clone(), shown.destroyed, shown.missing))
    };
    let right = shown(&good);
    assert!(right.is_some());
    for at in (0..bytes.len()).step_by(3) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        if let Ok(read) = StatedErasure::from_bytes(&flipped) {
            let said = shown(&read);
            // A co-signature's line may be cut from a receipt that has more than it needs.
            assert!(said.is_none() || said == right, "byte {at}");
        }
    }
}

/// The kinds have names of their own, and so have the outcomes.
#[test]
fn leaves_say_what_became_of_an_erasure() {
    let mut world = world();
    let index = erase(&mut world);
    let leaf = world.state().leaf(index).unwrap().unwrap();
    assert_eq!(
        (leaf.kind, leaf.kind.to_string()),
        (Kind::Erased, "erased".into())
    );
    let signed: SignedStatement = world.state().opening(index).unwrap().unwrap().0.signed;
    assert_eq!(signed.author(), Some(&did(OWNER)));
}
