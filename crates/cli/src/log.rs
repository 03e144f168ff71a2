use crate::{CliError, ProvisionRow, Session, clock, files, session::patiently};
use anyhow::{Context, Result};
use futures::TryStreamExt;
use medanchor_anchor::{
    AccessRequest, Account, AccountOf, Body, BreakGlassRule, Leaf, LeafIndex, LegalHold, Nonce,
    Opening, Receipt, SignedStatement, Strength,
};
use medanchor_api::{LeafEntry, LeafName};
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
    /// Leaves in the log as the node that answered had applied it last.
    pub tree_size: u64,
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
    let mut list = LogList {
        leaves: Vec::new(),
        tree_size: 0,
    };
    let mut listed = std::pin::pin!(session.client.leaves_as_of(from, Some(limit)));
    while let Some(listed) = listed.try_next().await.context("list leaves")? {
        list.tree_size = listed.tree_size;
        let row = |entry: LeafEntry| LeafRow::new(entry.index, &entry.leaf, entry.opening.as_ref());
        list.leaves.extend(listed.value.map(row));
    }
    Ok(list)
}

/// A leaf, with its receipt verified.
///
/// # Errors
///
/// When no node answers, or the receipt does not verify.
pub async fn show_leaf(session: &Session, leaf: LeafName) -> Result<LeafShown> {
    Ok(proved(session, leaf, Strength::Published).await?.1)
}

/// Gets the receipt of any leaf, verifies it and writes it to a file; absent, `leaf-<index>.tlog-proof` in the
/// current folder.
///
/// # Errors
///
/// When no node answers, the receipt does not verify, or the file cannot be written.
pub async fn prove_leaf(
    session: &Session,
    leaf: LeafName,
    strength: Strength,
    output: Option<&Path>,
) -> Result<LeafProved> {
    let (receipt, leaf) = proved(session, leaf, strength).await?;
    let path = match output {
        Some(path) => path.to_owned(),
        None => PathBuf::from(format!("leaf-{:08}.tlog-proof", leaf.leaf.leaf_index)),
    };
    files::replace(&path, receipt.to_string().as_bytes())
        .with_context(|| format!("write `{}`", path.display()))?;
    Ok(LeafProved {
        leaf,
        receipt: path.display().to_string(),
    })
}

