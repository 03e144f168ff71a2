use crate::{Session, clock, files};
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use medanchor_anchor::{Body, Leaf, LeafIndex, Opening, Receipt, SignedStatement, Strength};
use medanchor_api::LeafName;
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Leaves of the log, in order, as a node tells them.
#[derive(Clone, Debug, Serialize)]
pub struct LogList {
    /// They.
    pub leaves: Vec<LeafRow>,
}

/// One leaf.
#[derive(Clone, Debug, Serialize)]
pub struct LeafRow {
    /// Its index.
    pub leaf_index: u64,
    /// Its log time.
    pub at: String,
    /// Kind of the statement.
    pub kind: String,
    /// `ok`, or why it was refused.
    pub outcome: String,
    /// The record, of an `anchored` leaf.
    pub record: Option<String>,
    /// What the statement says, where the user may see it.
    pub says: Option<String>,
}

/// A leaf with the proof that it is in the log.
#[derive(Clone, Debug, Serialize)]
pub struct LeafShown {
    /// The leaf.
    #[serde(flatten)]
    pub leaf: LeafRow,
    /// did:key of those who signed the statement, where the user may see it.
    pub signed_by: Vec<String>,
    /// Size of the tree that the receipt's checkpoint is of.
    pub tree_size: u64,
    /// How many witnesses co-signed it.
    pub cosigners: usize,
}

/// A leaf whose receipt was written to a file.
#[derive(Clone, Debug, Serialize)]
pub struct LeafProved {
    /// The leaf.
    #[serde(flatten)]
    pub leaf: LeafShown,
    /// The receipt's file.
    pub receipt: String,
}

/// Leaves from index `from`, at most `limit`.
///
/// # Errors
///
/// When no node answers.
pub async fn list_leaves(session: &Session, from: LeafIndex, limit: u64) -> Result<LogList> {
    let leaves = session.client.leaves(from, Some(limit)).map(|entry| {
        entry.map(|entry| LeafRow::new(entry.index, &entry.leaf, entry.opening.as_ref()))
    });
    Ok(LogList {
        leaves: leaves.try_collect().await.context("list leaves")?,
    })
}

/// A leaf, with its receipt verified.
///
/// # Errors
///
/// When no node answers, or the receipt does not verify.
pub async fn show_leaf(session: &Session, index: LeafIndex) -> Result<LeafShown> {
    Ok(proved(session, index).await?.1)
}

/// Gets the receipt of any leaf, verifies it and writes it to a file; absent, `leaf-<index>.tlog-proof` in the
/// current folder.
///
/// # Errors
///
/// When no node answers, the receipt does not verify, or the file cannot be written.
pub async fn prove_leaf(
    session: &Session,
    index: LeafIndex,
    output: Option<&Path>,
) -> Result<LeafProved> {
    let (receipt, leaf) = proved(session, index).await?;
    let path = match output {
        Some(path) => path.to_owned(),
        None => PathBuf::from(format!("leaf-{index:08}.tlog-proof")),
    };
    files::replace(&path, receipt.to_string().as_bytes())
        .with_context(|| format!("write `{}`", path.display()))?;
    Ok(LeafProved {
        leaf,
        receipt: path.display().to_string(),
    })
}

/// A published receipt of a leaf, verified.
async fn proved(session: &Session, index: LeafIndex) -> Result<(Receipt, LeafShown)> {
    let strength = Strength::Published;
    let (_, receipt) = session
        .client
        .receipt(LeafName::Index(index), strength)
        .await
        .context("fetch the leaf's receipt")?;
    let verified = receipt
        .verify(&session.policy, strength)
        .context("verify the receipt")?;
    if verified.index != index {
        let problem = format!("the node gave a receipt of leaf {}", verified.index);
        return Err(crate::CliError::NotVerified(problem).into());
    }
    session.remember(&receipt)?;
    let signed = verified.opening.map(|opening| &opening.0.signed);
    let shown = LeafShown {
        leaf: LeafRow::new(index, verified.leaf, verified.opening),
        signed_by: signed.map(signers).unwrap_or_default(),
        tree_size: verified.checkpoint.checkpoint.size,
        cosigners: verified.checkpoint.cosigners.len(),
    };
    Ok((receipt, shown))
}

impl LeafRow {
    pub(crate) fn new(index: LeafIndex, leaf: &Leaf, opening: Option<&Opening>) -> Self {
        Self {
            leaf_index: index,
            at: clock::rfc3339(leaf.at),
            kind: leaf.kind.to_string(),
            outcome: leaf.outcome.to_string(),
            record: leaf.record.map(|cid| cid.to_string()),
            says: opening.map(|opening| summary(&opening.0.signed.statement.body)),
        }
    }
}

fn signers(signed: &SignedStatement) -> Vec<String> {
    signed
        .signatures
        .iter()
        .map(|(by, _)| by.to_string())
        .collect()
}

/// A statement in one line.
fn summary(body: &Body) -> String {
    match body {
        Body::Founded(body) => format!(
            "{} members, quorum {}, {} copies",
            body.members.len(),
            body.quorum,
            body.copies
        ),
        Body::Enrolled(body) => format!("{} as {}", body.who, body.roles.join(",")),
        Body::Suspended(body) | Body::Reinstated(body) | Body::Revoked(body) => {
            body.who.to_string()
        }
        Body::Custody(body) => format!("{} epoch {} of {}", body.custody, body.epoch, body.owner),
        Body::Consented(body) => format!(
            "{} for {} under {}",
            hex::encode(body.consent.as_slice()),
            body.purposes.join(","),
            body.custody
        ),
        Body::Withdrawn(body) => {
            format!(
                "{} under {}",
                hex::encode(body.consent.as_slice()),
                body.custody
            )
        }
        Body::Anchored(body) => format!("{} bytes of {} by {}", body.size, body.class, body.device),
        Body::AccessRequest(body) => asked(&body.purpose, &body.role, body.records.len()),
        Body::Released(body) => request_summary(&body.request),
        Body::Refused(body) => format!("{}: {}", body.code, request_summary(&body.request)),
        Body::MemberAdded(body) => format!("{}, quorum {}", body.name, body.quorum),
        Body::MemberRemoved(body) => format!("node {}, quorum {}", body.node_id, body.quorum),
    }
}

fn request_summary(request: &SignedStatement) -> String {
    match (&request.statement.body, request.author()) {
        (Body::AccessRequest(body), Some(who)) => {
            format!(
                "{who} {}",
                asked(&body.purpose, &body.role, body.records.len())
            )
        }
        _ => "no request".to_owned(),
    }
}

fn asked(purpose: &str, role: &str, records: usize) -> String {
    format!("asked for {records} records, {purpose} as {role}")
}

impl fmt::Display for LeafRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, at, kind, outcome) = (self.leaf_index, &self.at, &self.kind, &self.outcome);
        write!(f, "{index:>6}  {at}  {kind:<10}  {outcome:<9}")?;
        for more in [&self.record, &self.says].into_iter().flatten() {
            write!(f, "  {more}")?;
        }
        Ok(())
    }
}

impl fmt::Display for LogList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.leaves.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl fmt::Display for LeafProved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.leaf)?;
        write!(f, "receipt in {}", self.receipt)
    }
}

impl fmt::Display for LeafShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.leaf)?;
        for signer in &self.signed_by {
            writeln!(f, "signed by {signer}")?;
        }
        write!(
            f,
            "in the log of {} leaves, with {} co-signatures",
            self.tree_size, self.cosigners
        )
    }
}
