//! Destroys what an erasure in the log lists of this node, and whatever else it has of it, and says so in the log (I9).

use crate::{
    clock, collector::Collector, epoch_key::EpochKey, gatherer::Gathered, submit::Submitter,
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Appended, Body, BoxError, Destroyed, EpochKeyChanged, EpochKeyEntry, ErasureEntry, Gone,
    LeafIndex, Log, Outcome, Read, State,
};
use medanchor_broker::Custody;
use medanchor_dag::{CustodyId, Did};
use medanchor_raft::Replica;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Looks for erasures that wait for this node.
pub(crate) struct Eraser {
    /// This node.
    pub(crate) node: Did,
    pub(crate) replica: Arc<Replica>,
    pub(crate) submitter: Arc<Submitter>,
    pub(crate) collector: Arc<Collector>,
    pub(crate) epoch_key: EpochKey,
}

/// What is remembered from one look to the next.
#[derive(Default)]
struct Seen {
    /// Whether the state has caught up since the start.
    is_caught_up: bool,
    /// When each erasure was first seen with nothing left in the state, by the collector's generations.
    swept: BTreeMap<CustodyId, u64>,
}

impl Eraser {
    /// Erases until `stop`.
    pub(crate) async fn erase_task(self, stop: CancellationToken) {
        let eraser = Arc::new(self);
        let mut seen = Seen::default();
        let erasing = async {
            let mut pause = LOOK_EVERY;
            loop {
                sleep(pause).await;
                let is_done = eraser.look(&mut seen).await.unwrap_or_else(|error| {
                    tracing::error!("it is not known which erasures wait for this node: {error:#}");
                    false
                });
                // What the log refuses is a leaf each time.
                pause = match is_done {
                    true => LOOK_EVERY,
                    false => LONGEST_PAUSE.min(pause * 2),
                };
            }
        };
        stop.run_until_cancelled(erasing).await;
    }

    /// Whether nothing failed. What does is tried again at the next look, and keeps nothing else from being done.
    async fn look(self: &Arc<Self>, seen: &mut Seen) -> Result<bool> {
        if !seen.is_caught_up {
            // After a start the state may be behind what this node has said before, and a restored key store behind both.
            self.replica.barrier().await?;
            seen.is_caught_up = true;
        }
        let waiting = self.waiting().await?;
        seen.swept.retain(|custody, _| {
            let mut waiting = waiting.iter();
            waiting.any(|entry| entry.erased.custody == *custody)
        });
        let keys = self.destroy_keys(&waiting).await;
        let are_keys_gone = keys.is_ok();
        if let Err(error) = keys {
            tracing::error!("custody keys are erased and not destroyed here yet: {error:#}");
        }
        let mut is_done = are_keys_gone;
        for entry in &waiting {
            let custody = entry.erased.custody;
            let is_key_said = match are_keys_gone && self.is_missing(entry, Gone::Key) {
                true => self.say_key_destroyed(entry).await,
                false => Ok(()),
            };
            let is_data_done = self.destroy_data(entry, are_keys_gone, seen).await;
            for error in [is_key_said, is_data_done]
                .into_iter()
                .filter_map(Result::err)
            {
                tracing::warn!(%custody, "an erasure waits for this node: {error:#}");
                is_done = false;
            }
        }
        Ok(is_done)
    }

    /// The erasures that list something of this node which is not destroyed yet.
    async fn waiting(self: &Arc<Self>) -> Result<Vec<ErasureEntry>> {
        let eraser = Arc::clone(self);
        let reading = spawn_blocking(move || {
            let view = eraser.replica.view()?;
            let state = State::new(view.as_ref());
            let (mut waiting, mut after) = (Vec::new(), None);
            loop {
                let page = state.erasures_waiting_for(&eraser.node, after.as_ref(), PAGE)?;
                let Some(last) = page.last() else {
                    return anyhow::Ok(waiting);
                };
                after = Some(last.erased.custody);
                waiting.extend(page);
            }
        });
        reading.await?
    }

