use super::backend::{Disk, SyncFailure};
use super::cluster::{identity, network};
use crate::Identity;
use crate::heads::HeadSigner;
use crate::log_store::{LONG_BYTES, LogStore, go_on_after};
use crate::snapshot::SnapshotFile;
use crate::snapshots::Snapshots;
use crate::state_store::StateStore;
use crate::types::{Entry, LogId, NodeId, Proposal, SnapshotMeta, StorageError, TypeConfig, Vote};
use medanchor_anchor::testing::{BEGINNING, MEMBERS, World, key};
use medanchor_anchor::{self as anchor, Batch, Body, Founded, SignedStatement};
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftSnapshotBuilder};
use std::io::{Read, Write};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

#[test]
fn openraft_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

#[test]
fn open_refuses_the_log_of_another_node() {
    let disk = Disk::default();
    let dir = tempfile::tempdir().unwrap();
    let open = |disk: &Disk, node_id| {
        let state = open(&Disk::default(), dir.path());
        LogStore::open(disk.database(), 0, signer(node_id, state))
    };
    drop(open(&disk, 1).unwrap());
    drop(open(&disk, 1).unwrap());
    let error = open(&disk, 2).err().unwrap();
    assert!(matches!(error, crate::StoreError::OtherNode(1)), "{error}");
}

#[tokio::test]
async fn bytes_that_are_not_a_batch_change_nothing() {
    let (_dir, mut store) = founded().await;
    let before = store.applied().borrow().tree_size;
    let responses = store
        .apply([entry(9, b"not a batch".to_vec())])
        .await
        .unwrap();
    assert!(responses[0].0.is_empty());
    let applied = *store.applied().borrow();
    assert_eq!((applied.log_index, applied.tree_size), (Some(9), before));
}

#[tokio::test]
async fn snapshot_with_any_flipped_byte_is_refused() {
    let (dir, mut store) = founded().await;
    let snapshot = store.get_snapshot_builder().await.build_snapshot().await;
    let mut bytes = Vec::new();
    snapshot
        .unwrap()
        .snapshot
        .content()
        .read_to_end(&mut bytes)
        .unwrap();
    let verify = |bytes: &[u8]| {
        let mut file = tempfile::tempfile_in(&dir).unwrap();
        file.write_all(bytes).unwrap();
        SnapshotFile::verify(file)
    };
    verify(&bytes).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(verify(&damaged).is_err(), "byte {at}");
    }
    for length in 0..bytes.len() {
        assert!(verify(&bytes[..length]).is_err(), "cut at {length}");
    }
    bytes.push(0);
    assert!(verify(&bytes).is_err(), "longer");
}

#[tokio::test]
async fn open_completes_an_installation_that_was_cut_off() {
    let (dir, mut store) = founded().await;
    let mut builder = store.get_snapshot_builder().await;
    builder.build_snapshot().await.unwrap();
    // The crash came after the snapshot was put in place and before the state was changed.
    let reopened = open(&Disk::default(), dir.path());
    assert_eq!(*reopened.applied().borrow(), *store.applied().borrow());
}

/// Half of it, or all of it: without its name it is nothing.
#[tokio::test]
async fn snapshot_that_was_being_written_is_removed() {
    let bytes = snapshot_bytes().await;
    for written in [
        &bytes[..0],
        &bytes[..bytes.len() / 2],
        &torn(&bytes, 0),
        &bytes,
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".snapshot-a1b2c3"), written).unwrap();
        let store = open(&Disk::default(), dir.path());
        assert_eq!(store.applied().borrow().tree_size, 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// It was synced before it got its name, so that only a broken disk can show one that is cut or torn.
#[tokio::test]
async fn torn_snapshot_is_never_loaded() {
    let bytes = snapshot_bytes().await;
    let cut = (0..bytes.len()).step_by(61).map(|at| bytes[..at].to_vec());
    let sectors = bytes.len().div_ceil(SECTOR);
    let torn = (0..sectors).map(|sector| torn(&bytes, sector));
    for damaged in cut.chain(torn) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("snapshot"), damaged).unwrap();
        let disk = Disk::default();
        // Either it is not used, or the node does not start.
        if let Ok(store) = try_open(&disk, dir.path()) {
            assert_eq!(store.applied().borrow().tree_size, 0);
        }
        std::fs::remove_file(dir.path().join("snapshot")).unwrap();
        let store = open(&disk.after_power_loss(), dir.path());
        assert_eq!(store.applied().borrow().tree_size, 0);
    }
}

