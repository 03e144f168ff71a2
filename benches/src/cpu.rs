//! Processor time, as Linux counts it. Unlike the time on the wall it does not grow when other programs
//! take the processor.

use anyhow::{Context, Result};
use std::{fs, thread, time::Duration};

/// Processor time that this thread has used.
pub(crate) fn of_this_thread() -> Result<Duration> {
    // The kernel brings the count up to date when the thread lets others go first.
    thread::yield_now();
    let text =
        fs::read_to_string("/proc/thread-self/schedstat").context("read the thread's time")?;
    let first = text
        .split_ascii_whitespace()
        .next()
        .context("the thread's time is missing")?;
    Ok(Duration::from_nanos(first.parse()?))
}

/// Processor time, user and system, of all processes that this one has started and waited for. It is
/// counted in steps of 10 ms.
pub(crate) fn of_ended_children() -> Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat").context("read the processes' time")?;
    children_ticks(&text)
        .map(|ticks| Duration::from_millis(ticks * MS_PER_TICK))
        .context("the processes' time is missing")
}

/// Processor time, user and system, of these processes until now, in steps of 10 ms.
pub(crate) fn of_processes(pids: &[u32]) -> Result<Duration> {
    let ticks = pids.iter().map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        own_ticks(&stat.context("read a process's time")?).context("a process's time is missing")
    });
    let ticks = ticks.sum::<Result<u64>>()?;
    Ok(Duration::from_millis(ticks * MS_PER_TICK))
}

/// `utime` and `stime`: fields 14 and 15.
fn own_ticks(stat: &str) -> Option<u64> {
    two_ticks(stat, 11)
}

/// `cutime` and `cstime` of `/proc/PID/stat`: fields 16 and 17, where field 2 may hold anything but ends with
/// the last parenthesis.
fn children_ticks(stat: &str) -> Option<u64> {
    two_ticks(stat, 13)
}

fn two_ticks(stat: &str, skipped: usize) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(skipped);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// `USER_HZ` is 100 on every architecture that we run on.
const MS_PER_TICK: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_children_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 0 0 11 12 130 4 20 0 1 0 5 6";
        assert_eq!(children_ticks(stat), Some(134));
        assert_eq!(own_ticks(stat), Some(23));
        assert_eq!(children_ticks("7 (a"), None);
    }

    #[test]
    fn time_of_a_thread_grows() {
        let before = of_this_thread().unwrap();
        let mut sum = 0u64;
        while of_this_thread().unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
