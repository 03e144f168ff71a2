//! A member's node that does all it can to exhaust or mislead another one.

use super::{
    tests::{Plan, id, size, store_of},
    *,
};
use crate::{
    frame,
    message::{Entry, Message, Payload, Presence, WantType, Wantlist},
    testing::{Proxy, dag, raw},
};
use futures::AsyncWriteExt;
use libp2p::Stream;
use medanchor_dag::{Codec, MemoryStore, StoreError};
use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
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

#[test]
fn endless_wants_and_presences_take_bounded_memory() {
    alone("flood_of_wants_and_presences");
}

#[test]
fn wrong_blocks_and_oversized_messages_take_bounded_memory() {
    alone("flood_of_wrong_blocks_and_oversized_messages");
}

#[test]
fn peer_that_wants_much_and_reads_nothing_takes_bounded_memory() {
    alone("wants_of_a_peer_that_reads_nothing");
}

#[test]
fn messages_that_never_end_take_bounded_memory() {
    alone("messages_that_never_end");
}

/// Runs a test in a process of its own, whose memory nothing else uses.
fn alone(name: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            &format!("peer::hostile::{name}"),
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures its process: another test starts it"]
async fn flood_of_wants_and_presences() {
    let floods = [wants(0), empty_wants(), empty_presences(), empty_blocks()].map(Arc::new);
    // Half a gigabyte had it all been kept, and as much again had it been decoded.
    flood(move |number| match floods.get(number % 8) {
        Some(flood) => Arc::clone(flood),
        None => Arc::new(wants(number as u64)),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures its process: another test starts it"]
async fn flood_of_wrong_blocks_and_oversized_messages() {
    let payload = |block: &Block| vec![Payload::new(block); 4];
    let wrong = frame::encode(&Message {
        payload: payload(&raw(7, 1 << 20)),
        ..Message::default()
    });
    let mut too_large = raw(8, 1 << 20).bytes().to_vec();
    too_large.resize(2 << 20, 0);
    let too_large = frame::encode(&Message {
        payload: vec![Payload {
            prefix: vec![1, 0x55, 0x12, 32],
            data: too_large.into(),
        }],
        ..Message::default()
    });
    // 16 MiB, and 128 GiB that never come.
    let mut oversized = vec![0x80, 0x80, 0x80, 0x08];
    oversized.resize(16 << 20, 0);
    let endless = vec![0xff; 5];
    let floods = [wrong, too_large, oversized, endless].map(Arc::new);
    // More than a gigabyte, had it all been kept.
    flood(move |number| Arc::clone(&floods[number % 4])).await;
}

/// Floods a node with these messages, [`STREAMS`] of them at a time, and then has an honest peer served.
async fn flood(message: impl Fn(usize) -> Arc<Vec<u8>>) {
    let block = raw(1, 100);
    let victim = Plan::new(VICTIM).admits(&[HOSTILE, HONEST]);
    let victim = victim.start(store_of(std::slice::from_ref(&block))).await;
    let hostile = Plan::new(HOSTILE).dials(VICTIM, &victim);
    let hostile = hostile.start(store_of(&[])).await;
    assert!(hostile.fetch(block.cid()).await.is_ok());

    let peak = Peak::measure();
    let sending = (0..STREAMS).map(|number| {
        let (mut open, message) = (hostile.parts.open(id(VICTIM).parse().unwrap()), &message);
        async move {
            let mut stream = None;
            for round in 0..ROUNDS {
                if stream.is_none() {
                    stream = open().await;
                }
                let flood = message(number + round);
                if let Some(writer) = &mut stream
                    && writer.write_all(&flood).await.is_err()
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
    peak.assert_bounded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures its process: another test starts it"]
async fn wants_of_a_peer_that_reads_nothing() {
    let store = Arc::new(Fresh::new(512));
    let mut plan = Plan::new(VICTIM).admits(&[HOSTILE, HONEST]);
    // It is not given up meanwhile.
    plan.timing.dead = Duration::from_hours(1);
    plan.timing.write = Duration::from_hours(1);
    let victim = plan.start(Arc::clone(&store) as _).await;
    // Its way is slow, so that most of the answers are not on it yet when it reads no more.
    let proxy = Proxy::to(&victim.listen_addresses()[0], Duration::from_millis(1)).await;
    let mut hostile = Plan::new(HOSTILE);
    hostile.peers.push(PeerAddress {
        peer_id: id(VICTIM),
        address: Some(proxy.address.clone()),
    });
    let hostile = hostile.start(store_of(&[])).await;
    while hostile.connected().is_empty() {
        tokio::task::yield_now().await;
    }
    let honest = Plan::new(HONEST).dials(VICTIM, &victim);
    let honest = honest.start(store_of(&[])).await;

    let peak = Peak::measure();
    let mut open = hostile.parts.open(id(VICTIM).parse().unwrap());
    let mut stream = open().await.unwrap();
    let wanted = frame::encode(&wantlist(store.cids()));
    stream.write_all(&wanted).await.unwrap();
    stream.flush().await.unwrap();
    while store.reads() == 0 {
        tokio::task::yield_now().await;
    }
    proxy.cut();
    // Others are served for as long as it would take to read all that the hostile one wants.
    for cid in store.cids() {
        honest.fetch(cid).await.unwrap();
    }
    // Half a gigabyte had it all been read for it.
    assert!(store.reads() < 2 * store.cids().len(), "all of it was read");
    peak.assert_bounded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures its process: another test starts it"]
async fn messages_that_never_end() {
    let block = raw(1, 1 << 20);
    let victim = Plan::new(VICTIM).admits(&[HOSTILE, HONEST]);
    let victim = victim.start(store_of(std::slice::from_ref(&block))).await;
    let hostile = Plan::new(HOSTILE).dials(VICTIM, &victim);
    let hostile = hostile.start(store_of(&[])).await;
    let honest = Plan::new(HONEST).dials(VICTIM, &victim);
    let honest = honest.start(store_of(&[])).await;
    assert!(hostile.fetch(block.cid()).await.is_ok());

    let peak = Peak::measure();
    let sent = AtomicUsize::new(0);
    // Each stream sends almost all of four mebibytes as fast as it may, and the rest byte by byte.
    let dribbling = (0..SLOW_STREAMS).map(|_| {
        let (mut open, sent) = (hostile.parts.open(id(VICTIM).parse().unwrap()), &sent);
        async move {
            let mut stream = open().await.unwrap();
            stream.write_all(&[0x80, 0x80, 0x80, 0x02]).await.unwrap();
            for _ in 0..255 {
                if stream.write_all(&[0; 16 << 10]).await.is_err() {
                    return;
                }
                sent.fetch_add(16 << 10, Ordering::Relaxed);
            }
            while stream.write_all(&[0]).await.is_ok() && stream.flush().await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
    });
    let serving = async {
        // It holds all that it can.
        while sent.load(Ordering::Relaxed) < (32 << 20) {
            assert_eq!(honest.fetch(block.cid()).await.unwrap(), block);
        }
        for _ in 0..100 {
            assert_eq!(honest.fetch(block.cid()).await.unwrap(), block);
        }
    };
    tokio::select! {
        () = serving => {}
        _ = futures::future::join_all(dribbling) => panic!("the messages ended"),
    }
    // 800 MiB had each stream been read.
    peak.assert_bounded();
}

const STREAMS: usize = 16;
const ROUNDS: usize = 12;
const SLOW_STREAMS: usize = 200;
const MOST_BYTES: u64 = 160 << 20;

/// Makes each of its blocks of 1 MiB anew when it is read, so that those that are kept take memory.
#[derive(Debug)]
struct Fresh {
    numbers: BTreeMap<Cid, u64>,
    reads: AtomicUsize,
}

impl Fresh {
    fn new(blocks: u64) -> Self {
        let numbers = (0..blocks).map(|number| (*raw(number, 1 << 20).cid(), number));
        Self {
            numbers: numbers.collect(),
            reads: AtomicUsize::new(0),
        }
    }

    fn cids(&self) -> std::collections::btree_map::Keys<'_, Cid, u64> {
        self.numbers.keys()
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl BlockStore for Fresh {
    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.numbers.contains_key(cid))
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(self.numbers.get(cid).map(|number| raw(*number, 1 << 20)))
    }

    fn put(&self, _: &[Block]) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Wants for these blocks.
fn wantlist<'a>(cids: impl Iterator<Item = &'a Cid>) -> Message {
    let entries = cids.map(|cid| Entry {
        block: cid.to_bytes().into(),
        priority: 1,
        cancel: false,
        want_type: WantType::Block.into(),
        send_dont_have: true,
    });
    Message {
        wantlist: Some(Wantlist {
            entries: entries.collect(),
            full: false,
        }),
        ..Message::default()
    }
}

/// Wants for blocks that nobody has, other ones each time. Nobody is told so: they are kept if they can be.
fn wants(number: u64) -> Vec<u8> {
    let cids: Vec<Cid> = (0..20_000)
        .map(|i: u64| {
            let digest = medanchor_dag::sha256(&(number * 20_000 + i).to_be_bytes()[..]);
            medanchor_dag::cid_of(Codec::Raw, &digest)
        })
        .collect();
    frame::encode(&wantlist(cids.iter()))
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

/// The most memory that this process has, from now until it is looked at.
struct Peak {
    before: u64,
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
            before: anonymous_bytes(),
            stopping,
            measuring,
        }
    }

    fn assert_bounded(self) {
        self.stopping.store(true, Ordering::Relaxed);
        let grown = self.measuring.join().unwrap() - self.before;
        assert!(grown < MOST_BYTES, "{grown} bytes more");
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
