use anyhow::Result;
use medanchor_anchor::Anchored;
use medanchor_dag::{
    Block, Cid, Class, Codec, CustodyId, Draft, Record, SigningKey, StreamId, import,
};
use medanchor_envelope::{Header, Recipient, Sealer, Suite};
use serde_bytes::ByteBuf;
use std::io::{self, Read};

/// A device with one stream, that seals records as `medanchor put` does.
#[derive(Debug)]
pub(crate) struct Author {
    pub(crate) key: SigningKey,
    pub(crate) custody: CustodyId,
    custody_key: Recipient,
    stream: StreamId,
    next_seq: u64,
    prev: Option<Cid>,
}

/// A record's root blocks. Blocks of chunks, where there are any, went to the sink.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) record: Record,
    pub(crate) wrap: Block,
}

impl Author {
    /// A new device, whose records are sealed to this custody key.
    pub(crate) fn new(custody: CustodyId, custody_key: Recipient) -> Result<Self> {
        Ok(Self {
            key: SigningKey::generate()?,
            custody,
            custody_key,
            stream: StreamId::generate()?,
            next_seq: 0,
            prev: None,
        })
    }

    /// Seals the stream's next record.
    pub(crate) fn seal(
        &mut self,
        payload: impl Read,
        suite: Suite,
        sink: &mut dyn FnMut(Block) -> io::Result<()>,
    ) -> Result<Sealed> {
        let sealer = Sealer::new(self.header(suite)?)?;
        let header = sealer.header().to_bytes();
        let commitment = sealer.commitment();
        let wrap = Block::new(Codec::DagCbor, sealer.wrap(&self.custody_key).to_bytes())?;
        let mut sealed = sealer.seal(payload);
        let chunks = import(&mut sealed, sink)?;
        let record = Draft {
            header,
            commitment,
            size: sealed.size(),
            chunks,
            meta: sealed.seal_metadata(EMPTY_MAP),
            seq: self.next_seq,
            prev: self.prev,
        }
        .sign(&self.key)?;
        self.next_seq += 1;
        self.prev = Some(*record.cid());
        Ok(Sealed { record, wrap })
    }

    /// The header of a record.
    pub(crate) fn header(&self, suite: Suite) -> Result<Header> {
        Ok(Header::new(
            suite,
            CHUNK_LOG2,
            *self.custody.as_bytes(),
            &self.key.did().to_string(),
            *self.stream.as_bytes(),
            Class::Ecg.as_str(),
            CAPTURED_AT_UNIX_MS,
        )?)
    }
}

impl Sealed {
    /// What the device says of it to the log.
    pub(crate) fn anchored(&self) -> Anchored {
        let (record, header) = (&self.record, self.record.header());
        Anchored {
            record: *record.cid(),
            wrap: *self.wrap.cid(),
            custody: header.custody,
            device: record.device(),
            stream: header.stream,
            seq: record.seq(),
            prev: record.prev().map(|cid| ByteBuf::from(cid.to_bytes())),
            class: header.class,
            captured_at: header.captured_at_unix_ms,
            size: record.size_bytes(),
            header: record.header_hash(),
        }
    }

    /// The blocks to upload.
    pub(crate) fn blocks(&self) -> [Block; 2] {
        [self.record.to_block(), self.wrap.clone()]
    }
}

/// Sealed chunks of 256 KiB, as `medanchor put` makes them.
pub(crate) const CHUNK_LOG2: u8 = 18;
/// The empty map in DAG-CBOR.
const EMPTY_MAP: &[u8] = &[0xa0];
const CAPTURED_AT_UNIX_MS: u64 = 1_700_000_000_000;
