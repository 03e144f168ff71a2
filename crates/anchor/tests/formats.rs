//! The examples in `docs/formats.md` are what this crate writes and reads.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what goes wrong here is a failed test"
)]

use medanchor_anchor::{
    Account, AccountHead, AccountOf, Actor, AddCheckpoint, Attestation, Batch, BatchConflict,
    BatchHead, Body, BreakGlassReviewed, Certifiers, Checkpoint, Class, Consented,
    ConsistencyProof, CustodyKind, Destroyed, DeviceDetails, Digested, Entry, EpochKeyChanged,
    Epochs, Equivocation, FactorEnrolled, FactorMethod, FactorRemoved, FactorVerified, Finding,
    Founded, Gone, Hold, Holding, InclusionProof, Kind, Leaf, LegalHold, LegalHoldPlaced, Opening,
    PlacedNode, Placement, PlacementRule, PolicyChain, PolicySet, PrincipalKind, Provision, Quota,
    Receipt, Refused, ReleaseList, RowProof, SignedBatchHead, SignedNote, SignedStatement,
    StateDigest, Statement, StoreKey, Strength, TrustPolicy, Withdrawn, WitnessRemoved, cosign,
    testing::{
        BEGINNING, HOUR, ORIGIN, World, attested, break_glass, break_glass_rule, cid, consent_id,
        consented, custody, custody_id, did, enrolled, epoch_key, everything, founded, joining,
        key, node_key, roles_changed, rotated, standing, stream_id, watching,
    },
    tree,
};
use medanchor_dag::{Cid, Hash, Record, from_canonical, to_canonical};
use serde_json::Value;
use std::fmt::Write as _;

const FORMATS: &str = include_str!("../../../docs/formats.md");

#[test]
fn header_and_record() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/medanchor-v1.json")).unwrap();
    let vector = &vectors["three_chunks"];
    let bytes = |name: &str| hex::decode(vector[name].as_str().unwrap()).unwrap();
    check("header", &bytes("header_cbor"));
    check("record", &bytes("record_cbor"));
    let record = Record::from_bytes(example("record")).unwrap();
    record.verify_signature().unwrap();
    assert_eq!(record.header_bytes(), example("header"));
    assert_eq!(record.cid().to_string(), vector["record_cid"]);
    assert!(FORMATS.contains(vector["record_cid"].as_str().unwrap()));
}

#[test]
fn statement_of_every_kind() {
    for statement in statements() {
        let name = format!("statement {}", statement.body.kind());
        check(&name, &statement.to_bytes());
        let read = Statement::from_bytes(&example(&name)).unwrap();
        assert_eq!(read, statement);
    }
}

#[test]
fn signed_statement() {
    let signed = suspension();
    check("signed statement", &signed.to_bytes());
    let read = SignedStatement::from_bytes(&example("signed statement")).unwrap();
    assert!(read.verifies());
    assert_eq!(read, signed);
}

/// A request for everything under two custody keys, and what is released on it: one has a record and one has none.
#[test]
fn selection_and_release_list() {
    let mut world = World::new();
    world.enrol("monitor", PrincipalKind::Device, "hospital-a", &["device"]);
    world.enrol("lab", PrincipalKind::Organisation, "lab", &["researcher"]);
    let mut cohort = ["patient", "nobody"].map(custody_id);
    cohort.sort_unstable();
    world.custody("patient", "hospital-a", CustodyKind::Person);
    world.consent("study", "patient", "lab", "HRESCH");
    world.anchor("record", "monitor", "patient", Class::Ecg);
    let request = world.request_all("lab", "researcher", "HRESCH", everything(&cohort));
    check("selection", &request.statement.to_bytes());
    let read = Statement::from_bytes(&example("selection")).unwrap();
    assert_eq!(read, request.statement);
    let list = world.list(&request, &cohort);
    check("release list", &list.to_bytes());
    assert_eq!(
        ReleaseList::from_bytes(&example("release list")).unwrap(),
        list
    );
    let proof = list.prove_rows().remove(0);
    check("row proof", &to_canonical(&proof));
    let read: RowProof = from_canonical(&example("row proof"), 4096).unwrap();
    assert_eq!(read.verify(&list.head()), Ok(()));
}