/// A receipt of a leaf, verified, and that it is of that leaf.
pub(crate) async fn proved(
    session: &Session,
    leaf: LeafName,
    strength: Strength,
) -> Result<(Receipt, LeafShown)> {
    let (_, receipt) = patiently(async || session.client.receipt(leaf, strength).await)
        .await
        .context("fetch the leaf's receipt")?;
    session.keep_up(&receipt.checkpoint, strength).await;
    let verified = receipt
        .verify(&*session.policy(), strength)
        .context("verify the receipt")?;
    let index = verified.index;
    let signed = verified.opening.map(|opening| &opening.0.signed);
    let is_it = match leaf {
        LeafName::Index(asked) => index == asked,
        LeafName::Record(asked) => verified.leaf.record == Some(asked),
        LeafName::Statement(asked) => signed.is_some_and(|s| s.statement.hash() == asked),
    };
    if !is_it {
        let problem = format!("the node gave a receipt of leaf {index}, which is another");
        return Err(CliError::NotVerified(problem).into());
    }
    session.remember(&receipt)?;
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
        Body::Rotated(body) => format!("{} signs with {}", body.who, body.key),
        Body::RolesChanged(body) => match body.roles.join(",") {
            none if none.is_empty() => format!("{} in no role", body.who),
            roles => format!("{} as {roles}", body.who),
        },
        Body::Custody(body) => format!("{} epoch {} of {}", body.custody, body.epoch, body.owner),
        Body::Consented(body) => format!(
            "{}: {} {} under {}",
            hex::encode(body.consent.as_slice()),
            body.effect,
            ProvisionRow::from(&body.provision),
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
        Body::AccessRequest(body) => asked(body),
        Body::Released(body) => {
            let records = body.list.records;
            format!("{records} keys: {}", request_summary(&body.request))
        }
        Body::Refused(body) => format!("{}: {}", body.code, request_summary(&body.request)),
        Body::MemberAdded(body) => format!("{}, quorum {}", body.name, body.quorum),
        Body::MemberRemoved(body) => format!("node {}, quorum {}", body.node_id, body.quorum),
        Body::WitnessAdded(body) => {
            format!("{} at {}, quorum {}", body.key, body.url, body.quorum)
        }
        Body::WitnessRemoved(body) => format!("{}, quorum {}", body.key, body.quorum),
        Body::Placed(body) => {
            let (nodes, rules) = (body.nodes.len(), body.rules.len());
            format!("{rules} rules, {nodes} nodes with a weight or zone")
        }
        Body::PolicySet(body) => body.cid().to_string(),
        Body::Holding(body) => {
            let (holds, gives_back) = (body.holds.len(), body.gives_back.len());
            format!("{} holds {holds}, gives back {gives_back}", body.node)
        }
        Body::LegalHoldPlaced(body) => legal_hold(&body.legal_hold),
        Body::LegalHoldReleased(body) => legal_hold(body),
        Body::FactorEnrolled(body) => {
            let (who, node) = (body.who, body.node);
            format!("{} of {who} at {node}", factor(&body.factor))
        }
        Body::FactorRemoved(body) => format!("{} of {}", factor(&body.factor), body.who),
        Body::EpochKey(body) => format!("of {}", body.holder),
        Body::Erased(body) => format!("{}: {} holders", body.custody, body.holders.len()),
        Body::Destroyed(body) => format!("{} of {} by {}", body.gone, body.custody, body.by),
        Body::FactorVerified(body) => format!("{} of {}", factor(&body.factor), body.who),
        Body::Account(body) => account(body),
        Body::BreakGlassRule(body) => break_glass_rule(body),
        Body::BreakGlass(body) => {
            let (who, custody, role, reason) = (body.who, body.custody, &body.role, body.reason);
            format!("{who} as {role} on {custody}: {reason}")
        }
        Body::BreakGlassReviewed(body) => {
            let (who, emergency, finding) = (body.who, body.emergency, body.finding.as_str());
            format!("{finding}: leaf {emergency} by {who}")
        }
    }
}

fn break_glass_rule(rule: &BreakGlassRule) -> String {
    let (org, reviewers) = (rule.org, rule.reviewers.len());
    match rule.roles.join(", ") {
        none if none.is_empty() => format!("nobody of {org}"),
        roles => format!("{roles} of {org}, reviewed by {reviewers}"),
    }
}

fn account(account: &Account) -> String {
    let count = account.count;
    match account.of {
        AccountOf::Custody(custody) => format!("{count} disclosures under {custody}"),
        AccountOf::Principal(principal) => format!("{count} disclosures to {principal}"),
    }
}

fn factor(id: &Nonce) -> String {
    hex::encode(id.as_slice())
}

fn legal_hold(hold: &LegalHold) -> String {
    let id = hex::encode(hold.hold.as_slice());
    let (org, custody) = (hold.org, hold.custody);
    match hold.record {
        Some(record) => format!("{id} by {org} on {record}"),
        None => format!("{id} by {org} on all under {custody}"),
    }
}

fn request_summary(request: &SignedStatement) -> String {
    match (&request.statement.body, request.author()) {
        (Body::AccessRequest(body), Some(who)) => {
            format!("{who} {}", asked(body))
        }
        _ => "no request".to_owned(),
    }
}

fn asked(request: &AccessRequest) -> String {
    let (purpose, role) = (&request.purpose, &request.role);
    let what = match &request.selection {
        None => format!("{} records", request.records.len()),
        Some(selection) => format!("what it selects of {} custody keys", selection.cohort.count),
    };
    format!("asked for {what}, {purpose} as {role}")
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
        for leaf in &self.leaves {
            writeln!(f, "{leaf}")?;
        }
        write!(f, "{} of {} leaves", self.leaves.len(), self.tree_size)
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
