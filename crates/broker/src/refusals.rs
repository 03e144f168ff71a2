use medanchor_dag::Did;
use std::collections::BTreeMap;

/// How often each requester may be refused in the log, so that nobody fills it: a token bucket each.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<Did, Bucket>);

#[derive(Debug)]
struct Bucket {
    tokens: u64,
    /// When the newest token was added, unix ms.
    filled_at: u64,
}

impl Refusals {
    /// Whether one more refusal of `requester` may be logged at `now`, unix ms.
    pub(crate) fn admit(&mut self, requester: Did, now: u64) -> bool {
        if self.0.len() >= MAX_REQUESTERS {
            // A full bucket and none are the same.
            self.0.retain(|_, bucket| bucket.fill(now) < BURST);
        }
        if self.0.len() >= MAX_REQUESTERS && !self.0.contains_key(&requester) {
            return false;
        }
        let bucket = self.0.entry(requester).or_insert(Bucket {
            tokens: BURST,
            filled_at: now,
        });
        let tokens = bucket.fill(now);
        bucket.tokens = tokens.saturating_sub(1);
        tokens > 0
    }
}

impl Bucket {
    /// Adds what is due at `now`; how many tokens there are. A clock that is set back adds none.
    fn fill(&mut self, now: u64) -> u64 {
        let due = now.saturating_sub(self.filled_at) / TOKEN_EVERY_MS;
        self.tokens = self.tokens.saturating_add(due).min(BURST);
        self.filled_at = self.filled_at.saturating_add(due * TOKEN_EVERY_MS);
        self.tokens
    }
}

const BURST: u64 = 20;
const TOKEN_EVERY_MS: u64 = 10_000;
const MAX_REQUESTERS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn did(n: u16) -> Did {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&n.to_be_bytes());
        Did::new(key)
    }

    #[test]
    fn each_requester_has_a_burst_and_then_a_rate() {
        let mut refusals = Refusals::default();
        for _ in 0..BURST {
            assert!(refusals.admit(did(1), 1_000));
        }
        assert!(!refusals.admit(did(1), 1_000));
        assert!(refusals.admit(did(2), 1_000));
        assert!(!refusals.admit(did(1), 1_000 + TOKEN_EVERY_MS - 1));
        assert!(refusals.admit(did(1), 1_000 + TOKEN_EVERY_MS));
        assert!(!refusals.admit(did(1), 1_000 + TOKEN_EVERY_MS));
        assert!(!refusals.admit(did(1), 0));
    }

    #[test]
    fn memory_is_bounded_and_frees_itself() {
        let mut refusals = Refusals::default();
        let many = u16::try_from(MAX_REQUESTERS).unwrap();
        for n in 0..many {
            assert!(refusals.admit(did(n), 0));
        }
        assert!(!refusals.admit(did(many), 0));
        assert!(refusals.admit(did(0), 0));
        assert!(refusals.admit(did(many), TOKEN_EVERY_MS));
        assert!(refusals.0.len() < 3);
    }
}
