//! `medanchor verify`, offline: a receipt, a policy file and nobody to ask.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use medanchor_anchor::{
    Anchored, Body, Checkpoint, Class, ConsistencyProof, Entry, Equivocation, Kind, Leaf,
    MemoryTables, Opening, Outcome, PolicyChain, Receipt, SignatureKind, SignedNote, Standing,
    Statement, TrustPolicy, VerifierKey, cosign,
    testing::{self, MEMBERS, World},
    tree,
};
use medanchor_dag::{Block, CarWriter, Chunks, Draft, Hash, Record, SigningKey, StreamId};
use medanchor_envelope::{Header, Suite};
use serde_json::Value;
use std::{ffi::OsString, fs, path::Path};
use tempfile::TempDir;

const ORIGIN: &str = "anchor.example";

#[test]
fn good_receipt_verifies_with_the_policy_file_alone() {
    let case = Case::new();
    let (code, json) = case.verify(&["receipt", "record"]);
    assert_eq!(code, 0, "{json}");
    assert_eq!(json["ok"], true);
    assert_eq!(json["leaf_index"], 1);
    assert_eq!(json["tree_size"], 2);
    assert_eq!(json["kind"], "anchored");
    assert_eq!(json["record"], case.record.cid().to_string());
    assert_eq!(json["cosigners"].as_array().unwrap().len(), 3);
}

#[test]
fn receipt_of_another_record_does_not_verify() {
    let case = Case::new();
    case.write("other", record(2).to_block().bytes());
    let (code, json) = case.verify(&["receipt", "other"]);
    assert_eq!((code, &json["code"]), (4, &Value::from("not-verified")));
}

#[test]
fn receipts_record_may_be_named_by_its_cid() {
    let case = Case::new();
    let cid = case.record.cid().to_string();
    assert_eq!(case.verify(&["receipt", &cid]).0, 0);
    let other = record(2).cid().to_string();
    let (code, json) = case.verify(&["receipt", &other]);
    assert_eq!((code, &json["code"]), (4, &Value::from("not-verified")));
}

#[test]
fn record_with_a_flipped_bit_does_not_verify() {
    let case = Case::new();
    let mut bytes = case.record.to_block().bytes().to_vec();
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).unwrap() ^= 1;
    case.write("record", &bytes);
    assert_eq!(case.verify(&["receipt", "record"]).0, 4);
}

#[test]
fn receipts_record_may_be_a_root_of_a_car() {
    let case = Case::new();
    let (own, other) = (case.record.to_block(), record(2).to_block());
    // Others may come before it, as `car export` of several records has them.
    case.write("car", &car(&[&other, &own], &[&other, &own]));
    let (code, json) = case.verify(&["receipt", "car"]);
    assert_eq!(code, 0, "{json}");
    let mut damaged = car(&[&own], &[&own]);
    *damaged.last_mut().unwrap() ^= 1;
    let mut cut = car(&[&own], &[&own]);
    cut.pop();
    let long = [vec![0x80; 100_000], vec![0]].concat();
    for (what, bytes) in [
        ("another root", car(&[&other], &[&other])),
        ("no root", car(&[&other], &[&other, &own])),
        ("no block", car(&[&own], &[&other])),
        ("a flipped bit", damaged),
        ("cut off", cut),
        ("version 2", b"\x0a\xa1gversion\x02".to_vec()),
        ("neither car nor record", long),
    ] {
        case.write("car", &bytes);
        let (code, json) = case.verify(&["receipt", "car"]);
        let found = (code, &json["code"]);
        assert_eq!(found, (4, &Value::from("not-verified")), "{what}: {json}");
    }
}

