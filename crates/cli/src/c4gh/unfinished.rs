use super::{
    Encrypting, HEADER, NONCE, PublicKey, SEGMENT, TAG, aead,
    header::{self, HEADER_NONCE},
    keys::{self, FileKeys},
    open, segment_nonce,
};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
};
use zeroize::Zeroizing;

/// What a file is made of, and for whom: the same again gives the same keys.
pub(crate) struct Making<'a> {
    /// The writer's own.
    pub(crate) secret: &'a [u8; 32],
    /// Names the plaintext: no other has the same name.
    pub(crate) content: &'a [u8],
    pub(crate) reader: &'a PublicKey,
    /// Bytes of the plaintext.
    pub(crate) size: u64,
}

impl Making<'_> {
    /// Goes on with a file that was cut off anywhere, with a new one otherwise: behind its last good segment. `see` is shown
    /// the plaintext that is there, how much it is is told. A segment counts when it was encrypted for this file and for its
    /// place in it.
    pub(crate) fn go_on(
        &self,
        mut file: File,
        see: &mut dyn FnMut(&[u8]),
    ) -> io::Result<(Encrypting<File>, u64)> {
        file.seek(SeekFrom::Start(0))?;
        let keys = match self.begun(&mut file)? {
            Some(keys) => keys,
            None => self.begin(&mut file)?,
        };
        let key = aead(&keys.data).ok_or_else(|| io::Error::other("cannot encrypt"))?;
        let (mut kept, mut number, mut end) = (0, 0, HEADER_BYTES);
        let mut sealed = Zeroizing::new(Vec::with_capacity(NONCE + SEGMENT + TAG));
        while kept < self.size {
            let plain_len = usize::try_from(self.size - kept)
                .unwrap_or(SEGMENT)
                .min(SEGMENT);
            sealed.resize(NONCE + plain_len + TAG, 0);
            // One that cannot be read is not there.
            if file.read_exact(&mut sealed).is_err() || !sealed.starts_with(&segment_nonce(number))
            {
                break;
            }
            let Some(plain) = open(&key, &mut sealed) else {
                break;
            };
            see(plain);
            kept += u64::try_from(plain_len).map_err(io::Error::other)?;
            end += u64::try_from(sealed.len()).map_err(io::Error::other)?;
            number += 1;
        }
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        Ok((Encrypting::behind(file, key, number), kept))
    }

    /// The keys of a file whose header is whole, and of this very making.
    fn begun(&self, file: &mut File) -> io::Result<Option<FileKeys>> {
        let mut header = [0; HEADER];
        if file.read_exact(&mut header).is_err() {
            return Ok(None);
        }
        let nonce = header.get(HEADER_NONCE..).and_then(<[u8]>::first_chunk);
        let Some(nonce) = nonce else {
            return Ok(None);
        };
        let keys = FileKeys::derive(self.secret, *nonce, self.content)?;
        let is_ours = header::write(&keys, self.reader)? == header;
        Ok(is_ours.then_some(keys))
    }

    fn begin(&self, file: &mut File) -> io::Result<FileKeys> {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        let keys = FileKeys::derive(self.secret, keys::nonce()?, self.content)?;
        file.write_all(&header::write(&keys, self.reader)?)?;
        Ok(keys)
    }
}

const HEADER_BYTES: u64 = HEADER as u64;
