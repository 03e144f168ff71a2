use super::backend::{Disk, SyncFailure};
use super::overlay::{entry, open, position};
use crate::filter::{Filter, hash};
use crate::overlay::Overlay;
use crate::tables::{ReadTables, definition};
use fastrand::Rng;
use medanchor_anchor::{Row, Table, Tables, View};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use std::collections::BTreeMap;

/// What there should be.
type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// None: the row is removed.
type Change = (Table, Vec<u8>, Option<Vec<u8>>);

#[test]
fn rows_are_what_was_written_last_however_often_runs_were_merged() {
    for seed in 0..4 {
        let mut rng = Rng::with_seed(seed);
        let mut disk = Disk::default();
        let mut overlay = open(&disk);
        let mut model = Model::new();
        let mut views: Vec<(ReadTables, Model)> = Vec::new();
        for flush in 1..=200 {
            change(&overlay, &mut model, flush, &mut rng);
            overlay.flush().unwrap();
            if flush % 20 == 7 {
                views.push((overlay.view(), model.clone()));
            }
            if flush % 20 == 0 {
                compare(&overlay.view(), &model, &mut rng);
                for (view, model) in &views {
                    compare(view, model, &mut rng);
                }
            }
            if flush % 50 == 0 {
                views.clear();
                disk = if rng.bool() {
                    disk.after_power_loss()
                } else {
                    disk.after_kill()
                };
                overlay = open(&disk);
                compare(&overlay.view(), &model, &mut rng);
            }
        }
        // Two tables of 64 shards, three to four of each length that a run can have.
        let (runs, _) = stored(&disk);
        assert!(runs < 2 * 64 * 12, "{runs}");
    }
}

/// What was removed takes no room for ever.
#[test]
fn nothing_is_left_of_rows_that_were_removed() {
    let disk = Disk::default();
    let overlay = open(&disk);
    let mut changes = Vec::new();
    for number in 0..40_u64 {
        let key = number.to_be_bytes();
        changes.push((key, Some(vec![7; 300])));
        changes.push((key, None));
    }
    // All are in one shard. What hides nothing is not written, and what is left of a merge of everything is nothing.
    for (flush, (key, value)) in (1..).zip(changes) {
        put(&overlay, flush, &[(Table::Statements, key.to_vec(), value)]);
        overlay.flush().unwrap();
    }
    let (runs, pages) = stored(&disk);
    assert!(runs < 12 && pages < 12, "{runs} {pages}");
    assert_eq!(all(&overlay.view(), Table::Statements), []);
}

#[test]
fn rows_of_any_length_are_found() {
    let disk = Disk::default();
    let overlay = open(&disk);
    let mut model = Model::new();
    for (flush, length) in (1..).zip([0, 1, 100, 7_950, 7_999, 8_000, 8_001, 100_000, 3]) {
        let rows: Vec<_> = [0, 1, 255]
            .into_iter()
            .map(|first| {
                let key = [vec![first; 32], vec![1; length % 90]].concat();
                (Table::Records, key, Some(vec![1; length]))
            })
            .collect();
        for (table, key, value) in &rows {
            model.insert((*table, key.clone()), value.clone().unwrap());
        }
        put(&overlay, flush, &rows);
        overlay.flush().unwrap();
    }
    compare(&overlay.view(), &model, &mut Rng::with_seed(1));
}

/// Whenever the power fails, and whatever of it reached the disk: the state is the one before the flush or the one
/// after it.
#[test]
fn power_loss_at_any_write_of_a_flush_that_merges_leaves_one_state_or_the_other() {
    let mut rng = Rng::with_seed(7);
    let (disk, before) = about_to_merge();
    let mut reached = [0, 0];
    for steps in 0.. {
        let disk = disk.after_power_loss();
        let overlay = open(&disk);
        let mut after = before.clone();
        change(&overlay, &mut after, AT + 1, &mut Rng::with_seed(steps));
        disk.lose_power_after(steps);
        let flushed = overlay.flush();
        let remains = [
            disk.after_power_loss(),
            disk.after_kill(),
            disk.after_torn_writes(&mut rng),
            disk.after_torn_writes(&mut rng),
        ];
        for remains in remains {
            let overlay = open(&remains);
            let view = overlay.view();
            let is_after = entry(&view) == AT + 1;
            compare(&view, if is_after { &after } else { &before }, &mut rng);
            reached[usize::from(is_after)] += 1;
            assert!(is_after || flushed.is_err());
            // And it goes on from there.
            let mut model = if is_after {
                after.clone()
            } else {
                before.clone()
            };
            change(&overlay, &mut model, AT + 2, &mut rng);
            overlay.flush().unwrap();
            compare(&overlay.view(), &model, &mut rng);
        }
        if flushed.is_ok() {
            assert!(steps > 20, "{steps}");
            break;
        }
    }
    assert!(reached.iter().all(|times| *times > 0), "{reached:?}");
}

