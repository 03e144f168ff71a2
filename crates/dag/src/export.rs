use crate::{
    Block, BlockSource, Chunks, Codec, MAX_BLOCK_BYTES, Record, SourceError,
    chunks::{MAX_LINKS_U64, parse_links},
    from_canonical,
};
use bytes::Bytes;
use cid::Cid;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use std::{ops::Range, sync::Arc};

/// Why a chunk could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A block could not be fetched.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The block is what its CID names, but not what the record needs there: whoever signed the record
    /// built it wrongly, and no other source can help.
    #[error("block `{0}` is not the chunk or index node that the record needs there")]
    Malformed(Cid),
}

/// Reads the sealed chunks of `record` with these indices, in order; indices past the last are left out.
/// Up to `window` blocks are fetched at once. Nothing more is worth reading after an error.
///
/// Check the record's signature first: it says how long the payload is.
pub fn export(
    source: Arc<dyn BlockSource>,
    record: &Record,
    range: Range<u64>,
    window: usize,
) -> BoxStream<'static, Result<(u64, Bytes), ExportError>> {
    let range = range.start..range.end.min(record.chunk_count());
    if let Chunks::Inline(sealed) = record.chunks() {
        let only = (!range.is_empty()).then(|| Ok((0, sealed.clone())));
        return stream::iter(only).boxed();
    }
    let record = Arc::new(record.clone());
    let chunk_source = Arc::clone(&source);
    cids(source, Arc::clone(&record), range)
        .map(move |named| fetch_chunk(Arc::clone(&chunk_source), Arc::clone(&record), named))
        .buffered(window.max(1))
        .boxed()
}

/// The CIDs of all chunks of `record`, in order; none for an inline record. Index nodes are read from
/// `source`.
///
/// # Errors
///
/// When an index node cannot be fetched or is not what the record needs.
pub async fn chunk_cids(
    source: Arc<dyn BlockSource>,
    record: &Record,
) -> Result<Vec<Cid>, ExportError> {
    let all = 0..record.chunk_count();
    cids(source, Arc::new(record.clone()), all)
        .map_ok(|(_, cid)| cid)
        .try_collect()
        .await
}

type Named = Result<(u64, Cid), ExportError>;

/// The CIDs of the chunks in `range`. Only the index nodes that name them are fetched.
fn cids(
    source: Arc<dyn BlockSource>,
    record: Arc<Record>,
    range: Range<u64>,
) -> BoxStream<'static, Named> {
    match record.chunks() {
        Chunks::Inline(_) => stream::empty().boxed(),
        Chunks::Links(links) => stream::iter(select(0, links.clone(), range).map(Ok)).boxed(),
        Chunks::Index(nodes) => {
            let nodes = select(0, nodes.clone(), node_range(&range));
            stream::iter(nodes)
                .then(move |node| fetch_node(Arc::clone(&source), Arc::clone(&record), node))
                .map_ok(move |(first, links)| {
                    stream::iter(select(first, links, range.clone()).map(Ok))
                })
                .try_flatten()
                .boxed()
        }
    }
}

/// The items of `links` whose position, counted from `first`, is in `range`.
fn select(first: u64, links: Vec<Cid>, range: Range<u64>) -> impl Iterator<Item = (u64, Cid)> {
    (first..).zip(links).filter(move |(i, _)| range.contains(i))
}

/// The index nodes that name the chunks in `range`.
fn node_range(range: &Range<u64>) -> Range<u64> {
    range.start / MAX_LINKS_U64..range.end.div_ceil(MAX_LINKS_U64)
}

/// The index of the first chunk that an index node names, and the links to it and the next ones.
async fn fetch_node(
    source: Arc<dyn BlockSource>,
    record: Arc<Record>,
    (node, cid): (u64, Cid),
) -> Result<(u64, Vec<Cid>), ExportError> {
    let block = source.fetch(&cid).await?;
    let links = node_links(&block).ok_or(ExportError::Malformed(cid))?;
    let first = node.saturating_mul(MAX_LINKS_U64);
    let expected = record
        .chunk_count()
        .saturating_sub(first)
        .min(MAX_LINKS_U64);
    if u64::try_from(links.len()) != Ok(expected) {
        return Err(ExportError::Malformed(cid));
    }
    Ok((first, links))
}

fn node_links(node: &Block) -> Option<Vec<Cid>> {
    let list = from_canonical(node.bytes(), MAX_BLOCK_BYTES).ok()?;
    parse_links(list, Codec::Raw).ok()
}

async fn fetch_chunk(
    source: Arc<dyn BlockSource>,
    record: Arc<Record>,
    named: Named,
) -> Result<(u64, Bytes), ExportError> {
    let (index, cid) = named?;
    let sealed = source.fetch(&cid).await?.into_bytes();
    if u64::try_from(sealed.len()) != Ok(record.sealed_chunk_bytes(index)) {
        return Err(ExportError::Malformed(cid));
    }
    Ok((index, sealed))
}
