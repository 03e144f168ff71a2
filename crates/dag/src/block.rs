use crate::did::sha256;
use bytes::Bytes;
use cid::{Cid, multihash::Multihash};
use std::fmt;

/// The largest block that is stored or sent, in bytes: a full sealed chunk at `chunk_log2` 20.
///
/// Kubo and Helia accept blocks under 2 MiB; half of that leaves room for every message around it.
pub const MAX_BLOCK_BYTES: usize = 1 << 20;

/// What a block's bytes are (<https://github.com/multiformats/multicodec/blob/master/table.csv>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// 0x55: a sealed chunk.
    Raw,
    /// 0x71: a record, an index node or a wrap.
    DagCbor,
}

impl Codec {
    /// The multicodec number.
    pub fn code(self) -> u64 {
        match self {
            Self::Raw => 0x55,
            Self::DagCbor => 0x71,
        }
    }
}

/// Bytes that are known to hash to their CID.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    bytes: Bytes,
}

/// Why bytes are not the block that a CID names.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BlockError {
    /// More than [`MAX_BLOCK_BYTES`].
    #[error("block of {0} bytes is larger than the 1 MiB limit")]
    TooLarge(usize),
    /// Not CID version 1 with sha2-256 and codec raw or dag-cbor.
    #[error("cid `{0}` is not version 1, sha2-256, raw or dag-cbor")]
    UnsupportedCid(Cid),
    /// The bytes hash to something else: they are not this block.
    #[error("bytes do not hash to cid `{0}`")]
    WrongHash(Cid),
}

impl Block {
    /// Names `bytes` by their hash.
    ///
    /// # Errors
    ///
    /// [`BlockError::TooLarge`] when there are more than [`MAX_BLOCK_BYTES`].
    pub fn new(codec: Codec, bytes: impl Into<Bytes>) -> Result<Self, BlockError> {
        let bytes = bytes.into();
        if bytes.len() > MAX_BLOCK_BYTES {
            return Err(BlockError::TooLarge(bytes.len()));
        }
        Ok(Self {
            cid: cid_of(codec, &sha256(&bytes)),
            bytes,
        })
    }

    /// Checks that `bytes` are what `cid` names.
    ///
    /// # Errors
    ///
    /// When they are not, are too large, or the CID is of a kind we do not use.
    pub fn verify(cid: Cid, bytes: impl Into<Bytes>) -> Result<Self, BlockError> {
        let bytes = bytes.into();
        if bytes.len() > MAX_BLOCK_BYTES {
            return Err(BlockError::TooLarge(bytes.len()));
        }
        let digest = digest_of(&cid)?;
        if sha256(&bytes) != digest {
            return Err(BlockError::WrongHash(cid));
        }
        Ok(Self { cid, bytes })
    }

    /// The block's name.
    pub fn cid(&self) -> &Cid {
        &self.cid
    }

    /// The block's content.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The block's content, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({}, {} bytes)", self.cid, self.bytes.len())
    }
}

/// The CID version 1 of a block with this codec and SHA-256 digest.
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "32 bytes always fit a 64-byte multihash"
)]
pub fn cid_of(codec: Codec, digest: &[u8; 32]) -> Cid {
    let hash = Multihash::wrap(SHA2_256, digest).expect("digest fits");
    Cid::new_v1(codec.code(), hash)
}

/// The SHA-256 digest in a CID that we use: what a store is keyed by.
pub(crate) fn digest_of(cid: &Cid) -> Result<[u8; 32], BlockError> {
    let supported = cid.version() == cid::Version::V1
        && cid.hash().code() == SHA2_256
        && [Codec::Raw.code(), Codec::DagCbor.code()].contains(&cid.codec());
    match <[u8; 32]>::try_from(cid.hash().digest()) {
        Ok(digest) if supported => Ok(digest),
        _ => Err(BlockError::UnsupportedCid(*cid)),
    }
}

const SHA2_256: u64 = 0x12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_block_has_the_cid_other_tools_give_it() {
        let block = Block::new(Codec::Raw, &b"hello world"[..]).unwrap();
        assert_eq!(
            block.cid().to_string(),
            "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
        );
    }

    #[test]
    fn verify_rejects_other_bytes_and_other_hashes() {
        let block = Block::new(Codec::Raw, &b"one"[..]).unwrap();
        assert!(Block::verify(*block.cid(), &b"one"[..]).is_ok());
        assert_eq!(
            Block::verify(*block.cid(), &b"two"[..]),
            Err(BlockError::WrongHash(*block.cid()))
        );
        let identity = Cid::new_v1(0x55, Multihash::wrap(0, b"one").unwrap());
        assert!(matches!(
            Block::verify(identity, &b"one"[..]),
            Err(BlockError::UnsupportedCid(_))
        ));
    }

    #[test]
    fn block_of_more_than_one_mebibyte_is_refused() {
        assert!(Block::new(Codec::Raw, vec![0; MAX_BLOCK_BYTES]).is_ok());
        assert_eq!(
            Block::new(Codec::Raw, vec![0; MAX_BLOCK_BYTES + 1]),
            Err(BlockError::TooLarge(MAX_BLOCK_BYTES + 1))
        );
    }
}
