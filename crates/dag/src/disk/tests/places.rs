use super::*;
use crate::Marks;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU8},
    thread,
};

/// More than are merged at once, some of them in files.
const BLOCKS: u8 = 40;

fn block(number: u8) -> Block {
    let len = if number.is_multiple_of(16) {
        MAX_ROW_BYTES + 1
    } else {
        usize::from(number) * 7
    };
    Block::new(Codec::Raw, vec![number; len]).unwrap()
}

fn digest(number: u8) -> [u8; 32] {
    digest_of(block(number).cid()).unwrap()
}

/// What a block is in the model; one that is not in it is not in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    Bad,
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>),
    Remove(u8),
    /// Its bytes are damaged, and somebody notices.
    Quarantine(u8),
    Expect(u8),
    /// All but those below this number.
    Collect(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(0..BLOCKS, 0..12).prop_map(Step::Put),
        3 => (0..BLOCKS).prop_map(Step::Remove),
        2 => (0..BLOCKS).prop_map(Step::Quarantine),
        1 => (0..BLOCKS).prop_map(Step::Expect),
        1 => (0..BLOCKS).prop_map(Step::Collect),
        2 => Just(Step::Reopen),
    ]
}

type Model = BTreeMap<u8, State>;

/// Does it to both.
fn take(step: &Step, folder: &TempDir, store: &DiskStore, model: &mut Model) {
    match step {
        Step::Put(numbers) => {
            let blocks: Vec<_> = numbers.iter().copied().map(block).collect();
            store.put(&blocks).unwrap();
            model.extend(numbers.iter().map(|number| (*number, State::Good)));
        }
        Step::Remove(number) => {
            let was_good = model.remove(number) == Some(State::Good);
            assert_eq!(store.remove(block(*number).cid()).unwrap(), was_good);
        }
        Step::Quarantine(number) => {
            let is_good = model.get(number) == Some(&State::Good);
            if is_good {
                damage(*number, folder, store);
                model.insert(*number, State::Bad);
            }
            assert_eq!(store.quarantine(block(*number).cid()).unwrap(), is_good);
        }
        Step::Expect(number) => {
            let is_new = !model.contains_key(number);
            let expected = store.expect(&[*block(*number).cid()]).unwrap();
            assert_eq!(expected, u64::from(is_new));
            model.entry(*number).or_insert(State::Bad);
        }
        Step::Collect(kept) => {
            assert!(store.begin_generation() && store.begin_generation());
            let marks = Marks::new(1000, 7);
            for number in 0..*kept {
                // It marks the name also of one that is not here.
                marks.mark(store, block(number).cid()).unwrap();
            }
            assert!(store.begin_generation() && store.begin_generation());
            let mut after = None;
            loop {
                after = store.collect(after.as_ref(), 5, &marks).unwrap().last;
                if after.is_none() {
                    break;
                }
            }
            model.retain(|number, _| number < kept);
        }
        Step::Reopen => {}
    }
}

fn damage(number: u8, folder: &TempDir, store: &DiskStore) {
    let block = block(number);
    if is_large(block.bytes()) {
        fs::write(file_of(folder, &block), b"other bytes").unwrap();
    } else {
        let other = (digest(number), b"other bytes".as_slice().into());
        store.index.insert([other].iter()).unwrap();
    }
}

fn compare(store: &DiskStore, model: &Model) {
    let numbers = |state| {
        let numbers = model.iter().filter(move |(_, is)| **is == state);
        numbers.map(|(number, _)| *number)
    };
    for number in 0..BLOCKS {
        let block = block(number);
        let state = model.get(&number);
        let is_good = state == Some(&State::Good);
        assert_eq!(store.knows(block.cid()).unwrap(), is_good, "{number}");
        match (store.peek(block.cid()), state) {
            (Ok(None), None) | (Err(StoreError::Corrupt(_)), Some(State::Bad)) => {}
            (Ok(Some(found)), Some(State::Good)) => assert_eq!(found, block),
            (found, state) => panic!("block {number} is {state:?} and read as {found:?}"),
        }
    }
    let listed = |list: &dyn Fn(Option<&Cid>) -> Vec<Cid>| {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = list(after.as_ref());
            let Some(last) = page.last() else { return all };
            after = Some(*last);
            all.extend(page);
        }
    };
    let expected = |state| {
        let mut digests: Vec<_> = numbers(state).map(digest).collect();
        digests.sort_unstable();
        digests.iter().map(raw).collect::<Vec<_>>()
    };
    for limit in [1, 4, 100] {
        let good = listed(&|after| store.cids(after, limit).unwrap());
        assert_eq!(good, expected(State::Good), "{limit} at a time");
    }
    let bad = listed(&|after| store.bad(after, 3).unwrap());
    assert_eq!(bad, expected(State::Bad));
    let figures = store.figures().unwrap();
    assert_eq!(figures.blocks, numbers(State::Good).count() as u64);
    assert_eq!(figures.missing, bad.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn store_does_as_its_model(steps in prop::collection::vec(step(), 1..40)) {
        let folder = folder();
        let mut store = open(&folder);
        let mut model = Model::new();
        for step in steps {
            if matches!(step, Step::Reopen) {
                drop(store);
                store = open(&folder);
            }
            take(&step, &folder, &store, &mut model);
            compare(&store, &model);
        }
        drop(store);
        compare(&open(&folder), &model);
    }
}

