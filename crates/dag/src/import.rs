use crate::{Block, Chunks, Codec, MAX_INLINE_BYTES, MAX_LINKS, to_canonical};
use cid::Cid;
use std::io;

/// Builds the blocks below a record: hands a raw block for each sealed chunk to `sink`, in order, and an
/// index node after every 1024 of them when there are more. A single chunk of at most
/// [`MAX_INLINE_BYTES`] makes no block: it goes inside the record.
///
/// Holds at most two chunks and 2048 CIDs in memory.
///
/// # Errors
///
/// What `sealed` or `sink` return, and [`io::ErrorKind::InvalidInput`] when there is no chunk, a chunk
/// is larger than a block, or there are more than [`MAX_LINKS`] index nodes.
pub fn import(
    sealed: impl Iterator<Item = io::Result<Vec<u8>>>,
    sink: &mut dyn FnMut(Block) -> io::Result<()>,
) -> io::Result<Chunks> {
    let mut sealed = sealed.peekable();
    let first = sealed.next().ok_or_else(|| refuse("there is no chunk"))??;
    if sealed.peek().is_none() && first.len() <= MAX_INLINE_BYTES {
        return Ok(Chunks::Inline(first.into()));
    }
    let mut links = Vec::new();
    let mut index = Vec::new();
    for chunk in std::iter::once(Ok(first)).chain(sealed) {
        if links.len() == MAX_LINKS {
            index.push(emit_index_node(&mut links, sink)?);
        }
        let block = Block::new(Codec::Raw, chunk?).map_err(refuse)?;
        links.push(*block.cid());
        sink(block)?;
    }
    if index.is_empty() {
        return Ok(Chunks::Links(links));
    }
    index.push(emit_index_node(&mut links, sink)?);
    if index.len() > MAX_LINKS {
        return Err(refuse("there are more than 1,048,576 chunks"));
    }
    Ok(Chunks::Index(index))
}

fn emit_index_node(
    links: &mut Vec<Cid>,
    sink: &mut dyn FnMut(Block) -> io::Result<()>,
) -> io::Result<Cid> {
    let node = Block::new(Codec::DagCbor, to_canonical(links)).map_err(refuse)?;
    links.clear();
    let cid = *node.cid();
    sink(node)?;
    Ok(cid)
}

fn refuse(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}
