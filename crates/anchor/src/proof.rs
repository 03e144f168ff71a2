use crate::{
    CheckedCheckpoint, InclusionProof, LeafIndex, ProofError, SignedNote, Strength, Trust,
    TrustError,
    checkpoint::{hash_from_base64, hash_to_base64, parse_decimal},
    tree::leaf_hash,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{fmt, str::FromStr};

/// That a leaf is in a log, for whoever has a policy file and no network
/// (<https://c2sp.org/tlog-proof>). Its text is a `.tlog-proof` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// Bytes that travel along. Nothing authenticates them.
    pub extra: Option<Vec<u8>>,
    /// The leaf's index.
    pub index: LeafIndex,
    /// Its place in the checkpoint's tree.
    pub proof: InclusionProof,
    /// The checkpoint, with its signatures.
    pub checkpoint: SignedNote,
}

/// Why text is not a tlog-proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlogProofError {
    /// Longer than [`TlogProof::MAX_BYTES`].
    #[error("proof is too long")]
    TooLong,
    /// Made by another version, or no proof at all.
    #[error("not a c2sp.org/tlog-proof@v1")]
    Version,
    /// Not the lines of a proof, or not in their one way to be written.
    #[error("proof is malformed")]
    Malformed,
}

/// Why a leaf is not shown to be in a log that the policy trusts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InclusionError {
    /// The checkpoint is not believed.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The leaf is not in the checkpoint's tree at this index.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

impl TlogProof {
    /// The most bytes that its text may have.
    pub const MAX_BYTES: usize = 256 * 1024;

    /// Checks that `leaf` is in the log, by a checkpoint that `policy` trusts.
    ///
    /// # Errors
    ///
    /// [`InclusionError`]; the leaf must then be ignored.
    pub fn verify(
        &self,
        leaf: &[u8],
        policy: &impl Trust,
        strength: Strength,
    ) -> Result<CheckedCheckpoint, InclusionError> {
        let checked = policy.check(&self.checkpoint, strength)?;
        let (size, root) = (checked.checkpoint.size, &checked.checkpoint.root);
        self.proof
            .verify(&leaf_hash(leaf), self.index, size, root)?;
        Ok(checked)
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.proof.0 {
            writeln!(f, "{}", hash_to_base64(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for TlogProof {
    type Err = TlogProofError;

    fn from_str(text: &str) -> Result<Self, TlogProofError> {
        if text.len() > Self::MAX_BYTES {
            return Err(TlogProofError::TooLong);
        }
        let (head, checkpoint) = text.split_once("\n\n").ok_or(TlogProofError::Malformed)?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(TlogProofError::Version);
        }
        let extra = lines
            .next_if(|line| line.starts_with("extra "))
            .and_then(|line| line.strip_prefix("extra "))
            .map(|extra| STANDARD.decode(extra))
            .transpose()
            .map_err(|_| TlogProofError::Malformed)?;
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .and_then(parse_decimal)
            .ok_or(TlogProofError::Malformed)?;
        let hashes: Option<Vec<_>> = lines.take(MAX_HASHES + 1).map(hash_from_base64).collect();
        let hashes = hashes
            .filter(|hashes| hashes.len() <= MAX_HASHES)
            .ok_or(TlogProofError::Malformed)?;
        let checkpoint = checkpoint.parse().map_err(|_| TlogProofError::Malformed)?;
        Ok(Self {
            extra,
            index,
            proof: InclusionProof(hashes),
            checkpoint,
        })
    }
}

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Levels of a tree of 2^64 leaves.
const MAX_HASHES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn malformed_proofs_are_refused() {
        let good = include_str!("../tests/vectors/c2sp/n70/proof.tlog-proof");
        assert!(good.parse::<TlogProof>().is_ok());
        let hash = good.lines().nth(2).unwrap();
        let index = "index 23\n";
        for (bad, expected) in [
            (good.replace("@v1", "@v2"), TlogProofError::Version),
            (String::new(), TlogProofError::Malformed),
            (
                good.replace(index, "index 023\n"),
                TlogProofError::Malformed,
            ),
            (good.replace(index, "index -1\n"), TlogProofError::Malformed),
            (good.replace(index, ""), TlogProofError::Malformed),
            (
                good.replace(index, &format!("{index}extra AAAA\n")),
                TlogProofError::Malformed,
            ),
            (
                good.replace(index, &format!("extra AAA\n{index}")),
                TlogProofError::Malformed,
            ),
            (good.replace(hash, "AAAA"), TlogProofError::Malformed),
            (
                good.replace(hash, &[hash; 65].join("\n")),
                TlogProofError::Malformed,
            ),
            (good.replacen("\n\n", "\n", 1), TlogProofError::Malformed),
            (
                format!("{good}{}", "x".repeat(TlogProof::MAX_BYTES)),
                TlogProofError::TooLong,
            ),
        ] {
            assert_eq!(bad.parse::<TlogProof>(), Err(expected), "{bad:.200}");
        }
    }

    proptest! {
        #[test]
        fn parse_of_arbitrary_text_never_panics(
            rest in "(?s)(extra |index |[0-9A-Za-z=]|\n|\u{2014}| ){0,60}"
        ) {
            for text in [format!("{HEADER}\n{rest}"), rest] {
                if let Ok(proof) = text.parse::<TlogProof>() {
                    prop_assert_eq!(proof.to_string(), text);
                }
            }
        }
    }
}
