//! What clients did and were told, and whether one log can explain it.

use medanchor_anchor::LeafIndex;
use std::{collections::BTreeMap, time::Duration};

/// What all clients did. Times are since the run began.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) writes: Vec<Write>,
    pub(crate) reads: Vec<Read>,
}

/// A statement that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    /// Its leaf.
    pub(crate) index: LeafIndex,
    /// The leaf's bytes.
    pub(crate) leaf: Vec<u8>,
    /// What it did to a register; `None` when it changed none.
    pub(crate) change: Option<Change>,
}

/// A consent is a register: what was last given or withdrawn under its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) register: usize,
    pub(crate) withdrawn: bool,
}

/// A register that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) register: usize,
    /// The leaf that the answer says changed it last, and how. `None`: never changed.
    pub(crate) found: Option<(LeafIndex, bool)>,
}

impl History {
    /// Checks that the history is linearizable. The log itself is the order of the writes, so that this is
    /// decided exactly, in `O(n log n)`: a write that began after another had ended has the higher index, and
    /// every read can be put at a size of the log between what was written before it began and what was
    /// begun after it ended, no earlier than any read that ended before it.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.check_indices()?;
        self.check_writes()?;
        self.check_reads()
    }

    /// Every leaf was acknowledged for one statement only.
    fn check_indices(&self) -> Result<(), String> {
        let mut leaves = BTreeMap::new();
        for write in &self.writes {
            if leaves.insert(write.index, write).is_some() {
                return Err(format!(
                    "two statements were told that leaf {} is theirs",
                    write.index
                ));
            }
        }
        Ok(())
    }

    fn check_writes(&self) -> Result<(), String> {
        let mut ended = self.ended_writes().peekable();
        let mut highest = None;
        for write in sorted_by(&self.writes, |write| write.began) {
            while let Some(before) = ended.next_if(|before| before.ended < write.began) {
                highest = highest.max(Some(before.index));
            }
            if highest.is_some_and(|highest| highest > write.index) {
                return Err(format!(
                    "leaf {} was submitted after leaf {highest:?} had been acknowledged",
                    write.index
                ));
            }
        }
        Ok(())
    }

    fn check_reads(&self) -> Result<(), String> {
        let changes = self.changes();
        let begun_after = self.lowest_index_begun_after();
        let mut ended = self.ended_writes().peekable();
        // Reads that have ended, with the size of the log that each was put at.
        let mut placed: Vec<(Duration, u64)> = Vec::new();
        let mut least = 0;
        for read in sorted_by(&self.reads, |read| read.began) {
            while let Some(before) = ended.next_if(|before| before.ended < read.began) {
                least = least.max(before.index.saturating_add(1));
            }
            placed.retain(|(end, size)| {
                let before = *end < read.began;
                if before {
                    least = least.max(*size);
                }
                !before
            });
            let (first, last) = sizes_that_show(read, &changes)?;
            let later = begun_after.range(read.ended..).next();
            let last = later.map_or(last, |(_, index)| last.min(*index));
            // The earliest size that is possible leaves later reads the most room.
            let size = first.max(least);
            if size > last {
                return Err(format!(
                    "register {} was read as {:?}, which it was in logs of {first} to {last} leaves, but \
                     {least} leaves were there before",
                    read.register, read.found
                ));
            }
            placed.push((read.ended, size));
        }
        Ok(())
    }

    fn ended_writes(&self) -> impl Iterator<Item = &Write> {
        sorted_by(&self.writes, |write| write.ended)
    }

    /// For every register, the leaves that changed it, and how.
    fn changes(&self) -> BTreeMap<usize, BTreeMap<LeafIndex, bool>> {
        let mut changes: BTreeMap<usize, BTreeMap<LeafIndex, bool>> = BTreeMap::new();
        for write in &self.writes {
            if let Some(change) = write.change {
                let register = changes.entry(change.register).or_default();
                register.insert(write.index, change.withdrawn);
            }
        }
        changes
    }

    /// By the moment when a write began: the lowest index of all that began then or later.
    fn lowest_index_begun_after(&self) -> BTreeMap<Duration, LeafIndex> {
        let mut lowest = u64::MAX;
        let mut by_begin: Vec<&Write> = sorted_by(&self.writes, |write| write.began).collect();
        by_begin.reverse();
        by_begin
            .into_iter()
            .map(|write| {
                lowest = lowest.min(write.index);
                (write.began, lowest)
            })
            .collect()
    }
}

