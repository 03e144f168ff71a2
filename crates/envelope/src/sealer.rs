use crate::{
    Header, Recipient, SealError, Wrap,
    aead::{METADATA_NONCE, TAG_LEN, chunk_nonce},
    keys::{ContentKey, RecordKeys},
};
use std::{
    fmt,
    io::{self, Read},
};

/// Seals one payload, once: it holds a fresh content key, and [`Sealer::seal`] consumes it.
///
/// ```
/// # use medanchor_envelope::{Header, Identity, Sealer, Suite};
/// # let custody = Identity::generate()?.recipient();
/// # let payload = &b"payload"[..];
/// # let header = Header::new(Suite::ChaCha20Poly1305, 18, [0; 16], "did:key:z6Mk", [0; 16], "log", 0)?;
/// let sealer = Sealer::new(header)?;
/// let (commitment, wrap) = (sealer.commitment(), sealer.wrap(&custody));
/// let mut chunks = sealer.seal(payload);
/// for chunk in &mut chunks {
///     let sealed: Vec<u8> = chunk?;
/// }
/// let size = chunks.size();
/// let metadata = chunks.seal_metadata(b"{}");
/// # assert_eq!(size, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sealer {
    header: Header,
    key: ContentKey,
    keys: RecordKeys,
    commitment: [u8; 32],
}

