use super::context::{Context, Refusal, require};
use crate::{ConsentEntry, Consented, CustodyEntry, Outcome, Withdrawn, entry::Write};
use medanchor_dag::CustodyId;

/// Given by the custody's controller or its owner. Giving it again replaces it.
pub(super) fn consented(context: &Context<'_>, body: &Consented) -> Result<Vec<Write>, Refusal> {
    let custody = controlled(context, &body.custody)?;
    context.require_known(&body.parties)?;
    let given = ConsentEntry {
        consented: body.clone(),
        withdrawn: false,
        since: context.index,
    };
    Ok(changed(context, custody, &given))
}

/// Withdrawn by the custody's controller or its owner, whoever gave it.
pub(super) fn withdrawn(context: &Context<'_>, body: &Withdrawn) -> Result<Vec<Write>, Refusal> {
    let custody = controlled(context, &body.custody)?;
    let given = context.state.consent(&body.custody, &body.consent)?;
    let given = given.ok_or(Outcome::Unknown)?;
    require(!given.withdrawn, Outcome::Conflict)?;
    let withdrawn = ConsentEntry {
        withdrawn: true,
        since: context.index,
        ..given
    };
    Ok(changed(context, custody, &withdrawn))
}

/// The custody key, if one who may give and withdraw consent under it has signed.
fn controlled(context: &Context<'_>, custody: &CustodyId) -> Result<CustodyEntry, Refusal> {
    let entry = context.state.custody(custody)?.ok_or(Outcome::Unknown)?;
    let controller = entry.custody.controller;
    match controller.filter(|controller| context.is_signed_by(controller)) {
        Some(controller) => context.require_authority(&controller)?,
        None => context.require_authority(&entry.custody.owner)?,
    };
    Ok(entry)
}

fn changed(context: &Context<'_>, custody: CustodyEntry, consent: &ConsentEntry) -> Vec<Write> {
    let custody = CustodyEntry {
        newest_consent: Some(context.index),
        ..custody
    };
    vec![Write::consent(consent), Write::custody(&custody)]
}
