use super::*;
use crate::Marks;
use std::{
    ops::Range,
    sync::{OnceLock, Weak, atomic::AtomicBool, mpsc},
    thread,
    time::Duration,
};

/// Nothing that was put before is recent any more.
fn age(store: &DiskStore) {
    assert!(store.begin_generation());
    assert!(store.begin_generation());
}

/// A whole cycle that keeps these.
fn collect(store: &DiskStore, kept: &[Block]) -> (u64, u64) {
    let marks = marked(store, kept);
    let (mut after, mut freed) = (None, (0, 0));
    loop {
        let step = store.collect(after.as_ref(), 3, &marks).unwrap();
        freed = (freed.0 + step.blocks, freed.1 + step.bytes);
        if step.last.is_none() {
            return freed;
        }
        after = step.last;
    }
}

fn marked(store: &DiskStore, kept: &[Block]) -> Marks {
    let marks = Marks::new(1000, 7);
    for block in kept {
        assert!(marks.mark(store, block.cid()).unwrap());
    }
    marks
}

fn is_here(store: &DiskStore, block: &Block) -> bool {
    let found = store.peek(block.cid()).unwrap();
    assert_eq!(found.is_some(), store.knows(block.cid()).unwrap());
    found.is_some_and(|found| found == *block)
}

#[test]
fn what_nobody_needs_is_removed_and_counted() {
    let folder = folder();
    let store = open(&folder);
    let blocks: Vec<_> = (0..10).flat_map(|n| [small(n), large(n)]).collect();
    store.put(&blocks).unwrap();
    let (kept, garbage) = blocks.split_at(8);
    assert_eq!(collect(&store, &[]), (0, 0), "all of it is recent");
    age(&store);
    let bytes: usize = garbage.iter().map(|block| block.bytes().len()).sum();
    assert_eq!(collect(&store, kept), (12, bytes as u64));
    assert!(kept.iter().all(|block| is_here(&store, block)));
    assert!(!garbage.iter().any(|block| is_here(&store, block)));
    drop(store);
    let store = open(&folder);
    let figures = store.figures().unwrap();
    assert_eq!((figures.blocks, figures.freed_blocks), (8, 12));
    assert_eq!(figures.freed_bytes, bytes as u64);
    store.put(garbage).unwrap();
    assert!(blocks.iter().all(|block| is_here(&store, block)));
}

#[test]
fn what_was_put_or_looked_for_lately_stays() {
    let folder = folder();
    let store = open(&folder);
    let blocks: Vec<_> = (0..4).flat_map(|n| [small(n), large(n)]).collect();
    store.put(&blocks).unwrap();
    age(&store);
    assert!(store.has(blocks[0].cid()).unwrap());
    assert!(store.block(blocks[1].cid()).unwrap().is_some());
    store.put(&blocks[2..4]).unwrap();
    // These do not count.
    assert!(store.peek(blocks[4].cid()).unwrap().is_some());
    assert!(store.knows(blocks[5].cid()).unwrap());
    assert!(store.begin_generation());
    assert_eq!(collect(&store, &[]).0, 4);
    assert!(blocks[..4].iter().all(|block| is_here(&store, block)));
    assert!(store.begin_generation());
    assert_eq!(collect(&store, &[]).0, 4);
}

#[test]
fn lease_keeps_what_was_looked_for_under_it() {
    let folder = folder();
    let store = open(&folder);
    let lease = store.lease();
    store.put(&[small(1), large(1)]).unwrap();
    assert!(store.begin_generation());
    assert!(!store.is_last_generation_free());
    let again = lease.clone();
    drop(lease);
    for _ in 0..3 {
        assert!(!store.begin_generation());
        assert_eq!(collect(&store, &[]), (0, 0));
    }
    drop(again);
    assert!(store.is_last_generation_free());
    assert!(store.begin_generation());
    assert_eq!(collect(&store, &[]).0, 2);
}

#[test]
fn dag_is_marked_whole_or_not_at_all() {
    let folder = folder();
    let store = open(&folder);
    let leaf = large(1);
    let inner = crate::to_canonical(&vec![*leaf.cid()]);
    let inner = Block::new(Codec::DagCbor, inner).unwrap();
    let root = crate::to_canonical(&vec![*inner.cid()]);
    let root = Block::new(Codec::DagCbor, root).unwrap();
    let other = small(1);
    let dag = [leaf, inner.clone(), root.clone()];
    store.put(&dag).unwrap();
    store.put(from_ref(&other)).unwrap();
    age(&store);
    let marks = Marks::new(4, 0);
    assert!(marks.mark(&Peeking(&store), root.cid()).unwrap());
    while store.collect(None, 9, &marks).unwrap().blocks > 0 {}
    assert!(dag.iter().all(|block| is_here(&store, block)));
    assert!(!is_here(&store, &other));
    store.remove(inner.cid()).unwrap();
    assert!(!marks.mark(&Peeking(&store), root.cid()).unwrap());
    let unreadable = Block::new(Codec::DagCbor, vec![0xff]).unwrap();
    store.put(from_ref(&unreadable)).unwrap();
    assert!(!marks.mark(&Peeking(&store), unreadable.cid()).unwrap());
}

