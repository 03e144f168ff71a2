use super::backend::{Disk, SyncFailure};
use crate::overlay::Overlay;
use crate::position::Position;
use crate::tables::{ReadTables, WriteTables};
use crate::types::{LogId, StoredMembership};
use futures::FutureExt;
use medanchor_anchor::{MemoryTables, Row, Table, Tables, View};
use openraft::CommittedLeaderId;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Put(Table, u8, u8),
    Remove(Table, u8),
    /// What was written takes effect.
    Publish,
    /// What was written is given up.
    Abandon,
    Flush,
    /// From here on somebody reads this version.
    View,
    Replace(Vec<(Table, u8, u8)>),
    /// Power is lost, and nothing that was not synced is there.
    Crash,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn overlay_is_what_its_model_is(steps in vec(step(), 1..100)) {
        let mut disk = Disk::default();
        let mut overlay = open(&disk);
        // What there would be without a database.
        let (mut newest, mut durable) = (Version::default(), Version::default());
        let mut views: Vec<(ReadTables, Version)> = Vec::new();
        let (mut tables, mut written) = (overlay.begin(), newest.clone());
        for step in steps {
            match step {
                Step::Put(table, at, value) => {
                    tables.put(table, &key(at), &[value]).unwrap();
                    written.tables.put(table, &key(at), &[value]).unwrap();
                    compare(&tables, &written.tables)?;
                }
                Step::Remove(table, at) => {
                    tables.remove(table, &key(at)).unwrap();
                    written.tables.remove(table, &key(at)).unwrap();
                    compare(&tables, &written.tables)?;
                }
                Step::Publish => {
                    written.entry += 1;
                    overlay.publish(tables, position(written.entry)).unwrap();
                    newest = written.clone();
                    tables = overlay.begin();
                }
                Step::Abandon => {
                    (tables, written) = (overlay.begin(), newest.clone());
                }
                Step::Flush => {
                    overlay.flush().unwrap();
                    durable = newest.clone();
                }
                Step::View => views.push((overlay.view(), newest.clone())),
                Step::Replace(rows) => {
                    newest = Version { entry: newest.entry + 1, ..Version::default() };
                    for (table, at, value) in &rows {
                        newest.tables.put(*table, &key(*at), &[*value]).unwrap();
                    }
                    // As in a snapshot: in order, and each once.
                    let rows: BTreeMap<_, _> = rows
                        .into_iter()
                        .map(|(table, at, value)| ((table, key(at).to_vec()), vec![value]))
                        .collect();
                    let mut rows = rows.into_iter().map(|((table, key), value)| (table, (key, value)));
                    overlay.replace(|| Ok(rows.next()), position(newest.entry)).unwrap();
                    durable = newest.clone();
                    (tables, written) = (overlay.begin(), newest.clone());
                }
                Step::Crash => {
                    views.clear();
                    disk = disk.after_power_loss();
                    overlay = open(&disk);
                    newest = durable.clone();
                    (tables, written) = (overlay.begin(), newest.clone());
                }
            }
            views.push((overlay.view(), newest.clone()));
            for (view, version) in &views {
                compare(view, &version.tables)?;
                prop_assert_eq!(entry(view), version.entry);
            }
            views.pop();
        }
    }
}

#[test]
fn reading_and_writing_go_on_while_the_database_is_written() {
    let disk = Disk::default();
    let overlay = open(&disk);
    put(&overlay, 1);
    disk.hold(true);
    std::thread::scope(|scope| {
        let flushed = scope.spawn(|| overlay.flush());
        put(&overlay, 2);
        let before = overlay.view();
        assert_eq!((entry(&before), leaves(&before)), (2, 2));
        assert!(!flushed.is_finished());
        assert_eq!(after_power_loss(&disk), (0, 0));

        disk.hold(false);
        flushed.join().unwrap().unwrap();
        assert_eq!((entry(&before), leaves(&before)), (2, 2));
    });
    // The second came too late, or not, and nothing is between.
    assert!([(1, 1), (2, 2)].contains(&after_power_loss(&disk)));
    overlay.flush().unwrap();
    assert_eq!(after_power_loss(&disk), (2, 2));
}

#[test]
fn flush_that_fails_leaves_the_state_before_it() {
    for failure in [SyncFailure::Lost, SyncFailure::Persisted] {
        let disk = Disk::default();
        let overlay = open(&disk);
        put(&overlay, 1);
        overlay.flush().unwrap();
        put(&overlay, 2);
        disk.fail(failure);
        assert!(overlay.flush().is_err());
        // Nobody knows what is durable, and nothing says that it is.
        assert!(overlay.flush().is_err());
        // A commit has two syncs: where all fail, the second never took place.
        assert_eq!(after_power_loss(&disk), (1, 1), "{failure:?}");
    }
}

