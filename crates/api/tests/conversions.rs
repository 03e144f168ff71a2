//! Whatever a peer sends is a domain type or an error, and what we send is read back as it was.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use medanchor_anchor::{
    Attestation, Body, DeviceDetails, Disclosure, Factor, FactorMethod, Nonce, PrincipalKind,
    Standing, Statement, Status,
};
use medanchor_api::{
    Alarm, AnchoredRecord, AsOf, Asked, BelowTarget, Collected, CreateKey, CreatedKey, Decision,
    Get, ImportKey, ImportedKey, LeafEntry, ListedCustody, ListedLegalHold, ListedPrincipal,
    MAX_CHECKED_KEYS, NodeStatus, PeerStatus, ReceiptOf, RecordCheck, Replicated, Scrubbed, Submit,
    Submitted, account_asked_for, consents_asked_for, disclosures_asked_for, has_cids,
    keys_to_check, legal_holds_after,
    pb::{access, anchor, block, registry},
    record_asked_for, stream_asked_for,
};
use medanchor_dag::{Block, Codec, CustodyId, SigningKey};
use proptest::{collection::vec, prelude::*};
use prost::Message;

fn arbitrary_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..80),
        Just(vec![0; 16]),
        Just(vec![7; 32]),
        Just(valid_block().cid().to_bytes()),
        Just(signed().to_bytes()),
    ]
}

fn arbitrary_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        Just(key().did().to_string()),
        Just("device".to_owned()),
        Just("active".to_owned()),
        Just("dataset".to_owned()),
    ]
}