#[test]
fn flush_that_merges_and_fails_leaves_the_state_before_it() {
    for failure in [SyncFailure::Lost, SyncFailure::Persisted] {
        let (disk, before) = about_to_merge();
        let overlay = open(&disk);
        let mut after = before.clone();
        change(&overlay, &mut after, AT + 1, &mut Rng::with_seed(1));
        disk.fail(failure);
        assert!(overlay.flush().is_err());
        // Whoever reads still sees all that was applied.
        compare(&overlay.view(), &after, &mut Rng::with_seed(2));
        let reopened = open(&disk.after_power_loss());
        compare(&reopened.view(), &before, &mut Rng::with_seed(3));
        assert_eq!(entry(&reopened.view()), AT, "{failure:?}");
    }
}

/// A version before this one had no runs.
#[test]
fn state_of_an_earlier_version_is_taken_over() {
    let disk = Disk::default();
    let mut model = Model::new();
    {
        let base = disk.database();
        let txn = base.begin_write().unwrap();
        for table in Table::ALL {
            let mut rows = txn.open_table(definition(table)).unwrap();
            for number in 0..500_u64 {
                let (key, value) = (scatter(number), vec![9; 40]);
                rows.insert(key.as_slice(), value.as_slice()).unwrap();
                model.insert((table, key), value);
            }
        }
        txn.commit().unwrap();
    }
    // The power may fail while it is.
    for steps in [0, 1, 2, 5, 20, 50, 100] {
        let disk = disk.after_power_loss();
        let base = disk.database();
        disk.lose_power_after(steps);
        let _ = Overlay::open(base, usize::MAX);
        let overlay = open(&disk.after_torn_writes(&mut Rng::with_seed(steps)));
        compare(&overlay.view(), &model, &mut Rng::with_seed(steps));
    }
    for _ in 0..2 {
        let overlay = open(&disk);
        compare(&overlay.view(), &model, &mut Rng::with_seed(1));
        drop(overlay);
        let base = disk.database();
        let txn = base.begin_read().unwrap();
        assert!(txn.open_table(definition(Table::Statements)).is_err());
        assert!(txn.open_table(definition(Table::Leaves)).is_ok());
    }
}

#[test]
fn page_is_the_one_in_the_formats() {
    let disk = Disk::default();
    let overlay = open(&disk);
    let row = |key: &str, value: Option<Vec<u8>>| (Table::Requests, key.into(), value);
    put(&overlay, 1, &[row("CD", Some(vec![1]))]);
    overlay.flush().unwrap();
    put(&overlay, 2, &[row("ABC", Some(vec![7])), row("CD", None)]);
    overlay.flush().unwrap();
    drop(overlay);
    let base = disk.database();
    let txn = base.begin_read().unwrap();
    let pages = txn.open_table(PAGES).unwrap();
    let page = pages.get((1, b"ABC".as_slice())).unwrap().unwrap();
    let hex = page.value().iter().map(|byte| format!("{byte:02x}"));
    let example = format!("```hex page of a run\n{}\n```", hex.collect::<String>());
    assert!(FORMATS.contains(&example), "{example}");
}

/// Only a broken disk can show one.
#[test]
fn damaged_page_is_an_error_or_other_rows_and_never_a_panic() {
    let disk = Disk::default();
    let overlay = open(&disk);
    let keys: Vec<_> = (0..9).map(|number| vec![3, number]).collect();
    let rows = keys
        .iter()
        .map(|key| (Table::Requests, key.clone(), Some(vec![5; 8])));
    put(&overlay, 1, &rows.collect::<Vec<_>>());
    overlay.flush().unwrap();
    drop(overlay);
    let base = disk.database();
    let read = base.begin_read().unwrap();
    let stored = read.open_table(PAGES).unwrap();
    let page = stored.first().unwrap().unwrap().1.value().to_vec();
    drop((stored, read, base));
    let mut errors = 0;
    for at in 0..page.len() {
        for damaged in [page[..at].to_vec(), {
            let mut flipped = page.clone();
            flipped[at] ^= 0x81;
            flipped
        }] {
            let disk = disk.after_power_loss();
            {
                let base = disk.database();
                let txn = base.begin_write().unwrap();
                {
                    let mut table = txn.open_table(PAGES).unwrap();
                    table
                        .insert((0, keys[0].as_slice()), damaged.as_slice())
                        .unwrap();
                }
                txn.commit().unwrap();
            }
            let overlay = open(&disk);
            let view = overlay.view();
            for key in &keys {
                errors += u32::from(view.get(Table::Requests, key).is_err());
            }
            let rows = view.range(Table::Requests, &[], None, usize::MAX);
            errors += u32::from(rows.is_err());
        }
    }
    assert!(errors > 100, "{errors}");
}

