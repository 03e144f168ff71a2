use crate::{
    Block, BlockError, CborError, MAX_BLOCK_BYTES, block::digest_of, from_canonical, to_canonical,
};
use bytes::Bytes;
use cid::Cid;
use serde::{Deserialize, Serialize};
use std::io::{self, BufReader, Read, Write};

/// Writes blocks into a CAR, version 1 (<https://ipld.io/specs/transport/car/carv1/>): a header that names
/// the roots, then a section for each block, in the order in which they are written.
///
/// A [`Block`] is known to hash to its CID, so whatever is written verifies. The same roots and blocks in
/// the same order are the same bytes.
#[derive(Debug)]
pub struct CarWriter<W> {
    output: W,
    size_bytes: u64,
}

impl<W: Write> CarWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    ///
    /// What `output` returns, and [`io::ErrorKind::InvalidInput`] when there is no root, there are more than
    /// [`MAX_CAR_ROOTS`], or one is of a kind that is never stored.
    pub fn new(output: W, roots: &[Cid]) -> io::Result<Self> {
        if roots.is_empty() || roots.len() > MAX_CAR_ROOTS {
            return Err(refuse("a car has 1 to 100,000 roots"));
        }
        for root in roots {
            digest_of(root).map_err(refuse)?;
        }
        let header = to_canonical(&Header {
            roots: Some(roots.to_vec()),
            version: VERSION,
        });
        let mut car = Self {
            output,
            size_bytes: 0,
        };
        car.write_part(&[&header])?;
        Ok(car)
    }

    /// Writes a block.
    ///
    /// # Errors
    ///
    /// What `output` returns: the CAR is not whole then.
    pub fn write(&mut self, block: &Block) -> io::Result<()> {
        self.write_part(&[&block.cid().to_bytes(), block.bytes()])
    }

    /// How long it is so far, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Flushes it. Nothing marks a CAR's end: it is whole with its last block.
    ///
    /// # Errors
    ///
    /// What `output` returns.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }

    /// Pieces that together are a header or a section, after their length.
    fn write_part(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let len = u64::try_from(len).map_err(io::Error::other)?;
        let varint = varint(len);
        for piece in [varint.as_slice()].iter().chain(pieces) {
            self.output.write_all(piece)?;
        }
        let varint_len = u64::try_from(varint.len()).map_err(io::Error::other)?;
        self.size_bytes = self
            .size_bytes
            .saturating_add(len)
            .saturating_add(varint_len);
        Ok(())
    }
}

/// Reads a CAR, version 1, strictly: canonical header, shortest lengths, blocks of the kinds and sizes that
/// are stored, each hashed. It gives the blocks in order and nothing after an error.
///
/// Holds one block in memory and never more than the input has, whatever a length says.
///
/// What the format itself does not protect: the roots' digests, a block's codec, and that no block is
/// missing. Whoever needs a whole DAG walks it from a root that is known from elsewhere.
#[derive(Debug)]
pub struct CarReader<R> {
    input: BufReader<R>,
    offset: u64,
    roots: Vec<Cid>,
    ended: bool,
}

