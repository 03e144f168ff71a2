use super::{
    context::{Context, Refusal, require},
    erasure::unerased,
    form::request_of,
};
use crate::{
    AccessRequest, Kind, Log, Outcome, Refused, ReleaseList, Released, SignedStatement, Table,
    entry::{Write, hash_key, release_key},
};
use medanchor_dag::{CustodyId, Did};

/// Signed by a listed broker of every custody key, for a requester that is active, on a decision whose every ground still
/// stands (I5).
pub(super) fn released(context: &Context<'_>, body: &Released) -> Result<Vec<Write>, Refusal> {
    let (request, requester) = parts(&body.request)?;
    let list = context.list(&body.list)?;
    require(is_of(list, request), Outcome::Conflict)?;
    let devices = devices(context, request, list)?;
    for custody in list.custodies() {
        require_broker(context, &custody)?;
    }
    require_seen(context, request)?;
    let expiry = body.request.statement.not_after_unix_ms;
    let in_time = expiry.is_some_and(|not_after| not_after >= context.at);
    require(in_time, Outcome::Expired)?;
    // A request that was signed before its key was rotated is stale below.
    let is_known = context.state.identity(requester)?.is_some();
    require(is_known, Outcome::Unknown)?;
    require(!is_released(context, &body.request)?, Outcome::Conflict)?;
    // INVARIANT (I5): all that the decision read is compared with the state at this very leaf. One custody key of which
    // something has changed makes the whole stale.
    let basis = context.state.requester_basis(requester)?;
    let stands = basis.as_ref() == Some(&body.basis) && body.valid_until >= context.at;
    require(stands, Outcome::Stale)?;
    for (part, devices) in list.parts.iter().zip(&devices) {
        let stands = context.state.part_stands(part, devices)?;
        require(stands, Outcome::Stale)?;
    }
    require_decided(context, body.decided_at)?;
    let (_, requester) = context.state.signer(requester)?.ok_or(Outcome::Stale)?;
    require(requester.is_active(), Outcome::Inactive)?;
    context.active(&requester.org)?;
    // INVARIANT: a role in which an emergency was not reviewed in time is suspended, whatever a broker says.
    let is_suspended = requester.is_overdue(&request.role, context.at);
    require(!is_suspended, Outcome::Inactive)?;
    let mut writes = vec![answers(context, &body.request)];
    writes.extend((0..).zip(&list.parts).map(|(number, part)| {
        let key = release_key(context.index, number);
        Write::entry(Table::Releases, key, part)
    }));
    Ok(writes)
}

/// Whether the list is of the custody keys that were asked for, and of the records where these were named.
fn is_of(list: &ReleaseList, request: &AccessRequest) -> bool {
    match &request.selection {
        Some(selection) => list.cohort() == selection.cohort,
        None => list.rows().map(|row| &row.record).eq(&request.records),
    }
}

/// The device of each record, part for part. Each record must be known, under the custody key of its part, and one of those
/// that were asked for.
fn devices(
    context: &Context<'_>,
    request: &AccessRequest,
    list: &ReleaseList,
) -> Result<Vec<Vec<Did>>, Refusal> {
    let mut devices = Vec::with_capacity(list.parts.len());
    for part in &list.parts {
        let mut of_part = Vec::with_capacity(part.rows.len());
        for row in &part.rows {
            let record = context.state.record(&row.record)?.ok_or(Outcome::Unknown)?;
            let is_asked_for = match &request.selection {
                Some(selection) => context.state.selects(selection, &record)?,
                None => true,
            };
            let is_under = record.anchored.custody == part.custody;
            require(is_asked_for && is_under, Outcome::Conflict)?;
            of_part.push(record.anchored.device);
        }
        devices.push(of_part);
    }
    Ok(devices)
}

/// Signed by a listed broker of the first known record's custody key, or by any node when it tells of no record: who
/// refuses must not show whether there is one.
pub(super) fn refused(context: &Context<'_>, body: &Refused) -> Result<Vec<Write>, Refusal> {
    let (request, _) = parts(&body.request)?;
    require_seen(context, request)?;
    if body.basis.tells_of_no_record() {
        require_node(context)?;
    } else {
        let custody = first_custody(context, request)?.ok_or(Outcome::Unknown)?;
        require_broker(context, &custody)?;
    }
    require_decided(context, body.decided_at)?;
    if is_released(context, &body.request)? {
        return Ok(Vec::new());
    }
    Ok(vec![answers(context, &body.request)])
}

fn parts(request: &SignedStatement) -> Result<(&AccessRequest, &Did), Refusal> {
    let parts = request_of(request).zip(request.author());
    parts.ok_or(Refusal::Rejected("malformed"))
}

fn first_custody(
    context: &Context<'_>,
    request: &AccessRequest,
) -> Result<Option<CustodyId>, Refusal> {
    for record in &request.records {
        if let Some(record) = context.state.record(record)? {
            return Ok(Some(record.anchored.custody));
        }
    }
    Ok(None)
}

fn require_broker(context: &Context<'_>, custody: &CustodyId) -> Result<(), Refusal> {
    let entry = unerased(context, custody)?;
    let mut brokers = entry.custody.brokers.iter();
    let signed = brokers.any(|broker| context.is_signed_by(broker));
    require(signed, Outcome::Forbidden)
}

fn require_node(context: &Context<'_>) -> Result<(), Refusal> {
    let mut members = context.network()?.members().iter();
    let signed = members.any(|member| context.is_signed_by(&member.node));
    require(signed, Outcome::Forbidden)
}

/// Nobody has seen a tree that is not there yet.
fn require_seen(context: &Context<'_>, request: &AccessRequest) -> Result<(), Refusal> {
    require(request.at <= context.index, Outcome::Unknown)
}

/// A broker whose clock is wrong decides nothing: a consent that begins later would count already, and a second factor
/// that was shown long ago still.
fn require_decided(context: &Context<'_>, decided_at: u64) -> Result<(), Refusal> {
    let earliest = context.at.saturating_sub(Log::MAX_DECISION_AGE_MS);
    let latest = context.at.saturating_add(Log::MAX_AHEAD_MS);
    require((earliest..=latest).contains(&decided_at), Outcome::Stale)
}

/// Whether keys were released on this request before. A refusal does not settle it: a consent may follow.
fn is_released(context: &Context<'_>, request: &SignedStatement) -> Result<bool, Refusal> {
    let Some(index) = context.state.request(&request.statement.hash())? else {
        return Ok(false);
    };
    let leaf = context.state.leaf(index)?;
    Ok(leaf.is_some_and(|leaf| leaf.kind == Kind::Released))
}

fn answers(context: &Context<'_>, request: &SignedStatement) -> Write {
    let key = hash_key(&request.statement.hash());
    Write::number(Table::Requests, key, context.index)
}
