use super::context::{Context, Refusal, require};
use crate::{
    Holding, Outcome, Places, RecordEntry, Table,
    entry::{Write, record_key},
};
use cid::Cid;

/// Signed by a member's node. All of it takes effect, or nothing.
pub(super) fn holding(context: &Context<'_>, body: &Holding) -> Result<Vec<Write>, Refusal> {
    let network = context.network()?;
    require(context.is_signed_by(&body.node), Outcome::Forbidden)?;
    let member = network.member_of_node(&body.node);
    let org = &member.ok_or(Outcome::Forbidden)?.org;
    let mut writes = Vec::with_capacity(body.holds.len() + body.gives_back.len());
    for record in &body.holds {
        let (mut entry, places) = known(context, record)?;
        let may_hold = places.may_hold(&body.node)
            || places.is_open_to(&body.node)
                && context.state.is_legally_held(org, &entry.anchored)?;
        require(may_hold, Outcome::Forbidden)?;
        if let Err(at) = entry.holders.binary_search(&body.node) {
            entry.holders.insert(at, body.node);
        }
        writes.push(write(&entry));
    }
    for record in &body.gives_back {
        let (mut entry, places) = known(context, record)?;
        let is_kept = context.state.is_legally_held(org, &entry.anchored)?;
        require(!is_kept, Outcome::Conflict)?;
        let at = entry.holders.binary_search(&body.node);
        entry.holders.remove(at.map_err(|_| Outcome::Conflict)?);
        // INVARIANT (I1): nobody's leave takes a record below its number of copies.
        let is_held = places.counted(&entry.holders).count() >= places.copies();
        require(is_held, Outcome::Conflict)?;
        writes.push(write(&entry));
    }
    Ok(writes)
}

fn known<'a>(context: &Context<'a>, record: &Cid) -> Result<(RecordEntry, Places<'a>), Refusal> {
    let entry = context.state.record(record)?.ok_or(Outcome::Unknown)?;
    let places = context.places(&entry.anchored)?;
    Ok((entry, places))
}

fn write(entry: &RecordEntry) -> Write {
    Write::entry(Table::Records, record_key(&entry.anchored.record), entry)
}
