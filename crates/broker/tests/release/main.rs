//! The one way out for a key: decide, re-wrap, anchor, hand out.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod bulk;
mod hospital;

use hospital::{Fault, Hospital, RELEASES, ask};
use medanchor_anchor::{
    Body, Kind, Opening, Outcome, ReleaseList, SignedStatement, Statement, Strength, TrustPolicy,
    testing::{self, HOUR, key},
};
use medanchor_broker::{Answer, Denial, Grant, ReleaseError};
use medanchor_dag::{Class, Hash};
use medanchor_envelope::Wrap;

const PAYLOAD: &[u8] = b"one heart beat";

fn grant(answer: Result<Answer, ReleaseError>) -> Grant {
    match answer {
        Ok(Answer::Grant(grant)) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

fn denial(answer: Result<Answer, ReleaseError>) -> Denial {
    match answer {
        Ok(Answer::Denial(denial)) => denial,
        other => panic!("not denied: {other:?}"),
    }
}

/// The hashes of the wraps in the list that a `released` statement is of.
fn released_wraps(opening: &Opening, list: &ReleaseList) -> Vec<Hash> {
    match &opening.0.signed.statement.body {
        Body::Released(released) => assert_eq!(released.list, list.head()),
        other => panic!("not released: {other:?}"),
    }
    list.rows().map(|row| row.wrap).collect()
}

#[tokio::test]
async fn permitted_request_opens_the_records() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD), hospital.put(b"the next")];
    let request = hospital.request("ines", "HRESCH", &records);
    let answer = grant(hospital.broker().release(request.clone(), Vec::new()).await);

    let policy = TrustPolicy::founded(&testing::founded(hospital.policy())).unwrap();
    let verified = answer.receipt.verify(&policy, Strength::Witnessed).unwrap();
    assert_eq!(verified.leaf.kind, Kind::Released);
    assert_eq!(verified.leaf.outcome, Outcome::Ok);
    let named = released_wraps(verified.opening.unwrap(), &answer.list);
    let given: Vec<Hash> = answer.wraps.iter().map(|wrap| Hash::of(wrap)).collect();
    assert_eq!(named, given);

    let open = |n: usize| hospital.open("ines", &records, &answer, n);
    assert_eq!(open(0), PAYLOAD);
    assert_eq!(open(1), b"the next");
}

#[tokio::test]
async fn grant_ends_with_the_consent_and_not_with_the_request() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let end = hospital.consent_until("CLINTRL", 60_000);
    let request = hospital.request("ines", "CLINTRL", &records);
    assert!(request.statement.not_after_unix_ms > Some(end));
    let answer = grant(hospital.broker().release(request.clone(), Vec::new()).await);
    let wrap = Wrap::from_bytes(&answer.wraps[0]).unwrap();
    assert_eq!(wrap.ctx.not_after, Some(end));
    let opening = answer.receipt.opening.as_ref().unwrap();
    let Body::Released(released) = &opening.0.signed.statement.body else {
        panic!("not released");
    };
    assert_eq!(released.valid_until, end);
    // The same request again, once consent is over, finds no grant and gets none.
    hospital.wait(60_001);
    let again = hospital.broker().release(request, Vec::new()).await;
    assert_eq!(denial(again).code, "already-released");
}

#[tokio::test]
async fn denied_request_leaves_a_refused_leaf() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let request = hospital.request("ines", "HMARKT", &records);
    let denied = denial(hospital.broker().release(request.clone(), Vec::new()).await);
    let receipt = denied.receipt.unwrap();
    assert_eq!(receipt.leaf.kind, Kind::Refused);
    assert_eq!(receipt.leaf.outcome, Outcome::Ok);
    let Body::Refused(body) = receipt.opening.unwrap().0.signed.statement.body else {
        panic!("not refused");
    };
    assert_eq!((body.code, body.request), (denied.code.clone(), request));
    assert_eq!(denied.code, "purpose-not-covered");
    assert!(!denied.reason.is_empty());
}

#[tokio::test]
async fn no_wrap_leaves_before_its_leaf_and_a_retry_gets_the_grant() {
    for fault in [Fault::Fails, Fault::FailsButPersists] {
        let hospital = Hospital::new();
        let records = [hospital.put(PAYLOAD)];
        let request = hospital.request("ines", "HRESCH", &records);
        hospital.next(fault);
        let failed = hospital.broker().release(request.clone(), Vec::new()).await;
        assert!(matches!(failed, Err(ReleaseError::Append(_))));
        let kept = hospital.last_submission();

        // The broker restarts, and is asked again.
        let answer = grant(
            hospital
                .restarted()
                .broker()
                .release(request, Vec::new())
                .await,
        );
        assert_eq!(hospital.last_submission(), kept);
        assert_eq!(hospital.leaves_of(Kind::Released), [Outcome::Ok]);
        let named = released_wraps(answer.receipt.opening.as_ref().unwrap(), &answer.list);
        assert_eq!(named, [Hash::of(&answer.wraps[0])]);
        assert_eq!(hospital.open("ines", &records, &answer, 0), PAYLOAD);
    }
}