/// As a collection reads.
struct Peeking<'s>(&'s DiskStore);

impl BlockStore for Peeking<'_> {
    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.0.knows(cid)
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.0.peek(cid)
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.0.put(blocks)
    }
}

#[test]
fn bad_block_that_nobody_needs_is_listed_no_more() {
    for damage in Damage::ALL {
        let folder = folder();
        let store = open(&folder);
        let block = damage.block();
        store.put(from_ref(&block)).unwrap();
        damage.inflict(&folder, &store);
        store.quarantine(block.cid()).unwrap();
        age(&store);
        assert_eq!(collect(&store, &[]), (0, 0), "{damage:?}");
        assert_eq!(store.figures().unwrap().missing, 0, "{damage:?}");
        assert_eq!(files_in(&folder, "quarantine"), 0, "{damage:?}");
    }
}

#[test]
fn file_without_a_row_is_swept_and_no_other() {
    let folder = folder();
    let store = open(&folder);
    let (kept, lost) = (large(1), large(2));
    store.put(from_ref(&kept)).unwrap();
    fs::write(file_of(&folder, &lost), b"half a blo").unwrap();
    let swept = (0..=u8::MAX).map(|shard| store.sweep_files(shard).unwrap());
    assert_eq!(swept.sum::<u64>(), 1);
    assert!(!file_of(&folder, &lost).exists());
    assert!(is_here(&store, &kept));
}

#[test]
fn promise_is_remembered_and_never_too_short() {
    let folder = folder();
    let store = open(&folder);
    assert_eq!(store.promised(), 0);
    for (until, latest) in [(5, 5), (3, 5), (70_000, 70_000), (6, 70_000)] {
        store.promise(until).unwrap();
        assert_eq!(store.promised(), latest);
    }
    drop(store);
    assert!(open(&folder).promised() >= 70_000);
}

/// Every write and every fsync of a collection fails once, in turn, as a crash would make it: what is needed is there
/// afterwards, what is not is whole or gone, and the next collection frees it.
#[test]
fn collection_that_fails_at_any_step_loses_nothing_needed() {
    let mut at = 0;
    loop {
        let folder = folder();
        let kept = [small(1), large(1)];
        let garbage = [small(2), large(2), large(3)];
        let store = open(&folder);
        store.put(&kept).unwrap();
        store.put(&garbage).unwrap();
        drop(store);
        let (device, armed) = failing_at(at, io::ErrorKind::Other);
        let store = DiskStore::open_on(folder.path(), device).unwrap();
        let marks = marked(&store, &kept);
        armed.store(true, Ordering::SeqCst);
        let outcome = store.collect(None, 9, &marks);
        armed.store(false, Ordering::SeqCst);
        drop(store);
        let store = open(&folder);
        assert!(kept.iter().all(|block| is_here(&store, block)), "{at}");
        for block in &garbage {
            let here = store.knows(block.cid()).unwrap();
            assert_eq!(is_here(&store, block), here, "{at}");
        }
        collect(&store, &kept);
        let swept = (0..=u8::MAX).map(|shard| store.sweep_files(shard).unwrap());
        assert!(swept.sum::<u64>() <= 2, "{at}");
        assert_eq!(store.figures().unwrap().blocks, 2, "{at}");
        assert!(
            garbage
                .iter()
                .all(|block| !file_of(&folder, block).exists())
        );
        store.put(&garbage).unwrap();
        assert!(garbage.iter().all(|block| is_here(&store, block)), "{at}");
        if outcome.is_ok() {
            break;
        }
        at += 1;
    }
    assert!(at > 3, "the collection has more steps than {at}");
}

/// What is acknowledged while a collection runs is there, and no reader sees half a block.
#[test]
fn collection_beside_puts_and_reads_takes_nothing_from_them() {
    const BLOCKS: u8 = 40;
    let folder = folder();
    let store = open(&folder);
    let blocks: Vec<_> = (0..BLOCKS).flat_map(|n| [small(n), large(n)]).collect();
    store.put(&blocks).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (store, done, blocks) = (&store, &done, &blocks);
        let collector = scope.spawn(move || {
            let mut freed = 0;
            while !done.load(Ordering::SeqCst) {
                // Not while the lease of the last is held.
                store.begin_generation();
                freed += collect(store, &[]).0;
            }
            freed
        });
        let reader = scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                for block in blocks {
                    // Here or not, never corrupt.
                    let found = store.block(block.cid()).unwrap();
                    assert!(found.is_none_or(|found| found == *block));
                }
            }
        });
        for round in 0..30 {
            for block in blocks {
                let lease = store.lease();
                store.put(from_ref(block)).unwrap();
                // While the lease is held it stays, whatever else happens.
                thread::yield_now();
                assert!(is_here(store, block), "round {round}");
                drop(lease);
            }
        }
        done.store(true, Ordering::SeqCst);
        assert!(collector.join().unwrap() > 0);
        reader.join().unwrap();
    });
    assert_eq!(store.figures().unwrap().missing, 0);
}