/// The rows of a snapshot come with one transaction: after a crash in it, the next start loads them all.
#[tokio::test]
async fn crash_while_rows_are_loaded_is_made_good_at_the_next_start() {
    for failure in [SyncFailure::Lost, SyncFailure::Persisted] {
        let (_source, mut source) = founded().await;
        let mut builder = source.get_snapshot_builder().await;
        let snapshot = builder.build_snapshot().await.unwrap();
        let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        let mut state = open(&disk, dir.path());
        disk.fail(failure);
        let installed = state.install_snapshot(&snapshot.meta, snapshot.snapshot);
        assert!(installed.await.is_err(), "{failure:?}");
        assert_eq!(state.applied().borrow().tree_size, 0, "{failure:?}");
        let reopened = open(&disk.after_power_loss(), dir.path());
        assert_eq!(
            *reopened.applied().borrow(),
            *source.applied().borrow(),
            "{failure:?}"
        );
    }
}

/// After the rows are loaded the log still begins before them.
#[tokio::test]
async fn log_that_was_not_purged_for_a_snapshot_is_purged_after_the_crash() {
    let bytes = snapshot_bytes().await;
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let log_disk = Disk::default();
    let purged = entry(2, Vec::new()).log_id;
    go_on_after(&log_disk.database(), &purged).unwrap();
    std::fs::write(dir.path().join("snapshot"), &bytes).unwrap();
    drop(open(&disk, dir.path()));

    let state = open(&disk.after_power_loss(), dir.path());
    let applied = state.last_applied().unwrap();
    let log = log_disk.after_power_loss();
    let mut log = LogStore::open(log.database(), 0, signer(1, state)).unwrap();
    let before = log.get_log_state().await.unwrap();
    assert_eq!(before.last_purged_log_id, Some(purged));
    assert_eq!(before.last_log_id, Some(entry(3, Vec::new()).log_id));
    log.purge(applied).await.unwrap();
    let after = log.get_log_state().await.unwrap();
    assert_eq!(after.last_purged_log_id, Some(applied));
    assert_eq!(after.last_log_id, Some(applied));
}

#[tokio::test]
async fn log_is_purged_only_when_the_snapshot_that_covers_it_is_installed() {
    let (_dir, mut source) = founded().await;
    let mut builder = source.get_snapshot_builder().await;
    let snapshot = builder.build_snapshot().await.unwrap();
    let upto = snapshot.meta.last_log_id.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let mut state = open(&Disk::default(), dir.path());
    let mut log = LogStore::open(Disk::default().database(), 0, signer(1, state.clone())).unwrap();
    state.expect(&snapshot.meta);
    let mut reader = log.clone();
    let mut purge = pin!(log.purge(upto));
    assert!(timeout(A_WHILE, &mut purge).await.is_err());
    assert_eq!(
        reader.get_log_state().await.unwrap().last_purged_log_id,
        None
    );

    let installed = state.install_snapshot(&snapshot.meta, snapshot.snapshot);
    installed.await.unwrap();
    purge.await.unwrap();
    let purged = reader.get_log_state().await.unwrap().last_purged_log_id;
    assert_eq!(purged, Some(upto));
}

#[tokio::test]
async fn log_is_never_purged_for_a_snapshot_that_cannot_be_installed() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(&Disk::default(), dir.path());
    let mut log = LogStore::open(Disk::default().database(), 0, signer(1, state.clone())).unwrap();
    let upto = entry(7, Vec::new()).log_id;
    let meta = SnapshotMeta {
        last_log_id: Some(upto),
        ..SnapshotMeta::default()
    };
    state.expect(&meta);
    let nothing = state.begin_receiving_snapshot().await.unwrap();
    assert!(state.install_snapshot(&meta, nothing).await.is_err());
    assert!(log.purge(upto).await.is_err());
    let purged = log.get_log_state().await.unwrap().last_purged_log_id;
    assert_eq!(purged, None);
}

#[tokio::test]
async fn power_loss_leaves_the_last_durable_state() {
    let disk = Disk::default();
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&disk, dir.path());
    store.apply([founding(1)]).await.unwrap();
    store.make_durable().unwrap();
    let durable = *store.applied().borrow();
    store.apply([entry(2, Vec::new())]).await.unwrap();
    let after = disk.after_power_loss();
    let reopened = open(&after, dir.path());
    assert_eq!(*reopened.applied().borrow(), durable);
}