#[tokio::test]
async fn nothing_is_answered_while_the_leaf_is_awaited() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let request = hospital.request("ines", "HRESCH", &records);
    hospital.next(Fault::Never);
    let broker = hospital.broker();
    tokio::select! {
        answer = broker.release(request.clone(), Vec::new()) => panic!("answered: {answer:?}"),
        () = hospital.append_reached() => {}
    }
    assert_eq!(hospital.leaves_of(Kind::Released), []);
    grant(broker.release(request, Vec::new()).await);
}

#[tokio::test]
async fn consent_withdrawn_before_the_leaf_denies() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let request = hospital.request("ines", "HRESCH", &records);
    hospital.next(Fault::Before(|world| {
        world.withdraw("study", "patient");
    }));
    let denied = denial(hospital.broker().release(request.clone(), Vec::new()).await);
    assert_eq!(denied.code, "consent-withdrawn");
    assert_eq!(denied.receipt.unwrap().leaf.kind, Kind::Refused);
    assert_eq!(hospital.leaves_of(Kind::Released), [Outcome::Stale]);

    // What was forgotten is not found by a retry.
    let denied = denial(hospital.broker().release(request, Vec::new()).await);
    assert!(denied.receipt.is_some());
    assert_eq!(hospital.leaves_of(Kind::Released), [Outcome::Stale]);
}

#[tokio::test]
async fn key_that_is_rotated_before_the_leaf_gets_nothing_and_the_new_one_does() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let request = hospital.request("ines", "HRESCH", &records);
    hospital.next(Fault::Before(|world| {
        world.rotate("ines", "ines", "ines/2");
    }));
    for _ in 0..2 {
        let answer = hospital.broker().release(request.clone(), Vec::new()).await;
        let denied = denial(answer);
        assert_eq!(denied.code, "not-enrolled");
        assert!(denied.receipt.is_none(), "nobody known has asked");
        assert_eq!(hospital.leaves_of(Kind::Released), [Outcome::Stale]);
    }
    let request = hospital.request("ines/2", "HRESCH", &records);
    let answer = grant(hospital.broker().release(request, Vec::new()).await);
    assert_eq!(hospital.open("ines/2", &records, &answer, 0), PAYLOAD);
}

#[tokio::test]
async fn roles_that_are_changed_before_the_leaf_deny() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let request = hospital.request("ines", "HRESCH", &records);
    hospital.next(Fault::Before(|world| {
        let body = testing::roles_changed("ines", &["engineer"]);
        world.accept(body, &[&key("institute")]);
    }));
    let denied = denial(hospital.broker().release(request, Vec::new()).await);
    assert_eq!(denied.code, "role-not-held");
    assert_eq!(hospital.leaves_of(Kind::Released), [Outcome::Stale]);
}

#[tokio::test]
async fn requester_has_no_more_releases_for_another_key() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let broker = hospital.broker();
    for _ in 0..RELEASES {
        let request = hospital.request("ines", "HRESCH", &records);
        grant(broker.release(request, Vec::new()).await);
    }
    hospital.rotate("ines", "ines", "ines/2");
    let request = hospital.request("ines/2", "HRESCH", &records);
    let denied = denial(broker.release(request, Vec::new()).await);
    assert_eq!(denied.code, "too-many-requests");
}

#[tokio::test]
async fn decision_is_made_again_when_the_state_moved_on() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let again = Fault::Before(|world| {
        world.consent("more", "patient", "institute", "TREAT");
    });
    hospital.next(again);
    let request = hospital.request("ines", "HRESCH", &records);
    grant(hospital.broker().release(request, Vec::new()).await);
    let outcomes = [Outcome::Stale, Outcome::Ok];
    assert_eq!(hospital.leaves_of(Kind::Released), outcomes);

    let request = hospital.request("ines", "HRESCH", &records);
    (0..4).for_each(|_| hospital.next(again));
    let unsettled = hospital.broker().release(request, Vec::new()).await;
    assert!(matches!(unsettled, Err(ReleaseError::Unsettled { .. })));
}

