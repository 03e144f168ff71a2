use crate::{
    store::{Rows, Store},
    totp::{self, STEP_SECONDS},
};
use hkdf::Hkdf;
use medanchor_anchor::{FactorVerified, Nonce};
use medanchor_dag::{CborError, Did, Hash, from_canonical, to_canonical};
use redb::ReadableTable;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::{fmt, path::Path};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The second factors that this node verifies: codes of authenticator apps.
///
/// No secret is kept: each is derived from the node's factor key and whose factor it is (RFC 4226 section 7.5; RFC 5869).
/// What is kept is the last code that was used, durably before anything is said of it, so that no code counts twice, also
/// not after a crash; and the wrong ones since.
///
/// Synchronous: call it from a thread that may block.
pub struct Factors {
    store: Store,
    key: Zeroizing<[u8; 32]>,
}

/// Why a code does not count.
#[derive(Debug, thiserror::Error)]
pub enum FactorError {
    /// It is not the one of now, or was used before.
    #[error("the code is wrong, or was used before")]
    WrongCode,
    /// Too many were wrong.
    #[error("too many codes were wrong: none is looked at before {until_unix_ms} ms")]
    Locked {
        /// When one is looked at again, unix ms.
        until_unix_ms: u64,
    },
    /// A stored row is damaged: remove the factor, and enrol another.
    #[error("row of the factor store is damaged")]
    Damaged(#[from] CborError),
    /// Reading or writing failed.
    #[error("factor store failed")]
    Storage(#[from] redb::Error),
}

impl Factors {
    /// Opens the store at `path`, or makes it. `key` is the node's factor key: 32 random bytes.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn open(path: &Path, key: Zeroizing<[u8; 32]>) -> Result<Self, FactorError> {
        let store = Store::open(path, &[FACTORS])?;
        Ok(Self { store, key })
    }

    /// The secret of a factor, for its owner's app.
    ///
    /// # Panics
    ///
    /// Never: HKDF gives more than 20 bytes.
    pub fn secret(&self, who: &Did, factor: &Nonce) -> Zeroizing<[u8; 20]> {
        let info = [LABEL, factor.as_slice(), who.to_string().as_bytes()].concat();
        let mut secret = Zeroizing::new([0; 20]);
        let derived = Hkdf::<Sha256>::new(None, self.key.as_slice()).expand(&info, secret.as_mut());
        #[expect(
            clippy::unwrap_used,
            reason = "20 bytes are fewer than HKDF gives at most"
        )]
        derived.unwrap();
        secret
    }

    /// Uses up a code that `who` shows at `now`, unix ms; until when that counts, unix ms. `claim` names the attempt: the
    /// same again, as after a lost answer, gets the same answer as long as no later code was used.
    ///
    /// # Errors
    ///
    /// [`FactorError`]
    pub fn verify(
        &self,
        who: &Did,
        factor: &Nonce,
        code: &[u8; 6],
        claim: &Hash,
        now: u64,
    ) -> Result<u64, FactorError> {
        let secret = self.secret(who, factor);
        let current = now / 1000 / STEP_SECONDS;
        // Clocks differ, and people type.
        let mut steps = current.saturating_sub(1)..=current + 1;
        let shown =
            steps.rfind(|step| bool::from(totp::code(secret.as_slice(), *step).ct_eq(code)));
        // What changes nothing costs no sync.
        let row = self.store.read(|txn| {
            let factors = txn.open_table(FACTORS)?;
            let row = factors.get(factor.as_slice())?;
            Ok(row.map(|row| row.value().to_vec()))
        })?;
        if let (None, judged) = Row::parse(row)?.judge(shown, claim, now) {
            return judged;
        }
        // Commit point: the code is used up, durably.
        self.store.write(|txn| {
            let mut factors = txn.open_table(FACTORS)?;
            let row = factors.get(factor.as_slice())?;
            let row = Row::parse(row.map(|row| row.value().to_vec()));
            let (row, judged) = match row.map(|row| row.judge(shown, claim, now)) {
                Ok(changed) => changed,
                Err(error) => return Ok(Err(error)),
            };
            if let Some(row) = row {
                factors.insert(factor.as_slice(), to_canonical(&row).as_slice())?;
            }
            Ok(judged)
        })?
    }
}