#[test]
fn filter_lets_all_of_its_keys_through_and_few_others() {
    for keys in [1, 2, 50, 1000, 100_000] {
        let hashes: Vec<u64> = (0..keys).map(|key| hash(&scatter(key))).collect();
        let filter = Filter::of(&hashes);
        let read = Filter::from_bytes(filter.as_bytes()).unwrap();
        assert!(hashes.iter().all(|hash| read.may_have(*hash)));
        let others = (keys..keys + 10_000).map(|key| hash(&scatter(key)));
        let passed = others.filter(|hash| read.may_have(*hash)).count();
        assert!(passed < 250, "{passed} of 10,000 with {keys} keys");
        assert!(filter.as_bytes().len() as u64 <= keys * 10 / 8 + 64);
    }
    for bytes in [0, 1, 63, 65] {
        assert!(Filter::from_bytes(&vec![0; bytes]).is_none());
    }
}

/// It is on disks.
#[test]
fn filter_is_what_it_was() {
    let hashes = [b"".as_slice(), b"key", &[7; 32]].map(hash);
    let expected = [0, 0xdc3f_3a79_bb4b_790c, 0x235a_e2e7_ecac_df94];
    assert_eq!(hashes, expected);
    let set = Filter::of(&hashes);
    let set: Vec<_> = set.as_bytes().iter().zip(0..).collect();
    let set = set.iter().filter(|(byte, _)| **byte != 0);
    let set: Vec<(u8, u8)> = set.map(|(byte, at)| (*at, **byte)).collect();
    assert_eq!(
        set,
        [
            (0, 2),
            (9, 1),
            (13, 1),
            (16, 8),
            (21, 4),
            (24, 128),
            (28, 64),
            (32, 32),
            (37, 130),
            (38, 18),
            (40, 16),
            (52, 2),
            (53, 128),
            (55, 8),
            (57, 16)
        ]
    );
}

/// A state of which many shards are about to be merged, and what is in it.
fn about_to_merge() -> (Disk, Model) {
    let mut rng = Rng::with_seed(3);
    let disk = Disk::default();
    let overlay = open(&disk);
    let mut model = Model::new();
    for flush in 1..=AT {
        change(&overlay, &mut model, flush, &mut rng);
        overlay.flush().unwrap();
    }
    (disk, model)
}

/// Some hundred rows that are new, changed or removed.
fn change(overlay: &Overlay, model: &mut Model, number: u64, rng: &mut Rng) {
    let mut rows = Vec::new();
    for _ in 0..rng.u32(50..200) {
        let table = [Table::Statements, Table::Principals, Table::Leaves][rng.usize(..3)];
        let key = scatter(rng.u64(..2_000));
        let value = (rng.u8(..5) > 0).then(|| vec![rng.u8(..); rng.usize(..200)]);
        rows.push((table, key, value));
    }
    put(overlay, number, &rows);
    for (table, key, value) in rows {
        match value {
            Some(value) => drop(model.insert((table, key), value)),
            None => drop(model.remove(&(table, key))),
        }
    }
}

fn put(overlay: &Overlay, number: u64, rows: &[Change]) {
    let mut tables = overlay.begin();
    for (table, key, value) in rows {
        match value {
            Some(value) => tables.put(*table, key, value).unwrap(),
            None => tables.remove(*table, key).unwrap(),
        }
    }
    overlay.publish(tables, position(number)).unwrap();
}

fn compare(view: &ReadTables, model: &Model, rng: &mut Rng) {
    for table in Table::ALL {
        let model: Vec<Row> = model
            .iter()
            .filter(|((of, _), _)| *of == table)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(all(view, table), model);
        for _ in 0..20 {
            let key = scatter(rng.u64(..3_000));
            let found = model.iter().find(|(known, _)| *known == key);
            let found = found.map(|(_, value)| value.clone());
            assert_eq!(view.get(table, &key).unwrap(), found);
            let (until, limit) = (scatter(rng.u64(..3_000)), rng.usize(..60));
            let until = rng.bool().then_some(until);
            let rows = model.iter().filter(|(known, _)| {
                *known >= key && until.as_ref().is_none_or(|until| known < until)
            });
            let rows: Vec<Row> = rows.take(limit).cloned().collect();
            let found = view.range(table, &key, until.as_deref(), limit);
            assert_eq!(found.unwrap(), rows);
        }
    }
}

fn all(view: &ReadTables, table: Table) -> Vec<Row> {
    view.range(table, &[], None, usize::MAX).unwrap()
}

/// How many runs and how many pages there are.
fn stored(disk: &Disk) -> (u64, u64) {
    let base = disk.after_power_loss().database();
    let txn = base.begin_read().unwrap();
    let runs = TableDefinition::<u64, (&str, u8, u64, &[u8])>::new("runs-1");
    let runs = txn.open_table(runs).unwrap().len().unwrap();
    (runs, txn.open_table(PAGES).unwrap().len().unwrap())
}

/// A key that is in no order.
fn scatter(number: u64) -> Vec<u8> {
    let first = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    [first.as_slice(), &number.to_be_bytes(), &[0; 16]].concat()
}

const PAGES: TableDefinition<'_, (u64, &[u8]), &[u8]> = TableDefinition::new("pages-1");
const FORMATS: &str = include_str!("../../../../docs/formats.md");
/// The last entry of [`about_to_merge`].
const AT: u64 = 11;
