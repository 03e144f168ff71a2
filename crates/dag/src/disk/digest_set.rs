use std::sync::atomic::{AtomicU64, Ordering};

/// A set of digests in a fixed amount of memory: it never says "no" of one that is in it, and "yes" of a few that are
/// not (Bloom, 1970). With another `salt`, these are others.
#[derive(Debug)]
pub(super) struct DigestSet {
    words: Box<[AtomicU64]>,
    salt: u64,
}

impl DigestSet {
    /// An empty set of so many bits.
    pub(super) fn new(bits: usize, salt: u64) -> Self {
        let words = bits.div_ceil(WORD_BITS).max(1);
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            salt,
        }
    }

    pub(super) fn insert(&self, digest: &[u8; 32]) {
        for (word, bit) in self.places(digest) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(super) fn contains(&self, digest: &[u8; 32]) -> bool {
        self.places(digest)
            .all(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Digests are evenly spread already: two numbers of one make all its places (Kirsch and Mitzenmacher, 2006).
    fn places(&self, digest: &[u8; 32]) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let number = |at: usize| {
            let bytes = digest.get(at..).and_then(|bytes| bytes.first_chunk());
            u64::from_be_bytes(bytes.copied().unwrap_or_default())
        };
        let first = number(0) ^ self.salt.wrapping_mul(ODD);
        let step = (number(8) ^ self.salt.rotate_left(32).wrapping_mul(ODD)) | 1;
        let bits = self.words.len() as u64 * WORD_BITS as u64;
        (0..PLACES).filter_map(move |n| {
            let place = first.wrapping_add(step.wrapping_mul(n)) % bits;
            let word = usize::try_from(place / WORD_BITS as u64).ok();
            let word = word.and_then(|word| self.words.get(word))?;
            Some((word, 1 << (place % WORD_BITS as u64)))
        })
    }
}

const WORD_BITS: usize = u64::BITS as usize;
/// Bits of one digest.
const PLACES: u64 = 5;
/// 2^64 by the golden ratio, which spreads small numbers.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sha256;

    fn digest(n: u32) -> [u8; 32] {
        sha256(&n.to_be_bytes())
    }

    #[test]
    fn set_knows_all_that_are_in_it_and_few_others() {
        for salt in [0, 1, u64::MAX] {
            let set = DigestSet::new(16 * 10_000, salt);
            (0..10_000).for_each(|n| set.insert(&digest(n)));
            assert!((0..10_000).all(|n| set.contains(&digest(n))));
            let others = (10_000..20_000).filter(|n| set.contains(&digest(*n)));
            assert!(others.count() < 100);
        }
    }

    #[test]
    fn another_salt_takes_others_for_its_own() {
        let wrong = |salt| {
            let set = DigestSet::new(4 * 1000, salt);
            (0..1000).for_each(|n| set.insert(&digest(n)));
            let wrong = (1000..2000).filter(|n| set.contains(&digest(*n)));
            wrong.collect::<std::collections::BTreeSet<_>>()
        };
        let (one, other) = (wrong(1), wrong(2));
        assert!(!one.is_empty());
        assert_ne!(one, other);
    }

    #[test]
    fn smallest_set_works() {
        let set = DigestSet::new(0, 0);
        assert!(!set.contains(&digest(1)));
        set.insert(&digest(1));
        assert!(set.contains(&digest(1)));
    }
}
