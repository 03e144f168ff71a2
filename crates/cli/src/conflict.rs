use crate::files;
use anyhow::{Context, Result};
use medanchor_anchor::{BatchConflict, Epochs, Strength};
use serde::Serialize;
use std::{fmt, path::Path};

/// The proof that a leader lied, and it verifies.
#[derive(Clone, Debug, Serialize)]
pub struct ProvenConflict {
    /// Short name of the organisation whose node lied.
    pub liar: String,
    /// did:key of that organisation.
    pub org: String,
    /// What it signed twice.
    pub conflict: String,
    /// The network's name.
    pub origin: String,
}

/// Whether a file says that it is the proof of two batch heads' conflict.
pub fn is_conflict(file: &Path) -> bool {
    let limit = u64::try_from(BatchConflict::MAX_BYTES).unwrap_or(u64::MAX);
    files::read_text(file, limit).is_ok_and(|text| BatchConflict::claims(&text))
}

/// Verifies by a trust policy that two batch heads conflict, and whose they are. Nobody is asked.
///
/// # Errors
///
/// When the file cannot be read, or something does not verify.
pub fn verify_conflict(file: &Path, epochs: &Epochs, strength: Strength) -> Result<ProvenConflict> {
    let limit = u64::try_from(BatchConflict::MAX_BYTES)?;
    let proof: BatchConflict = files::read_text(file, limit)?
        .parse()
        .context("parse the proof")?;
    let liar = proof.verify(epochs, strength).context("verify the proof")?;
    Ok(ProvenConflict {
        liar: liar.name.to_owned(),
        org: liar.org.to_string(),
        conflict: liar.conflict.to_string(),
        origin: liar.origin.to_owned(),
    })
}

impl fmt::Display for ProvenConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "proven    `{}` lied as a leader of {}",
            self.liar, self.origin
        )?;
        writeln!(f, "it signed {}", self.conflict)?;
        write!(f, "org       {}", self.org)
    }
}
