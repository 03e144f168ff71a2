use crate::error::{StoreError, blocking};
use crate::peers::Peers;
use crate::state_store::StateStore;
use crate::types::{NodeId, Raft};
use medanchor_anchor::StateDigest;
use std::time::Duration;
use tokio::sync::watch;

/// Makes snapshots where they are due, has them certified, and lets the log be purged for those that are,
/// until `closing` turns true.
pub(crate) async fn certify(
    state: StateStore,
    raft: Raft,
    peers: Peers,
    mut closing: watch::Receiver<bool>,
) -> Result<(), StoreError> {
    let snapshots = state.snapshots();
    let (mut told, mut ask_again) = (None, false);
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
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return Ok(()),
            () = snapshots.changed() => (),
            () = tokio::time::sleep(ASK_AGAIN), if snapshots.waits() => ask_again = true,
        }
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
