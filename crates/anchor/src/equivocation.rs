use crate::{
    AddCheckpoint, Checkpoint, CheckpointError, ConsistencyProof, LeafIndex, NoteError, ProofError,
    Receipt, SignatureKind, SignedNote, TlogProof, Trust, TrustPolicy, VerifierKey,
    checkpoint::{hash_from_base64, hash_to_base64},
    tree::leaf_hash,
};
use medanchor_dag::Hash;
use std::{fmt, str::FromStr};

/// Two signed checkpoints of one log that cannot both be true, and what shows it. Its text is a file that
/// verifies offline and names who signed both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equivocation(Contradiction);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Contradiction {
    /// The tree of `second`, when it had as many leaves as `first` says, had another root.
    Roots {
        first: SignedNote,
        /// The root that it had: of `old_size` leaves, by the proof in `second`.
        root: Hash,
        /// The larger checkpoint, or one of the same size.
        second: AddCheckpoint,
    },
    /// The trees have different leaves at one index.
    Leaves(Box<[ProvedHash; 2]>),
}

/// What stands at an index of a signed tree.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProvedHash {
    leaf_hash: Hash,
    proof: TlogProof,
}

/// What an equivocation proof shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equivocated {
    /// The checkpoints that cannot both be true.
    pub checkpoints: [Checkpoint; 2],
    /// The log keys and witnesses that signed both: each of them lied, or lost its key.
    pub signed_both: Vec<VerifierKey>,
    /// Those that signed the first alone.
    pub signed_first: Vec<VerifierKey>,
    /// Those that signed the second alone. When nobody signed both, a key of the log stands on each side,
    /// and one of these lies.
    pub signed_second: Vec<VerifierKey>,
}

/// Text is not an equivocation proof, or not in its one way to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EquivocationFormatError {
    /// Longer than [`Equivocation::MAX_BYTES`].
    #[error("equivocation proof is too long")]
    TooLong,
    /// Made by another version, or something else.
    #[error("not a {} file", Equivocation::FIRST_LINE)]
    Version,
    /// Not the parts of such a proof.
    #[error("equivocation proof is malformed")]
    Malformed,
}

/// Why an equivocation proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EquivocationError {
    /// A note is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A signature that claims to be by a listed key does not verify.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A tree does not hold what the proof says.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The checkpoints may both be true, as far as this shows.
    #[error("the checkpoints do not contradict each other")]
    NoContradiction,
    /// They are of different logs.
    #[error("the checkpoints are of different logs")]
    Origins,
    /// No listed key signed both, nor did listed keys of the log sign one each.
    #[error("no listed key answers for both checkpoints")]
    Unsigned,
}

impl Equivocation {
    /// What its text begins with, so that the file can be told from others.
    pub const FIRST_LINE: &'static str = "medanchor/v1/equivocation";
    /// The most bytes that its text may have.
    pub const MAX_BYTES: usize = 160 * 1024;

    /// That the tree of `second` did not have the root that `first` says when it had that many leaves, but
    /// `root`, which `proof` shows. Whoever has the larger tree can make this, and needs nothing from
    /// whoever signed `first`.
    ///
    /// # Errors
    ///
    /// When `first` is not a checkpoint.
    pub fn of_roots(
        first: SignedNote,
        root: Hash,
        proof: ConsistencyProof,
        second: SignedNote,
    ) -> Result<Self, CheckpointError> {
        let old_size = first.text().parse::<Checkpoint>()?.size;
        let second = AddCheckpoint {
            old_size,
            proof,
            note: second,
        };
        Ok(Self(Contradiction::Roots {
            first,
            root,
            second,
        }))
    }

    /// That two receipts, of one index, show different leaves. Whoever was given them can make this.
    pub fn of_receipts(first: &Receipt, second: &Receipt) -> Self {
        let proved = |receipt: &Receipt| ProvedHash {
            leaf_hash: leaf_hash(&receipt.leaf.to_bytes()),
            proof: TlogProof {
                extra: None,
                index: receipt.index,
                proof: receipt.proof.clone(),
                checkpoint: receipt.checkpoint.clone(),
            },
        };
        let both = [proved(first), proved(second)];
        Self(Contradiction::Leaves(Box::new(both)))
    }

