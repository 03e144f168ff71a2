//! Destroys what an erasure in the log lists of this node, and says so in the log (I9).

use crate::{
    clock,
    collector::Collector,
    gatherer::Gathered,
    keys::{self, KeyName},
    passphrase,
    submit::Submitter,
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Body, Destroyed, EpochKeyChanged, ErasureEntry, Gone, Log, Nonce, Outcome, Read, State,
    Statement,
};
use medanchor_broker::Custody;
use medanchor_dag::{CustodyId, SigningKey};
use medanchor_raft::Replica;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

/// Looks for erasures that wait for this node.
pub(crate) struct Eraser {
    pub(crate) origin: String,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) submitter: Arc<Submitter>,
    pub(crate) custody: Arc<Custody>,
    pub(crate) collector: Arc<Collector>,
    /// The folder with the node's keys.
    pub(crate) keys: PathBuf,
    /// The file with the passphrase that they are under.
    pub(crate) passphrase: Option<PathBuf>,
}

impl Eraser {
    /// Erases until `stop`.
    pub(crate) async fn erase_task(self, stop: CancellationToken) {
        let eraser = Arc::new(self);
        // When each erasure was first seen with nothing left in the state, by the collector's generations.
        let mut swept = BTreeMap::new();
        let erasing = async {
            loop {
                sleep(LOOK_EVERY).await;
                if let Err(error) = eraser.look(&mut swept).await {
                    tracing::error!(
                        "an erasure waits for this node, and is tried again: {error:#}"
                    );
                }
            }
        };
        stop.run_until_cancelled(erasing).await;
    }

    async fn look(self: &Arc<Self>, swept: &mut BTreeMap<CustodyId, u64>) -> Result<()> {
        self.say_lost_epoch_key().await?;
        let waiting = self.waiting().await?;
        swept.retain(|custody, _| {
            let mut waiting = waiting.iter();
            waiting.any(|entry| entry.erased.custody == *custody)
        });
        if let Some(unswept) = waiting.iter().find(|entry| !entry.is_swept) {
            self.sweep(unswept).await?;
        }
        self.destroy_keys(&waiting).await?;
        for entry in waiting.iter().filter(|entry| entry.is_swept) {
            let since = self.collector.generations();
            let since = *swept.entry(entry.erased.custody).or_insert(since);
            let is_data_missing = self.is_missing(entry, Gone::Data);
            if !is_data_missing {
                continue;
            }
            if self.collector.is_collected_since(since) {
                self.say_destroyed(entry, Gone::Data).await?;
            } else if self.is_log_time_behind()? {
                // Blocks are collected once log time has passed what was promised, and where nobody says anything it stands.
                self.sweep(entry).await?;
            }
        }
        Ok(())
    }

    /// Has the log know the epoch key that is in force here, where it has another one of this node: that is lost, and so are
    /// the custody keys which were under it.
    async fn say_lost_epoch_key(&self) -> Result<()> {
        let said = {
            let view = self.replica.view()?;
            State::new(view.as_ref()).epoch_key(&self.key.did())?
        };
        let now = self.custody.store_key();
        match said {
            Some(said)
                if *said.key != now && !keys::exists(&self.keys, KeyName::NextCustodyStore)? =>
            {
                self.say_epoch_key(said.key.into_array(), now).await
            }
            _ => Ok(()),
        }
    }

    async fn say_epoch_key(&self, from: [u8; 32], to: [u8; 32]) -> Result<()> {
        let changed = EpochKeyChanged {
            holder: self.key.did(),
            from: from.into(),
            to: to.into(),
        };
        self.say(Body::EpochKey(changed)).await
    }

    /// The erasures that list something of this node which is not destroyed yet.
    async fn waiting(self: &Arc<Self>) -> Result<Vec<ErasureEntry>> {
        let eraser = Arc::clone(self);
        let reading = spawn_blocking(move || {
            let view = eraser.replica.view()?;
            let state = State::new(view.as_ref());
            let (mut waiting, mut after) = (Vec::new(), None);
            loop {
                let page = state.erasures(after.as_ref(), PAGE)?;
                let Some(last) = page.last() else {
                    return anyhow::Ok(waiting);
                };
                after = Some(last.erased.custody);
                let is_for_it = |entry: &ErasureEntry| {
                    let mut missing = entry.missing();
                    missing.any(|(who, _)| who == eraser.key.did())
                };
                waiting.extend(page.into_iter().filter(is_for_it));
            }
        });
        reading.await?
    }

    fn is_log_time_behind(&self) -> Result<bool> {
        let view = self.replica.view()?;
        let log_time = State::new(view.as_ref()).log_time()?;
        Ok(log_time.saturating_add(BEHIND_MS) < clock::unix_ms())
    }

    fn is_missing(&self, entry: &ErasureEntry, gone: Gone) -> bool {
        let mut missing = entry.missing();
        missing.any(|missing| missing == (self.key.did(), gone))
    }

