//! How much every organisation has uploaded to this node without a record of its own being anchored for it.

use medanchor_dag::Hash;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Bounds it over a time that slides. An organisation is named as `Membership` does; a restart forgets all.
pub(crate) struct Unanchored {
    limit_bytes: u64,
    slot: Duration,
    began: Instant,
    by: Mutex<BTreeMap<Option<Hash>, Uploaded>>,
}

/// What an organisation has uploaded, by the time.
#[derive(Default)]
struct Uploaded {
    /// Number of the newest slot, which is the last.
    newest: u64,
    slots: [u64; SLOTS],
}

impl Unanchored {
    /// So many bytes for each, within this time.
    pub(crate) fn new(limit_bytes: u64, within: Duration) -> Self {
        Self {
            limit_bytes,
            slot: within / PARTS,
            began: Instant::now(),
            by: Mutex::default(),
        }
    }

    /// Counts an upload. Whether there is room for it; nothing is counted otherwise.
    pub(crate) fn take(&self, by: Option<Hash>, bytes: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.began).as_nanos();
        let slot = passed / self.slot.as_nanos().max(1);
        let mut all = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        let uploaded = all.entry(by).or_default();
        uploaded.go_on_to(u64::try_from(slot).unwrap_or(u64::MAX));
        let has_room = uploaded.sum().saturating_add(bytes) <= self.limit_bytes;
        if has_room && let Some(newest) = uploaded.slots.last_mut() {
            *newest = newest.saturating_add(bytes);
        }
        has_room
    }

    /// So many bytes of an organisation's are part of an anchored record, or did not stay: the oldest first.
    pub(crate) fn give_back(&self, by: Option<Hash>, bytes: u64) {
        let mut all = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = all.get_mut(&by).map(|uploaded| uploaded.slots.iter_mut());
        let mut left = bytes;
        for slot in slots.into_iter().flatten() {
            let part = left.min(*slot);
            *slot -= part;
            left -= part;
        }
    }

    /// A record with a payload of so many bytes was anchored, for which an organisation may have uploaded no less.
    pub(crate) fn anchored(&self, by: Option<Hash>, payload_bytes: u64) {
        let sealing = payload_bytes / SEALING_SHARE;
        let bytes = payload_bytes.saturating_add(sealing);
        self.give_back(by, bytes.saturating_add(RECORD_BYTES));
    }
}

impl Uploaded {
    fn go_on_to(&mut self, slot: u64) {
        let passed = slot.saturating_sub(self.newest);
        let passed = usize::try_from(passed).map_or(SLOTS, |passed| passed.min(SLOTS));
        self.newest = self.newest.max(slot);
        self.slots.rotate_left(passed);
        let emptied = self.slots.iter_mut().rev().take(passed);
        emptied.for_each(|slot| *slot = 0);
    }

    fn sum(&self) -> u64 {
        let slots = self.slots.iter();
        slots.fold(0, |sum, slot| sum.saturating_add(*slot))
    }
}

/// What an organisation may upload without being told, bytes.
pub(crate) const LIMIT_BYTES: u64 = 64 << 30;

/// Into which the time is divided.
const PARTS: u32 = 24;
/// One more, of which the newest has just begun.
const SLOTS: usize = PARTS as usize + 1;
/// Tags and lists of chunks are less than this part of a payload.
const SEALING_SHARE: u64 = 64;
/// A record without its chunks, and a wrap, are less than this.
const RECORD_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn day_of_100() -> (Unanchored, Instant) {
        let unanchored = Unanchored::new(100, 24 * HOUR);
        let now = unanchored.began;
        (unanchored, now)
    }

    fn org(name: &str) -> Option<Hash> {
        Some(Hash::of(name.as_bytes()))
    }

    #[tokio::test]
    async fn each_organisation_has_its_own_room() {
        let (unanchored, now) = day_of_100();
        assert!(unanchored.take(org("a"), 60, now));
        assert!(!unanchored.take(org("a"), 41, now));
        assert!(unanchored.take(org("a"), 40, now));
        assert!(!unanchored.take(org("a"), 1, now));
        assert!(unanchored.take(org("b"), 100, now));
        assert!(unanchored.take(None, 100, now));
        assert!(!unanchored.take(org("b"), u64::MAX, now));
    }

    #[tokio::test]
    async fn what_is_older_than_the_time_counts_no_more_and_not_before() {
        let (unanchored, began) = day_of_100();
        for hour in 0..4 {
            assert!(unanchored.take(org("a"), 25, began + hour * HOUR), "{hour}");
        }
        for hour in 4..25 {
            assert!(!unanchored.take(org("a"), 1, began + hour * HOUR), "{hour}");
        }
        for hour in 25..29 {
            assert!(unanchored.take(org("a"), 25, began + hour * HOUR), "{hour}");
            assert!(!unanchored.take(org("a"), 1, began + hour * HOUR), "{hour}");
        }
        assert!(unanchored.take(org("a"), 100, began + 1000 * HOUR));
        // A clock that seems to go back changes nothing.
        assert!(!unanchored.take(org("a"), 1, began));
    }

    #[tokio::test]
    async fn what_was_anchored_gives_room_the_oldest_first() {
        let (unanchored, began) = day_of_100();
        assert!(unanchored.take(org("a"), 50, began));
        assert!(unanchored.take(org("a"), 50, began + 10 * HOUR));
        unanchored.give_back(org("a"), 60);
        assert!(!unanchored.take(org("a"), 61, began + 10 * HOUR));
        assert!(unanchored.take(org("a"), 60, began + 10 * HOUR));
        // The 50 of the beginning were given back already: their time frees nothing.
        assert!(!unanchored.take(org("a"), 1, began + 26 * HOUR));
        unanchored.anchored(org("a"), 1000);
        assert!(unanchored.take(org("a"), 100, began + 26 * HOUR));
        unanchored.give_back(org("nobody"), 1);
    }

    #[tokio::test]
    async fn more_than_was_counted_is_not_given_back() {
        let (unanchored, now) = day_of_100();
        unanchored.give_back(org("a"), 1000);
        assert!(unanchored.take(org("a"), 100, now));
        unanchored.give_back(org("a"), 1000);
        assert!(!unanchored.take(org("a"), 101, now));
    }
}