/// Puts and removals that merge and end laps, of which one write or fsync fails, before it does anything or after it
/// has done it: what was acknowledged is so, at once and after a restart, and the store goes on or has stopped.
#[test]
fn merge_that_fails_at_any_step_loses_nothing_acknowledged() {
    for is_after in [false, true] {
        for at in 0.. {
            let folder = folder();
            let (device, armed) = match is_after {
                false => failing_at(at, io::ErrorKind::Other),
                true => failing_after(at, io::ErrorKind::Other),
            };
            let store = DiskStore::open_on(folder.path(), device).unwrap();
            armed.store(true, Ordering::SeqCst);
            let mut model = Model::new();
            // What it was and what it is to be, of the one that failed.
            let mut unknown: Vec<u8> = Vec::new();
            let mut has_failed = false;
            for turn in 0..12_u8 {
                let numbers: Vec<u8> = (0..5).map(|n| (turn * 7 + n) % BLOCKS).collect();
                let removed = (turn * 11) % BLOCKS;
                let blocks: Vec<_> = numbers.iter().copied().map(block).collect();
                match store.put(&blocks) {
                    Ok(()) => {
                        model.extend(numbers.iter().map(|number| (*number, State::Good)));
                        unknown.retain(|number| !numbers.contains(number));
                    }
                    Err(_) => {
                        has_failed = true;
                        unknown.extend(&numbers);
                    }
                }
                match store.remove(block(removed).cid()) {
                    Ok(_) => {
                        model.remove(&removed);
                        unknown.retain(|number| *number != removed);
                    }
                    Err(_) => {
                        has_failed = true;
                        unknown.push(removed);
                    }
                }
                agree(&store, &model, &unknown, (is_after, at));
            }
            armed.store(false, Ordering::SeqCst);
            drop(store);
            let store = open(&folder);
            agree(&store, &model, &unknown, (is_after, at));
            // It goes on.
            let all: Vec<_> = (0..BLOCKS).map(block).collect();
            store.put(&all).unwrap();
            for _ in 0..2 {
                for number in 0..BLOCKS {
                    assert_eq!(
                        store.peek(block(number).cid()).unwrap(),
                        Some(block(number))
                    );
                }
                store.put(&all).unwrap();
            }
            assert_eq!(store.figures().unwrap().blocks, u64::from(BLOCKS));
            if !has_failed {
                break;
            }
        }
    }
}

fn agree(store: &DiskStore, model: &Model, unknown: &[u8], case: (bool, usize)) {
    for number in 0..BLOCKS {
        let found = store.peek(block(number).cid());
        let is_known = !unknown.contains(&number);
        match found {
            Ok(Some(found)) => {
                assert_eq!(found, block(number), "{case:?}");
                assert!(
                    !is_known || model.contains_key(&number),
                    "{case:?} {number}"
                );
            }
            Ok(None) => assert!(
                !is_known || !model.contains_key(&number),
                "{case:?} {number}"
            ),
            // The row without its file that a failed removal may leave: a put mends it.
            Err(StoreError::Corrupt(_)) => assert!(!is_known, "{case:?} {number}"),
            Err(error) => panic!("{case:?}: {error}"),
        }
    }
}

/// What is acknowledged is found by everybody from then on, also while its place moves from the journal to the table.
#[test]
fn readers_find_whatever_was_acknowledged() {
    let folder = folder();
    let store = open(&folder);
    let (acknowledged, done) = (AtomicU8::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let (store, acknowledged, done) = (&store, &acknowledged, &done);
        let readers = (0..3).map(|_| {
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let there = acknowledged.load(Ordering::SeqCst);
                    for number in (0..there).rev() {
                        assert!(store.peek(block(number).cid()).unwrap().is_some());
                    }
                    let listed = store.cids(None, 1000).unwrap().len();
                    assert!(listed >= usize::from(there), "{listed} of {there}");
                }
            })
        });
        let readers: Vec<_> = readers.collect();
        for number in 0..=254 {
            store.put(from_ref(&block(number))).unwrap();
            acknowledged.store(number + 1, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn journal_stays_short_when_the_same_blocks_come_and_go() {
    let folder = folder();
    let store = open(&folder);
    let mut longest = 0;
    for _ in 0..100 {
        store.put(&[block(1), block(2)]).unwrap();
        store.remove(block(1).cid()).unwrap();
        longest = longest.max(changes(&store));
    }
    assert!((32..100).contains(&longest), "{longest} changes");
    drop(store);
    let store = open(&folder);
    assert!(!store.has(block(1).cid()).unwrap());
    assert!(store.has(block(2).cid()).unwrap());
}

/// How many are in the journal.
fn changes(store: &DiskStore) -> usize {
    let entries = store.index.journal();
    entries.iter().map(|(_, changes)| changes.len() / 33).sum()
}

#[test]
fn journal_is_as_the_formats_say() {
    let folder = folder();
    let store = open(&folder);
    store.put(&[small(1), small(2)]).unwrap();
    store.remove(small(1).cid()).unwrap();
    let entries = store.index.journal();
    let lines = entries.iter().map(|(first, changes)| {
        let hex = changes.iter().map(|byte| format!("{byte:02x}"));
        format!("{first}: {}\n", hex.collect::<String>())
    });
    let example = format!(
        "```text journal of a block store\n{}```",
        lines.collect::<String>()
    );
    assert!(
        FORMATS.contains(&example),
        "docs/formats.md should say\n{example}"
    );
}

const FORMATS: &str = include_str!("../../../../../docs/formats.md");
