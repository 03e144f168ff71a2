//! The examples in `docs/formats.md` are what this crate reads and writes.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

use medanchor_envelope::{Header, Identity, SealedKey, Wrap};
use serde_json::Value;
use zeroize::Zeroizing;

const FORMATS: &str = include_str!("../../../docs/formats.md");

#[test]
fn header() {
    let header = Header::from_bytes(&example("header")).unwrap();
    assert_eq!(header.to_bytes(), example("header"));
    let hash = &vectors()["three_chunks"]["header_hash"];
    assert_eq!(hex::encode(header.hash()), hash.as_str().unwrap());
}

#[test]
fn wrap() {
    let wrap = Wrap::from_bytes(&example("wrap")).unwrap();
    assert_eq!(wrap.to_bytes(), example("wrap"));
    let vector = &vectors()["wrap_to_partner"];
    assert_eq!(hex::encode(wrap.enc), vector["enc"].as_str().unwrap());
    assert_eq!(hex::encode(wrap.ct), vector["ct"].as_str().unwrap());
    let header = Header::from_bytes(&example("header")).unwrap();
    assert_eq!(wrap.ctx.header, header.hash());
    assert_eq!(wrap.ctx.to, partner().recipient().id());
}

#[test]
fn custody_copy() {
    let copy = SealedKey::from_bytes(&example("custody copy")).unwrap();
    assert_eq!(copy.to_bytes(), example("custody copy"));
    let custody_key = identity(&vectors()["keys"]["custody_private"]);
    let custody = bytes(&vectors()["keys"]["custody"]).try_into().unwrap();
    let opened = copy.open(&partner(), custody, 0, &custody_key.recipient());
    assert_eq!(*opened.unwrap().to_bytes(), *custody_key.to_bytes());
}

#[test]
fn labels_are_all_listed() {
    for label in [
        "record",
        "commitment",
        "payload",
        "metadata",
        "wrap",
        "custody-copy",
    ] {
        assert!(FORMATS.contains(&format!("`medanchor/v1/{label}`")));
    }
}

fn partner() -> Identity {
    identity(&vectors()["wrap_to_partner"]["recipient_private"])
}

fn identity(private: &Value) -> Identity {
    Identity::from_bytes(Zeroizing::new(bytes(private).try_into().unwrap()))
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/medanchor-v1.json")).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn example(name: &str) -> Vec<u8> {
    let start = format!("\n```hex {name}\n");
    let (_, rest) = FORMATS
        .split_once(&start)
        .expect("the document has the example");
    let (block, _) = rest.split_once("```").expect("the example ends");
    hex::decode(block.replace('\n', "")).unwrap()
}