    /// Says an erasure again: each time some more of it leaves the state, on every node, and log time goes on.
    async fn sweep(&self, entry: &ErasureEntry) -> Result<()> {
        let opening = {
            let view = self.replica.view()?;
            State::new(view.as_ref()).opening(entry.since)?
        };
        let opening = opening.context("the erasure's own opening is gone")?;
        for _ in 0..SWEEPS {
            let again = Gathered::AsItIs(opening.0.signed.clone());
            self.submitter.gatherer.append(again).await?;
            let view = self.replica.view()?;
            let now = State::new(view.as_ref()).erasure(&entry.erased.custody)?;
            if now.is_none_or(|now| now.is_swept) {
                break;
            }
        }
        Ok(())
    }

    /// Destroys the custody keys, then the epoch key that they were kept under: one for however many.
    async fn destroy_keys(self: &Arc<Self>, waiting: &[ErasureEntry]) -> Result<()> {
        let is_key_missing = |entry: &&ErasureEntry| self.is_missing(entry, Gone::Key);
        let listed: Vec<&ErasureEntry> = waiting.iter().filter(is_key_missing).collect();
        if listed.is_empty() {
            return Ok(());
        }
        let custodies: Vec<CustodyId> = listed.iter().map(|entry| entry.erased.custody).collect();
        let custody = Arc::clone(&self.custody);
        let destroying = spawn_blocking(move || {
            let mut custodies = custodies.into_iter();
            custodies.try_for_each(|id| custody.destroy(id).map(drop))
        });
        destroying.await?.context("destroy custody keys")?;
        let now = self.custody.store_key();
        let is_under_it = |entry: &&ErasureEntry| {
            let mut holders = entry.erased.holders.iter();
            holders.any(|holder| holder.who == self.key.did() && *holder.epoch_key == now)
        };
        if listed.iter().any(is_under_it) {
            self.next_epoch()
                .await
                .context("go over to another epoch key")?;
        }
        for entry in listed {
            self.say_destroyed(entry, Gone::Key).await?;
        }
        Ok(())
    }

    /// Another epoch key takes the place of this one, which is destroyed. It is on disk before the log names it, and the
    /// log names it before it is used; after a crash the same again goes on.
    async fn next_epoch(self: &Arc<Self>) -> Result<()> {
        let eraser = Arc::clone(self);
        let next = spawn_blocking(move || eraser.next_epoch_key()).await??;
        let to = Custody::store_key_of(next.clone());
        let said = {
            let view = self.replica.view()?;
            State::new(view.as_ref()).epoch_key(&self.key.did())?
        };
        let said = said.context("the log has no epoch key of this node")?;
        if *said.key != to {
            self.say_epoch_key(said.key.into_array(), to).await?;
        }
        let eraser = Arc::clone(self);
        let resealing = spawn_blocking(move || {
            #[cfg(medanchor_fault)]
            medanchor_raft::fault_step("epoch-key-said");
            // Commit point: from here on the store opens with the next one alone.
            eraser.custody.reseal(next.clone())?;
            #[cfg(medanchor_fault)]
            medanchor_raft::fault_step("custody-resealed");
            let passphrase = eraser.passphrase()?;
            keys::replace_epoch_key(
                &eraser.keys,
                &next,
                passphrase::protection(passphrase.as_ref()),
            )
        });
        resealing.await?
    }

    /// The one that was made before a crash, or a new one.
    fn next_epoch_key(&self) -> Result<zeroize::Zeroizing<[u8; 32]>> {
        let passphrase = self.passphrase()?;
        if keys::exists(&self.keys, KeyName::NextCustodyStore)? {
            return keys::open_under(&self.keys, KeyName::NextCustodyStore, passphrase.as_ref());
        }
        let protection = passphrase::protection(passphrase.as_ref());
        keys::create_under(&self.keys, KeyName::NextCustodyStore, protection)
    }

    fn passphrase(&self) -> Result<Option<medanchor_secrets::Passphrase>> {
        self.passphrase.as_deref().map(passphrase::read).transpose()
    }

    async fn say_destroyed(&self, entry: &ErasureEntry, gone: Gone) -> Result<()> {
        let custody = entry.erased.custody;
        let destroyed = Destroyed {
            by: self.key.did(),
            custody,
            erasure: entry.since,
            gone,
        };
        self.say(Body::Destroyed(destroyed)).await?;
        tracing::info!(%custody, erasure = entry.since, %gone, "destroyed, and said so in the log");
        Ok(())
    }

    async fn say(&self, body: Body) -> Result<()> {
        let mut nonce = Nonce::new([0; 16]);
        getrandom::fill(nonce.as_mut_slice()).context("draw a nonce")?;
        let now = {
            let view = self.replica.view()?;
            State::new(view.as_ref()).log_time()?.max(clock::unix_ms())
        };
        let until = now.saturating_add(Log::MAX_VALIDITY_MS / 2);
        let statement = Statement::new(&self.origin, body, nonce.into_array(), until);
        let signed = statement.sign(&[&self.key]);
        let appended = self.submitter.gatherer.append(Gathered::AsItIs(signed));
        let appended = appended.await?;
        let outcome = appended.leaf.outcome;
        anyhow::ensure!(
            outcome == Outcome::Ok,
            "the log has refused it with leaf {}: {outcome}",
            appended.index
        );
        Ok(())
    }
}

/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How far log time may be behind this node's clock while an erasure waits for it, in ms.
const BEHIND_MS: u64 = 10_000;
/// Erasures that are read together.
const PAGE: usize = 256;
/// How often one is said again before it is looked what else there is.
const SWEEPS: usize = 64;
