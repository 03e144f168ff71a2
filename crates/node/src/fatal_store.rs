use medanchor_dag::{
    Block, BlockStore, Cid, Collected, DiskStore, Figures, Lease, Marks, ScrubProgress, StoreError,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The node's block store. When a write fails in a way after which nobody knows what is durable, it says
/// so to the node, which must stop (I3). Whoever reads a bad block has it quarantined and repaired (I7).
pub(crate) struct FatalStore {
    disk: DiskStore,
    failed: CancellationToken,
    found: mpsc::Sender<Cid>,
}

impl FatalStore {
    /// The store, and the blocks that a read finds bad or gone.
    pub(crate) fn new(disk: DiskStore) -> (Self, mpsc::Receiver<Cid>) {
        let (found, receiver) = mpsc::channel(MAX_FOUND);
        let store = Self {
            disk,
            failed: CancellationToken::new(),
            found,
        };
        (store, receiver)
    }

    /// Cancelled when the node must stop.
    pub(crate) fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// What is here, and what is not well.
    pub(crate) fn figures(&self) -> Result<Figures, StoreError> {
        self.disk.figures()
    }

    /// As [`DiskStore::cids`].
    pub(crate) fn cids(&self, after: Option<&Cid>, limit: usize) -> Result<Vec<Cid>, StoreError> {
        self.disk.cids(after, limit)
    }

    /// As [`DiskStore::bad`].
    pub(crate) fn bad(&self, after: Option<&Cid>, limit: usize) -> Result<Vec<Cid>, StoreError> {
        self.disk.bad(after, limit)
    }

    /// As [`DiskStore::expect`].
    pub(crate) fn expect(&self, cids: &[Cid]) -> Result<u64, StoreError> {
        self.watched(self.disk.expect(cids))
    }

    /// As [`DiskStore::scrub_progress`].
    pub(crate) fn scrub_progress(&self) -> Result<ScrubProgress, StoreError> {
        self.disk.scrub_progress()
    }

    /// As [`DiskStore::save_scrub_progress`].
    pub(crate) fn save_scrub_progress(&self, progress: &ScrubProgress) -> Result<(), StoreError> {
        self.watched(self.disk.save_scrub_progress(progress))
    }

    /// As [`DiskStore::lease`].
    pub(crate) fn lease(&self) -> Lease {
        self.disk.lease()
    }

    /// As [`DiskStore::begin_generation`].
    pub(crate) fn begin_generation(&self) -> bool {
        self.disk.begin_generation()
    }

    /// As [`DiskStore::is_last_generation_free`].
    pub(crate) fn is_last_generation_free(&self) -> bool {
        self.disk.is_last_generation_free()
    }

    /// As [`DiskStore::promise`].
    pub(crate) fn promise(&self, until_unix_ms: u64) -> Result<(), StoreError> {
        self.watched(self.disk.promise(until_unix_ms))
    }

    /// As [`DiskStore::promised`].
    pub(crate) fn promised(&self) -> u64 {
        self.disk.promised()
    }

    /// As [`DiskStore::collect`].
    pub(crate) fn collect(
        &self,
        after: Option<&Cid>,
        limit: usize,
        marks: &Marks,
    ) -> Result<Collected, StoreError> {
        self.watched(self.disk.collect(after, limit, marks))
    }

    /// As [`DiskStore::sweep_files`].
    pub(crate) fn sweep_files(&self, shard: u8) -> Result<u64, StoreError> {
        self.watched(self.disk.sweep_files(shard))
    }

    /// The same blocks for this node's own rounds, whose looking at a block is no reason to keep it.
    pub(crate) fn unnoticed(&self) -> Unnoticed<'_> {
        Unnoticed(self)
    }

    fn checked(
        &self,
        cid: &Cid,
        read: Result<Option<Block>, StoreError>,
    ) -> Result<Option<Block>, StoreError> {
        if matches!(read, Err(StoreError::Corrupt(_))) {
            self.quarantine(cid);
        }
        read
    }

    fn quarantine(&self, cid: &Cid) {
        match self.watched(self.disk.quarantine(cid)) {
            Ok(true) => {
                tracing::warn!(%cid, "block is bad or gone on this node's disk: it is fetched again");
                // When too many wait already, it is found in the list of the bad.
                let _ = self.found.try_send(*cid);
            }
            Ok(false) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(%cid, error, "a bad block cannot be quarantined");
            }
        }
    }

    fn watched<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(done, Err(StoreError::Stopped(_))) {
            self.failed.cancel();
        }
        done
    }
}

impl BlockStore for FatalStore {
    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.disk.has(cid)
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.checked(cid, self.disk.block(cid))
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.watched(self.disk.put(blocks))
    }
}

/// A store that is read without that this keeps anything from being collected.
pub(crate) struct Unnoticed<'s>(&'s FatalStore);

impl BlockStore for Unnoticed<'_> {
    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.0.disk.knows(cid)
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.0.checked(cid, self.0.disk.peek(cid))
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.0.put(blocks)
    }
}

/// Blocks that were found bad and wait for their repair.
const MAX_FOUND: usize = 1024;
