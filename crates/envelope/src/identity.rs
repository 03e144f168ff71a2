use crate::{OpenError, cbor::sha256};
use getrandom::SysRng;
use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305,
    kdf::HkdfSha256, kem::X25519HkdfSha256, setup_receiver, single_shot_open,
    single_shot_seal_with_rng,
};
use rand_core::UnwrapErr;
use std::fmt;
use zeroize::Zeroizing;

/// Who a key can be wrapped to: an X25519 public key, KEM 0x0020 of RFC 9180.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recipient([u8; 32]);

/// The bytes are a point of low order: whatever is sealed to it, anyone can open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("public key is a point of low order")]
pub struct RecipientError;

/// An X25519 private key. Wiped when dropped, never printed or serialised.
pub struct Identity(PrivateKey);

impl Recipient {
    /// Takes a public key that somebody else made.
    ///
    /// # Errors
    ///
    /// [`RecipientError`]: ask for a key made by a sound program.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, RecipientError> {
        // A clamped scalar is a multiple of the cofactor, so its product with a point is zero, which
        // RFC 9180 section 7.1.4 has a receiver refuse, exactly if the point has low order.
        let probe = private_key(&[1; 32]);
        setup_receiver::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &probe,
            &encapped_key(&bytes),
            &[],
        )
        .map(|_| Self(bytes))
        .map_err(|_| RecipientError)
    }

    /// The public key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key id: SHA-256 of the public key, `to` in a wrap.
    pub fn id(&self) -> [u8; 32] {
        sha256(&self.0)
    }

    /// `SealBase` of RFC 9180 with an empty `aad`: the encapsulated key and the ciphertext.
    ///
    /// # Panics
    ///
    /// When the operating system has no random bytes.
    pub(crate) fn seal<const N: usize>(&self, info: &[u8], secret: &[u8]) -> ([u8; 32], [u8; N]) {
        #[expect(clippy::expect_used, reason = "a public key is any 32 bytes")]
        let key = PublicKey::from_bytes(&self.0).expect("key has 32 bytes");
        #[expect(
            clippy::expect_used,
            reason = "fails for points of low order only, which are no recipients"
        )]
        let (enc, ct) =
            single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &key,
                info,
                secret,
                &[],
                &mut UnwrapErr(SysRng),
            )
            .expect("recipient has a point of high order");
        #[expect(clippy::expect_used, reason = "the tag's 16 bytes are counted in N")]
        let ct = ct.try_into().expect("ciphertext is secret and tag");
        (enc.to_bytes().into(), ct)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recipient(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

impl Identity {
    /// A new key from the operating system's random source.
    ///
    /// # Errors
    ///
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut())?;
        Ok(Self(private_key(&bytes)))
    }

    /// The key of these 32 bytes, clamped (RFC 7748 section 5).
    #[expect(clippy::needless_pass_by_value, reason = "the caller's copy ends here")]
    pub fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(private_key(&bytes))
    }

    /// The secret bytes, to be kept in a key file.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.0.write_exact(bytes.as_mut());
        bytes
    }

    /// The public half.
    pub fn recipient(&self) -> Recipient {
        Recipient(X25519HkdfSha256::sk_to_pk(&self.0).to_bytes().into())
    }

    /// `OpenBase` of RFC 9180 with an empty `aad`, of a 32-byte secret.
    pub(crate) fn open(
        &self,
        info: &[u8],
        enc: &[u8; 32],
        ct: &[u8; 48],
    ) -> Result<Zeroizing<[u8; 32]>, OpenError> {
        let secret = single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.0,
            &encapped_key(enc),
            info,
            ct,
            &[],
        )
        .map(Zeroizing::new)
        .map_err(|_| OpenError::Wrap)?;
        let mut array = Zeroizing::new([0; 32]);
        array.copy_from_slice(&secret);
        Ok(array)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.recipient())
    }
}

type PublicKey = <X25519HkdfSha256 as hpke::Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as hpke::Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as hpke::Kem>::EncappedKey;

#[expect(clippy::expect_used, reason = "a private key is any 32 bytes")]
fn private_key(bytes: &[u8; 32]) -> PrivateKey {
    PrivateKey::from_bytes(bytes).expect("key has 32 bytes")
}

#[expect(clippy::expect_used, reason = "an encapsulated key is any 32 bytes")]
fn encapped_key(bytes: &[u8; 32]) -> EncappedKey {
    EncappedKey::from_bytes(bytes).expect("key has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipient_rejects_points_of_low_order() {
        // The points of order 1, 2, 4 and 8 on curve25519 and its twist, and their non-canonical forms.
        for text in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "0000000000000000000000000000000000000000000000000000000000000080",
        ] {
            let bytes = hex::decode(text).unwrap().try_into().unwrap();
            assert_eq!(Recipient::from_bytes(bytes), Err(RecipientError), "{text}");
        }
        let sound = *Identity::generate().unwrap().recipient().as_bytes();
        assert!(Recipient::from_bytes(sound).is_ok());
    }

    #[test]
    fn opening_rejects_an_encapsulated_key_of_low_order() {
        let identity = Identity::generate().unwrap();
        let opened = identity.open(b"", &[0; 32], &[0; 48]);
        assert_eq!(opened.err(), Some(OpenError::Wrap));
    }

    #[test]
    fn identity_is_read_back_and_prints_its_public_half_only() {
        let identity = Identity::generate().unwrap();
        let again = Identity::from_bytes(identity.to_bytes());
        assert_eq!(again.recipient(), identity.recipient());
        let printed = format!("{identity:?}");
        assert!(printed.contains(&hex::encode(identity.recipient().as_bytes())));
        assert!(!printed.contains(&hex::encode(*identity.to_bytes())));
    }
}