    /// Checks it with nothing but a trust policy, or the policies of a network by the size of its log: that the
    /// checkpoints contradict each other, and whose signatures they bear. The keys that count for each are those
    /// of the policy that was in force for its size.
    ///
    /// # Errors
    ///
    /// [`EquivocationError`]; it then accuses nobody.
    pub fn verify(&self, trust: &impl Trust) -> Result<Equivocated, EquivocationError> {
        let (first, second) = self.notes();
        let checkpoints = [first.text().parse()?, second.text().parse()?];
        self.check_contradiction(&checkpoints)?;
        let [a, b]: &[Checkpoint; 2] = &checkpoints;
        if a.origin != b.origin {
            return Err(EquivocationError::Origins);
        }
        let first = signers(first, &a.origin, trust.at(a.size))?;
        let second = signers(second, &b.origin, trust.at(b.size))?;
        let signed_both: Vec<_> = shared(&first, &second);
        let by_log = |keys: &[VerifierKey]| keys.iter().any(|k| k.kind() == SignatureKind::Ed25519);
        if signed_both.is_empty() && !(by_log(&first) && by_log(&second)) {
            return Err(EquivocationError::Unsigned);
        }
        let without = |keys: Vec<VerifierKey>| {
            let others = keys.into_iter().filter(|key| !signed_both.contains(key));
            others.collect()
        };
        Ok(Equivocated {
            signed_first: without(first),
            signed_second: without(second),
            signed_both,
            checkpoints,
        })
    }

    fn check_contradiction(&self, [a, b]: &[Checkpoint; 2]) -> Result<(), EquivocationError> {
        let contradict = match &self.0 {
            Contradiction::Roots { root, second, .. } => {
                // By the collision resistance of SHA-256, a tree has one prefix of each size.
                second.proof.verify(a.size, root, b.size, &b.root)?;
                second.old_size == a.size && *root != a.root
            }
            Contradiction::Leaves(proved) => {
                // By the same, it has one leaf at each index.
                let [first, second] = proved.as_ref();
                first.verify(a)?;
                second.verify(b)?;
                first.index() == second.index() && first.leaf_hash != second.leaf_hash
            }
        };
        if contradict {
            Ok(())
        } else {
            Err(EquivocationError::NoContradiction)
        }
    }

    fn notes(&self) -> (&SignedNote, &SignedNote) {
        match &self.0 {
            Contradiction::Roots { first, second, .. } => (first, &second.note),
            Contradiction::Leaves(proved) => {
                let [first, second] = proved.as_ref();
                (&first.proof.checkpoint, &second.proof.checkpoint)
            }
        }
    }
}

impl ProvedHash {
    fn index(&self) -> LeafIndex {
        self.proof.index
    }

    fn verify(&self, in_tree: &Checkpoint) -> Result<(), ProofError> {
        let (size, root) = (in_tree.size, &in_tree.root);
        let proof = &self.proof.proof;
        proof.verify(&self.leaf_hash, self.index(), size, root)
    }

    /// The proof as a file of its own: its `extra` is the hash.
    fn to_proof(&self) -> TlogProof {
        TlogProof {
            extra: Some(self.leaf_hash.as_bytes().to_vec()),
            ..self.proof.clone()
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut proof: TlogProof = text.parse().ok()?;
        let leaf_hash = Hash::new(proof.extra.take()?.try_into().ok()?);
        Some(Self { leaf_hash, proof })
    }
}

/// The listed keys that signed a checkpoint of this log, each once.
fn signers(
    note: &SignedNote,
    origin: &str,
    policy: &TrustPolicy,
) -> Result<Vec<VerifierKey>, NoteError> {
    let logs = policy.logs().filter(|key| key.name() == origin);
    let mut keys: Vec<VerifierKey> = Vec::new();
    for signer in note.signers(logs.chain(policy.witnesses()))? {
        if !keys.contains(signer.key) {
            keys.push(signer.key.clone());
        }
    }
    Ok(keys)
}

fn shared(first: &[VerifierKey], second: &[VerifierKey]) -> Vec<VerifierKey> {
    let both = first.iter().filter(|key| second.contains(key));
    both.cloned().collect()
}

impl fmt::Display for Equivocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Self::FIRST_LINE)?;
        match &self.0 {
            Contradiction::Roots {
                first,
                root,
                second,
            } => {
                writeln!(f, "root {}\n", hash_to_base64(root))?;
                write!(f, "{first}\n{second}")
            }
            Contradiction::Leaves(proved) => {
                let [first, second] = proved.as_ref();
                write!(f, "\n{}\n{}", first.to_proof(), second.to_proof())
            }
        }
    }
}

impl FromStr for Equivocation {
    type Err = EquivocationFormatError;

