use crate::config::Identity;
use crate::databases::{Databases, STATE};
use crate::error::StoreError;
use crate::log_store::{append_to, begin_after, last_entry};
use crate::snapshots::Snapshots;
use crate::state_store::StateStore;
use crate::types::{Entry, LogId, Proposal};
use medanchor_anchor::{Applied, Batch, State};
use openraft::EntryPayload;
use redb::Database;
use std::fmt;
use std::path::{Path, PathBuf};

/// Applies batches to the state of replicas that do not run, as a benchmark needs it that asks how they do with
/// millions of leaves: by the same code, in the same transactions and files. The newest of them are in the replicated
/// log, too, as after a snapshot that covers the others.
///
/// Nobody has agreed to these batches. A network goes on from them only if all its replicas are filled, and alike.
pub struct Filler {
    state: StateStore,
    /// Of all replicas.
    logs: Vec<Database>,
    /// Leaves after which entries stay in the logs.
    logged_from: u64,
    is_logged: bool,
    last: LogId,
    first: PathBuf,
    others: Vec<PathBuf>,
}

impl fmt::Debug for Filler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filler")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl Filler {
    /// Opens what the first of the data directories holds; the others are those of all other replicas. Entries stay
    /// in their logs once there are `logged_from` leaves.
    ///
    /// # Errors
    ///
    /// When a directory cannot be read, or no entry was ever applied in the first.
    pub fn open(
        first: PathBuf,
        others: Vec<PathBuf>,
        identity: Identity,
        logged_from: u64,
    ) -> Result<Self, StoreError> {
        let databases = Databases::open(&first)?;
        // Nobody would certify a snapshot of what is filled in, so that none is ever due.
        let snapshots = Snapshots::open(first.clone(), identity, u64::MAX)?;
        let state = StateStore::open(databases.state, snapshots)?;
        // Beyond all that stands in any log, so that each of them ends before what is filled in.
        let mut last = state.last_applied().max(last_entry(&databases.log)?);
        let mut logs = vec![databases.log];
        for other in &others {
            let log = Databases::open(other)?.log;
            last = last.max(last_entry(&log)?);
            logs.push(log);
        }
        let last = last.ok_or(StoreError::Snapshot("there is no network to fill"))?;
        Ok(Self {
            state,
            logs,
            logged_from,
            is_logged: false,
            last,
            first,
            others,
        })
    }

    /// Applies batches, one entry each.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn apply(&mut self, batches: &[Batch]) -> Result<Vec<Applied>, StoreError> {
        let mut entries = Vec::with_capacity(batches.len());
        if !self.is_logged && self.tree_size()? >= self.logged_from {
            self.begin_log()?;
        }
        for batch in batches {
            self.last.index = self.last.index.saturating_add(1);
            entries.push(Entry {
                log_id: self.last,
                payload: EntryPayload::Normal(Proposal::new(batch.to_bytes())),
            });
        }
        if self.is_logged {
            self.log(&entries)?;
        }
        let applied = self.state.apply_now(entries)?;
        Ok(applied.into_iter().flat_map(|applied| applied.0).collect())
    }

    fn begin_log(&mut self) -> Result<(), StoreError> {
        self.is_logged = true;
        let mut logs = self.logs.iter();
        logs.try_for_each(|log| begin_after(log, &self.last))
    }

    fn log(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let mut logs = self.logs.iter();
        logs.try_for_each(|log| append_to(log, entries))
    }

    /// Leaves in the log.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn tree_size(&self) -> Result<u64, StoreError> {
        Ok(State::new(&self.state.view()).tree_size()?)
    }

    /// Makes all of it durable, for every replica.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn finish(mut self) -> Result<(), StoreError> {
        if !self.is_logged {
            self.begin_log()?;
        }
        // An entry after all that is applied, so that whoever leads next goes on from there.
        self.log(&[Entry {
            log_id: LogId::new(self.last.leader_id, self.last.index.saturating_add(1)),
            payload: EntryPayload::Blank,
        }])?;
        self.state.make_durable()?;
        // The file is whole once the database is closed.
        drop(self.state);
        for other in &self.others {
            std::fs::copy(self.first.join(STATE), other.join(STATE))?;
            std::fs::File::open(other.join(STATE))?.sync_all()?;
        }
        Ok(())
    }

    /// Bytes of a replica's state on disk.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn state_bytes(data_dir: &Path) -> Result<u64, StoreError> {
        Ok(std::fs::metadata(data_dir.join(STATE))?.len())
    }
}
