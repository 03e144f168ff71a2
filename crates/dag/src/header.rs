use crate::{Class, CustodyId, Did, StreamId};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

/// What a record's header says: everything that decides who may read the payload. It is bound into the
/// payload's keys, so it cannot be changed afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderFields {
    v: u8,
    /// The cipher suite: 1 (ChaCha20-Poly1305) or 2 (AES-256-GCM). Both add 16 bytes to a chunk.
    pub suite: u8,
    /// The payload's random id.
    pub oid: ByteArray<16>,
    /// The salt of the payload's key derivation.
    pub salt: ByteArray<32>,
    /// A full sealed chunk is 2^`chunk_log2` bytes, 16 to 20.
    pub chunk_log2: u8,
    /// The custody key that the payload's content key is wrapped to.
    pub custody: CustodyId,
    /// The device that signs the record.
    pub device: Did,
    /// The stream of records that this is one of.
    pub stream: StreamId,
    /// What kind of data it is.
    pub class: Class,
    /// When the payload was captured, by the device's clock.
    #[serde(rename = "captured_at")]
    pub captured_at_unix_ms: u64,
}

impl HeaderFields {
    /// Whether this is a version, suite and chunk size that exist.
    pub(crate) fn is_supported(&self) -> bool {
        self.v == 1 && [1, 2].contains(&self.suite) && (16..=20).contains(&self.chunk_log2)
    }

    /// Number of chunks of a payload of `size` bytes. An empty payload is one empty chunk.
    pub(crate) fn chunk_count(&self, size: u64) -> u64 {
        size.div_ceil(self.plaintext_chunk_bytes()).max(1)
    }

    /// Sealed length of chunk `index` of a payload of `size` bytes; 0 past the last.
    pub(crate) fn sealed_chunk_bytes(&self, size: u64, index: u64) -> u64 {
        if index >= self.chunk_count(size) {
            return 0;
        }
        let start = index.saturating_mul(self.plaintext_chunk_bytes());
        size.saturating_sub(start).min(self.plaintext_chunk_bytes()) + TAG_BYTES
    }

    fn plaintext_chunk_bytes(&self) -> u64 {
        (1 << self.chunk_log2.clamp(16, 20)) - TAG_BYTES
    }
}

/// Longest header: the longest DID and class, with room for a 9-byte time.
pub(crate) const MAX_HEADER_BYTES: usize = 512;

/// What both suites' authentication adds to a chunk.
const TAG_BYTES: u64 = 16;
