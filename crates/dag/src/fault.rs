//! Where a test may end the process, for what a death there leaves behind. This is in no build without `--cfg
//! medanchor_fault`, and such a build is never a release: `docs/decisions`, 0016.

use std::{env, fs, io::Write as _, path::PathBuf, sync::OnceLock};

#[cfg(not(debug_assertions))]
compile_error!(
    "a build with `--cfg medanchor_fault` dies when it is told to and is never a release"
);

/// Ends the process at this step, as `kill -9` would, when the file that `MEDANCHOR_FAULT_KILL` names says so. The file
/// goes first: once is enough.
pub fn step(name: &str) {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| env::var_os("MEDANCHOR_FAULT_KILL").map(PathBuf::from));
    if let Some(file) = file
        && fs::read_to_string(file).is_ok_and(|told| told == name)
        && fs::remove_file(file).is_ok()
    {
        // Whoever reads what the process said may be gone.
        let _ = writeln!(std::io::stderr(), "the end: {name}");
        std::process::abort();
    }
}
