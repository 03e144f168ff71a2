//! What processes have of memory, as Linux counts it.

use crate::samples::count;
use anyhow::{Context, Result};
use std::fs;

/// Memory that a process has of its own, without what it maps from files.
pub(crate) fn anonymous_mib(pid: u32) -> Result<f64> {
    in_mib(pid, "RssAnon:")
}

/// The most memory that a process had.
pub(crate) fn peak_mib(pid: u32) -> Result<f64> {
    in_mib(pid, "VmHWM:")
}

fn in_mib(pid: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read a process")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next());
    let kib: usize = kib.context("the process's memory is missing")?.parse()?;
    Ok(count(kib) / 1024.0)
}
