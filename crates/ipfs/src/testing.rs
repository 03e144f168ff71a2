//! What several tests of this crate use.

use medanchor_dag::{Block, BlockStore, Cid, Codec, MemoryStore, StoreError, to_canonical};
use std::{
    collections::BTreeSet,
    io,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// A store whose blocks can be made corrupt and that can freeze or be full. It counts its reads.
#[derive(Debug)]
pub(crate) struct FlakyStore {
    blocks: MemoryStore,
    corrupt: Mutex<BTreeSet<Cid>>,
    full: AtomicBool,
    reads: AtomicUsize,
    /// Reads that still succeed, unless it never freezes.
    left: Mutex<Option<usize>>,
    thawed: Condvar,
    frozen: watch::Sender<bool>,
}

impl FlakyStore {
    pub(crate) fn with(blocks: &[Block]) -> Self {
        let store = Self {
            blocks: MemoryStore::default(),
            corrupt: Mutex::default(),
            full: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            left: Mutex::new(None),
            thawed: Condvar::new(),
            frozen: watch::Sender::new(false),
        };
        store.put(blocks).unwrap();
        store
    }

    pub(crate) fn corrupt(&self, cid: &Cid) {
        self.corrupt.lock().unwrap().insert(*cid);
    }

    pub(crate) fn fill_up(&self) {
        self.full.store(true, Ordering::SeqCst);
    }

    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// Lets this many more reads pass and holds up the others until [`FlakyStore::thaw`].
    pub(crate) fn freeze_after(&self, reads: usize) {
        *self.left.lock().unwrap() = Some(reads);
    }

    pub(crate) fn thaw(&self) {
        *self.left.lock().unwrap() = None;
        self.thawed.notify_all();
    }

    /// Waits until a read is held up.
    pub(crate) async fn frozen(&self) {
        let mut frozen = self.frozen.subscribe();
        frozen.wait_for(|frozen| *frozen).await.unwrap();
    }

    fn pass(&self) {
        let mut left = self.left.lock().unwrap();
        if *left == Some(0) {
            self.frozen.send_replace(true);
        }
        // A limit, so that a test that fails ends.
        left = self
            .thawed
            .wait_timeout_while(left, Duration::from_secs(30), |left| *left == Some(0))
            .unwrap()
            .0;
        *left = left.map(|left| left.saturating_sub(1));
    }
}

impl BlockStore for FlakyStore {
    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.blocks.has(cid)
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.pass();
        if self.corrupt.lock().unwrap().contains(cid) {
            return Err(StoreError::Corrupt(*cid));
        }
        self.blocks.block(cid)
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(StoreError::Full(io::ErrorKind::StorageFull.into()));
        }
        let mut corrupt = self.corrupt.lock().unwrap();
        for block in blocks {
            corrupt.remove(block.cid());
        }
        self.blocks.put(blocks)
    }
}

/// A raw block of this size that differs from those with other numbers.
pub(crate) fn raw(number: u64, size: usize) -> Block {
    let mut bytes = vec![0; size];
    for (byte, value) in bytes.iter_mut().zip(number.to_be_bytes()) {
        *byte = value;
    }
    Block::new(Codec::Raw, bytes).unwrap()
}

/// A node that links to these blocks.
pub(crate) fn node(blocks: &[Block]) -> Block {
    let links: Vec<Cid> = blocks.iter().map(|block| *block.cid()).collect();
    Block::new(Codec::DagCbor, to_canonical(&links)).unwrap()
}

/// A root, first, and its raw leaves of this size.
pub(crate) fn dag(leaves: u64, size: usize) -> Vec<Block> {
    let leaves: Vec<Block> = (0..leaves).map(|number| raw(number, size)).collect();
    let mut blocks = vec![node(&leaves)];
    blocks.extend(leaves);
    blocks
}
