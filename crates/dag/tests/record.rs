//! The record against the known answers of an independent program, and against damage.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use medanchor_dag::{
    Block, Chunks, Cid, Codec, Draft, MAX_INLINE_BYTES, Record, RecordError, SigningKey, cid_of,
    from_canonical, to_canonical,
};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

type Ipld = ipld_core::ipld::Ipld;

const CASES: [&str; 4] = ["inline_small", "three_chunks", "aes256gcm", "empty"];

#[test]
fn record_matches_the_known_answers() {
    for case in CASES {
        let vector = &vectors()[case];
        let record = record(case);
        assert_eq!(
            hex::encode(record.to_block().bytes()),
            vector["record_cbor"],
            "{case}"
        );
        assert_eq!(record.cid().to_string(), vector["record_cid"], "{case}");
        assert_eq!(
            hex::encode(record.signature().as_bytes()),
            vector["signature"],
            "{case}"
        );
        assert_eq!(
            record.header_hash().to_string(),
            vector["header_hash"],
            "{case}"
        );
        assert_eq!(
            hex::encode(record.header_bytes()),
            vector["header_cbor"],
            "{case}"
        );
        assert_eq!(
            hex::encode(record.commitment()),
            vector["commitment"],
            "{case}"
        );
        assert_eq!(record.verify_signature(), Ok(()), "{case}");
    }
}

#[test]
fn record_gives_back_what_was_signed() {
    let record = record("three_chunks");
    let vector = &vectors()["three_chunks"];
    assert_eq!(record.chunk_count(), 3);
    let lengths: Vec<_> = (0..4).map(|i| record.sealed_chunk_bytes(i)).collect();
    assert_eq!(lengths, [65_536, 65_536, 150_000 - 2 * 65_520 + 16, 0]);
    assert_eq!(record.seq(), 2);
    assert_eq!(record.size_bytes(), 150_000);
    assert_eq!(record.device().to_string(), vectors()["keys"]["device_did"]);
    assert_eq!(
        record.header().custody.to_string(),
        vectors()["keys"]["custody"]
    );
    assert_eq!(
        record.header().stream.to_string(),
        vectors()["keys"]["stream"]
    );
    assert_eq!(record.header().class.as_str(), "waveform.ecg");
    assert_eq!(hex::encode(record.meta()), vector["sealed_metadata"]);
    let previous = vectors()["inline_small"]["record_cid"].clone();
    assert_eq!(record.prev().unwrap().to_string(), previous);
    assert_eq!(Record::from_block(&record.to_block()).unwrap(), record);
}

#[test]
fn sign_rejects_the_key_of_another_device() {
    let other = SigningKey::from_seed(&[1; 32]);
    assert!(matches!(
        draft("empty").sign(&other),
        Err(RecordError::OtherDevice(device)) if device == key().did()
    ));
}

#[test]
fn every_flipped_bit_is_refused_or_fails_the_signature() {
    for case in ["empty", "three_chunks"] {
        let bytes = record(case).to_block().into_bytes().to_vec();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let accepted =
                Record::from_bytes(flipped).is_ok_and(|record| record.verify_signature().is_ok());
            assert!(!accepted, "{case}, bit {bit}");
        }
    }
}

