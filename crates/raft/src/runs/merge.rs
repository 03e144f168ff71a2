use super::row::Row;
use super::{PageKey, PageValue, Pages, Run};
use crate::tables::failed;
use medanchor_anchor::TablesError;
use redb::Range;
use std::sync::Arc;

/// The rows of several runs in order; of those with one key the newest run's.
pub(super) struct Merge {
    /// Newest first.
    runs: Vec<Cursor>,
    /// Whose row is the present one.
    at: Option<usize>,
}

/// A place in a run.
struct Cursor {
    pages: Range<'static, PageKey, PageValue>,
    page: Vec<u8>,
    /// Where the row begins, and ends. Both at the end of the page: there are no more rows.
    row: (usize, usize),
}

impl Merge {
    /// From the first row that is not before `from`.
    pub(super) fn open(pages: &Pages, runs: &[Arc<Run>], from: &[u8]) -> Result<Self, TablesError> {
        let runs = runs.iter().map(|run| Cursor::open(pages, run.number, from));
        Ok(Self {
            runs: runs.collect::<Result<_, _>>()?,
            at: None,
        })
    }

    /// The next row.
    pub(super) fn step(&mut self) -> Result<Option<Row<'_>>, TablesError> {
        if let Some(at) = self.at {
            // Newer runs have other keys here, which come later.
            let (_, rest) = self.runs.split_at_mut(at);
            if let Some((at, older)) = rest.split_first_mut() {
                for run in older {
                    if run.key() == at.key() {
                        run.advance()?;
                    }
                }
                at.advance()?;
            }
        }
        let mut least: Option<(usize, &[u8])> = None;
        for (at, run) in self.runs.iter().enumerate() {
            if let Some(key) = run.key()
                && least.is_none_or(|(_, least)| key < least)
            {
                least = Some((at, key));
            }
        }
        self.at = least.map(|(at, _)| at);
        Ok(self.at.and_then(|at| self.runs.get(at)?.row()))
    }
}

impl Cursor {
    fn open(pages: &Pages, run: u64, from: &[u8]) -> Result<Self, TablesError> {
        let first: (u64, &[u8]) = (run, &[]);
        let mut before = pages.range(first..=(run, from)).map_err(failed)?;
        let before = before.next_back().transpose().map_err(failed)?;
        let end: (u64, &[u8]) = (run.saturating_add(1), &[]);
        let pages = match &before {
            Some((before, _)) => pages.range(before.value()..end),
            None => pages.range(first..end),
        };
        let mut cursor = Self {
            pages: pages.map_err(failed)?,
            page: Vec::new(),
            row: (0, 0),
        };
        cursor.advance()?;
        while cursor.key().is_some_and(|key| key < from) {
            cursor.advance()?;
        }
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<(), TablesError> {
        let (_, mut next) = self.row;
        if next == self.page.len() {
            next = 0;
            self.page.clear();
            if let Some(page) = self.pages.next() {
                let (_, page) = page.map_err(failed)?;
                self.page.extend_from_slice(page.value());
            }
        }
        let rest = self.page.get(next..).unwrap_or_default();
        let length = match rest {
            [] => 0,
            rest => Row::split(rest)?.0.bytes.len(),
        };
        self.row = (next, next.saturating_add(length));
        Ok(())
    }

    fn row(&self) -> Option<Row<'_>> {
        let (from, until) = self.row;
        Some(Row::parse(self.page.get(from..until)?)?.0)
    }

    fn key(&self) -> Option<&[u8]> {
        Some(self.row()?.key)
    }
}
