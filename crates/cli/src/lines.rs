use crate::Report;
use anyhow::{Context, Result};
use std::io::Write;

/// Where a command that goes on for a while prints what it finds, a line each.
pub(crate) struct Lines<'a> {
    out: &'a mut dyn Write,
    json: bool,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, json: bool) -> Self {
        Self { out, json }
    }

    /// Prints one line, at once.
    pub(crate) fn print(&mut self, report: &dyn Report) -> Result<()> {
        let printed = match self.json {
            true => writeln!(self.out, "{}", report.to_json()),
            false => writeln!(self.out, "{report}"),
        };
        printed.and_then(|()| self.out.flush()).context("print")
    }
}