#[test]
fn memory_is_bounded_and_a_flush_of_nothing_writes_nothing() {
    let disk = Disk::default();
    let overlay = Overlay::open(disk.database(), 10_000).unwrap();
    assert!(overlay.large().now_or_never().is_none());
    for entry in 1..1000 {
        put(&overlay, entry);
        let large = overlay.large().now_or_never().is_some();
        // About 110 bytes each: what does not fit in twice the limit was written.
        let (durable, _) = after_power_loss(&disk);
        assert!(entry - durable < 200, "{entry}: {durable}");
        assert!(
            !large || entry - durable > 80 || durable == entry,
            "{entry}: {durable}"
        );
    }
    overlay.flush().unwrap();
    let syncs = disk.syncs();
    overlay.flush().unwrap();
    assert_eq!(disk.syncs(), syncs);
}

/// In order. Some are in one shard, others each in its own.
fn key(number: u8) -> [u8; 1] {
    [if number < 3 {
        number
    } else {
        number.saturating_mul(40)
    }]
}

#[derive(Clone, Default)]
struct Version {
    tables: MemoryTables,
    entry: u64,
}

fn compare(view: &impl View, model: &MemoryTables) -> Result<(), TestCaseError> {
    for table in TABLES {
        let all = |view: &dyn View, from: u8, until: Option<u8>, limit| -> Vec<Row> {
            let until = until.map(key);
            let until = until.as_ref().map(<[u8; 1]>::as_slice);
            view.range(table, &key(from), until, limit).unwrap()
        };
        prop_assert_eq!(
            view.range(table, &[], None, usize::MAX).unwrap(),
            model.range(table, &[], None, usize::MAX).unwrap()
        );
        for at in 0..KEYS {
            prop_assert_eq!(
                view.get(table, &key(at)).unwrap(),
                model.get(table, &key(at)).unwrap()
            );
            for (until, limit) in [(None, 2), (Some(3), 9), (Some(at + 2), 1), (Some(0), 9)] {
                prop_assert_eq!(all(view, at, until, limit), all(model, at, until, limit));
            }
        }
    }
    Ok(())
}

fn step() -> impl Strategy<Value = Step> {
    let table = || prop::sample::select(TABLES.to_vec());
    let row = move || (table(), 0..KEYS, any::<u8>());
    prop_oneof![
        8 => row().prop_map(|(table, key, value)| Step::Put(table, key, value)),
        4 => (table(), 0..KEYS).prop_map(|(table, key)| Step::Remove(table, key)),
        6 => Just(Step::Publish),
        1 => Just(Step::Abandon),
        6 => Just(Step::Flush),
        3 => Just(Step::View),
        1 => vec(row(), 0..6).prop_map(Step::Replace),
        1 => Just(Step::Crash),
    ]
}

pub(super) fn open(disk: &Disk) -> Overlay {
    Overlay::open(disk.database(), usize::MAX).unwrap()
}

/// One more leaf, by one more entry.
fn put(overlay: &Overlay, entry: u64) {
    let mut tables: WriteTables = overlay.begin();
    let key = (entry - 1).to_be_bytes();
    tables.put(Table::Leaves, &key, b"leaf").unwrap();
    overlay.publish(tables, position(entry)).unwrap();
}

/// Entry and leaves of the state that is found then.
fn after_power_loss(disk: &Disk) -> (u64, u64) {
    let overlay = open(&disk.after_power_loss());
    let view = overlay.view();
    (entry(&view), leaves(&view))
}

pub(super) fn position(entry: u64) -> Position {
    Position {
        last: (entry > 0).then(|| LogId::new(CommittedLeaderId::new(1, 1), entry)),
        membership: StoredMembership::default(),
    }
}

pub(super) fn entry(view: &ReadTables) -> u64 {
    view.position.last.map_or(0, |last| last.index)
}

fn leaves(view: &ReadTables) -> u64 {
    view.range(Table::Leaves, &[], None, usize::MAX)
        .unwrap()
        .len() as u64
}

/// Of those that are scattered and those that are not.
const TABLES: [Table; 3] = [Table::Meta, Table::Statements, Table::Principals];
const KEYS: u8 = 6;
