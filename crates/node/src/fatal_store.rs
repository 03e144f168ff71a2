use medanchor_dag::{Block, BlockStore, Cid, DiskStore, StoreError};
use tokio_util::sync::CancellationToken;

/// The node's block store. When a write fails in a way after which nobody knows what is durable, it says
/// so to the node, which must stop (I3).
pub(crate) struct FatalStore {
    disk: DiskStore,
    failed: CancellationToken,
}

impl FatalStore {
    pub(crate) fn new(disk: DiskStore) -> Self {
        Self {
            disk,
            failed: CancellationToken::new(),
        }
    }

    /// Cancelled when the node must stop.
    pub(crate) fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// Blocks held.
    pub(crate) fn len_blocks(&self) -> Result<u64, StoreError> {
        self.disk.len_blocks()
    }

    /// Bytes in them.
    pub(crate) fn size_bytes(&self) -> Result<u64, StoreError> {
        self.disk.size_bytes()
    }
}

impl BlockStore for FatalStore {
    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.disk.has(cid)
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.disk.block(cid)
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let stored = self.disk.put(blocks);
        if matches!(stored, Err(StoreError::Stopped(_))) {
            self.failed.cancel();
        }
        stored
    }
}
