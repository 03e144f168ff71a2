use crate::{Codec, block::digest_of};
use bytes::Bytes;
use cid::Cid;
use ipld_core::ipld::Ipld;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The largest payload, sealed, that is kept inside its record.
pub const MAX_INLINE_BYTES: usize = 16 * 1024;

/// The most links in one list: of chunks in a record or an index node, or of index nodes in a record.
///
/// So a payload has at most 1,048,576 chunks: 1 TiB at the largest chunk size.
pub const MAX_LINKS: usize = 1024;

/// Where a record's sealed chunks are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Ipld", into = "Ipld")]
pub enum Chunks {
    /// The only chunk, at most [`MAX_INLINE_BYTES`], inside the record.
    Inline(Bytes),
    /// One raw block for each chunk, in order; at most [`MAX_LINKS`].
    Links(Vec<Cid>),
    /// DAG-CBOR lists of [`MAX_LINKS`] links each (the last may be shorter), in order; at most
    /// [`MAX_LINKS`] lists.
    Index(Vec<Cid>),
}

/// Why a structure is not a list of chunks.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChunksError {
    /// Neither bytes, nor a list, nor a map with `index` alone.
    #[error("chunks are neither bytes, nor links, nor an index")]
    Shape,
    /// More than [`MAX_INLINE_BYTES`] or [`MAX_LINKS`].
    #[error("too many chunks in one list, or too large to be inline")]
    TooLarge,
    /// Not a link, or to another codec or hash.
    #[error("not a link to a block of the right kind")]
    Link,
}

impl Chunks {
    /// The CIDs that the record itself names, in order.
    pub fn links(&self) -> &[Cid] {
        match self {
            Self::Inline(_) => &[],
            Self::Links(links) | Self::Index(links) => links,
        }
    }
}

/// The links of a chunk list: an index node's content, or a record's own list.
pub(crate) fn parse_links(list: Ipld, codec: Codec) -> Result<Vec<Cid>, ChunksError> {
    let Ipld::List(items) = list else {
        return Err(ChunksError::Shape);
    };
    if items.len() > MAX_LINKS {
        return Err(ChunksError::TooLarge);
    }
    let link = |item| match item {
        Ipld::Link(cid) if cid.codec() == codec.code() && digest_of(&cid).is_ok() => Ok(cid),
        _ => Err(ChunksError::Link),
    };
    items.into_iter().map(link).collect()
}

impl TryFrom<Ipld> for Chunks {
    type Error = ChunksError;

    fn try_from(ipld: Ipld) -> Result<Self, ChunksError> {
        match ipld {
            Ipld::Bytes(bytes) if bytes.len() > MAX_INLINE_BYTES => Err(ChunksError::TooLarge),
            Ipld::Bytes(bytes) => Ok(Self::Inline(bytes.into())),
            list @ Ipld::List(_) => parse_links(list, Codec::Raw).map(Self::Links),
            Ipld::Map(mut map) if map.len() == 1 => {
                let lists = map.remove(INDEX).ok_or(ChunksError::Shape)?;
                parse_links(lists, Codec::DagCbor).map(Self::Index)
            }
            _ => Err(ChunksError::Shape),
        }
    }
}

impl From<Chunks> for Ipld {
    fn from(chunks: Chunks) -> Self {
        let list = |links: Vec<Cid>| Self::List(links.into_iter().map(Self::Link).collect());
        match chunks {
            Chunks::Inline(bytes) => Self::Bytes(bytes.into()),
            Chunks::Links(links) => list(links),
            Chunks::Index(lists) => Self::Map(BTreeMap::from([(INDEX.to_owned(), list(lists))])),
        }
    }
}

/// [`MAX_LINKS`] as a count of chunks.
pub(crate) const MAX_LINKS_U64: u64 = 1024;

const INDEX: &str = "index";
