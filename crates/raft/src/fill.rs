use crate::config::Identity;
use crate::databases::{Databases, STATE};
use crate::error::StoreError;
use crate::log_store::{go_on_after, last_entry};
use crate::snapshots::Snapshots;
use crate::state_store::StateStore;
use crate::types::{Entry, LogId, Proposal};
use medanchor_anchor::{Applied, Batch, State};
use openraft::EntryPayload;
use std::fmt;
use std::path::{Path, PathBuf};

/// Applies batches to the state of replicas that do not run, as a benchmark needs it that asks how they do with
/// millions of leaves: by the same code, in the same transactions and files, but without the log before them.
///
/// Nobody has agreed to these batches. A network goes on from them only if all its replicas are filled, and alike.
pub struct Filler {
    state: StateStore,
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
    /// Opens what the first of the data directories holds; the others are those of all other replicas.
    ///
    /// # Errors
    ///
    /// When a directory cannot be read, or no entry was ever applied in the first.
    pub fn open(
        first: PathBuf,
        others: Vec<PathBuf>,
        identity: Identity,
    ) -> Result<Self, StoreError> {
        let databases = Databases::open(&first)?;
        // Nobody would certify a snapshot of what is filled in, so that none is ever due.
        let snapshots = Snapshots::open(first.clone(), identity, u64::MAX)?;
        let state = StateStore::open(databases.state, snapshots)?;
        // Beyond all that stands in any log, so that each of them ends before what is filled in.
        let mut last = state.last_applied().max(last_entry(&databases.log)?);
        for other in &others {
            last = last.max(last_entry(&Databases::open(other)?.log)?);
        }
        let last = last.ok_or(StoreError::Snapshot("there is no network to fill"))?;
        Ok(Self {
            state,
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
        for batch in batches {
            self.last.index = self.last.index.saturating_add(1);
            entries.push(Entry {
                log_id: self.last,
                payload: EntryPayload::Normal(Proposal::new(batch.to_bytes())),
            });
        }
        let applied = self.state.apply_now(entries)?;
        Ok(applied.into_iter().flat_map(|applied| applied.0).collect())
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
    pub fn finish(self) -> Result<(), StoreError> {
        self.state.make_durable()?;
        // The file is whole once the database is closed.
        drop(self.state);
        for other in &self.others {
            std::fs::copy(self.first.join(STATE), other.join(STATE))?;
            std::fs::File::open(other.join(STATE))?.sync_all()?;
        }
        for replica in self.others.iter().chain([&self.first]) {
            // The log between them and what was filled in is not there.
            Snapshots::delete_all(replica)?;
            go_on_after(&Databases::open(replica)?.log, &self.last)?;
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