#[tokio::test]
async fn identical_request_gets_the_same_grant_until_it_is_over() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let request = hospital.request("ines", "HRESCH", &records);
    let broker = hospital.broker();
    let (one, two) = tokio::join!(
        broker.release(request.clone(), Vec::new()),
        broker.release(request.clone(), Vec::new())
    );
    let first = grant(one);
    assert_eq!(grant(two).wraps, first.wraps);

    drop(broker);
    let restarted = hospital.restarted();
    let again = grant(
        restarted
            .broker()
            .release(request.clone(), Vec::new())
            .await,
    );
    assert_eq!(again.wraps, first.wraps);
    assert_eq!(again.receipt.index, first.receipt.index);
    assert_eq!(restarted.leaves_of(Kind::Released), [Outcome::Ok]);

    restarted.wait(HOUR + 1);
    let over = denial(restarted.broker().release(request, Vec::new()).await);
    assert_eq!(over.code, "request-expired");
}

#[tokio::test]
async fn grant_that_is_not_proved_yet_is_not_handed_out() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let request = hospital.request("ines", "HRESCH", &records);
    hospital.cut_off_witnesses(true);
    let unproved = hospital.broker().release(request.clone(), Vec::new()).await;
    assert!(matches!(unproved, Err(ReleaseError::Read(_))));
    assert_eq!(hospital.leaves_of(Kind::Released), [Outcome::Ok]);
    hospital.cut_off_witnesses(false);
    grant(hospital.broker().release(request, Vec::new()).await);
    assert_eq!(hospital.leaves_of(Kind::Released), [Outcome::Ok]);
}

#[tokio::test]
async fn request_that_nobody_known_has_signed_leaves_no_leaf() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let good = hospital.request("ines", "HRESCH", &records);
    let ines = key("ines");
    let with = |change: fn(&mut Statement)| {
        let mut statement = good.statement.clone();
        change(&mut statement);
        statement.sign(&[&ines])
    };
    fn body(statement: &mut Statement) -> &mut medanchor_anchor::AccessRequest {
        match &mut statement.body {
            Body::AccessRequest(body) => body,
            other => panic!("not a request: {other:?}"),
        }
    }
    let mut forged = good.clone();
    forged.signatures[0].0 = key("mallory").did();
    let cases: [(&str, SignedStatement); 11] = [
        (
            "not-enrolled",
            good.statement.clone().sign(&[&key("nobody")]),
        ),
        ("bad-signature", forged),
        (
            "malformed-request",
            good.statement.clone().sign(&[&ines, &key("nobody")]),
        ),
        ("wrong-origin", with(|s| s.origin = "other".to_owned())),
        ("request-expired", with(|s| s.not_after_unix_ms = Some(1))),
        (
            "expiry-too-far",
            with(|s| s.not_after_unix_ms = Some(u64::MAX)),
        ),
        ("bad-recipient", with(|s| body(s).recipient = vec![0; 32])),
        ("bad-recipient", with(|s| body(s).recipient = vec![9; 31])),
        ("malformed-request", with(|s| body(s).records.clear())),
        (
            "malformed-request",
            with(|s| {
                let first = body(s).records[0];
                body(s).records.push(first);
            }),
        ),
        (
            "malformed-request",
            with(|s| {
                let who = key("ines").did();
                s.body = Body::Suspended(medanchor_anchor::Standing { who });
            }),
        ),
    ];
    let size = hospital.tree_size();
    for (code, request) in cases {
        let denied = denial(hospital.broker().release(request, Vec::new()).await);
        assert_eq!(denied.code, code);
        assert_eq!(denied.receipt, None);
    }
    assert_eq!(hospital.tree_size(), size);
}

#[tokio::test]
async fn request_reaches_another_node_than_the_broker() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let request = hospital.request("ines", "HRESCH", &records);
    let other = hospital
        .broker_of("hospital-b")
        .release(request, Vec::new())
        .await;
    let broker = testing::node_key("hospital-a").did();
    let Err(ReleaseError::NotBroker { brokers }) = other else {
        panic!("answered: {other:?}");
    };
    assert_eq!(brokers, [broker]);
    assert_eq!(hospital.leaves_of(Kind::Released), []);
}

