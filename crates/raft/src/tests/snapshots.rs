use super::backend::Disk;
use super::cluster::{founded, identity};
use super::store::{batch, entry, founding};
use crate::snapshot::SnapshotFile;
use crate::snapshots::{Snapshots, is_due};
use crate::state_store::StateStore;
use medanchor_anchor::{CertificateError, Digested, StateDigest, testing::ORIGIN};
use medanchor_dag::Hash;
use openraft::storage::RaftStateMachine;
use proptest::prelude::*;
use std::io::{Read, Write};
use std::path::Path;

#[test]
fn snapshots_cost_a_bounded_share_of_what_they_cover() {
    // Leaves in each entry.
    for batch in [0, 1, 7, 500] {
        let (mut tree_size, mut written, mut since) = (0_u64, 0_u64, 0_u64);
        for index in 0..2_000_000_u64 {
            let (before, after) = (tree_size, tree_size + batch);
            tree_size = after;
            since += 1 + batch;
            if is_due(EVERY, index, before, after) {
                assert!(since + 1 + batch >= EVERY.min(before.max(1)) / 2);
                (written, since) = (written + after, 0);
            }
            // No more than twice the state waits, and little while the state is small.
            assert!(
                since <= 2 * before.max(EVERY) + 1 + batch,
                "{batch}: {index}"
            );
            if tree_size > 10_000_000 {
                break;
            }
        }
        assert!(
            written <= 3 * tree_size,
            "{batch}: {written} of {tree_size}"
        );
    }
}

proptest! {
    #[test]
    fn snapshots_are_due_at_the_same_entries_however_they_are_applied(
        entries in 1_u64..40,
        cuts in proptest::collection::btree_set(1_usize..40, 0..10),
        every in 1_u64..8,
    ) {
        let log: Vec<_> = std::iter::once(founding(0))
            .chain((1..entries).map(|index| entry(index, Vec::new())))
            .collect();
        let runs = |cuts: &[usize]| {
            let dir = tempfile::tempdir().unwrap();
            let mut store = open(dir.path(), every, 1);
            let mut made = Vec::new();
            let mut rest = log.clone();
            for &cut in cuts.iter().rev().filter(|&&cut| cut < log.len()) {
                made.push(rest.split_off(cut));
            }
            made.push(rest);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for run in made.into_iter().rev() {
                runtime.block_on(store.apply(run)).unwrap();
                store.make_snapshot().unwrap();
            }
            store.snapshots().certified().map(|it| it.snapshot.said())
        };
        let cuts: Vec<_> = cuts.into_iter().collect();
        prop_assert_eq!(runs(&cuts), runs(&[]));
    }
}

#[tokio::test]
async fn snapshot_waits_until_enough_members_signed_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), 1, 3);
    store.apply([batch(0, founded())]).await.unwrap();
    assert!(!store.make_snapshot().unwrap());
    let said = store.snapshots().to_tell()[0].said();
    let certifiers = store.certifiers().unwrap();

    // It survives a restart, and is never taken for one to install.
    drop(store);
    let store = open(dir.path(), 1, 3);
    assert_eq!(store.applied().borrow().tree_size, 0);
    assert!(store.snapshots().waits() && store.snapshots().certified().is_none());

    let other = Digested {
        digest: Hash::of(b"another state"),
        ..said
    };
    store.snapshots().learn(vec![sign(2, other)], &certifiers);
    assert!(!store.make_snapshot().unwrap());
    store.snapshots().learn(vec![sign(3, said)], &certifiers);
    assert!(store.make_snapshot().unwrap());
    assert!(!store.snapshots().waits());

    // What was signed about another state goes with it, so that nobody installs it.
    let certified = store.snapshots().certified().unwrap();
    let error = certifiers.check(certified.snapshot.certificate());
    assert!(
        matches!(error, Err(CertificateError::Conflict(..))),
        "{error:?}"
    );
    drop(store);
    let store = open(dir.path(), 1, 3);
    let certified = store.snapshots().certified().unwrap();
    assert_eq!(certified.snapshot.said(), said);
    assert_eq!(certifiers.check(certified.snapshot.certificate()), Ok(said));
}

#[tokio::test]
async fn log_is_full_until_a_snapshot_is_certified() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), 10, 3);
    store.apply([batch(0, founded())]).await.unwrap();
    for index in 1..100 {
        assert_eq!(store.log_is_full(), index > 39, "{index}");
        store.apply([entry(index, Vec::new())]).await.unwrap();
        store.make_snapshot().unwrap();
    }
    let known = store.snapshots().to_tell();
    let said = known.last().unwrap().said();
    let certifiers = store.certifiers().unwrap();
    store.snapshots().learn(vec![sign(2, said)], &certifiers);
    assert!(store.make_snapshot().unwrap());
    assert!(!store.log_is_full());
}

#[tokio::test]
async fn nobody_fills_the_memory_with_state_digests() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 10, 3);
    let certifiers = store.certifiers().unwrap();
    let flood = |seed: u64| Digested {
        index: seed / 4,
        term: seed,
        tree_size: 0,
        digest: Hash::of(&seed.to_be_bytes()),
        size: 0,
    };
    let digests = (0..200).map(|seed| sign(2, flood(seed))).collect();
    store.snapshots().learn(digests, &certifiers);
    assert!(store.snapshots().to_tell().len() <= 8);
}

#[tokio::test]
async fn file_with_any_flipped_byte_is_not_a_certified_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), 1, 1);
    store.apply([founding(0)]).await.unwrap();
    assert!(store.make_snapshot().unwrap());
    let bytes = std::fs::read(dir.path().join("snapshot")).unwrap();
    let certifiers = store.certifiers().unwrap();
    let believed = |bytes: &[u8]| {
        let mut file = tempfile::tempfile_in(&dir).unwrap();
        file.write_all(bytes).unwrap();
        SnapshotFile::verify(file)
            .is_ok_and(|(_, file)| certifiers.check(file.certificate()) == Ok(file.said()))
    };
    assert!(believed(&bytes));
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(!believed(&damaged), "byte {at}");
    }
    for length in 0..bytes.len() {
        assert!(!believed(&bytes[..length]), "cut at {length}");
    }
}

#[tokio::test]
async fn content_is_the_same_on_every_replica() {
    let mut contents = Vec::new();
    for node_id in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path().to_owned(), identity(node_id), 1).unwrap();
        let mut store = StateStore::open(Disk::default().database(), snapshots).unwrap();
        store.apply([batch(0, founded())]).await.unwrap();
        store.make_snapshot().unwrap();
        let file = std::fs::File::open(dir.path().join("snapshot-made")).unwrap();
        let (_, file) = SnapshotFile::verify(file).unwrap();
        let mut content = Vec::new();
        file.content().read_to_end(&mut content).unwrap();
        contents.push(content);
    }
    assert!(contents.iter().all(|content| *content == contents[0]));
}

/// The state of the first of `members` organisations; of three, two must sign the same.
fn open(dir: &Path, every: u64, members: usize) -> StateStore {
    let mut identity = identity(1);
    if members == 1 {
        identity.founded.members.truncate(1);
    }
    let snapshots = Snapshots::open(dir.to_owned(), identity, every).unwrap();
    StateStore::open(Disk::default().database(), snapshots).unwrap()
}

fn sign(node_id: u64, said: Digested) -> StateDigest {
    StateDigest::sign(&identity(node_id).key, ORIGIN, said)
}

const EVERY: u64 = 1000;
