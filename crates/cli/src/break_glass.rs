use crate::{CliError, OwnKeys, Recorded, Session, clock, exit::stable_code, session::patiently};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Body, BreakGlass, BreakGlassReviewed, BreakGlassRule, EmergencyEntry, Finding, LeafIndex,
    OverrideReason,
};
use medanchor_api::EmergencyQuery;
use medanchor_dag::{CustodyId, Did};
use serde::Serialize;
use std::fmt;

/// Who of the organisation's people may override consent in an emergency, and who reviews that.
#[derive(Clone, Debug)]
pub struct BreakGlassOptions {
    /// The roles in which they may; none: nobody may any more.
    pub roles: Vec<String>,
    /// The people who review it.
    pub reviewers: Vec<Did>,
    /// How long an emergency lasts, ms.
    pub lasts_ms: u64,
    /// How long after its beginning it must have been reviewed, ms.
    pub review_within_ms: u64,
}

/// What the organisation said of emergencies.
#[derive(Clone, Debug, Serialize)]
pub struct BreakGlassRuleSet {
    /// did:key of the organisation.
    pub org: String,
    /// The roles in which its people may override consent.
    pub roles: Vec<String>,
    /// did:key of those who review it.
    pub reviewers: Vec<String>,
    /// Where the log has it.
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// An emergency began.
#[derive(Clone, Debug, Serialize)]
pub struct EmergencyBegun {
    /// The custody key.
    pub custody: String,
    /// The role.
    pub role: String,
    /// HL7's code of the reason.
    pub reason: &'static str,
    /// Where the log has it. The leaf is the emergency's name.
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// An emergency is reviewed.
#[derive(Clone, Debug, Serialize)]
pub struct EmergencyReviewed {
    /// The leaf with which it began.
    pub emergency: LeafIndex,
    /// did:key of who overrode consent.
    pub who: String,
    /// `justified` or `unjustified`.
    pub finding: &'static str,
    /// Where the log has it.
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// The emergencies that concern the user.
#[derive(Clone, Debug, Serialize)]
pub struct EmergencyList {
    /// They, in the order of their leaves.
    pub emergencies: Vec<EmergencyRow>,
    /// Leaves in the log that they were read from.
    pub tree_size: u64,
}

/// One emergency in which consent was overridden.
#[derive(Clone, Debug, Serialize)]
pub struct EmergencyRow {
    /// The leaf with which it began.
    pub emergency: LeafIndex,
    /// When: that leaf's log time.
    pub at: String,
    /// did:key of who overrode consent.
    pub who: String,
    /// did:key of their organisation.
    pub org: String,
    /// In which role.
    pub role: String,
    /// Whose data: the custody key.
    pub custody: String,
    /// HL7's code of the reason.
    pub reason: &'static str,
    /// `open`, `over`, `overdue`, `justified` or `unjustified`; the first three by the clock of this computer.
    pub state: &'static str,
    /// Its last moment.
    pub until: String,
    /// The last moment for its review.
    pub due: String,
    /// did:key of who reviewed it, once somebody has.
    pub reviewed_by: Option<String>,
    /// The leaf of the review.
    pub review_leaf: Option<LeafIndex>,
}

/// Says who of the own organisation may override consent in an emergency, and who reviews that.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn set_break_glass_rule(
    session: &Session,
    options: &BreakGlassOptions,
) -> Result<BreakGlassRuleSet> {
    let keys = session.home.own_keys()?;
    if options.review_within_ms < options.lasts_ms {
        let problem = "an emergency is to be reviewed after its end: --review-within-hours is less than --lasts-hours";
        return Err(CliError::Usage(problem.to_owned()).into());
    }
    let (mut roles, mut reviewers) = (options.roles.clone(), options.reviewers.clone());
    roles.sort();
    roles.dedup();
    reviewers.sort();
    reviewers.dedup();
    let rule = BreakGlassRule {
        org: keys.did(),
        roles,
        reviewers,
        lasts_ms: options.lasts_ms,
        review_within_ms: options.review_within_ms,
    };
    let recorded = session
        .say(&keys, Body::BreakGlassRule(rule.clone()))
        .await?;
    Ok(BreakGlassRuleSet {
        org: rule.org.to_string(),
        roles: rule.roles,
        reviewers: rule.reviewers.iter().map(Did::to_string).collect(),
        recorded,
    })
}

/// Overrides consent for what a custody key protects. From then on its keys are released to the user for purpose `BTG`,
/// as the policies have it, until the emergency is over or reviewed.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn begin_emergency(
    session: &Session,
    custody: CustodyId,
    role: &str,
    reason: OverrideReason,
) -> Result<EmergencyBegun> {
    let keys = session.home.own_keys()?;
    let body = Body::BreakGlass(BreakGlass {
        who: keys.did(),
        custody,
        role: role.to_owned(),
        reason,
    });
    Ok(EmergencyBegun {
        custody: custody.to_string(),
        role: role.to_owned(),
        reason: reason.as_str(),
        recorded: session.say(&keys, body).await.map_err(explained)?,
    })
}

/// What to do about an emergency that did not begin.
fn explained(error: anyhow::Error) -> anyhow::Error {
    let why = match stable_code(&error).as_str() {
        "conflict" => {
            "an emergency for this custody key and role lasts already, and keys are released for it with purpose BTG; or eight \
             of the user's are not reviewed: `medanchor break-glass list` shows which"
        }
        "forbidden" => {
            "the user is not enrolled with the role; or the organisation is no member, has not said that the role may, or has \
             nobody else who reviews it (`medanchor break-glass rule`); or it is no person's custody key"
        }
        "inactive" => {
            "the user or the organisation is suspended; or an emergency in the role was not reviewed in time: a reviewer may \
             still close it"
        }
        _ => return error,
    };
    error.context(why)
}

/// Closes an emergency of somebody else.
///
/// # Errors
///
/// When there is none that the user may review, the log refuses it or no node takes it.
pub async fn review_emergency(
    session: &Session,
    emergency: LeafIndex,
    finding: Finding,
) -> Result<EmergencyReviewed> {
    let keys = session.home.own_keys()?;
    let (all, _) = fetch(session, &keys).await?;
    let found = all.iter().find(|entry| entry.since == emergency);
    let broken = found.map(|entry| &entry.broken).with_context(|| {
        format!("there is no emergency `{emergency}` that concerns the user: `break-glass list` shows those that do")
    })?;
    let body = Body::BreakGlassReviewed(BreakGlassReviewed {
        who: broken.who,
        custody: broken.custody,
        emergency,
        finding,
    });
    Ok(EmergencyReviewed {
        emergency,
        who: broken.who.to_string(),
        finding: finding.as_str(),
        recorded: session.say(&keys, body).await?,
    })
}

/// The emergencies that concern the user: in which consent to use their data, or data that they answer for, was overridden,
/// or that they, or those whom they review, began.
///
/// # Errors
///
/// When no node answers.
pub async fn list_emergencies(session: &Session, to_review: bool) -> Result<EmergencyList> {
    let keys = session.home.own_keys()?;
    let (all, tree_size) = fetch(session, &keys).await?;
    let now = clock::unix_ms();
    let wanted = all
        .iter()
        .filter(|entry| !to_review || entry.review.is_none());
    Ok(EmergencyList {
        emergencies: wanted.map(|entry| EmergencyRow::new(entry, now)).collect(),
        tree_size,
    })
}

async fn fetch(session: &Session, keys: &OwnKeys) -> Result<(Vec<EmergencyEntry>, u64)> {
    let (mut all, mut first) = (Vec::new(), 0);
    loop {
        let page = async || {
            // Signed anew for each page: a long list takes longer than one is good for.
            let query = EmergencyQuery {
                v: 1,
                origin: session.origin.clone(),
                who: keys.key(),
                at: clock::unix_ms(),
            };
            let page = session.client.emergencies(&query, &keys.signing, first);
            page.await
        };
        let page = patiently(page).await.context("list the emergencies")?;
        all.extend(page.value.emergencies);
        match page.value.next {
            Some(next) if next > first => first = next,
            _ => return Ok((all, page.tree_size)),
        }
    }
}

impl EmergencyRow {
    fn new(entry: &EmergencyEntry, now: u64) -> Self {
        let state = match &entry.review {
            Some(review) => review.finding.as_str(),
            None if entry.due < now => "overdue",
            None if entry.until < now => "over",
            None => "open",
        };
        Self {
            emergency: entry.since,
            at: clock::rfc3339(entry.at),
            who: entry.broken.who.to_string(),
            org: entry.org.to_string(),
            role: entry.broken.role.clone(),
            custody: entry.broken.custody.to_string(),
            reason: entry.broken.reason.as_str(),
            state,
            until: clock::rfc3339(entry.until),
            due: clock::rfc3339(entry.due),
            reviewed_by: entry.review.map(|review| review.by.to_string()),
            review_leaf: entry.review.map(|review| review.since),
        }
    }
}

impl fmt::Display for BreakGlassRuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.roles.as_slice() {
            [] => writeln!(f, "roles     none: nobody may override consent")?,
            roles => writeln!(f, "roles     {}", roles.join(", "))?,
        }
        for reviewer in &self.reviewers {
            writeln!(f, "reviewer  {reviewer}")?;
        }
        write!(f, "{}", self.recorded)
    }
}

