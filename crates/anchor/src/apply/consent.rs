use super::{
    context::{Context, Refusal, require},
    erasure::unerased,
};
use crate::{
    ConsentEntry, Consented, CustodyEntry, Outcome, PrincipalKind, Withdrawn, entry::Write,
};
use medanchor_dag::CustodyId;

/// Given by the custody's controller, or by its owner for a controller that has not taken it into its own hands. Giving
/// it again replaces it.
pub(super) fn consented(context: &Context<'_>, body: &Consented) -> Result<Vec<Write>, Refusal> {
    let (custody, by) = controlled(context, &body.custody)?;
    require(may_give(&custody, by), Outcome::Forbidden)?;
    for (provision, _) in body.provisions() {
        let parties = provision
            .actors
            .iter()
            .filter_map(|actor| actor.party.as_ref());
        context.require_known(parties)?;
        for device in &provision.devices {
            let device = context.known(device)?;
            require(device.kind == PrincipalKind::Device, Outcome::Forbidden)?;
        }
    }
    let given = context.state.consents(&body.custody)?;
    let is_there = |entry: &ConsentEntry| entry.consented.consent == body.consent;
    let has_room = given.len() < Consented::MAX_PER_CUSTODY || given.iter().any(is_there);
    require(has_room, Outcome::Conflict)?;
    let given = ConsentEntry {
        consented: body.clone(),
        withdrawn: false,
        since: context.index,
    };
    Ok(changed(context, custody, by, &given))
}

/// Withdrawn by the custody's controller or its owner, whoever gave it.
pub(super) fn withdrawn(context: &Context<'_>, body: &Withdrawn) -> Result<Vec<Write>, Refusal> {
    let (custody, by) = controlled(context, &body.custody)?;
    let given = context.state.consent(&body.custody, &body.consent)?;
    let given = given.ok_or(Outcome::Unknown)?;
    // INVARIANT: withdrawing a denial permits more, as giving consent does.
    let may_withdraw = !given.consented.denies() || may_give(&custody, by);
    require(may_withdraw, Outcome::Forbidden)?;
    require(!given.withdrawn, Outcome::Conflict)?;
    let withdrawn = ConsentEntry {
        withdrawn: true,
        since: context.index,
        ..given
    };
    Ok(changed(context, custody, by, &withdrawn))
}

/// INVARIANT: what the person whose data it is has withdrawn, nobody else gives again.
fn may_give(custody: &CustodyEntry, by: By) -> bool {
    by == By::Controller || custody.controlled_since.is_none()
}

/// Who speaks for the custody key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Controller,
    Owner,
}

/// The custody key, if one who may give and withdraw consent under it has signed.
fn controlled(context: &Context<'_>, custody: &CustodyId) -> Result<(CustodyEntry, By), Refusal> {
    let entry = unerased(context, custody)?;
    let controller = entry.custody.controller;
    let by = match controller.filter(|controller| context.is_signed_by(controller)) {
        Some(controller) => {
            context.require_authority(&controller)?;
            By::Controller
        }
        None => {
            context.require_authority(&entry.custody.owner)?;
            By::Owner
        }
    };
    Ok((entry, by))
}

fn changed(
    context: &Context<'_>,
    custody: CustodyEntry,
    by: By,
    consent: &ConsentEntry,
) -> Vec<Write> {
    let taken = (by == By::Controller).then_some(context.index);
    let custody = CustodyEntry {
        newest_consent: Some(context.index),
        controlled_since: custody.controlled_since.or(taken),
        ..custody
    };
    vec![Write::consent(consent), Write::custody(&custody)]
}
