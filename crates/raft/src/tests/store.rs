use super::backend::Disk;
use crate::log_store::LogStore;
use crate::snapshot::SnapshotFile;
use crate::state_store::StateStore;
use crate::types::{Entry, LogId, Proposal, StorageError, TypeConfig};
use medanchor_anchor::testing::World;
use openraft::storage::RaftStateMachine;
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftSnapshotBuilder};
use std::io::{Read, Write};

#[test]
fn openraft_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

#[test]
fn open_refuses_the_log_of_another_node() {
    let disk = Disk::default();
    let dir = tempfile::tempdir().unwrap();
    let open = |disk: &Disk, node_id| {
        let state = StateStore::open(Disk::default().database(), dir.path().to_owned()).unwrap();
        LogStore::open(disk.database(), node_id, state)
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
        .reader()
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
    let reopened = StateStore::open(Disk::default().database(), dir.path().to_owned()).unwrap();
    assert_eq!(*reopened.applied().borrow(), *store.applied().borrow());
}

#[tokio::test]
async fn power_loss_leaves_the_last_durable_state() {
    let disk = Disk::default();
    let dir = tempfile::tempdir().unwrap();
    let mut store = StateStore::open(disk.database(), dir.path().to_owned()).unwrap();
    let mut world = World::new();
    store.apply([batch(1, &mut world)]).await.unwrap();
    store.make_durable().unwrap();
    let durable = *store.applied().borrow();
    store.apply([entry(2, Vec::new())]).await.unwrap();
    let after = disk.after_power_loss();
    let reopened = StateStore::open(after.database(), dir.path().to_owned()).unwrap();
    assert_eq!(*reopened.applied().borrow(), durable);
}

/// A state that holds the founding statement, from entry 1.
async fn founded() -> (tempfile::TempDir, StateStore) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = StateStore::open(Disk::default().database(), dir.path().to_owned()).unwrap();
    store.apply([batch(1, &mut World::new())]).await.unwrap();
    assert_eq!(store.applied().borrow().tree_size, 1);
    (dir, store)
}

fn batch(index: u64, world: &mut World) -> Entry {
    entry(index, world.batches.pop().unwrap().to_bytes())
}

fn entry(index: u64, bytes: Vec<u8>) -> Entry {
    Entry {
        log_id: LogId::new(CommittedLeaderId::new(1, 1), index),
        payload: EntryPayload::Normal(Proposal(bytes.into())),
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateStore, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateStore), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let state = StateStore::open(Disk::default().database(), dir.path().to_owned()).unwrap();
        let log = LogStore::open(Disk::default().database(), 1, state.clone()).unwrap();
        Ok((dir, log, state))
    }
}