#[test]
fn attestation() {
    let key_bytes = [0x5a; 32];
    let held = attested(
        &node_key("hospital-a"),
        custody_id("patient"),
        0,
        &key_bytes,
    );
    check("attestation", &to_canonical(&held));
    let read: Attestation = from_canonical(&example("attestation"), 1024).unwrap();
    assert!(read.is_valid(custody_id("patient"), 0, &key_bytes));
}

#[test]
fn store_key() {
    let said = StoreKey::sign(&node_key("hospital-a"), ORIGIN, [0x5a; 32]);
    check("store key", &to_canonical(&said));
    let read: StoreKey = from_canonical(&example("store key"), StoreKey::MAX_BYTES).unwrap();
    assert!(read.is_valid(ORIGIN));
}

#[test]
fn hold() {
    let hold = example_hold();
    check("hold", &to_canonical(&hold));
    let read: Hold = from_canonical(&example("hold"), 1024).unwrap();
    read.verify(ORIGIN).unwrap();
    assert_eq!(read, hold);
}

#[test]
fn batch() {
    let batch = Batch {
        v: 1,
        proposed_at: BEGINNING,
        entries: vec![entry()],
        holds: vec![example_hold()],
        lists: vec![],
    };
    check("batch", &batch.to_bytes());
    assert_eq!(Batch::from_bytes(&example("batch")).unwrap(), batch);
}

#[test]
fn batch_head() {
    let signed = example_head(b"batch");
    check("batch head", &signed.to_bytes());
    let read = SignedBatchHead::verify(&example("batch head")).unwrap();
    assert_eq!(read, signed);
}

#[test]
fn batch_conflict() {
    let receipt = Receipt {
        leaf: leaf(),
        opening: Some(Opening(entry())),
        index: 0,
        proof: InclusionProof(vec![]),
        checkpoint: note(),
    };
    let proof = BatchConflict::new(example_head(b"batch"), example_head(b"other"), receipt);
    check_text("batch-conflict", &proof.to_string());
    let read: BatchConflict = text_example("batch-conflict").parse().unwrap();
    assert_eq!(read, proof);
}

#[test]
fn opening_and_leaf() {
    let (opening, leaf) = (Opening(entry()), leaf());
    check("opening", &opening.to_bytes());
    check("leaf", &leaf.to_bytes());
    let read = Leaf::from_bytes(&example("leaf")).unwrap();
    let opened = Opening::from_bytes(&example("opening")).unwrap();
    assert_eq!(read.opening, opened.commitment());
}

#[test]
fn checkpoint() {
    let note = note();
    check_text("checkpoint", &note.to_string());
    let read = SignedNote::parse(&text_example("checkpoint")).unwrap();
    let checked = policy().check(&read, Strength::Published).unwrap();
    assert_eq!(checked.checkpoint.size, 1);
}

#[test]
fn trust_policy() {
    check_text("policy", &policy().to_string());
    let read: TrustPolicy = text_example("policy").parse().unwrap();
    assert_eq!(read, policy());
}

#[test]
fn receipt() {
    let receipt = Receipt {
        leaf: leaf(),
        opening: Some(Opening(entry())),
        index: 0,
        proof: InclusionProof(vec![]),
        checkpoint: note(),
    };
    check_text("receipt", &receipt.to_string());
    let read: Receipt = text_example("receipt").parse().unwrap();
    read.verify(&policy(), Strength::Published).unwrap();
}

#[test]
fn policy_chain() {
    let mut world = World::new();
    let cosigners = ["hospital-a", "hospital-b", "hospital-c"];
    world.leave("hospital-c", 2, &["hospital-a", "hospital-b"]);
    let change = world.checkpoint(2, "hospital-a", &cosigners);
    let mut proofs = std::collections::BTreeMap::new();
    proofs.insert(2, world.state().consistency_proof(2, 2).unwrap());
    let chain = PolicyChain {
        changes: vec![world.receipt(1, change)],
        head: None,
        proofs,
    };
    check("policy-chain", &chain.to_bytes());
    let read = PolicyChain::from_bytes(&example("policy-chain")).unwrap();
    let root = TrustPolicy::founded(&founded(cid("policy"))).unwrap();
    let epochs = Epochs::follow(root, &read).unwrap();
    assert_eq!(
        (epochs.current().logs().count(), epochs.current_after()),
        (2, 2)
    );
}

