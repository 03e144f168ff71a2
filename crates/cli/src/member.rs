use crate::{CliError, Session, clock, files};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, Log, MemberRemoved, SignedStatement, Statement};
use medanchor_api::ListedMember;
use medanchor_dag::Did;
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Who keeps the log.
#[derive(Clone, Debug, Serialize)]
pub struct MemberList {
    /// All that ever were members, by node id.
    pub members: Vec<MemberRow>,
    /// Co-signatures that a published checkpoint carries.
    pub quorum: u32,
    /// How many outside witnesses there are.
    pub witnesses: u32,
}

/// A member, or one that was removed.
#[derive(Clone, Debug, Serialize)]
pub struct MemberRow {
    /// Its node's id, which no other node ever gets.
    pub node_id: u64,
    /// Short name.
    pub name: String,
    /// did:key of the organisation.
    pub org: String,
    /// did:key of its node.
    pub node: String,
    /// The leaf that added it; 0 for founders.
    pub added_at: u64,
    /// The leaf that removed it.
    pub removed_at: Option<u64>,
}

/// A draft of a change of the members, and who has signed it so far.
#[derive(Clone, Debug, Serialize)]
pub struct MemberDraft {
    /// `member-added` or `member-removed`.
    pub change: String,
    /// The organisation that joins or is removed.
    pub org: String,
    /// Its short name; of a removal, only the log knows it.
    pub name: Option<String>,
    /// Where its node will be.
    pub address: Option<String>,
    /// The id of the node that is removed.
    pub node_id: Option<u64>,
    /// Co-signatures that a published checkpoint carries from then on.
    pub quorum: u8,
    /// Until when it can be submitted.
    pub not_after: String,
    /// did:key of those who have signed.
    pub signed_by: Vec<String>,
    /// The file.
    pub file: PathBuf,
}

/// The members have changed.
#[derive(Clone, Debug, Serialize)]
pub struct MemberChanged {
    /// `member-added` or `member-removed`.
    pub change: String,
    /// The leaf.
    pub leaf_index: u64,
    /// Its receipt, published under the policy before the change; absent when it was not waited for.
    pub receipt: Option<PathBuf>,
}

/// Which change a draft must be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// An organisation joins.
    Added,
    /// One is removed.
    Removed,
}

/// Who keeps the log, as a node says.
///
/// # Errors
///
/// When no node answers.
pub async fn list_members(session: &Session) -> Result<MemberList> {
    let listed = session.client.members().await.context("list the members")?;
    Ok(MemberList {
        quorum: listed.quorum,
        witnesses: listed.witnesses,
        members: listed.members.into_iter().map(MemberRow::from).collect(),
    })
}

/// Drafts that a member is removed, signs it in the name of the user's organisation, and writes it to `output`,
/// which must not exist yet. A majority of the other members must sign it.
///
/// # Errors
///
/// When there is no such member, no node answers, or the file cannot be written.
pub async fn draft_removal(
    session: &Session,
    name: &str,
    quorum: u8,
    output: &Path,
) -> Result<MemberDraft> {
    let keys = session.home.own_keys()?;
    let listed = session.client.members().await.context("list the members")?;
    let is_meant = |member: &&ListedMember| member.name == name && member.removed_at.is_none();
    let member = listed.members.iter().find(is_meant);
    let member = member.ok_or_else(|| CliError::Usage(format!("no member is named `{name}`")))?;
    let body = MemberRemoved {
        org: member.org,
        node_id: member.node_id,
        log_key: member.log_key.clone(),
        cosigner_key: member.cosigner_key.clone(),
        quorum,
    };
    let body = Body::MemberRemoved(body);
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).context("draw a nonce")?;
    let not_after = clock::unix_ms().saturating_add(VALID_FOR_MS);
    let statement = Statement::new(&session.origin, body, nonce, not_after);
    let signed = statement.sign(&[&keys.signing]);
    files::create(output, &signed.to_bytes())
        .with_context(|| format!("create `{}`", output.display()))?;
    draft(&signed, output)
}

/// Signs a draft in the name of the user's organisation.
///
/// # Errors
///
/// When the file is no such draft, or cannot be written.
pub fn approve(session: &Session, file: &Path) -> Result<MemberDraft> {
    let keys = session.home.own_keys()?;
    let drafted = read(file)?;
    check_origin(session, &drafted)?;
    let own = drafted.statement.clone().sign(&[&keys.signing]);
    let signed = merge(drafted, own)?;
    files::replace(file, &signed.to_bytes())
        .with_context(|| format!("write `{}`", file.display()))?;
    draft(&signed, file)
}

/// Submits a draft that enough members have signed: in one file, or each in a copy.
///
/// # Errors
///
/// When a file is no such draft, they differ, or the log refuses it.
pub async fn submit_change(
    session: &Session,
    change: MemberChange,
    drafts: &[PathBuf],
) -> Result<MemberChanged> {
    let mut all = drafts.iter().map(|file| read(file));
    let first = all.next().context("no draft is given")??;
    let signed = all.try_fold(first, |signed, other| merge(signed, other?))?;
    check_origin(session, &signed)?;
    let is_of = match &signed.statement.body {
        Body::MemberAdded(_) => MemberChange::Added,
        _ => MemberChange::Removed,
    };
    if is_of != change {
        let problem = "the draft is of the other kind: see `medanchor admin member --help`";
        return Err(CliError::Usage(problem.to_owned()).into());
    }
    require_majority(session, &signed).await?;
    let said = session.submit(&signed).await?;
    let recorded = session.recorded(&signed, &said)?;
    Ok(MemberChanged {
        change: signed.statement.body.kind().to_string(),
        leaf_index: recorded.leaf_index,
        receipt: recorded.receipt,
    })
}

