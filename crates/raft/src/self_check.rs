use crate::error::{StoreError, blocking};
use crate::runtime::{Instant, sleep};
use crate::state_store::StateStore;
use medanchor_anchor::{Damage, State};
use std::time::Duration;
use tokio::sync::watch;

/// Computes every leaf, opening and node of this replica's log again, at the start and once a day, a page at a
/// time and without haste, until `closing`. Whatever is read here was written by this replica itself: damage
/// comes from the disk, or from somebody who had a hand on it, and ends the replica.
pub(crate) async fn self_check(
    state: StateStore,
    mut closing: watch::Receiver<bool>,
) -> Result<(), StoreError> {
    tokio::select! {
        biased;
        // An error means that the replica is gone.
        _ = closing.wait_for(|closing| *closing) => Ok(()),
        found = check(state) => found,
    }
}

async fn check(state: StateStore) -> Result<(), StoreError> {
    loop {
        let mut page = 0;
        loop {
            let began = Instant::now();
            if !check_page(&state, page).await? {
                break;
            }
            page += 1;
            sleep(began.elapsed() * PAUSE).await;
        }
        tracing::debug!(pages = page, "this copy of the log is whole");
        sleep(AGAIN).await;
    }
}

/// Says whether there may be another page.
async fn check_page(state: &StateStore, page: u64) -> Result<bool, StoreError> {
    let state = state.clone();
    blocking(move || {
        let view = state.view();
        let size = State::new(&view).tree_size()?;
        match Damage::find_in_page(&view, page, size)? {
            Some(damage) => Err(StoreError::Damaged(damage)),
            None => Ok(page < size / Damage::PAGE),
        }
    })
    .await
}

/// Between two pages, as a multiple of what one takes: 3 % of a core. Ten million leaves take an hour or two.
const PAUSE: u32 = 30;
const AGAIN: Duration = Duration::from_secs(24 * 60 * 60);