#[test]
fn from_bytes_rejects_truncated_and_longer_bytes() {
    let bytes = record("empty").to_block().into_bytes().to_vec();
    for len in 0..bytes.len() {
        assert!(Record::from_bytes(bytes[..len].to_vec()).is_err(), "{len}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(Record::from_bytes(longer).is_err());
}

#[test]
fn from_block_rejects_a_raw_block() {
    let bytes = record("empty").to_block().into_bytes();
    let raw = Block::new(Codec::Raw, bytes).unwrap();
    assert!(matches!(
        Record::from_block(&raw),
        Err(RecordError::Block(_))
    ));
}

#[test]
fn from_bytes_rejects_unknown_missing_and_unsupported_fields() {
    let fields = fields(&record("empty"));
    for name in fields.keys() {
        let mut fields = fields.clone();
        fields.remove(name);
        assert!(
            Record::from_bytes(to_canonical(&fields)).is_err(),
            "without {name}"
        );
    }
    let mut unknown = fields.clone();
    unknown.insert("extra".to_owned(), Ipld::Null);
    assert!(matches!(
        Record::from_bytes(to_canonical(&unknown)),
        Err(RecordError::Malformed(_))
    ));
    let mut version = fields.clone();
    version.insert("v".to_owned(), Ipld::Integer(2));
    assert!(matches!(
        Record::from_bytes(to_canonical(&version)),
        Err(RecordError::Unsupported)
    ));
    for (field, value) in [
        ("v", Ipld::Integer(2)),
        ("suite", Ipld::Integer(0)),
        ("suite", Ipld::Integer(3)),
        ("chunk_log2", Ipld::Integer(15)),
        ("chunk_log2", Ipld::Integer(21)),
        ("chunk_log2", Ipld::Integer(255)),
        ("class", Ipld::String("waveform".to_owned())),
        ("device", Ipld::String("did:web:example.org".to_owned())),
        ("extra", Ipld::Null),
    ] {
        let mut fields = fields.clone();
        let Some(Ipld::Map(header)) = fields.get_mut("header") else {
            panic!("header is a map");
        };
        header.insert(field.to_owned(), value.clone());
        assert!(
            Record::from_bytes(to_canonical(&fields)).is_err(),
            "{field} {value:?}"
        );
    }
}

#[test]
fn prev_is_the_binary_cid_of_a_record_and_nothing_else() {
    let raw = cid_of(Codec::Raw, &[7; 32]).to_bytes();
    let good = cid_of(Codec::DagCbor, &[7; 32]).to_bytes();
    let longer = [&good[..], &[0]].concat();
    for (prev, accepted) in [(good, true), (raw, false), (longer, false), (vec![], false)] {
        let mut fields = fields(&record("empty"));
        fields.insert("prev".to_owned(), Ipld::Bytes(prev));
        assert_eq!(Record::from_bytes(to_canonical(&fields)).is_ok(), accepted);
    }
    let mut link = fields(&record("empty"));
    link.insert(
        "prev".to_owned(),
        Ipld::Link(cid_of(Codec::DagCbor, &[7; 32])),
    );
    assert!(Record::from_bytes(to_canonical(&link)).is_err());
}

#[test]
fn chunks_must_hold_exactly_the_size() {
    let links = |count: usize| Chunks::Links(vec![cid_of(Codec::Raw, &[1; 32]); count]);
    let index = |count: usize| Chunks::Index(vec![cid_of(Codec::DagCbor, &[1; 32]); count]);
    let inline = |count: usize| Chunks::Inline(vec![0; count].into());
    const CHUNK: u64 = 65_520;
    for (size, chunks, accepted) in [
        (0, inline(16), true),
        (0, inline(15), false),
        (0, inline(17), false),
        (0, inline(0), false),
        (16_368, inline(MAX_INLINE_BYTES), true),
        (16_369, inline(MAX_INLINE_BYTES + 1), false),
        (u64::MAX, inline(16), false),
        (0, links(0), false),
        (0, links(1), true),
        (CHUNK, links(1), true),
        (CHUNK + 1, links(1), false),
        (CHUNK + 1, links(2), true),
        (CHUNK, links(2), false),
        (1024 * CHUNK, links(1024), true),
        (1025 * CHUNK, links(1025), false),
        (u64::MAX, links(1024), false),
        (1024 * CHUNK, index(1), false),
        (1024 * CHUNK + 1, index(2), true),
        (1024 * CHUNK + 1, index(1), false),
        (1024 * 1024 * CHUNK, index(1024), true),
        (1024 * 1024 * CHUNK + 1, index(1025), false),
        (u64::MAX, index(1024), false),
    ] {
        let what = format!("{size} bytes in {} links", chunks.links().len());
        let draft = Draft {
            size,
            chunks,
            ..draft("three_chunks")
        };
        assert_eq!(draft.sign(&key()).is_ok(), accepted, "{what}");
    }
}

#[test]
fn chunks_link_to_raw_blocks_and_index_nodes_only() {
    let record_link = cid_of(Codec::DagCbor, &[1; 32]);
    let raw_link = cid_of(Codec::Raw, &[1; 32]);
    for chunks in [
        Chunks::Links(vec![record_link; 3]),
        Chunks::Index(vec![raw_link; 3]),
    ] {
        let draft = Draft {
            chunks,
            ..draft("three_chunks")
        };
        assert!(draft.sign(&key()).is_err());
    }
}

#[test]
fn sealed_metadata_of_more_than_16_kib_is_refused() {
    for (len, accepted) in [(16 * 1024, true), (16 * 1024 + 1, false)] {
        let draft = Draft {
            meta: vec![0; len],
            ..draft("empty")
        };
        assert_eq!(draft.sign(&key()).is_ok(), accepted, "{len}");
    }
}

#[test]
fn deeply_nested_bytes_are_refused() {
    for byte in [0x81, 0xa1, 0xd8] {
        assert!(Record::from_bytes(vec![byte; 64 * 1024]).is_err());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(Record::from_bytes(bytes).is_err());
    }

    #[test]
    fn replaced_bytes_never_verify(at in any::<prop::sample::Index>(), with in prop::collection::vec(any::<u8>(), 1..16)) {
        let bytes = record("three_chunks").to_block().into_bytes().to_vec();
        let at = at.index(bytes.len());
        let mut changed = bytes.clone();
        changed.splice(at..(at + with.len()).min(bytes.len()), with);
        prop_assume!(changed != bytes);
        let accepted = Record::from_bytes(changed).is_ok_and(|record| record.verify_signature().is_ok());
        prop_assert!(!accepted);
    }
}

fn record(case: &str) -> Record {
    draft(case).sign(&key()).unwrap()
}

fn draft(case: &str) -> Draft {
    let vector = &vectors()[case];
    let unsigned: BTreeMap<String, Ipld> =
        from_canonical(&bytes(&vector["unsigned_record_cbor"]), 1 << 20).unwrap();
    let number = |name: &str| match &unsigned[name] {
        Ipld::Integer(number) => u64::try_from(*number).unwrap(),
        other => panic!("{other:?}"),
    };
    Draft {
        header: bytes(&vector["header_cbor"]),
        commitment: bytes(&vector["commitment"]).try_into().unwrap(),
        size: number("size"),
        chunks: match &unsigned["chunks"] {
            Ipld::Bytes(sealed) => Chunks::Inline(sealed.clone().into()),
            _ => Chunks::Links(
                vector["chunk_cids"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|cid| cid.as_str().unwrap().parse().unwrap())
                    .collect(),
            ),
        },
        meta: bytes(&vector["sealed_metadata"]),
        seq: number("seq"),
        prev: match &unsigned["prev"] {
            Ipld::Bytes(prev) => Some(Cid::try_from(&prev[..]).unwrap()),
            _ => None,
        },
    }
}

fn fields(record: &Record) -> BTreeMap<String, Ipld> {
    from_canonical(record.to_block().bytes(), 1 << 20).unwrap()
}

fn key() -> SigningKey {
    let seed = bytes(&vectors()["keys"]["device_seed"]);
    SigningKey::from_seed(&seed.try_into().unwrap())
}

fn bytes(text: &Value) -> Vec<u8> {
    hex::decode(text.as_str().unwrap()).unwrap()
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/medanchor-v1.json")).unwrap()
}
