//! One release of records under several custody keys.

use crate::{
    denial, grant,
    hospital::{Fault, Hospital},
};
use medanchor_anchor::{
    Body, Kind, Outcome,
    testing::{cid, custody_id},
};
use medanchor_broker::{Grant, ReleaseError};
use medanchor_dag::{Cid, CustodyId, Hash};
use std::collections::BTreeSet;

/// Three patients of hospital A and two of which another hospital's node is the broker, one of whom has consented to nothing,
/// with two records each.
fn hospital() -> (Hospital, Vec<CustodyId>) {
    let hospital = Hospital::new();
    for (name, member) in PATIENTS {
        if name != "patient" {
            hospital.add_patient(name, member);
        }
        for number in 0..2 {
            hospital.put_under(name, format!("{name}/{number}").as_bytes(), |_| ());
        }
    }
    for name in ["second", "third", "away"] {
        hospital.consent_of(name);
    }
    let mut cohort = PATIENTS.map(|(name, _)| custody_id(name)).to_vec();
    cohort.sort_unstable();
    (hospital, cohort)
}

const PATIENTS: [(&str, &str); 5] = [
    ("patient", "hospital-a"),
    ("second", "hospital-a"),
    ("third", "hospital-a"),
    ("away", "hospital-b"),
    ("silent", "hospital-b"),
];

/// What the grant opens, by its list.
fn opened(hospital: &Hospital, grant: &Grant) -> BTreeSet<String> {
    let records: Vec<Cid> = grant.list.rows().map(|row| row.record).collect();
    let contents = (0..records.len()).map(|n| hospital.open("ines", &records, grant, n));
    contents
        .map(|content| String::from_utf8(content).unwrap())
        .collect()
}

fn names(patients: &[&str]) -> BTreeSet<String> {
    let names = patients
        .iter()
        .flat_map(|name| (0..2).map(move |n| format!("{name}/{n}")));
    names.collect()
}

#[tokio::test]
async fn selection_is_released_as_one_leaf_and_who_else_has_more_is_named() {
    let (hospital, cohort) = hospital();
    let request = hospital.select(&cohort);
    let broker = hospital.broker();
    let granted = grant(broker.release(request.clone(), cohort.clone()).await);
    assert_eq!(hospital.leaves_of(Kind::Released), [Outcome::Ok]);
    assert_eq!(
        opened(&hospital, &granted),
        names(&["patient", "second", "third"])
    );
    // Nothing is said of the patient who has consented to nothing.
    assert_eq!(granted.elsewhere, [custody_id("away")]);
    assert_eq!(granted.left_out, []);
    let opening = granted.receipt.opening.as_ref().unwrap();
    let Body::Released(released) = &opening.0.signed.statement.body else {
        panic!("not released");
    };
    assert_eq!(released.list, granted.list.head());
    let wraps: Vec<Hash> = granted.wraps.iter().map(|wrap| Hash::of(wrap)).collect();
    let listed: Vec<Hash> = granted.list.rows().map(|row| row.wrap).collect();
    assert_eq!(wraps, listed);
    // The same again is the same, also after a restart, and costs the log nothing.
    assert_eq!(
        grant(broker.release(request.clone(), cohort.clone()).await),
        granted
    );
    drop(broker);
    let restarted = hospital.restarted();
    let again = restarted.broker().release(request, cohort).await;
    assert_eq!(grant(again), granted);
    assert_eq!(restarted.leaves_of(Kind::Released), [Outcome::Ok]);
}

/// I5: one patient withdraws between decision and leaf: nothing of the first leaf is handed out, and the second has the others.
#[tokio::test]
async fn patient_who_withdraws_meanwhile_is_left_out_of_the_next_attempt() {
    let (hospital, cohort) = hospital();
    hospital.next(Fault::Before(|world| {
        world.withdraw("study of second", "second");
    }));
    let request = hospital.select(&cohort);
    let granted = grant(hospital.broker().release(request, cohort).await);
    assert_eq!(
        hospital.leaves_of(Kind::Released),
        [Outcome::Stale, Outcome::Ok]
    );
    assert_eq!(opened(&hospital, &granted), names(&["patient", "third"]));
    // Who was once consented to may know that there is something.
    assert_eq!(granted.left_out, [("consent-withdrawn".to_owned(), 2)]);
}

