//! Since when records have had too few copies.

use medanchor_api::BelowTarget;
use medanchor_dag::Cid;
use std::collections::BTreeMap;

/// The records that one look at all of them found below their target, and since when each is, as far as looks tell.
#[derive(Debug)]
pub(crate) struct Lag {
    /// Unix ms.
    since: BTreeMap<Cid, u64>,
    /// The earliest of those that are too many to be remembered: nothing that is found later is younger.
    others_since: Option<u64>,
    oldest: Option<BelowTarget>,
    remembers: usize,
}

impl Lag {
    /// Adds a record that is below its target now. When `before`, the look before this one, knew it, it has been since
    /// then.
    pub(crate) fn add(&mut self, before: &Self, record: Cid, anchored_at_unix_ms: u64, now: u64) {
        let known = before.since.get(&record).copied();
        let since_unix_ms = known.or(before.others_since).unwrap_or(now);
        if self.since.len() < self.remembers {
            self.since.insert(record, since_unix_ms);
        } else {
            let others = self.others_since.unwrap_or(since_unix_ms);
            self.others_since = Some(others.min(since_unix_ms));
        }
        let found = BelowTarget {
            record,
            anchored_at_unix_ms,
            since_unix_ms,
        };
        let both = self.oldest.into_iter().chain([found]);
        self.oldest = both.min_by_key(|one| (one.since_unix_ms, one.anchored_at_unix_ms));
    }

    /// The one that has been below its target for longest; of these the one that was anchored first.
    pub(crate) fn oldest(&self) -> Option<BelowTarget> {
        self.oldest
    }
}

impl Default for Lag {
    fn default() -> Self {
        Self {
            since: BTreeMap::new(),
            others_since: None,
            oldest: None,
            remembers: REMEMBERED,
        }
    }
}

/// About 10 MiB.
const REMEMBERED: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::testing::cid;

    /// What a look at `now` finds of these records, which were anchored at 1, 2 and so on.
    fn look(before: &Lag, names: &[&str], now: u64) -> Lag {
        let mut lag = Lag {
            remembers: before.remembers,
            ..Lag::default()
        };
        for (anchored_at, name) in (1..).zip(names) {
            lag.add(before, cid(name), anchored_at, now);
        }
        lag
    }

    fn oldest(lag: &Lag) -> Option<(Cid, u64)> {
        lag.oldest().map(|one| (one.record, one.since_unix_ms))
    }

    #[test]
    fn oldest_is_the_one_below_its_target_for_longest_and_not_the_one_anchored_first() {
        let first = look(&Lag::default(), &["c", "b"], 10);
        assert_eq!(oldest(&first), Some((cid("c"), 10)), "anchored first");
        let second = look(&first, &["a", "b"], 20);
        assert_eq!(oldest(&second), Some((cid("b"), 10)));
        // One that was whole in between begins anew.
        let third = look(&second, &["c", "a"], 30);
        assert_eq!(oldest(&third), Some((cid("a"), 20)));
        assert_eq!(oldest(&look(&third, &[], 40)), None);
    }

    #[test]
    fn what_is_too_much_to_be_remembered_is_never_said_to_be_younger_than_it_is() {
        let none = Lag {
            remembers: 1,
            ..Lag::default()
        };
        let first = look(&none, &["a", "b"], 10);
        let second = look(&first, &["b"], 20);
        assert_eq!(oldest(&second), Some((cid("b"), 10)));
        // All of them are remembered again.
        let third = look(&second, &["c"], 30);
        assert_eq!(oldest(&third), Some((cid("c"), 30)));
    }
}