/// Which node answers, and what its leaf says, is the same for a record that does not exist and one that is forbidden.
#[tokio::test]
async fn node_that_is_no_broker_refuses_what_the_requester_may_not_know_of() {
    let hospital = Hospital::new();
    let forbidden = hospital.put(PAYLOAD);
    hospital.enrol_outsider("omar");
    let mut bodies = Vec::new();
    for record in [forbidden, testing::cid("absent")] {
        let request = hospital.request("omar", "HRESCH", &[record]);
        let denied = denial(
            hospital
                .broker_of("hospital-b")
                .release(request, Vec::new())
                .await,
        );
        assert_eq!(denied.code, "not-permitted");
        let signed = denied.receipt.unwrap().opening.unwrap().0.signed;
        assert_eq!(
            signed.author(),
            Some(&testing::node_key("hospital-b").did())
        );
        let Body::Refused(body) = signed.statement.body else {
            panic!("not refused");
        };
        assert!(body.basis.tells_of_no_record());
        bodies.push((body.code, body.basis, body.decided_at, denied.reason));
    }
    assert_eq!(bodies[0], bodies[1]);
}

/// A broker that did not release is no place to hear that the request is used up: the one that did has the grant.
#[tokio::test]
async fn retry_at_another_broker_is_sent_to_the_one_that_released() {
    let hospital = Hospital::with_brokers(&["hospital-a", "hospital-b"]);
    let records = [hospital.put(PAYLOAD)];
    let request = hospital.request("ines", "HRESCH", &records);
    grant(hospital.broker().release(request.clone(), Vec::new()).await);
    let other = hospital.without_keys();
    let answer = other
        .broker_of("hospital-b")
        .release(request, Vec::new())
        .await;
    let Err(ReleaseError::NotBroker { brokers }) = answer else {
        panic!("answered: {answer:?}");
    };
    assert_eq!(brokers, [testing::node_key("hospital-a").did()]);
}

#[tokio::test]
async fn decision_says_when_it_was_made() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    hospital.wait(1_000);
    let request = hospital.request("ines", "HRESCH", &records);
    let answer = grant(hospital.broker().release(request, Vec::new()).await);
    let opening = answer.receipt.opening.unwrap();
    let Body::Released(released) = opening.0.signed.statement.body else {
        panic!("not released");
    };
    assert_eq!(released.decided_at, testing::BEGINNING + 1_000);
}

#[tokio::test]
async fn unknown_record_is_denied() {
    let hospital = Hospital::new();
    let request = hospital.request("ines", "HRESCH", &[testing::cid("nothing")]);
    let denied = denial(hospital.broker().release(request, Vec::new()).await);
    assert_eq!(denied.receipt.unwrap().leaf.kind, Kind::Refused);
}

#[tokio::test]
async fn refusals_of_one_requester_do_not_fill_the_log() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let broker = hospital.broker();
    let mut codes = Vec::new();
    for _ in 0..25 {
        let request = hospital.request("ines", "HMARKT", &records);
        codes.push(denial(broker.release(request, Vec::new()).await).code);
    }
    let refused = hospital.leaves_of(Kind::Refused).len();
    let (logged, local) = codes.split_at(refused);
    assert!((1..25).contains(&refused));
    assert!(logged.iter().all(|code| code != "too-many-requests"));
    assert!(local.iter().all(|code| code == "too-many-requests"));
    // What is permitted is not held up by it.
    let request = hospital.request("ines", "HRESCH", &records);
    grant(broker.release(request, Vec::new()).await);
}

#[tokio::test]
async fn releases_to_one_requester_do_not_fill_the_log() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let broker = hospital.broker();
    let first = hospital.request("ines", "HRESCH", &records);
    for number in 0..RELEASES {
        let request = match number {
            0 => first.clone(),
            _ => hospital.request("ines", "HRESCH", &records),
        };
        grant(broker.release(request, Vec::new()).await);
    }
    let request = hospital.request("ines", "HRESCH", &records);
    let declined = denial(broker.release(request, Vec::new()).await);
    assert_eq!(declined.code, "too-many-requests");
    assert_eq!(declined.receipt, None);
    // The first answer is still there for whoever lost it, and later there is more.
    grant(broker.release(first, Vec::new()).await);
    let released = hospital.leaves_of(Kind::Released).len();
    assert_eq!(u64::try_from(released), Ok(RELEASES));
    hospital.wait(1_000);
    let request = hospital.request("ines", "HRESCH", &records);
    grant(broker.release(request, Vec::new()).await);
}

