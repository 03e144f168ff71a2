use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{self, IsTerminal, Read, Write},
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
}
