use crate::{
    Block, BlockError, CborError, Chunks, Codec, Did, Hash, HeaderFields, Signature,
    SignatureError, SigningKey, block::digest_of, chunks::MAX_LINKS_U64, from_canonical,
    header::MAX_HEADER_BYTES, sha256, to_canonical,
};
use bytes::Bytes;
use cid::Cid;
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

/// One sealed payload, and the root of its DAG (`docs/formats.md`, Record).
///
/// A `Record` is well formed; whether its device signed it, [`Record::verify_signature`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    block: Block,
    form: Form,
    header_hash: Hash,
    prev: Option<Cid>,
    signature: Signature,
}

/// Everything in a record but its signature.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The header, canonical DAG-CBOR.
    pub header: Vec<u8>,
    /// The commitment to the content key.
    pub commitment: [u8; 32],
    /// Length of the payload before sealing, in bytes.
    pub size: u64,
    /// Where the sealed chunks are.
    pub chunks: Chunks,
    /// The sealed metadata, at most [`MAX_META_BYTES`].
    pub meta: Vec<u8>,
    /// Position in the stream.
    pub seq: u64,
    /// The stream's record before this one.
    pub prev: Option<Cid>,
}

/// Why something is not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not a block, or not one of codec dag-cbor.
    #[error("record is not a dag-cbor block")]
    Block(#[from] BlockError),
    /// Not canonical DAG-CBOR of a record: a field is unknown, missing or of the wrong type or size.
    #[error("record is malformed")]
    Malformed(#[from] CborError),
    /// A version, cipher suite or chunk size that does not exist.
    #[error("version, suite or chunk size of the record is not supported")]
    Unsupported,
    /// The sealed metadata is longer than [`MAX_META_BYTES`].
    #[error("sealed metadata of {0} bytes is larger than the 16 KiB limit")]
    MetaTooLarge(usize),
    /// `prev` is not the CID of a record, in binary form.
    #[error("previous record is not named by a cid of a dag-cbor block")]
    Prev,
    /// There are more or fewer chunks, or an inline chunk is longer or shorter, than `size` says.
    #[error("chunks do not hold a payload of {0} bytes")]
    ChunkCount(u64),
    /// The record has no signature.
    #[error("record is not signed")]
    Unsigned,
    /// The header names another device than the one that signs.
    #[error("header names device `{0}`, which is not the signing key")]
    OtherDevice(Did),
}

impl Draft {
    /// The record, signed by its device.
    ///
    /// # Errors
    ///
    /// When the header names another device, or the draft is not a well-formed record.
    pub fn sign(self, key: &SigningKey) -> Result<Record, RecordError> {
        let mut form = Form {
            v: 1,
            header: from_canonical(&self.header, MAX_HEADER_BYTES)?,
            commitment: ByteArray::new(self.commitment),
            size: self.size,
            chunks: self.chunks,
            meta: ByteBuf::from(self.meta),
            seq: self.seq,
            prev: self.prev.map(|cid| ByteBuf::from(cid.to_bytes())),
            sig: None,
        };
        if form.header.device != key.did() {
            return Err(RecordError::OtherDevice(form.header.device));
        }
        form.sig = Some(key.sign(LABEL, &sha256(&to_canonical(&form))));
        Record::from_bytes(to_canonical(&form))
    }
}

impl Record {
    /// Parses a record's block.
    ///
    /// # Errors
    ///
    /// [`RecordError`]: the block is not a well-formed record.
    pub fn from_block(block: &Block) -> Result<Self, RecordError> {
        if block.cid().codec() != Codec::DagCbor.code() {
            return Err(BlockError::UnsupportedCid(*block.cid()).into());
        }
        Self::parse(block.clone())
    }

    /// Parses a record's bytes.
    ///
    /// # Errors
    ///
    /// [`RecordError`]: the bytes are not a well-formed record.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, RecordError> {
        Self::parse(Block::new(Codec::DagCbor, bytes)?)
    }

    fn parse(block: Block) -> Result<Self, RecordError> {
        let form: Form = from_canonical(block.bytes(), MAX_RECORD_BYTES)?;
        let prev = form
            .prev
            .as_deref()
            .map(|cid| parse_prev(cid))
            .transpose()?;
        let signature = form.sig.ok_or(RecordError::Unsigned)?;
        if form.v != 1 || !form.header.is_supported() {
            return Err(RecordError::Unsupported);
        }
        if form.meta.len() > MAX_META_BYTES {
            return Err(RecordError::MetaTooLarge(form.meta.len()));
        }
        if !form.has_all_chunks() {
            return Err(RecordError::ChunkCount(form.size));
        }
        Ok(Self {
            block,
            header_hash: Hash::of(&to_canonical(&form.header)),
            form,
            prev,
            signature,
        })
    }

    /// Checks that the record's device signed it.
    ///
    /// # Errors
    ///
    /// When it did not: the record must not be used.
    pub fn verify_signature(&self) -> Result<(), SignatureError> {
        let unsigned = Form {
            sig: None,
            ..self.form.clone()
        };
        let digest = sha256(&to_canonical(&unsigned));
        self.form
            .header
            .device
            .verify(LABEL, &digest, &self.signature)
    }

    /// The record's name.
    pub fn cid(&self) -> &Cid {
        self.block.cid()
    }

    /// The record as a block.
    pub fn to_block(&self) -> Block {
        self.block.clone()
    }

    /// What the header says.
    pub fn header(&self) -> &HeaderFields {
        &self.form.header
    }

    /// The header, canonical DAG-CBOR: what the payload's keys are bound to.
    pub fn header_bytes(&self) -> Vec<u8> {
        to_canonical(&self.form.header)
    }

    /// SHA-256 of [`Record::header_bytes`].
    pub fn header_hash(&self) -> Hash {
        self.header_hash
    }

    /// The device that signs the record.
    pub fn device(&self) -> Did {
        self.form.header.device
    }

    /// The commitment to the content key.
    pub fn commitment(&self) -> &[u8; 32] {
        &self.form.commitment
    }

    /// Length of the payload before sealing, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.form.size
    }

    /// Where the sealed chunks are.
    pub fn chunks(&self) -> &Chunks {
        &self.form.chunks
    }

    /// Number of chunks, at least one.
    pub fn chunk_count(&self) -> u64 {
        self.form.header.chunk_count(self.form.size)
    }

    /// Sealed length of chunk `index`; 0 past the last.
    pub fn sealed_chunk_bytes(&self, index: u64) -> u64 {
        self.form.header.sealed_chunk_bytes(self.form.size, index)
    }

    /// The sealed metadata.
    pub fn meta(&self) -> &[u8] {
        &self.form.meta
    }

    /// Position in the stream.
    pub fn seq(&self) -> u64 {
        self.form.seq
    }

    /// The stream's record before this one.
    pub fn prev(&self) -> Option<&Cid> {
        self.prev.as_ref()
    }

    /// The device's signature.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }
}