#[tokio::test]
async fn record_that_is_not_what_was_anchored_is_refused() {
    let hospital = Hospital::new();
    let lie = hospital.put_as(PAYLOAD, |anchored| anchored.class = Class::Telemetry);
    let mut other = None;
    let donor = hospital.put_as(b"other", |anchored| other = Some(anchored.wrap));
    let swapped = hospital.put_as(PAYLOAD, |anchored| anchored.wrap = other.unwrap());
    let no_wrap = hospital.put_as(PAYLOAD, |anchored| anchored.wrap = donor);
    for (record, code) in [
        (lie, "record-mismatch"),
        (swapped, "wrap-unusable"),
        (no_wrap, "wrap-unusable"),
    ] {
        let request = hospital.request("ines", "HRESCH", &[record]);
        let denied = denial(hospital.broker().release(request, Vec::new()).await);
        assert_eq!(denied.code, code);
        assert!(denied.reason.contains(&record.to_string()));
        // Who may know of the record is told on what it was decided, by a broker of its custody key.
        let receipt = denied.receipt.unwrap();
        assert_eq!(receipt.leaf.kind, Kind::Refused);
        let opening = receipt.opening.unwrap();
        let Body::Refused(refused) = opening.0.signed.statement.body else {
            panic!("not a refusal");
        };
        assert!(!refused.basis.tells_of_no_record());
    }
}

#[tokio::test]
async fn missing_blocks_are_an_error_and_no_denial() {
    let hospital = Hospital::new();
    let record = hospital.put_as(PAYLOAD, |anchored| anchored.wrap = testing::cid("gone"));
    let size = hospital.tree_size();
    let request = hospital.request("ines", "HRESCH", &[record]);
    let failed = hospital.broker().release(request, Vec::new()).await;
    assert!(matches!(failed, Err(ReleaseError::Fetch(_))));
    assert_eq!(hospital.tree_size(), size);
}

#[tokio::test]
async fn broker_that_lost_its_key_says_so() {
    let hospital = Hospital::new();
    let record = hospital.put(PAYLOAD);
    let request = hospital.request("ines", "HRESCH", &[record]);
    let empty = hospital.without_keys();
    let failed = empty.broker().release(request.clone(), Vec::new()).await;
    assert!(matches!(failed, Err(ReleaseError::NotHeld { brokers }) if brokers.is_empty()));

    // A grant that a lost store no longer has is not made twice.
    grant(hospital.broker().release(request.clone(), Vec::new()).await);
    let denied = denial(empty.broker().release(request, Vec::new()).await);
    assert_eq!(denied.code, "already-released");
    assert_eq!(hospital.leaves_of(Kind::Released), [Outcome::Ok]);
}

/// The other broker may have it.
#[tokio::test]
async fn broker_that_lost_its_key_names_the_other_brokers() {
    let hospital = Hospital::with_brokers(&["hospital-a", "hospital-b"]);
    let record = hospital.put(PAYLOAD);
    let request = hospital.request("ines", "HRESCH", &[record]);
    let failed = hospital
        .without_keys()
        .broker()
        .release(request, Vec::new())
        .await;
    let Err(ReleaseError::NotHeld { brokers }) = failed else {
        panic!("answered: {failed:?}");
    };
    assert_eq!(brokers, [testing::node_key("hospital-b").did()]);
}

/// I5: who may release is part of what a decision rests on.
#[tokio::test]
async fn release_is_decided_again_when_the_brokers_change() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let request = hospital.request("ines", "HRESCH", &records);
    hospital.next(Fault::Before(|world| {
        world.list_broker("patient", "hospital-b");
    }));
    grant(hospital.broker().release(request, Vec::new()).await);
    assert_eq!(
        hospital.leaves_of(Kind::Released),
        [Outcome::Stale, Outcome::Ok]
    );

    let request = hospital.request("ines", "HRESCH", &records);
    hospital.next(Fault::Before(|world| {
        world.unlist_broker("patient", "hospital-a");
    }));
    let answer = hospital.broker().release(request, Vec::new()).await;
    let Err(ReleaseError::NotBroker { brokers }) = answer else {
        panic!("answered: {answer:?}");
    };
    assert_eq!(brokers, [testing::node_key("hospital-b").did()]);
    assert_eq!(
        hospital.leaves_of(Kind::Released).last(),
        Some(&Outcome::Forbidden)
    );
}

#[tokio::test]
async fn request_is_bound_to_its_recipient() {
    let hospital = Hospital::new();
    let records = [hospital.put(PAYLOAD)];
    let one = hospital.request("ines", "HRESCH", &records);
    let two = ask(&hospital, "ines", "HRESCH", &records, "another key");
    let first = grant(hospital.broker().release(one, Vec::new()).await);
    let second = grant(hospital.broker().release(two, Vec::new()).await);
    assert_ne!(first.wraps, second.wraps);
    assert_eq!(hospital.leaves_of(Kind::Released), [Outcome::Ok; 2]);
}
