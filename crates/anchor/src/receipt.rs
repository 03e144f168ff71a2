use crate::{
    Body, CheckedCheckpoint, InclusionError, InclusionProof, Leaf, LeafIndex, Opening, SignedNote,
    Strength, TlogProof, TlogProofError, Trust,
};
use medanchor_dag::{CborError, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a client keeps: a leaf, what it commits to unless that is redacted, and the proof that it is in
/// the log. Its text is a C2SP tlog-proof whose `extra` holds leaf and opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The leaf.
    pub leaf: Leaf,
    /// The statement with its signatures, absent when the leaf is redacted or they are withheld.
    pub opening: Option<Opening>,
    /// The leaf's index.
    pub index: LeafIndex,
    /// Its place in the checkpoint's tree.
    pub proof: InclusionProof,
    /// The checkpoint, with its signatures.
    pub checkpoint: SignedNote,
}

/// A receipt that was checked, and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<'r> {
    /// The leaf. Its outcome says whether the statement took effect.
    pub leaf: &'r Leaf,
    /// What it commits to, with every signature checked.
    pub opening: Option<&'r Opening>,
    /// The leaf's index.
    pub index: LeafIndex,
    /// The checkpoint, and who stands for it.
    pub checkpoint: CheckedCheckpoint,
}

/// Why text is not a receipt.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptFormatError {
    /// Not a tlog-proof.
    #[error(transparent)]
    Proof(#[from] TlogProofError),
    /// A tlog-proof without leaf and opening: not one of ours.
    #[error("proof does not carry its leaf")]
    NoLeaf,
    /// Leaf and opening are not in their canonical form.
    #[error("leaf and opening of the receipt are malformed")]
    Leaf(#[source] CborError),
    /// Made by a newer version.
    #[error("unsupported leaf version {0}")]
    Version(u8),
}

/// Why a receipt shows nothing. It must then be ignored, with all that it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The leaf is not shown to be in a log that the policy trusts.
    #[error(transparent)]
    Inclusion(#[from] InclusionError),
    /// It bears a signature by this name whose key the policy does not list. On a checkpoint such a line is ignored; a
    /// receipt has none to spare, so that a changed one is seen.
    #[error("receipt is signed by `{0}`, whose key the policy does not list")]
    Stranger(String),
    /// The opening is not the one that the leaf commits to.
    #[error("leaf does not commit to the opening")]
    Opening,
    /// The leaf says something else than its statement, or a signature on that does not verify: the
    /// organisations that co-signed let it into the log.
    #[error("leaf does not agree with its signed statement")]
    Statement,
}

impl Receipt {
    /// The most bytes that its text may have.
    pub const MAX_BYTES: usize = TlogProof::MAX_BYTES;

    /// Checks the leaf's place in the log, the checkpoint's signatures against `policy`, which must list the keys of
    /// all, and the opening with its signatures against the leaf. What leaf and statement mean is the caller's to judge.
    ///
    /// # Errors
    ///
    /// [`ReceiptError`].
    pub fn verify(
        &self,
        policy: &impl Trust,
        strength: Strength,
    ) -> Result<Verified<'_>, ReceiptError> {
        let proof = self.to_proof(None);
        let checkpoint = proof.verify(&self.leaf.to_bytes(), policy, strength)?;
        let listed = policy.at(checkpoint.checkpoint.size);
        if let Some(stranger) = listed.stranger(&self.checkpoint) {
            return Err(ReceiptError::Stranger(stranger.to_owned()));
        }
        if let Some(opening) = &self.opening {
            self.verify_opening(opening, &checkpoint)?;
        }
        Ok(Verified {
            leaf: &self.leaf,
            opening: self.opening.as_ref(),
            index: self.index,
            checkpoint,
        })
    }

    fn verify_opening(
        &self,
        opening: &Opening,
        checked: &CheckedCheckpoint,
    ) -> Result<(), ReceiptError> {
        if opening.commitment() != self.leaf.opening {
            return Err(ReceiptError::Opening);
        }
        let signed = &opening.0.signed;
        let record = match &signed.statement.body {
            Body::Anchored(anchored) => Some(anchored.record),
            _ => None,
        };
        let agrees = signed.statement.body.kind() == self.leaf.kind
            && signed.statement.origin == checked.checkpoint.origin
            && record == self.leaf.record;
        if agrees && signed.verifies() {
            Ok(())
        } else {
            Err(ReceiptError::Statement)
        }
    }

    fn to_proof(&self, extra: Option<Vec<u8>>) -> TlogProof {
        TlogProof {
            extra,
            index: self.index,
            proof: self.proof.clone(),
            checkpoint: self.checkpoint.clone(),
        }
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extra = Extra {
            leaf: self.leaf.clone(),
            opening: self.opening.clone(),
        };
        write!(f, "{}", self.to_proof(Some(to_canonical(&extra))))
    }
}

