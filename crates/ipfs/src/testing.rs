//! What several tests of this crate use.

use medanchor_dag::{Block, BlockStore, Cid, Codec, MemoryStore, StoreError, to_canonical};
use std::{
    collections::BTreeSet,
    io,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::sleep,
};

/// A store whose blocks can be made corrupt and that can freeze or be full. It counts its reads.
#[derive(Debug)]
pub(crate) struct FlakyStore {
    blocks: MemoryStore,
    corrupt: Mutex<BTreeSet<Cid>>,
    /// Those that it also says it does not have.
    quarantined: Mutex<BTreeSet<Cid>>,
    /// Puts that still succeed, unless it never fills up.
    room: Mutex<Option<usize>>,
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
            quarantined: Mutex::default(),
            room: Mutex::new(None),
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

    pub(crate) fn quarantine(&self, cid: &Cid) {
        self.corrupt(cid);
        self.quarantined.lock().unwrap().insert(*cid);
    }

    pub(crate) fn fill_up(&self) {
        self.fill_up_after(0);
    }

    /// Has room for this many more puts.
    pub(crate) fn fill_up_after(&self, puts: usize) {
        *self.room.lock().unwrap() = Some(puts);
    }

    pub(crate) fn make_room(&self) {
        *self.room.lock().unwrap() = None;
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
        Ok(!self.quarantined.lock().unwrap().contains(cid) && self.blocks.has(cid)?)
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
        match &mut *self.room.lock().unwrap() {
            Some(0) => return Err(StoreError::Full(io::ErrorKind::StorageFull.into())),
            Some(left) => *left -= 1,
            None => {}
        }
        let mut corrupt = self.corrupt.lock().unwrap();
        let mut quarantined = self.quarantined.lock().unwrap();
        for block in blocks {
            corrupt.remove(block.cid());
            quarantined.remove(block.cid());
        }
        self.blocks.put(blocks)
    }
}

/// A way to a peer that can be slow and can be cut without either end being told.
pub(crate) struct Proxy {
    pub(crate) address: String,
    flowing: watch::Sender<bool>,
}

impl Proxy {
    /// Forwards to `address` at most [`PROXY_BYTES`] in each direction, then pauses for `pause`.
    pub(crate) async fn to(address: &str, pause: Duration) -> Self {
        let socket = |text: &str| {
            let parts: Vec<&str> = text.split('/').collect();
            format!("{}:{}", parts[2], parts[4])
        };
        let target = socket(address);
        // Small buffers: what is under way would hide that the way is slow.
        let listening = TcpSocket::new_v4().unwrap();
        listening.set_recv_buffer_size(4096).unwrap();
        listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener: TcpListener = listening.listen(64).unwrap();
        let address = format!(
            "/ip4/127.0.0.1/tcp/{}",
            listener.local_addr().unwrap().port()
        );
        let flowing = watch::Sender::new(true);
        let flows = flowing.subscribe();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let outgoing = TcpSocket::new_v4().unwrap();
                outgoing.set_recv_buffer_size(4096).unwrap();
                let far: TcpStream = match outgoing.connect(target.parse().unwrap()).await {
                    Ok(far) => far,
                    Err(_) => continue,
                };
                let ((near_in, near_out), (far_in, far_out)) =
                    (near.into_split(), far.into_split());
                tokio::spawn(forward(near_in, far_out, pause, flows.clone()));
                tokio::spawn(forward(far_in, near_out, pause, flows.clone()));
            }
        });
        Self { address, flowing }
    }

    /// From now on nothing gets through.
    pub(crate) fn cut(&self) {
        self.flowing.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.flowing.send_replace(true);
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    pause: Duration,
    mut flowing: watch::Receiver<bool>,
) {
    let mut buffer = [0; PROXY_BYTES];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if flowing.wait_for(|flowing| *flowing).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
}

const PROXY_BYTES: usize = 16 << 10;

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
