use crate::overlay::Overlay;
use crate::position::Position;
use crate::tables::definition;
use futures::FutureExt;
use medanchor_anchor::{Table, Tables, View};
use redb::{Database, ReadableDatabase};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the rows of a leaf cost a replica's processor, without statements and signatures: in B-trees alone, and as they
/// are kept. `MEDANCHOR_COST_LEAVES` names other sizes.
#[test]
#[ignore = "takes minutes"]
#[expect(clippy::print_stdout, reason = "whoever runs it wants to see it")]
fn rows_cost() {
    let sizes = std::env::var("MEDANCHOR_COST_LEAVES");
    let sizes = sizes.unwrap_or_else(|_| "10000 100000 1000000".to_owned());
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    let mut overlay = open(&runs);
    let (mut leaves, mut longest) = (0, Duration::ZERO);
    for size in sizes
        .split_whitespace()
        .map(|size| size.parse::<u64>().unwrap())
    {
        let growing = measure(leaves..size, |run| {
            longest = longest.max(gather(&overlay, run));
        });
        leaves = size + MEASURED;
        let kept = measure(size..leaves, |run| {
            longest = longest.max(gather(&overlay, run));
        });
        overlay.flush().unwrap();
        drop(overlay);
        let began = Instant::now();
        overlay = open(&runs);
        let opened = began.elapsed();
        println!(
            "{size} leaves: a leaf costs {kept:?}, {growing:?} up to there; the longest flush took {longest:?}, opening {opened:?}"
        );
        if std::env::var_os("MEDANCHOR_COST_TREES").is_some() {
            let path = dir.path().join("trees");
            let trees = database(&path);
            fill(&trees, size);
            let trees = measure(size..leaves, |run| transaction(&trees, run));
            std::fs::remove_file(path).unwrap();
            println!("{size} leaves: a leaf costs {trees:?} in B-trees alone");
        }
    }
}

/// Processor time of this thread for one leaf.
fn measure(leaves: Range<u64>, mut write: impl FnMut(&[u64])) -> Duration {
    let began = processor_time();
    let count = u32::try_from(leaves.clone().count()).unwrap();
    for from in leaves.clone().step_by(GATHERED) {
        let until = leaves.end.min(from + GATHERED as u64);
        write(&(from..until).collect::<Vec<_>>());
    }
    let spent = processor_time() - began;
    spent / count.max(1)
}

fn transaction(base: &Database, gathered: &[u64]) {
    let mut written = std::collections::BTreeMap::new();
    let txn = base.begin_read().unwrap();
    let before = TABLES.map(|table| txn.open_table(definition(table)).unwrap());
    for leaf in gathered {
        for (place, (key, value)) in rows(*leaf).into_iter().enumerate() {
            if key.len() == 32 {
                assert!(before[place].get(key.as_slice()).unwrap().is_none());
            }
            written.insert((place, key), value);
        }
    }
    let mut txn = base.begin_write().unwrap();
    txn.set_quick_repair(true);
    let mut tables = TABLES.map(|table| txn.open_table(definition(table)).unwrap());
    for ((place, key), value) in &written {
        tables[*place]
            .insert(key.as_slice(), value.as_slice())
            .unwrap();
    }
    drop(tables);
    txn.commit().unwrap();
}

/// How long its longest flush took.
fn gather(overlay: &Overlay, gathered: &[u64]) -> Duration {
    let mut longest = Duration::ZERO;
    for run in gathered.chunks(RUN) {
        let mut tables = overlay.begin();
        for leaf in run {
            for (table, (key, value)) in TABLES.into_iter().zip(rows(*leaf)) {
                if key.len() == 32 {
                    assert!(tables.get(table, &key).unwrap().is_none());
                }
                tables.put(table, &key, &value).unwrap();
            }
        }
        overlay.publish(tables, Position::default()).unwrap();
        if overlay.large().now_or_never().is_some() {
            let began = Instant::now();
            overlay.flush().unwrap();
            longest = longest.max(began.elapsed());
        }
    }
    longest
}

fn open(path: &Path) -> Overlay {
    Overlay::open(database(path), 16 * 1024 * 1024).unwrap()
}

fn database(path: &Path) -> Database {
    Database::builder()
        .set_cache_size(128 * 1024 * 1024)
        .create(path)
        .unwrap()
}

/// In the order of their keys, which is quick.
fn fill(base: &Database, leaves: u64) {
    let mut txn = base.begin_write().unwrap();
    txn.set_quick_repair(true);
    for (place, table) in TABLES.into_iter().enumerate() {
        let mut order: Vec<(Vec<u8>, u64)> = (0..leaves)
            .map(|leaf| (rows(leaf)[place].0.clone(), leaf))
            .collect();
        order.sort_unstable();
        let mut table = txn.open_table(definition(table)).unwrap();
        for (key, leaf) in order {
            let value = &rows(leaf)[place].1;
            table.insert(key.as_slice(), value.as_slice()).unwrap();
        }
    }
    txn.commit().unwrap();
}

/// As many, as long and as random as an enrolment's.
fn rows(leaf: u64) -> [(Vec<u8>, Vec<u8>); 5] {
    let (index, random) = (leaf.to_be_bytes().to_vec(), |salt| key(leaf, salt));
    [
        (index.clone(), vec![1; 130]),
        (index.clone(), vec![2; 480]),
        ([&[0], index.as_slice()].concat(), vec![3; 32]),
        (random(1), index),
        (random(2), vec![5; 120]),
    ]
}

/// splitmix64: another key for each leaf, in no order.
fn key(leaf: u64, salt: u64) -> Vec<u8> {
    let mut state = leaf.wrapping_mul(4).wrapping_add(salt);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    };
    (0..4).flat_map(|_| next().to_be_bytes()).collect()
}

fn processor_time() -> Duration {
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

const TABLES: [Table; 5] = [
    Table::Leaves,
    Table::Openings,
    Table::Nodes,
    Table::Statements,
    Table::Principals,
];
const MEASURED: u64 = 60_000;
/// Statements whose rows take about 16 MiB.
const GATHERED: usize = 12_000;
/// Statements in one run of entries.
const RUN: usize = 100;
