//! One release of records under several custody keys.

use crate::{Change, outcome, rejected};
use medanchor_anchor::{
    AccountOf, Applied, Body, Class, Cohort, CustodyKind, Kind, Leaves, ListHead, Outcome, Period,
    PrincipalKind, ReleaseList, ReleaseListError, ReleasePart, ReleaseRow, Released, Selection,
    SignedStatement, StreamName,
    testing::{
        MEMBERS, World, cid, custody_id, did, everything, key, node_key, stream_id, with_broker,
    },
};
use medanchor_dag::{Codec, CustodyId, Hash, cid_of, sha256};
use proptest::{collection::vec, prelude::*, sample::Index};

const OWNER: &str = MEMBERS[0];
const PARTNER: &str = MEMBERS[1];
const PATIENTS: [&str; 3] = ["patient-1", "patient-2", "patient-3"];

/// Three patients with two ECGs and a log file each, and a consent for a researcher of another hospital.
fn world() -> World {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, OWNER, &["device"]);
    world.enrol("monitor", PrincipalKind::Device, OWNER, &["device"]);
    world.enrol("rita", PrincipalKind::Person, PARTNER, &["researcher"]);
    for patient in PATIENTS {
        world.custody(patient, OWNER, CustodyKind::Person);
        world.consent("study", patient, PARTNER, "HRESCH");
    }
    for number in 0..2 {
        for patient in PATIENTS {
            world.anchor(
                &format!("{patient}/{number}"),
                "holter",
                patient,
                Class::Ecg,
            );
        }
    }
    for patient in PATIENTS {
        world.anchor(&format!("{patient}/log"), "monitor", patient, Class::Log);
    }
    world
}

/// Custody keys, in order.
fn cohort(patients: &[&str]) -> Vec<CustodyId> {
    let mut cohort: Vec<_> = patients.iter().map(|name| custody_id(name)).collect();
    cohort.sort_unstable();
    cohort
}

fn ask(world: &mut World, selection: Selection) -> SignedStatement {
    world.request_all("rita", "researcher", "HRESCH", selection)
}

fn release(world: &mut World, body: Released) -> Applied {
    world.say(Body::Released(Box::new(body)), &[&node_key(OWNER)])
}

/// Releases everything under the custody keys of these patients.
fn release_all(world: &mut World, patients: &[&str]) -> (SignedStatement, Applied) {
    let cohort = cohort(patients);
    let request = ask(world, everything(&cohort));
    let list = world.list(&request, &cohort);
    let body = world.released_as(&request, list);
    let applied = release(world, body);
    (request, applied)
}

#[track_caller]
fn leaf_of(applied: &Applied) -> u64 {
    match applied {
        Applied::Leaf(appended) => appended.index,
        Applied::Rejected(code) => panic!("rejected: {code}"),
    }
}

#[test]
fn records_of_several_custody_keys_are_released_as_one_leaf() {
    let mut world = world();
    let (request, applied) = release_all(&mut world, &PATIENTS);
    assert_eq!(outcome(&applied), Outcome::Ok);
    let index = leaf_of(&applied);
    let state = world.state();
    assert_eq!(
        state.request(&request.statement.hash()).unwrap(),
        Some(index)
    );
    let list = state.release_list(index).unwrap().unwrap();
    assert_eq!(list.rows().count(), 9);
    assert!(state.stale(&list).unwrap().is_empty());
    let of = PATIENTS.map(|patient| AccountOf::Custody(custody_id(patient)));
    for of in of.into_iter().chain([
        AccountOf::Principal(did("rita")),
        AccountOf::Principal(did(PARTNER)),
    ]) {
        assert_eq!(state.disclosures(&of, 0, 9).unwrap(), [index], "{of:?}");
        assert_eq!(state.account(&of).unwrap().count, 1);
    }
}

