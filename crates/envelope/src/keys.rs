use crate::{Header, OpenError, aead::AeadKey};
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The secret that one record's keys are derived from. Used for one payload, wiped when dropped.
pub(crate) struct ContentKey(Zeroizing<[u8; 32]>);

/// What seals and opens one record.
pub(crate) struct RecordKeys {
    pub(crate) payload: AeadKey,
    pub(crate) metadata: AeadKey,
}

impl ContentKey {
    /// A fresh random key.
    pub(crate) fn generate() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut())?;
        Ok(Self(key))
    }

    pub(crate) fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// The secret bytes: only to be wrapped.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The keys to seal under `header`, and the commitment that the record publishes.
    pub(crate) fn for_sealing(&self, header: &Header) -> (RecordKeys, [u8; 32]) {
        let schedule = Schedule::new(self, header);
        (schedule.record_keys(header), *schedule.commitment())
    }

    /// The keys to open what was sealed under `header`: only if this is the key that the record commits
    /// to. Neither AEAD commits to its key, so without this check one ciphertext could open to different
    /// plaintexts for different readers.
    pub(crate) fn for_opening(
        &self,
        header: &Header,
        commitment: &[u8; 32],
    ) -> Result<RecordKeys, OpenError> {
        let schedule = Schedule::new(self, header);
        if bool::from(schedule.commitment().ct_eq(commitment)) {
            Ok(schedule.record_keys(header))
        } else {
            Err(OpenError::Commitment)
        }
    }
}

/// HKDF-SHA256 (RFC 5869): `Extract(header.salt, content_key)`, then `Expand(prk, label || \0 || hh, 32)`.
struct Schedule {
    prk: Hkdf<Sha256>,
    header_hash: [u8; 32],
}

impl Schedule {
    fn new(key: &ContentKey, header: &Header) -> Self {
        Self {
            prk: Hkdf::new(Some(header.salt()), key.as_bytes()),
            header_hash: header.hash(),
        }
    }

    fn commitment(&self) -> Zeroizing<[u8; 32]> {
        self.expand("medanchor/v1/commitment")
    }

    fn record_keys(&self, header: &Header) -> RecordKeys {
        let key = |label| AeadKey::new(header.suite(), &self.expand(label), self.header_hash);
        RecordKeys {
            payload: key("medanchor/v1/payload"),
            metadata: key("medanchor/v1/metadata"),
        }
    }

