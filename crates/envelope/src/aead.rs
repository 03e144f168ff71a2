use crate::Suite;
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Length of both AEADs' tag, in bytes.
pub(crate) const TAG_LEN: usize = 16;

/// An AEAD key with the header hash that all it seals is bound to.
///
/// `ring` keeps the expanded key in its own memory and does not wipe it; the bytes it was made of are.
pub(crate) struct AeadKey {
    key: LessSafeKey,
    header_hash: [u8; 32],
}

impl AeadKey {
    pub(crate) fn new(suite: Suite, key: &[u8; 32], header_hash: [u8; 32]) -> Self {
        let algorithm = match suite {
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Suite::Aes256Gcm => &AES_256_GCM,
        };
        #[expect(clippy::expect_used, reason = "both suites have 32-byte keys")]
        let key = UnboundKey::new(algorithm, key).expect("key has the suite's length");
        Self {
            key: LessSafeKey::new(key),
            header_hash,
        }
    }

    /// Seals in place and appends the tag.
    ///
    /// INVARIANT: of what leaves this program, every nonce has sealed one plaintext only.
    pub(crate) fn seal(&self, nonce: [u8; 12], buffer: &mut Vec<u8>) {
        let (nonce, aad) = (
            Nonce::assume_unique_for_key(nonce),
            Aad::from(self.header_hash),
        );
        #[expect(
            clippy::expect_used,
            reason = "only lengths of 64 GiB and more are refused; a chunk has at most 1 MiB"
        )]
        self.key
            .seal_in_place_append_tag(nonce, aad, buffer)
            .expect("length is within the suite's limit");
    }

    /// The plaintext, or `None` when it is not what this key sealed.
    pub(crate) fn open(&self, nonce: [u8; 12], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, aad) = (
            Nonce::assume_unique_for_key(nonce),
            Aad::from(self.header_hash),
        );
        let mut buffer = sealed.to_vec();
        let size = self.key.open_in_place(nonce, aad, &mut buffer).ok()?.len();
        buffer.truncate(size);
        Some(buffer)
    }
}

/// STREAM's nonce: `u88be(index) || last`.
pub(crate) fn chunk_nonce(index: u64, last: bool) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h] = index.to_be_bytes();
    [0, 0, 0, a, b, c, d, e, f, g, h, u8::from(last)]
}

/// The metadata's nonce: its key seals one message only.
pub(crate) const METADATA_NONCE: [u8; 12] = [0; 12];

#[cfg(test)]
mod tests {
    use super::*;
    use aes_gcm::Aes256Gcm;
    use chacha20poly1305::{ChaCha20Poly1305, KeyInit, aead::AeadInOut};
    use proptest::prelude::*;

    fn oracle(suite: Suite, key: [u8; 32], nonce: [u8; 12], aad: &[u8], msg: &[u8]) -> Vec<u8> {
        let mut sealed = msg.to_vec();
        let buffer = sealed.as_mut_slice().into();
        let tag = match suite {
            Suite::ChaCha20Poly1305 => ChaCha20Poly1305::new(&key.into())
                .encrypt_inout_detached(&nonce.into(), aad, buffer)
                .unwrap(),
            Suite::Aes256Gcm => Aes256Gcm::new(&key.into())
                .encrypt_inout_detached(&nonce.into(), aad, buffer)
                .unwrap(),
        };
        sealed.extend_from_slice(&tag);
        sealed
    }

    proptest! {
        #[test]
        fn sealed_bytes_equal_another_implementation(
            key: [u8; 32],
            nonce: [u8; 12],
            header_hash: [u8; 32],
            plaintext in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
                let ours = AeadKey::new(suite, &key, header_hash);
                let mut sealed = plaintext.clone();
                ours.seal(nonce, &mut sealed);
                prop_assert_eq!(&sealed, &oracle(suite, key, nonce, &header_hash, &plaintext));
                prop_assert_eq!(ours.open(nonce, &sealed), Some(plaintext.clone()));
            }
        }
    }

    #[test]
    fn chunk_nonce_is_an_88_bit_counter_and_a_flag() {
        assert_eq!(chunk_nonce(0, false), [0; 12]);
        assert_eq!(
            chunk_nonce(0x0102_0304_0506_0708, true),
            [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1]
        );
    }
}
