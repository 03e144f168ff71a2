mod collect;
mod places;
mod upgrade;

use super::{device::Step, *};
use crate::{Codec, MAX_BLOCK_BYTES, MemoryStore};
use proptest::prelude::*;
use std::{
    os::unix::fs::FileExt,
    slice::from_ref,
    sync::atomic::{AtomicUsize, Ordering},
};
use tempfile::TempDir;

#[test]
fn reopened_store_has_what_was_put() {
    let folder = folder();
    let blocks = boundary_blocks();
    let store = open(&folder);
    store.put(&blocks).unwrap();
    drop(store);
    let store = open(&folder);
    for block in &blocks {
        assert!(store.has(block.cid()).unwrap());
        assert_eq!(store.block(block.cid()).unwrap().as_ref(), Some(block));
    }
    assert_eq!(store.figures().unwrap().blocks, blocks.len() as u64);
    let bytes: usize = blocks.iter().map(|block| block.bytes().len()).sum();
    assert_eq!(store.figures().unwrap().bytes, bytes as u64);
}

#[test]
fn same_bytes_under_another_codec_are_one_block() {
    let folder = folder();
    let store = open(&folder);
    let raw = large(1);
    let dag_cbor = Block::new(Codec::DagCbor, raw.bytes().clone()).unwrap();
    store
        .put(&[raw.clone(), dag_cbor.clone(), raw.clone()])
        .unwrap();
    store.put(from_ref(&dag_cbor)).unwrap();
    assert_eq!(store.figures().unwrap().blocks, 1);
    assert_eq!(store.block(dag_cbor.cid()).unwrap(), Some(dag_cbor));
    assert!(store.remove(raw.cid()).unwrap());
    assert!(!store.remove(raw.cid()).unwrap());
    assert_eq!(store.figures().unwrap().blocks, 0);
    assert_eq!(store.figures().unwrap().bytes, 0);
}

#[test]
fn every_flipped_byte_of_a_file_is_found_and_mended() {
    let folder = folder();
    let store = open(&folder);
    let block = large(1);
    store.put(from_ref(&block)).unwrap();
    let file = File::options()
        .write(true)
        .open(file_of(&folder, &block))
        .unwrap();
    for (at, good) in block.bytes().iter().enumerate() {
        file.write_all_at(&[good ^ 1], at as u64).unwrap();
        assert!(is_corrupt(&store, &block), "byte {at}");
        file.write_all_at(&[*good], at as u64).unwrap();
    }
    file.write_all_at(b"damage", 0).unwrap();
    store.put(from_ref(&block)).unwrap();
    assert_eq!(store.block(block.cid()).unwrap(), Some(block));
    assert_eq!(store.figures().unwrap().blocks, 1);
}

#[test]
fn shorter_and_longer_files_are_corrupt() {
    let folder = folder();
    let store = open(&folder);
    let block = large(1);
    store.put(from_ref(&block)).unwrap();
    for len in [0, MAX_ROW_BYTES, MAX_ROW_BYTES + 2, 4 * MAX_BLOCK_BYTES] {
        fs::write(file_of(&folder, &block), vec![1; len]).unwrap();
        assert!(is_corrupt(&store, &block), "{len}");
    }
}

#[test]
fn corrupt_row_is_found_and_mended() {
    let folder = folder();
    let store = open(&folder);
    let block = small(1);
    let digest = digest_of(block.cid()).unwrap();
    store
        .index
        .insert([(digest, "other bytes".into())].iter())
        .unwrap();
    assert!(is_corrupt(&store, &block));
    store.put(from_ref(&block)).unwrap();
    assert_eq!(store.block(block.cid()).unwrap(), Some(block));
}

#[test]
fn row_without_file_is_no_block() {
    let folder = folder();
    let store = open(&folder);
    let block = large(1);
    store.put(from_ref(&block)).unwrap();
    fs::remove_file(file_of(&folder, &block)).unwrap();
    assert!(!store.has(block.cid()).unwrap());
    assert!(is_corrupt(&store, &block));
    store.put(from_ref(&block)).unwrap();
    assert!(store.has(block.cid()).unwrap());
    assert_eq!(store.figures().unwrap().blocks, 1);
    fs::remove_file(file_of(&folder, &block)).unwrap();
    assert!(store.remove(block.cid()).unwrap());
    assert_eq!(store.figures().unwrap().blocks, 0);
}

