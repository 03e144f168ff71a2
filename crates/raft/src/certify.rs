use crate::config::Clock;
use crate::error::{StoreError, blocking};
use crate::peers::Peers;
use crate::runtime::{Instant, sleep, timeout};
use crate::state_store::StateStore;
use crate::types::{NodeId, Proposal, Raft};
use medanchor_anchor::{Batch, StateDigest};
use openraft::ServerState;
use std::time::Duration;
use tokio::sync::watch;

/// Makes snapshots where they are due, has them certified, and lets the log be purged for those that are,
/// until `closing` turns true. A leader whose log is full has everybody snapshot again, so often.
pub(crate) async fn certify(
    state: StateStore,
    raft: Raft,
    peers: Peers,
    (clock, again): (Clock, Duration),
    mut closing: watch::Receiver<bool>,
) -> Result<(), StoreError> {
    let snapshots = state.snapshots();
    let (mut told, mut ask_again) = (None, false);
    let mut looked = Instant::now();
    loop {
        let store = state.clone();
        if blocking(move || store.make_snapshot()).await? {
            // An error means that Raft has ended; then this is about to.
            drop(raft.trigger().snapshot().await);
        }
        let signed = snapshots.signed();
        if told != signed || ask_again {
            told = signed;
            let known: Vec<_> = snapshots
                .to_tell()
                .iter()
                .map(StateDigest::to_bytes)
                .collect();
            let answers = peers.exchange_digests(&others(&raft), &known).await;
            learn(&state, &answers)?;
        }
        ask_again = false;
        let mut stuck = false;
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return Ok(()),
            () = sleep(again.saturating_sub(looked.elapsed())) => {
                looked = Instant::now();
                stuck = is_stuck(&state, &raft);
            }
            () = snapshots.changed() => (),
            () = sleep(ASK_AGAIN), if snapshots.waits() => ask_again = true,
        }
        if stuck {
            snapshot_again(&raft, clock()).await;
        }
    }
}

/// Whether this node leads, and its log is full.
fn is_stuck(state: &StateStore, raft: &Raft) -> bool {
    let metrics = raft.metrics();
    let leads = metrics.borrow().state == ServerState::Leader;
    leads && state.log_is_full()
}

/// Writes an empty batch, after which everybody makes a snapshot. Those that are waited for may never be
/// certified: who starts again before such a snapshot is written has no state to write it of any more, and while
/// the log is full, no other one would become due.
async fn snapshot_again(raft: &Raft, proposed_at: u64) {
    let empty = Batch {
        v: 1,
        proposed_at,
        entries: Vec::new(),
        holds: Vec::new(),
        lists: Vec::new(),
    };
    tracing::info!("the log is full: all nodes are asked for a snapshot of its end");
    let written = raft.client_write(Proposal::new(empty.to_bytes()));
    match timeout(WRITTEN_WITHIN, written).await {
        Ok(Ok(_)) => (),
        Ok(Err(error)) => tracing::warn!(%error, "no snapshot of a full log"),
        Err(_) => tracing::warn!("no snapshot of a full log: no quorum answers"),
    }
}

/// All nodes that Raft knows but this one.
fn others(raft: &Raft) -> Vec<NodeId> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    let nodes = metrics.membership_config.membership().nodes();
    nodes
        .map(|(node_id, ())| *node_id)
        .filter(|node_id| *node_id != metrics.id)
        .collect()
}

/// Takes what another member knows. Whatever is no state digest is left out.
pub(crate) fn learn(state: &StateStore, digests: &[Vec<u8>]) -> Result<(), StoreError> {
    let digests = digests.iter().map(|bytes| StateDigest::from_bytes(bytes));
    let digests = digests.filter_map(Result::ok).collect();
    state.snapshots().learn(digests, &state.certifiers()?);
    Ok(())
}

/// The most state digests in one message.
pub(crate) const MAX_DIGESTS: usize = 1024;
/// How long to wait before others are asked again whether they signed the same.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// How long an empty batch may take.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
