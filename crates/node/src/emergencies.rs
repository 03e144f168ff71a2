//! Emergencies in the node's own log, as soon as its replica applies them: people are to see them at once.

use anyhow::Result;
use medanchor_anchor::{LeafIndex, Read, State};
use medanchor_raft::Replica;
use std::{sync::Arc, time::Duration};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

/// Warns of each emergency in which consent is overridden, and at the start of those that nobody has reviewed.
pub(crate) async fn warn_task(replica: Arc<Replica>, stop: CancellationToken) {
    stop.run_until_cancelled_owned(async {
        let mut applied = replica.watch();
        let mut next = None;
        loop {
            applied.borrow_and_update();
            let replica = Arc::clone(&replica);
            let warned = spawn_blocking(move || warn(&replica, next)).await;
            match warned.map_err(anyhow::Error::from).flatten() {
                Ok(after) => next = Some(after),
                Err(error) => {
                    tracing::warn!("emergencies are not looked for: {error:#}");
                    sleep(AGAIN_AFTER).await;
                    continue;
                }
            }
            if applied.changed().await.is_err() {
                return;
            }
        }
    })
    .await;
}

/// Those from leaf `next` on, or all that nobody has reviewed; from which leaf to go on.
fn warn(replica: &Replica, next: Option<LeafIndex>) -> Result<LeafIndex> {
    let view = replica.view()?;
    let state = State::new(view.as_ref());
    let mut first = next.unwrap_or(0);
    loop {
        let page = state.emergencies(first, AT_A_TIME)?;
        let Some(last) = page.last() else {
            return Ok(first);
        };
        first = last.since + 1;
        // The leaf's opening says who and whose data; they are not for this log.
        for entry in page
            .iter()
            .filter(|entry| next.is_some() || entry.review.is_none())
        {
            tracing::warn!(
                leaf_index = entry.since,
                role = entry.broken.role,
                reason = %entry.broken.reason,
                until_unix_ms = entry.until,
                review_due_unix_ms = entry.due,
                "emergency access: consent is overridden"
            );
        }
    }
}

const AT_A_TIME: usize = 256;
const AGAIN_AFTER: Duration = Duration::from_secs(5);