/// What is kept of a factor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// The step of the last code that counted.
    last_step: u64,
    /// The attempt in which it did.
    last_claim: Option<Hash>,
    /// Until when that counts, unix ms.
    last_until: u64,
    /// Wrong codes since.
    failures: u32,
    /// No code is looked at before, unix ms.
    locked_until: u64,
}

impl Row {
    fn parse(row: Option<Vec<u8>>) -> Result<Self, FactorError> {
        match row {
            Some(row) => Ok(from_canonical(&row, MAX_ROW_BYTES)?),
            None => Ok(Self::default()),
        }
    }

    /// What becomes of it, if anything, and of the attempt.
    fn judge(
        self,
        shown: Option<u64>,
        claim: &Hash,
        now: u64,
    ) -> (Option<Self>, Result<u64, FactorError>) {
        // A clock that was far ahead does not lock it for longer.
        if now < self.locked_until && self.locked_until - now <= MAX_LOCKED_MS {
            let until_unix_ms = self.locked_until;
            return (None, Err(FactorError::Locked { until_unix_ms }));
        }
        match shown {
            Some(step) if step == self.last_step && self.last_claim == Some(*claim) => {
                (None, Ok(self.last_until))
            }
            Some(step) if step > self.last_step => {
                let until = now.saturating_add(FactorVerified::VALIDITY_MS);
                let used = Self {
                    last_step: step,
                    last_claim: Some(*claim),
                    last_until: until,
                    failures: 0,
                    locked_until: 0,
                };
                (Some(used), Ok(until))
            }
            _ => {
                let failures = self.failures.saturating_add(1);
                let failed = Self {
                    failures,
                    locked_until: now.saturating_add(locked_ms(failures)),
                    ..self
                };
                (Some(failed), Err(FactorError::WrongCode))
            }
        }
    }
}

/// For how long no code is looked at after so many wrong ones in a row: after each five, each time twice as long.
fn locked_ms(failures: u32) -> u64 {
    if failures == 0 || !failures.is_multiple_of(MAX_FAILURES) {
        return 0;
    }
    let doublings = (failures / MAX_FAILURES - 1).min(16);
    (FIRST_LOCKED_MS << doublings).min(MAX_LOCKED_MS)
}

impl fmt::Debug for Factors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factors").finish_non_exhaustive()
    }
}

