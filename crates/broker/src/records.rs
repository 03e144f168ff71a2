use crate::{Custody, CustodyError, request::Request};
use futures::{StreamExt, TryStreamExt, stream};
use medanchor_anchor::{Anchored, RecordEntry};
use medanchor_dag::{Block, BlockSource, Record, SourceError};
use medanchor_envelope::{Header, Wrap, rewrap};
use medanchor_policy::BYTES_CODES;
use serde_bytes::ByteBuf;

/// A record's block and that of its durable wrap, with what the log says of them.
pub(crate) struct Fetched {
    anchored: Anchored,
    record: Block,
    wrap: Block,
}

/// Why a content key is not re-wrapped.
#[derive(Debug)]
pub(crate) enum RewrapError {
    /// What was fetched is not what its device anchored, or its wrap does not open: it never will.
    Unusable { code: &'static str, reason: String },
    /// The custody key is not held here.
    NotHeld,
    /// The key store failed.
    Custody(CustodyError),
}

impl From<CustodyError> for RewrapError {
    fn from(error: CustodyError) -> Self {
        Self::Custody(error)
    }
}

/// Fetches the records and their wraps, a few at a time, in order.
pub(crate) async fn fetch(
    blocks: &dyn BlockSource,
    entries: &[RecordEntry],
) -> Result<Vec<Fetched>, SourceError> {
    // Owned items: a stream of futures over borrowed ones is not provably `Send` (rust-lang/rust#102211).
    let anchored: Vec<Anchored> = entries.iter().map(|entry| entry.anchored.clone()).collect();
    stream::iter(anchored)
        .map(|anchored| async move {
            Ok(Fetched {
                record: blocks.fetch(&anchored.record).await?,
                wrap: blocks.fetch(&anchored.wrap).await?,
                anchored,
            })
        })
        .buffered(FETCHES)
        .try_collect()
        .await
}

/// Seals each record's content key to the requester until a moment, unix ms, after every check that the
/// envelope and the record offer. The content keys exist in [`rewrap`] alone.
pub(crate) fn rewrap_all(
    custody: &Custody,
    request: &Request,
    until: u64,
    fetched: &[Fetched],
) -> Result<Vec<Wrap>, RewrapError> {
    fetched
        .iter()
        .map(|fetched| rewrap_one(custody, request, until, fetched))
        .collect()
}

fn rewrap_one(
    custody: &Custody,
    request: &Request,
    until: u64,
    fetched: &Fetched,
) -> Result<Wrap, RewrapError> {
    let anchored = &fetched.anchored;
    let [record_mismatch, wrap_unusable] = BYTES_CODES;
    let unusable = |code, what: &str| RewrapError::Unusable {
        code,
        reason: format!("record `{}`: {what}", anchored.record),
    };
    let record = Record::from_block(&fetched.record)
        .ok()
        .filter(|record| record.verify_signature().is_ok() && is_anchored_as(record, anchored))
        .ok_or_else(|| unusable(record_mismatch, "it is not what its device anchored"))?;
    let header = Header::from_bytes(&record.header_bytes())
        .map_err(|_| unusable(record_mismatch, "its header is malformed"))?;
    let wrap = Wrap::from_bytes(fetched.wrap.bytes())
        .map_err(|_| unusable(wrap_unusable, "its wrap is malformed"))?;
    let identity = custody
        .identity(anchored.custody, &wrap.ctx.to)?
        .ok_or(RewrapError::NotHeld)?;
    rewrap(
        &wrap,
        &identity,
        &header,
        record.commitment(),
        &request.recipient,
        *request.hash.as_bytes(),
        until,
    )
    .map_err(|error| unusable(wrap_unusable, &error.to_string()))
}

/// Whether the log names this record as what it is. The decision was made on what the log says.
fn is_anchored_as(record: &Record, anchored: &Anchored) -> bool {
    let header = record.header();
    let prev = record.prev().map(|prev| ByteBuf::from(prev.to_bytes()));
    record.header_hash() == anchored.header
        && record.device() == anchored.device
        && header.custody == anchored.custody
        && header.stream == anchored.stream
        && header.class == anchored.class
        && header.captured_at_unix_ms == anchored.captured_at
        && record.seq() == anchored.seq
        && record.size_bytes() == anchored.size
        && prev == anchored.prev
}

/// Blocks that are fetched at once.
const FETCHES: usize = 16;
