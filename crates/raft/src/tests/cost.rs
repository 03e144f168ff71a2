use crate::overlay::Overlay;
use crate::position::Position;
use crate::tables::definition;
use medanchor_anchor::{Table, Tables, View};
use redb::{Database, Durability, ReadableTable, WriteTransaction};
use std::time::Duration;

/// What the rows of a leaf cost a replica's processor, without statements and signatures: in a transaction for each
/// run of entries, of which one in 64 is durable, and gathered in memory. `MEDANCHOR_COST_LEAVES` names other sizes.
#[test]
#[ignore = "takes minutes"]
#[expect(clippy::print_stdout, reason = "whoever runs it wants to see it")]
fn rows_cost() {
    let sizes = std::env::var("MEDANCHOR_COST_LEAVES");
    let sizes = sizes.unwrap_or_else(|_| "10000 100000 1000000".to_owned());
    for leaves in sizes
        .split_whitespace()
        .map(|size| size.parse::<u64>().unwrap())
    {
        let dir = tempfile::tempdir().unwrap();
        let base = Database::builder()
            .set_cache_size(128 * 1024 * 1024)
            .create(dir.path().join("state.redb"))
            .unwrap();
        fill(&base, leaves);
        let transactions = measure(leaves, |run, runs| transaction(&base, run, runs));
        let overlay = Overlay::open(base, 16 * 1024 * 1024).unwrap();
        let gathered = measure(leaves + MEASURED, |run, runs| gather(&overlay, run, runs));
        let ratio = transactions.as_secs_f64() / gathered.as_secs_f64();
        println!(
            "{leaves} leaves: a leaf costs {transactions:?} in transactions, {gathered:?} gathered: {ratio:.1} times"
        );
    }
}

/// Processor time of this thread for one leaf.
fn measure(from: u64, mut write: impl FnMut(&[u64], u64)) -> Duration {
    let began = processor_time();
    let leaves: Vec<u64> = (from..from + MEASURED).collect();
    for (number, run) in (0..).zip(leaves.chunks(RUN)) {
        write(run, number);
    }
    let spent = processor_time() - began;
    spent / u32::try_from(MEASURED).unwrap()
}

fn transaction(base: &Database, run: &[u64], number: u64) {
    let mut txn = base.begin_write().unwrap();
    txn.set_quick_repair(true);
    if number % 64 != 63 {
        txn.set_durability(Durability::None).unwrap();
    }
    let mut tables = TABLES.map(|table| txn.open_table(definition(table)).unwrap());
    for leaf in run {
        for (table, (key, value)) in tables.iter_mut().zip(rows(*leaf)) {
            if key.len() == 32 {
                assert!(table.get(key.as_slice()).unwrap().is_none());
            }
            table.insert(key.as_slice(), value.as_slice()).unwrap();
        }
    }
    drop(tables);
    txn.commit().unwrap();
}

fn gather(overlay: &Overlay, run: &[u64], number: u64) {
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
    if (number + 1) * RUN as u64 >= MEASURED {
        overlay.flush().unwrap();
    }
}

/// In the order of their keys, which is quick.
fn fill(base: &Database, leaves: u64) {
    let txn: WriteTransaction = base.begin_write().unwrap();
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
/// Statements in one run of entries.
const RUN: usize = 100;