#[test]
fn file_without_row_is_no_block() {
    let folder = folder();
    let store = open(&folder);
    let block = large(1);
    fs::write(file_of(&folder, &block), block.bytes()).unwrap();
    assert!(!store.has(block.cid()).unwrap());
    assert_eq!(store.block(block.cid()).unwrap(), None);
    store.put(from_ref(&block)).unwrap();
    assert_eq!(store.block(block.cid()).unwrap(), Some(block));
}

#[test]
fn unfinished_files_are_swept_when_the_store_opens() {
    let folder = folder();
    drop(open(&folder));
    for name in ["0", "1"] {
        fs::write(folder.path().join("tmp").join(name), b"half a blo").unwrap();
    }
    let store = open(&folder);
    assert_eq!(temporary_files(&folder), 0);
    store.put(&[large(1), large(2)]).unwrap();
    assert_eq!(temporary_files(&folder), 0);
}

#[test]
fn second_open_says_that_the_store_is_in_use() {
    let folder = folder();
    let store = open(&folder);
    let refused = DiskStore::open(folder.path()).unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with("is in use by another process"),
        "{refused}"
    );
    drop(store);
    drop(open(&folder));
}

#[test]
fn store_of_another_format_is_refused() {
    let folder = folder();
    let store = open(&folder);
    store.index.set_format("blocks-3");
    drop(store);
    let refused = DiskStore::open(folder.path()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "block store has format `blocks-3`, this program reads `blocks-2`"
    );
}

/// What can happen to a block on disk, and to which blocks.
#[derive(Clone, Copy, Debug)]
enum Damage {
    FlippedRow,
    FlippedFile,
    TruncatedFile,
    EmptyFile,
    LongerFile,
    DeletedFile,
}

impl Damage {
    const ALL: [Self; 6] = [
        Self::FlippedRow,
        Self::FlippedFile,
        Self::TruncatedFile,
        Self::EmptyFile,
        Self::LongerFile,
        Self::DeletedFile,
    ];

    fn block(self) -> Block {
        match self {
            Self::FlippedRow => small(9),
            _ => large(9),
        }
    }

    /// Damages the block behind the store's back.
    fn inflict(self, folder: &TempDir, store: &DiskStore) {
        let block = self.block();
        let mut bytes = block.bytes().to_vec();
        let path = file_of(folder, &block);
        match self {
            Self::FlippedRow => {
                bytes[50] ^= 1;
                let digest = digest_of(block.cid()).unwrap();
                store.index.insert([(digest, bytes.into())].iter()).unwrap();
            }
            Self::FlippedFile => {
                bytes[5000] ^= 0x80;
                fs::write(path, bytes).unwrap();
            }
            Self::TruncatedFile => fs::write(path, &bytes[..4096]).unwrap(),
            Self::EmptyFile => fs::write(path, []).unwrap(),
            Self::LongerFile => {
                bytes.push(9);
                fs::write(path, bytes).unwrap();
            }
            Self::DeletedFile => fs::remove_file(path).unwrap(),
        }
    }
}

#[test]
fn bad_block_is_quarantined_and_a_put_mends_it() {
    for damage in Damage::ALL {
        let folder = folder();
        let store = open(&folder);
        let (block, other) = (damage.block(), [small(1), large(1)]);
        store.put(&other).unwrap();
        store.put(from_ref(&block)).unwrap();
        assert!(!store.quarantine(block.cid()).unwrap(), "{damage:?}");
        damage.inflict(&folder, &store);
        assert!(store.quarantine(block.cid()).unwrap(), "{damage:?}");
        assert!(!store.quarantine(block.cid()).unwrap(), "{damage:?}");
        drop(store);

        let store = open(&folder);
        assert!(is_corrupt(&store, &block), "{damage:?}");
        assert!(!store.has(block.cid()).unwrap(), "{damage:?}");
        let raw = cid_of(Codec::Raw, &digest_of(block.cid()).unwrap());
        assert_eq!(store.bad(None, 9).unwrap(), [raw], "{damage:?}");
        assert_eq!(store.cids(None, 9).unwrap().len(), 2, "{damage:?}");
        let expected = Figures {
            blocks: 2,
            bytes: 100 + MAX_ROW_BYTES as u64 + 1,
            found_bad: 1,
            repaired: 0,
            missing: 1,
            ..Figures::default()
        };
        assert_eq!(store.figures().unwrap(), expected, "{damage:?}");

        store.put(from_ref(&block)).unwrap();
        let expected = Figures {
            blocks: 3,
            bytes: expected.bytes + block.bytes().len() as u64,
            repaired: 1,
            missing: 0,
            ..expected
        };
        assert_eq!(store.figures().unwrap(), expected, "{damage:?}");
        assert_eq!(
            store.block(block.cid()).unwrap().as_ref(),
            Some(&block),
            "{damage:?}"
        );
        assert_eq!(store.bad(None, 9).unwrap(), [], "{damage:?}");
        assert_eq!(files_in(&folder, "quarantine"), 0, "{damage:?}");
    }
}

