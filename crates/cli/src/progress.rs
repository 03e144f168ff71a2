use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{self, IsTerminal, Read, Write},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Progress with its rate on a terminal; nothing in a pipe.
pub(crate) fn bytes(what: &'static str, total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    // The template is constant; the default style stands in should it ever not parse.
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
    }
    bar.with_message(what)
}

/// How far a long count is, with its rate: a bar on a terminal, a line on standard error now and then elsewhere.
#[derive(Debug)]
pub(crate) struct Counter {
    what: &'static str,
    bar: ProgressBar,
    total: u64,
    began: (Instant, u64),
    told: Instant,
}

impl Counter {
    /// Counts from `first` on to `total`.
    pub(crate) fn new(what: &'static str, first: u64, total: u64) -> Self {
        let bar = bytes(what, Some(total));
        if let Ok(style) = ProgressStyle::with_template(COUNT_TEMPLATE) {
            bar.set_style(style);
        }
        bar.set_position(first);
        bar.reset_eta();
        Self {
            what,
            bar,
            total,
            began: (Instant::now(), first),
            told: Instant::now(),
        }
    }

    /// Says how far it is.
    pub(crate) fn set(&mut self, count: u64) {
        self.bar.set_position(count);
        if self.bar.is_hidden() && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let (began, first) = self.began;
            note(&line(
                self.what,
                count,
                self.total,
                count - first,
                began.elapsed(),
            ));
        }
    }

    /// Prints something else meanwhile.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Clears the terminal's line.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// How far the payloads of some records are, with their rate and the time that remains: a bar on a terminal, a line
/// on standard error now and then elsewhere.
#[derive(Debug)]
pub(crate) struct Transfer {
    bar: ProgressBar,
    began: Instant,
    seen: Mutex<(Volume, Instant)>,
}

/// What of how much has come.
#[derive(Clone, Copy, Debug, Default)]
struct Volume {
    /// Records asked for, those that are over, and those whose size is known.
    records: u64,
    over: u64,
    known: u64,
    /// Sizes of those known together, without what was there before.
    known_bytes: u64,
    came_bytes: u64,
}

impl Transfer {
    /// Of this many records, to which `what` is done.
    pub(crate) fn new(what: &'static str, records: u64) -> Self {
        let bar = bytes(what, None);
        let volume = Volume {
            records,
            ..Volume::default()
        };
        Self {
            bar,
            began: Instant::now(),
            seen: Mutex::new((volume, Instant::now())),
        }
    }

    /// The size of one more payload is known.
    pub(crate) fn is_known(&self, bytes: u64) {
        self.see(|volume| {
            volume.known += 1;
            volume.known_bytes += bytes;
        });
    }

    /// This much of a payload was there already.
    pub(crate) fn kept(&self, bytes: u64) {
        self.see(|volume| volume.known_bytes = volume.known_bytes.saturating_sub(bytes));
    }

    /// This much of a payload came.
    pub(crate) fn came(&self, bytes: u64) {
        self.see(|volume| volume.came_bytes += bytes);
    }

    /// A record is over, one way or the other.
    pub(crate) fn is_over(&self) {
        self.see(|volume| volume.over += 1);
    }

    /// Bytes that came, and in which time.
    pub(crate) fn volume(&self) -> (u64, Duration) {
        (self.seen().0.came_bytes, self.began.elapsed())
    }

    /// Clears the terminal's line.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn see(&self, change: impl FnOnce(&mut Volume)) {
        let mut seen = self.seen();
        let (volume, told) = &mut *seen;
        change(volume);
        self.bar.set_length(volume.total_bytes());
        self.bar.set_position(volume.came_bytes);
        if volume.records > 1 {
            let (over, records) = (volume.over, volume.records);
            self.bar.set_message(format!("{over} of {records}"));
        }
        if self.bar.is_hidden() && told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            note(&volume.line(self.began.elapsed()));
        }
    }

    fn seen(&self) -> MutexGuard<'_, (Volume, Instant)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume {
    /// Records whose size is not known yet count as the others do on average.
    fn total_bytes(&self) -> u64 {
        let (known, records) = (u128::from(self.known), u128::from(self.records));
        let total = u128::from(self.known_bytes) * records.max(known) / known.max(1);
        u64::try_from(total).unwrap_or(u64::MAX)
    }

    /// `1 of 4 records, 1.00 MiB of 4.00 MiB, 512.00 KiB/s, 6 seconds left`.
    fn line(&self, took: Duration) -> String {
        let rate = u128::from(self.came_bytes) * 1000 / took.as_millis().max(1);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let total = self.total_bytes();
        let left = total.saturating_sub(self.came_bytes);
        let left = left.checked_div(rate).map(Duration::from_secs);
        let left = left.map_or_else(
            || "no end in sight".to_owned(),
            |left| format!("{} left", HumanDuration(left)),
        );
        format!(
            "{} of {} records, {} of {}, {}/s, {left}",
            self.over,
            // More may come in while it goes on.
            self.records.max(self.known),
            HumanBytes(self.came_bytes),
            HumanBytes(total),
            HumanBytes(rate)
        )
    }
}

/// Says something on standard error that is no error.
pub(crate) fn note(text: &str) {
    // Nothing can be done when nobody listens.
    let _ = writeln!(io::stderr(), "medanchor: {text}");
}

/// `4096 of 10000 leaves, 2048/s`.
fn line(what: &str, count: u64, total: u64, done: u64, took: Duration) -> String {
    let rate = u128::from(done) * 1000 / took.as_millis().max(1);
    format!("{count} of {total} {what}, {rate}/s")
}

/// Counts what is read.
#[derive(Debug)]
pub(crate) struct Counted<R> {
    pub(crate) reader: R,
    pub(crate) bar: ProgressBar,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.bar.inc(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}

/// Between lines where there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(10);
const COUNT_TEMPLATE: &str = "{msg:>9} {bar:30} {human_pos}/{human_len} {per_sec} {eta}";
const TEMPLATE: &str =
    "{msg:>9} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_says_how_far_and_how_fast() {
        let took = Duration::from_secs(2);
        let said = line("leaves", 9_000, 10_000, 4_096, took);
        assert_eq!(said, "9000 of 10000 leaves, 2048/s");
        let said = line("leaves", 0, 0, 0, Duration::ZERO);
        assert_eq!(said, "0 of 0 leaves, 0/s");
    }

    #[test]
    fn transfer_says_how_far_how_fast_and_how_long_still() {
        let mut volume = Volume {
            records: 4,
            ..Volume::default()
        };
        assert_eq!(
            volume.line(Duration::ZERO),
            "0 of 4 records, 0 B of 0 B, 0 B/s, no end in sight"
        );
        volume.over = 1;
        volume.known = 2;
        volume.known_bytes = 2 << 20;
        volume.came_bytes = 1 << 20;
        assert_eq!(
            volume.line(Duration::from_secs(2)),
            "1 of 4 records, 1.00 MiB of 4.00 MiB, 512.00 KiB/s, 6 seconds left"
        );
    }
}