#[test]
fn witness_request() {
    let request = AddCheckpoint {
        old_size: 0,
        proof: ConsistencyProof(vec![]),
        note: signed_checkpoint(),
    };
    check_text("add-checkpoint", &request.to_string());
    let read: AddCheckpoint = text_example("add-checkpoint").parse().unwrap();
    let keys: Vec<_> = policy().logs().cloned().collect();
    assert_eq!(read.decide(None, &keys).unwrap().size, 1);
}

#[test]
fn state_digest() {
    let said = Digested {
        index: 40_959,
        term: 3,
        tree_size: 40_000,
        digest: Hash::of(b"content"),
        size: 60_000_000,
    };
    let digest = StateDigest::sign(&node_key("hospital-a"), ORIGIN, said);
    check("state digest", &digest.to_bytes());
    let read = StateDigest::from_bytes(&example("state digest")).unwrap();
    let certifiers = Certifiers::founded(ORIGIN, &small_network());
    assert_eq!(certifiers.check(&[read]).unwrap(), said);
}

#[test]
fn equivocation_of_two_roots() {
    let (root, proof) = (
        tree::leaf_hash(&leaf().to_bytes()),
        ConsistencyProof(vec![]),
    );
    let proof = Equivocation::of_roots(false_note(), root, proof, note()).unwrap();
    check_text("equivocation roots", &proof.to_string());
    let read: Equivocation = text_example("equivocation roots").parse().unwrap();
    assert_eq!(read.verify(&policy()).unwrap().signed_both.len(), 2);
}

#[test]
fn equivocation_of_two_leaves() {
    let receipt = |leaf, checkpoint| Receipt {
        leaf,
        opening: None,
        index: 0,
        proof: InclusionProof(vec![]),
        checkpoint,
    };
    let (truth, lie) = (receipt(leaf(), note()), receipt(false_leaf(), false_note()));
    let proof = Equivocation::of_receipts(&truth, &lie);
    check_text("equivocation leaves", &proof.to_string());
    let read: Equivocation = text_example("equivocation leaves").parse().unwrap();
    assert_eq!(read.verify(&policy()).unwrap().signed_both.len(), 2);
}

