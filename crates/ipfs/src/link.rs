use crate::{
    answers::Wanted,
    frame::{MAX_MESSAGE_BYTES, in_time},
    want::Ask,
    window::Window,
};
use futures::AsyncWriteExt;
use libp2p::Stream;
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// A connected peer: what is to be told to it, what it wants, and how much of its data is in memory.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: u64,
    /// Room for messages that are being received.
    pub(crate) memory: Arc<Semaphore>,
    /// Cancelled when the last connection is closed.
    pub(crate) closed: CancellationToken,
    pub(crate) wanted: Wanted,
    asks: Mutex<VecDeque<Ask>>,
    asks_changed: Notify,
    life: Mutex<Life>,
    window: Mutex<Window>,
}

/// Signs of life.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// Part of a message was received, from a peer that sends what is wanted.
    heard: Instant,
    /// Anything moved, in either direction.
    moved: Instant,
    /// Blocks that nobody wanted, since the last that somebody did.
    unwanted: usize,
}

impl Link {
    pub(crate) fn new(id: u64) -> Self {
        let now = Instant::now();
        Self {
            id,
            memory: Arc::new(Semaphore::new(MAX_RECEIVING_BYTES)),
            closed: CancellationToken::new(),
            wanted: Wanted::default(),
            asks: Mutex::default(),
            asks_changed: Notify::new(),
            life: Mutex::new(Life {
                heard: now,
                moved: now,
                unwanted: 0,
            }),
            window: Mutex::default(),
        }
    }

    /// Something was received.
    pub(crate) fn heard(&self, now: Instant) {
        let mut life = self.life();
        life.moved = now;
        // Who sends nothing but what nobody wants does not answer.
        if life.unwanted < MAX_UNWANTED {
            life.heard = now;
        }
    }

    /// A block was received that nobody wants, or no longer.
    pub(crate) fn unwanted(&self) {
        self.life().unwanted += 1;
    }

    /// The peer took some of what is written to it.
    fn took(&self, now: Instant) {
        self.life().moved = now;
    }

    pub(crate) fn last_heard(&self) -> Instant {
        self.life().heard
    }

    pub(crate) fn last_moved(&self) -> Instant {
        self.life().moved
    }

    /// How many blocks it should be asked for at a time, now that one of this size came, asked for at `asked`.
    pub(crate) fn delivered(&self, asked: Option<Instant>, bytes: usize) -> usize {
        self.life().unwanted = 0;
        let mut window = self.window();
        if let Some(asked) = asked {
            window.delivered(asked, Instant::now(), bytes);
        }
        window.blocks()
    }

    /// It owed something and did not send it in time.
    pub(crate) fn missed(&self) {
        self.window().missed(Instant::now());
    }

    /// Queues what is to be told to the peer. The oldest is given up when the peer reads nothing: it is
    /// then passed over anyway.
    pub(crate) fn tell(&self, ask: Ask) {
        let mut asks = self.asks();
        if asks.len() >= MAX_ASKS {
            asks.pop_front();
        }
        asks.push_back(ask);
        drop(asks);
        self.asks_changed.notify_one();
    }

    /// What is to be told next, at most as much as one message should hold.
    pub(crate) async fn next_asks(&self) -> Vec<Ask> {
        loop {
            let asks = self.take_asks();
            if !asks.is_empty() {
                return asks;
            }
            self.asks_changed.notified().await;
        }
    }

    fn take_asks(&self) -> Vec<Ask> {
        let mut asks = self.asks();
        let count = asks.len().min(MAX_ASKS_IN_MESSAGE);
        asks.drain(..count).collect()
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asks(&self) -> MutexGuard<'_, VecDeque<Ask>> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes frames to one stream, which is opened when needed and once again when it breaks.
pub(crate) async fn write_frames<F>(
    link: Arc<Link>,
    mut frames: mpsc::Receiver<Vec<u8>>,
    limit: Duration,
    mut open: impl FnMut() -> F,
) where
    F: Future<Output = Option<Stream>>,
{
    let mut stream = None;
    while let Some(frame) = frames.recv().await {
        for _ in 0..2 {
            if stream.is_none() {
                stream = open().await;
            }
            let Some(writer) = &mut stream else {
                continue;
            };
            match write(writer, &frame, &link, limit).await {
                Ok(()) => break,
                Err(error) => {
                    stream = None;
                    // It reads nothing: what it is sent is lost, and it will be asked anew or ask anew.
                    if error.kind() == io::ErrorKind::TimedOut {
                        break;
                    }
                }
            }
        }
    }
}

/// Writes a frame, for as long as some of it is taken within `limit` each time.
async fn write(
    stream: &mut Stream,
    mut frame: &[u8],
    link: &Link,
    limit: Duration,
) -> io::Result<()> {
    while !frame.is_empty() {
        let written = in_time(limit, stream.write(frame)).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        frame = frame.get(written..).unwrap_or_default();
        link.took(Instant::now());
    }
    in_time(limit, stream.flush()).await
}

/// Several of the largest messages, so that one slow stream does not hold up the others.
const MAX_RECEIVING_BYTES: usize = 8 * MAX_MESSAGE_BYTES;
/// More than what is on its way when a fetch is given up.
const MAX_UNWANTED: usize = 1024;
const MAX_ASKS: usize = 8192;
const MAX_ASKS_IN_MESSAGE: usize = 512;
