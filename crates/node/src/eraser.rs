//! Destroys what an erasure in the log lists of this node, and says so in the log (I9).

use crate::{
    clock,
    collector::Collector,
    config::Folder,
    gatherer::Gathered,
    keys::{self, KeyName},
    passphrase,
    submit::Submitter,
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Body, Destroyed, EpochKeyChanged, EpochKeyEntry, ErasureEntry, Gone, Log, Outcome, Read, State,
};
use medanchor_broker::{Custody, CustodyError};
use medanchor_dag::{CustodyId, Did};
use medanchor_raft::Replica;
use medanchor_secrets::Passphrase;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

/// Looks for erasures that wait for this node.
pub(crate) struct Eraser {
    /// This node.
    pub(crate) node: Did,
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
            // What a restored backup of the key store has brought back.
            while let Err(error) = eraser.destroy_again().await {
                tracing::error!("it is not known whether erased custody keys are held: {error:#}");
                sleep(LOOK_EVERY).await;
            }
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

    async fn destroy_again(self: &Arc<Self>) -> Result<()> {
        let eraser = Arc::clone(self);
        let destroying = spawn_blocking(move || {
            let view = eraser.replica.view()?;
            let state = State::new(view.as_ref());
            for held in eraser.custody.list()? {
                if state.erasure(&held.custody)?.is_some() {
                    eraser.custody.destroy(held.custody)?;
                }
            }
            anyhow::Ok(())
        });
        destroying.await?
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
        let now = self.custody.store_key();
        match self.said_epoch_key()? {
            Some(said)
                if *said.key != now && !keys::exists(&self.keys, KeyName::NextCustodyStore)? =>
            {
                self.say_epoch_key(said.key.into_array(), now).await
            }
            _ => Ok(()),
        }
    }

    fn said_epoch_key(&self) -> Result<Option<EpochKeyEntry>> {
        let view = self.replica.view()?;
        Ok(State::new(view.as_ref()).epoch_key(&self.node)?)
    }

    async fn say_epoch_key(&self, from: [u8; 32], to: [u8; 32]) -> Result<()> {
        let changed = EpochKeyChanged {
            holder: self.node,
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
                    missing.any(|(who, _)| who == eraser.node)
                };
                waiting.extend(page.into_iter().filter(is_for_it));
            }
        });
        reading.await?
    }

    fn is_log_time_behind(&self) -> Result<bool> {
        let log_time = self.submitter.holders.log_time()?;
        Ok(log_time.saturating_add(BEHIND_MS) < clock::unix_ms())
    }

    fn is_missing(&self, entry: &ErasureEntry, gone: Gone) -> bool {
        let mut missing = entry.missing();
        missing.any(|missing| missing == (self.node, gone))
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
            holders.any(|holder| holder.who == self.node && *holder.epoch_key == now)
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
        let said = self.said_epoch_key()?;
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
        keys::create_next_epoch_key(&self.keys, protection)
    }

    fn passphrase(&self) -> Result<Option<Passphrase>> {
        self.passphrase.as_deref().map(passphrase::read).transpose()
    }

    async fn say_destroyed(&self, entry: &ErasureEntry, gone: Gone) -> Result<()> {
        let custody = entry.erased.custody;
        let destroyed = Destroyed {
            by: self.node,
            custody,
            erasure: entry.since,
            gone,
        };
        self.say(Body::Destroyed(destroyed)).await?;
        tracing::info!(%custody, erasure = entry.since, %gone, "destroyed, and said so in the log");
        Ok(())
    }

    async fn say(&self, body: Body) -> Result<()> {
        let now = self.submitter.holders.log_time()?.max(clock::unix_ms());
        let until = now.saturating_add(Log::MAX_VALIDITY_MS / 2);
        let appended = self.submitter.say(body, until).await?;
        let outcome = appended.leaf.outcome;
        anyhow::ensure!(
            outcome == Outcome::Ok,
            "the log has refused it with leaf {}: {outcome}",
            appended.index
        );
        Ok(())
    }
}

/// The custody keys, by the epoch key that they are under: after a crash that may be the one which was to come next.
pub(crate) fn open_custody(folder: &Folder, passphrase: Option<&Passphrase>) -> Result<Custody> {
    let keys = folder.keys();
    let open = |kek| Custody::open(&folder.custody(), kek);
    if keys::exists(&keys, KeyName::NextCustodyStore)? {
        let next = keys::open_under(&keys, KeyName::NextCustodyStore, passphrase)?;
        match open(next.clone()) {
            Ok(custody) => {
                let protection = passphrase::protection(passphrase);
                keys::replace_epoch_key(&keys, &next, protection)?;
                return Ok(custody);
            }
            Err(CustodyError::OtherKek) => (),
            Err(error) => return Err(error).context("open custody keys"),
        }
    }
    let kek = keys::open_under(&keys, KeyName::CustodyStore, passphrase)?;
    open(kek).context("open custody keys")
}

/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How far log time may be behind this node's clock while an erasure waits for it, in ms.
const BEHIND_MS: u64 = 10_000;
/// Erasures that are read together.
const PAGE: usize = 256;
/// How often one is said again before it is looked what else there is.
const SWEEPS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use medanchor_secrets::Protection;

    /// A node's folder with a custody key, and the next epoch key.
    fn stage() -> (tempfile::TempDir, Folder, [zeroize::Zeroizing<[u8; 32]>; 2]) {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::new(data.path().to_owned());
        files::create_folder(&folder.keys()).unwrap();
        let now = keys::create(&folder.keys(), KeyName::CustodyStore).unwrap();
        let custody = Custody::open(&folder.custody(), now.clone()).unwrap();
        custody.create_key(CustodyId::new([1; 16]), 0).unwrap();
        let next = keys::create_next_epoch_key(&folder.keys(), Protection::Plain).unwrap();
        (data, folder, [now, next])
    }

    fn opens_under(folder: &Folder, key: &zeroize::Zeroizing<[u8; 32]>) {
        let custody = open_custody(folder, None).unwrap();
        assert_eq!(custody.store_key(), Custody::store_key_of(key.clone()));
        assert_eq!(custody.list().unwrap().len(), 1);
    }

    #[test]
    fn crash_before_the_store_is_sealed_anew_leaves_the_epoch_key_and_the_next_one() {
        let (_data, folder, [now, next]) = stage();
        opens_under(&folder, &now);
        let kept = keys::open(&folder.keys(), KeyName::NextCustodyStore).unwrap();
        assert_eq!(kept, next);
    }

    #[test]
    fn crash_at_any_step_after_that_leaves_the_next_one_in_the_place_of_the_old() {
        for steps in 0..4 {
            let (_data, folder, [_, next]) = stage();
            let custody = open_custody(&folder, None).unwrap();
            custody.reseal(next.clone()).unwrap();
            drop(custody);
            let path = |name: &str| folder.keys().join(name);
            let after = path("next-custody-store.key");
            let text = std::fs::read_to_string(&after).unwrap();
            if steps > 0 {
                files::overwrite(&path("custody-store.key")).unwrap();
            }
            if steps > 1 {
                keys::replace_epoch_key(&folder.keys(), &next, Protection::Plain).unwrap();
            }
            if steps == 2 {
                // The old file is gone, and the other name is there still.
                files::create(&after, files::Mode::Secret, text.as_bytes()).unwrap();
            }
            opens_under(&folder, &next);
            assert!(!after.exists(), "step {steps}");
            opens_under(&folder, &next);
            let kept = keys::open(&folder.keys(), KeyName::CustodyStore).unwrap();
            assert_eq!(kept, next);
        }
    }
}
