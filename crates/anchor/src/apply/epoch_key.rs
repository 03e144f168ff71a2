use super::context::{Context, Refusal, require};
use crate::{
    Attestation, CustodyEntry, EpochKeyChanged, EpochKeyEntry, Outcome, Table, entry::Write,
};
use medanchor_dag::Did;

/// Signed by the holder, which goes on from the epoch key that the log has.
pub(super) fn changed(
    context: &Context<'_>,
    body: &EpochKeyChanged,
) -> Result<Vec<Write>, Refusal> {
    require(context.is_signed_by(&body.holder), Outcome::Forbidden)?;
    let before = context.state.epoch_key(&body.holder)?;
    let before = before.ok_or(Outcome::Unknown)?;
    require(before.key == body.from, Outcome::Conflict)?;
    Ok(vec![write(
        &body.holder,
        &EpochKeyEntry {
            key: body.to,
            since: context.index,
        },
    )])
}

/// The epoch keys that the attestations of a custody key say for the first time. A holder whose epoch key the log has must
/// attest under that; an attestation that stood in the custody key before may be repeated as it was.
pub(super) fn said(
    context: &Context<'_>,
    holders: &[(Did, &Attestation)],
    before: Option<&CustodyEntry>,
) -> Result<Vec<Write>, Refusal> {
    let mut writes = Vec::new();
    for (who, held) in holders {
        match context.state.epoch_key(who)? {
            Some(entry) => {
                let is_repeated =
                    before.is_some_and(|before| before.custody.held_by.contains(held));
                require(entry.key == held.under || is_repeated, Outcome::Conflict)?;
            }
            None => writes.push(write(
                who,
                &EpochKeyEntry {
                    key: held.under,
                    since: context.index,
                },
            )),
        }
    }
    Ok(writes)
}

fn write(holder: &Did, entry: &EpochKeyEntry) -> Write {
    Write::entry(Table::EpochKeys, *holder.as_bytes(), entry)
}
