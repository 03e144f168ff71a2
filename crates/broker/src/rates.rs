use medanchor_dag::Did;
use std::collections::BTreeMap;

/// How many decisions on the requests of each requester, and of each organisation's people together, go into the log, so that
/// nobody fills it: a token bucket each. Whoever has had too many locks out nobody but the own organisation.
#[derive(Debug)]
pub(crate) struct Rates {
    rate: Rate,
    /// Of requesters and of organisations.
    buckets: BTreeMap<Did, Bucket>,
}

/// How many decisions there may be at once, and how soon there may be another.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// On requests of one requester at once.
    pub burst: u64,
    /// One more after so long, ms.
    pub every_ms: u64,
    /// An organisation's people together may have as many as so many requesters.
    pub of_org: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    used: u64,
    /// When the last used one was given back, unix ms.
    filled_at: u64,
}

impl Rate {
    /// Enough for whoever fetches a dataset, record by record.
    pub const RELEASES: Self = Self {
        burst: 10_000,
        every_ms: 16,
        of_org: 16,
    };
    /// Whoever is refused has something to change first.
    pub const REFUSALS: Self = Self {
        burst: 20,
        every_ms: 10_000,
        of_org: 16,
    };

    fn for_org(self) -> Self {
        Self {
            burst: self.burst * self.of_org,
            every_ms: (self.every_ms / self.of_org).max(1),
            ..self
        }
    }
}

impl Rates {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: BTreeMap::new(),
        }
    }

    /// Whether `count` more decisions on requests of `requester`, who belongs to `org`, may go into the log at `now`, unix ms.
    pub(crate) fn admit(&mut self, requester: Did, org: Did, count: u64, now: u64) -> bool {
        let of_requester = self.bucket(requester, self.rate, now).take(count);
        // An organisation that asks itself is one requester of its own.
        let of_org = match requester == org {
            true => of_requester,
            false => self.bucket(org, self.rate.for_org(), now).take(count),
        };
        let (Some(of_requester), Some(of_org)) = (of_requester, of_org) else {
            return false;
        };
        self.buckets.insert(org, of_org);
        self.buckets.insert(requester, of_requester);
        if self.buckets.len() > MAX_BUCKETS {
            self.forget(now);
        }
        true
    }

    fn bucket(&self, who: Did, rate: Rate, now: u64) -> Bucket {
        let known = self.buckets.get(&who).copied();
        let bucket = known.unwrap_or(Bucket {
            rate,
            used: 0,
            filled_at: now,
        });
        bucket.filled(now)
    }

    /// Whoever has used least is forgotten first, half of all: a crowd makes no room for itself, for its organisation has used
    /// more than each of it.
    fn forget(&mut self, now: u64) {
        let buckets = self.buckets.iter();
        let mut used: Vec<(u64, Did)> = buckets
            .map(|(who, bucket)| (bucket.filled(now).used, *who))
            .collect();
        used.sort_unstable();
        for (_, who) in used.into_iter().take(MAX_BUCKETS / 2) {
            self.buckets.remove(&who);
        }
    }
}

impl Bucket {
    /// With what is given back by `now`. A clock that is set back gives nothing back.
    fn filled(self, now: u64) -> Self {
        let due = now.saturating_sub(self.filled_at) / self.rate.every_ms;
        Self {
            used: self.used.saturating_sub(due),
            filled_at: self.filled_at.saturating_add(due * self.rate.every_ms),
            ..self
        }
    }

    /// So many more used, if there are.
    fn take(self, count: u64) -> Option<Self> {
        let taken = Self {
            used: self.used.saturating_add(count),
            ..self
        };
        Some(taken).filter(|taken| taken.used <= self.rate.burst)
    }
}

const MAX_BUCKETS: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        burst: 20,
        every_ms: 10_000,
        of_org: 4,
    };

    fn did(n: u32) -> Did {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        Did::new(key)
    }

    const ORG: u32 = 1_000_000;

    #[test]
    fn each_requester_has_a_burst_and_then_a_rate() {
        let mut rates = Rates::new(RATE);
        let mut admit = |who, now| rates.admit(did(who), did(ORG), 1, now);
        for _ in 0..RATE.burst {
            assert!(admit(1, 1_000));
        }
        assert!(!admit(1, 1_000));
        assert!(admit(2, 1_000));
        assert!(!admit(1, 1_000 + RATE.every_ms - 1));
        assert!(admit(1, 1_000 + RATE.every_ms));
        assert!(!admit(1, 1_000 + RATE.every_ms));
        assert!(!admit(1, 0));
    }

    #[test]
    fn crowd_of_one_organisation_locks_out_nobody_else() {
        let mut rates = Rates::new(RATE);
        let (mut admitted, crowd) = (0, 3 * u32::try_from(MAX_BUCKETS).unwrap());
        for who in 0..crowd {
            admitted += u64::from(rates.admit(did(who), did(ORG), 1, 1_000));
        }
        assert_eq!(admitted, RATE.burst * RATE.of_org);
        assert!(!rates.admit(did(crowd), did(ORG), 1, 1_000));
        assert!(rates.admit(did(crowd), did(ORG + 1), 1, 1_000));
        // One of its requesters that has had too many does not use up what its organisation has.
        let later = 1_000 + RATE.every_ms;
        assert!(rates.admit(did(crowd), did(ORG), 1, later));
    }

    #[test]
    fn organisation_that_asks_itself_is_one_requester() {
        let mut rates = Rates::new(RATE);
        for _ in 0..RATE.burst {
            assert!(rates.admit(did(ORG), did(ORG), 1, 1_000));
        }
        assert!(!rates.admit(did(ORG), did(ORG), 1, 1_000));
    }

    #[test]
    fn memory_is_bounded_and_whoever_used_most_is_remembered() {
        let mut rates = Rates::new(RATE);
        for _ in 0..RATE.burst {
            assert!(rates.admit(did(0), did(ORG), 1, 1_000));
        }
        for n in 1..3 * u32::try_from(MAX_BUCKETS).unwrap() {
            assert!(rates.admit(did(n), did(ORG + n), 1, 1_000));
            assert!(rates.buckets.len() <= MAX_BUCKETS);
        }
        assert!(!rates.admit(did(0), did(ORG), 1, 1_000));
    }
}