/// A repair reads all of the state.
#[tokio::test]
async fn state_needs_no_repair_after_a_power_loss() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let mut store = open(&disk, dir.path());
    store.apply([founding(1)]).await.unwrap();
    store.make_durable().unwrap();
    store.apply([entry(2, Vec::new())]).await.unwrap();
    let mut builder = redb::Database::builder();
    builder.set_repair_callback(redb::RepairSession::abort);
    let after = disk.after_power_loss();
    assert!(builder.create_with_backend(after).is_ok());
}

#[tokio::test]
async fn long_log_needs_no_repair_after_a_power_loss() {
    for (size_bytes, is_long) in [(0, false), (LONG_BYTES, true)] {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        let state = open(&Disk::default(), dir.path());
        let mut log = LogStore::open(disk.database(), size_bytes, signer(1, state)).unwrap();
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        let mut builder = redb::Database::builder();
        builder.set_repair_callback(redb::RepairSession::abort);
        let opened = builder.create_with_backend(disk.after_power_loss());
        assert_eq!(opened.is_ok(), is_long);
    }
}

/// A state that holds the founding statement, from entry 1.
async fn founded() -> (tempfile::TempDir, StateStore) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&Disk::default(), dir.path());
    store.apply([founding(1)]).await.unwrap();
    assert_eq!(store.applied().borrow().tree_size, 1);
    (dir, store)
}

/// The file of a certified snapshot of a state that holds the founding statement, from entry 9.
async fn snapshot_bytes() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&Disk::default(), dir.path());
    store.apply([founding(9)]).await.unwrap();
    let mut builder = store.get_snapshot_builder().await;
    builder.build_snapshot().await.unwrap();
    std::fs::read(dir.path().join("snapshot")).unwrap()
}

/// A sector of it did not reach the disk.
fn torn(bytes: &[u8], sector: usize) -> Vec<u8> {
    let mut torn = bytes.to_vec();
    let from = sector * SECTOR;
    let until = torn.len().min(from + SECTOR);
    torn[from..until].fill(0);
    torn
}

fn open(disk: &Disk, dir: &Path) -> StateStore {
    try_open(disk, dir).unwrap()
}

/// The state of a member that is alone and makes a snapshot after every entry.
fn try_open(disk: &Disk, dir: &Path) -> Result<StateStore, crate::StoreError> {
    let identity = Identity {
        founded: alone(),
        joined: alone(),
        ..identity(1)
    };
    let snapshots = Snapshots::open(dir.to_owned(), identity, 1)?;
    StateStore::open(disk.database(), snapshots)
}

/// A network of one organisation.
fn alone() -> Founded {
    let mut founded = network();
    founded.members.truncate(1);
    founded.witnesses.clear();
    (founded.quorum, founded.copies) = (1, 1);
    founded
}

/// The entry that founds it.
pub(super) fn founding(index: u64) -> Entry {
    let statement = World::empty().statement(Body::Founded(alone()));
    batch(index, statement.sign(&[&key(MEMBERS[0])]))
}

/// An entry with one statement.
pub(super) fn batch(index: u64, signed: SignedStatement) -> Entry {
    let batch = Batch {
        v: 1,
        proposed_at: BEGINNING,
        entries: vec![anchor::Entry {
            salt: [0; 32],
            signed,
        }],
        holds: Vec::new(),
        lists: Vec::new(),
    };
    entry(index, batch.to_bytes())
}

pub(super) fn entry(index: u64, bytes: Vec<u8>) -> Entry {
    Entry {
        log_id: LogId::new(CommittedLeaderId::new(1, 1), index),
        payload: EntryPayload::Normal(Proposal::new(bytes)),
    }
}

fn signer(node_id: NodeId, state: StateStore) -> HeadSigner {
    HeadSigner {
        node_id,
        identity: identity(node_id),
        state,
    }
}

const A_WHILE: Duration = Duration::from_millis(200);
const SECTOR: usize = 512;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateStore, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateStore), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let state = open(&Disk::default(), dir.path());
        let log = LogStore::open(Disk::default().database(), 0, signer(1, state.clone()));
        let log = log.unwrap();
        Ok((dir, log, state))
    }
}
