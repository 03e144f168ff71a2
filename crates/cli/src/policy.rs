use crate::{CliError, Session, files, home::POLICY_CHAIN};
use anyhow::{Context, Result};
use medanchor_anchor::{Checkpoint, Epochs, Receipt, TrustPolicy};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

/// The trust policy as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyUpdated {
    /// How often it changed since the policy file.
    pub changes: usize,
    /// The largest log that the policy before it is for.
    pub after: u64,
    /// The policy in force (C2SP tlog-policy).
    pub policy: String,
    /// The chain that leads to it from the policy file.
    pub chain: PathBuf,
    /// What is weak in it.
    pub policy_warnings: Vec<String>,
}

/// Fetches the policy chain, follows it from the policy file that the user trusts, and keeps it. It also proves
/// that the checkpoints of the receipts in the home, and of `receipts`, are of the log as it is now.
///
/// # Errors
///
/// When no node answers, or the chain does not verify, or is shorter than the one kept.
pub async fn update_policy(session: &Session, receipts: &[PathBuf]) -> Result<PolicyUpdated> {
    let mut sizes = BTreeSet::new();
    for file in kept_receipts(&session.home.folder("receipts")?)?
        .iter()
        .chain(receipts)
    {
        let size = size_of(file).with_context(|| format!("read receipt `{}`", file.display()))?;
        sizes.insert(size);
    }
    let sizes: Vec<u64> = sizes.into_iter().rev().take(MAX_SIZES).collect();
    let chain = session.client.policy_chain(&sizes).await;
    let chain = chain.context("fetch the policy chain")?;
    let root = session.home.trust_policy(&session.home.client_file()?)?;
    let epochs = Epochs::follow(root, &chain).context("follow the policy chain")?;
    if epochs.changes() < session.policy().changes() {
        let problem = "the node knows fewer changes of the policy than are kept here";
        return Err(CliError::NotVerified(problem.to_owned()).into());
    }
    let path = session.home.join(POLICY_CHAIN);
    files::replace(&path, &chain.to_bytes())
        .with_context(|| format!("keep `{}`", path.display()))?;
    let warnings = epochs.current().warnings();
    let updated = PolicyUpdated {
        changes: epochs.changes(),
        after: epochs.current_after(),
        policy: epochs.current().to_string(),
        chain: path,
        policy_warnings: warnings.iter().map(ToString::to_string).collect(),
    };
    session.set_policy(epochs);
    Ok(updated)
}

/// What is weak in the policies that logs of these sizes are judged by.
pub(crate) fn warnings_at(policy: &Epochs, sizes: &[u64]) -> Vec<String> {
    let policies = sizes.iter().map(|size| policy.at(*size));
    let warnings = policies.flat_map(TrustPolicy::warnings);
    let each_once: BTreeSet<_> = warnings.map(|warning| warning.to_string()).collect();
    each_once.into_iter().collect()
}

fn kept_receipts(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(folder).context("list the receipts")?;
    let paths = files.map(|file| Ok(file?.path()));
    let mut paths = paths
        .collect::<Result<Vec<_>>>()
        .context("list the receipts")?;
    paths.retain(|path| {
        path.extension()
            .is_some_and(|ending| ending == "tlog-proof")
    });
    Ok(paths)
}

fn size_of(receipt: &Path) -> Result<u64> {
    let text = files::read_text(receipt, u64::try_from(Receipt::MAX_BYTES)?)?;
    let receipt: Receipt = text.parse()?;
    let checkpoint: Checkpoint = receipt.checkpoint.text().parse()?;
    Ok(checkpoint.size)
}

impl fmt::Display for PolicyUpdated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (changes, after) = (self.changes, self.after);
        writeln!(f, "changes   {changes}")?;
        writeln!(f, "in force  after {after} leaves")?;
        writeln!(f, "chain     {}", self.chain.display())?;
        write!(f, "{}", self.policy.trim_end())?;
        for warning in &self.policy_warnings {
            write!(f, "\nwarning   {warning}")?;
        }
        Ok(())
    }
}

/// As many as a node proves at once; the newest.
const MAX_SIZES: usize = 1024;
