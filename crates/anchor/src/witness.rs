use crate::{
    Checkpoint, ConsistencyProof, SignedNote, VerifierKey,
    checkpoint::{hash_from_base64, hash_to_base64, parse_decimal},
    tree::empty_root,
};
use medanchor_dag::Hash;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a log asks a witness: to co-sign a checkpoint that extends the one it co-signed last
/// (<https://c2sp.org/tlog-witness>, `add-checkpoint`). Its text is the request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size of the checkpoint that the witness co-signed last, 0 when there is none.
    pub old_size: u64,
    /// That the tree only grew since.
    pub proof: ConsistencyProof,
    /// The new checkpoint.
    pub note: SignedNote,
}

/// The last checkpoint of a log that a witness decided to co-sign. It must be durable before the
/// signature exists, and must never be lost or set back (I4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
}

/// Why a witness does not co-sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddCheckpointError {
    /// The request is malformed, or its old size is more than its checkpoint's.
    #[error("add-checkpoint request is malformed")]
    Malformed,
    /// No log of this origin is known here.
    #[error("log `{0}` is not known")]
    UnknownLog(String),
    /// No key of the log has signed it, or a signature by one does not verify.
    #[error("checkpoint is not signed by a known key of its log")]
    Unsigned,
    /// It does not start from the last checkpoint co-signed here: retry from this size.
    #[error("last checkpoint co-signed has size {0}")]
    Conflict(u64),
    /// It is not shown to extend the last one. If that stays so, the log lies: keep the request.
    #[error("checkpoint is not consistent with the last one co-signed")]
    Inconsistent,
}

impl AddCheckpointError {
    /// The HTTP status that says so.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::UnknownLog(_) => 404,
            Self::Unsigned => 403,
            Self::Conflict(_) => 409,
            Self::Inconsistent => 422,
        }
    }
}

impl AddCheckpoint {
    /// The most bytes that a request may have.
    pub const MAX_BYTES: usize = SignedNote::MAX_BYTES + 4 * 1024;
    /// The most hashes in its proof.
    pub const MAX_PROOF: usize = 63;
    /// Content type of the answer to a conflict, whose body is the size and a newline.
    pub const SIZE_CONTENT_TYPE: &'static str = "text/x.tlog.size";

    /// The checkpoint that is asked about. It says nothing until its signature is checked.
    ///
    /// # Errors
    ///
    /// [`AddCheckpointError::Malformed`].
    pub fn checkpoint(&self) -> Result<Checkpoint, AddCheckpointError> {
        let checkpoint: Checkpoint = self
            .note
            .text()
            .parse()
            .map_err(|_| AddCheckpointError::Malformed)?;
        if self.old_size > checkpoint.size {
            return Err(AddCheckpointError::Malformed);
        }
        Ok(checkpoint)
    }

    /// Decides as the specification says, in its order. `last` is what was decided last for this log,
    /// `log_keys` are the keys trusted to sign for it.
    ///
    /// The answer must be durable before anything is signed, and no other decision for the same log may
    /// be taken in between.
    ///
    /// # Errors
    ///
    /// [`AddCheckpointError`]; nothing may be signed.
    pub fn decide(
        &self,
        last: Option<&Seen>,
        log_keys: &[VerifierKey],
    ) -> Result<Seen, AddCheckpointError> {
        let checkpoint = self.checkpoint()?;
        let keys: Vec<_> = log_keys
            .iter()
            .filter(|key| key.name() == checkpoint.origin)
            .collect();
        if keys.is_empty() {
            return Err(AddCheckpointError::UnknownLog(checkpoint.origin));
        }
        let signers = self
            .note
            .signers(keys)
            .map_err(|_| AddCheckpointError::Unsigned)?;
        if signers.is_empty() {
            return Err(AddCheckpointError::Unsigned);
        }
        let last = last.copied().unwrap_or_else(Seen::nothing);
        if self.old_size != last.size {
            return Err(AddCheckpointError::Conflict(last.size));
        }
        self.proof
            .verify(last.size, &last.root, checkpoint.size, &checkpoint.root)
            .map_err(|_| AddCheckpointError::Inconsistent)?;
        Ok(Seen {
            size: checkpoint.size,
            root: checkpoint.root,
        })
    }
}

