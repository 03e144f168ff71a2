use super::{
    context::{Context, Refusal, require},
    erasure::unerased,
};
use crate::{
    LegalHold, LegalHoldEntry, LegalHoldPlaced, Outcome, Table,
    entry::{Write, legal_hold_key},
};

/// Signed by the organisation that keeps: a member, since its node does it.
pub(super) fn placed(context: &Context<'_>, body: &LegalHoldPlaced) -> Result<Vec<Write>, Refusal> {
    let hold = &body.legal_hold;
    context.require_authority(&hold.org)?;
    require(context.network()?.is_member(&hold.org), Outcome::Forbidden)?;
    let state = context.state;
    let custody = match &hold.record {
        Some(record) => state.record(record)?.map(|entry| entry.anchored.custody),
        None => state.custody(&hold.custody)?.map(|_| hold.custody),
    };
    require(
        custody.ok_or(Outcome::Unknown)? == hold.custody,
        Outcome::Conflict,
    )?;
    unerased(context, &hold.custody)?;
    require(state.legal_hold(hold)?.is_none(), Outcome::Conflict)?;
    let entry = LegalHoldEntry {
        legal_hold: hold.clone(),
        since: context.index,
    };
    let key = legal_hold_key(hold);
    Ok(vec![Write::entry(Table::LegalHolds, key, &entry)])
}

/// Signed by the organisation that placed it, also when it is no member any more.
pub(super) fn released(context: &Context<'_>, body: &LegalHold) -> Result<Vec<Write>, Refusal> {
    context.require_authority(&body.org)?;
    let placed = context.state.legal_hold(body)?;
    require(placed.is_some(), Outcome::Unknown)?;
    Ok(vec![Write::removal(
        Table::LegalHolds,
        legal_hold_key(body),
    )])
}