proptest! {
    #[test]
    fn arbitrary_log_messages_never_panic(
        bytes in arbitrary_bytes(),
        more in arbitrary_bytes(),
        number in any::<u64>(),
        strength in any::<i32>(),
        which in 0..4,
    ) {
        let _ = Submit::try_from(anchor::SubmitRequest {
            signed_statement: bytes.clone(),
            strength,
        });
        let _ = Submitted::try_from(anchor::SubmitResponse {
            leaf_index: number,
            leaf: bytes.clone(),
            receipt: more.clone(),
        });
        let leaf = match which {
            0 => None,
            1 => Some(anchor::receipt_request::Leaf::LeafIndex(number)),
            2 => Some(anchor::receipt_request::Leaf::Record(bytes.clone())),
            _ => Some(anchor::receipt_request::Leaf::StatementHash(bytes.clone())),
        };
        let _ = ReceiptOf::try_from(anchor::ReceiptRequest { strength, leaf });
        let _ = AsOf::<Option<LeafEntry>>::try_from(anchor::ListLeavesResponse {
            leaf_index: number,
            leaf: bytes,
            opening: more.clone(),
            tree_size: number,
            erased_with: more,
        });
    }

    #[test]
    fn arbitrary_access_messages_never_panic(
        bytes in arbitrary_bytes(),
        wraps in vec(arbitrary_bytes(), 0..4),
        text in arbitrary_text(),
        grant in any::<bool>(),
    ) {
        let request = access::RequestRequest { signed_statement: bytes.clone(), cohort: vec![bytes.clone()] };
        let _ = Asked::try_from(request);
        let first = if grant {
            access::request_response::Part::Grant(access::Grant {
                receipt: bytes.clone(),
                list: bytes.clone(),
                left_out: vec![access::LeftOut { code: text, records: 1 }],
                elsewhere: vec![bytes.clone()],
            })
        } else {
            access::request_response::Part::Denial(access::Denial {
                code: text.clone(),
                reason: text,
                receipt: bytes.clone(),
            })
        };
        let wraps = access::request_response::Part::Wraps(access::Wraps { wraps });
        let messages = [first, wraps].map(|part| access::RequestResponse { part: Some(part) });
        let _ = Decision::try_from(messages.to_vec());
        let _ = CreateKey::try_from(access::CreateKeyRequest {
            custody: bytes.clone(),
            epoch: 0,
            recovery_recipient: bytes.clone(),
        });
        let _ = CreatedKey::try_from(access::CreateKeyResponse {
            public_key: bytes.clone(),
            attestation: bytes.clone(),
            recovery_copy: bytes.clone(),
        });
        let _ = ImportKey::try_from(access::ImportKeyRequest {
            custody: bytes.clone(),
            epoch: 0,
            copy: bytes.clone(),
        });
        let _ = ImportedKey::try_from(access::ImportKeyResponse {
            attestation: bytes.clone(),
            was_held: grant,
        });
        let _ = keys_to_check(&access::CheckKeysRequest {
            custodies: vec![bytes],
        });
    }

    #[test]
    fn arbitrary_block_messages_never_panic(
        cids in vec(arbitrary_bytes(), 0..4),
        data in arbitrary_bytes(),
    ) {
        let cids: Vec<bytes::Bytes> = cids.into_iter().map(bytes::Bytes::from).collect();
        let _ = has_cids(&block::HasRequest { cids: cids.clone() });
        let cid = cids.first().cloned().unwrap_or_default();
        let _ = Block::try_from(block::PutRequest { cid, data: data.into() });
        let _ = Get::try_from(block::GetRequest { cids, local_only: true });
    }

    #[test]
    fn arbitrary_registry_messages_never_panic(
        bytes in arbitrary_bytes(),
        texts in vec(arbitrary_text(), 4),
        number in any::<u64>(),
    ) {
        let text = |at: usize| texts[at].clone();
        let _ = ListedPrincipal::try_from(registry::Principal {
            did: text(0),
            key: text(1),
            kind: text(1),
            org: text(2),
            standing: text(3),
            roles: texts.clone(),
            label: text(0),
            device: bytes.clone(),
            leaf_index: number,
            factors: vec![registry::Factor {
                factor: bytes.clone(),
                method: text(3),
                node: text(2),
                leaf_index: number,
            }],
        });
        let _ = ListedCustody::try_from(registry::Custody {
            custody: bytes.clone(),
            owner: text(0),
            kind: text(1),
            public_key: bytes.clone(),
            epoch: 1,
            brokers: texts.clone(),
            writers: texts.clone(),
            leaf_index: number,
            erased: false,
        });
        let _ = AnchoredRecord::try_from(registry::GetRecordResponse {
            anchored: bytes.clone(),
            leaf_index: number,
            holders: texts.clone(),
            tree_size: number,
        });
        let _ = ListedLegalHold::try_from(registry::LegalHold {
            legal_hold: bytes.clone(),
            leaf_index: number,
            matter: text(0),
        });
        let _ = NodeStatus::try_from(registry::StatusResponse {
            did: text(0),
            origin: text(1),
            leader: text(2),
            ..registry::StatusResponse::default()
        });
        let _ = record_asked_for(&registry::GetRecordRequest { record: bytes.clone() });
        let _ = consents_asked_for(&registry::ListConsentsRequest { custody: bytes.clone() });
        let _ = legal_holds_after(&registry::ListLegalHoldsRequest { after: bytes.clone(), limit: 0 });
        let _ = account_asked_for(&registry::GetAccountRequest {
            query: bytes.clone(),
            signature: bytes.clone(),
        });
        let _ = disclosures_asked_for(&registry::ListDisclosuresRequest {
            query: bytes.clone(),
            signature: bytes.clone(),
            first: number,
            limit: 0,
            proof_tree_size: number,
        });
        let _ = AsOf::<Vec<Disclosure>>::try_from(registry::ListDisclosuresResponse {
            disclosures: vec![registry::Disclosure {
                leaf_index: number,
                leaf: bytes.clone(),
                opening: bytes.clone(),
                proof: vec![bytes.clone()],
                disclosed: bytes.clone(),
            }],
            tree_size: number,
        });
        let _ = stream_asked_for(&registry::GetStreamRequest {
            device: text(0),
            stream: bytes,
        });
    }

    #[test]
    fn arbitrary_wire_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = anchor::SubmitResponse::decode(bytes.as_slice()).map(Submitted::try_from);
        let _ = access::RequestResponse::decode(bytes.as_slice())
            .map(|message| Decision::try_from(vec![message]));
        let _ = registry::StatusResponse::decode(bytes.as_slice()).map(NodeStatus::try_from);
    }

    #[test]
    fn principal_is_read_back_as_it_was_sent(
        roles in vec("[a-z-]{1,32}", 0..=16),
        label in "[a-zA-Z0-9 ]{0,64}",
        leaf_index in any::<u64>(),
    ) {
        let listed = ListedPrincipal {
            did: key().did(),
            key: SigningKey::from_seed(&[8; 32]).did(),
            kind: PrincipalKind::Device,
            org: key().did(),
            standing: Status::Suspended,
            roles,
            label,
            leaf_index,
            factors: vec![Factor {
                factor: Nonce::new([1; 16]),
                method: FactorMethod::Totp,
                node: key().did(),
                since: leaf_index,
            }],
            device: Some(DeviceDetails {
                udi: Some("00844588003288".to_owned()),
                serial: Some(DeviceDetails::commit(&[7; 16], "HX-1")),
                ..DeviceDetails::default()
            }),
        };
        let sent = registry::Principal::from(listed.clone());
        prop_assert_eq!(ListedPrincipal::try_from(sent).unwrap(), listed);
    }
}

