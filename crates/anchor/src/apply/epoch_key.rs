use super::context::{Context, Refusal, require};
use crate::{
    Attestation, CustodyEntry, EpochKeyChanged, EpochKeyEntry, Outcome, Table,
    entry::{Write, used_epoch_key},
};
use medanchor_dag::Did;
use serde_bytes::ByteArray;

/// Signed by the holder, which goes on from the epoch key that the log has to one that it never had.
///
/// INVARIANT (I9): an epoch key that was destroyed does not come into force again.
pub(super) fn changed(
    context: &Context<'_>,
    body: &EpochKeyChanged,
) -> Result<Vec<Write>, Refusal> {
    require(context.is_signed_by(&body.holder), Outcome::Forbidden)?;
    let before = context.state.epoch_key(&body.holder)?;
    let before = before.ok_or(Outcome::Unknown)?;
    require(before.key == body.from, Outcome::Conflict)?;
    let was_had = context.state.has_had_epoch_key(&body.holder, &body.to)?;
    require(!was_had, Outcome::Conflict)?;
    Ok(in_force(context, &body.holder, body.to).into())
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
            None => writes.extend(in_force(context, who, held.under)),
        }
    }
    Ok(writes)
}

fn in_force(context: &Context<'_>, holder: &Did, key: ByteArray<32>) -> [Write; 2] {
    let entry = EpochKeyEntry {
        key,
        since: context.index,
    };
    [
        Write::entry(Table::EpochKeys, *holder.as_bytes(), &entry),
        Write::bytes(Table::UsedEpochKeys, used_epoch_key(holder, &key), &[]),
    ]
}