/// The structure that is encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    v: u8,
    header: HeaderFields,
    commitment: ByteArray<32>,
    size: u64,
    chunks: Chunks,
    meta: ByteBuf,
    seq: u64,
    prev: Option<ByteBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sig: Option<Signature>,
}

impl Form {
    /// Whether the chunks are as many, and an inline chunk as long, as `size` says.
    fn has_all_chunks(&self) -> bool {
        let count = self.header.chunk_count(self.size);
        match &self.chunks {
            Chunks::Inline(sealed) => {
                count == 1 && is_len(sealed.len(), self.header.sealed_chunk_bytes(self.size, 0))
            }
            Chunks::Links(links) => is_len(links.len(), count),
            Chunks::Index(nodes) => {
                count > MAX_LINKS_U64 && is_len(nodes.len(), count.div_ceil(MAX_LINKS_U64))
            }
        }
    }
}

fn is_len(len: usize, expected: u64) -> bool {
    u64::try_from(len) == Ok(expected)
}

fn parse_prev(bytes: &[u8]) -> Result<Cid, RecordError> {
    let cid = Cid::try_from(bytes).map_err(|_| RecordError::Prev)?;
    let is_record = cid.codec() == Codec::DagCbor.code() && digest_of(&cid).is_ok();
    // The parser ignores what follows a CID; re-encoding does not.
    if is_record && cid.to_bytes() == bytes {
        Ok(cid)
    } else {
        Err(RecordError::Prev)
    }
}

/// The longest sealed metadata.
pub const MAX_META_BYTES: usize = 16 * 1024;

/// The longest record: [`crate::MAX_LINKS`] links of 41 bytes, sealed metadata and a header.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

const LABEL: &str = "medanchor/v1/record";
