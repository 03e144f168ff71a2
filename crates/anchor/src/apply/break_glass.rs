use super::{
    context::{Context, Refusal, require},
    erasure::unerased,
};
use crate::{
    BreakGlass, BreakGlassReviewed, BreakGlassRule, CustodyKind, Emergency, EmergencyEntry,
    Finding, Outcome, PrincipalEntry, PrincipalKind, Review, Status, entry::Write,
};
use medanchor_dag::Did;

/// Signed by the organisation, a member; the reviewers are people of its own.
pub(super) fn rule(context: &Context<'_>, body: &BreakGlassRule) -> Result<Vec<Write>, Refusal> {
    let entry = context.require_authority(&body.org)?;
    require_member(context, &body.org)?;
    for reviewer in &body.reviewers {
        let reviewer = context.known(reviewer)?;
        let is_its = reviewer.kind == PrincipalKind::Person && reviewer.org == body.org;
        require(is_its, Outcome::Forbidden)?;
    }
    let changed = PrincipalEntry {
        break_glass: Some(body.clone()),
        since: context.index,
        ..entry
    };
    Ok(vec![Write::principal(&body.org, &changed)])
}

/// Signed by a person whose organisation lets its role and has named somebody else who reviews it.
pub(super) fn broken(context: &Context<'_>, body: &BreakGlass) -> Result<Vec<Write>, Refusal> {
    let entry = context.require_authority(&body.who)?;
    require_member(context, &entry.org)?;
    let rule = rule_of(context, &entry)?;
    let may_act = entry.kind == PrincipalKind::Person && entry.roles.contains(&body.role);
    require(may_act, Outcome::Forbidden)?;
    let custody = unerased(context, &body.custody)?;
    require(
        custody.custody.kind == CustodyKind::Person,
        Outcome::Forbidden,
    )?;
    require(rule.roles.contains(&body.role), Outcome::Forbidden)?;
    require(has_reviewer(context, &rule, &body.who)?, Outcome::Forbidden)?;
    // INVARIANT: who let a review pass does not begin another emergency in the role.
    require(!entry.is_overdue(&body.role, context.at), Outcome::Inactive)?;
    let covers = |open: &Emergency| open.covers(&body.custody, &body.role, context.at);
    let has_room = entry.emergencies.len() < Emergency::MAX;
    require(
        has_room && !entry.emergencies.iter().any(covers),
        Outcome::Conflict,
    )?;
    Ok(begun(context, body, entry, &rule))
}

/// The same of a leaf that took effect: it needs no custody key to be known.
pub(super) fn replayed(context: &Context<'_>, body: &BreakGlass) -> Result<Vec<Write>, Refusal> {
    let entry = context.known(&body.who)?;
    let rule = rule_of(context, &entry)?;
    Ok(begun(context, body, entry, &rule))
}

fn begun(
    context: &Context<'_>,
    body: &BreakGlass,
    entry: PrincipalEntry,
    rule: &BreakGlassRule,
) -> Vec<Write> {
    let emergency = EmergencyEntry {
        broken: body.clone(),
        org: entry.org,
        since: context.index,
        at: context.at,
        until: context.at.saturating_add(rule.lasts_ms),
        due: context.at.saturating_add(rule.review_within_ms),
        review: None,
    };
    let mut emergencies = entry.emergencies.clone();
    emergencies.push(Emergency {
        since: emergency.since,
        custody: body.custody,
        role: body.role.clone(),
        until: emergency.until,
        due: emergency.due,
    });
    let changed = PrincipalEntry {
        emergencies,
        since: context.index,
        ..entry
    };
    vec![
        Write::principal(&body.who, &changed),
        Write::emergency(&emergency),
    ]
}

/// Signed by one who reviews for the organisation, of somebody else's emergency.
pub(super) fn reviewed(
    context: &Context<'_>,
    body: &BreakGlassReviewed,
) -> Result<Vec<Write>, Refusal> {
    let entry = context.known(&body.who)?;
    let by = reviewer(context, &rule_of(context, &entry)?, &body.who)?;
    let is_open = |open: &Emergency| open.since == body.emergency && open.custody == body.custody;
    require(entry.emergencies.iter().any(is_open), Outcome::Unknown)?;
    let emergency = context.state.emergency(body.emergency)?;
    let emergency = emergency.ok_or(Outcome::Unknown)?;
    let mut emergencies = entry.emergencies.clone();
    emergencies.retain(|open| open.since != body.emergency);
    let is_suspended = body.finding == Finding::Unjustified && entry.is_active();
    let changed = PrincipalEntry {
        emergencies,
        standing: match is_suspended {
            true => Status::Suspended,
            false => entry.standing,
        },
        since: context.index,
        ..entry
    };
    let closed = EmergencyEntry {
        review: Some(Review {
            by,
            finding: body.finding,
            since: context.index,
            at: context.at,
        }),
        ..emergency
    };
    Ok(vec![
        Write::principal(&body.who, &changed),
        Write::emergency(&closed),
    ])
}

/// INVARIANT: whom the members have not let in gives itself no access to people's data.
fn require_member(context: &Context<'_>, org: &Did) -> Result<(), Refusal> {
    require(context.network()?.is_member(org), Outcome::Forbidden)
}

/// What the organisation says of emergencies.
fn rule_of(context: &Context<'_>, entry: &PrincipalEntry) -> Result<BreakGlassRule, Refusal> {
    let rule = context.active(&entry.org)?.break_glass;
    rule.ok_or(Refusal::Leaf(Outcome::Forbidden))
}

/// Nobody reviews themselves.
fn has_reviewer(context: &Context<'_>, rule: &BreakGlassRule, who: &Did) -> Result<bool, Refusal> {
    for reviewer in rule.reviewers.iter().filter(|reviewer| *reviewer != who) {
        if context.known(reviewer)?.is_active() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Who of the reviewers has signed.
fn reviewer(context: &Context<'_>, rule: &BreakGlassRule, who: &Did) -> Result<Did, Refusal> {
    let mut reviewers = rule.reviewers.iter();
    let by = reviewers.find(|by| *by != who && context.is_signed_by(by));
    let by = by.ok_or(Outcome::Forbidden)?;
    context.require_authority(by)?;
    Ok(*by)
}