/// At every write and every fsync of a collection, whoever looks for what it removes is told that it is gone, and does
/// not wait for it.
#[test]
fn nobody_waits_for_what_is_being_removed() {
    let folder = folder();
    let (kept, garbage) = ([small(1), large(1)], [small(2), large(2), large(3)]);
    let (kept_here, gone) = (kept.clone(), garbage.clone());
    let read_all = move |store: &DiskStore| {
        for block in &gone {
            assert!(!store.has(block.cid()).unwrap());
            assert_eq!(store.block(block.cid()).unwrap(), None);
        }
        for block in &kept_here {
            assert!(store.has(block.cid()).unwrap());
            assert_eq!(store.block(block.cid()).unwrap().as_ref(), Some(block));
        }
    };
    let (removing, steps) = (Arc::new(OnceLock::new()), Arc::new(AtomicUsize::new(0)));
    let (store_of, count) = (Arc::clone(&removing), Arc::clone(&steps));
    let device = Device::new(move |_| {
        let store: Option<Arc<DiskStore>> = store_of.get().and_then(Weak::upgrade);
        if let Some(store) = store {
            let read_all = read_all.clone();
            let (answer, answered) = mpsc::channel();
            thread::spawn(move || {
                read_all(&store);
                answer.send(()).unwrap();
            });
            let answered = answered.recv_timeout(PATIENCE);
            answered.expect("a reader is answered during the collection");
            count.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    });
    let store = Arc::new(DiskStore::open_on(folder.path(), device).unwrap());
    // Its file has room then: while it gets longer, redb lets nobody begin to read.
    let room: Vec<_> = (10..90).map(small).collect();
    store.put(&room).unwrap();
    store.put(&kept).unwrap();
    store.put(&garbage).unwrap();
    room.iter()
        .for_each(|block| assert!(store.remove(block.cid()).unwrap()));
    age(&store);
    let marks = marked(&store, &kept);
    removing.set(Arc::downgrade(&store)).unwrap();
    assert_eq!(store.collect(None, 9, &marks).unwrap().blocks, 3);
    assert!(steps.load(Ordering::SeqCst) > 5);
}

/// A large collection beside an ingest, of blocks in rows and in files: it takes nothing that comes, and leaves no file.
#[test]
fn hundred_thousand_blocks_go_while_others_come() {
    let numbered = |numbers: Range<u32>| {
        let blocks = numbers.map(|n| {
            n.to_be_bytes()
                .repeat(if n.is_multiple_of(20) { 5000 } else { 16 })
        });
        let blocks = blocks.map(|bytes| Block::new(Codec::Raw, bytes).unwrap());
        blocks.collect::<Vec<_>>()
    };
    let folder = folder();
    let store = open(&folder);
    for from in (0..100_000).step_by(2000) {
        store.put(&numbered(from..from + 2000)).unwrap();
    }
    age(&store);
    let marks = Marks::new(100_000, 3);
    let kept = numbered(0..1000);
    for block in &kept {
        assert!(marks.mark(&store, block.cid()).unwrap());
    }
    let ingested = thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut after = None;
            loop {
                let step = store.collect(after.as_ref(), 256, &marks).unwrap();
                after = step.last;
                if after.is_none() {
                    return;
                }
            }
        });
        let mut next = 1_000_000;
        while !collector.is_finished() {
            store.put(&numbered(next..next + 40)).unwrap();
            next += 40;
        }
        collector.join().unwrap();
        1_000_000..next
    });
    let figures = store.figures().unwrap();
    assert_eq!(
        figures.blocks + figures.freed_blocks,
        100_000 + u64::from(ingested.end - ingested.start)
    );
    assert!(figures.freed_blocks > 98_500, "{figures:?}");
    let stay = kept.into_iter().chain(numbered(ingested));
    assert!(stay.into_iter().all(|block| is_here(&store, &block)));
    let swept = (0..=u8::MAX).map(|shard| store.sweep_files(shard).unwrap());
    assert_eq!(swept.sum::<u64>(), 0);
}

/// With a reader that should not wait at all.
const PATIENCE: Duration = Duration::from_secs(60);
