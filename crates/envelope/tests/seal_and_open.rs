//! What was sealed opens, and nothing else does.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
use medanchor_envelope::{
    Header, Identity, OpenError, Opener, Recipient, Sealer, Suite, Wrap, rewrap,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const SUITES: [Suite; 2] = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];

/// A full chunk's plaintext at `chunk_log2` 16.
const FULL: usize = 65_520;
/// Payload sizes at which something changes, and how many chunks they have.
const BOUNDARY_SIZES: [(usize, usize); 9] = [
    (0, 1),
    (1, 1),
    (15, 1),
    (16, 1),
    (FULL - 1, 1),
    (FULL, 1),
    (FULL + 1, 2),
    (2 * FULL, 2),
    (2 * FULL + 1, 3),
];

/// One payload as a reader gets it.
struct Sealed {
    header: Header,
    commitment: [u8; 32],
    wrap: Wrap,
    chunks: Vec<Vec<u8>>,
    metadata: Vec<u8>,
    size: u64,
}

fn header(suite: Suite, chunk_log2: u8) -> Header {
    let device = "did:key:z6Mko7DFTnmzHnx5UrvFocKAgKeCzf2brztJmqzTWznoE7Dc";
    Header::new(
        suite,
        chunk_log2,
        [1; 16],
        device,
        [2; 16],
        "waveform.ecg",
        3,
    )
    .unwrap()
}

fn seal(header: Header, payload: &[u8], custody: &Recipient) -> Sealed {
    let sealer = Sealer::new(header.clone()).unwrap();
    let (commitment, wrap) = (sealer.commitment(), sealer.wrap(custody));
    let mut chunks = sealer.seal(payload);
    let sealed = chunks.by_ref().map(Result::unwrap).collect();
    Sealed {
        header,
        commitment,
        wrap,
        chunks: sealed,
        size: chunks.size(),
        metadata: chunks.seal_metadata(b"metadata"),
    }
}

impl Sealed {
    fn opener(&self, identity: &Identity) -> Result<Opener, OpenError> {
        Opener::new(&self.wrap, identity, &self.header, &self.commitment)
    }

    /// Opens as a reader does who trusts the signed size and nothing else.
    fn open(&self, identity: &Identity) -> Result<Vec<u8>, OpenError> {
        let opener = self.opener(identity)?;
        let count = self.header.chunks_of(self.size);
        if count != self.chunks.len() as u64 {
            return Err(OpenError::Chunk { index: count });
        }
        open_all(&opener, &self.chunks)
    }
}

/// Opens chunks as if there were just these.
fn open_all(opener: &Opener, chunks: &[Vec<u8>]) -> Result<Vec<u8>, OpenError> {
    let mut payload = Vec::new();
    for (index, chunk) in (0..).zip(chunks) {
        let last = index + 1 == chunks.len() as u64;
        payload.extend(opener.open_chunk(index, last, chunk)?);
    }
    Ok(payload)
}

#[test]
fn opened_chunk_is_known_again_and_nothing_else_is() {
    let custody = Identity::generate().unwrap();
    for suite in SUITES {
        for (size, count) in BOUNDARY_SIZES {
            let payload: Vec<u8> = (0..=250).cycle().take(size).collect();
            let sealed = seal(header(suite, 16), &payload, &custody.recipient());
            let opener = sealed.opener(&custody).unwrap();
            let chunks: Vec<&[u8]> = match size {
                0 => vec![&[]],
                _ => payload.chunks(FULL).collect(),
            };
            for (index, plain) in chunks.into_iter().enumerate() {
                let digest = Sha256::digest(&sealed.chunks[index]).into();
                let (at, last) = (index as u64, index + 1 == count);
                assert!(opener.is_chunk(at, last, plain, &digest), "{size} {index}");
                assert!(!opener.is_chunk(at, !last, plain, &digest));
                assert!(!opener.is_chunk(at + 1, last, plain, &digest));
                assert!(!opener.is_chunk(at, last, &[plain, &[0]].concat(), &digest));
                let mut changed = plain.to_vec();
                if let Some(byte) = changed.last_mut() {
                    *byte ^= 1;
                    assert!(!opener.is_chunk(at, last, &changed, &digest));
                }
            }
        }
    }
}

