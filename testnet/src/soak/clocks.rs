//! Wall clocks that are wrong for a while: libfaketime (Debian's `faketime`) goes between the processes and
//! the clock. It leaves the monotonic clock alone, as a wrong wall clock would.

use crate::Network;
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// One clock for each process.
#[derive(Debug)]
pub(crate) struct Clocks {
    folder: PathBuf,
}

impl Clocks {
    /// Puts a clock before each process; `None` when libfaketime is not installed. Call it before they start.
    pub(crate) fn lay(network: &mut Network, folder: &Path) -> Result<Option<Self>> {
        let Some(library) = LIBRARIES.iter().map(Path::new).find(|path| path.exists()) else {
            return Ok(None);
        };
        let clocks = Self {
            folder: folder.to_owned(),
        };
        for process in network.processes() {
            clocks.set(&process.name, 0)?;
            process.set_environment([
                ("LD_PRELOAD", library.as_os_str()),
                (
                    "FAKETIME_TIMESTAMP_FILE",
                    clocks.file(&process.name).as_os_str(),
                ),
                ("FAKETIME_CACHE_DURATION", "1".as_ref()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".as_ref()),
            ]);
        }
        Ok(Some(clocks))
    }

    /// Sets this process's clock so many seconds ahead of the right time.
    pub(crate) fn set(&self, name: &str, seconds: i64) -> Result<()> {
        // Written beside and renamed: the process may read it at any time.
        let (file, new) = (self.file(name), self.folder.join("clock.new"));
        fs::write(&new, format!("{seconds:+}")).context("write a clock")?;
        fs::rename(&new, &file).context("set a clock")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("clock-{name}"))
    }
}

/// Where Debian puts it.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];
