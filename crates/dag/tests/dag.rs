//! Import, export and walk: what goes in comes out, and nothing else is accepted.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use bytes::Bytes;
use cid::Cid;
use futures::{FutureExt, StreamExt, TryStreamExt, executor::block_on, future::BoxFuture};
use medanchor_dag::{
    Block, BlockSource, BlockStore, Chunks, Class, Codec, Draft, ExportError, MAX_INLINE_BYTES,
    MemoryStore, Record, SigningKey, SourceError, chunk_cids, cid_of, export, export_blocks,
    import, is_whole, links, to_canonical,
};
use proptest::prelude::*;
use serde::Serialize;
use std::{
    future::poll_fn,
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

#[test]
fn what_was_imported_is_exported() {
    for size in [0, 1, 16_368, 16_369, 65_520, 65_521, 200_000] {
        let (store, record, sealed) = stored(size);
        assert_eq!(
            read(&store, &record, 0..u64::MAX).unwrap(),
            sealed,
            "{size}"
        );
        assert!(is_whole(&*store, record.cid()).unwrap());
        assert!(record.verify_signature().is_ok());
    }
}

#[test]
fn payload_of_more_than_1024_chunks_has_index_nodes() {
    let (store, record, sealed) = stored(1025 * CHUNK + 5);
    assert_eq!(record.chunk_count(), 1026);
    assert!(matches!(record.chunks(), Chunks::Index(nodes) if nodes.len() == 2));
    let cids = block_on(chunk_cids(source(&store), &record)).unwrap();
    assert_eq!(cids.len(), 1026);
    let around_the_seam = read(&store, &record, 1020..1026).unwrap();
    assert_eq!(around_the_seam, sealed[1020..]);
    assert!(is_whole(&*store, record.cid()).unwrap());
}

#[test]
fn ranged_export_reads_only_the_index_nodes_it_needs() {
    let (store, record, _) = stored(1025 * CHUNK + 5);
    let Chunks::Index(nodes) = record.chunks() else {
        panic!("two index nodes");
    };
    let without_first = without(&store, &record, &nodes[0]);
    assert_eq!(read(&without_first, &record, 1024..1026).unwrap().len(), 2);
    assert!(read(&without_first, &record, 1023..1026).is_err());
}

#[test]
fn import_makes_no_block_of_a_small_payload() {
    for (len, inline) in [(MAX_INLINE_BYTES, true), (MAX_INLINE_BYTES + 1, false)] {
        let mut blocks = Vec::new();
        let chunks = import([Ok(vec![0; len])].into_iter(), &mut |block| {
            blocks.push(block);
            Ok(())
        });
        assert_eq!(matches!(chunks.unwrap(), Chunks::Inline(_)), inline);
        assert_eq!(blocks.is_empty(), inline);
    }
}

#[test]
fn import_rejects_no_chunk_and_a_chunk_larger_than_a_block() {
    let discard = &mut |_| Ok(());
    assert!(import(std::iter::empty(), discard).is_err());
    assert!(import([Ok(vec![0; (1 << 20) + 1])].into_iter(), discard).is_err());
}

#[test]
fn import_passes_on_errors_of_both_sides() {
    let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
    let chunks = || [Ok(vec![1; 65_536]), Ok(vec![2; 65_536])].into_iter();
    let refused = import(chunks(), &mut |_| Err(broken())).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    let cut = chunks().take(1).chain([Err(broken())]);
    let refused = import(cut, &mut |_| Ok(())).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn export_names_the_missing_chunk() {
    let (store, record, _) = stored(200_000);
    let missing = record.chunks().links()[2];
    let store = without(&store, &record, &missing);
    assert!(!is_whole(&*store, record.cid()).unwrap());
    let results: Vec<_> = block_on(export(source(&store), &record, 0..9, 4).collect());
    assert_eq!(results.len(), 4);
    assert!(results[0].is_ok() && results[1].is_ok() && results[3].is_ok());
    assert!(matches!(
        results[2],
        Err(ExportError::Source(SourceError::NotFound(cid))) if cid == missing
    ));
}

#[test]
fn export_rejects_a_chunk_of_another_length() {
    let store = MemoryStore::default();
    let short = Block::new(Codec::Raw, vec![0; 65_535]).unwrap();
    store.put(std::slice::from_ref(&short)).unwrap();
    let chunks = Chunks::Links(vec![*short.cid(); 2]);
    let record = signed(CHUNK + 1, chunks);
    assert!(matches!(
        read(&Arc::new(store), &record, 0..2),
        Err(ExportError::Malformed(cid)) if cid == *short.cid()
    ));
}

#[test]
fn export_rejects_an_index_node_that_names_more_or_fewer_chunks() {
    let raw = cid_of(Codec::Raw, &[1; 32]);
    let full = list(&vec![raw; 1024]);
    for (second, accepted) in [(0, false), (1, true), (2, false), (1025, false)] {
        let store = MemoryStore::default();
        let second = list(&vec![raw; second]);
        store.put(&[full.clone(), second.clone()]).unwrap();
        let record = signed(
            1024 * CHUNK + 1,
            Chunks::Index(vec![*full.cid(), *second.cid()]),
        );
        let cids = block_on(chunk_cids(source(&Arc::new(store)), &record));
        assert_eq!(cids.is_ok(), accepted);
    }
}

#[test]
fn export_keeps_at_most_window_blocks_in_flight() {
    let (store, record, sealed) = stored(20 * CHUNK);
    let counting = Arc::new(Counting {
        store,
        in_flight: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    });
    let chunks: Vec<_> = block_on(
        export(
            Arc::clone(&counting) as Arc<dyn BlockSource>,
            &record,
            0..20,
            3,
        )
        .try_collect(),
    )
    .unwrap();
    assert_eq!(chunks, sealed);
    assert_eq!(counting.most.load(Ordering::Relaxed), 3);
}

#[test]
fn blocks_of_a_record_come_depth_first_and_are_its_whole_dag() {
    for size in [0, 16_368, 16_369, 200_000, 1025 * CHUNK + 5] {
        let (store, record, _) = stored(size);
        let blocks = export_blocks(source(&store), &record, 8);
        let blocks: Vec<Block> = block_on(blocks.try_collect()).unwrap();
        let mut todo = vec![*record.cid()];
        for block in &blocks {
            assert_eq!(Some(*block.cid()), todo.pop(), "{size}");
            todo.extend(links(block).unwrap().into_iter().rev());
        }
        assert!(todo.is_empty(), "{size}");
    }
}

#[test]
fn blocks_of_a_record_end_at_what_is_missing_or_of_another_length() {
    let (store, record, _) = stored(1025 * CHUNK + 5);
    let Chunks::Index(nodes) = record.chunks() else {
        panic!("two index nodes");
    };
    let store = without(&store, &record, &nodes[1]);
    let blocks: Vec<_> = block_on(export_blocks(source(&store), &record, 4).collect());
    assert!(blocks[..1026].iter().all(Result::is_ok));
    assert!(matches!(
        blocks[1026],
        Err(ExportError::Source(SourceError::NotFound(cid))) if cid == nodes[1]
    ));
    let short = Block::new(Codec::Raw, vec![0; 65_535]).unwrap();
    let store = MemoryStore::default();
    store.put(std::slice::from_ref(&short)).unwrap();
    let record = signed(CHUNK + 1, Chunks::Links(vec![*short.cid(); 2]));
    let blocks: Vec<_> = block_on(export_blocks(source(&Arc::new(store)), &record, 4).collect());
    assert!(matches!(blocks[1], Err(ExportError::Malformed(_))));
}

#[test]
fn links_stand_in_the_order_of_the_block() {
    let cids: Vec<Cid> = (0..5).map(|i| cid_of(Codec::Raw, &[i; 32])).collect();
    assert_eq!(links(&list(&cids)).unwrap(), cids);
    let raw = Block::new(Codec::Raw, list(&cids).into_bytes()).unwrap();
    assert_eq!(links(&raw).unwrap(), []);
}

#[test]
fn links_rejects_what_is_not_dag_cbor_and_links_to_other_kinds() {
    for bytes in [vec![0xff], vec![0x81; 1 << 20], vec![0x80, 0x80], vec![]] {
        let block = Block::new(Codec::DagCbor, bytes).unwrap();
        assert!(links(&block).is_err());
    }
    let dag_pb = Cid::new_v1(0x70, *cid_of(Codec::Raw, &[1; 32]).hash());
    assert!(links(&list(&[dag_pb])).is_err());
}

#[test]
fn is_whole_follows_shared_blocks_once() {
    let store = MemoryStore::default();
    let mut child = Block::new(Codec::Raw, &b"leaf"[..]).unwrap();
    store.put(std::slice::from_ref(&child)).unwrap();
    for _ in 0..64 {
        let parent = list(&[*child.cid(), *child.cid()]);
        store.put(std::slice::from_ref(&parent)).unwrap();
        child = parent;
    }
    assert!(is_whole(&store, child.cid()).unwrap());
    assert!(!is_whole(&store, &cid_of(Codec::Raw, &[9; 32])).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_blocks_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = links(&Block::new(Codec::DagCbor, bytes).unwrap());
    }

    #[test]
    fn any_range_of_any_payload_is_exported(size in 0..400_000_u64, start in 0..9_u64, end in 0..9_u64) {
        let (store, record, sealed) = stored(size);
        let expected: Vec<_> = sealed.into_iter().filter(|(i, _)| (start..end).contains(i)).collect();
        prop_assert_eq!(read(&store, &record, start..end).unwrap(), expected);
    }
}

type Sealed = Vec<(u64, Bytes)>;

/// A record of `size` bytes, all of its blocks, and its chunks.
fn stored(size: u64) -> (Arc<MemoryStore>, Record, Sealed) {
    let sealed: Sealed = (0..size.div_ceil(CHUNK).max(1))
        .map(|i| (i, chunk(i, (size - i * CHUNK).min(CHUNK) + 16)))
        .collect();
    let store = MemoryStore::default();
    let chunks = import(
        sealed.iter().map(|(_, bytes)| Ok(bytes.to_vec())),
        &mut |block| store.put(&[block]).map_err(io::Error::other),
    );
    let record = signed(size, chunks.unwrap());
    store.put(&[record.to_block()]).unwrap();
    (Arc::new(store), record, sealed)
}

fn chunk(index: u64, len: u64) -> Bytes {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    bytes[..8].copy_from_slice(&index.to_be_bytes());
    bytes.into()
}

fn signed(size: u64, chunks: Chunks) -> Record {
    let key = SigningKey::from_seed(&[7; 32]);
    let draft = Draft {
        header: to_canonical(&Header {
            v: 1,
            suite: 1,
            oid: serde_bytes::ByteArray::new([1; 16]),
            salt: serde_bytes::ByteArray::new([2; 32]),
            chunk_log2: 16,
            custody: serde_bytes::ByteArray::new([3; 16]),
            device: key.did().to_string(),
            stream: serde_bytes::ByteArray::new([4; 16]),
            class: Class::Telemetry,
            captured_at: 1_700_000_000_000,
        }),
        commitment: [5; 32],
        size,
        chunks,
        meta: Vec::new(),
        seq: 1,
        prev: None,
    };
    draft.sign(&key).unwrap()
}

#[derive(Serialize)]
struct Header {
    v: u8,
    suite: u8,
    oid: serde_bytes::ByteArray<16>,
    salt: serde_bytes::ByteArray<32>,
    chunk_log2: u8,
    custody: serde_bytes::ByteArray<16>,
    device: String,
    stream: serde_bytes::ByteArray<16>,
    class: Class,
    captured_at: u64,
}

fn list(links: &[Cid]) -> Block {
    Block::new(Codec::DagCbor, to_canonical(links)).unwrap()
}

fn read(
    store: &Arc<MemoryStore>,
    record: &Record,
    range: Range<u64>,
) -> Result<Sealed, ExportError> {
    block_on(export(source(store), record, range, 8).try_collect())
}

fn source(store: &Arc<MemoryStore>) -> Arc<dyn BlockSource> {
    Arc::clone(store) as Arc<dyn BlockSource>
}

/// The record's DAG but for one block.
fn without(store: &MemoryStore, record: &Record, missing: &Cid) -> Arc<MemoryStore> {
    let rest = MemoryStore::default();
    let mut todo = vec![*record.cid()];
    while let Some(cid) = todo.pop() {
        let block = store.block(&cid).unwrap().unwrap();
        todo.extend(links(&block).unwrap());
        if cid != *missing {
            rest.put(&[block]).unwrap();
        }
    }
    Arc::new(rest)
}

/// Counts the fetches that have begun and not ended.
struct Counting {
    store: Arc<MemoryStore>,
    in_flight: AtomicUsize,
    most: AtomicUsize,
}

impl BlockSource for Counting {
    fn fetch<'a>(&'a self, cid: &'a Cid) -> BoxFuture<'a, Result<Block, SourceError>> {
        async move {
            let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(now, Ordering::Relaxed);
            yield_now().await;
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            self.store.fetch(cid).await
        }
        .boxed()
    }
}

/// Lets the other fetches begin.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Bytes of plaintext in a full chunk at `chunk_log2` 16.
const CHUNK: u64 = 65_520;
