use super::tables::{JOURNAL, NEXT, PLACES, TOTALS, change_total};
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

/// In which row each small block is.
///
/// Rows have numbers, in the order in which blocks come, so that they are written at the end of their table. Digests
/// come in no order: in a B-tree of a million nearly each that is added is a page of its own, to be read, copied and
/// written. So a change goes into a journal, and here; later it is merged into the B-tree with its neighbours, which
/// share their pages.
///
/// Merging goes over all digests in their order, again and again, a step with a commit: a *lap*.
#[derive(Debug)]
pub(super) struct Places {
    /// What is not merged yet: a block's row, or `None` if it was removed. It hides what the table says.
    recent: BTreeMap<[u8; 32], Option<u64>>,
    /// The number of the next change.
    next: u64,
    /// The number of the first change that came after this lap had begun.
    lap_began: u64,
    /// The last digest that was merged in this lap.
    merged: Option<[u8; 32]>,
}

/// What a commit changes. Each change has a number; a block that is put gets the row of that number.
#[derive(Debug)]
pub(super) struct Changes {
    first: u64,
    next: u64,
    journal: Vec<u8>,
    places: BTreeMap<[u8; 32], Option<u64>>,
}

/// What a commit merges.
#[derive(Debug, Default)]
pub(super) struct Merged {
    digests: Vec<[u8; 32]>,
    ends_lap: bool,
}

impl Places {
    /// As the changes in the journal left it.
    pub(super) fn read(view: &ReadTransaction) -> Result<Self, redb::Error> {
        let mut recent = Vec::new();
        for entry in view.open_table(JOURNAL)?.iter()? {
            let (first, changes) = entry?;
            for (number, change) in (first.value()..).zip(changes.value().chunks(CHANGE_BYTES)) {
                recent.push(parse(number, change).ok_or_else(damaged)?);
            }
        }
        let next = view.open_table(TOTALS)?.get(NEXT)?;
        let next = next.map_or(0, |next| next.value());
        Ok(Self {
            // Of several changes to a place, the last stays.
            recent: recent.into_iter().collect(),
            next,
            lap_began: next,
            merged: None,
        })
    }

    /// Where a block is, if that is not merged yet.
    pub(super) fn recent(&self, digest: &[u8; 32]) -> Option<Option<u64>> {
        self.recent.get(digest).copied()
    }

    /// The first of the recent places after the one given, until `limit` blocks are among them.
    pub(super) fn recent_after(
        &self,
        after: Option<&[u8; 32]>,
        limit: usize,
    ) -> Vec<([u8; 32], Option<u64>)> {
        let from = after.map_or(Unbounded, Excluded);
        let mut blocks = 0;
        self.recent
            .range::<[u8; 32], _>((from, Unbounded))
            .map(|(digest, row)| (*digest, *row))
            .take_while(|(_, row)| {
                blocks += usize::from(row.is_some());
                blocks <= limit
            })
            .collect()
    }

    /// The row of a block.
    pub(super) fn find(
        &self,
        table: &impl ReadableTable<[u8; 32], u64>,
        digest: &[u8; 32],
    ) -> Result<Option<u64>, redb::Error> {
        match self.recent(digest) {
            Some(row) => Ok(row),
            None => Ok(table.get(digest)?.map(|row| row.value())),
        }
    }

    /// None yet.
    pub(super) fn changes(&self) -> Changes {
        Changes {
            first: self.next,
            next: self.next,
            journal: Vec::new(),
            places: BTreeMap::new(),
        }
    }

    /// Writes changes into the journal, and merges some of those that came before.
    pub(super) fn write(
        &self,
        txn: &WriteTransaction,
        changes: &Changes,
    ) -> Result<Merged, redb::Error> {
        if changes.journal.is_empty() {
            return Ok(Merged::default());
        }
        let mut journal = txn.open_table(JOURNAL)?;
        journal.insert(changes.first, changes.journal.as_slice())?;
        change_total(txn, NEXT, |_| changes.next)?;
        if !self.is_due(changes) {
            return Ok(Merged::default());
        }
        let mut table = txn.open_table(PLACES)?;
        let from = self.merged.as_ref().map_or(Unbounded, Excluded);
        let count = STEP.max(changes.places.len().saturating_mul(2));
        let mut digests = Vec::new();
        let due = self.recent.range::<[u8; 32], _>((from, Unbounded));
        for (digest, row) in due.take(count) {
            match row {
                Some(row) => table.insert(digest, row)?,
                None => table.remove(digest)?,
            };
            digests.push(*digest);
        }
        let ends_lap = digests.len() < count;
        if ends_lap {
            // What came before this lap began has been merged in it.
            journal.retain_in(..self.lap_began, |_, _| false)?;
        }
        Ok(Merged { digests, ends_lap })
    }