    fn expand(&self, label: &str) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        #[expect(clippy::expect_used, reason = "32 bytes are less than 255 blocks")]
        self.prk
            .expand_multi_info(&[label.as_bytes(), &[0], &self.header_hash], key.as_mut())
            .expect("length is within HKDF's limit");
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Suite,
        aead::chunk_nonce,
        vectors::{RECORDS, vector},
    };
    use aes_gcm::{
        KeyInit,
        aes::{Aes256, cipher::BlockCipherEncrypt},
    };

    #[test]
    fn key_schedule_matches_vectors() {
        for name in RECORDS {
            let vector = vector(name);
            let header = Header::from_bytes(&vector.bytes("header_cbor")).unwrap();
            let key = ContentKey::from_bytes(Zeroizing::new(vector.array("content_key")));
            let schedule = Schedule::new(&key, &header);
            assert_eq!(schedule.header_hash, vector.array("header_hash"), "{name}");
            assert_eq!(*schedule.commitment(), vector.array("commitment"), "{name}");
            for (label, value) in [
                ("medanchor/v1/payload", "payload_key"),
                ("medanchor/v1/metadata", "metadata_key"),
            ] {
                assert_eq!(*schedule.expand(label), vector.array(value), "{name}");
            }
        }
    }

    #[test]
    fn keys_are_yielded_for_the_committed_content_key_only() {
        let header = Header::from_bytes(&vector("empty").bytes("header_cbor")).unwrap();
        let key = ContentKey::generate().unwrap();
        let (_, commitment) = key.for_sealing(&header);
        assert!(key.for_opening(&header, &commitment).is_ok());
        for bit in 0..256 {
            let mut other = commitment;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                key.for_opening(&header, &other).err(),
                Some(OpenError::Commitment)
            );
        }
    }

    /// Neither suite's AEAD commits to its key: Dodis, Grubbs, Ristenpart and Woodage, *Fast Message Franking*, CRYPTO 2018,
    /// appendix A, for AES-GCM: one block makes the tags of two keys the same.
    #[test]
    fn ciphertext_that_opens_under_two_keys_opens_for_the_one_that_the_record_commits_to() {
        let (suite, nonce) = (Suite::Aes256Gcm, chunk_nonce(0, true));
        let device = "did:key:z6Mko7DFTnmzHnx5UrvFocKAgKeCzf2brztJmqzTWznoE7Dc";
        let header = Header::new(suite, 16, [1; 16], device, [2; 16], "log", 3).unwrap();
        let hash = header.hash();
        let keys = [(); 2].map(|()| ContentKey::generate().unwrap());
        let payload = keys
            .each_ref()
            .map(|key| Schedule::new(key, &header).expand("medanchor/v1/payload"));

        let mut blocks: Vec<u128> = hash
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(u128::from_be_bytes)
            .collect();
        blocks.extend([7, 0, u128::from(256_u64) << 64 | 256]);
        let [one, other] = payload.each_ref().map(|key| Gcm::new(key, nonce));
        let differ = one.tag(&blocks) ^ other.tag(&blocks);
        let powers = times(one.h, one.h) ^ times(other.h, other.h);
        blocks[3] = times(differ, inverse(powers));
        assert_eq!(one.tag(&blocks), other.tag(&blocks));
        let sealed = [blocks[2], blocks[3], one.tag(&blocks)]
            .map(u128::to_be_bytes)
            .concat();

        let opened = payload
            .each_ref()
            .map(|key| AeadKey::new(suite, key, hash).open(nonce, &sealed).unwrap());
        assert_ne!(opened[0], opened[1]);
        let (_, commitment) = keys[0].for_sealing(&header);
        assert!(keys[0].for_opening(&header, &commitment).is_ok());
        let refused = keys[1].for_opening(&header, &commitment).err();
        assert_eq!(refused, Some(OpenError::Commitment));
    }

    /// AES-256-GCM under one key and nonce (NIST SP 800-38D).
    struct Gcm {
        h: u128,
        mask: u128,
    }

    impl Gcm {
        fn new(key: &[u8; 32], nonce: [u8; 12]) -> Self {
            let aes = Aes256::new(key.into());
            let encrypt = |block: [u8; 16]| {
                let mut block = block.into();
                aes.encrypt_block(&mut block);
                u128::from_be_bytes(block.into())
            };
            let mut counter = [0; 16];
            counter[..12].copy_from_slice(&nonce);
            counter[15] = 1;
            Self {
                h: encrypt([0; 16]),
                mask: encrypt(counter),
            }
        }

        /// Of associated data, ciphertext and their lengths, in blocks.
        fn tag(&self, blocks: &[u128]) -> u128 {
            let hash = blocks
                .iter()
                .fold(0, |sum, block| times(sum ^ block, self.h));
            hash ^ self.mask
        }
    }

    /// In GCM's field: its first bit is the highest.
    fn times(x: u128, y: u128) -> u128 {
        let (mut product, mut y) = (0, y);
        for bit in (0..128).rev() {
            if x >> bit & 1 == 1 {
                product ^= y;
            }
            y = (y >> 1) ^ ((y & 1) * (0xe1 << 120));
        }
        product
    }

    /// `x^(2^128 - 2)`.
    fn inverse(x: u128) -> u128 {
        let (mut square, mut power) = (x, 1 << 127);
        for _ in 1..128 {
            square = times(square, square);
            power = times(power, square);
        }
        power
    }
}