impl Seen {
    fn nothing() -> Self {
        Self {
            size: 0,
            root: empty_root(),
        }
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        for hash in &self.proof.0 {
            writeln!(f, "{}", hash_to_base64(hash))?;
        }
        write!(f, "\n{}", self.note)
    }
}

impl FromStr for AddCheckpoint {
    type Err = AddCheckpointError;

    fn from_str(body: &str) -> Result<Self, AddCheckpointError> {
        parse(body).ok_or(AddCheckpointError::Malformed)
    }
}

fn parse(body: &str) -> Option<AddCheckpoint> {
    if body.len() > AddCheckpoint::MAX_BYTES {
        return None;
    }
    let (head, note) = body.split_once("\n\n")?;
    let mut lines = head.split('\n');
    let old_size = parse_decimal(lines.next()?.strip_prefix("old ")?)?;
    let hashes: Option<Vec<_>> = lines
        .take(AddCheckpoint::MAX_PROOF + 1)
        .map(hash_from_base64)
        .collect();
    let proof = ConsistencyProof(hashes?);
    if proof.0.len() > AddCheckpoint::MAX_PROOF {
        return None;
    }
    let note = SignedNote::parse(note).ok()?;
    Some(AddCheckpoint {
        old_size,
        proof,
        note,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryTables, SignatureKind, tree};
    use medanchor_dag::SigningKey;
    use proptest::prelude::*;

    const ORIGIN: &str = "anchor.example";

    #[test]
    fn first_and_growing_checkpoints_are_decided_for() {
        let log = Log::new(9);
        let first = log.request(0, 4);
        let seen = first.decide(None, &log.keys).unwrap();
        assert_eq!(seen.size, 4);
        let next = log.request(4, 9).decide(Some(&seen), &log.keys).unwrap();
        assert_eq!(next.root, tree::root(&log.tables, 9).unwrap());
        // A checkpoint may be signed again, at a later time.
        assert_eq!(log.request(9, 9).decide(Some(&next), &log.keys), Ok(next));
    }

    #[test]
    fn empty_log_may_be_witnessed() {
        let log = Log::new(0);
        assert_eq!(log.request(0, 0).decide(None, &log.keys).unwrap().size, 0);
    }

    #[test]
    fn each_refusal_has_its_status() {
        let log = Log::new(9);
        let seen = log.request(0, 4).decide(None, &log.keys).unwrap();
        let status = |request: &AddCheckpoint, last: Option<&Seen>, keys: &[VerifierKey]| {
            request.decide(last, keys).unwrap_err().status()
        };

        let mut backwards = log.request(0, 4);
        backwards.old_size = 5;
        assert_eq!(status(&backwards, Some(&seen), &log.keys), 400);

        let request = log.request(4, 9);
        assert_eq!(status(&request, Some(&seen), &[]), 404);

        let stranger = verifier(&SigningKey::from_seed(&[9; 32]));
        assert_eq!(status(&request, Some(&seen), &[stranger]), 403);

        let conflict = request.decide(None, &log.keys);
        assert_eq!(conflict, Err(AddCheckpointError::Conflict(0)));
        let conflict = log.request(0, 9).decide(Some(&seen), &log.keys);
        assert_eq!(conflict, Err(AddCheckpointError::Conflict(4)));

        let mut unproved = log.request(4, 9);
        unproved.proof.0.pop();
        assert_eq!(status(&unproved, Some(&seen), &log.keys), 422);
        let mut needless = log.request(0, 9);
        needless.proof.0.push(Hash::of(b"needless"));
        assert_eq!(status(&needless, None, &log.keys), 422);

        let fork = Seen {
            size: 4,
            root: Hash::of(b"another history"),
        };
        assert_eq!(status(&log.request(4, 9), Some(&fork), &log.keys), 422);
        assert_eq!(status(&log.request(4, 4), Some(&fork), &log.keys), 422);
    }

    #[test]
    fn empty_log_with_a_root_is_inconsistent() {
        let log = Log::new(0);
        let lie = Checkpoint {
            origin: ORIGIN.to_owned(),
            size: 0,
            root: Hash::of(b"not empty"),
        };
        let request = AddCheckpoint {
            old_size: 0,
            proof: ConsistencyProof(vec![]),
            note: lie.sign(&log.key).unwrap(),
        };
        let refused = Err(AddCheckpointError::Inconsistent);
        assert_eq!(request.decide(None, &log.keys), refused);
    }

    #[test]
    fn forged_log_signature_is_refused_with_403() {
        let log = Log::new(9);
        let request = log.request(0, 9).to_string();
        let forged = request.replace("\n9\n", "\n8\n");
        let forged: AddCheckpoint = forged.parse().unwrap();
        let refused = Err(AddCheckpointError::Unsigned);
        assert_eq!(forged.decide(None, &log.keys), refused);
    }

    #[test]
    fn request_is_read_back_from_its_text() {
        let log = Log::new(9);
        for (old, new) in [(0, 9), (3, 9), (9, 9)] {
            let request = log.request(old, new);
            assert_eq!(request.to_string().parse(), Ok(request));
        }
    }

    #[test]
    fn malformed_requests_are_refused() {
        let log = Log::new(9);
        let good = log.request(3, 9).to_string();
        let line = good.lines().nth(1).unwrap().to_owned();
        let filled = format!("old 3\n{}\n", format!("{line}\n").repeat(64));
        for bad in [
            good.replace("old 3", "old 03"),
            good.replace("old 3", "old -3"),
            good.replace("old 3", "new 3"),
            good.replace("old 3\n", ""),
            good.replace(&line, "AAAA"),
            good.replacen("\n\n", "\n", 1),
            good.replace(&format!("old 3\n{line}\n"), &filled),
            String::new(),
            format!("{good}{}", "x".repeat(AddCheckpoint::MAX_BYTES)),
        ] {
            let parsed = bad.parse::<AddCheckpoint>();
            assert_eq!(parsed, Err(AddCheckpointError::Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parse_of_arbitrary_text_never_panics(text in "(?s)(old )?[0-9]{0,3}\n[A-Z=+/\n \u{2014}]{0,200}") {
            if let Ok(request) = text.parse::<AddCheckpoint>() {
                prop_assert_eq!(request.to_string(), text);
            }
        }

        #[test]
        fn witness_never_goes_back_or_sideways(steps in prop::collection::vec((0..10_u64, 0..10_u64), 1..20)) {
            let log = Log::new(9);
            let mut last: Option<Seen> = None;
            for (old, new) in steps.into_iter().filter(|(old, new)| old <= new) {
                if let Ok(seen) = log.request(old, new).decide(last.as_ref(), &log.keys) {
                    prop_assert!(last.is_none_or(|last| last.size <= seen.size));
                    prop_assert_eq!(seen.root, tree::root(&log.tables, seen.size).unwrap());
                    last = Some(seen);
                }
            }
        }
    }

    struct Log {
        tables: MemoryTables,
        key: SigningKey,
        keys: Vec<VerifierKey>,
    }

    impl Log {
        fn new(size: u64) -> Self {
            let mut tables = MemoryTables::default();
            for index in 0..size {
                tree::append(&mut tables, index, &index.to_be_bytes()).unwrap();
            }
            let key = SigningKey::from_seed(&[1; 32]);
            let keys = vec![verifier(&key)];
            Self { tables, key, keys }
        }

        fn request(&self, old_size: u64, new_size: u64) -> AddCheckpoint {
            let new_size = new_size.min(9);
            let old_size = old_size.min(new_size);
            let checkpoint = Checkpoint {
                origin: ORIGIN.to_owned(),
                size: new_size,
                root: tree::root(&self.tables, new_size).unwrap(),
            };
            AddCheckpoint {
                old_size,
                proof: tree::consistency(&self.tables, old_size, new_size).unwrap(),
                note: checkpoint.sign(&self.key).unwrap(),
            }
        }
    }

    fn verifier(key: &SigningKey) -> VerifierKey {
        VerifierKey::new(ORIGIN, SignatureKind::Ed25519, key.did()).unwrap()
    }
}
