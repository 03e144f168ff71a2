//! Feeds parsers what nobody would write: one target per parser, in one program. `README.md` says how to run it.
//!
//! A target fails when the parser panics, and when what it accepts is not written again as it was read: every format of ours
//! has one form.

#![no_main]

use libfuzzer_sys::fuzz_target;
use medanchor_anchor as anchor;
use medanchor_api::{self as api, pb};
use medanchor_dag as dag;
use medanchor_envelope as envelope;
use prost::Message;
use std::{fmt::Display, str::FromStr, sync::OnceLock};

type Target = fn(&[u8]);

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var(NAME).unwrap_or_default();
        let known = TARGETS.iter().find(|(known, _)| *known == name);
        let Some((_, target)) = known else {
            let all: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            println!("{}", all.join("\n"));
            std::process::exit(i32::from(name != "list"));
        };
        TARGET.get_or_init(|| *target);
    },
    |bytes: &[u8]| if let Some(target) = TARGET.get() {
        target(bytes);
    }
);

/// Bytes that are accepted are the only form of what they say.
macro_rules! bytes {
    ($kind:ty) => {
        |bytes| {
            if let Ok(value) = <$kind>::from_bytes(bytes) {
                assert_eq!(value.to_bytes(), bytes);
            }
        }
    };
}

/// So is text.
fn text<T: FromStr + Display>(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes)
        && let Ok(value) = text.parse::<T>()
    {
        assert_eq!(value.to_string(), text);
    }
}

/// Text that people write may have several forms: what is written again is read as the same.
fn loose_text<T: FromStr + Display>(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes)
        && let Ok(value) = text.parse::<T>()
    {
        let again = value.to_string();
        let read = again.parse::<T>().map(|value| value.to_string());
        assert_eq!(read.ok(), Some(again));
    }
}

/// A message of the wire, checked as a node or a client does.
fn message<M: Message + Default, T: TryFrom<M>>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let _ = T::try_from(message);
    }
}

fn record(bytes: &[u8]) {
    if let Ok(record) = dag::Record::from_bytes(bytes.to_vec()) {
        let _ = record.meta();
    }
}

fn links(bytes: &[u8]) {
    for codec in [dag::Codec::Raw, dag::Codec::DagCbor] {
        let block = dag::Block::new(codec, bytes.to_vec());
        if let Ok(block) = block {
            let _ = dag::links(&block);
        }
    }
}

const TARGETS: &[(&str, Target)] = &[
    ("record", record),
    ("links", links),
    ("did", text::<dag::Did>),
    ("custody-id", loose_text::<dag::CustodyId>),
    ("class", text::<dag::Class>),
    ("cid", |bytes| drop(dag::Cid::try_from(bytes))),
    ("header", bytes!(envelope::Header)),
    ("wrap", bytes!(envelope::Wrap)),
    ("sealed-key", bytes!(envelope::SealedKey)),
    ("statement", bytes!(anchor::Statement)),
    ("signed-statement", bytes!(anchor::SignedStatement)),
    ("leaf", bytes!(anchor::Leaf)),
    ("opening", bytes!(anchor::Opening)),
    ("batch", bytes!(anchor::Batch)),
    ("batch-head", bytes!(anchor::SignedBatchHead)),
    ("release-list", bytes!(anchor::ReleaseList)),
    ("state-digest", bytes!(anchor::StateDigest)),
    ("policy-chain", bytes!(anchor::PolicyChain)),
    ("stated-account", bytes!(anchor::StatedAccount)),
    ("stated-erasure", bytes!(anchor::StatedErasure)),
    ("checkpoint", text::<anchor::Checkpoint>),
    ("note", text::<anchor::SignedNote>),
    ("verifier-key", text::<anchor::VerifierKey>),
    ("tlog-proof", text::<anchor::TlogProof>),
    ("receipt", text::<anchor::Receipt>),
    ("tile-path", text::<anchor::Tile>),
    ("add-checkpoint", text::<anchor::AddCheckpoint>),
    ("witness-url", loose_text::<anchor::WitnessUrl>),
    ("trust-policy", loose_text::<anchor::TrustPolicy>),
    ("equivocation", loose_text::<anchor::Equivocation>),
    ("batch-conflict", loose_text::<anchor::BatchConflict>),
    (
        "submit-request",
        message::<pb::anchor::SubmitRequest, api::Submit>,
    ),
    (
        "access-request",
        message::<pb::access::RequestRequest, api::Asked>,
    ),
    ("access-grant", message::<pb::access::Grant, api::Granted>),
    (
        "receipt-response",
        message::<pb::anchor::ReceiptResponse, anchor::Receipt>,
    ),
];

const NAME: &str = "MEDANCHOR_FUZZ";