#[test]
fn statement_is_read_back_as_it_was_sent() {
    let submit = Submit {
        signed: signed(),
        strength: None,
    };
    let sent = anchor::SubmitRequest::from(submit.clone());
    assert_eq!(Submit::try_from(sent).unwrap(), submit);
}

#[test]
fn unspecified_strength_means_published() {
    let sent = anchor::SubmitRequest {
        signed_statement: signed().to_bytes(),
        strength: 0,
    };
    let submit = Submit::try_from(sent).unwrap();
    assert_eq!(submit.strength, Some(medanchor_anchor::Strength::Published));
}

#[test]
fn status_is_read_back_as_it_was_sent() {
    let status = NodeStatus {
        origin: "example.org/log".to_owned(),
        node: "a".to_owned(),
        did: key().did(),
        version: "0.1.0".to_owned(),
        role: "follower".to_owned(),
        leader: Some("b".to_owned()),
        tree_size: 7,
        published_size: 6,
        cosignatures: 3,
        blocks: 5,
        blocks_size_bytes: 4,
        blocks_repaired: 1,
        blocks_found_bad: 3,
        blocks_missing: 2,
        scrub: Scrubbed {
            passes: 9,
            ended_at_unix_ms: 10,
            began_at_unix_ms: 11,
            blocks: 12,
            size_bytes: 13,
        },
        collection: Collected {
            cycles: 14,
            ended_at_unix_ms: 15,
            blocks: 16,
            size_bytes: 17,
            waits_for: Some(*valid_block().cid()),
        },
        replication: Replicated {
            looked_at_unix_ms: 18,
            records: 26,
            below_target: 19,
            oldest_below_target: Some(BelowTarget {
                record: *valid_block().cid(),
                anchored_at_unix_ms: 20,
                since_unix_ms: 27,
            }),
            awaited: 28,
            bytes_to_fetch: 29,
            to_fetch: 21,
            to_give_back: 22,
            fetched: 23,
            fetched_bytes: 24,
            given_back: 25,
        },
        peers: vec![PeerStatus {
            node: "b".to_owned(),
            swarm_connected: true,
            address: "127.0.0.1:7000".to_owned(),
        }],
        alarms: vec![Alarm {
            id: "equivocation-0123456789abcdef".to_owned(),
            origin: "example.org/log".to_owned(),
            raised_at_unix_ms: 8,
            details: "somebody signed two logs".to_owned(),
            means: "somebody lies".to_owned(),
            todo: "tell everybody".to_owned(),
        }],
    };
    let sent = registry::StatusResponse::from(status.clone());
    assert_eq!(NodeStatus::try_from(sent).unwrap(), status);
}

