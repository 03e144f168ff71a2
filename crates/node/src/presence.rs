//! Who has been away for long.

use medanchor_anchor::Member;
use medanchor_dag::Did;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// When each member's node was there last.
pub(crate) struct Presence {
    absent_after: Duration,
    seen: BTreeMap<Did, Instant>,
}

impl Presence {
    pub(crate) fn new(absent_after: Duration) -> Self {
        Self {
            absent_after,
            seen: BTreeMap::new(),
        }
    }

    /// Takes note of who is there, and names those who have not been for long.
    pub(crate) fn absent(
        &mut self,
        members: &[Member],
        is_there: impl Fn(&Member) -> bool,
        now: Instant,
    ) -> BTreeSet<Did> {
        self.seen
            .retain(|node, _| members.iter().any(|member| member.node == *node));
        let mut absent = BTreeSet::new();
        for member in members {
            // Who was never there is given as long, from now on.
            let seen = self.seen.entry(member.node).or_insert(now);
            if is_there(member) {
                *seen = now;
            } else if now.saturating_duration_since(*seen) >= self.absent_after {
                absent.insert(member.node);
            }
        }
        absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::testing::{cid, founded};

    const AFTER: Duration = Duration::from_secs(60);

    #[test]
    fn member_is_absent_once_it_was_away_for_long_and_not_before() {
        let members = founded(cid("policy")).members;
        let began = Instant::now();
        let mut presence = Presence::new(AFTER);
        let mut absent = |there: &[u64], after: Duration| {
            let is_there = |member: &Member| there.contains(&member.node_id);
            let absent = presence.absent(&members, is_there, began + after);
            let ids = members.iter().filter(|one| absent.contains(&one.node));
            ids.map(|member| member.node_id).collect::<Vec<_>>()
        };
        // Who was never seen has as long as the others.
        assert!(absent(&[1, 2], Duration::ZERO).is_empty());
        assert!(absent(&[1], AFTER - Duration::from_secs(1)).is_empty());
        assert_eq!(absent(&[1], AFTER), [2, 3]);
        // One that is back is there at once.
        assert_eq!(absent(&[1, 3], AFTER), [2]);
        assert!(absent(&[2, 3], AFTER * 3 / 2).is_empty());
        assert_eq!(absent(&[2], AFTER * 2), [1]);
    }

    #[test]
    fn newcomer_is_given_as_long_as_everybody() {
        let mut members = founded(cid("policy")).members;
        let newcomer = members.pop().unwrap();
        let began = Instant::now();
        let mut presence = Presence::new(AFTER);
        presence.absent(&members, |_| true, began);
        let all = [members, vec![newcomer.clone()]].concat();
        let is_there = |member: &Member| member.node != newcomer.node;
        let absent = presence.absent(&all, is_there, began + 5 * AFTER);
        assert_eq!(absent, BTreeSet::new());
        let absent = presence.absent(&all, is_there, began + 6 * AFTER);
        assert_eq!(absent, BTreeSet::from([newcomer.node]));
    }
}
