use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Read};

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

/// The same, of things that are counted.
pub(crate) fn count(what: &'static str, total: u64) -> ProgressBar {
    let bar = bytes(what, Some(total));
    if let Ok(style) = ProgressStyle::with_template(COUNT_TEMPLATE) {
        bar.set_style(style);
    }
    bar
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

const COUNT_TEMPLATE: &str = "{msg:>9} {bar:30} {human_pos}/{human_len} {per_sec} {eta}";
const TEMPLATE: &str =
    "{msg:>9} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