#[test]
fn put_over_a_bad_block_counts_what_it_mends() {
    for damage in Damage::ALL {
        let folder = folder();
        let store = open(&folder);
        let block = damage.block();
        store.put(from_ref(&block)).unwrap();
        damage.inflict(&folder, &store);
        store.put(from_ref(&block)).unwrap();
        let figures = store.figures().unwrap();
        let counts = (figures.blocks, figures.found_bad, figures.repaired);
        assert_eq!(counts, (1, 1, 1), "{damage:?}");
        assert_eq!(store.block(block.cid()).unwrap(), Some(block));
    }
}

/// Every write and every fsync of a quarantine and of the repair after it fails once, in turn, as a crash or a
/// broken disk would make it. Nobody is ever given a bad byte, and no other block is harmed.
#[test]
fn quarantine_and_repair_that_fail_at_any_step_show_no_bad_byte() {
    for damage in Damage::ALL {
        for at in 0.. {
            let folder = folder();
            let (good, block) = ([small(1), large(1)], damage.block());
            let store = open(&folder);
            store.put(&good).unwrap();
            store.put(from_ref(&block)).unwrap();
            damage.inflict(&folder, &store);
            drop(store);

            let (device, armed) = failing_at(at, io::ErrorKind::Other);
            let store = DiskStore::open_on(folder.path(), device).unwrap();
            armed.store(true, Ordering::SeqCst);
            let quarantined = store.quarantine(block.cid());
            let repaired = store.put(from_ref(&block));
            armed.store(false, Ordering::SeqCst);
            let is_done = quarantined.is_ok() && repaired.is_ok();
            drop(store);

            let store = open(&folder);
            match (repaired, store.block(block.cid())) {
                (_, Ok(Some(read))) => assert_eq!(read, block, "{damage:?} {at}"),
                (Err(_), Err(StoreError::Corrupt(_))) => {
                    // It is found again, or listed already.
                    let found = store.quarantine(block.cid()).unwrap();
                    let listed = store.bad(None, 9).unwrap();
                    assert_eq!(listed.len(), 1, "{damage:?} {at} {found}");
                }
                (repaired, read) => panic!("{damage:?} {at}: {repaired:?}, then {read:?}"),
            }
            store.put(from_ref(&block)).unwrap();
            for block in good.iter().chain([&block]) {
                let read = store.block(block.cid()).unwrap();
                assert_eq!(read.as_ref(), Some(block), "{damage:?} {at}");
            }
            let figures = store.figures().unwrap();
            assert_eq!((figures.blocks, figures.missing), (3, 0), "{damage:?} {at}");
            drop(store);
            drop(open(&folder));
            assert_eq!(files_in(&folder, "quarantine"), 0, "{damage:?} {at}");
            if is_done {
                assert!(at > 5, "{damage:?} has more steps than {at}");
                break;
            }
        }
    }
}

#[test]
fn block_that_should_be_here_is_listed_until_it_is_put() {
    let folder = folder();
    let store = open(&folder);
    let (here, lost) = (small(1), large(1));
    store.put(from_ref(&here)).unwrap();
    let expected = [*here.cid(), *lost.cid(), *lost.cid()];
    assert_eq!(store.expect(&expected).unwrap(), 1);
    assert_eq!(store.expect(&expected).unwrap(), 0);
    assert_eq!(store.bad(None, 9).unwrap(), [*lost.cid()]);
    assert_eq!(store.bad(Some(lost.cid()), 9).unwrap(), []);
    assert!(is_corrupt(&store, &lost));
    store.put(from_ref(&lost)).unwrap();
    let figures = store.figures().unwrap();
    assert_eq!((figures.blocks, figures.missing), (2, 0));
    assert_eq!((figures.found_bad, figures.repaired), (1, 1));
}