#[test]
fn record_check_is_read_back_as_it_was_sent() {
    let check = RecordCheck {
        holder: true,
        blocks: 1,
        size_bytes: 2,
        missing: 3,
        checked_at_unix_ms: 4,
        copies: 5,
        tree_size: 6,
        to_fetch: false,
        to_give_back: true,
        verified_since_unix_ms: 7,
        holders: vec!["a".to_owned(), "b".to_owned()],
        legal_holders: vec!["c".to_owned()],
    };
    let mut sent = registry::CheckRecordResponse::from(check.clone());
    assert_eq!(RecordCheck::try_from(sent.clone()).unwrap(), check);
    let mut too_many = sent.clone();
    too_many.legal_holders = vec!["a".to_owned(); 65];
    assert!(RecordCheck::try_from(too_many).is_err());
    sent.holders = vec!["a".to_owned(); 65];
    assert!(RecordCheck::try_from(sent).is_err());
}

#[test]
fn names_with_control_characters_are_refused() {
    let mut status = registry::StatusResponse {
        did: key().did().to_string(),
        ..registry::StatusResponse::default()
    };
    assert!(NodeStatus::try_from(status.clone()).is_ok());
    status.node = "\u{1b}[2J".to_owned();
    assert!(NodeStatus::try_from(status).is_err());
}

#[test]
fn uploaded_block_must_hash_to_its_cid() {
    let good = block::PutRequest::from(valid_block());
    assert!(Block::try_from(good.clone()).is_ok());
    let mut bad = good;
    bad.data = bytes::Bytes::from_static(b"something else");
    assert!(Block::try_from(bad).is_err());
}

#[test]
fn more_cids_than_the_limit_are_refused() {
    let cid = bytes::Bytes::from(valid_block().cid().to_bytes());
    let request = |count| block::HasRequest {
        cids: vec![cid.clone(); count],
    };
    assert!(has_cids(&request(1024)).is_ok());
    assert!(has_cids(&request(1025)).is_err());
}

#[test]
fn opening_must_be_the_one_the_leaf_commits_to() {
    use medanchor_anchor::{Entry, Kind, Leaf, Opening, Outcome};
    let opening = Opening(Entry {
        salt: [1; 32],
        signed: signed(),
    });
    let leaf = Leaf {
        v: 1,
        kind: Kind::Suspended,
        at: 1,
        outcome: Outcome::Ok,
        record: None,
        opening: opening.commitment(),
    };
    let entry = LeafEntry {
        index: 3,
        leaf,
        opening: Some(opening),
        erased_with: None,
    };
    let listed = |value| AsOf {
        tree_size: 4,
        value,
    };
    let sent = anchor::ListLeavesResponse::from(listed(Some(entry.clone())));
    let read = AsOf::try_from(sent.clone()).unwrap();
    assert_eq!(read, listed(Some(entry.clone())));
    let erased = LeafEntry {
        opening: None,
        erased_with: Some(CustodyId::new([5; 16])),
        ..entry.clone()
    };
    let without = anchor::ListLeavesResponse::from(listed(Some(erased.clone())));
    let read = AsOf::try_from(without.clone()).unwrap();
    assert_eq!(read, listed(Some(erased)));
    let with_both = anchor::ListLeavesResponse {
        erased_with: without.erased_with,
        ..sent.clone()
    };
    assert!(AsOf::<Option<LeafEntry>>::try_from(with_both).is_err());
    let beyond = anchor::ListLeavesResponse {
        tree_size: 3,
        ..sent.clone()
    };
    assert!(AsOf::<Option<LeafEntry>>::try_from(beyond).is_err());
    let none = anchor::ListLeavesResponse::from(listed(None));
    let none = AsOf::<Option<LeafEntry>>::try_from(none).unwrap();
    assert_eq!(none, listed(None));
    let mut other = entry;
    other.opening = Some(Opening(Entry {
        salt: [2; 32],
        signed: signed(),
    }));
    let swapped = anchor::ListLeavesResponse {
        opening: anchor::ListLeavesResponse::from(listed(Some(other))).opening,
        ..sent
    };
    assert!(AsOf::<Option<LeafEntry>>::try_from(swapped).is_err());
}

