use crate::{Block, BlockError, block::digest_of};
use bytes::Bytes;
use cid::Cid;
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Where blocks are kept. Synchronous: call it from a thread that may block.
///
/// Blocks are keyed by their SHA-256 multihash, so the same bytes under another codec are one block.
pub trait BlockStore: Send + Sync {
    /// Whether the block's bytes are here. They were good when they were written; only
    /// [`BlockStore::block`] checks them again.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing was changed.
    fn has(&self, cid: &Cid) -> Result<bool, StoreError>;

    /// The block, its bytes hashed again (I7), or `None` when the store does not know it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] when the bytes are not what the CID names, or are gone: fetch it from another
    /// node and `put` it again. Otherwise the store itself failed.
    fn block(&self, cid: &Cid) -> Result<Option<Block>, StoreError>;

    /// Keeps blocks. They are on disk, fsynced, when this returns. A block that is here already is left
    /// alone; one whose bytes are corrupt is replaced.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; some of the blocks may have been kept.
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError>;
}

/// Why a block store could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The block should be here, but its bytes are bad or gone. Fetch it again from a replica.
    #[error("stored bytes of block `{0}` are corrupt")]
    Corrupt(Cid),
    /// The CID is not of a kind that is stored, or the block is too large.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// No room on the disk: free some and retry. What was acknowledged is intact.
    #[error("no space left for blocks")]
    Full(#[source] std::io::Error),
    /// An fsync failed, now or earlier, so nobody knows what is durable: the node must stop. A restart
    /// finds everything that was acknowledged before.
    #[error("an fsync of the block store failed, the node must stop")]
    Stopped(#[source] std::io::Error),
    /// Reading or writing failed.
    #[error("block store failed")]
    Io(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where blocks come from: a local store, a peer, a gRPC node, or several of them.
pub trait BlockSource: Send + Sync {
    /// The block, verified against its CID.
    ///
    /// # Errors
    ///
    /// [`SourceError`] says whether another source or a later try can help.
    fn fetch<'a>(&'a self, cid: &'a Cid) -> BoxFuture<'a, Result<Block, SourceError>>;
}

/// Why a block could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nobody that was asked has it.
    #[error("block `{0}` was not found on any node that was asked")]
    NotFound(Cid),
    /// Those that may have it could not be reached in time: try again.
    #[error("block `{cid}` could not be fetched in time")]
    Unavailable {
        /// The block.
        cid: Cid,
        /// What the last attempt said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A block store in memory, for tests and for a client that holds one record.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<BTreeMap<[u8; 32], Bytes>>);

impl MemoryStore {
    fn blocks(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockStore for MemoryStore {
    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.blocks().contains_key(&digest_of(cid)?))
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let Some(bytes) = self.blocks().get(&digest_of(cid)?).cloned() else {
            return Ok(None);
        };
        let block = Block::verify(*cid, bytes).map_err(|_| StoreError::Corrupt(*cid))?;
        Ok(Some(block))
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        for block in blocks {
            self.blocks()
                .insert(digest_of(block.cid())?, block.bytes().clone());
        }
        Ok(())
    }
}

impl BlockSource for MemoryStore {
    fn fetch<'a>(&'a self, cid: &'a Cid) -> BoxFuture<'a, Result<Block, SourceError>> {
        Box::pin(async move { self.block(cid)?.ok_or(SourceError::NotFound(*cid)) })
    }
}