    fn from_str(text: &str) -> Result<Self, EquivocationFormatError> {
        if text.len() > Self::MAX_BYTES {
            return Err(EquivocationFormatError::TooLong);
        }
        if text.lines().next() != Some(Self::FIRST_LINE) {
            return Err(EquivocationFormatError::Version);
        }
        parse(text)
            .map(Self)
            .ok_or(EquivocationFormatError::Malformed)
    }
}

/// The parts are separated by blank lines, and hold none but that between a checkpoint and its signatures.
fn parse(text: &str) -> Option<Contradiction> {
    let parts: Vec<&str> = text.split("\n\n").collect();
    match parts.as_slice() {
        [head, text, signatures, rest @ ..] if rest.len() == 3 => {
            let root = head.split_once('\n')?.1.strip_prefix("root ")?;
            Some(Contradiction::Roots {
                first: SignedNote::parse(&format!("{text}\n\n{signatures}\n")).ok()?,
                root: hash_from_base64(root)?,
                second: rest.join("\n\n").parse().ok()?,
            })
        }
        [head, proof, text, signatures, rest @ ..] if rest.len() == 3 => {
            if *head != Equivocation::FIRST_LINE {
                return None;
            }
            let first = format!("{proof}\n\n{text}\n\n{signatures}\n");
            Some(Contradiction::Leaves(Box::new([
                ProvedHash::parse(&first)?,
                ProvedHash::parse(&rest.join("\n\n"))?,
            ])))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Leaf, MemoryTables, Outcome, cosign, tree};
    use medanchor_dag::SigningKey;
    use proptest::prelude::*;

    const ORIGIN: &str = "anchor.example";

    #[test]
    fn two_roots_of_one_size_name_who_signed_both() {
        let proof = of_roots(
            note(&TRUE, 7, 1, &[1, 2]),
            &FALSE,
            note(&FALSE, 7, 1, &[1, 3]),
        );
        let shown = proof.verify(&policy()).unwrap();
        assert_eq!(names(&shown.signed_both), ["log1", "org1"]);
        assert_eq!(names(&shown.signed_first), ["org2"]);
        assert_eq!(names(&shown.signed_second), ["org3"]);
        assert_eq!(shown.checkpoints.map(|c| c.size), [7, 7]);
    }

    #[test]
    fn older_checkpoint_that_is_no_prefix_is_proved_from_the_larger_tree_alone() {
        for (small, large) in [(4, 5), (4, 7), (5, 7), (6, 9), (8, 9), (3, 9)] {
            let proof = of_roots(
                note(&FALSE, small, 1, &[]),
                &TRUE,
                note(&TRUE, large, 1, &[]),
            );
            let shown = proof.verify(&policy()).unwrap();
            assert_eq!(names(&shown.signed_both), ["log1"], "{small} {large}");
        }
    }

    #[test]
    fn receipts_of_different_leaves_at_one_index_are_a_proof() {
        let (a, b) = (receipt(&TRUE, 3, 5, &[1]), receipt(&FALSE, 3, 9, &[1]));
        let shown = Equivocation::of_receipts(&a, &b).verify(&policy()).unwrap();
        assert_eq!(names(&shown.signed_both), ["log1", "org1"]);
        assert_eq!(shown.checkpoints.map(|c| c.size), [5, 9]);
    }

    #[test]
    fn honest_history_is_never_a_proof() {
        for (small, large) in [(0, 3), (2, 2), (3, 7), (4, 9)] {
            let proof = of_roots(
                note(&TRUE, small, 1, &[1]),
                &TRUE,
                note(&TRUE, large, 1, &[1]),
            );
            let refused = proof.verify(&policy());
            assert_eq!(refused, Err(EquivocationError::NoContradiction));
        }
        let (a, b) = (receipt(&TRUE, 1, 5, &[]), receipt(&TRUE, 1, 9, &[]));
        let refused = Equivocation::of_receipts(&a, &b).verify(&policy());
        assert_eq!(refused, Err(EquivocationError::NoContradiction));
        // Different indices hold different leaves in every log.
        let other = receipt(&TRUE, 2, 9, &[]);
        let refused = Equivocation::of_receipts(&a, &other).verify(&policy());
        assert_eq!(refused, Err(EquivocationError::NoContradiction));
    }

    #[test]
    fn claimed_root_and_leaf_must_be_proved() {
        // The smaller note is true; the accuser makes up what the larger tree held.
        let (small, large) = (note(&TRUE, 4, 1, &[]), note(&TRUE, 9, 1, &[]));
        let proof = tree::consistency(&log(&TRUE), 4, 9).unwrap();
        let made_up = Equivocation::of_roots(small, Hash::of(b"made up"), proof, large).unwrap();
        let refused = made_up.verify(&policy());
        assert_eq!(refused, Err(ProofError::Root.into()));
        let (a, mut b) = (receipt(&TRUE, 3, 5, &[]), receipt(&TRUE, 3, 9, &[]));
        b.leaf.at += 1;
        let refused = Equivocation::of_receipts(&a, &b).verify(&policy());
        assert_eq!(refused, Err(ProofError::Root.into()));
    }

    #[test]
    fn keys_of_one_log_that_contradict_each_other_are_both_named() {
        let proof = of_roots(note(&FALSE, 4, 2, &[]), &TRUE, note(&TRUE, 7, 1, &[1]));
        let shown = proof.verify(&policy()).unwrap();
        assert_eq!(shown.signed_both, vec![]);
        assert_eq!(names(&shown.signed_first), ["log2"]);
        assert_eq!(names(&shown.signed_second), ["log1", "org1"]);
    }

    #[test]
    fn strangers_and_other_logs_prove_nothing() {
        let stranger = of_roots(note(&FALSE, 4, 9, &[]), &TRUE, note(&TRUE, 7, 1, &[1]));
        let refused = stranger.verify(&policy());
        assert_eq!(refused, Err(EquivocationError::Unsigned));
        let elsewhere = Checkpoint {
            origin: "other.example".to_owned(),
            size: 7,
            root: tree::root(&log(&FALSE), 7).unwrap(),
        };
        let elsewhere = elsewhere.sign(&key(1)).unwrap();
        let mixed = of_roots(elsewhere, &TRUE, note(&TRUE, 7, 1, &[]));
        assert_eq!(mixed.verify(&policy()), Err(EquivocationError::Origins));
    }

    #[test]
    fn witness_that_signed_both_is_named_even_without_a_log_signature() {
        let (a, b) = (note(&FALSE, 7, 9, &[2]), note(&TRUE, 7, 1, &[2]));
        let shown = of_roots(a, &TRUE, b).verify(&policy()).unwrap();
        assert_eq!(names(&shown.signed_both), ["org2"]);
    }

    #[test]
    fn every_flipped_bit_is_refused_or_accuses_nobody_else() {
        for proof in examples() {
            let (text, shown) = (proof.to_string(), proof.verify(&policy()).unwrap());
            for bit in 0..text.len() * 8 {
                let mut bytes = text.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let read = String::from_utf8(bytes).ok();
                let read = read.and_then(|text| text.parse::<Equivocation>().ok());
                let Some(Ok(accused)) = read.map(|proof| proof.verify(&policy())) else {
                    continue;
                };
                // Only a line whose name or key id was damaged is left out, as by a stranger.
                assert_eq!(accused.checkpoints, shown.checkpoints, "bit {bit}");
                let known = |key: &VerifierKey| shown.signed_both.contains(key);
                assert!(accused.signed_both.iter().all(known), "bit {bit}");
            }
        }
    }

    #[test]
    fn proof_is_read_back_from_its_text() {
        for proof in examples() {
            assert_eq!(proof.to_string().parse(), Ok(proof));
        }
    }

    #[test]
    fn malformed_proofs_are_refused() {
        use EquivocationFormatError::{Malformed, TooLong, Version};
        let [roots, leaves] = examples().map(|proof| proof.to_string());
        for (bad, expected) in [
            (String::new(), Version),
            (roots.replace("/v1/", "/v2/"), Version),
            (roots.replace("root ", "roof "), Malformed),
            (roots.replace("\nold ", "\nold 0"), Malformed),
            (roots.replacen("\n\n", "\n", 1), Malformed),
            (format!("{roots}\n"), Malformed),
            (format!("{roots}\n{roots}"), Malformed),
            (leaves.replacen("extra ", "extra AAAA", 1), Malformed),
            (leaves.replacen("extra ", "", 1), Malformed),
            (leaves.replacen("\n\n", "\nroot \n\n", 1), Malformed),
            (roots + &" ".repeat(Equivocation::MAX_BYTES), TooLong),
        ] {
            assert_eq!(bad.parse::<Equivocation>(), Err(expected), "{bad:.300}");
        }
    }

    proptest! {
        #[test]
        fn parse_of_arbitrary_text_never_panics(
            rest in "(?s)(root |old |extra |index |c2sp.org/tlog-proof@v1|[0-9A-Za-z=]|\n|\n\n|\u{2014}| ){0,60}"
        ) {
            for text in [format!("{}\n{rest}", Equivocation::FIRST_LINE), rest] {
                if let Ok(proof) = text.parse::<Equivocation>() {
                    prop_assert_eq!(proof.to_string(), text);
                }
            }
        }

        #[test]
        fn forks_are_proved_from_the_first_different_leaf_on(
            fork_at in 0..9_u64, small in 1..=9_u64, large in 1..=9_u64, who in 1..3_u8,
        ) {
            prop_assume!(small <= large);
            let fork = move |index: u64| u8::from(index >= fork_at);
            let proof = of_roots(note(&fork, small, who, &[]), &TRUE, note(&TRUE, large, 1, &[]));
            let shown = proof.verify(&policy());
            prop_assert_eq!(shown.is_ok(), small > fork_at);
            let both = shown.is_ok_and(|shown| !shown.signed_both.is_empty());
            prop_assert_eq!(both, small > fork_at && who == 1);
        }
    }

    /// Which log the leaf at an index is of.
    type Fork = dyn Fn(u64) -> u8;
    const TRUE: fn(u64) -> u8 = |_| 0;
    /// Another log from its third leaf on.
    const FALSE: fn(u64) -> u8 = |index| if index < 2 { 0 } else { 1 };

    fn examples() -> [Equivocation; 2] {
        let (small, large) = (note(&FALSE, 4, 1, &[1, 2]), note(&TRUE, 7, 1, &[1]));
        let (a, b) = (receipt(&TRUE, 3, 5, &[1]), receipt(&FALSE, 3, 9, &[1]));
        [
            of_roots(small, &TRUE, large),
            Equivocation::of_receipts(&a, &b),
        ]
    }

    /// The proof that whoever has the tree of the second note makes.
    fn of_roots(first: SignedNote, tree: &Fork, second: SignedNote) -> Equivocation {
        let size = |note: &SignedNote| note.text().parse::<Checkpoint>().unwrap().size;
        let (old, new, log) = (size(&first), size(&second), log(tree));
        let root = tree::root(&log, old).unwrap();
        let proof = tree::consistency(&log, old, new).unwrap();
        Equivocation::of_roots(first, root, proof, second).unwrap()
    }

    fn receipt(fork: &Fork, index: u64, size: u64, by: &[u8]) -> Receipt {
        Receipt {
            leaf: leaf(fork, index),
            opening: None,
            index,
            proof: tree::inclusion(&log(fork), index, size).unwrap(),
            checkpoint: note(fork, size, 1, by),
        }
    }

    fn note(fork: &Fork, size: u64, log_key: u8, by: &[u8]) -> SignedNote {
        let checkpoint = Checkpoint {
            origin: ORIGIN.to_owned(),
            size,
            root: tree::root(&log(fork), size).unwrap(),
        };
        let mut note = checkpoint.sign(&key(log_key)).unwrap();
        for &n in by {
            let signature = cosign(&note, &format!("org{n}"), &key(0x10 + n), 1_000).unwrap();
            note.add(signature).unwrap();
        }
        note
    }

    fn log(fork: &Fork) -> MemoryTables {
        let mut tables = MemoryTables::default();
        for index in 0..9 {
            tree::append(&mut tables, index, &leaf(fork, index).to_bytes()).unwrap();
        }
        tables
    }

    fn leaf(fork: &Fork, index: u64) -> Leaf {
        Leaf {
            v: 1,
            kind: Kind::Suspended,
            at: index,
            outcome: Outcome::Ok,
            record: None,
            opening: Hash::of(&[fork(index)]),
        }
    }

    fn policy() -> TrustPolicy {
        let log = |n| VerifierKey::new(ORIGIN, SignatureKind::Ed25519, key(n).did()).unwrap();
        let witness = |n: u8| {
            let (name, kind) = (format!("org{n}"), SignatureKind::Cosignature);
            VerifierKey::new(&name, kind, key(0x10 + n).did()).unwrap()
        };
        TrustPolicy::new(&[1, 2].map(log), &[1, 2, 3].map(witness), 3).unwrap()
    }

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&[n; 32])
    }

    /// `log1` and `log2` for the log's keys, which share their name.
    fn names(keys: &[VerifierKey]) -> Vec<String> {
        let name = |by: &VerifierKey| match by.kind() {
            SignatureKind::Ed25519 => format!("log{}", u8::from(*by.key() != key(1).did()) + 1),
            SignatureKind::Cosignature => by.name().to_owned(),
        };
        keys.iter().map(name).collect()
    }
}
