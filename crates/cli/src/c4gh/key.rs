use base64::{Engine, prelude::BASE64_STANDARD};
use blake2::{Blake2b512, Digest};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

/// To whom a file is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey(pub(crate) [u8; 32]);

/// Whoever reads a file, or writes one.
pub(crate) struct SecretKey(StaticSecret);

/// Why text is not a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// It is none of Crypt4GH.
    #[error("not a Crypt4GH key: a PEM with `CRYPT4GH {0} KEY` and its base64 is expected")]
    Malformed(&'static str),
    /// It has a passphrase.
    #[error(
        "the Crypt4GH key has a passphrase: give one without, in a file that only you may read"
    )]
    Passphrase,
}

impl PublicKey {
    /// Reads a key as `crypt4gh-keygen` writes it.
    pub(crate) fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = pem(text, "PUBLIC")?;
        let key = bytes.as_slice().try_into();
        key.map(Self).map_err(|_| KeyError::Malformed("PUBLIC"))
    }
}

impl SecretKey {
    /// The key of these bytes.
    pub(super) fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(StaticSecret::from(*bytes))
    }

    /// Reads a key without a passphrase as `crypt4gh-keygen --nocrypt` writes it.
    pub(crate) fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = Zeroizing::new(pem(text, "PRIVATE")?);
        let malformed = KeyError::Malformed("PRIVATE");
        let Some(fields) = bytes.strip_prefix(PRIVATE_MAGIC) else {
            return Err(malformed);
        };
        let mut fields = Fields(fields);
        match fields.next() {
            Some(b"none") => (),
            Some(_) => return Err(KeyError::Passphrase),
            None => return Err(malformed),
        }
        match fields.next() {
            Some(b"none") => (),
            Some(_) => return Err(KeyError::Passphrase),
            None => return Err(malformed),
        }
        let key = fields.next().and_then(|key| <[u8; 32]>::try_from(key).ok());
        // A comment may follow, and nothing else.
        let comment = fields.0.is_empty() || fields.next().is_some();
        match key.map(Zeroizing::new) {
            Some(key) if comment && fields.0.is_empty() => Ok(Self(StaticSecret::from(*key))),
            _ => Err(malformed),
        }
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    /// The key of a packet between this key and another one: `BLAKE2b-512(X25519 || reader || writer)[0..32]`. `None` for
    /// a point of low order, with which everybody would share it.
    pub(super) fn shared(
        &self,
        other: &PublicKey,
        reader: &PublicKey,
        writer: &PublicKey,
    ) -> Option<Zeroizing<[u8; 32]>> {
        let shared = self
            .0
            .diffie_hellman(&x25519_dalek::PublicKey::from(other.0));
        if !shared.was_contributory() {
            return None;
        }
        let mut hash = Blake2b512::new();
        hash.update(shared.as_bytes());
        hash.update(reader.0);
        hash.update(writer.0);
        let hash = Zeroizing::new(<[u8; 64]>::from(hash.finalize()));
        Some(Zeroizing::new(*hash.first_chunk()?))
    }
}

/// Fields with their length before them, u16 big-endian.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk()?;
        let len = usize::from(u16::from_be_bytes(*len));
        let (field, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }
}

fn pem(text: &str, kind: &'static str) -> Result<Vec<u8>, KeyError> {
    let body = text.trim();
    let body = body.strip_prefix(&format!("-----BEGIN CRYPT4GH {kind} KEY-----"));
    let body =
        body.and_then(|body| body.strip_suffix(&format!("-----END CRYPT4GH {kind} KEY-----")));
    let body = body.ok_or(KeyError::Malformed(kind))?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    let bytes = BASE64_STANDARD.decode(body.as_bytes());
    bytes.map_err(|_| KeyError::Malformed(kind))
}

const PRIVATE_MAGIC: &[u8] = b"c4gh-v1";
