//! A bounded number of places, of which nobody has more than their share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The places. Clones share them.
#[derive(Debug)]
pub(crate) struct Places<K: Ord> {
    all: usize,
    each: usize,
    taken: Arc<Mutex<Taken<K>>>,
}

#[derive(Debug)]
struct Taken<K> {
    count: usize,
    by: BTreeMap<K, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Ord> {
    by: K,
    taken: Arc<Mutex<Taken<K>>>,
}

impl<K: Ord + Clone> Places<K> {
    /// So many in all, and so many for each.
    pub(crate) fn new(all: usize, each: usize) -> Self {
        Self {
            all,
            each,
            taken: Arc::new(Mutex::new(Taken {
                count: 0,
                by: BTreeMap::new(),
            })),
        }
    }

    /// One for `by`, when there is one.
    pub(crate) fn take(&self, by: K) -> Option<Place<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = taken.by.get(&by).copied().unwrap_or(0);
        if taken.count >= self.all || theirs >= self.each {
            return None;
        }
        taken.count += 1;
        taken.by.insert(by.clone(), theirs + 1);
        Some(Place {
            by,
            taken: Arc::clone(&self.taken),
        })
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.count -= 1;
        if let Some(theirs) = taken.by.get_mut(&self.by) {
            *theirs -= 1;
            if *theirs == 0 {
                taken.by.remove(&self.by);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_their_share_and_places_are_given_back() {
        let places = Places::new(3, 2);
        let first = places.take("a");
        let second = places.take("a");
        assert!(first.is_some() && second.is_some());
        assert!(places.take("a").is_none());
        let other = places.take("b");
        assert!(other.is_some());
        assert!(places.take("c").is_none());
        drop((first, other));
        assert!(places.take("a").is_some());
        drop(second);
        let taken = places.taken.lock().unwrap();
        assert_eq!((taken.count, taken.by.len()), (0, 0));
    }
}
