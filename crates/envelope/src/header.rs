use crate::{
    aead::TAG_LEN,
    cbor::{FormatError, from_canonical, sha256, to_canonical},
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use std::ops::RangeInclusive;

/// What decides how a payload is sealed and who may read it. Every key is derived from its hash, so
/// nobody can put another's ciphertext under a header of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Header {
    suite: Suite,
    oid: [u8; 16],
    salt: [u8; 32],
    chunk_log2: u8,
    custody: [u8; 16],
    device: String,
    stream: [u8; 16],
    class: String,
    captured_at: u64,
}

/// The AEAD that seals chunks and metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305 = 1,
    /// AES-256-GCM (NIST SP 800-38D), for those bound to FIPS 140.
    Aes256Gcm = 2,
}

/// Why a header cannot be made of these values.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// `chunk_log2` must be in [`Header::CHUNK_LOG2`].
    #[error("chunk_log2 {0} is not between 16 and 20")]
    ChunkSize(u8),
    /// The device's name is empty or longer than 100 bytes.
    #[error("device must have 1 to 100 bytes")]
    Device,
    /// The class is not 1 to 32 of `a-z`, `0-9`, `.` and `-`.
    #[error("class must be 1 to 32 lower-case letters, digits, dots and hyphens")]
    Class,
    /// Its form has a version or a suite that this program does not know.
    #[error("{0} is not known")]
    Unknown(&'static str),
    /// The operating system gave no random bytes: try again.
    #[error("no random bytes from the operating system")]
    NoRandomness(#[source] getrandom::Error),
}

impl Header {
    /// The binary logarithm of a full sealed chunk's length.
    pub const CHUNK_LOG2: RangeInclusive<u8> = 16..=20;
    /// The most bytes that its canonical form may have.
    pub const MAX_BYTES: usize = 1024;

    /// A header for one payload, with a fresh random `oid` and `salt`. `captured_at` is in unix ms.
    ///
    /// # Errors
    ///
    /// [`HeaderError`] names the value that is out of its range.
    pub fn new(
        suite: Suite,
        chunk_log2: u8,
        custody: [u8; 16],
        device: &str,
        stream: [u8; 16],
        class: &str,
        captured_at: u64,
    ) -> Result<Self, HeaderError> {
        let mut oid = [0; 16];
        let mut salt = [0; 32];
        getrandom::fill(&mut oid).map_err(HeaderError::NoRandomness)?;
        getrandom::fill(&mut salt).map_err(HeaderError::NoRandomness)?;
        Self {
            suite,
            oid,
            salt,
            chunk_log2,
            custody,
            device: device.to_owned(),
            stream,
            class: class.to_owned(),
            captured_at,
        }
        .checked()
    }

    /// Its canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// Parses canonical bytes of at most [`Header::MAX_BYTES`].
    ///
    /// # Errors
    ///
    /// [`FormatError`]; such bytes are never a header.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        from_canonical(bytes, Self::MAX_BYTES)
    }

    /// `hh`: SHA-256 of the canonical bytes.
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.to_bytes())
    }

    /// The AEAD.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// 16 random bytes that make the header unlike any other.
    pub fn oid(&self) -> &[u8; 16] {
        &self.oid
    }

    /// HKDF's salt: 32 random bytes.
    pub fn salt(&self) -> &[u8; 32] {
        &self.salt
    }

    /// The binary logarithm of a full sealed chunk's length.
    pub fn chunk_log2(&self) -> u8 {
        self.chunk_log2
    }

    /// Id of the custody key that the payload is wrapped to.
    pub fn custody(&self) -> &[u8; 16] {
        &self.custody
    }

    /// Who made the record: a `did:key`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Which of the device's streams it continues.
    pub fn stream(&self) -> &[u8; 16] {
        &self.stream
    }

    /// What kind of data it carries.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// When the data were captured, by the device's clock, unix ms.
    pub fn captured_at(&self) -> u64 {
        self.captured_at
    }

    /// Length of a full sealed chunk, tag included, in bytes.
    pub fn chunk_len(&self) -> usize {
        1 << self.chunk_log2
    }

    /// Length of a full chunk's plaintext, in bytes.
    pub fn chunk_plaintext_len(&self) -> usize {
        self.chunk_len() - TAG_LEN
    }

    /// How many chunks a payload of `size` bytes has: an empty one has one, empty chunk.
    pub fn chunks_of(&self, size: u64) -> u64 {
        size.div_ceil(self.chunk_plaintext_len() as u64).max(1)
    }

    fn checked(self) -> Result<Self, HeaderError> {
        let class_char = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-".contains(&c);
        if !Self::CHUNK_LOG2.contains(&self.chunk_log2) {
            Err(HeaderError::ChunkSize(self.chunk_log2))
        } else if !(1..=100).contains(&self.device.len()) {
            Err(HeaderError::Device)
        } else if !(1..=32).contains(&self.class.len()) || !self.class.bytes().all(class_char) {
            Err(HeaderError::Class)
        } else {
            Ok(self)
        }
    }
}

