use super::{
    C4ghError, HEADER, MAGIC, NONCE, PublicKey, SecretKey, TAG, VERSION, aead, keys::FileKeys,
    open, seal,
};
use ring::aead::LessSafeKey;
use std::io::{self, Read};
use zeroize::Zeroizing;

/// What a header says to one reader.
pub(super) struct Opened {
    /// Keys of segments, each to be tried.
    pub(super) keys: Vec<LessSafeKey>,
    /// What of the plaintext counts: lengths to skip and to keep, in turn.
    pub(super) edits: Option<Vec<u64>>,
}

/// The header of a file for one reader: the same again from the same keys.
pub(super) fn write(keys: &FileKeys, reader: &PublicKey) -> io::Result<Vec<u8>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(DATA_KEY_PACKET));
    plain.extend_from_slice(&DATA_KEY.to_le_bytes());
    plain.extend_from_slice(&CHACHA20_POLY1305.to_le_bytes());
    plain.extend_from_slice(&*keys.data);
    let own = keys.writer.public();
    let shared = keys.writer.shared(reader, reader, &own);
    let shared = shared.ok_or_else(|| io::Error::other("the reader's key is no key"))?;
    let sealed = aead(&shared).and_then(|key| seal(&key, keys.nonce, &plain));
    let sealed = sealed.ok_or_else(|| io::Error::other("cannot encrypt"))?;
    let len = u32::try_from(4 + 4 + 32 + sealed.len()).map_err(io::Error::other)?;
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&1_u32.to_le_bytes());
    header.extend_from_slice(&len.to_le_bytes());
    header.extend_from_slice(&X25519_CHACHA20_POLY1305.to_le_bytes());
    header.extend_from_slice(&own.0);
    header.extend_from_slice(&sealed);
    Ok(header)
}

/// Reads a header, and opens what of it is for this key.
pub(super) fn read(file: &mut impl Read, key: &SecretKey) -> io::Result<Opened> {
    let mut start = [0; 16];
    let read = file.read_exact(&mut start);
    read.map_err(|error| cut_off(error, C4ghError::NotCrypt4gh))?;
    let (magic, numbers) = start.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    let mut numbers = Numbers(numbers);
    if magic != MAGIC || numbers.u32() != Some(VERSION) {
        return Err(bad(C4ghError::NotCrypt4gh));
    }
    let count = numbers.u32().unwrap_or(0);
    if !(1..=MAX_PACKETS).contains(&count) {
        return Err(malformed("a count of packets that nobody needs"));
    }
    let mut opened = Opened {
        keys: Vec::new(),
        edits: None,
    };
    for _ in 0..count {
        let mut packet = read_packet(file)?;
        if let Some(plain) = open_packet(&mut packet, key)? {
            opened.take(plain)?;
        }
    }
    if opened.keys.is_empty() {
        return Err(bad(C4ghError::NotForThisKey));
    }
    Ok(opened)
}

/// A packet without its length.
fn read_packet(file: &mut impl Read) -> io::Result<Vec<u8>> {
    let cut = |error| cut_off(error, C4ghError::Header("it is cut off"));
    let mut len = [0; 4];
    file.read_exact(&mut len).map_err(cut)?;
    let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
    if !(MIN_PACKET..=MAX_PACKET).contains(&len) {
        return Err(malformed("a packet has a length that none has"));
    }
    let mut packet = vec![0; len - 4];
    file.read_exact(&mut packet).map_err(cut)?;
    Ok(packet)
}

/// What a packet says, if it is for this key. One of another method is for somebody else.
fn open_packet<'p>(packet: &'p mut [u8], key: &SecretKey) -> io::Result<Option<&'p mut [u8]>> {
    let Some((head, sealed)) = packet.split_first_chunk_mut::<36>() else {
        return Ok(None);
    };
    let (method, writer) = head.split_first_chunk().unwrap_or((&[0; 4], &[]));
    let Ok(writer) = <[u8; 32]>::try_from(writer) else {
        return Ok(None);
    };
    if u32::from_le_bytes(*method) != X25519_CHACHA20_POLY1305 {
        return Ok(None);
    }
    let (own, writer) = (key.public(), PublicKey(writer));
    let shared = key.shared(&writer, &own, &writer);
    let shared = shared.ok_or_else(|| malformed("a packet has a key that is none"))?;
    Ok(aead(&shared).and_then(|key| open(&key, sealed)))
}

impl Opened {
    fn take(&mut self, plain: &[u8]) -> io::Result<()> {
        let mut numbers = Numbers(plain);
        match numbers.u32() {
            Some(DATA_KEY) => {
                let method = numbers.u32();
                let key = <&[u8; 32]>::try_from(numbers.0);
                let (Some(CHACHA20_POLY1305), Ok(key)) = (method, key) else {
                    return Err(malformed("a data key of another kind"));
                };
                if self.keys.len() == MAX_KEYS {
                    return Err(malformed("more data keys than anybody needs"));
                }
                self.keys.extend(aead(key));
                Ok(())
            }
            Some(EDIT_LIST) if self.edits.is_none() => {
                let count = numbers.u32().and_then(|count| usize::try_from(count).ok());
                let lens = std::iter::from_fn(|| numbers.u64()).collect::<Vec<u64>>();
                if count != Some(lens.len()) || !numbers.0.is_empty() {
                    return Err(malformed("an edit list of another length than it says"));
                }
                self.edits = Some(lens);
                Ok(())
            }
            Some(EDIT_LIST) => Err(malformed("two edit lists")),
            _ => Err(malformed("a packet of a kind that is not known")),
        }
    }
}

/// Little-endian numbers, one after the other.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }

    fn u64(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }
}

pub(super) fn bad(error: C4ghError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn malformed(what: &'static str) -> io::Error {
    bad(C4ghError::Header(what))
}

fn cut_off(error: io::Error, instead: C4ghError) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => bad(instead),
        _ => error,
    }
}

const X25519_CHACHA20_POLY1305: u32 = 0;
const DATA_KEY: u32 = 0;
const EDIT_LIST: u32 = 1;
const CHACHA20_POLY1305: u32 = 0;
const DATA_KEY_PACKET: usize = 40;
/// Where the nonce of the packet of [`write`] is: behind the start, and length, method and writer's key.
pub(super) const HEADER_NONCE: usize = 16 + 4 + 4 + 32;
/// Length, method, key, nonce, tag.
const MIN_PACKET: usize = 4 + 4 + 32 + NONCE + TAG;
const MAX_PACKET: usize = 64 * 1024;
const MAX_PACKETS: u32 = 1024;
const MAX_KEYS: usize = 16;