/// One of each kind; `reinstated` and `revoked` look like `suspended`.
fn statements() -> Vec<Statement> {
    let mut world = World::new();
    world.enrol("monitor", PrincipalKind::Device, "hospital-a", &["device"]);
    world.enrol("lab", PrincipalKind::Organisation, "lab", &["researcher"]);
    world.custody("patient", "hospital-a", CustodyKind::Person);
    world.consent("study", "patient", "lab", "HRESCH");
    let record = world.anchor("record", "monitor", "patient", Class::Ecg);
    let anchored = world.anchored("next", "monitor", "patient", Class::Ecg);
    assert_eq!(anchored.stream, stream_id("main"));
    let request = world.request("lab", "researcher", "HRESCH", &[record]);
    let released = world.released(&request);
    let refused = Refused {
        request: request.clone(),
        code: "no-consent".to_owned(),
        basis: released.basis.clone(),
        decided_at: released.decided_at,
    };
    let withdrawn = Withdrawn {
        consent: consent_id("study"),
        custody: custody_id("patient"),
    };
    let patient = world.state().custody(&custody_id("patient")).unwrap();
    let mut erased = world.state().to_erase(&patient.unwrap()).unwrap();
    erased.replicas.truncate(1);
    let bodies = [
        Body::Founded(small_network()),
        monitor(),
        standing(Kind::Suspended, "monitor"),
        rotated("monitor", "monitor/next"),
        roles_changed("clinician", &["clinician", "researcher"]),
        Body::Custody(custody("patient", "hospital-a", CustodyKind::Person)),
        Body::Consented(study()),
        Body::Withdrawn(withdrawn),
        Body::Anchored(anchored),
        request.statement.body,
        Body::Released(Box::new(released)),
        Body::Refused(Box::new(refused)),
        Body::MemberAdded(Box::new(joining("hospital-d", 3))),
        Body::MemberRemoved(World::new().leaving("hospital-a", 2)),
        Body::WitnessAdded(Box::new(watching("witness.example/w", 4))),
        Body::WitnessRemoved(WitnessRemoved {
            key: watching("witness.example/w", 4).key,
            quorum: 3,
        }),
        Body::Placed(Box::new(placement())),
        Body::PolicySet(PolicySet {
            set: b"a policy set".to_vec(),
        }),
        Body::Holding(Holding {
            node: node_key("hospital-a").did(),
            holds: vec![record],
            gives_back: vec![cid("other")],
        }),
        Body::LegalHoldPlaced(LegalHoldPlaced {
            legal_hold: legal_hold(Some(record)),
            matter: "7 O 123/26".to_owned(),
        }),
        Body::LegalHoldReleased(legal_hold(None)),
        Body::FactorEnrolled(FactorEnrolled {
            who: did("clinician"),
            factor: consent_id("factor"),
            method: FactorMethod::Totp,
            node: node_key("hospital-a").did(),
        }),
        Body::FactorRemoved(FactorRemoved {
            who: did("clinician"),
            factor: consent_id("factor"),
        }),
        Body::FactorVerified(FactorVerified {
            who: did("clinician"),
            factor: consent_id("factor"),
            since: 7,
        }),
        Body::Account(Account::new(
            AccountOf::Custody(custody_id("patient-1")),
            AccountHead::default().then(&tree::leaf_hash(b"a released leaf")),
        )),
        Body::BreakGlassRule(break_glass_rule("hospital-a", "officer")),
        Body::BreakGlass(break_glass("clinician", "patient-1")),
        Body::BreakGlassReviewed(BreakGlassReviewed {
            who: did("clinician"),
            custody: custody_id("patient-1"),
            emergency: 7,
            finding: Finding::Justified,
        }),
        Body::EpochKey(EpochKeyChanged {
            holder: did("hospital-a"),
            from: epoch_key(&did("hospital-a")).into(),
            to: [7; 32].into(),
        }),
        Body::Erased(Box::new(erased)),
        Body::Destroyed(Destroyed {
            by: did("hospital-a"),
            custody: custody_id("patient"),
            erasure: 9,
            gone: Gone::Key,
        }),
    ];
    bodies
        .into_iter()
        .map(|body| match body {
            Body::Anchored(anchored) => Statement::anchored(ORIGIN, anchored),
            body => Statement::new(ORIGIN, body, [7; 16], BEGINNING + HOUR),
        })
        .collect()
}

fn legal_hold(record: Option<Cid>) -> LegalHold {
    LegalHold {
        hold: consent_id("matter"),
        org: did("hospital-a"),
        custody: custody_id("patient"),
        record,
    }
}

fn monitor() -> Body {
    let monitor = enrolled("monitor", PrincipalKind::Device, "hospital-a", &["device"]);
    let Body::Enrolled(mut body) = monitor else {
        panic!("not an enrolment");
    };
    body.device = Some(DeviceDetails {
        manufacturer: Some("Acme".to_owned()),
        model: Some("Monitor 3".to_owned()),
        udi: Some("00844588003288".to_owned()),
        firmware: Some("4.2.1".to_owned()),
        serial: Some(DeviceDetails::commit(&[7; 16], "HX-0042")),
    });
    Body::Enrolled(body)
}

/// With everything that a consent may have.
fn study() -> Consented {
    let mut study = consented("study", "patient", "lab", "HRESCH");
    study.provision.actors.push(Actor {
        party: Some(did("lab")),
        role: Some("clinician".to_owned()),
    });
    study.provision.valid.until = Some(BEGINNING + HOUR);
    study.except = vec![Provision {
        classes: vec![Class::Imaging],
        devices: vec![did("holter")],
        ..Provision::default()
    }];
    study.document = Some(Hash::new([7; 32]));
    study
}

fn placement() -> Placement {
    Placement {
        nodes: vec![PlacedNode {
            node_id: 1,
            weight: 2,
            zone: Some("north".to_owned()),
        }],
        rules: vec![PlacementRule {
            classes: vec![Class::Imaging],
            copies: 1,
            only: vec![did("hospital-a")],
            at_home: false,
        }],
        quotas: vec![Quota {
            org: did("hospital-a"),
            bytes: 1 << 40,
        }],
    }
}