/// Why a CAR is not read any further. Offsets are bytes from its start.
#[derive(Debug, thiserror::Error)]
pub enum CarError {
    /// The input could not be read: try again.
    #[error("car cannot be read")]
    Io(#[from] io::Error),
    /// The input ends in the middle.
    #[error("car is cut off in what begins at byte {offset}: get it again")]
    Truncated {
        /// Where the header or section begins.
        offset: u64,
    },
    /// A length is not an unsigned varint of at most 9 bytes in its shortest form.
    #[error("length at byte {offset} is malformed: this is no car, or a damaged one")]
    Length {
        /// Where it is.
        offset: u64,
    },
    /// The header is longer than one with [`MAX_CAR_ROOTS`] roots.
    #[error(
        "header of {size} bytes is longer than {MAX_HEADER_BYTES}: this is no car, or it has too many roots"
    )]
    HeaderTooLong {
        /// The length.
        size: u64,
    },
    /// The header is not canonical DAG-CBOR `{ roots, version }`.
    #[error("header of the car is malformed")]
    Header(#[source] CborError),
    /// It is of another version.
    #[error("car is of version {0}, only version 1 is read: convert it first")]
    Version(u64),
    /// The header names no root.
    #[error("car names no root")]
    NoRoot,
    /// A root is of a kind that is never stored.
    #[error("root of the car is not supported")]
    Root(#[source] BlockError),
    /// A section is shorter than a CID, or longer than a CID and the largest block.
    #[error("section of {size} bytes at byte {offset} has no block of at most 1 MiB")]
    SectionSize {
        /// Where it begins.
        offset: u64,
        /// The length.
        size: u64,
    },
    /// A section does not begin with a CID in its shortest form.
    #[error("section at byte {offset} does not begin with a cid")]
    Cid {
        /// Where it begins.
        offset: u64,
    },
    /// A block is of a kind that is never stored, or its bytes are not what its CID names.
    #[error("section at byte {offset} is not a block that can be stored")]
    Block {
        /// Where it begins.
        offset: u64,
        /// What is wrong with it.
        #[source]
        source: BlockError,
    },
}

impl<R: Read> CarReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`CarError`]: this is no CAR that can be read.
    pub fn new(input: R) -> Result<Self, CarError> {
        let mut car = Self {
            input: BufReader::with_capacity(BUFFER_BYTES, input),
            offset: 0,
            roots: Vec::new(),
            ended: false,
        };
        let size = car.length()?.ok_or(CarError::Truncated { offset: 0 })?;
        if size > MAX_HEADER_BYTES {
            return Err(CarError::HeaderTooLong { size });
        }
        let bytes = car.bytes(size, 0)?;
        car.roots = roots(&bytes)?;
        Ok(car)
    }

    /// The roots, in the order of the header: at least one. Their blocks may be missing.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    fn read_block(&mut self) -> Result<Option<Block>, CarError> {
        let offset = self.offset;
        let Some(size) = self.length()? else {
            return Ok(None);
        };
        if size > MAX_SECTION_BYTES {
            return Err(CarError::SectionSize { offset, size });
        }
        let section = Bytes::from(self.bytes(size, offset)?);
        let mut rest: &[u8] = &section;
        let cid = Cid::read_bytes(&mut rest).map_err(|_| CarError::Cid { offset })?;
        let cid_len = section.len() - rest.len();
        // The parser takes more than one form of a number; only one is written.
        if cid.encoded_len() != cid_len {
            return Err(CarError::Cid { offset });
        }
        Block::verify(cid, section.slice(cid_len..))
            .map(Some)
            .map_err(|source| CarError::Block { offset, source })
    }

    /// The next length, or none at the end.
    fn length(&mut self) -> Result<Option<u64>, CarError> {
        let offset = self.offset;
        let mut length = 0;
        for shift in (0..MAX_VARINT_BYTES).map(|place| 7 * place) {
            let mut byte = [0];
            if let Err(error) = self.input.read_exact(&mut byte) {
                return match error.kind() {
                    io::ErrorKind::UnexpectedEof if shift == 0 => Ok(None),
                    io::ErrorKind::UnexpectedEof => Err(CarError::Truncated { offset }),
                    _ => Err(error.into()),
                };
            }
            self.offset = self.offset.saturating_add(1);
            let [byte] = byte;
            length |= u64::from(byte & 0x7f) << shift;
            match byte {
                0 if shift > 0 => break,
                0..=0x7f => return Ok(Some(length)),
                _ => (),
            }
        }
        Err(CarError::Length { offset })
    }

    /// The next `size` bytes of what begins at `offset`. The memory grows with what is there.
    fn bytes(&mut self, size: u64, offset: u64) -> Result<Vec<u8>, CarError> {
        let mut bytes = Vec::new();
        self.input.by_ref().take(size).read_to_end(&mut bytes)?;
        let read = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        self.offset = self.offset.saturating_add(read);
        if read == size {
            Ok(bytes)
        } else {
            Err(CarError::Truncated { offset })
        }
    }
}

impl<R: Read> Iterator for CarReader<R> {
    type Item = Result<Block, CarError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let block = self.read_block().transpose();
        self.ended = !matches!(block, Some(Ok(_)));
        block
    }
}

/// The header that is encoded. Version 2 begins with one that has no roots.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    roots: Option<Vec<Cid>>,
    version: u64,
}

fn roots(header: &[u8]) -> Result<Vec<Cid>, CarError> {
    let header: Header = from_canonical(header, header.len()).map_err(CarError::Header)?;
    if header.version != VERSION {
        return Err(CarError::Version(header.version));
    }
    let roots = header.roots.unwrap_or_default();
    if roots.is_empty() {
        return Err(CarError::NoRoot);
    }
    for root in &roots {
        digest_of(root).map_err(CarError::Root)?;
    }
    Ok(roots)
}

/// An unsigned varint (<https://github.com/multiformats/unsigned-varint>).
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            bytes.push(low & 0x7f);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn refuse(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

/// The most roots of a CAR: its header is about 4 MB then.
pub const MAX_CAR_ROOTS: usize = 100_000;

const VERSION: u64 = 1;
/// [`MAX_CAR_ROOTS`] links of 41 bytes, and what is around them.
const MAX_HEADER_BYTES: u64 = 100_000 * 41 + 32;
/// A CID of 36 bytes and the largest block.
const MAX_SECTION_BYTES: u64 = 36 + MAX_BLOCK_BYTES as u64;
const MAX_VARINT_BYTES: u32 = 9;
const BUFFER_BYTES: usize = 256 << 10;
