use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// A step of work on the whole store that nobody waits for, such as a collection's, on this thread.
///
/// While such a step runs, whoever reads at the same time may be slowed down. When it [rests](Effort::rest) more than
/// 99 times as long, so few reads fall into one that 99 of 100 notice nothing.
#[derive(Debug)]
pub struct Effort {
    began: Instant,
    /// Processor time that this thread had used.
    used: Option<Duration>,
}

impl Effort {
    /// Begins a step.
    pub fn begin() -> Self {
        Self {
            used: used_by_this_thread(),
            began: Instant::now(),
        }
    }

    /// Ends the step. How long to wait before the next: so many times as long as the processor worked on it, because to
    /// wait for the disk slows down nobody.
    pub fn rest(self, times: u32) -> Duration {
        let used = self.used.zip(used_by_this_thread());
        let worked = used.map(|(before, now)| now.saturating_sub(before));
        let worked = worked.unwrap_or_else(|| self.began.elapsed());
        worked.saturating_mul(times)
    }
}

/// Processor time of this thread: the first number of `schedstat`, in nanoseconds (Linux, Documentation/scheduler/sched-stats).
fn used_by_this_thread() -> Option<Duration> {
    // The kernel brings it up to date when the thread lets others go first.
    thread::yield_now();
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = text.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_follows_what_the_processor_did_and_not_what_was_waited_for() {
        let mut shortest = Duration::MAX;
        for _ in 0..10 {
            let effort = Effort::begin();
            thread::sleep(Duration::from_millis(20));
            shortest = shortest.min(effort.rest(100));
        }
        assert!(shortest < Duration::from_secs(2), "{shortest:?}");

        let effort = Effort::begin();
        let before = used_by_this_thread().unwrap();
        while used_by_this_thread().unwrap() < before + Duration::from_millis(5) {}
        assert!(effort.rest(100) >= Duration::from_millis(500));
    }
}