/// The log judges a statement once: it must not be submitted before a majority of the members, or of the others
/// when one is removed, has signed it.
async fn require_majority(session: &Session, signed: &SignedStatement) -> Result<()> {
    let listed = session.client.members().await.context("list the members")?;
    let leaves = match &signed.statement.body {
        Body::MemberRemoved(body) => Some(body.node_id),
        _ => None,
    };
    let has_say =
        |member: &&ListedMember| member.removed_at.is_none() && Some(member.node_id) != leaves;
    let members: Vec<_> = listed.members.iter().filter(has_say).collect();
    let has_signed = |member: &&&ListedMember| {
        let mut signers = signed.signatures.iter();
        signers.any(|(by, _)| *by == member.org)
    };
    let (have, needed) = (
        members.iter().filter(has_signed).count(),
        members.len() / 2 + 1,
    );
    if have >= needed {
        return Ok(());
    }
    let problem = format!(
        "{have} of {} members who have a say have signed the draft, {needed} must: it was not submitted",
        members.len()
    );
    Err(CliError::Usage(problem).into())
}

fn read(file: &Path) -> Result<SignedStatement> {
    let limit = u64::try_from(SignedStatement::MAX_BYTES)?;
    let signed = SignedStatement::from_bytes(&files::read(file, limit)?)
        .with_context(|| format!("parse draft `{}`", file.display()))?;
    let is_change = matches!(
        signed.statement.body,
        Body::MemberAdded(_) | Body::MemberRemoved(_)
    );
    if is_change && signed.verifies() {
        return Ok(signed);
    }
    let problem = format!("`{}` is no signed change of the members", file.display());
    Err(CliError::NotVerified(problem).into())
}

fn check_origin(session: &Session, signed: &SignedStatement) -> Result<()> {
    let origin = &signed.statement.origin;
    match *origin == session.origin {
        true => Ok(()),
        false => Err(CliError::NotVerified(format!("the draft is of network `{origin}`")).into()),
    }
}

/// One statement with the signatures of both, each key once.
fn merge(mut signed: SignedStatement, other: SignedStatement) -> Result<SignedStatement> {
    if signed.statement != other.statement {
        let problem = "the drafts are not of the same statement".to_owned();
        return Err(CliError::NotVerified(problem).into());
    }
    for (by, signature) in other.signatures {
        let known: Vec<Did> = signed.signatures.iter().map(|(by, _)| *by).collect();
        if !known.contains(&by) {
            signed.signatures.push((by, signature));
        }
    }
    let many = signed.signatures.len() > SignedStatement::MAX_SIGNATURES;
    anyhow::ensure!(!many, "more signatures than a statement may have");
    Ok(signed)
}

fn draft(signed: &SignedStatement, file: &Path) -> Result<MemberDraft> {
    let (org, name, address, node_id, quorum) = match &signed.statement.body {
        Body::MemberAdded(body) => {
            let (name, address) = (body.name.clone(), body.address.clone());
            (body.org, Some(name), Some(address), None, body.quorum)
        }
        Body::MemberRemoved(body) => (body.org, None, None, Some(body.node_id), body.quorum),
        _ => anyhow::bail!("not a change of the members"),
    };
    let not_after = signed.statement.not_after_unix_ms.unwrap_or(0);
    Ok(MemberDraft {
        change: signed.statement.body.kind().to_string(),
        org: org.to_string(),
        name,
        address,
        node_id,
        quorum,
        not_after: clock::rfc3339(not_after),
        signed_by: signed
            .signatures
            .iter()
            .map(|(by, _)| by.to_string())
            .collect(),
        file: file.to_owned(),
    })
}

impl From<ListedMember> for MemberRow {
    fn from(member: ListedMember) -> Self {
        Self {
            node_id: member.node_id,
            name: member.name,
            org: member.org.to_string(),
            node: member.node.to_string(),
            added_at: member.added_at,
            removed_at: member.removed_at,
        }
    }
}

impl fmt::Display for MemberList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.members.iter().filter(|row| row.removed_at.is_none());
        let (now, quorum, witnesses) = (now.count(), self.quorum, self.witnesses);
        write!(
            f,
            "{now} members, {witnesses} outside witnesses, quorum {quorum}"
        )?;
        for row in &self.members {
            let (id, name, org) = (row.node_id, &row.name, &row.org);
            write!(f, "\n{id:>3}  {name:<20}  {org}  ")?;
            match (row.added_at, row.removed_at) {
                (_, Some(leaf)) => write!(f, "removed by leaf {leaf}")?,
                (0, None) => write!(f, "founder")?,
                (leaf, None) => write!(f, "added by leaf {leaf}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for MemberDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.change)?;
        writeln!(f, "org       {}", self.org)?;
        if let Some(name) = &self.name {
            writeln!(f, "name      {name}")?;
        }
        if let Some(address) = &self.address {
            writeln!(f, "address   {address}")?;
        }
        if let Some(node_id) = &self.node_id {
            writeln!(f, "node id   {node_id}")?;
        }
        writeln!(f, "quorum    {}", self.quorum)?;
        writeln!(f, "not after {}", self.not_after)?;
        for signer in &self.signed_by {
            writeln!(f, "signed by {signer}")?;
        }
        write!(f, "file      {}", self.file.display())
    }
}

impl fmt::Display for MemberChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, leaf {}", self.change, self.leaf_index)?;
        match &self.receipt {
            Some(receipt) => write!(f, "\nreceipt {}", receipt.display()),
            None => Ok(()),
        }
    }
}

/// As long as a statement about members may be.
const VALID_FOR_MS: u64 = Log::MAX_MEMBER_VALIDITY_MS - 60 * 60 * 1000;