#[test]
fn warnings_are_of_the_policies_that_judge() {
    let [a, b, c] = MEMBERS;
    let d = "hospital-d";
    let mut world = World::new();
    // Three of three, without any of whom nothing is published, become three of four.
    let joined = world.join(d, 3, &[a, b]).index;
    let change = world.receipt(joined, world.checkpoint(joined + 1, a, &[a, b, c]));
    let chain = PolicyChain {
        changes: vec![change.clone()],
        ..PolicyChain::default()
    };
    world.enrol("ada", medanchor_anchor::PrincipalKind::Person, a, &[]);
    let after = world.receipt(joined, world.checkpoint(joined + 2, a, &[a, b, d]));
    let founding = testing::founded(testing::cid("policy"));
    let policy = TrustPolicy::founded(&founding).unwrap();

    let case = Case::new();
    case.write("policy.txt", policy.to_string().as_bytes());
    case.write("chain", &chain.to_bytes());
    for (receipt, expected) in [(change, 3), (after, 0)] {
        case.write("receipt", receipt.to_string().as_bytes());
        let (code, json) = case.verify(&["receipt", "--chain", "chain"]);
        assert_eq!(code, 0, "{json}");
        let warnings = json["policy_warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), expected, "{json}");
    }
}

#[test]
fn changed_receipt_and_garbage_do_not_verify() {
    let case = Case::new();
    let text = fs::read_to_string(case.path("receipt")).unwrap();
    case.write("receipt", text.replace("\n2\n", "\n3\n").as_bytes());
    assert_eq!(case.verify(&["receipt"]).0, 4);
    case.write("receipt", b"not a receipt");
    assert_eq!(case.verify(&["receipt"]).0, 4);
}

#[test]
fn too_few_cosignatures_are_published_to_nobody() {
    let case = Case::with(2, Outcome::Ok);
    assert_eq!(case.verify(&["receipt"]).0, 4);
    let (code, json) = case.verify(&["receipt", "--strength", "witnessed"]);
    assert_eq!((code, &json["strength"]), (0, &Value::from("witnessed")));
    let (_, json) = Case::new().verify(&["receipt", "--strength", "witnessed"]);
    assert_eq!(json["strength"], "published");
}

#[test]
fn two_roots_of_one_size_are_proven_and_who_signed_both_is_named() {
    let case = Case::new();
    let (truth, lie) = (Hash::of(b"truth"), Hash::of(b"lie"));
    let (first, second) = (checkpoint(lie, 1), checkpoint(truth, 3));
    let nothing = ConsistencyProof(Vec::new());
    let proof = Equivocation::of_roots(first, truth, nothing, second).unwrap();
    case.write("proof", proof.to_string().as_bytes());
    let (code, json) = case.verify(&["proof"]);
    assert_eq!((code, &json["proven"]), (0, &Value::from("equivocation")));
    let names = |field: &str| json[field].as_array().unwrap().len();
    // The log's key and the first co-signer; the other two signed the truth alone.
    assert_eq!((names("signed_both"), names("signed_second")), (2, 2));
    assert_eq!(json["checkpoints"][1]["root"], truth.to_string());

    let changed = proof.to_string().replace("\nold 2\n", "\nold 1\n");
    case.write("proof", changed.as_bytes());
    assert_eq!(case.verify(&["proof"]).0, 4);
    assert_eq!(case.verify(&["proof", "record"]).0, 2);
}

#[test]
fn receipts_that_contradict_each_other_become_a_proof() {
    let case = Case::new();
    let other = receipt(&case.record, 3, Outcome::Forbidden);
    case.write("other", other.to_string().as_bytes());
    let same = case.tool("accuse", &["receipt", "receipt", "--output", "same"]);
    assert_eq!(same.0, 4);
    assert!(!case.path("same").exists());
    let (code, json) = case.tool("accuse", &["receipt", "other", "--output", "proof"]);
    assert_eq!(code, 0, "{json}");
    let (code, json) = case.verify(&["proof"]);
    assert_eq!(code, 0, "{json}");
    assert_eq!(json["signed_both"].as_array().unwrap().len(), 4);
    assert_eq!(json["policy_warnings"].as_array().unwrap().len(), 0);
    // Two of four can be two others of them.
    case.write("policy.txt", policy_of(2).to_string().as_bytes());
    let (code, json) = case.tool("accuse", &["receipt", "other", "--output", "weak"]);
    assert_eq!(code, 0, "{json}");
    assert_eq!(json["policy_warnings"].as_array().unwrap().len(), 1);
}

#[test]
fn leaf_that_says_refused_shows_nothing() {
    let case = Case::with(3, Outcome::Forbidden);
    let (code, json) = case.verify(&["receipt"]);
    assert_eq!(code, 4);
    assert!(
        json["error"].as_str().unwrap().contains("forbidden"),
        "{json}"
    );
}

#[test]
fn missing_files_are_failures_and_a_broken_policy_too() {
    let case = Case::new();
    assert_eq!(case.verify(&["nothing"]).0, 1);
    case.write("policy.txt", b"trust me");
    assert_eq!(case.verify(&["receipt"]).0, 1);
}

/// A folder with a policy, a record and its receipt.
struct Case {
    folder: TempDir,
    record: Record,
}

impl Case {
    fn new() -> Self {
        Self::with(3, Outcome::Ok)
    }

    fn with(cosigners: u8, outcome: Outcome) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let record = record(1);
        let case = Self { folder, record };
        let receipt = receipt(&case.record, cosigners, outcome);
        case.write("policy.txt", policy().to_string().as_bytes());
        case.write("receipt", receipt.to_string().as_bytes());
        case.write("record", case.record.to_block().bytes());
        case
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn verify(&self, arguments: &[&str]) -> (u8, Value) {
        self.tool("verify", arguments)
    }

    fn tool(&self, command: &str, arguments: &[&str]) -> (u8, Value) {
        let path = |argument: &&str| match *argument {
            word if word.starts_with("--") || word.starts_with("bafy") || word == "witnessed" => {
                OsString::from(word)
            }
            file => Path::new(self.folder.path()).join(file).into(),
        };
        let words = ["medanchor", "--json", command, "--policy"].map(OsString::from);
        let words = words.into_iter().chain([self.path("policy.txt").into()]);
        let words = words.chain(arguments.iter().map(path));
        let mut out = Vec::new();
        let exit = medanchor_cli::run(words, &mut out, &mut Vec::new());
        (exit.code(), serde_json::from_slice(&out).unwrap())
    }
}

fn record(seed: u8) -> Record {
    let key = device();
    let did = key.did().to_string();
    let suite = Suite::ChaCha20Poly1305;
    let header = Header::new(suite, 16, [seed; 16], &did, [2; 16], "waveform.ecg", 3).unwrap();
    Draft {
        header: header.to_bytes(),
        commitment: [4; 32],
        size: 5,
        chunks: Chunks::Inline(vec![0; 21].into()),
        meta: Vec::new(),
        seq: 0,
        prev: None,
    }
    .sign(&key)
    .unwrap()
}

fn receipt(record: &Record, cosigners: u8, outcome: Outcome) -> Receipt {
    let before = Body::Suspended(Standing {
        who: device().did(),
    });
    let before = opening(Statement::new(ORIGIN, before, [1; 16], 9));
    let anchored = opening(Statement::anchored(ORIGIN, anchored(record)));
    let leaf = leaf(&anchored, outcome, Some(*record.cid()));
    let mut tables = MemoryTables::default();
    tree::append(
        &mut tables,
        0,
        &self::leaf(&before, Outcome::Ok, None).to_bytes(),
    )
    .unwrap();
    tree::append(&mut tables, 1, &leaf.to_bytes()).unwrap();
    Receipt {
        leaf,
        opening: Some(anchored),
        index: 1,
        proof: tree::inclusion(&tables, 1, 2).unwrap(),
        checkpoint: checkpoint(tree::root(&tables, 2).unwrap(), cosigners),
    }
}

fn anchored(record: &Record) -> Anchored {
    let header = record.header();
    Anchored {
        record: *record.cid(),
        wrap: *record.cid(),
        custody: header.custody,
        device: record.device(),
        stream: StreamId::new([2; 16]),
        seq: 0,
        prev: None,
        class: Class::Ecg,
        captured_at: 3,
        size: 5,
        header: record.header_hash(),
    }
}

fn opening(statement: Statement) -> Opening {
    Opening(Entry {
        salt: [5; 32],
        signed: statement.sign(&[&device()]),
    })
}

fn leaf(opening: &Opening, outcome: Outcome, record: Option<medanchor_dag::Cid>) -> Leaf {
    Leaf {
        v: 1,
        kind: if record.is_some() {
            Kind::Anchored
        } else {
            Kind::Suspended
        },
        at: 1_792_000_000_000,
        outcome,
        record,
        opening: opening.commitment(),
    }
}

fn checkpoint(root: Hash, cosigners: u8) -> SignedNote {
    let origin = ORIGIN.to_owned();
    let mut note = Checkpoint {
        origin,
        size: 2,
        root,
    }
    .sign(&log())
    .unwrap();
    for number in 0..cosigners {
        let signature = cosign(&note, &name(number), &witness(number), 1_000).unwrap();
        note.add(signature).unwrap();
    }
    note
}

fn car(roots: &[&Block], blocks: &[&Block]) -> Vec<u8> {
    let roots: Vec<_> = roots.iter().map(|root| *root.cid()).collect();
    let mut car = CarWriter::new(Vec::new(), &roots).unwrap();
    blocks.iter().for_each(|block| car.write(block).unwrap());
    car.finish().unwrap()
}

/// Three of four.
fn policy() -> TrustPolicy {
    policy_of(3)
}

fn policy_of(quorum: u8) -> TrustPolicy {
    let log = VerifierKey::new(ORIGIN, SignatureKind::Ed25519, log().did()).unwrap();
    let key = |number: u8| {
        let kind = SignatureKind::Cosignature;
        VerifierKey::new(&name(number), kind, witness(number).did()).unwrap()
    };
    TrustPolicy::new(&[log], &[0, 1, 2, 3].map(key), quorum).unwrap()
}

fn device() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn log() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

fn witness(number: u8) -> SigningKey {
    SigningKey::from_seed(&[0x10 + number; 32])
}

fn name(number: u8) -> String {
    format!("{ORIGIN}/org{number}")
}