#[test]
fn removed_block_is_listed_no_more() {
    for damage in Damage::ALL {
        let folder = folder();
        let store = open(&folder);
        let block = damage.block();
        store.put(from_ref(&block)).unwrap();
        damage.inflict(&folder, &store);
        store.quarantine(block.cid()).unwrap();
        assert!(!store.remove(block.cid()).unwrap(), "{damage:?}");
        assert_eq!(store.block(block.cid()).unwrap(), None, "{damage:?}");
        assert_eq!(store.figures().unwrap().missing, 0, "{damage:?}");
        assert_eq!(files_in(&folder, "quarantine"), 0, "{damage:?}");
    }
}

#[test]
fn pages_of_blocks_are_all_blocks_in_order() {
    let folder = folder();
    let store = open(&folder);
    let blocks: Vec<_> = (0..20).flat_map(|n| [small(n), large(n)]).collect();
    store.put(&blocks).unwrap();
    for limit in [1, 7, 40] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = store.cids(after.as_ref(), limit).unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(*last);
            listed.extend(page);
        }
        let mut expected: Vec<_> = blocks.iter().map(|block| *block.cid()).collect();
        expected.sort_by_key(|cid| digest_of(cid).unwrap());
        assert_eq!(listed, expected);
    }
}

#[test]
fn progress_of_a_scrub_survives_a_restart() {
    let folder = folder();
    let store = open(&folder);
    assert_eq!(store.scrub_progress().unwrap(), ScrubProgress::default());
    let mut progress = ScrubProgress::default();
    progress.begin(5);
    progress.after = small(1).cid().to_bytes().into();
    progress.bytes = 7;
    store.save_scrub_progress(&progress).unwrap();
    drop(store);
    let store = open(&folder);
    assert_eq!(store.scrub_progress().unwrap(), progress);
    progress.enter(ScrubStep::Records);
    progress.end(9);
    let ended = (
        progress.passes,
        progress.began_at_unix_ms,
        progress.ended_at_unix_ms,
    );
    assert_eq!(ended, (1, 0, 9));
    store.save_scrub_progress(&progress).unwrap();
    assert_eq!(store.scrub_progress().unwrap(), progress);
    store.index.save_progress(b"not this").unwrap();
    assert_eq!(store.scrub_progress().unwrap(), ScrubProgress::default());
}

#[test]
fn scrub_says_since_when_all_blocks_were_read_only_when_it_has_read_all() {
    let mut progress = ScrubProgress::default();
    let mut seen = Vec::new();
    for began in [5, 20] {
        progress.begin(began);
        seen.push(progress.read_since_unix_ms);
        progress.enter(ScrubStep::Records);
        seen.push(progress.read_since_unix_ms);
        progress.end(began + 4);
        seen.push(progress.read_since_unix_ms);
    }
    let expected = [None, Some(5), Some(5), Some(5), Some(20), Some(20)];
    assert_eq!(seen, expected);
}

#[test]
fn identity_and_other_cids_are_refused() {
    let folder = folder();
    let store = open(&folder);
    let dag_pb = Cid::new_v1(0x70, *small(1).cid().hash());
    assert!(matches!(store.has(&dag_pb), Err(StoreError::Block(_))));
    assert!(matches!(store.block(&dag_pb), Err(StoreError::Block(_))));
    assert!(matches!(store.remove(&dag_pb), Err(StoreError::Block(_))));
}

