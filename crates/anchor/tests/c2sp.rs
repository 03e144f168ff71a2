//! What other implementations wrote is read here, and what is written here is what they write.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use medanchor_anchor::{
    AddCheckpoint, Checkpoint, ConsistencyProof, InclusionProof, MemoryTables, Seen, SignedNote,
    Strength, TlogProof, TrustPolicy, VerifierKey, cosign, tree,
};
use medanchor_dag::{Hash, SigningKey};
use serde_json::Value;
use std::{env, fs, path::Path};

/// Logs that an independent program wrote: `entry-<i>`, repeated `1 + (i mod 5)` times.
struct Vector {
    json: Value,
    checkpoint: &'static str,
    add_checkpoint: &'static str,
    policy: &'static str,
    proof: &'static str,
}

macro_rules! vector {
    ($dir:literal) => {
        Vector {
            json: serde_json::from_str(include_str!(concat!(
                "vectors/c2sp/",
                $dir,
                "/vector.json"
            )))
            .unwrap(),
            checkpoint: include_str!(concat!("vectors/c2sp/", $dir, "/checkpoint")),
            add_checkpoint: include_str!(concat!("vectors/c2sp/", $dir, "/add-checkpoint.txt")),
            policy: include_str!(concat!("vectors/c2sp/", $dir, "/policy.txt")),
            proof: include_str!(concat!("vectors/c2sp/", $dir, "/proof.tlog-proof")),
        }
    };
}

fn vectors() -> [Vector; 2] {
    [vector!("n1"), vector!("n70")]
}

#[test]
fn tree_has_their_roots_and_proofs() {
    for vector in vectors() {
        let json = &vector.json;
        let (tables, size) = (log(json), number(&json["size"]));
        assert_eq!(tree::root(&tables, size).unwrap(), hash(&json["root"]));
        let old_size = number(&json["old_size"]);
        assert_eq!(
            tree::root(&tables, old_size).unwrap(),
            hash(&json["old_root"])
        );
        let inclusion = tree::inclusion(&tables, number(&json["index"]), size).unwrap();
        assert_eq!(inclusion.0, hashes(&json["inclusion"]));
        let consistency = tree::consistency(&tables, old_size, size).unwrap();
        assert_eq!(consistency.0, hashes(&json["consistency"]));
    }
}

#[test]
fn checkpoint_is_signed_and_cosigned_byte_for_byte() {
    for vector in vectors() {
        let json = &vector.json;
        let checkpoint = Checkpoint {
            origin: json["origin"].as_str().unwrap().to_owned(),
            size: number(&json["size"]),
            root: hash(&json["root"]),
        };
        let mut note = checkpoint.sign(&key(&json["log_seed"])).unwrap();
        let witnesses = json["witness_vkeys"].as_array().unwrap();
        let seeds = json["witness_seeds"].as_array().unwrap();
        for (seconds, (vkey, seed)) in (1_790_000_000..).zip(witnesses.iter().zip(seeds)) {
            let vkey: VerifierKey = vkey.as_str().unwrap().parse().unwrap();
            assert_eq!(vkey.key(), &key(seed).did());
            note.add(cosign(&note, vkey.name(), &key(seed), seconds).unwrap())
                .unwrap();
        }
        assert_eq!(note.to_string(), vector.checkpoint);
    }
}

#[test]
fn their_proof_verifies_under_their_policy() {
    for vector in vectors() {
        let policy: TrustPolicy = vector.policy.parse().unwrap();
        assert_eq!(policy.to_string().parse(), Ok(policy.clone()));
        let proof: TlogProof = vector.proof.parse().unwrap();
        assert_eq!(proof.to_string(), vector.proof);
        let leaf = STANDARD.decode(vector.json["leaf"].as_str().unwrap());
        let checked = proof
            .verify(&leaf.unwrap(), &policy, Strength::Published)
            .unwrap();
        assert_eq!(checked.cosigners.len(), 3);
        let other = proof.verify(b"another leaf", &policy, Strength::Published);
        assert!(other.is_err());
    }
}

#[test]
fn signatures_of_unknown_types_are_ignored() {
    let note = include_str!("vectors/c2sp/n70/checkpoint.pq");
    let note = SignedNote::parse(note).unwrap();
    assert_eq!(note.signatures().len(), 7);
    let [_, vector] = vectors();
    let policy: TrustPolicy = vector.policy.parse().unwrap();
    let checked = policy.check(&note, Strength::Published).unwrap();
    assert_eq!(checked.cosigners.len(), 3);
}

#[test]
fn their_request_is_decided_for() {
    for vector in vectors() {
        let json = &vector.json;
        let request: AddCheckpoint = vector.add_checkpoint.parse().unwrap();
        assert_eq!(request.to_string(), vector.add_checkpoint);
        let log: VerifierKey = json["log_vkey"].as_str().unwrap().parse().unwrap();
        let last = Seen {
            size: number(&json["old_size"]),
            root: hash(&json["old_root"]),
        };
        let seen = request.decide(Some(&last), &[log]).unwrap();
        assert_eq!(seen.size, number(&json["size"]));
    }
}