#[test]
fn payloads_around_chunk_boundaries_open_to_themselves() {
    let custody = Identity::generate().unwrap();
    for suite in SUITES {
        for (size, count) in BOUNDARY_SIZES {
            let payload: Vec<u8> = (0_u32..).map(|i| i.to_le_bytes()[0]).take(size).collect();
            let sealed = seal(header(suite, 16), &payload, &custody.recipient());
            assert_eq!(sealed.chunks.len(), count, "{size}");
            assert_eq!(sealed.size, size as u64);
            let (last, full) = sealed.chunks.split_last().unwrap();
            assert!(full.iter().all(|chunk| chunk.len() == 1 << 16));
            assert!(last.len() <= 1 << 16);
            assert!(sealed.open(&custody) == Ok(payload), "{size}");
            let opener = sealed.opener(&custody).unwrap();
            assert_eq!(opener.open_metadata(&sealed.metadata).unwrap(), b"metadata");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn payload_of_any_size_opens_to_itself(
        aes: bool,
        chunk_log2 in 16_u8..=20,
        size in 0_usize..300_000,
        byte: u8,
    ) {
        let custody = Identity::generate().unwrap();
        let suite = SUITES[usize::from(aes)];
        let payload = vec![byte; size];
        let sealed = seal(header(suite, chunk_log2), &payload, &custody.recipient());
        prop_assert!(sealed.open(&custody) == Ok(payload));
    }
}

#[test]
fn every_flipped_bit_of_a_small_payload_fails() {
    let custody = Identity::generate().unwrap();
    for suite in SUITES {
        let sealed = seal(header(suite, 16), b"a small payload", &custody.recipient());
        let opener = sealed.opener(&custody).unwrap();
        for flipped in flips(&sealed.chunks[0]) {
            let opened = opener.open_chunk(0, true, &flipped);
            assert_eq!(opened, Err(OpenError::Chunk { index: 0 }));
        }
        for flipped in flips(&sealed.metadata) {
            assert_eq!(opener.open_metadata(&flipped), Err(OpenError::Metadata));
        }
    }
}

#[test]
fn every_flipped_bit_of_a_wrap_fails() {
    let custody = Identity::generate().unwrap();
    let sealed = seal(header(SUITES[0], 16), b"payload", &custody.recipient());
    for flipped in flips(&sealed.wrap.to_bytes()) {
        let Ok(wrap) = Wrap::from_bytes(&flipped) else {
            continue;
        };
        assert_ne!(wrap, sealed.wrap);
        let opened = Opener::new(&wrap, &custody, &sealed.header, &sealed.commitment);
        assert!(opened.is_err());
    }
}

#[test]
fn every_flipped_bit_of_a_header_or_commitment_fails() {
    let custody = Identity::generate().unwrap();
    let sealed = seal(header(SUITES[0], 16), b"payload", &custody.recipient());
    let mut parsed = 0;
    for flipped in flips(&sealed.header.to_bytes()) {
        let Ok(header) = Header::from_bytes(&flipped) else {
            continue;
        };
        parsed += 1;
        let opened = Opener::new(&sealed.wrap, &custody, &header, &sealed.commitment);
        assert_eq!(opened.err(), Some(OpenError::OtherRecord));
    }
    // Ids, salt and time have no wrong values: the wrap's context is what refuses them.
    assert!(parsed >= 8 * (16 + 32 + 16 + 16));
    let commitments = flips(&sealed.commitment);
    assert_eq!(commitments.len(), 256);
    for flipped in commitments {
        let commitment = flipped.try_into().unwrap();
        let opened = Opener::new(&sealed.wrap, &custody, &sealed.header, &commitment);
        assert_eq!(opened.err(), Some(OpenError::OtherRecord));
    }
}

#[test]
fn open_rejects_truncated_reordered_duplicated_and_extended_payloads() {
    let custody = Identity::generate().unwrap();
    let payload = vec![5; 2 * FULL + 100];
    for suite in SUITES {
        let sealed = seal(header(suite, 16), &payload, &custody.recipient());
        let opener = sealed.opener(&custody).unwrap();
        let [a, b, last] = sealed.chunks.as_slice() else {
            panic!("three chunks");
        };
        let cut = last[..last.len() - 1].to_vec();
        let longer = [last.as_slice(), &[0]].concat();
        let tampered: [(&str, Vec<&Vec<u8>>); 8] = [
            ("last chunk dropped", vec![a, b]),
            ("all but the first dropped", vec![a]),
            ("reordered", vec![b, a, last]),
            ("duplicated", vec![a, a, b, last]),
            ("last chunk twice", vec![a, b, last, last]),
            ("first dropped", vec![b, last]),
            ("truncated", vec![a, b, &cut]),
            ("extended", vec![a, b, &longer]),
        ];
        for (what, chunks) in tampered {
            let chunks: Vec<Vec<u8>> = chunks.into_iter().cloned().collect();
            assert!(open_all(&opener, &chunks).is_err(), "{what}");
        }
        assert!(open_all(&opener, &sealed.chunks) == Ok(payload.clone()));
    }
}

#[test]
fn open_rejects_chunks_of_a_length_that_sealing_never_makes() {
    let custody = Identity::generate().unwrap();
    let sealed = seal(header(SUITES[0], 16), b"", &custody.recipient());
    let opener = sealed.opener(&custody).unwrap();
    assert_eq!(opener.open_chunk(0, true, &sealed.chunks[0]), Ok(vec![]));
    for (index, last, len) in [
        (0, true, 0),
        (0, true, 15),
        (0, true, (1 << 16) + 1),
        (0, false, 16),
        (0, false, (1 << 16) - 1),
        (1, true, 16),
    ] {
        let opened = opener.open_chunk(index, last, &vec![0; len]);
        assert_eq!(opened, Err(OpenError::Chunk { index }));
    }
}

#[test]
fn chunks_of_one_record_do_not_open_under_another() {
    let custody = Identity::generate().unwrap();
    let header = header(SUITES[0], 16);
    let one = seal(header.clone(), b"one", &custody.recipient());
    let two = seal(header, b"two", &custody.recipient());
    // Same header, other content key: the other's wrap is refused before a chunk is tried.
    let mixed = Opener::new(&two.wrap, &custody, &one.header, &one.commitment);
    assert_eq!(mixed.err(), Some(OpenError::OtherRecord));
    let opener = two.opener(&custody).unwrap();
    assert!(opener.open_chunk(0, true, &one.chunks[0]).is_err());
    assert!(opener.open_metadata(&one.metadata).is_err());
}

#[test]
fn rewrapped_key_opens_for_the_requester_alone() {
    let [custody, requester, other] = [(); 3].map(|()| Identity::generate().unwrap());
    let sealed = seal(header(SUITES[0], 16), b"payload", &custody.recipient());
    let rewrap_with = |identity: &Identity| {
        let (header, commitment) = (&sealed.header, &sealed.commitment);
        let to = requester.recipient();
        rewrap(&sealed.wrap, identity, header, commitment, &to, [4; 32], 5)
    };
    let grant = rewrap_with(&custody).unwrap();
    assert_eq!(grant.ctx.request, Some([4; 32]));
    assert_eq!(grant.ctx.not_after, Some(5));
    assert_eq!(grant.ctx.to, requester.recipient().id());
    assert_ne!(grant.hash(), sealed.wrap.hash());
    assert_eq!(rewrap_with(&other), Err(OpenError::OtherRecipient));

    let open = |wrap: &Wrap, identity: &Identity| {
        let opener = Opener::new(wrap, identity, &sealed.header, &sealed.commitment)?;
        opener.open_chunk(0, true, &sealed.chunks[0])
    };
    assert_eq!(open(&grant, &requester), Ok(b"payload".to_vec()));
    assert_eq!(open(&grant, &custody), Err(OpenError::OtherRecipient));

    let mut longer = grant.clone();
    longer.ctx.not_after = Some(6);
    assert_eq!(open(&longer, &requester), Err(OpenError::Wrap));
    let mut redirected = grant;
    redirected.ctx.to = other.recipient().id();
    assert_eq!(open(&redirected, &other), Err(OpenError::Wrap));
}

/// Every copy of `bytes` with one bit flipped.
fn flips(bytes: &[u8]) -> Vec<Vec<u8>> {
    (0..8 * bytes.len())
        .map(|bit| {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped
        })
        .collect()
}