/// The least and the largest size of the log in which the register is as it was read.
fn sizes_that_show(
    read: &Read,
    changes: &BTreeMap<usize, BTreeMap<LeafIndex, bool>>,
) -> Result<(u64, u64), String> {
    let none = BTreeMap::new();
    let register = changes.get(&read.register).unwrap_or(&none);
    let Some((index, withdrawn)) = read.found else {
        let first = register.keys().next();
        return Ok((0, first.copied().unwrap_or(u64::MAX)));
    };
    if register.get(&index) != Some(&withdrawn) {
        return Err(format!(
            "register {} was read as changed by leaf {index}, which did not change it so",
            read.register
        ));
    }
    let next = register.range(index.saturating_add(1)..).next();
    let last = next.map_or(u64::MAX, |(next, _)| *next);
    Ok((index.saturating_add(1), last))
}

fn sorted_by<T>(items: &[T], key: impl Fn(&T) -> Duration) -> impl Iterator<Item = &T> {
    let mut sorted: Vec<&T> = items.iter().collect();
    sorted.sort_by_key(|item| key(item));
    sorted.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_that_one_log_explains_passes() {
        let history = History {
            writes: vec![write(0, 10, 5, false), write(5, 20, 6, true)],
            reads: vec![
                read(0, 1, None),
                read(6, 12, Some((5, false))),
                read(13, 19, Some((5, false))),
                read(14, 15, Some((5, false))),
                read(16, 30, Some((6, true))),
            ],
        };
        assert_eq!(history.check(), Ok(()));
    }

    #[test]
    fn write_before_an_acknowledged_one_fails() {
        let history = History {
            writes: vec![write(0, 10, 5, false), write(11, 20, 4, true)],
            reads: Vec::new(),
        };
        assert!(history.check().is_err());
        // At the same time they may be in any order.
        let history = History {
            writes: vec![write(0, 10, 5, false), write(9, 20, 4, true)],
            reads: Vec::new(),
        };
        assert_eq!(history.check(), Ok(()));
    }

    #[test]
    fn one_leaf_for_two_statements_fails() {
        let history = History {
            writes: vec![write(0, 10, 5, false), write(0, 10, 5, true)],
            reads: Vec::new(),
        };
        assert!(history.check().is_err());
    }

    #[test]
    fn stale_read_fails() {
        let stale = History {
            writes: vec![write(0, 10, 5, false), write(11, 20, 6, true)],
            reads: vec![read(21, 22, Some((5, false)))],
        };
        assert!(stale.check().is_err());
        let lost = History {
            writes: vec![write(0, 10, 5, false)],
            reads: vec![read(11, 12, None)],
        };
        assert!(lost.check().is_err());
    }

    #[test]
    fn read_of_the_future_or_of_what_was_never_written_fails() {
        for (found, end) in [
            (Some((5, false)), 9),
            (Some((5, true)), 30),
            (Some((9, true)), 30),
        ] {
            let history = History {
                writes: vec![write(10, 20, 5, false)],
                reads: vec![read(0, end, found)],
            };
            assert!(history.check().is_err(), "{found:?}");
        }
    }

    #[test]
    fn reads_do_not_go_back_in_time() {
        let history = History {
            writes: vec![write(0, 10, 5, false), write(11, 50, 6, true)],
            reads: vec![
                read(12, 13, Some((6, true))),
                read(14, 15, Some((5, false))),
            ],
        };
        assert!(history.check().is_err());
    }

    #[test]
    fn what_another_register_showed_counts_too() {
        let mut other = write(0, 30, 7, false);
        other.change = Some(Change {
            register: 1,
            withdrawn: false,
        });
        let history = History {
            writes: vec![write(0, 30, 6, false), other],
            reads: vec![
                Read {
                    register: 1,
                    ..read(1, 2, Some((7, false)))
                },
                read(3, 4, None),
            ],
        };
        assert!(history.check().is_err());
    }

    fn write(began: u64, ended: u64, index: LeafIndex, withdrawn: bool) -> Write {
        Write {
            began: Duration::from_millis(began),
            ended: Duration::from_millis(ended),
            index,
            leaf: Vec::new(),
            change: Some(Change {
                register: 0,
                withdrawn,
            }),
        }
    }

    fn read(began: u64, ended: u64, found: Option<(LeafIndex, bool)>) -> Read {
        Read {
            began: Duration::from_millis(began),
            ended: Duration::from_millis(ended),
            register: 0,
            found,
        }
    }
}