#[test]
fn custody_key_request_is_read_back_as_it_was_sent() {
    let create = CreateKey {
        custody: CustodyId::new([5; 16]),
        epoch: 2,
        recovery_recipient: [9; 32],
    };
    let sent = access::CreateKeyRequest::from(create);
    assert_eq!(CreateKey::try_from(sent).unwrap(), create);
}

#[test]
fn custody_key_that_is_imported_is_read_back_as_it_was_sent() {
    let import = ImportKey {
        custody: CustodyId::new([5; 16]),
        epoch: 2,
        copy: bytes::Bytes::from_static(b"sealed"),
    };
    let sent = access::ImportKeyRequest::from(import.clone());
    assert_eq!(ImportKey::try_from(sent).unwrap(), import);
    let imported = ImportedKey {
        attestation: Attestation::sign(&key(), CustodyId::new([5; 16]), 2, &[7; 32], [9; 32]),
        was_held: true,
    };
    let answered = access::ImportKeyResponse::from(imported.clone());
    assert_eq!(ImportedKey::try_from(answered).unwrap(), imported);
}

#[test]
fn no_more_custody_keys_than_a_page_are_checked_at_once() {
    let asked = |count: usize| access::CheckKeysRequest {
        custodies: vec![vec![5; 16]; count],
    };
    let ids = keys_to_check(&asked(MAX_CHECKED_KEYS)).unwrap();
    assert_eq!(ids, [CustodyId::new([5; 16]); MAX_CHECKED_KEYS]);
    assert!(keys_to_check(&asked(MAX_CHECKED_KEYS + 1)).is_err());
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[3; 32])
}

fn valid_block() -> Block {
    Block::new(Codec::Raw, &b"sealed"[..]).unwrap()
}

fn signed() -> medanchor_anchor::SignedStatement {
    let who = key().did();
    Statement::new(
        "example.org/log",
        Body::Suspended(Standing { who }),
        [1; 16],
        9,
    )
    .sign(&[&key()])
}

#[test]
fn messages_that_are_no_answer_are_refused() {
    use access::request_response::Part;
    let wraps = |count| {
        Part::Wraps(access::Wraps {
            wraps: vec![vec![1]; count],
        })
    };
    let denial = || {
        Part::Denial(access::Denial {
            code: "no-consent".to_owned(),
            reason: "none".to_owned(),
            receipt: Vec::new(),
        })
    };
    let decision = |parts: Vec<Option<Part>>| {
        let parts = parts.into_iter();
        let messages = parts
            .map(|part| access::RequestResponse { part })
            .collect::<Vec<_>>();
        Decision::try_from(messages)
    };
    assert!(decision(vec![Some(denial())]).is_ok());
    for parts in [
        vec![],
        vec![None],
        vec![Some(wraps(1))],
        vec![Some(wraps(1)), Some(denial())],
    ] {
        assert!(decision(parts).is_err());
    }
}

#[test]
fn cohort_out_of_order_or_with_one_twice_is_refused() {
    let key = SigningKey::from_seed(&[1; 32]);
    let body = Body::Suspended(Standing { who: key.did() });
    let signed = Statement::new("test.example", body, [3; 16], 4).sign(&[&key]);
    let asked = |cohort: &[u8]| {
        Asked::try_from(access::RequestRequest {
            signed_statement: signed.to_bytes(),
            cohort: cohort.iter().map(|byte| vec![*byte; 16]).collect(),
        })
    };
    assert!(asked(&[]).is_ok() && asked(&[1, 2]).is_ok());
    assert!(asked(&[2, 1]).is_err() && asked(&[1, 1]).is_err());
    let sound = asked(&[1, 2]).unwrap();
    assert_eq!(
        Asked::try_from(access::RequestRequest::from(&sound)).unwrap(),
        sound
    );
}
