use super::{C4ghError, NONCE, SEGMENT, SecretKey, TAG, header, header::bad, open};
use ring::aead::LessSafeKey;
use std::{
    collections::VecDeque,
    io::{self, Read},
};
use zeroize::Zeroizing;

/// The plaintext of a file, as its edit list wants it.
pub(crate) struct Decrypting<R> {
    file: R,
    keys: Vec<LessSafeKey>,
    edits: Option<Edits>,
    /// Number of the segment that comes next.
    number: u64,
    sealed: Zeroizing<Vec<u8>>,
    /// Where in it the rest of the plaintext is.
    plain: std::ops::Range<usize>,
}

impl<R: Read> Decrypting<R> {
    /// Reads the header with the reader's key.
    pub(crate) fn open(mut file: R, key: &SecretKey) -> io::Result<Self> {
        let opened = header::read(&mut file, key)?;
        Ok(Self {
            file,
            keys: opened.keys,
            edits: opened.edits.map(Edits::new),
            number: 0,
            sealed: Zeroizing::new(Vec::with_capacity(NONCE + SEGMENT + TAG)),
            plain: 0..0,
        })
    }

    /// Whether there is one more segment. Only the last may be short, and none is empty.
    fn next_segment(&mut self) -> io::Result<bool> {
        self.sealed.clear();
        self.plain = 0..0;
        let full = u64::try_from(NONCE + SEGMENT + TAG).unwrap_or(u64::MAX);
        self.file
            .by_ref()
            .take(full)
            .read_to_end(&mut self.sealed)?;
        if self.sealed.is_empty() {
            return Ok(false);
        }
        let damaged = || bad(C4ghError::Segment(self.number));
        if self.sealed.len() <= NONCE + TAG {
            return Err(damaged());
        }
        let len = self.sealed.len() - NONCE - TAG;
        for key in &self.keys {
            // A failed attempt leaves nothing of what was sealed.
            let mut attempt = self.sealed.clone();
            if open(key, &mut attempt).is_some() {
                self.sealed = attempt;
                self.plain = NONCE..NONCE + len;
                self.number += 1;
                return Ok(true);
            }
        }
        Err(damaged())
    }

    /// The plaintext that comes next, at most this much; empty at the end.
    fn next_part(&mut self, limit: usize) -> io::Result<&[u8]> {
        loop {
            if self.edits.as_ref().is_some_and(Edits::is_over) {
                return Ok(&[]);
            }
            if self.plain.is_empty() && !self.next_segment()? {
                let is_whole = self.edits.as_ref().is_none_or(Edits::may_end);
                return match is_whole {
                    true => Ok(&[]),
                    false => Err(bad(C4ghError::EditList)),
                };
            }
            let left = self.plain.len();
            let (len, is_kept) = match &mut self.edits {
                None => (left.min(limit), true),
                Some(edits) => edits.next(left, limit),
            };
            let part = self.plain.start..self.plain.start + len;
            self.plain.start = part.end;
            if is_kept && len > 0 {
                return Ok(self.sealed.get(part).unwrap_or_default());
            }
        }
    }
}

impl<R: Read> Read for Decrypting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let part = self.next_part(buffer.len())?;
        let len = part.len();
        if let Some(to) = buffer.get_mut(..len) {
            to.copy_from_slice(part);
        }
        Ok(len)
    }
}

/// What is still to be skipped and kept, in turn.
struct Edits {
    lens: VecDeque<u64>,
    keeps: bool,
    /// After a skip at the end of the list everything is kept.
    keeps_rest: bool,
}

impl Edits {
    fn new(lens: Vec<u64>) -> Self {
        Self {
            keeps_rest: lens.len() % 2 == 1,
            lens: lens.into(),
            keeps: false,
        }
    }

    /// How much of the next bytes belongs together, and whether it is kept.
    fn next(&mut self, left: usize, limit: usize) -> (usize, bool) {
        let Some(first) = self.lens.front_mut() else {
            return (left.min(limit), self.keeps_rest);
        };
        let keeps = self.keeps;
        let most = if keeps { left.min(limit) } else { left };
        let len = usize::try_from(*first).unwrap_or(usize::MAX).min(most);
        *first -= u64::try_from(len).unwrap_or(*first);
        if *first == 0 {
            self.lens.pop_front();
            self.keeps = !keeps;
        }
        (len, keeps)
    }

    /// Whether nothing that comes is kept.
    fn is_over(&self) -> bool {
        self.lens.is_empty() && !self.keeps_rest
    }

    /// Whether the file may end here.
    fn may_end(&self) -> bool {
        self.lens.iter().all(|&len| len == 0)
    }
}
