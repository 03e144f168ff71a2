use super::{
    context::{Context, Refusal, require},
    epoch_key,
};
use crate::{Attestation, Custody, CustodyEntry, Erased, Outcome, PrincipalKind, entry::Write};
use medanchor_dag::Did;

/// Signed by its owner organisation; held by two that may hold it, one of them a listed broker.
pub(super) fn custody(context: &Context<'_>, body: &Custody) -> Result<Vec<Write>, Refusal> {
    let Judged {
        entry,
        holding,
        before,
    } = judge(context, body)?;
    let mut writes = epoch_key::said(context, &holding, before.as_ref())?;
    writes.push(Write::custody(&entry));
    Ok(writes)
}

/// The same of a leaf that took effect, where epoch keys are not known: they decide nothing.
pub(super) fn replayed(context: &Context<'_>, body: &Custody) -> Result<Vec<Write>, Refusal> {
    let judged = judge(context, body)?;
    Ok(vec![Write::custody(&judged.entry)])
}

struct Judged<'b> {
    entry: CustodyEntry,
    /// Those who say now that they hold it.
    holding: Vec<(Did, &'b Attestation)>,
    before: Option<CustodyEntry>,
}

fn judge<'b>(context: &Context<'_>, body: &'b Custody) -> Result<Judged<'b>, Refusal> {
    let network = context.network()?;
    let owner = context.known(&body.owner)?;
    require(
        owner.kind == PrincipalKind::Organisation,
        Outcome::Forbidden,
    )?;
    context.require_authority(&body.owner)?;
    let mut brokers = body.brokers.iter();
    let are_nodes = brokers.all(|broker| network.member_of_node(broker).is_some());
    require(are_nodes, Outcome::Unknown)?;
    context.require_known(body.writers.iter().chain(&body.controller))?;
    let before = follows(context, body)?;
    let holding = require_holders(context, body, before.as_ref())?;
    require_newly_listed_hold(body, before.as_ref())?;
    let mut holders = match &before {
        Some(before) => before.holders.clone(),
        None => Vec::new(),
    };
    holders.extend(holding.iter().map(|(who, _)| *who));
    holders.sort_unstable();
    holders.dedup();
    // INVARIANT (I9): an erasure has room for all that ever held it.
    require(holders.len() <= Erased::MAX_HOLDERS, Outcome::Conflict)?;
    let of_before = before.as_ref();
    Ok(Judged {
        entry: CustodyEntry {
            custody: body.clone(),
            since: context.index,
            newest_consent: of_before.and_then(|entry| entry.newest_consent),
            controlled_since: of_before.and_then(|entry| entry.controlled_since),
            made_at: of_before.map_or(context.index, |entry| entry.made_at),
            holders,
            erased: None,
        },
        holding,
        before,
    })
}

/// A new id begins with epoch 0; a known one goes on with the next epoch, or says of its present key who else may
/// release and write under it. Owner and kind stay, and so do the consents given under it. A controller that has
/// spoken for itself is replaced by nobody else.
fn follows(context: &Context<'_>, body: &Custody) -> Result<Option<CustodyEntry>, Refusal> {
    let Some(before) = context.state.custody(&body.custody)? else {
        require(body.epoch == 0, Outcome::Conflict)?;
        return Ok(None);
    };
    require(before.erased.is_none(), Outcome::Erased)?;
    let goes_on = before.custody.epoch.checked_add(1) == Some(body.epoch);
    let changes = is_of_same_key(&before.custody, body) && before.custody != *body;
    let follows = (goes_on || changes)
        && before.custody.owner == body.owner
        && before.custody.kind == body.kind;
    require(follows, Outcome::Conflict)?;
    if before.controlled_since.is_some()
        && before.custody.controller != body.controller
        && let Some(controller) = &before.custody.controller
    {
        context.require_authority(controller)?;
    }
    Ok(Some(before))
}

fn is_of_same_key(before: &Custody, body: &Custody) -> bool {
    before.epoch == body.epoch && before.kem == body.kem && before.key == body.key
}

/// A node that does not hold the key must not be listed: requests would be sent to it.
fn require_newly_listed_hold(body: &Custody, before: Option<&CustodyEntry>) -> Result<(), Refusal> {
    let same_key = before.filter(|before| is_of_same_key(&before.custody, body));
    let was_listed =
        |broker: &Did| same_key.is_some_and(|before| before.custody.brokers.contains(broker));
    let holds = |broker: &Did| body.held_by.iter().any(|held| held.by == *broker);
    let mut brokers = body.brokers.iter();
    let all_hold = brokers.all(|broker| was_listed(broker) || holds(broker));
    require(all_hold, Outcome::Forbidden)
}

/// Who may hold it and says so. Who holds the key is known by the key in force, or by that of when it said so, where the log
/// has that already.
fn require_holders<'b>(
    context: &Context<'_>,
    body: &'b Custody,
    before: Option<&CustodyEntry>,
) -> Result<Vec<(Did, &'b Attestation)>, Refusal> {
    let is_broker = |held: &Attestation| body.brokers.contains(&held.by);
    let is_recorded = |held: &Attestation| {
        before.is_some_and(|before| {
            is_of_same_key(&before.custody, body) && before.custody.held_by.contains(held)
        })
    };
    let mut holders = Vec::new();
    for held in &body.held_by {
        match context.state.identity(&held.by)? {
            Some((who, holder)) => {
                let counts = holder.key_of(&who) == held.by || is_recorded(held);
                if counts && holder.org == body.owner && holder.is_active() {
                    holders.push((who, held));
                }
            }
            None if is_broker(held) => holders.push((held.by, held)),
            None => (),
        }
    }
    let enough = holders.len() >= 2 && body.held_by.iter().any(is_broker);
    require(enough, Outcome::Forbidden)?;
    Ok(holders)
}