impl fmt::Display for EmergencyBegun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (custody, role, reason) = (&self.custody, &self.role, self.reason);
        writeln!(f, "emergency for {custody} as {role}: {reason}")?;
        writeln!(f, "{}", self.recorded)?;
        write!(
            f,
            "fetch     medanchor get --custody {custody} --purpose BTG --role {role} --into FOLDER"
        )
    }
}

impl fmt::Display for EmergencyReviewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (emergency, who, finding) = (self.emergency, &self.who, self.finding);
        writeln!(f, "emergency {emergency} of {who}: {finding}")?;
        write!(f, "{}", self.recorded)
    }
}

impl fmt::Display for EmergencyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, size) = (self.emergencies.len(), self.tree_size);
        write!(f, "{count} emergencies, of {size} leaves")?;
        for row in &self.emergencies {
            write!(f, "\n{row}")?;
        }
        Ok(())
    }
}

impl fmt::Display for EmergencyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            emergency,
            at,
            who,
            role,
            custody,
            reason,
            state,
            due,
            ..
        } = self;
        write!(
            f,
            "{emergency:>6}  {at}  {state:<11}  {reason:<6}  {who} as {role}  on {custody}"
        )?;
        match &self.reviewed_by {
            Some(by) => write!(f, "  reviewed by {by}"),
            None => write!(f, "  review due {due}"),
        }
    }
}