impl Sealer {
    /// Draws a content key for the payload that `header` describes.
    ///
    /// # Errors
    ///
    /// [`SealError`]; nothing was sealed.
    pub fn new(header: Header) -> Result<Self, SealError> {
        let key = ContentKey::generate().map_err(SealError::NoRandomness)?;
        Ok(Self::with_key(header, key))
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The record's commitment to its content key.
    pub fn commitment(&self) -> [u8; 32] {
        self.commitment
    }

    /// The durable wrap: the content key, sealed to the custody key.
    ///
    /// # Panics
    ///
    /// When the operating system has no random bytes.
    pub fn wrap(&self, custody: &Recipient) -> Wrap {
        Wrap::seal(&self.key, &self.header, self.commitment, custody, None)
    }

    /// Seals what `reader` gives. Nothing is read before the first chunk is asked for.
    pub fn seal<R: Read>(self, reader: R) -> SealedChunks<R> {
        SealedChunks {
            header: self.header,
            keys: self.keys,
            reader,
            ahead: None,
            index: 0,
            size: 0,
            done: false,
        }
    }

    /// INVARIANT: outside of tests, `key` was drawn for this payload and is used nowhere else.
    pub(crate) fn with_key(header: Header, key: ContentKey) -> Self {
        let (keys, commitment) = key.for_sealing(&header);
        Self {
            header,
            key,
            keys,
            commitment,
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// The sealed chunks of one payload, in order. It holds two chunks, whatever the payload's size.
pub struct SealedChunks<R> {
    header: Header,
    keys: RecordKeys,
    reader: R,
    /// The plaintext of chunk `index`, which is sealed only when it is known whether it is the last.
    ahead: Option<Vec<u8>>,
    index: u64,
    size: u64,
    done: bool,
}

impl<R> SealedChunks<R> {
    /// Plaintext bytes read so far: the payload's size once there are no more chunks.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Seals the record's metadata, at most once, since its nonce is fixed.
    pub fn seal_metadata(self, metadata: &[u8]) -> Vec<u8> {
        let mut sealed = metadata.to_vec();
        self.keys.metadata.seal(METADATA_NONCE, &mut sealed);
        sealed
    }
}

impl<R: Read> SealedChunks<R> {
    fn seal_next(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = match self.ahead.take() {
            Some(chunk) => chunk,
            None => self.read_chunk()?,
        };
        // A full chunk is the last one if nothing follows it; a shorter one always is.
        if chunk.len() == self.header.chunk_plaintext_len() {
            let following = self.read_chunk()?;
            self.ahead = Some(following).filter(|following| !following.is_empty());
        }
        let last = self.ahead.is_none();
        let nonce = chunk_nonce(self.index, last);
        self.keys.payload.seal(nonce, &mut chunk);
        self.index += 1;
        self.done = last;
        Ok(chunk)
    }

    /// As much as fits a chunk; less at the payload's end only.
    fn read_chunk(&mut self) -> io::Result<Vec<u8>> {
        let limit = self.header.chunk_plaintext_len() as u64;
        let mut chunk = Vec::with_capacity(self.header.chunk_len());
        self.reader.by_ref().take(limit).read_to_end(&mut chunk)?;
        chunk.shrink_to(chunk.len() + TAG_LEN);
        self.size += chunk.len() as u64;
        Ok(chunk)
    }
}

impl<R: Read> Iterator for SealedChunks<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let chunk = self.seal_next();
        // INVARIANT: after an error nothing more is sealed, so no nonce is used for two plaintexts.
        self.done |= chunk.is_err();
        Some(chunk)
    }
}

impl<R> fmt::Debug for SealedChunks<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedChunks")
            .field("header", &self.header)
            .field("index", &self.index)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{RECORDS, header, vector};
    use sha2::{Digest, Sha256};
    use zeroize::Zeroizing;

    #[test]
    fn sealing_matches_vectors() {
        for name in RECORDS {
            let vector = vector(name);
            let header = Header::from_bytes(&vector.bytes("header_cbor")).unwrap();
            assert_eq!(header.to_bytes(), vector.bytes("header_cbor"), "{name}");
            assert_eq!(header.hash(), vector.array("header_hash"), "{name}");

            let key = ContentKey::from_bytes(Zeroizing::new(vector.array("content_key")));
            let sealer = Sealer::with_key(header.clone(), key);
            assert_eq!(sealer.commitment(), vector.array("commitment"), "{name}");

            let plaintext = vector.plaintext();
            let mut chunks = sealer.seal(plaintext.as_slice());
            let sealed: Vec<Vec<u8>> = chunks.by_ref().map(Result::unwrap).collect();
            let lens: Vec<u64> = sealed.iter().map(|chunk| chunk.len() as u64).collect();
            assert_eq!(lens, vector.numbers("chunk_lens"), "{name}");
            assert_eq!(lens.len() as u64, header.chunks_of(chunks.size()), "{name}");
            assert_eq!(chunks.size(), plaintext.len() as u64, "{name}");
            let digest: [u8; 32] = Sha256::digest(sealed.concat()).into();
            assert_eq!(digest, vector.array("sealed_sha256"), "{name}");

            let metadata = chunks.seal_metadata(&vector.bytes("metadata_cbor"));
            assert_eq!(metadata, vector.bytes("sealed_metadata"), "{name}");
        }
    }

    /// Gives one byte at a time, and fails at `fails_at`.
    struct Slow {
        given: usize,
        fails_at: usize,
    }

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.given == self.fails_at {
                return Err(io::Error::other("cable pulled"));
            }
            self.given += 1;
            buffer[0] = 7;
            Ok(1)
        }
    }

    #[test]
    fn nothing_is_sealed_after_a_read_error() {
        let sealer = Sealer::new(header()).unwrap();
        let mut chunks = sealer.seal(Slow {
            given: 0,
            fails_at: 3 * 65_520 / 2,
        });
        assert!(chunks.next().unwrap().is_err());
        assert!(chunks.next().is_none());
        assert!(chunks.next().is_none());
    }

    #[test]
    fn short_reads_make_the_same_chunks() {
        let key = || ContentKey::from_bytes(Zeroizing::new([9; 32]));
        let header = header();
        let payload = vec![7; 70_000];
        let slow = Slow {
            given: 0,
            fails_at: usize::MAX,
        };
        let slow = Sealer::with_key(header.clone(), key()).seal(slow.take(70_000));
        let whole = Sealer::with_key(header, key()).seal(payload.as_slice());
        let collect = |chunks: Vec<io::Result<Vec<u8>>>| -> Vec<Vec<u8>> {
            chunks.into_iter().map(Result::unwrap).collect()
        };
        assert_eq!(collect(slow.collect()), collect(whole.collect()));
    }
}