#[test]
fn concurrent_puts_are_all_kept() {
    let folder = folder();
    let store = open(&folder);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for i in 0..4 {
                    // Each block is put by two writers.
                    store
                        .put(&[small(i + writer / 2 * 4), large(i + writer / 2 * 4)])
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(store.figures().unwrap().blocks, 16);
    for i in 0..8 {
        assert!(store.block(small(i).cid()).unwrap().is_some());
        assert!(store.block(large(i).cid()).unwrap().is_some());
    }
}

/// Every write and every fsync of a put fails once, in turn, as a crash or a broken disk would make it.
/// What was acknowledged before is there afterwards; what was not can be put again.
#[test]
fn put_that_fails_at_any_step_loses_nothing_acknowledged() {
    let mut at = 0;
    loop {
        let folder = folder();
        let before = [small(1), large(1)];
        open(&folder).put(&before).unwrap();
        let (device, armed) = failing_at(at, io::ErrorKind::Other);
        let store = DiskStore::open_on(folder.path(), device).unwrap();
        armed.store(true, Ordering::SeqCst);
        let after = [small(2), large(2)];
        let outcome = store.put(&after);
        armed.store(false, Ordering::SeqCst);
        drop(store);
        let store = open(&folder);
        assert_eq!(temporary_files(&folder), 0, "step {at}");
        for block in &before {
            assert_eq!(
                store.block(block.cid()).unwrap().as_ref(),
                Some(block),
                "step {at}"
            );
        }
        if outcome.is_err() {
            store.put(&after).unwrap();
        }
        for block in &after {
            assert_eq!(
                store.block(block.cid()).unwrap().as_ref(),
                Some(block),
                "step {at}"
            );
        }
        assert_eq!(store.figures().unwrap().blocks, 4, "step {at}");
        if outcome.is_ok() {
            break;
        }
        at += 1;
    }
    assert!(at > 5, "the put has more steps than {at}");
}

#[test]
fn full_disk_is_reported_and_the_store_goes_on() {
    let mut at = 0;
    loop {
        let folder = folder();
        let (device, armed) = failing_writes_at(at, io::ErrorKind::StorageFull);
        let store = DiskStore::open_on(folder.path(), device).unwrap();
        armed.store(true, Ordering::SeqCst);
        let blocks = [small(1), large(1)];
        let outcome = store.put(&blocks);
        armed.store(false, Ordering::SeqCst);
        if outcome.is_ok() {
            break;
        }
        assert!(
            matches!(outcome, Err(StoreError::Full(_))),
            "write {at}: {outcome:?}"
        );
        store.put(&blocks).unwrap();
        for block in &blocks {
            assert_eq!(
                store.block(block.cid()).unwrap().as_ref(),
                Some(block),
                "write {at}"
            );
        }
        at += 1;
    }
    assert!(at > 2, "the put has more writes than {at}");
}

#[test]
fn index_that_does_not_open_again_stops_the_store() {
    let folder = folder();
    let armed = Armed::default();
    let is_armed = Arc::clone(&armed);
    let device = Device::new(move |_| match is_armed.load(Ordering::SeqCst) {
        true => Err(io::ErrorKind::StorageFull.into()),
        false => Ok(()),
    });
    let store = DiskStore::open_on(folder.path(), device).unwrap();
    let before = small(1);
    store.put(from_ref(&before)).unwrap();
    armed.store(true, Ordering::SeqCst);
    let refused = store.put(&[small(2)]).unwrap_err();
    assert!(matches!(refused, StoreError::Stopped(_)), "{refused:?}");
    armed.store(false, Ordering::SeqCst);
    let refused = store.put(&[small(2)]).unwrap_err();
    assert!(matches!(refused, StoreError::Stopped(_)), "{refused:?}");

    drop(store);
    let store = DiskStore::open(folder.path()).unwrap();
    assert_eq!(store.block(before.cid()).unwrap(), Some(before));
    store.put(&[small(2)]).unwrap();
}

#[test]
fn failed_fsync_stops_every_later_write() {
    for at in 0..3 {
        let folder = folder();
        let (device, armed) = failing_syncs_at(at, io::ErrorKind::Other);
        let store = DiskStore::open_on(folder.path(), device).unwrap();
        let before = small(1);
        store.put(from_ref(&before)).unwrap();
        armed.store(true, Ordering::SeqCst);
        let refused = store.put(&[large(1)]).unwrap_err();
        assert!(
            refused.to_string().ends_with("the node must stop"),
            "{refused}"
        );
        armed.store(false, Ordering::SeqCst);
        for _ in 0..2 {
            assert!(matches!(
                store.put(&[small(2)]),
                Err(StoreError::Stopped(_))
            ));
            assert!(matches!(
                store.put(&[large(2)]),
                Err(StoreError::Stopped(_))
            ));
            assert!(matches!(
                store.remove(before.cid()),
                Err(StoreError::Stopped(_))
            ));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn store_does_as_the_one_in_memory(steps in prop::collection::vec(step(), 1..24)) {
        let folder = folder();
        let mut store = open(&folder);
        let mut model = MemoryStore::default();
        for step in steps {
            match step {
                Model::Put(numbers) => {
                    let blocks: Vec<_> = numbers.into_iter().map(numbered).collect();
                    store.put(&blocks).unwrap();
                    model.put(&blocks).unwrap();
                }
                Model::Remove(number) => {
                    let block = numbered(number);
                    let was_here = model.has(block.cid()).unwrap();
                    prop_assert_eq!(store.remove(block.cid()).unwrap(), was_here);
                    model = remaining(&model, &block);
                }
                Model::Reopen => {
                    drop(store);
                    store = open(&folder);
                }
            }
            let mut total = (0, 0);
            for block in (0..NUMBERED).map(numbered) {
                let expected = model.block(block.cid()).unwrap();
                total.0 += u64::from(expected.is_some());
                total.1 += expected.as_ref().map_or(0, |block| block.bytes().len() as u64);
                prop_assert_eq!(store.has(block.cid()).unwrap(), expected.is_some());
                prop_assert_eq!(store.block(block.cid()).unwrap(), expected);
            }
            prop_assert_eq!((store.figures().unwrap().blocks, store.figures().unwrap().bytes), total);
        }
    }
}

#[derive(Clone, Debug)]
enum Model {
    Put(Vec<u8>),
    Remove(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Model> {
    prop_oneof![
        3 => prop::collection::vec(0..NUMBERED, 0..4).prop_map(Model::Put),
        2 => (0..NUMBERED).prop_map(Model::Remove),
        1 => Just(Model::Reopen),
    ]
}

fn remaining(model: &MemoryStore, removed: &Block) -> MemoryStore {
    let rest = MemoryStore::default();
    for block in (0..NUMBERED).map(numbered).filter(|block| block != removed) {
        let kept = model.block(block.cid()).unwrap();
        rest.put(kept.as_slice()).unwrap();
    }
    rest
}

const NUMBERED: u8 = 6;

fn numbered(number: u8) -> Block {
    if number.is_multiple_of(2) {
        small(number)
    } else {
        large(number)
    }
}

fn small(number: u8) -> Block {
    Block::new(Codec::Raw, vec![number; 100]).unwrap()
}

fn large(number: u8) -> Block {
    Block::new(Codec::Raw, vec![number; MAX_ROW_BYTES + 1]).unwrap()
}

fn boundary_blocks() -> Vec<Block> {
    [
        0,
        1,
        MAX_ROW_BYTES - 1,
        MAX_ROW_BYTES,
        MAX_ROW_BYTES + 1,
        MAX_BLOCK_BYTES,
    ]
    .into_iter()
    .map(|len| Block::new(Codec::Raw, vec![7; len]).unwrap())
    .collect()
}

/// A new folder, in memory where there is such a file system: an fsync is quick there.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

fn open(folder: &TempDir) -> DiskStore {
    DiskStore::open(folder.path()).unwrap()
}

fn is_corrupt(store: &DiskStore, block: &Block) -> bool {
    matches!(store.block(block.cid()), Err(StoreError::Corrupt(cid)) if cid == *block.cid())
}

fn file_of(folder: &TempDir, block: &Block) -> PathBuf {
    let name = crate::Hash::of(block.bytes()).to_string();
    folder.path().join("blocks").join(&name[..2]).join(name)
}

fn temporary_files(folder: &TempDir) -> usize {
    files_in(folder, "tmp")
}

fn files_in(folder: &TempDir, name: &str) -> usize {
    fs::read_dir(folder.path().join(name)).unwrap().count()
}

type Armed = Arc<std::sync::atomic::AtomicBool>;

/// A device whose step number `at` fails, counted from when it is armed.
fn failing_at(at: usize, kind: io::ErrorKind) -> (Device, Armed) {
    failing(at, kind, |_| true)
}

fn failing_writes_at(at: usize, kind: io::ErrorKind) -> (Device, Armed) {
    failing(at, kind, |step| step == Step::Write)
}

fn failing_syncs_at(at: usize, kind: io::ErrorKind) -> (Device, Armed) {
    failing(at, kind, |step| step == Step::Sync)
}

fn failing(
    at: usize,
    kind: io::ErrorKind,
    counts: impl Fn(Step) -> bool + Send + Sync + 'static,
) -> (Device, Armed) {
    let (fault, armed) = fault_at(at, kind, counts);
    (Device::new(fault), armed)
}

/// A device whose step number `at` says that it failed, and did not.
fn failing_after(at: usize, kind: io::ErrorKind) -> (Device, Armed) {
    let (fault, armed) = fault_at(at, kind, |_| true);
    (Device::failing_after(fault), armed)
}

fn fault_at(
    at: usize,
    kind: io::ErrorKind,
    counts: impl Fn(Step) -> bool + Send + Sync + 'static,
) -> (
    impl Fn(Step) -> io::Result<()> + Send + Sync + 'static,
    Armed,
) {
    let armed = Armed::default();
    let is_armed = Arc::clone(&armed);
    let passed = AtomicUsize::new(0);
    let fault = move |step| {
        let is_counted = is_armed.load(Ordering::SeqCst) && counts(step);
        if is_counted && passed.fetch_add(1, Ordering::SeqCst) == at {
            return Err(kind.into());
        }
        Ok(())
    };
    (fault, armed)
}
