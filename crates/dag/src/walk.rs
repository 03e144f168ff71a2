use crate::{Block, BlockStore, Codec, StoreError, block::digest_of};
use cid::Cid;
use ipld_core::serde::ExtractLinks;
use std::collections::BTreeSet;

/// Why a block's links could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// A dag-cbor block whose bytes are not DAG-CBOR.
    #[error("block `{cid}` is not dag-cbor")]
    Malformed {
        /// The block.
        cid: Cid,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A link to a block of a kind that is never stored.
    #[error("link to `{0}`, which is not version 1, sha2-256, raw or dag-cbor")]
    UnsupportedLink(Cid),
}

/// Why it is not known whether a DAG is whole.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A block of the DAG has no readable links.
    #[error(transparent)]
    Links(#[from] LinksError),
}

/// The links of a block, in the order they stand in it. A raw block has none.
///
/// # Errors
///
/// When the bytes are not DAG-CBOR, or a link is of a kind that is never stored.
pub fn links(block: &Block) -> Result<Vec<Cid>, LinksError> {
    let cid = *block.cid();
    if cid.codec() == Codec::Raw.code() {
        return Ok(Vec::new());
    }
    let links = serde_ipld_dagcbor::from_slice::<ExtractLinks<64>>(block.bytes())
        .map_err(|error| LinksError::Malformed {
            cid,
            source: Box::new(error),
        })?
        .into_vec();
    match links.iter().find(|link| digest_of(link).is_err()) {
        Some(&link) => Err(LinksError::UnsupportedLink(link)),
        None => Ok(links),
    }
}

/// What a [`walk`] saw of a DAG.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Blocks that are not here, or bad, as far as they are known: what is below them is not. After 1024 the walk
    /// looks at no further inner block.
    pub missing: Vec<Cid>,
    /// Bytes of the blocks that were read, which were good.
    pub bytes: u64,
    /// Blocks that are here.
    pub blocks: u64,
}

/// What a [`walk`] does with raw blocks, which have no links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawBlocks {
    /// Only looks whether they are here.
    Look,
    /// Reads them, and so verifies them.
    Read,
}

/// Looks for the block `root` and everything below it in `store`.
///
/// # Errors
///
/// When the store fails, or an inner block is not DAG-CBOR.
pub fn walk(store: &dyn BlockStore, root: &Cid, raw: RawBlocks) -> Result<Walked, WalkError> {
    let mut walked = Walked::default();
    let mut seen = BTreeSet::from([*root]);
    let mut todo = vec![*root];
    while let Some(cid) = todo.pop()
        && walked.missing.len() < MAX_MISSING
    {
        let Some(block) = walked.read(store, cid)? else {
            continue;
        };
        for link in links(&block)? {
            let is_raw = link.codec() == Codec::Raw.code();
            match raw {
                RawBlocks::Look if is_raw => walked.look(store, link)?,
                RawBlocks::Read if is_raw => drop(walked.read(store, link)?),
                _ if seen.insert(link) => todo.push(link),
                _ => {}
            }
        }
    }
    Ok(walked)
}

impl Walked {
    fn read(&mut self, store: &dyn BlockStore, cid: Cid) -> Result<Option<Block>, StoreError> {
        match store.block(&cid) {
            Ok(Some(block)) => {
                self.blocks += 1;
                self.bytes += block.bytes().len() as u64;
                return Ok(Some(block));
            }
            Ok(None) | Err(StoreError::Corrupt(_)) => self.missing.push(cid),
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    fn look(&mut self, store: &dyn BlockStore, cid: Cid) -> Result<(), StoreError> {
        match store.has(&cid)? {
            true => self.blocks += 1,
            false => self.missing.push(cid),
        }
        Ok(())
    }
}

/// Names every block of the DAG below `root` to `see`, itself too, as far as it is known. Whether all of it is
/// known: what is below an inner block that is not here, or bad, or has no readable links, is not.
///
/// # Errors
///
/// When the store fails.
pub fn reach(
    store: &dyn BlockStore,
    root: &Cid,
    mut see: impl FnMut(&Cid),
) -> Result<bool, StoreError> {
    let mut is_known = true;
    let mut seen = BTreeSet::from([*root]);
    let mut todo = vec![*root];
    while let Some(cid) = todo.pop() {
        see(&cid);
        if cid.codec() == Codec::Raw.code() {
            continue;
        }
        let links = match store.block(&cid) {
            Ok(block) => block.and_then(|block| links(&block).ok()),
            Err(StoreError::Corrupt(_)) => None,
            Err(error) => return Err(error),
        };
        match links {
            Some(links) => todo.extend(links.into_iter().filter(|link| seen.insert(*link))),
            None => is_known = false,
        }
    }
    Ok(is_known)
}

/// Whether the block `root` and everything below it is in `store`.
///
/// # Errors
///
/// When the store fails, or an inner block is not DAG-CBOR.
pub fn is_whole(store: &dyn BlockStore, root: &Cid) -> Result<bool, WalkError> {
    Ok(walk(store, root, RawBlocks::Look)?.missing.is_empty())
}

/// A DAG of which more is missing is looked at again when these are there.
const MAX_MISSING: usize = 1024;
