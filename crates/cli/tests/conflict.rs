//! `medanchor verify` on the proof that a leader lied: a file, a policy, and nobody to ask.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use medanchor_anchor::{
    BatchConflict, BatchHead, Receipt, SignedBatchHead, TrustPolicy,
    testing::{MEMBERS, ORIGIN, World, did, node_key},
};
use medanchor_dag::Hash;
use serde_json::Value;
use std::{ffi::OsString, fs};

#[test]
fn proof_names_the_liar() {
    let (code, json) = verify(&proof("batch", "other").to_string());
    assert_eq!(code, 0, "{json}");
    assert_eq!(json["ok"], true);
    assert_eq!(json["liar"], MEMBERS[0]);
    assert_eq!(json["org"], did(MEMBERS[0]).to_string());
    assert_eq!(json["conflict"], "two batches as entry 17 of term 3");
}

#[test]
fn what_proves_nothing_does_not_verify() {
    let text = proof("batch", "other").to_string();
    let harmless = proof("batch", "batch").to_string();
    let changed = text.replace("index 0", "index 1");
    let cut = text.split_once("\n\n").unwrap().0.to_owned();
    for (text, name) in [
        (harmless, "no conflict"),
        (changed, "changed"),
        (cut, "cut"),
    ] {
        let (code, json) = verify(&text);
        assert_eq!(code, 4, "{name}: {json}");
    }
}

fn verify(text: &str) -> (u8, Value) {
    let folder = tempfile::tempdir().unwrap();
    let (file, policy) = (folder.path().join("proof"), folder.path().join("policy"));
    fs::write(&file, text).unwrap();
    let founded = World::new().state().founded().unwrap().unwrap().founded;
    let trusted = TrustPolicy::founded(&founded).unwrap();
    fs::write(&policy, trusted.to_string()).unwrap();
    let words = ["medanchor", "--json", "verify", "--policy"].map(OsString::from);
    let words = words.into_iter().chain([policy.into(), file.into()]);
    let mut out = Vec::new();
    let exit = medanchor_cli::run(words, &mut out, &mut Vec::new());
    (exit.code(), serde_json::from_slice(&out).unwrap())
}

fn proof(one: &str, two: &str) -> BatchConflict {
    BatchConflict::new(head(one), head(two), receipt())
}

fn head(batch: &str) -> SignedBatchHead {
    let node = node_key(MEMBERS[0]);
    let head = BatchHead {
        v: 1,
        origin: ORIGIN.to_owned(),
        node: node.did(),
        term: 3,
        index: 17,
        size: 5,
        root: Hash::of(b"root"),
        batch: Hash::of(batch.as_bytes()),
    };
    head.sign(&node)
}

/// Of the founding statement.
fn receipt() -> Receipt {
    let world = World::new();
    world.receipt(0, world.checkpoint(1, "hospital-a", &MEMBERS))
}
