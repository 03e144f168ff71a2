use crate::{
    NoteError, NoteSignature, SignatureKind, SignedNote, VerifierKey, VerifierKeyError,
    note::is_name,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use medanchor_dag::{Hash, SigningKey};
use std::{fmt, str::FromStr};

/// How large a log was, and what it held: the text that logs sign and witnesses co-sign
/// (<https://c2sp.org/tlog-checkpoint>). It has no extension lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The network's name.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root of the Merkle tree over them.
    pub root: Hash,
}

/// Text is not a checkpoint, or not in its one way to write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint is malformed")]
pub struct CheckpointError;

/// Why a checkpoint could not be signed: its origin cannot name a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The origin, or the co-signer's name, may not stand in a note.
    #[error(transparent)]
    Name(#[from] VerifierKeyError),
    /// No further signature fits below the note.
    #[error(transparent)]
    Note(#[from] NoteError),
}

impl Checkpoint {
    /// Signs it with one of the network's log keys.
    ///
    /// # Errors
    ///
    /// [`SignError`] when the origin cannot name a key.
    pub fn sign(&self, log: &SigningKey) -> Result<SignedNote, SignError> {
        let key = VerifierKey::new(&self.origin, SignatureKind::Ed25519, log.did())?;
        let text = self.to_string();
        let signature = log.sign_bytes(text.as_bytes()).as_bytes().to_vec();
        Ok(SignedNote::new(text, NoteSignature::new(&key, signature))?)
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.origin)?;
        writeln!(f, "{}", self.size)?;
        writeln!(f, "{}", hash_to_base64(&self.root))
    }
}

impl FromStr for Checkpoint {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.split('\n');
        let mut line = || lines.next().ok_or(CheckpointError);
        let (origin, size, root, end) = (line()?, line()?, line()?, line()?);
        if !is_name(origin) || !end.is_empty() || lines.next().is_some() {
            return Err(CheckpointError);
        }
        Ok(Self {
            origin: origin.to_owned(),
            size: parse_decimal(size).ok_or(CheckpointError)?,
            root: hash_from_base64(root).ok_or(CheckpointError)?,
        })
    }
}

/// A number as the C2SP formats write it: ASCII digits without leading zeros.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A hash as the C2SP formats write it.
pub(crate) fn hash_to_base64(hash: &Hash) -> String {
    STANDARD.encode(hash.as_bytes())
}

/// The inverse of [`hash_to_base64`].
pub(crate) fn hash_from_base64(text: &str) -> Option<Hash> {
    let bytes = STANDARD.decode(text).ok()?;
    Some(Hash::new(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOT: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    #[test]
    fn checkpoint_has_one_way_to_be_written() {
        let text = format!("anchor.example/log1\n70\n{ROOT}\n");
        let checkpoint: Checkpoint = text.parse().unwrap();
        assert_eq!(checkpoint.to_string(), text);
        for bad in [
            format!("anchor.example/log1\n070\n{ROOT}\n"),
            format!("anchor.example/log1\n+70\n{ROOT}\n"),
            format!("anchor.example/log1\n-1\n{ROOT}\n"),
            format!("anchor.example/log1\n18446744073709551616\n{ROOT}\n"),
            format!("anchor.example/log1\n70\n{ROOT}"),
            format!("anchor.example/log1\n70\n{ROOT}\nextension\n"),
            format!("anchor.example/log1\n70\n{ROOT}\n\n"),
            format!("anchor example\n70\n{ROOT}\n"),
            format!("\n70\n{ROOT}\n"),
            "anchor.example/log1\n70\n\n".to_owned(),
            format!("anchor.example/log1\n70\n{}\n", ROOT.replace("FU=", "FV=")),
        ] {
            assert!(bad.parse::<Checkpoint>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn signed_checkpoint_verifies_under_the_origin() {
        let key = SigningKey::from_seed(&[1; 32]);
        let checkpoint = Checkpoint {
            origin: "anchor.example".to_owned(),
            size: 3,
            root: Hash::of(b"root"),
        };
        let note = checkpoint.sign(&key).unwrap();
        let verifier =
            VerifierKey::new("anchor.example", SignatureKind::Ed25519, key.did()).unwrap();
        assert_eq!(note.signers([&verifier]).unwrap().len(), 1);
        assert_eq!(note.text().parse(), Ok(checkpoint));
    }

    proptest! {
        #[test]
        fn parse_of_arbitrary_text_never_panics(text in "(?s).{0,100}") {
            if let Ok(checkpoint) = text.parse::<Checkpoint>() {
                prop_assert_eq!(checkpoint.to_string(), text);
            }
        }
    }
}