    /// Destroys the custody keys, listed or not, with the epoch key that they were kept under: one for however many. Every
    /// erasure lists the data of every member's node, so each sees to it that its epoch key is younger than any erasure. So
    /// a copy of an erased key that was sealed to it, wherever that is, opens no more.
    async fn destroy_keys(self: &Arc<Self>, waiting: &[ErasureEntry]) -> Result<()> {
        let newest = waiting.iter().map(|entry| entry.since).max().unwrap_or(0);
        // A change that began before the erasure is brought to its end first.
        for _ in 0..2 {
            if self.is_younger_than(newest).await? {
                return Ok(());
            }
            self.next_epoch_key(newest).await?;
        }
        anyhow::ensure!(
            self.is_younger_than(newest).await?,
            "the epoch key is older than an erasure, or not the one that the log names"
        );
        Ok(())
    }

    /// Whether the epoch key is the one that the log names, if it names any, and came after this erasure.
    async fn is_younger_than(self: &Arc<Self>, erasure: LeafIndex) -> Result<bool> {
        let eraser = Arc::clone(self);
        let looking = spawn_blocking(move || {
            let said = eraser.said_epoch_key()?;
            let follows = eraser.epoch_key.custody.follows()?;
            let is_older = said.as_ref().is_some_and(|said| said.since < erasure);
            let said = said.map(|said| said.key.into_array());
            anyhow::Ok(follows >= erasure && !is_older && !eraser.epoch_key.is_changing(said)?)
        });
        looking.await?
    }

    /// Another epoch key takes the place of this one, and everything erased is destroyed.
    async fn next_epoch_key(self: &Arc<Self>, follows: LeafIndex) -> Result<()> {
        let eraser = Arc::clone(self);
        let next = spawn_blocking(move || eraser.epoch_key.next()).await??;
        #[cfg(medanchor_fault)]
        medanchor_raft::fault_step("epoch-key-made");
        if !self.epoch_key.is_in_force(&next) {
            self.say_epoch_key(&next).await?;
        }
        let eraser = Arc::clone(self);
        let replacing = spawn_blocking(move || {
            let is_erased = is_erased(&eraser.replica);
            eraser.epoch_key.replace(&next, follows, is_erased)
        });
        let replaced = replacing.await?;
        replaced.context("go over to another epoch key")
    }

    /// Has the log name `next`, if it has any epoch key of this node. From then on this node knows every erasure that lists
    /// the one before.
    async fn say_epoch_key(&self, next: &Zeroizing<[u8; 32]>) -> Result<()> {
        self.replica.barrier().await?;
        let to = Custody::store_key_of(next.clone());
        let Some(said) = self.said_epoch_key()?.filter(|said| *said.key != to) else {
            return Ok(());
        };
        let changed = EpochKeyChanged {
            holder: self.node,
            from: said.key,
            to: to.into(),
        };
        let appended = self.append(Body::EpochKey(changed)).await?;
        if appended.leaf.outcome != Outcome::Ok {
            // It comes from a backup, and was this node's before.
            self.epoch_key.discard(next)?;
        }
        require_ok(&appended)?;
        Ok(self.replica.barrier().await?)
    }

    fn said_epoch_key(&self) -> Result<Option<EpochKeyEntry>> {
        let view = self.replica.view()?;
        Ok(State::new(view.as_ref()).epoch_key(&self.node)?)
    }