const FACTORS: Rows = Rows::new("factors-1");
const LABEL: &[u8] = b"medanchor/v1/totp";
const MAX_ROW_BYTES: usize = 256;
/// Who tries until it is locked for a day each time guesses one of three codes out of a million in some 180 years.
const MAX_FAILURES: u32 = 5;
const FIRST_LOCKED_MS: u64 = 15 * 60 * 1000;
const MAX_LOCKED_MS: u64 = 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::SigningKey;

    const NOW: u64 = 1_800_000_000_000;
    const STEP_MS: u64 = STEP_SECONDS * 1000;

    fn open(folder: &tempfile::TempDir) -> Factors {
        let key = Zeroizing::new([3; 32]);
        Factors::open(&folder.path().join("factors.redb"), key).unwrap()
    }

    fn who() -> Did {
        SigningKey::from_seed(&[1; 32]).did()
    }

    fn id(byte: u8) -> Nonce {
        Nonce::new([byte; 16])
    }

    fn code_at(factors: &Factors, factor: u8, at: u64) -> [u8; 6] {
        let secret = factors.secret(&who(), &id(factor));
        totp::code(secret.as_slice(), at / STEP_MS)
    }

    fn verify(
        factors: &Factors,
        code: &[u8; 6],
        claim: &str,
        now: u64,
    ) -> Result<u64, FactorError> {
        let claim = Hash::of(claim.as_bytes());
        factors.verify(&who(), &id(1), code, &claim, now)
    }

    #[test]
    fn code_counts_once_also_after_a_restart_and_its_own_retry_again() {
        let folder = tempfile::tempdir().unwrap();
        let factors = open(&folder);
        let code = code_at(&factors, 1, NOW);
        let until = verify(&factors, &code, "one", NOW).unwrap();
        assert_eq!(until, NOW + FactorVerified::VALIDITY_MS);
        assert_eq!(verify(&factors, &code, "one", NOW + 1).unwrap(), until);
        drop(factors);
        let factors = open(&folder);
        assert_eq!(verify(&factors, &code, "one", NOW + 2).unwrap(), until);
        for (claim, code) in [
            ("two", code),
            // Older than the one that was used.
            ("three", code_at(&factors, 1, NOW - STEP_MS)),
        ] {
            let error = verify(&factors, &code, claim, NOW).unwrap_err();
            assert!(matches!(error, FactorError::WrongCode), "{claim}");
        }
        let next = code_at(&factors, 1, NOW + STEP_MS);
        verify(&factors, &next, "four", NOW).unwrap();
        assert!(verify(&factors, &code, "one", NOW).is_err());
    }

    #[test]
    fn code_of_another_time_factor_or_person_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let factors = open(&folder);
        let too_old = code_at(&factors, 1, NOW - 2 * STEP_MS);
        let too_new = code_at(&factors, 1, NOW + 2 * STEP_MS);
        let of_another = code_at(&factors, 2, NOW);
        for code in [too_old, too_new, of_another] {
            assert!(verify(&factors, &code, "one", NOW).is_err());
        }
        let other = SigningKey::from_seed(&[2; 32]).did();
        assert_ne!(
            factors.secret(&other, &id(1)),
            factors.secret(&who(), &id(1))
        );
        verify(&factors, &code_at(&factors, 1, NOW - STEP_MS), "one", NOW).unwrap();
        verify(&factors, &code_at(&factors, 1, NOW), "two", NOW).unwrap();
    }

    #[test]
    fn wrong_codes_lock_the_factor_for_longer_each_time_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let factors = open(&folder);
        let good = code_at(&factors, 1, NOW);
        let wrong = if good == *b"000000" {
            *b"000001"
        } else {
            *b"000000"
        };
        let mut now = NOW;
        for lock in [1, 2, 4].map(|times| times * FIRST_LOCKED_MS) {
            for _ in 0..MAX_FAILURES {
                let error = verify(&factors, &wrong, "one", now).unwrap_err();
                assert!(matches!(error, FactorError::WrongCode));
            }
            let good = code_at(&factors, 1, now);
            let error = verify(&factors, &good, "one", now).unwrap_err();
            let until = now + lock;
            assert!(
                matches!(error, FactorError::Locked { until_unix_ms } if until_unix_ms == until)
            );
            now = until;
        }
        drop(factors);
        let factors = open(&folder);
        let claim = Hash::of(b"other");
        let of_another = code_at(&factors, 2, NOW);
        factors
            .verify(&who(), &id(2), &of_another, &claim, NOW)
            .unwrap();
        verify(&factors, &code_at(&factors, 1, now), "one", now).unwrap();
        // What counted begins anew; a clock that was set back locks nobody out.
        assert!(verify(&factors, &wrong, "two", now).is_err());
        let next = now + STEP_MS;
        verify(&factors, &code_at(&factors, 1, next), "three", next).unwrap();
        for failures in 0..200 {
            assert!(locked_ms(failures) <= MAX_LOCKED_MS);
        }
        let ahead = Row {
            locked_until: NOW + MAX_LOCKED_MS + 1,
            ..Row::default()
        };
        assert!(ahead.judge(Some(1), &claim, NOW).1.is_ok());
    }
}
