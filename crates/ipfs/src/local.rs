use medanchor_dag::{Block, BlockStore, Cid, SourceError, StoreError};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{sync::mpsc, task::spawn_blocking};

/// This node's own blocks, and what was found damaged among them.
pub(crate) struct LocalBlocks {
    store: Arc<dyn BlockStore>,
    corrupt: mpsc::Sender<Cid>,
    repaired: AtomicU64,
}

/// What the store has for a CID.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Local {
    /// The block, its hash checked.
    Whole(Block),
    /// Its bytes are damaged: fetch it and [`LocalBlocks::repair`] it.
    Corrupt,
    /// Nothing.
    Absent,
}

impl LocalBlocks {
    /// The store, and the blocks that [`LocalBlocks::readable`] finds corrupt.
    pub(crate) fn new(store: Arc<dyn BlockStore>) -> (Self, mpsc::Receiver<Cid>) {
        let (corrupt, receiver) = mpsc::channel(MAX_REPAIRS);
        let local = Self {
            store,
            corrupt,
            repaired: AtomicU64::new(0),
        };
        (local, receiver)
    }

    /// Reads a block. Call it from a thread that may block.
    pub(crate) fn read(&self, cid: &Cid) -> Result<Local, StoreError> {
        match self.store.block(cid) {
            Ok(Some(block)) => Ok(Local::Whole(block)),
            Ok(None) => Ok(Local::Absent),
            Err(StoreError::Corrupt(_)) => Ok(Local::Corrupt),
            Err(error) => Err(error),
        }
    }

    /// Reads a block for another peer: it does not concern that peer why there is none. Call it from a
    /// thread that may block.
    pub(crate) fn readable(&self, cid: &Cid) -> Option<Block> {
        match self.read(cid) {
            Ok(Local::Whole(block)) => Some(block),
            Ok(Local::Absent) | Err(StoreError::Block(_)) => None,
            Ok(Local::Corrupt) => {
                // When too many wait already, the next read reports it again.
                let _ = self.corrupt.try_send(*cid);
                None
            }
            Err(error) => {
                tracing::error!(%cid, %error, "block store cannot be read");
                None
            }
        }
    }

    /// Whether a block is here. Call it from a thread that may block.
    pub(crate) fn has(&self, cid: &Cid) -> bool {
        self.store.has(cid).unwrap_or(false)
    }

    /// As [`LocalBlocks::read`], on a thread of its own.
    pub(crate) async fn look_up(self: &Arc<Self>, cid: Cid) -> Result<Local, SourceError> {
        let local = Arc::clone(self);
        Ok(joined(spawn_blocking(move || local.read(&cid)).await)??)
    }

    /// Which of these blocks the store has nothing for, in one go. Whatever may be there is to be looked up.
    pub(crate) async fn absent(
        self: &Arc<Self>,
        cids: Vec<Cid>,
    ) -> Result<Vec<(Cid, bool)>, SourceError> {
        let local = Arc::clone(self);
        let looking = spawn_blocking(move || {
            let looked = cids
                .into_iter()
                .map(|cid| Ok((cid, local.is_absent(&cid)?)));
            looked.collect::<Result<_, StoreError>>()
        });
        Ok(joined(looking.await)??)
    }

    /// A block that is known to be bad is not absent: it is to be repaired.
    fn is_absent(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(!self.store.has(cid)? && self.read(cid)? == Local::Absent)
    }

    /// Keeps blocks: they are on disk when this returns.
    pub(crate) async fn put(self: &Arc<Self>, blocks: Vec<Block>) -> Result<(), SourceError> {
        let local = Arc::clone(self);
        Ok(joined(
            spawn_blocking(move || local.store.put(&blocks)).await,
        )??)
    }

    /// Replaces a corrupt block and counts it.
    pub(crate) async fn repair(self: &Arc<Self>, block: Block) -> Result<(), SourceError> {
        let cid = *block.cid();
        self.put(vec![block]).await?;
        self.repaired.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%cid, "corrupt block was replaced by another node's copy");
        Ok(())
    }

    pub(crate) fn repaired(&self) -> u64 {
        self.repaired.load(Ordering::Relaxed)
    }
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, StoreError> {
    result.map_err(|error| StoreError::Io(Box::new(io::Error::other(error))))
}

/// Corrupt blocks that wait for their repair.
const MAX_REPAIRS: usize = 64;
