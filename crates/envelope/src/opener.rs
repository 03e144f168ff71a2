use crate::{
    Header, Identity, OpenError, Wrap,
    aead::{METADATA_NONCE, TAG_LEN, chunk_nonce},
    cbor::sha256,
    keys::RecordKeys,
};
use std::fmt;

/// Opens one record's chunks and metadata. It exists only for the content key that the record commits to.
pub struct Opener {
    keys: RecordKeys,
    chunk_len: usize,
}

impl Opener {
    /// Unwraps the content key. `header` and `commitment` come from the record, whose signature the
    /// caller has checked.
    ///
    /// # Errors
    ///
    /// [`OpenError`], when the wrap is not of this record, not for this identity, or holds another key
    /// than the record commits to.
    pub fn new(
        wrap: &Wrap,
        identity: &Identity,
        header: &Header,
        commitment: &[u8; 32],
    ) -> Result<Self, OpenError> {
        let (_, keys) = wrap.open(identity, header, commitment)?;
        Ok(Self {
            keys,
            chunk_len: header.chunk_len(),
        })
    }

    /// Length of a full chunk's plaintext, in bytes.
    pub fn chunk_plaintext_bytes(&self) -> u64 {
        (self.chunk_len - TAG_LEN) as u64
    }

    /// Opens the chunk at `index`, which is the payload's `last` one or not. Both come from the record's
    /// signed size ([`Header::chunks_of`]), and a payload is whole only if its last chunk opened as such.
    ///
    /// # Errors
    ///
    /// [`OpenError::Chunk`], when this is not that chunk.
    pub fn open_chunk(&self, index: u64, last: bool, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        // One payload has one sealed form: only the last chunk may be short, and only the first empty.
        let shortest = match (last, index) {
            (false, _) => self.chunk_len,
            (true, 0) => TAG_LEN,
            (true, _) => TAG_LEN + 1,
        };
        if !(shortest..=self.chunk_len).contains(&sealed.len()) {
            return Err(OpenError::Chunk { index });
        }
        let nonce = chunk_nonce(index, last);
        let opened = self.keys.payload.open(nonce, sealed);
        opened.ok_or(OpenError::Chunk { index })
    }

    /// Whether `plain` is the chunk at `index` whose sealed form has this SHA-256, which its CID names. So whoever
    /// has opened a chunk before knows it again without its sealed form.
    pub fn is_chunk(&self, index: u64, last: bool, plain: &[u8], sealed_sha256: &[u8; 32]) -> bool {
        if plain.len().saturating_add(TAG_LEN) > self.chunk_len {
            return false;
        }
        // INVARIANT: a nonce is used again here, perhaps for other bytes; what comes of it is hashed and dropped.
        let mut sealed = Vec::with_capacity(plain.len() + TAG_LEN);
        sealed.extend_from_slice(plain);
        self.keys
            .payload
            .seal(chunk_nonce(index, last), &mut sealed);
        sha256(&sealed) == *sealed_sha256
    }

    /// Opens the record's metadata.
    ///
    /// # Errors
    ///
    /// [`OpenError::Metadata`], when these are not this record's.
    pub fn open_metadata(&self, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let opened = self.keys.metadata.open(METADATA_NONCE, sealed);
        opened.ok_or(OpenError::Metadata)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}