/// The header as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    suite: u8,
    oid: ByteArray<16>,
    salt: ByteArray<32>,
    chunk_log2: u8,
    custody: ByteArray<16>,
    device: String,
    stream: ByteArray<16>,
    class: String,
    captured_at: u64,
}

impl From<Header> for Wire {
    fn from(header: Header) -> Self {
        Self {
            v: VERSION,
            suite: match header.suite {
                Suite::ChaCha20Poly1305 => 1,
                Suite::Aes256Gcm => 2,
            },
            oid: ByteArray::new(header.oid),
            salt: ByteArray::new(header.salt),
            chunk_log2: header.chunk_log2,
            custody: ByteArray::new(header.custody),
            device: header.device,
            stream: ByteArray::new(header.stream),
            class: header.class,
            captured_at: header.captured_at,
        }
    }
}

impl TryFrom<Wire> for Header {
    type Error = HeaderError;

    fn try_from(wire: Wire) -> Result<Self, HeaderError> {
        if wire.v != VERSION {
            return Err(HeaderError::Unknown("version"));
        }
        Self {
            suite: match wire.suite {
                1 => Suite::ChaCha20Poly1305,
                2 => Suite::Aes256Gcm,
                _ => return Err(HeaderError::Unknown("suite")),
            },
            oid: wire.oid.into_array(),
            salt: wire.salt.into_array(),
            chunk_log2: wire.chunk_log2,
            custody: wire.custody.into_array(),
            device: wire.device,
            stream: wire.stream.into_array(),
            class: wire.class,
            captured_at: wire.captured_at,
        }
        .checked()
    }
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(chunk_log2: u8, device: &str, class: &str) -> Result<Header, HeaderError> {
        Header::new(
            Suite::ChaCha20Poly1305,
            chunk_log2,
            [1; 16],
            device,
            [2; 16],
            class,
            3,
        )
    }

    #[test]
    fn header_rejects_values_out_of_range() {
        assert!(header(16, "d", "waveform.ecg").is_ok());
        assert!(header(20, &"d".repeat(100), &"c".repeat(32)).is_ok());
        for log2 in [0, 15, 21, 64, 255] {
            assert!(matches!(
                header(log2, "d", "log"),
                Err(HeaderError::ChunkSize(_))
            ));
        }
        for device in ["", &"d".repeat(101)] {
            assert!(matches!(
                header(16, device, "log"),
                Err(HeaderError::Device)
            ));
        }
        for class in ["", "Log", "a b", "ä", &"c".repeat(33)] {
            assert!(matches!(header(16, "d", class), Err(HeaderError::Class)));
        }
    }

    #[test]
    fn two_headers_of_the_same_values_differ() {
        let (one, two) = (header(16, "d", "log"), header(16, "d", "log"));
        assert_ne!(one.unwrap().hash(), two.unwrap().hash());
    }

    #[test]
    fn parse_rejects_other_versions_suites_and_fields() {
        let good = header(16, "d", "log").unwrap();
        assert_eq!(Header::from_bytes(&good.to_bytes()).unwrap(), good);
        let wire = |change: fn(&mut Wire)| {
            let mut wire = Wire::from(good.clone());
            change(&mut wire);
            Header::from_bytes(&to_canonical(&wire))
        };
        assert!(wire(|_| ()).is_ok());
        assert!(wire(|w| w.v = 2).is_err());
        assert!(wire(|w| w.suite = 3).is_err());
        assert!(wire(|w| w.chunk_log2 = 21).is_err());
        assert!(wire(|w| w.class = "A".to_owned()).is_err());
        assert!(wire(|w| w.device = "d".repeat(101)).is_err());
        assert!(matches!(
            wire(|w| w.device = "d".repeat(2000)),
            Err(FormatError::TooLong { .. })
        ));
    }

    #[test]
    fn chunks_are_counted_at_their_boundaries() {
        let header = header(16, "d", "log").unwrap();
        for (size, chunks) in [
            (0, 1),
            (1, 1),
            (65_520, 1),
            (65_521, 2),
            (131_040, 2),
            (131_041, 3),
        ] {
            assert_eq!(header.chunks_of(size), chunks, "{size}");
        }
        assert_eq!(header.chunks_of(u64::MAX), u64::MAX.div_ceil(65_520));
    }
}
