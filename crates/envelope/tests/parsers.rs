//! Parsers take any bytes, and accept the canonical form only.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use medanchor_envelope::{FormatError, Header, Identity, SealedKey, Sealer, Suite, Wrap, rewrap};
use proptest::{prelude::*, sample::Index};

/// Parses and writes again.
type Reparse = fn(&[u8]) -> Result<Vec<u8>, FormatError>;

fn header(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    Header::from_bytes(bytes).map(|header| header.to_bytes())
}

fn wrap(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    Wrap::from_bytes(bytes).map(|wrap| wrap.to_bytes())
}

fn sealed_key(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    SealedKey::from_bytes(bytes).map(|key| key.to_bytes())
}

/// One valid example for each parser, two for wraps.
fn examples() -> Vec<(Reparse, Vec<u8>)> {
    let suite = Suite::Aes256Gcm;
    let header_ = Header::new(suite, 20, [1; 16], "did:key:z6Mk", [2; 16], "log", 3).unwrap();
    let custody = Identity::generate().unwrap();
    let to = custody.recipient();
    let sealer = Sealer::new(header_.clone()).unwrap();
    let durable = sealer.wrap(&to);
    let commitment = sealer.commitment();
    let grant = rewrap(
        &durable,
        &custody,
        &header_,
        &commitment,
        &to,
        [4; 32],
        u64::MAX,
    );
    let copy = custody.seal_copy(&to, [1; 16], 1);
    vec![
        (header, header_.to_bytes()),
        (wrap, durable.to_bytes()),
        (wrap, grant.unwrap().to_bytes()),
        (sealed_key, copy.to_bytes()),
    ]
}

#[test]
fn parsers_accept_what_was_written() {
    for (reparse, bytes) in examples() {
        assert_eq!(reparse(&bytes).unwrap(), bytes);
    }
}

#[test]
fn parsers_reject_truncated_and_extended_bytes() {
    for (reparse, bytes) in examples() {
        for len in 0..bytes.len() {
            assert!(reparse(&bytes[..len]).is_err());
        }
        assert!(reparse(&[bytes.as_slice(), &[0]].concat()).is_err());
    }
}

proptest! {
    #[test]
    fn parsers_take_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for reparse in [header, wrap, sealed_key] {
            if let Ok(again) = reparse(&bytes) {
                prop_assert_eq!(&again, &bytes);
            }
        }
    }

    #[test]
    fn parsers_take_any_mutation_of_valid_bytes(
        at: Index,
        remove in 0_usize..9,
        insert in proptest::collection::vec(any::<u8>(), 0..9),
    ) {
        for (reparse, mut bytes) in examples() {
            let start = at.index(bytes.len());
            let end = bytes.len().min(start + remove);
            bytes.splice(start..end, insert.iter().copied());
            if let Ok(again) = reparse(&bytes) {
                prop_assert_eq!(&again, &bytes);
            }
        }
    }
}
