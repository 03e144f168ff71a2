//! GA4GH Crypt4GH, version 1 (<http://samtools.github.io/hts-specs/crypt4gh.pdf>): encrypts to one reader as it is written,
//! and decrypts as it is read.
//!
//! The format signs nothing and does not say where a file ends: what is cut off between two segments, or swapped, is not
//! noticed. Whoever needs that compares the payload with its record.

mod header;
mod key;
mod keys;
mod read;
mod unfinished;
mod write;

pub(crate) use key::{PublicKey, SecretKey};
pub(crate) use read::Decrypting;
pub(crate) use unfinished::Making;
pub(crate) use write::Encrypting;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Why something is not a Crypt4GH file that can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum C4ghError {
    /// It does not begin as one, or with another version.
    #[error("not a Crypt4GH file of version 1")]
    NotCrypt4gh,
    /// The header contradicts itself or a limit.
    #[error("the Crypt4GH header is malformed: {0}")]
    Header(&'static str),
    /// None of the header's packets is for this key.
    #[error("the Crypt4GH file is not for this key")]
    NotForThisKey,
    /// A segment was changed, moved to another file, or cut off.
    #[error("segment {0} of the Crypt4GH file is damaged")]
    Segment(u64),
    /// The edit list names bytes behind the end.
    #[error("the Crypt4GH file ends before its edit list does")]
    EditList,
}

/// ChaCha20-Poly1305 without associated data, as packets and segments have it.
fn aead(key: &[u8; 32]) -> Option<LessSafeKey> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).ok()?;
    Some(LessSafeKey::new(key))
}

/// `nonce || ciphertext || tag`.
fn seal(key: &LessSafeKey, nonce: [u8; NONCE], plain: &[u8]) -> Option<Vec<u8>> {
    let mut sealed = Vec::with_capacity(NONCE + plain.len() + TAG);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let text = sealed.get_mut(NONCE..)?;
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::empty(), text)
        .ok()?;
    sealed.extend_from_slice(tag.as_ref());
    Some(sealed)
}

/// What was sealed, in place.
fn open<'s>(key: &LessSafeKey, sealed: &'s mut [u8]) -> Option<&'s mut [u8]> {
    let (nonce, text) = sealed.split_at_mut_checked(NONCE)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    key.open_in_place(nonce, Aad::empty(), text).ok()
}

/// What a segment of ours is encrypted with: its number, so that none counts in another place. The key is of one file alone.
fn segment_nonce(number: u64) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    if let Some(low) = nonce.last_chunk_mut() {
        *low = number.to_be_bytes();
    }
    nonce
}

const MAGIC: &[u8; 8] = b"crypt4gh";
const VERSION: u32 = 1;
const NONCE: usize = 12;
const TAG: usize = 16;
/// A header for one reader, without an edit list.
const HEADER: usize = 124;
/// Plaintext in a full segment.
const SEGMENT: usize = 65_536;

#[cfg(test)]
mod tests;
