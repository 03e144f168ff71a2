use crate::{files, policy::warnings_at};
use anyhow::{Context, Result};
use medanchor_anchor::{Checkpoint, Epochs, Equivocation, Receipt, VerifierKey};
use serde::Serialize;
use std::{fmt, path::Path};

/// That a log contradicts itself, and who answers for it.
#[derive(Clone, Debug, Serialize)]
pub struct EquivocationShown {
    /// What is proven: `equivocation`.
    pub proven: &'static str,
    /// The log.
    pub origin: String,
    /// The two checkpoints that cannot both be true.
    pub checkpoints: [SignedSize; 2],
    /// The keys that signed both: each of their owners lied, or lost the key.
    pub signed_both: Vec<String>,
    /// Those that signed the first alone.
    pub signed_first: Vec<String>,
    /// Those that signed the second alone.
    pub signed_second: Vec<String>,
    /// What is weak in the policies that judge the two.
    pub policy_warnings: Vec<String>,
}

/// What a checkpoint says.
#[derive(Clone, Debug, Serialize)]
pub struct SignedSize {
    /// Number of leaves.
    pub size: u64,
    /// Root of their tree, in hexadecimal.
    pub root: String,
}

/// Whether a file is an equivocation proof, by its first line.
pub(crate) fn is_equivocation(path: &Path) -> Result<bool> {
    use std::io::Read as _;
    let first_line = format!("{}\n", Equivocation::FIRST_LINE);
    let context = || format!("read `{}`", path.display());
    let file = std::fs::File::open(path).with_context(context)?;
    let mut beginning = Vec::new();
    file.take(u64::try_from(first_line.len())?)
        .read_to_end(&mut beginning)
        .with_context(context)?;
    Ok(beginning == first_line.as_bytes())
}

/// Verifies an equivocation proof, each checkpoint by the policy of its time. Nobody is asked.
///
/// # Errors
///
/// When the file cannot be read, or proves nothing.
pub fn verify_equivocation(path: &Path, epochs: &Epochs) -> Result<EquivocationShown> {
    let text = files::read_text(path, u64::try_from(Equivocation::MAX_BYTES)?)?;
    let proof = text.parse().context("parse the equivocation proof")?;
    check(&proof, epochs)
}

/// Makes an equivocation proof of two receipts that show different leaves at one index, and keeps it in the
/// file `output`, which must not exist yet.
///
/// # Errors
///
/// When a file cannot be read or written, or the receipts prove nothing.
pub fn accuse(receipts: [&Path; 2], output: &Path, epochs: &Epochs) -> Result<EquivocationShown> {
    let [first, second] = receipts.map(read_receipt);
    let proof = Equivocation::of_receipts(&first?, &second?);
    let shown = check(&proof, epochs)?;
    files::create(output, proof.to_string().as_bytes())
        .with_context(|| format!("create `{}`", output.display()))?;
    Ok(shown)
}

fn read_receipt(path: &Path) -> Result<Receipt> {
    files::read_text(path, u64::try_from(Receipt::MAX_BYTES)?)?
        .parse()
        .with_context(|| format!("parse receipt `{}`", path.display()))
}

fn check(proof: &Equivocation, epochs: &Epochs) -> Result<EquivocationShown> {
    let shown = proof
        .verify(epochs)
        .context("verify the equivocation proof")?;
    let [first, second] = &shown.checkpoints;
    Ok(EquivocationShown {
        proven: "equivocation",
        origin: first.origin.clone(),
        checkpoints: [first, second].map(SignedSize::from),
        signed_both: texts(&shown.signed_both),
        signed_first: texts(&shown.signed_first),
        signed_second: texts(&shown.signed_second),
        policy_warnings: warnings_at(epochs, &[first.size, second.size]),
    })
}

fn texts(keys: &[VerifierKey]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

impl From<&Checkpoint> for SignedSize {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self {
            size: checkpoint.size,
            root: checkpoint.root.to_string(),
        }
    }
}

impl fmt::Display for EquivocationShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = &self.checkpoints;
        writeln!(f, "proven    {} contradicts itself", self.origin)?;
        writeln!(f, "first     {} leaves, root {}", first.size, first.root)?;
        write!(f, "second    {} leaves, root {}", second.size, second.root)?;
        if self.signed_both.is_empty() {
            write!(
                f,
                "\nno key signed both: an owner of these keys lies, or lost one"
            )?;
        }
        for (keys, what) in [
            (&self.signed_both, "signed both"),
            (&self.signed_first, "signed the first"),
            (&self.signed_second, "signed the second"),
        ] {
            for key in keys {
                write!(f, "\n{key} {what}")?;
            }
        }
        for warning in &self.policy_warnings {
            write!(f, "\nwarning   {warning}")?;
        }
        Ok(())
    }
}
