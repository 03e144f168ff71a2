use crate::base58;
use ed25519_dalek::{Signer, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};
use zeroize::Zeroizing;

/// Who signs: an Ed25519 public key, written as `did:key` (<https://w3c-ccg.github.io/did-key-spec/>).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Did([u8; 32]);

/// Why text is not a `did:key` of an Ed25519 key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a did:key of an Ed25519 key (did:key:z6Mk...)")]
pub struct DidError(String);

impl Did {
    /// Names an Ed25519 public key.
    pub fn new(public_key: [u8; 32]) -> Self {
        Self(public_key)
    }

    /// The Ed25519 public key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Checks a signature over `label || \0 || digest`, strictly: no small-order key or point and no
    /// malleable scalar is accepted (RFC 8032 section 5.1.7 with the checks of
    /// [`VerifyingKey::verify_strict`]).
    ///
    /// # Errors
    ///
    /// When it is not this key's signature.
    pub fn verify(
        &self,
        label: &str,
        digest: &[u8; 32],
        signature: &Signature,
    ) -> Result<(), SignatureError> {
        VerifyingKey::from_bytes(&self.0)
            .and_then(|key| {
                let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
                key.verify_strict(&labelled(label, digest), &signature)
            })
            .map_err(|_| SignatureError)
    }
}

impl Did {
    /// Gives `f` the `did:key`.
    fn with_text<T>(&self, f: impl FnOnce(&str) -> T) -> T {
        let mut text = [0; PREFIX.len() + base58::DIGITS];
        let (prefix, digits) = text.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX.as_bytes());
        digits.copy_from_slice(&base58::encode(&self.0));
        // The digits are ASCII.
        f(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl fmt::Debug for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Did {
    type Err = DidError;

    fn from_str(text: &str) -> Result<Self, DidError> {
        let digits = text.strip_prefix(PREFIX);
        let key = digits.and_then(|digits| base58::decode(digits.as_bytes()));
        key.map(Self)
            .ok_or_else(|| DidError(text.chars().take(80).collect()))
    }
}

impl Serialize for Did {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

impl<'de> Deserialize<'de> for Did {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(DidText)
    }
}

/// Reads a `did:key` where it stands.
struct DidText;

impl de::Visitor<'_> for DidText {
    type Value = Did;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a did:key")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Did, E> {
        text.parse().map_err(E::custom)
    }
}

/// An Ed25519 signature, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

/// The signature is not this key's over these bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("signature does not verify")]
pub struct SignatureError;

impl Signature {
    /// A signature as it was received, not yet checked.
    pub fn new(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The 64 bytes of RFC 8032 section 5.1.6.
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes: serde_bytes::ByteArray<64> = Deserialize::deserialize(deserializer)?;
        Ok(Self(bytes.into_array()))
    }
}

/// An Ed25519 private key. It is wiped when dropped and is never printed or serialised.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A new key from the operating system's random source.
    ///
    /// # Errors
    ///
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut())?;
        Ok(Self::from_seed(&seed))
    }

    /// The key of a 32-byte seed (RFC 8032 section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, to be kept in a key file.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn did(&self) -> Did {
        Did(self.0.verifying_key().to_bytes())
    }

    /// Signs `label || \0 || digest`. Every kind of signature has a label of its own.
    pub fn sign(&self, label: &str, digest: &[u8; 32]) -> Signature {
        self.sign_bytes(&labelled(label, digest))
    }

    /// Signs bytes as they are: only for formats that fix their own, such as C2SP signed notes.
    pub fn sign_bytes(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.did())
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn labelled(label: &str, digest: &[u8; 32]) -> Vec<u8> {
    let mut message = Vec::with_capacity(label.len() + 33);
    message.extend_from_slice(label.as_bytes());
    message.push(0);
    message.extend_from_slice(digest);
    message
}

const PREFIX: &str = "did:key:z";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn did_matches_the_published_example() {
        // did-key-spec, section 5.1 (Ed25519), first example.
        let text = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";
        let did: Did = text.parse().unwrap();
        assert_eq!(did.to_string(), text);
    }

    #[test]
    fn did_rejects_other_key_types_and_lengths() {
        let secp256k1 = "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme";
        for text in [secp256k1, "did:key:z6Mk", "did:web:example.org", ""] {
            assert!(text.parse::<Did>().is_err(), "{text}");
        }
    }

    #[test]
    fn signature_binds_label_and_digest() {
        let key = SigningKey::from_seed(&[7; 32]);
        let digest = sha256(b"message");
        let signature = key.sign("medanchor/v1/record", &digest);
        let did = key.did();
        assert!(
            did.verify("medanchor/v1/record", &digest, &signature)
                .is_ok()
        );
        assert!(
            did.verify("medanchor/v1/hold", &digest, &signature)
                .is_err()
        );
        let other = sha256(b"other");
        assert!(
            did.verify("medanchor/v1/record", &other, &signature)
                .is_err()
        );
    }

    #[test]
    fn signing_key_is_not_printed() {
        let key = SigningKey::from_seed(&[7; 32]);
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.did()));
    }
}