#[tokio::test]
async fn patient_of_whom_something_always_changes_is_named() {
    let (hospital, cohort) = hospital();
    for _ in 0..4 {
        hospital.next(Fault::Before(|world| {
            let name = format!("again {}", world.state().tree_size().unwrap());
            world.consent(&name, "third", "institute", "TREAT");
        }));
    }
    let request = hospital.select(&cohort);
    match hospital.broker().release(request, cohort).await {
        Err(ReleaseError::Unsettled { stale }) => assert_eq!(stale, [custody_id("third")]),
        other => panic!("{other:?}"),
    }
    assert_eq!(hospital.leaves_of(Kind::Released), [Outcome::Stale; 4]);
}

#[tokio::test]
async fn records_that_are_not_to_be_had_or_not_what_was_anchored_are_left_out_and_counted() {
    let (hospital, cohort) = hospital();
    hospital.put_under("second", b"a lie", |anchored| anchored.size += 1);
    // Nobody has its blocks.
    hospital.put_under("third", b"lost", |anchored| anchored.record = cid("lost"));
    let request = hospital.select(&cohort);
    let granted = grant(hospital.broker().release(request, cohort).await);
    assert_eq!(
        opened(&hospital, &granted),
        names(&["patient", "second", "third"])
    );
    let left_out = [
        ("record-mismatch".to_owned(), 1),
        ("record-unavailable".to_owned(), 1),
    ];
    assert_eq!(granted.left_out, left_out);
}

#[tokio::test]
async fn broker_of_none_of_the_custody_keys_names_one_who_is_and_one_without_keys_too() {
    let (hospital, cohort) = hospital();
    let request = hospital.select(&cohort);
    let other = hospital
        .broker_of("hospital-c")
        .release(request.clone(), cohort.clone())
        .await;
    assert!(matches!(other, Err(ReleaseError::NotBroker { brokers }) if brokers.len() == 1));
    let lost = hospital.without_keys();
    let other = lost.broker().release(request, cohort).await;
    assert!(matches!(other, Err(ReleaseError::NotHeld { .. })));
    assert_eq!(hospital.leaves_of(Kind::Released), []);
}

/// Nothing there, nothing for the requester, no such key: one refusal, by whatever node, that tells of nothing.
#[tokio::test]
async fn selection_of_what_is_absent_or_forbidden_is_refused_alike() {
    let (hospital, _) = hospital();
    hospital.add_patient("empty", "hospital-a");
    let mut refusals = Vec::new();
    for patient in ["empty", "nobody"] {
        let cohort = vec![custody_id(patient)];
        let request = hospital.select(&cohort);
        let denied = denial(
            hospital
                .broker_of("hospital-c")
                .release(request, cohort)
                .await,
        );
        let receipt = denied.receipt.unwrap();
        let Body::Refused(refused) = receipt.opening.unwrap().0.signed.statement.body else {
            panic!("not refused");
        };
        assert!(refused.basis.tells_of_no_record());
        refusals.push((denied.code, denied.reason));
    }
    assert_eq!(refusals[0].0, "not-permitted");
    assert_eq!(refusals[0], refusals[1]);
}

#[tokio::test]
async fn custody_keys_that_are_not_those_of_the_selection_are_declined_without_a_leaf() {
    let (hospital, cohort) = hospital();
    let request = hospital.select(&cohort);
    for other in [
        Vec::new(),
        cohort[1..].to_vec(),
        [&cohort[..1], &cohort[..]].concat(),
    ] {
        let denied = denial(hospital.broker().release(request.clone(), other).await);
        assert_eq!(denied.code, "malformed-request");
        assert_eq!(denied.receipt, None);
    }
    let named = hospital.request("ines", "HRESCH", &[hospital.put(b"one")]);
    let denied = denial(hospital.broker().release(named, cohort).await);
    assert_eq!(denied.code, "malformed-request");
}