/// A part of which nothing is released says that it was asked for, and is in nobody's account.
#[test]
fn account_has_only_releases_of_something_under_its_key() {
    let mut world = world();
    let cohort = cohort(&PATIENTS);
    let request = ask(&mut world, everything(&cohort));
    let mut list = world.list(&request, &cohort);
    let (left, part) = (custody_id(PATIENTS[1]), part_of(&list, PATIENTS[1]));
    list.parts[part] = nothing(left);
    let body = world.released_as(&request, list);
    let index = leaf_of(&release(&mut world, body));
    let state = world.state();
    let list = state.release_list(index).unwrap().unwrap();
    assert_eq!(list.custodies().count(), 2);
    assert_eq!(list.prove_part(&left), None);
    let account = state.account(&AccountOf::Custody(left)).unwrap();
    assert_eq!(account.count, 0);
}

/// I5: what has changed for one patient since the decision makes the whole stale, and the state names who it is.
#[test]
fn one_stale_patient_makes_the_whole_release_stale_and_is_named() {
    let changes: [(&str, Change<World>); 6] = [
        (
            "patient-2",
            ("consent withdrawn", |world| {
                world.withdraw("study", "patient-2");
            }),
        ),
        (
            "patient-3",
            ("consent given", |world| {
                world.consent("more", "patient-3", PARTNER, "TREAT");
            }),
        ),
        (
            "patient-1",
            ("second broker listed", |world| {
                world.list_broker("patient-1", MEMBERS[2]);
            }),
        ),
        (
            "all",
            ("device revoked", |world| {
                world.stand(Kind::Revoked, "monitor", OWNER);
            }),
        ),
        (
            "",
            ("requester suspended", |world| {
                world.stand(Kind::Suspended, "rita", PARTNER);
            }),
        ),
        (
            "",
            ("policy set", |world| {
                world.set_policy(b"another");
            }),
        ),
    ];
    for (whose, (name, change)) in changes {
        let mut world = world();
        let all = cohort(&PATIENTS);
        let request = ask(&mut world, everything(&all));
        let list = world.list(&request, &all);
        let body = world.released_as(&request, list.clone());
        change(&mut world);
        let applied = release(&mut world, body);
        assert_eq!(outcome(&applied), Outcome::Stale, "{name}");
        let named = match whose {
            "all" => all.clone(),
            "" => Vec::new(),
            patient => cohort(&[patient]),
        };
        assert_eq!(world.state().stale(&list).unwrap(), named, "{name}");
        let state = world.state();
        assert_eq!(state.release_list(leaf_of(&applied)).unwrap(), None);
        for patient in PATIENTS {
            let of = AccountOf::Custody(custody_id(patient));
            assert_eq!(state.account(&of).unwrap().count, 0);
        }
    }
}

#[test]
fn release_without_its_list_has_no_leaf() {
    let mut world = world();
    let cohort = cohort(&PATIENTS);
    let request = ask(&mut world, everything(&cohort));
    let list = world.list(&request, &cohort);
    let mut body = world.released_as(&request, list);
    body.list.root = Hash::of(b"another");
    assert_eq!(rejected(&release(&mut world, body)), "list-missing");
}

#[test]
fn broker_of_one_custody_key_releases_nothing_under_another() {
    let mut world = world();
    let cohort = cohort(&PATIENTS[..2]);
    // The partner's node is a broker of the first patient's key alone.
    world.list_broker(PATIENTS[0], PARTNER);
    let request = ask(&mut world, everything(&cohort));
    let list = world.list(&request, &cohort);
    let body = world.released_as(&request, list.clone());
    let by_partner = world.say(Body::Released(Box::new(body)), &[&node_key(PARTNER)]);
    assert_eq!(outcome(&by_partner), Outcome::Forbidden);
    let mut own = list;
    let part = part_of(&own, PATIENTS[1]);
    own.parts[part] = nothing(custody_id(PATIENTS[1]));
    let body = world.released_as(&request, own);
    let by_partner = world.say(Body::Released(Box::new(body)), &[&node_key(PARTNER)]);
    assert_eq!(outcome(&by_partner), Outcome::Ok);
}