    /// Has the state forget it, and the collector free what nothing needs any more.
    /// That nothing is left is said only when no key is.
    async fn destroy_data(
        &self,
        entry: &ErasureEntry,
        are_keys_gone: bool,
        seen: &mut Seen,
    ) -> Result<()> {
        if !entry.is_swept {
            return self.sweep(entry).await;
        }
        let since = self.collector.generations();
        let since = *seen.swept.entry(entry.erased.custody).or_insert(since);
        if !are_keys_gone || !self.is_missing(entry, Gone::Data) {
            return Ok(());
        }
        if self.collector.is_collected_since(since) {
            return self.say_destroyed(entry, Gone::Data).await;
        }
        // Where nobody says anything log time stands. One batch is enough, for all that wait.
        if self.is_log_time_awaited()? {
            self.say_again(entry).await?;
        }
        Ok(())
    }

    /// Whether the collector waits for log time to pass a point that is past.
    fn is_log_time_awaited(&self) -> Result<bool> {
        let promised = self.collector.promised();
        let is_past = promised.saturating_add(CLOCKS_DIFFER_MS) < clock::unix_ms();
        Ok(is_past && self.submitter.holders.log_time()? <= promised)
    }

    fn is_missing(&self, entry: &ErasureEntry, gone: Gone) -> bool {
        let mut missing = entry.missing();
        missing.any(|missing| missing == (self.node, gone))
    }

    /// Says an erasure again until nothing of it is left in the state: each time some more of it leaves that, on every node.
    async fn sweep(&self, entry: &ErasureEntry) -> Result<()> {
        for _ in 0..SWEEPS {
            let now = {
                let view = self.replica.view()?;
                State::new(view.as_ref()).erasure(&entry.erased.custody)?
            };
            if now.is_none_or(|now| now.is_swept) {
                break;
            }
            self.say_again(entry).await?;
        }
        Ok(())
    }

    /// Says an erasure again: a batch without a leaf.
    async fn say_again(&self, entry: &ErasureEntry) -> Result<()> {
        let opening = {
            let view = self.replica.view()?;
            State::new(view.as_ref()).opening(entry.since)?
        };
        let opening = opening.context("the erasure's own opening is gone")?;
        let again = Gathered::AsItIs(opening.0.signed.clone());
        self.submitter.gatherer.append(again).await?;
        Ok(())
    }

    async fn say_key_destroyed(&self, entry: &ErasureEntry) -> Result<()> {
        #[cfg(medanchor_fault)]
        medanchor_raft::fault_step("key-destroyed");
        self.say_destroyed(entry, Gone::Key).await
    }

    async fn say_destroyed(&self, entry: &ErasureEntry, gone: Gone) -> Result<()> {
        let custody = entry.erased.custody;
        let destroyed = Destroyed {
            by: self.node,
            custody,
            erasure: entry.since,
            gone,
        };
        require_ok(&self.append(Body::Destroyed(destroyed)).await?)?;
        tracing::info!(%custody, erasure = entry.since, %gone, "destroyed, and said so in the log");
        Ok(())
    }

    async fn append(&self, body: Body) -> Result<Appended> {
        let now = self.submitter.holders.log_time()?.max(clock::unix_ms());
        let until = now.saturating_add(Log::MAX_VALIDITY_MS / 2);
        self.submitter.say(body, until).await
    }
}

/// Whether the log has an erasure of a custody key, as far as this node has applied it at the moment when it is asked.
pub(crate) fn is_erased(replica: &Replica) -> impl Fn(&CustodyId) -> Result<bool, BoxError> {
    move |custody| {
        let view = replica.view()?;
        Ok(State::new(view.as_ref()).erasure(custody)?.is_some())
    }
}

fn require_ok(appended: &Appended) -> Result<()> {
    let outcome = appended.leaf.outcome;
    anyhow::ensure!(
        outcome == Outcome::Ok,
        "the log has refused it with leaf {}: {outcome}",
        appended.index
    );
    Ok(())
}

/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long it waits at most where something failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// How far the leader's clock may be behind this node's, in ms.
const CLOCKS_DIFFER_MS: u64 = 10_000;
/// Erasures that are read together.
const PAGE: usize = 256;
/// How often one is said again before it is looked what else there is.
const SWEEPS: usize = 64;
