use super::backend::Disk;
use super::cluster::{identity, network};
use crate::Identity;
use crate::heads::HeadSigner;
use crate::log_store::{LONG_BYTES, LogStore};
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

/// The state of a member that is alone and makes a snapshot after every entry.
fn open(disk: &Disk, dir: &Path) -> StateStore {
    let identity = Identity {
        founded: alone(),
        joined: alone(),
        ..identity(1)
    };
    let snapshots = Snapshots::open(dir.to_owned(), identity, 1).unwrap();
    StateStore::open(disk.database(), snapshots).unwrap()
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
