use super::{
    context::{Context, Refusal, require},
    erasure::unerased,
};
use crate::{
    Anchored, Outcome, PrincipalKind, RecordEntry, Status, StreamEntry, Table,
    entry::{Write, custody_leaf_key, hash_key, record_key, stream_key, usage_key},
};
use medanchor_dag::Did;

/// Signed by its device, allowed by its custody key, and held by enough nodes (I1).
pub(super) fn anchored(context: &Context<'_>, body: &Anchored) -> Result<Vec<Write>, Refusal> {
    let holders = require_held(context, body)?;
    let (device, device_org) = require_device(context, body)?;
    let custody = unerased(context, &body.custody)?.custody;
    let may_write = device_org == custody.owner || custody.writers.contains(&device_org);
    require(may_write, Outcome::Forbidden)?;
    require_new(context, body)?;
    let usage = require_room(context, &custody.owner, body.size)?;
    let record = RecordEntry {
        anchored: body.clone(),
        index: context.index,
        at: context.at,
        holders,
    };
    Ok(vec![
        under_custody(&record),
        Write::entry(Table::Records, record_key(&body.record), &record),
        Write::number(Table::Headers, hash_key(&body.header), context.index),
        Write::number(Table::Meta, usage_key(&custody.owner), usage),
        advance(context, &device, body)?,
    ])
}

/// The record among those of its custody key.
pub(super) fn under_custody(record: &RecordEntry) -> Write {
    let key = custody_leaf_key(&record.anchored.custody, record.index);
    let cid = record.anchored.record.to_bytes();
    Write::bytes(Table::CustodyRecords, key, &cid)
}

/// INVARIANT (I1): nothing is anchored that fewer nodes say they hold than are to. They say it of this very
/// statement: a hold for the same record with another wrap is worth nothing.
fn require_held(context: &Context<'_>, body: &Anchored) -> Result<Vec<Did>, Refusal> {
    let places = context.places(body)?;
    let mut holders = context.network()?.holders(&context.hash);
    holders.retain(|holder| places.may_hold(holder));
    if holders.len() < places.copies() {
        return Err(Refusal::Rejected("not-held"));
    }
    Ok(holders)
}

/// The device that signed, and its organisation. A late record needs a counter-signature: that of the device's key in force, if
/// it was sealed with one before; that of its organisation, if the device is revoked.
fn require_device(context: &Context<'_>, body: &Anchored) -> Result<(Did, Did), Refusal> {
    let known = context.state.identity(&body.device)?;
    let (who, device) = known.ok_or(Outcome::Unknown)?;
    let may_anchor = matches!(device.kind, PrincipalKind::Device | PrincipalKind::Service);
    let signed = context.is_signed_with(&body.device);
    require(may_anchor && signed, Outcome::Forbidden)?;
    if device.standing == Status::Revoked {
        require(context.is_signed_by(&device.org), Outcome::Inactive)?;
    } else {
        // INVARIANT: a key that was rotated anchors nothing by itself. The record may be said again with the key in force.
        let is_signed = context.is_signed_by(&who);
        require(is_signed && device.is_active(), Outcome::Inactive)?;
    }
    context.active(&device.org)?;
    Ok((who, device.org))
}

fn require_new(context: &Context<'_>, body: &Anchored) -> Result<(), Refusal> {
    let is_new = context.state.record(&body.record)?.is_none()
        && context.state.header(&body.header)?.is_none();
    require(is_new, Outcome::Conflict)
}

/// What its custody key's owner has anchored with this record. There is no leaf for one too many, so that it can be
/// said again once there is room.
fn require_room(context: &Context<'_>, owner: &Did, size: u64) -> Result<u64, Refusal> {
    let rules = context.network()?.placing().placement();
    let usage = context.state.usage_after(rules, owner, size)?;
    usage.ok_or(Refusal::Rejected("over-quota"))
}

/// The stream's new head. What does not follow the old one is counted, not refused: the record exists.
fn advance(context: &Context<'_>, device: &Did, body: &Anchored) -> Result<Write, Refusal> {
    let head = context.state.stream(device, &body.stream)?;
    let follows = match &head {
        None => body.seq == 0,
        Some(head) => {
            let prev = body.prev.as_ref().map(|prev| prev.as_slice());
            head.seq.checked_add(1) == Some(body.seq)
                && prev == Some(head.record.to_bytes().as_slice())
        }
    };
    let flagged = head.as_ref().map_or(0, |head| head.gaps_and_forks);
    let (seq, record) = match head {
        Some(head) if body.seq <= head.seq => (head.seq, head.record),
        _ => (body.seq, body.record),
    };
    let entry = StreamEntry {
        seq,
        record,
        gaps_and_forks: flagged.saturating_add(u64::from(!follows)),
        since: context.index,
    };
    let key = stream_key(device, &body.stream);
    Ok(Write::entry(Table::Streams, key, &entry))
}