/// What `aics-witness` 0.1.0 answered to this very request of ours.
#[test]
fn answer_of_a_foreign_witness_is_added() {
    const KEY: &str = "witness.example/w1+50675e3e+BLxH8wl8Cn7k6u0DeBfMOGLZ96G7emOWCSS0PaTXVNmU";
    let witness: VerifierKey = KEY.parse().unwrap();
    let request = include_str!("vectors/c2sp/witness/add-checkpoint.txt");
    let request: AddCheckpoint = request.parse().unwrap();
    let mut note = request.note;
    let answer = include_str!("vectors/c2sp/witness/answer.txt");
    note.add_answer(answer, &witness).unwrap();
    let signers = note.signers([&witness]).unwrap();
    assert_eq!(signers[0].at_unix_seconds, Some(1_795_363_270));
}

/// github.com/transparency-dev/merkle, where it is at hand. `rfc6962.rs` has cases like these of our own.
#[test]
fn rfc_6962_inclusion_vectors_are_judged_as_expected() {
    for case in published("rfc6962-inclusion.json") {
        let verified = proof(&case["proof"]).map(InclusionProof).and_then(|proof| {
            let (leaf, root) = (decode(&case["leafHash"])?, decode(&case["root"])?);
            let (index, size) = (number(&case["leafIdx"]), number(&case["treeSize"]));
            proof.verify(&leaf, index, size, &root).ok()
        });
        assert_eq!(verified.is_none(), case["wantErr"], "{}", case["file"]);
    }
}

/// github.com/transparency-dev/merkle, where it is at hand. `rfc6962.rs` has cases like these of our own.
#[test]
fn rfc_6962_consistency_vectors_are_judged_as_expected() {
    for case in published("rfc6962-consistency.json") {
        // One good case has roots of 12 bytes, which no SHA-256 tree has.
        let (Some(old_root), Some(new_root)) = (decode(&case["root1"]), decode(&case["root2"]))
        else {
            continue;
        };
        let (old, new) = (number(&case["size1"]), number(&case["size2"]));
        let verified = proof(&case["proof"])
            .map(ConsistencyProof)
            .and_then(|proof| proof.verify(old, &old_root, new, &new_root).ok());
        assert_eq!(verified.is_none(), case["wantErr"], "{}", case["file"]);
    }
}

/// github.com/transparency-dev/tessera, where it is at hand.
#[test]
fn tessera_checkpoints_verify() {
    const KEY: &str =
        "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx";
    let key: VerifierKey = KEY.parse().unwrap();
    for size in 0..=15_u64 {
        let file = format!("tessera-testdata-log/testdata/log/checkpoint.{size}");
        let Some(note) = published_text(&file) else {
            continue;
        };
        let note = SignedNote::parse(&note).unwrap();
        assert_eq!(note.signers([&key]).unwrap().len(), 1);
        let checkpoint: Checkpoint = note.text().parse().unwrap();
        assert_eq!(checkpoint.size, size);
    }
}

fn log(json: &Value) -> MemoryTables {
    let mut tables = MemoryTables::default();
    for index in 0..number(&json["size"]) {
        let times = usize::try_from(1 + index % 5).unwrap();
        let entry = format!("entry-{index}").repeat(times);
        tree::append(&mut tables, index, entry.as_bytes()).unwrap();
    }
    tables
}

fn key(seed: &Value) -> SigningKey {
    let seed = hex::decode(seed.as_str().unwrap()).unwrap();
    SigningKey::from_seed(&seed.try_into().unwrap())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn hash(value: &Value) -> Hash {
    decode(value).unwrap()
}

fn hashes(value: &Value) -> Vec<Hash> {
    proof(value).unwrap()
}

/// `None` when one of the hashes is not 32 bytes: some of the bad proofs hold empty ones.
fn proof(value: &Value) -> Option<Vec<Hash>> {
    let Some(hashes) = value.as_array() else {
        return Some(Vec::new());
    };
    hashes.iter().map(decode).collect()
}

fn decode(value: &Value) -> Option<Hash> {
    let bytes = STANDARD.decode(value.as_str()?).ok()?;
    Some(Hash::new(bytes.try_into().ok()?))
}

fn published(file: &str) -> Vec<Value> {
    let Some(text) = published_text(file) else {
        return Vec::new();
    };
    let json: Value = serde_json::from_str(&text).unwrap();
    let cases = json["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

/// What others published and may not be copied: at hand where we test, and not in a clone.
fn published_text(file: &str) -> Option<String> {
    let read = fs::read_to_string(Path::new(PUBLISHED).join(file));
    let must_be_there = env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(
        read.is_ok() || !must_be_there,
        "CI=true, but there is no `{file}` in `{PUBLISHED}`"
    );
    read.ok()
}

const PUBLISHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
