//! What members decide together: who keeps the log, which outside witnesses co-sign it, where records are held, what decides who may have
//! which keys. Each is
//! a statement that a majority of the members signs, one after the other in a file, or each in a copy.

use crate::{
    CliError, Recorded, Session, access_policy, clock, files, placement::RulesFile,
    policy::update_policy,
};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, Kind, Log, Placement, SignedStatement, Statement};
use medanchor_api::ListedMember;
use medanchor_dag::Did;
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A draft of a change, and who has signed it so far.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyDraft {
    /// `member-added`, `member-removed`, `witness-added`, `witness-removed`, `placed` or `policy-set`.
    pub change: String,
    /// The organisation that joins or is removed.
    pub org: Option<String>,
    /// Its short name; of a removal, only the log knows it.
    pub name: Option<String>,
    /// Where its node will be.
    pub address: Option<String>,
    /// The id of the node that is removed.
    pub node_id: Option<u64>,
    /// The witness's key (C2SP vkey).
    pub witness: Option<String>,
    /// Where it is asked.
    pub url: Option<String>,
    /// Where records are held from then on.
    pub placement: Option<Placement>,
    /// CID of the access policy set from then on.
    pub access_policy: Option<String>,
    /// Its policies, in Cedar.
    pub policies: Option<String>,
    /// Co-signatures that a published checkpoint carries from then on, where that changes.
    pub quorum: Option<u8>,
    /// What is weak in the policy that would follow, as far as the present one is known here.
    pub policy_warnings: Vec<String>,
    /// Until when it can be submitted.
    pub not_after: String,
    /// did:key of those who have signed.
    pub signed_by: Vec<String>,
    /// The file.
    pub file: PathBuf,
}

/// The policy has changed.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyChanged {
    /// `member-added`, `member-removed`, `witness-added`, `witness-removed`, `placed` or `policy-set`.
    pub change: String,
    /// Where the log has it; the receipt is by the policy before the change.
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// Drafts a change, signs it in the name of the user's organisation, and writes it to `output`, which must not exist
/// yet.
///
/// # Errors
///
/// When no node answers, or the file cannot be written.
pub async fn draft_change(session: &Session, body: Body, output: &Path) -> Result<PolicyDraft> {
    let keys = session.home.own_keys()?;
    update_policy(session, &[]).await?;
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).context("draw a nonce")?;
    let not_after = clock::unix_ms().saturating_add(VALID_FOR_MS);
    let statement = Statement::new(&session.origin, body, nonce, not_after);
    let signed = statement.sign(&[&keys.signing]);
    files::create(output, &signed.to_bytes())
        .with_context(|| format!("create `{}`", output.display()))?;
    draft(session, &signed, output)
}

/// Signs a draft in the name of the user's organisation.
///
/// # Errors
///
/// When the file is no such draft, or cannot be written.
pub fn approve(session: &Session, file: &Path) -> Result<PolicyDraft> {
    let keys = session.home.own_keys()?;
    let drafted = read(file)?;
    check_origin(session, &drafted)?;
    // What cannot be shown is not signed.
    draft(session, &drafted, file)?;
    let own = drafted.statement.clone().sign(&[&keys.signing]);
    let signed = merge(drafted, own)?;
    files::replace(file, &signed.to_bytes())
        .with_context(|| format!("write `{}`", file.display()))?;
    draft(session, &signed, file)
}

/// Submits a draft that enough members have signed: in one file, or each in a copy.
///
/// # Errors
///
/// When a file is no draft of this kind, they differ, or the log refuses it.
pub async fn submit_change(
    session: &Session,
    change: Kind,
    drafts: &[PathBuf],
) -> Result<PolicyChanged> {
    let mut all = drafts.iter().map(|file| read(file));
    let first = all.next().context("no draft is given")??;
    let signed = all.try_fold(first, |signed, other| merge(signed, other?))?;
    check_origin(session, &signed)?;
    let kind = signed.statement.body.kind();
    if kind != change {
        let problem = format!("the draft says `{kind}`: another command submits it");
        return Err(CliError::Usage(problem).into());
    }
    require_majority(session, &signed).await?;
    let said = session.submit(&signed).await?;
    Ok(PolicyChanged {
        change: kind.to_string(),
        recorded: session.recorded(&signed, &said)?,
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
    if signed.statement.body.needs_majority() && signed.verifies() {
        return Ok(signed);
    }
    let problem = format!(
        "`{}` is no signed draft of what members decide together",
        file.display()
    );
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

fn draft(session: &Session, signed: &SignedStatement, file: &Path) -> Result<PolicyDraft> {
    let body = &signed.statement.body;
    // Whether one follows at all is for the log to say, which knows the present one.
    let warnings = session.policy().after(body).map(|policy| policy.warnings());
    let warnings = warnings.unwrap_or_default();
    let not_after = signed.statement.not_after_unix_ms.unwrap_or(0);
    let signers = signed.signatures.iter();
    let mut draft = PolicyDraft {
        change: body.kind().to_string(),
        org: None,
        name: None,
        address: None,
        node_id: None,
        witness: None,
        url: None,
        placement: None,
        access_policy: None,
        policies: None,
        quorum: body.changes_policy(),
        policy_warnings: warnings.iter().map(ToString::to_string).collect(),
        not_after: clock::rfc3339(not_after),
        signed_by: signers.map(|(by, _)| by.to_string()).collect(),
        file: file.to_owned(),
    };
    match body {
        Body::MemberAdded(body) => {
            draft.org = Some(body.org.to_string());
            draft.name = Some(body.name.clone());
            draft.address = Some(body.address.clone());
        }
        Body::MemberRemoved(body) => {
            draft.org = Some(body.org.to_string());
            draft.node_id = Some(body.node_id);
        }
        Body::WitnessAdded(body) => {
            draft.witness = Some(body.key.clone());
            draft.url = Some(body.url.clone());
        }
        Body::WitnessRemoved(body) => draft.witness = Some(body.key.clone()),
        Body::Placed(body) => draft.placement = Some(body.as_ref().clone()),
        Body::PolicySet(body) => {
            let set = access_policy::parse(body)?;
            draft.access_policy = Some(set.cid().to_string());
            draft.policies = Some(set.text().to_owned());
        }
        _ => (),
    }
    Ok(draft)
}

impl fmt::Display for PolicyDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.change)?;
        let node_id = self.node_id.map(|node_id| node_id.to_string());
        for (what, value) in [
            ("org", &self.org),
            ("name", &self.name),
            ("address", &self.address),
            ("node id", &node_id),
            ("witness", &self.witness),
            ("url", &self.url),
        ] {
            if let Some(value) = value {
                writeln!(f, "{what:<9} {value}")?;
            }
        }
        if let Some(quorum) = self.quorum {
            writeln!(f, "quorum    {quorum}")?;
        }
        if let Some(placement) = &self.placement {
            write!(f, "{}", RulesFile::unnamed(placement))?;
        }
        if let (Some(cid), Some(policies)) = (&self.access_policy, &self.policies) {
            writeln!(f, "set       {cid}\n\n{policies}\n")?;
        }
        writeln!(f, "not after {}", self.not_after)?;
        for signer in &self.signed_by {
            writeln!(f, "signed by {signer}")?;
        }
        for warning in &self.policy_warnings {
            writeln!(f, "warning   {warning}")?;
        }
        write!(f, "file      {}", self.file.display())
    }
}

impl fmt::Display for PolicyChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.change, self.recorded)
    }
}

/// As long as a statement that several organisations sign may be.
const VALID_FOR_MS: u64 = Log::MAX_MEMBER_VALIDITY_MS - 60 * 60 * 1000;