    fn is_due(&self, changes: &Changes) -> bool {
        let recent = self.recent.len().saturating_add(changes.places.len());
        // When the same blocks come and go, the recent places stay few and the journal does not.
        recent > RECENT || changes.next - self.lap_began > MAX_LAP
    }

    /// Forgets what a commit has merged.
    pub(super) fn forget(&mut self, merged: &[[u8; 32]]) {
        for digest in merged {
            self.recent.remove(digest);
        }
    }

    /// Takes up what a commit has changed.
    pub(super) fn remember(&mut self, moved: impl Iterator<Item = ([u8; 32], Option<u64>)>) {
        self.recent.extend(moved);
    }

    /// Goes on after a commit.
    pub(super) fn advance(&mut self, changes: &Changes, merged: &Merged) {
        self.next = changes.next;
        if merged.ends_lap {
            self.lap_began = changes.first;
            self.merged = None;
        } else if let Some(last) = merged.digests.last() {
            self.merged = Some(*last);
        }
    }
}

impl Changes {
    /// Adds a block. The number of its row.
    pub(super) fn put(&mut self, digest: &[u8; 32]) -> u64 {
        let row = self.next;
        self.change(digest, PUT, Some(row));
        row
    }

    /// Removes a block.
    pub(super) fn remove(&mut self, digest: &[u8; 32]) {
        self.change(digest, REMOVED, None);
    }

    /// The row of a block that was put in this commit.
    pub(super) fn row(&self, digest: &[u8; 32]) -> Option<u64> {
        self.places.get(digest).copied().flatten()
    }

    pub(super) fn moved(&self) -> impl Iterator<Item = ([u8; 32], Option<u64>)> {
        self.places.iter().map(|(digest, row)| (*digest, *row))
    }

    fn change(&mut self, digest: &[u8; 32], kind: u8, row: Option<u64>) {
        self.journal.push(kind);
        self.journal.extend_from_slice(digest);
        self.places.insert(*digest, row);
        self.next += 1;
    }
}

impl Merged {
    pub(super) fn digests(&self) -> &[[u8; 32]] {
        &self.digests
    }
}

/// Digests of blocks, in order: up to `limit` of those that the recent places and the table have.
pub(super) fn merge(
    recent: Vec<([u8; 32], Option<u64>)>,
    mut table: impl Iterator<Item = Result<[u8; 32], redb::Error>>,
    limit: usize,
) -> Result<Vec<[u8; 32]>, redb::Error> {
    let mut found = Vec::new();
    let mut recent = recent.into_iter().peekable();
    let mut merged = table.next().transpose()?;
    while found.len() < limit {
        match (recent.peek().copied(), merged) {
            (None, None) => break,
            (Some((digest, row)), next) if next.is_none_or(|next| digest <= next) => {
                found.extend(row.map(|_| digest));
                recent.next();
                if next == Some(digest) {
                    merged = table.next().transpose()?;
                }
            }
            (_, next) => {
                found.extend(next);
                merged = table.next().transpose()?;
            }
        }
    }
    Ok(found)
}

fn parse(number: u64, change: &[u8]) -> Option<([u8; 32], Option<u64>)> {
    let (kind, digest) = change.split_first()?;
    let row = match *kind {
        PUT => Some(number),
        REMOVED => None,
        _ => return None,
    };
    Some((digest.try_into().ok()?, row))
}

fn damaged() -> redb::Error {
    redb::Error::Corrupted("the journal of the block store's index is damaged".to_owned())
}

const REMOVED: u8 = 0;
const PUT: u8 = 1;
/// What was done, and the digest.
const CHANGE_BYTES: usize = 1 + 32;

/// How many changes wait to be merged. Tests have few, so that they merge often.
const RECENT: usize = if cfg!(test) { 8 } else { 64 * 1024 };
/// How many are merged by a commit at least, once it is time.
const STEP: usize = if cfg!(test) { 3 } else { 2048 };
/// How many changes a lap may see before it goes on without so many waiting.
const MAX_LAP: u64 = if cfg!(test) { 32 } else { 256 * 1024 };
