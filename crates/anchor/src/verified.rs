use medanchor_dag::{Did, Signature, sha256};
use std::{
    collections::BTreeSet,
    mem,
    sync::{Mutex, PoisonError},
};

/// Whether the signature verifies, as [`Did::verify`] says. What did is remembered for a while, so that a
/// node which takes a statement, holds its record and applies its batch does the work once.
///
/// INVARIANT: the answer depends on the arguments alone, whatever is remembered: on every replica the same.
pub(crate) fn verifies(by: &Did, label: &str, digest: &[u8; 32], signature: &Signature) -> bool {
    let message = [digest.as_slice(), label.as_bytes()].concat();
    remembered(b"labelled", by, signature.as_bytes(), &message, || {
        by.verify(label, digest, signature).is_ok()
    })
}

/// Whether `check` says so of a line of a note, which a node asks several times while co-signatures come in. What
/// it said yes to is remembered as above.
pub(crate) fn verifies_note(
    by: &Did,
    message: &[u8],
    signature: &[u8; 64],
    check: impl FnOnce() -> bool,
) -> bool {
    remembered(b"the-note", by, signature, message, check)
}

/// `scheme` says how `check` reads the rest: the same bytes may be good in one and bad in another.
fn remembered(
    scheme: &[u8; 8],
    by: &Did,
    signature: &[u8; 64],
    message: &[u8],
    check: impl FnOnce() -> bool,
) -> bool {
    // All but the last of these have one length, so that nothing else gives the same bytes.
    let seen = sha256(&[scheme, by.as_bytes().as_slice(), signature, message].concat());
    if lock(&VERIFIED).contains(&seen) {
        return true;
    }
    let verifies = check();
    if verifies {
        lock(&VERIFIED).insert(seen);
    }
    verifies
}

/// Good signatures, each by the hash of all that it is checked with.
struct Verified {
    newer: BTreeSet<[u8; 32]>,
    older: BTreeSet<[u8; 32]>,
}

impl Verified {
    fn contains(&self, seen: &[u8; 32]) -> bool {
        self.newer.contains(seen) || self.older.contains(seen)
    }

    fn insert(&mut self, seen: [u8; 32]) {
        if self.newer.len() >= MAX_REMEMBERED / 2 {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(seen);
    }
}

fn lock(verified: &Mutex<Verified>) -> std::sync::MutexGuard<'_, Verified> {
    verified.lock().unwrap_or_else(PoisonError::into_inner)
}

static VERIFIED: Mutex<Verified> = Mutex::new(Verified {
    newer: BTreeSet::new(),
    older: BTreeSet::new(),
});
/// More than all nodes let wait at a time.
const MAX_REMEMBERED: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::SigningKey;

    const LABEL: &str = "medanchor/v1/test";

    #[test]
    fn remembered_signature_vouches_for_nothing_else() {
        let key = SigningKey::from_seed(&[1; 32]);
        let stranger = SigningKey::from_seed(&[2; 32]).did();
        let (did, digest) = (key.did(), [3; 32]);
        let good = key.sign(LABEL, &digest);
        for _ in 0..2 {
            assert!(verifies(&did, LABEL, &digest, &good));
        }
        assert!(!verifies(&stranger, LABEL, &digest, &good));
        assert!(!verifies(&did, "medanchor/v1/tes", &digest, &good));
        for bit in 0..8 {
            for byte in 0..32 {
                let mut other = digest;
                other[byte] ^= 1 << bit;
                assert!(!verifies(&did, LABEL, &other, &good));
            }
            for byte in 0..64 {
                let mut other = *good.as_bytes();
                other[byte] ^= 1 << bit;
                assert!(!verifies(&did, LABEL, &digest, &Signature::new(other)));
            }
        }
    }

    #[test]
    fn bad_signature_stays_bad() {
        let key = SigningKey::from_seed(&[4; 32]);
        let other = key.sign(LABEL, &[5; 32]);
        for _ in 0..2 {
            assert!(!verifies(&key.did(), LABEL, &[6; 32], &other));
        }
    }

    #[test]
    fn no_more_is_remembered_than_the_limit() {
        let mut verified = Verified {
            newer: BTreeSet::new(),
            older: BTreeSet::new(),
        };
        let name = |number: u32| sha256(&number.to_be_bytes());
        for number in 0..100_000 {
            verified.insert(name(number));
            assert!(verified.newer.len() + verified.older.len() <= MAX_REMEMBERED);
            assert!(verified.contains(&name(number)));
        }
        assert!(!verified.contains(&name(0)));
    }
}