/// One organisation alone: short enough to print.
fn small_network() -> Founded {
    let mut network = founded(cid("policy"));
    network.members.truncate(1);
    network.quorum = 1;
    network.copies = 1;
    network
}

fn suspension() -> SignedStatement {
    let body = standing(Kind::Suspended, "monitor");
    Statement::new(ORIGIN, body, [7; 16], BEGINNING + HOUR).sign(&[&key("hospital-a")])
}

fn entry() -> Entry {
    Entry {
        salt: [0xa5; 32],
        signed: suspension(),
    }
}

fn example_hold() -> Hold {
    let statements = vec![Hash::of(b"statement")];
    Hold::sign(
        &node_key("hospital-a"),
        ORIGIN,
        statements,
        BEGINNING + HOUR,
    )
}

fn example_head(batch: &[u8]) -> SignedBatchHead {
    let node = node_key("hospital-a");
    let head = BatchHead {
        v: 1,
        origin: ORIGIN.to_owned(),
        node: node.did(),
        term: 3,
        index: 17,
        size: 1,
        root: tree::leaf_hash(&leaf().to_bytes()),
        batch: Hash::of(batch),
    };
    head.sign(&node)
}

fn leaf() -> Leaf {
    Leaf {
        v: 1,
        kind: Kind::Suspended,
        at: BEGINNING,
        outcome: medanchor_anchor::Outcome::Ok,
        record: None,
        opening: Opening(entry()).commitment(),
    }
}

/// What the log does not hold.
fn false_leaf() -> Leaf {
    Leaf {
        outcome: medanchor_anchor::Outcome::Forbidden,
        ..leaf()
    }
}

fn signed_checkpoint() -> SignedNote {
    checkpoint_of(&leaf())
}

fn checkpoint_of(leaf: &Leaf) -> SignedNote {
    let checkpoint = Checkpoint {
        origin: ORIGIN.to_owned(),
        size: 1,
        root: tree::leaf_hash(&leaf.to_bytes()),
    };
    checkpoint.sign(&key("hospital-a/log")).unwrap()
}

fn note() -> SignedNote {
    cosigned(signed_checkpoint())
}

fn false_note() -> SignedNote {
    cosigned(checkpoint_of(&false_leaf()))
}

fn cosigned(mut note: SignedNote) -> SignedNote {
    let cosigner = key("hospital-a/cosigner");
    let name = format!("{ORIGIN}/hospital-a");
    note.add(cosign(&note, &name, &cosigner, BEGINNING / 1000).unwrap())
        .unwrap();
    note
}

fn policy() -> TrustPolicy {
    TrustPolicy::founded(&small_network()).unwrap()
}

/// Asserts that the block `hex <name>` holds these bytes.
fn check(name: &str, expected: &[u8]) {
    if block(&format!("hex {name}")).is_none_or(|_| example(name) != expected) {
        let mut lines = String::new();
        for line in hex::encode(expected).as_bytes().chunks(100) {
            writeln!(lines, "{}", std::str::from_utf8(line).unwrap()).unwrap();
        }
        panic!("docs/formats.md should say\n```hex {name}\n{lines}```");
    }
}

/// Asserts that the block `text <name>` holds this text.
fn check_text(name: &str, expected: &str) {
    if block(&format!("text {name}")) != Some(expected) {
        panic!("docs/formats.md should say\n```text {name}\n{expected}```");
    }
}

fn example(name: &str) -> Vec<u8> {
    let block = block(&format!("hex {name}")).expect("the document has the example");
    hex::decode(block.replace('\n', "")).unwrap()
}

fn text_example(name: &str) -> String {
    let block = block(&format!("text {name}"));
    block.expect("the document has the example").to_owned()
}

fn block(info: &str) -> Option<&'static str> {
    let (_, rest) = FORMATS.split_once(&format!("\n```{info}\n"))?;
    Some(rest.split_once("```")?.0)
}

#[test]
fn labels_are_all_listed() {
    for label in [
        Statement::LABEL,
        Hold::LABEL,
        BatchHead::LABEL,
        Attestation::LABEL,
        StateDigest::LABEL,
        "medanchor/v1/opening",
    ] {
        assert!(FORMATS.contains(label), "{label}");
    }
}