/// Lists that are no list of what was asked for.
#[test]
fn wrong_lists_are_in_conflict() {
    let changes: [Change<ReleaseList>; 6] = [
        ("record of another patient", |list| {
            let row = list.parts[1].rows.remove(0);
            list.parts[0].rows.push(row);
        }),
        ("custody key that was not asked for", |list| {
            list.parts.pop();
            let other = ReleasePart {
                custody: CustodyId::new([0xff; 16]),
                since: 0,
                consent: None,
                rows: Vec::new(),
            };
            list.parts.push(other);
        }),
        ("record of another class", |list| {
            let part = part_of(list, "patient-1");
            list.parts[part].rows[0].record = cid("patient-1/log");
        }),
        ("record of a later leaf", |list| {
            let part = part_of(list, "patient-1");
            list.parts[part].rows[0].record = cid("patient-1/late");
        }),
        ("record of another stream", |list| {
            let part = part_of(list, "patient-1");
            list.parts[part].rows[0].record = cid("patient-1/other");
        }),
        ("record captured later", |list| {
            let part = part_of(list, "patient-1");
            list.parts[part].rows[0].record = cid("patient-1/new");
        }),
    ];
    for (name, change) in changes {
        let mut world = world();
        let all = cohort(&PATIENTS);
        let mut other = world.anchored("patient-1/other", "monitor", "patient-1", Class::Ecg);
        other.stream = stream_id("other");
        world.accept(Body::Anchored(other), &[&key("monitor")]);
        let mut new = world.anchored("patient-1/new", "holter", "patient-1", Class::Ecg);
        new.captured_at += 1_000;
        let captured_until = new.captured_at - 1;
        world.accept(Body::Anchored(new), &[&key("holter")]);
        let last = world.state().tree_size().unwrap() - 1;
        world.anchor("patient-1/late", "holter", "patient-1", Class::Ecg);
        let selection = Selection {
            stream: Some(StreamName {
                device: did("holter"),
                stream: stream_id("main"),
            }),
            class: Some(Class::Ecg),
            captured: Period {
                from: None,
                until: Some(captured_until),
            },
            leaves: Leaves {
                from: 0,
                until: last,
            },
            ..everything(&all)
        };
        let request = ask(&mut world, selection);
        let sound = world.list(&request, &all);
        assert_eq!(sound.rows().count(), 6);
        let mut changed = sound.clone();
        change(&mut changed);
        let body = world.released_as(&request, changed);
        assert_eq!(
            outcome(&release(&mut world, body)),
            Outcome::Conflict,
            "{name}"
        );
        let body = world.released_as(&request, sound);
        assert_eq!(outcome(&release(&mut world, body)), Outcome::Ok, "{name}");
    }
}

#[test]
fn record_that_is_not_anchored_is_unknown() {
    let mut world = world();
    let cohort = cohort(&PATIENTS);
    let request = ask(&mut world, everything(&cohort));
    let mut list = world.list(&request, &cohort);
    list.parts[0].rows[0].record = cid("absent");
    let body = world.released_as(&request, list);
    assert_eq!(outcome(&release(&mut world, body)), Outcome::Unknown);
}

/// What no list is: it has no leaf, and no bytes are parsed as it.
#[test]
fn list_out_of_bounds_is_none() {
    let changes: [Change<ReleaseList>; 6] = [
        ("custody keys out of order", |list| list.parts.swap(0, 1)),
        ("custody key twice", |list| {
            let part = nothing(list.parts[0].custody);
            list.parts.insert(0, part);
        }),
        ("record twice", |list| {
            let row = list.parts[0].rows[0].clone();
            list.parts[0].rows.push(row);
        }),
        ("no record", |list| {
            for part in &mut list.parts {
                *part = nothing(part.custody);
            }
        }),
        ("ground of nothing", |list| list.parts[1].rows.clear()),
        ("too many records", |list| {
            let row = |number: usize| ReleaseRow {
                record: cid(&number.to_string()),
                device: 1,
                wrap: Hash::of(b"wrap"),
            };
            list.parts[0].rows = (0..=ReleaseList::MAX_RECORDS).map(row).collect();
        }),
    ];
    for (name, change) in changes {
        let mut world = world();
        let cohort = cohort(&PATIENTS);
        let request = ask(&mut world, everything(&cohort));
        let mut list = world.list(&request, &cohort);
        change(&mut list);
        let parsed = ReleaseList::from_bytes(&list.to_bytes());
        assert!(matches!(parsed, Err(ReleaseListError::Form)), "{name}");
        let mut body = world.released_as(&request, list);
        body.list.parts = 3;
        body.list.records = body.list.records.max(1);
        assert_eq!(
            rejected(&release(&mut world, body)),
            "list-missing",
            "{name}"
        );
    }
}

