use super::{PublicKey, SEGMENT, aead, header, keys::FileKeys, seal, segment_nonce};
use ring::aead::LessSafeKey;
use std::io::{self, Write};
use zeroize::Zeroizing;

/// Encrypts what is written to it. Nothing is whole before [`Encrypting::finish`].
pub(crate) struct Encrypting<W> {
    to: W,
    key: LessSafeKey,
    /// Of the segment that is filled.
    number: u64,
    segment: Zeroizing<Vec<u8>>,
}

impl<W: Write> Encrypting<W> {
    /// Writes the header for one reader. The writer's key is forgotten.
    pub(crate) fn begin(mut to: W, reader: &PublicKey) -> io::Result<Self> {
        let keys = FileKeys::draw()?;
        to.write_all(&header::write(&keys, reader)?)?;
        let key = aead(&keys.data).ok_or_else(|| io::Error::other("cannot encrypt"))?;
        Ok(Self::behind(to, key, 0))
    }

    /// Goes on behind so many segments of this key.
    pub(super) fn behind(to: W, key: LessSafeKey, segments: u64) -> Self {
        Self {
            to,
            key,
            number: segments,
            segment: Zeroizing::new(Vec::with_capacity(SEGMENT)),
        }
    }

    /// Writes the last segment, which may be shorter than the others.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if !self.segment.is_empty() {
            self.write_segment()?;
        }
        self.to.flush()?;
        Ok(self.to)
    }

    fn write_segment(&mut self) -> io::Result<()> {
        // The key is this file's alone, and a segment's number is its own.
        let sealed = seal(&self.key, segment_nonce(self.number), &self.segment);
        let sealed = sealed.ok_or_else(|| io::Error::other("cannot encrypt"))?;
        self.segment.clear();
        self.number += 1;
        self.to.write_all(&sealed)
    }
}

impl<W: Write> Write for Encrypting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = SEGMENT - self.segment.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.segment.extend_from_slice(taken);
        if self.segment.len() == SEGMENT {
            self.write_segment()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
