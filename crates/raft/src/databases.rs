use crate::error::{StoreError, database};
use redb::Database;
use std::fs::File;
use std::path::Path;

/// The two databases of a replica. They are separate because a write to the log waits for the disk, and a
/// write to the state mostly does not.
pub(crate) struct Databases {
    /// Entries and vote.
    pub(crate) log: Database,
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
        let open = |name, cache_bytes| {
            Database::builder()
                .set_cache_size(cache_bytes)
                .create(dir.join(name))
                .map_err(database)
        };
        let databases = Self {
            log: open(LOG, LOG_CACHE_BYTES)?,
            state: open(STATE, STATE_CACHE_BYTES)?,
        };
        // New files, and the directory itself, must be found after a power loss.
        File::open(dir)?.sync_all()?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(databases)
    }
}

const LOG: &str = "raft.redb";
const STATE: &str = "state.redb";
const LOG_CACHE_BYTES: usize = 16 * 1024 * 1024;
const STATE_CACHE_BYTES: usize = 128 * 1024 * 1024;