#[test]
fn selection_out_of_bounds_is_malformed() {
    let changes: [Change<Selection>; 4] = [
        ("no custody key", |selection| {
            selection.cohort = Cohort::of([]);
        }),
        ("too many", |selection| {
            selection.cohort.count = u64::try_from(Cohort::MAX).unwrap() + 1;
        }),
        ("captured backwards", |selection| {
            (selection.captured.from, selection.captured.until) = (Some(2), Some(1));
        }),
        ("leaves backwards", |selection| {
            (selection.leaves.from, selection.leaves.until) = (2, 1);
        }),
    ];
    for (name, change) in changes {
        let mut world = world();
        let cohort = cohort(&PATIENTS);
        let mut selection = everything(&cohort);
        change(&mut selection);
        let parts = selection.cohort.count;
        let request = ask(&mut world, selection);
        let list = world.list(&request, &cohort);
        let mut body = world.released_as(&request, list);
        body.list.parts = parts;
        assert_eq!(rejected(&release(&mut world, body)), "malformed", "{name}");
    }
}

#[test]
fn largest_list_is_as_large_as_it_may_be_and_no_larger() {
    let parts = (0..ReleaseList::MAX_RECORDS).map(|number| {
        let digest = sha256(number.to_string().as_bytes());
        let mut custody = [0xff; 16];
        custody[8..].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
        ReleasePart {
            custody: CustodyId::new(custody),
            since: u64::MAX,
            consent: Some(u64::MAX),
            rows: vec![ReleaseRow {
                record: cid_of(Codec::DagCbor, &digest),
                device: u64::MAX,
                wrap: Hash::of(&digest),
            }],
        }
    });
    let list = ReleaseList {
        parts: parts.collect(),
    };
    let bytes = list.to_bytes();
    assert!(
        bytes.len() <= ReleaseList::MAX_BYTES,
        "{} bytes",
        bytes.len()
    );
    assert_eq!(ReleaseList::from_bytes(&bytes).unwrap(), list);
}

#[test]
fn records_under_a_custody_key_are_found_without_the_others_of_the_log() {
    let world = world();
    let state = world.state();
    for patient in PATIENTS {
        let names = [
            format!("{patient}/0"),
            format!("{patient}/1"),
            format!("{patient}/log"),
        ];
        let expected: Vec<_> = names.iter().map(|name| cid(name)).collect();
        let under = |first, limit| {
            let records = state.records_under(&custody_id(patient), first, limit);
            let records = records.unwrap().into_iter();
            records
                .map(|entry| (entry.index, entry.anchored.record))
                .collect::<Vec<_>>()
        };
        let all = under(0, 9);
        assert_eq!(
            all.iter().map(|(_, record)| *record).collect::<Vec<_>>(),
            expected
        );
        assert_eq!(under(0, 1), all[..1]);
        assert_eq!(under(all[0].0 + 1, 9), all[1..]);
        assert_eq!(under(all[2].0 + 1, 9), []);
    }
    assert_eq!(
        state.records_under(&custody_id("nobody"), 0, 9).unwrap(),
        []
    );
}

/// A state from which the log was replayed has the same lists: the batches carry them.
#[test]
fn replicas_agree_on_releases() {
    let mut world = world();
    release_all(&mut world, &PATIENTS);
    let mut replica = medanchor_anchor::MemoryTables::default();
    for batch in &world.batches {
        let bytes = batch.to_bytes();
        let batch = medanchor_anchor::Batch::from_bytes(&bytes).unwrap();
        medanchor_anchor::Log::apply(&mut replica, &batch).unwrap();
    }
    assert_eq!(replica, world.tables);
}

