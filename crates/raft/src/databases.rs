use crate::error::StoreError;
#[cfg(not(medanchor_fault))]
use crate::error::database;
#[cfg(medanchor_fault)]
use crate::fault::database_at;
use redb::Database;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The two databases of a replica. They are separate because a write to the log waits for the disk, and a
/// write to the state mostly does not.
pub(crate) struct Databases {
    /// Entries and vote.
    pub(crate) log: Database,
    /// How long the log's file is.
    pub(crate) log_bytes: u64,
    /// The anchor log's tables.
    pub(crate) state: Database,
}

impl Databases {
    /// Whether the databases are in `dir`, both of them.
    pub(crate) fn exist(dir: &Path) -> Result<bool, StoreError> {
        Ok(dir.join(LOG).try_exists()? && dir.join(STATE).try_exists()?)
    }

    /// Opens the databases in `dir`, and creates what is not there.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir)?;
        let open = |name, cache_bytes| database_at(&dir.join(name), cache_bytes);
        let databases = Self {
            log: open(LOG, LOG_CACHE_BYTES)?,
            log_bytes: std::fs::metadata(dir.join(LOG))?.len(),
            state: open(STATE, STATE_CACHE_BYTES)?,
        };
        // New files, and the directory itself, must be found after a power loss.
        File::open(dir)?.sync_all()?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(databases)
    }

    /// Puts an empty state in the place of the one in `dir`. Gives where that is now.
    pub(crate) fn put_state_aside(dir: &Path) -> Result<PathBuf, StoreError> {
        if !Self::exist(dir)? {
            let missing = io::Error::new(io::ErrorKind::NotFound, "there is no replica");
            return Err(missing.into());
        }
        // It can be opened by one process alone; a damaged state may not open at all.
        let log = database_at(&dir.join(LOG), LOG_CACHE_BYTES)?;
        let (state, new, aside) = (dir.join(STATE), dir.join(NEW_STATE), dir.join(OLD_STATE));
        for left_over in [&new, &aside] {
            remove(left_over)?;
        }
        drop(database_at(&new, STATE_CACHE_BYTES)?);
        std::fs::hard_link(&state, &aside)?;
        // Commit point: before, nothing has changed; after it, the state is empty and is made anew. There is
        // always a state, for without one this would be a node that lost its replica.
        std::fs::rename(&new, &state)?;
        File::open(dir)?.sync_all()?;
        drop(log);
        Ok(aside)
    }
}

/// Deletes a file, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(not(medanchor_fault))]
fn database_at(path: &Path, cache_bytes: usize) -> Result<Database, StoreError> {
    Database::builder()
        .set_cache_size(cache_bytes)
        .create(path)
        .map_err(database)
}

const LOG: &str = "raft.redb";
pub(crate) const STATE: &str = "state.redb";
const NEW_STATE: &str = "state.redb.new";
const OLD_STATE: &str = "state.redb.old";
const LOG_CACHE_BYTES: usize = 16 * 1024 * 1024;
const STATE_CACHE_BYTES: usize = 128 * 1024 * 1024;
