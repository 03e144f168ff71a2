//! A member's node that does all it can to exhaust or mislead another one.

use super::{
    tests::{Plan, id, size, store_of},
    *,
};
use crate::{
    frame,
    message::{Entry, Message, Payload, Presence, WantType, Wantlist},
    testing::{dag, raw},
};
use futures::AsyncWriteExt;
use libp2p::Stream;
use medanchor_dag::{Codec, MemoryStore, StoreError};
use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

const HOSTILE: u8 = 1;
const HONEST: u8 = 2;
const VICTIM: u8 = 9;

/// It says that it has every block, and gives another one.
#[derive(Debug, Default)]
struct Liar(AtomicU64);

impl BlockStore for Liar {
    fn has(&self, _: &Cid) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn block(&self, _: &Cid) -> Result<Option<Block>, StoreError> {
        Ok(Some(raw(self.0.fetch_add(1, Ordering::Relaxed), 1000)))
    }

    fn put(&self, _: &[Block]) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_sends_other_blocks_than_it_was_asked_for_stops_nothing() {
    let blocks = dag(100, 4 << 10);
    let liar = Arc::new(Liar::default());
    let hostile = Plan::new(HOSTILE).admits(&[VICTIM]);
    let hostile = hostile.start(Arc::clone(&liar) as _).await;
    let honest = Plan::new(HONEST).admits(&[VICTIM]);
    let honest = honest.start(store_of(&blocks)).await;
    let mut plan = Plan::new(VICTIM)
        .dials(HOSTILE, &hostile)
        .dials(HONEST, &honest);
    plan.timing.silence = Duration::from_millis(300);
    // Only silence ends the wait for it.
    plan.timing.answer = Duration::from_hours(1);
    let victim = plan.start(Arc::new(MemoryStore::default())).await;
    // Meanwhile it sends what nobody asked for, without end.
    let stopping = AtomicBool::new(false);
    let flooding = async {
        let mut open = hostile.parts.open(id(VICTIM).parse().unwrap());
        let mut stream = None;
        while !stopping.load(Ordering::Relaxed) {
            if stream.is_none() {
                stream = open().await;
            }
            let block = raw(liar.0.fetch_add(1, Ordering::Relaxed), 1000);
            let message = Message {
                payload: vec![Payload::new(&block)],
                ..Message::default()
            };
            if let Some(writer) = &mut stream
                && writer.write_all(&frame::encode(&message)).await.is_err()
            {
                stream = None;
            }
        }
    };
    let fetching = async {
        let hint = id(HOSTILE);
        let fetched = victim.fetch_dag(&[*blocks[0].cid()], Some(&hint)).await;
        stopping.store(true, Ordering::Relaxed);
        fetched
    };
    let (fetched, ()) = tokio::join!(fetching, flooding);
    assert_eq!(fetched.unwrap(), size(&blocks));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_stay_open_harm_only_who_opened_them_and_only_for_a_while() {
    let block = raw(1, 100);
    let mut plan = Plan::new(VICTIM).admits(&[HOSTILE, HONEST]);
    plan.timing.write = Duration::from_millis(500);
    let victim = plan.start(store_of(std::slice::from_ref(&block))).await;
    let hostile = Plan::new(HOSTILE).dials(VICTIM, &victim);
    let hostile = hostile.start(store_of(&[])).await;
    let honest = Plan::new(HONEST).dials(VICTIM, &victim);
    let honest = honest.start(store_of(&[])).await;
    assert!(hostile.fetch(block.cid()).await.is_ok());
    let mut open = hostile.parts.open(id(VICTIM).parse().unwrap());
    let mut held: Vec<Stream> = Vec::new();
    for number in 0..200 {
        let mut stream = open().await.unwrap();
        let four_mebibytes = [0x80, 0x80, 0x80, 0x02, 0];
        let begun: &[u8] = match number % 4 {
            0 => &[],
            1 => &four_mebibytes[..1],
            2 => &four_mebibytes[..4],
            _ => &four_mebibytes,
        };
        stream.write_all(begun).await.unwrap();
        stream.flush().await.unwrap();
        held.push(stream);
    }
    // All the memory for its messages is waiting for the rest of them; others have their own.
    assert_eq!(honest.fetch(block.cid()).await.unwrap(), block);
    // When they are given up, it is heard again, over the same connection.
    while hostile.fetch(block.cid()).await.is_err() {
        tokio::task::yield_now().await;
    }
    let link = |peer| victim.finder.exchange.link(&id(peer).parse().unwrap());
    assert!(link(HOSTILE).is_some() && link(HONEST).is_some());
    drop(held);
}

/// In a process of its own, whose memory nothing else uses.
#[test]
fn endless_wants_and_presences_take_bounded_memory() {
    let name = "peer::hostile::flood_of_wants_and_presences";
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures its process: another test starts it"]
async fn flood_of_wants_and_presences() {
    let block = raw(1, 100);
    let victim = Plan::new(VICTIM).admits(&[HOSTILE, HONEST]);
    let victim = victim.start(store_of(std::slice::from_ref(&block))).await;
    let hostile = Plan::new(HOSTILE).dials(VICTIM, &victim);
    let hostile = hostile.start(store_of(&[])).await;
    assert!(hostile.fetch(block.cid()).await.is_ok());

    let floods = [wants(0), empty_wants(), empty_presences(), empty_blocks()];
    let before = anonymous_bytes();
    let peak = Peak::measure();
    let sending = (0..STREAMS).map(|number| {
        let (mut open, floods) = (hostile.parts.open(id(VICTIM).parse().unwrap()), &floods);
        async move {
            let mut stream = None;
            for round in 0..ROUNDS {
                if stream.is_none() {
                    stream = open().await;
                }
                let endless = wants(number * ROUNDS + round);
                let kind = usize::try_from((number + round) % 8).unwrap();
                let flood = floods.get(kind).unwrap_or(&endless);
                if let Some(writer) = &mut stream
                    && writer.write_all(flood).await.is_err()
                {
                    stream = None;
                }
            }
            if let Some(mut stream) = stream {
                // Fails when it was dropped at the other end.
                let _ = stream.close().await;
            }
        }
    });
    futures::future::join_all(sending).await;
    let honest = Plan::new(HONEST).dials(VICTIM, &victim);
    let honest = honest.start(store_of(&[])).await;
    assert_eq!(honest.fetch(block.cid()).await.unwrap(), block);
    let grown = peak.stop() - before;
    // Half a gigabyte had it all been kept, and as much again had it been decoded.
    assert!(grown < MOST_BYTES, "{grown} bytes more");
}

const STREAMS: u64 = 16;
const ROUNDS: u64 = 12;
const MOST_BYTES: u64 = 160 << 20;

/// Wants for blocks that nobody has, other ones each time. Nobody is told so: they are kept if they can be.
fn wants(number: u64) -> Vec<u8> {
    let entries = (0..20_000).map(|i: u64| {
        let digest = medanchor_dag::sha256(&(number * 20_000 + i).to_be_bytes()[..]);
        Entry {
            block: medanchor_dag::cid_of(Codec::Raw, &digest).to_bytes().into(),
            priority: 1,
            cancel: false,
            want_type: WantType::Block.into(),
            send_dont_have: true,
        }
    });
    frame::encode(&Message {
        wantlist: Some(Wantlist {
            entries: entries.collect(),
            full: false,
        }),
        ..Message::default()
    })
}

fn empty_wants() -> Vec<u8> {
    frame::encode(&Message {
        wantlist: Some(Wantlist {
            entries: vec![Entry::default(); EMPTY],
            full: false,
        }),
        ..Message::default()
    })
}

fn empty_presences() -> Vec<u8> {
    frame::encode(&Message {
        presences: vec![Presence::default(); EMPTY],
        ..Message::default()
    })
}

fn empty_blocks() -> Vec<u8> {
    frame::encode(&Message {
        payload: vec![Payload::default(); EMPTY],
        ..Message::default()
    })
}

/// Two bytes each, in a message of less than 4 MiB.
const EMPTY: usize = 2_000_000;

/// The most memory that this process has until it is stopped.
struct Peak {
    stopping: Arc<AtomicBool>,
    measuring: thread::JoinHandle<u64>,
}

impl Peak {
    fn measure() -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let measuring = thread::spawn(move || {
            let mut most = 0;
            while !stop.load(Ordering::Relaxed) {
                most = most.max(anonymous_bytes());
                thread::sleep(Duration::from_millis(2));
            }
            most
        });
        Self {
            stopping,
            measuring,
        }
    }

    fn stop(self) -> u64 {
        self.stopping.store(true, Ordering::Relaxed);
        self.measuring.join().unwrap()
    }
}

/// `RssAnon` of this process.
fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib << 10
}