fn part_of(list: &ReleaseList, patient: &str) -> usize {
    let custody = custody_id(patient);
    let mut parts = list.parts.iter();
    parts.position(|part| part.custody == custody).unwrap()
}

fn nothing(custody: CustodyId) -> ReleasePart {
    ReleasePart {
        custody,
        since: 0,
        consent: None,
        rows: Vec::new(),
    }
}

/// A list of so many parts with so many records each.
fn any_list() -> impl Strategy<Value = ReleaseList> {
    vec(0_usize..6, 1..20).prop_filter_map("no record", |sizes| {
        let parts = sizes.iter().enumerate().map(|(number, size)| {
            let byte = u8::try_from(number).unwrap();
            let rows = (0..*size).map(|row| ReleaseRow {
                record: cid(&format!("{number}/{row}")),
                device: 7,
                wrap: Hash::of(&[byte, u8::try_from(row).unwrap()]),
            });
            match size {
                0 => nothing(CustodyId::new([byte; 16])),
                _ => ReleasePart {
                    custody: CustodyId::new([byte; 16]),
                    since: 3,
                    consent: Some(u64::from(byte)),
                    rows: rows.collect(),
                },
            }
        });
        let list = ReleaseList {
            parts: parts.collect(),
        };
        (list.rows().count() > 0).then_some(list)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every part and row is proved by itself, and no other, nor by another list.
    #[test]
    fn each_part_and_row_of_a_list_is_proved_and_nothing_else(list in any_list(), which: Index, bit: Index) {
        let head = list.head();
        prop_assert_eq!(ReleaseList::from_bytes(&list.to_bytes()).unwrap().head(), head);
        let rows = list.prove_rows();
        prop_assert_eq!(rows.iter().map(|proof| &proof.row).collect::<Vec<_>>(), list.rows().collect::<Vec<_>>());
        for proof in &rows {
            prop_assert_eq!(proof.verify(&head), Ok(()));
        }
        for custody in list.custodies() {
            let proof = list.prove_part(&custody).unwrap();
            prop_assert_eq!(proof.part.custody, custody);
            prop_assert_eq!(proof.verify(&head), Ok(()));
        }
        // A flipped bit of what is proved, of the way to the root, or of the root.
        let proof = &rows[which.index(rows.len())];
        let bytes = medanchor_dag::to_canonical(proof);
        let mut changed = bytes.clone();
        let at = bit.index(bytes.len() * 8);
        changed[at / 8] ^= 1 << (at % 8);
        if let Ok(changed) = medanchor_dag::from_canonical::<medanchor_anchor::RowProof>(&changed, bytes.len()) {
            prop_assert!(changed.verify(&head).is_err(), "bit {}", at);
        }
        let mut root = *head.root.as_bytes();
        root[at % 32] ^= 1;
        let other = ListHead { root: Hash::new(root), ..head };
        prop_assert!(proof.verify(&other).is_err());
        // Another list.
        let mut other = list;
        let part = other.parts.iter_mut().find(|part| !part.rows.is_empty()).unwrap();
        part.since += 1;
        let custody = part.custody;
        prop_assert_ne!(other.head(), head);
        prop_assert!(other.prove_part(&custody).unwrap().verify(&head).is_err());
    }

    #[test]
    fn any_bytes_are_a_list_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(list) = ReleaseList::from_bytes(&bytes) {
            prop_assert_eq!(list.to_bytes(), bytes);
        }
    }
}

/// The broker of a custody key is who its newest entry says.
#[test]
fn custody_entry_of_a_release_is_the_newest() {
    let mut world = world();
    let all = cohort(&PATIENTS);
    let request = ask(&mut world, everything(&all));
    let body = with_broker(
        medanchor_anchor::testing::custody(PATIENTS[0], OWNER, CustodyKind::Person),
        MEMBERS[2],
    );
    world.accept(Body::Custody(body), &[&key(OWNER)]);
    let list = world.list(&request, &all);
    let since = list.parts[part_of(&list, PATIENTS[0])].since;
    assert_eq!(since, world.state().tree_size().unwrap() - 1);
    let body = world.released_as(&request, list);
    assert_eq!(outcome(&release(&mut world, body)), Outcome::Ok);
}