impl FromStr for Receipt {
    type Err = ReceiptFormatError;

    fn from_str(text: &str) -> Result<Self, ReceiptFormatError> {
        let proof: TlogProof = text.parse()?;
        let extra = proof.extra.ok_or(ReceiptFormatError::NoLeaf)?;
        let Extra { leaf, opening } =
            from_canonical(&extra, MAX_EXTRA_BYTES).map_err(ReceiptFormatError::Leaf)?;
        if leaf.v != 1 {
            return Err(ReceiptFormatError::Version(leaf.v));
        }
        Ok(Self {
            leaf,
            opening,
            index: proof.index,
            proof: proof.proof,
            checkpoint: proof.checkpoint,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extra {
    leaf: Leaf,
    opening: Option<Opening>,
}

const MAX_EXTRA_BYTES: usize = Leaf::MAX_BYTES + Opening::MAX_BYTES + 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Checkpoint, Entry, MemoryTables, Outcome, SignatureKind, Standing, Statement, TrustPolicy,
        VerifierKey, cosign, tree,
    };
    use medanchor_dag::SigningKey;
    use proptest::prelude::*;

    const ORIGIN: &str = "anchor.example";

    #[test]
    fn receipt_verifies_and_is_read_back_from_its_text() {
        let (receipt, policy) = receipt();
        let read: Receipt = receipt.to_string().parse().unwrap();
        assert_eq!(read, receipt);
        let verified = read.verify(&policy, Strength::Published).unwrap();
        assert_eq!(verified.leaf.outcome, Outcome::Ok);
        assert_eq!(verified.index, 3);
        assert_eq!(verified.checkpoint.checkpoint.size, 7);
        assert_eq!(verified.checkpoint.cosigners.len(), 3);
    }

    #[test]
    fn redacted_receipt_verifies_without_its_opening() {
        let (mut receipt, policy) = receipt();
        receipt.opening = None;
        let read: Receipt = receipt.to_string().parse().unwrap();
        let verified = read.verify(&policy, Strength::Published).unwrap();
        assert_eq!(verified.opening, None);
    }

    #[test]
    fn signature_by_an_unlisted_key_is_refused() {
        let (mut receipt, policy) = receipt();
        let (stranger, name) = (SigningKey::from_seed(&[0x20; 32]), "stranger.example");
        let signature = cosign(&receipt.checkpoint, name, &stranger, 1_000).unwrap();
        receipt.checkpoint.add(signature).unwrap();
        let refused = receipt.verify(&policy, Strength::Published);
        assert_eq!(refused, Err(ReceiptError::Stranger(name.to_owned())));
        // As a checkpoint it is as good as before.
        policy
            .check(&receipt.checkpoint, Strength::Published)
            .unwrap();
    }

    #[test]
    fn opening_of_another_leaf_is_refused() {
        let (mut receipt, policy) = receipt();
        receipt.opening = Some(opening(9));
        let refused = receipt.verify(&policy, Strength::Published);
        assert_eq!(refused, Err(ReceiptError::Opening));
    }

    #[test]
    fn leaf_that_contradicts_its_statement_is_refused() {
        let (policy, sign) = network();
        let signed_by_nobody = {
            let mut opening = opening(3);
            opening.0.signed.signatures = opening_with_key(3, 0x77).0.signed.signatures;
            opening.0.signed.signatures[0].0 = SigningKey::from_seed(&[0x78; 32]).did();
            (opening, crate::Kind::Suspended)
        };
        for (opening, kind) in [(opening(3), crate::Kind::Revoked), signed_by_nobody] {
            let leaf = Leaf {
                kind,
                ..leaf(&opening)
            };
            let mut tables = MemoryTables::default();
            tree::append(&mut tables, 0, &leaf.to_bytes()).unwrap();
            let receipt = Receipt {
                leaf,
                opening: Some(opening),
                index: 0,
                proof: InclusionProof(vec![]),
                checkpoint: sign(1, tree::root(&tables, 1).unwrap()),
            };
            let refused = receipt.verify(&policy, Strength::Published);
            assert_eq!(refused, Err(ReceiptError::Statement));
        }
    }

    #[test]
    fn proof_without_a_leaf_is_not_a_receipt() {
        let (receipt, _) = receipt();
        let bare = receipt.to_proof(None).to_string();
        assert!(matches!(
            bare.parse::<Receipt>(),
            Err(ReceiptFormatError::NoLeaf)
        ));
    }

    proptest! {
        #[test]
        fn parse_of_arbitrary_extra_never_panics(extra in prop::collection::vec(any::<u8>(), 0..80)) {
            let (receipt, _) = receipt();
            let text = receipt.to_proof(Some(extra)).to_string();
            prop_assert!(text.parse::<Receipt>().is_err());
        }
    }

    fn receipt() -> (Receipt, TrustPolicy) {
        let (policy, sign) = network();
        let mut tables = MemoryTables::default();
        for index in 0..7 {
            tree::append(&mut tables, index, &leaf(&opening(index)).to_bytes()).unwrap();
        }
        let receipt = Receipt {
            leaf: leaf(&opening(3)),
            opening: Some(opening(3)),
            index: 3,
            proof: tree::inclusion(&tables, 3, 7).unwrap(),
            checkpoint: sign(7, tree::root(&tables, 7).unwrap()),
        };
        (receipt, policy)
    }

    /// A policy of three of three, and how its keys sign a checkpoint.
    fn network() -> (TrustPolicy, impl Fn(u64, medanchor_dag::Hash) -> SignedNote) {
        let log = SigningKey::from_seed(&[1; 32]);
        let witness = |n: u8| SigningKey::from_seed(&[0x10 + n; 32]);
        let name = |n: u8| format!("{ORIGIN}/org{n}");
        let log_key = VerifierKey::new(ORIGIN, SignatureKind::Ed25519, log.did()).unwrap();
        let keys = [0, 1, 2].map(|n| {
            VerifierKey::new(&name(n), SignatureKind::Cosignature, witness(n).did()).unwrap()
        });
        let policy = TrustPolicy::new(&[log_key], &keys, 3).unwrap();
        let sign = move |size, root| {
            let origin = ORIGIN.to_owned();
            let mut note = Checkpoint { origin, size, root }.sign(&log).unwrap();
            for n in 0..3 {
                note.add(cosign(&note, &name(n), &witness(n), 1_000).unwrap())
                    .unwrap();
            }
            note
        };
        (policy, sign)
    }

    fn leaf(opening: &Opening) -> Leaf {
        Leaf {
            v: 1,
            kind: opening.0.signed.statement.body.kind(),
            at: 1_792_000_000_000,
            outcome: Outcome::Ok,
            record: None,
            opening: opening.commitment(),
        }
    }

    fn opening(index: u64) -> Opening {
        opening_with_key(index, 0x70)
    }

    fn opening_with_key(index: u64, seed: u8) -> Opening {
        let key = SigningKey::from_seed(&[seed; 32]);
        let body = Body::Suspended(Standing { who: key.did() });
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&index.to_be_bytes());
        let statement = Statement::new(ORIGIN, body, nonce, 1_800_000_000_000);
        Opening(Entry {
            salt: [5; 32],
            signed: statement.sign(&[&key]),
        })
    }
}
