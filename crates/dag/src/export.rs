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
        .map(move |named| {
            let (source, record) = (Arc::clone(&chunk_source), Arc::clone(&record));
            async move {
                let (index, cid) = named?;
                let sealed = fetch_chunk(source.as_ref(), &record, index, cid).await?;
                Ok((index, sealed.into_bytes()))
            }
        })
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

/// All blocks of the DAG of `record`, depth first: the record, then its chunks in order, each index node
/// before the chunks that it names. Up to `window` blocks are fetched at once. Nothing more is worth
/// reading after an error.
///
/// Check the record's signature first.
pub fn export_blocks(
    source: Arc<dyn BlockSource>,
    record: &Record,
    window: usize,
) -> BoxStream<'static, Result<Block, ExportError>> {
    let root = stream::iter([Ok(Part::Known(record.to_block()))]);
    let record = Arc::new(record.clone());
    root.chain(parts_below(Arc::clone(&source), Arc::clone(&record)))
        .map(move |part| {
            let (source, record) = (Arc::clone(&source), Arc::clone(&record));
            async move {
                match part? {
                    Part::Known(block) => Ok(block),
                    Part::Chunk(index, cid) => {
                        fetch_chunk(source.as_ref(), &record, index, cid).await
                    }
                }
            }
        })
        .buffered(window.max(1))
        .boxed()
}

/// A block that is there already, or a chunk that is to be fetched.
enum Part {
    Known(Block),
    Chunk(u64, Cid),
}

/// What is below the record, depth first.
fn parts_below(
    source: Arc<dyn BlockSource>,
    record: Arc<Record>,
) -> BoxStream<'static, Result<Part, ExportError>> {
    let chunks = |first: u64, links: Vec<Cid>| {
        (first..)
            .zip(links)
            .map(|(index, cid)| Ok(Part::Chunk(index, cid)))
    };
    match record.chunks() {
        Chunks::Inline(_) => stream::empty().boxed(),
        Chunks::Links(links) => stream::iter(chunks(0, links.clone())).boxed(),
        Chunks::Index(nodes) => {
            let nodes = (0..).zip(nodes.clone());
            stream::iter(nodes)
                .then(move |node| fetch_node(Arc::clone(&source), Arc::clone(&record), node))
                .map_ok(move |node| {
                    let block = stream::iter([Ok(Part::Known(node.block))]);
                    block.chain(stream::iter(chunks(node.first, node.links)))
                })
                .try_flatten()
                .boxed()
        }
    }
}

/// A chunk's index and CID.
type Named = Result<(u64, Cid), ExportError>;

/// The indices and CIDs of the chunks in `range`, in order; none for an inline record. Only the index nodes that
/// name them are fetched, one at a time.
pub fn named_chunks(
    source: Arc<dyn BlockSource>,
    record: &Record,
    range: Range<u64>,
) -> BoxStream<'static, Result<(u64, Cid), ExportError>> {
    cids(source, Arc::new(record.clone()), range)
}

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
                .map_ok(move |node| {
                    stream::iter(select(node.first, node.links, range.clone()).map(Ok))
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

/// An index node, the index of the first chunk that it names, and the links to that and the next ones.
struct Node {
    block: Block,
    first: u64,
    links: Vec<Cid>,
}

async fn fetch_node(
    source: Arc<dyn BlockSource>,
    record: Arc<Record>,
    (node, cid): (u64, Cid),
) -> Result<Node, ExportError> {
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
    Ok(Node {
        block,
        first,
        links,
    })
}

fn node_links(node: &Block) -> Option<Vec<Cid>> {
    let list = from_canonical(node.bytes(), MAX_BLOCK_BYTES).ok()?;
    parse_links(list, Codec::Raw).ok()
}

/// Fetches the block of the chunk of `record` with this index, which `cid` names.
///
/// # Errors
///
/// When the block cannot be fetched or is not as long as the record's size says.
pub async fn fetch_chunk(
    source: &dyn BlockSource,
    record: &Record,
    index: u64,
    cid: Cid,
) -> Result<Block, ExportError> {
    let block = source.fetch(&cid).await?;
    if u64::try_from(block.bytes().len()) != Ok(record.sealed_chunk_bytes(index)) {
        return Err(ExportError::Malformed(cid));
    }
    Ok(block)
}
