use super::{NONCE, PublicKey, SEGMENT, SecretKey, aead, header, seal};
use ring::aead::LessSafeKey;
use std::io::{self, Write};
use zeroize::Zeroizing;

/// Encrypts what is written to it. Nothing is whole before [`Encrypting::finish`].
pub(crate) struct Encrypting<W> {
    to: W,
    key: LessSafeKey,
    segment: Zeroizing<Vec<u8>>,
}

impl<W: Write> Encrypting<W> {
    /// Writes the header for one reader. The writer's key is forgotten.
    pub(crate) fn begin(mut to: W, reader: &PublicKey) -> io::Result<Self> {
        let mut data_key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *data_key).map_err(io::Error::other)?;
        let writer = SecretKey::generate().map_err(io::Error::other)?;
        to.write_all(&header::write(&data_key, &writer, reader)?)?;
        let key = aead(&data_key).ok_or_else(|| io::Error::other("cannot encrypt"))?;
        Ok(Self {
            to,
            key,
            segment: Zeroizing::new(Vec::with_capacity(SEGMENT)),
        })
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
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let sealed = seal(&self.key, nonce, &self.segment);
        let sealed = sealed.ok_or_else(|| io::Error::other("cannot encrypt"))?;
        self.segment.clear();
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
