use super::context::{Context, Refusal, require};
use crate::{
    Factor, FactorEnrolled, FactorRemoved, Outcome, PrincipalEntry, PrincipalKind, entry::Write,
};
use medanchor_dag::Did;

/// Signed by the organisation of the person, and by the member's node that holds the secret.
pub(super) fn enrolled(
    context: &Context<'_>,
    body: &FactorEnrolled,
) -> Result<Vec<Write>, Refusal> {
    let network = context.network()?;
    let entry = context.known(&body.who)?;
    context.require_authority(&entry.org)?;
    require(entry.kind == PrincipalKind::Person, Outcome::Forbidden)?;
    require(
        network.member_of_node(&body.node).is_some(),
        Outcome::Unknown,
    )?;
    require(context.is_signed_by(&body.node), Outcome::Forbidden)?;
    let is_known = entry
        .factors
        .iter()
        .any(|known| known.factor == body.factor);
    let has_room = entry.factors.len() < Factor::MAX;
    require(has_room && !is_known, Outcome::Conflict)?;
    let mut factors = entry.factors.clone();
    factors.push(Factor {
        factor: body.factor,
        method: body.method,
        node: body.node,
        since: context.index,
    });
    Ok(vec![changed(context, body.who, entry, factors)])
}

/// Signed by the organisation of the person.
pub(super) fn removed(context: &Context<'_>, body: &FactorRemoved) -> Result<Vec<Write>, Refusal> {
    let entry = context.known(&body.who)?;
    context.require_authority(&entry.org)?;
    let mut factors = entry.factors.clone();
    factors.retain(|known| known.factor != body.factor);
    require(factors.len() < entry.factors.len(), Outcome::Unknown)?;
    Ok(vec![changed(context, body.who, entry, factors)])
}

/// INVARIANT (I5): `since` moves on, so that nothing is released on factors of before.
fn changed(context: &Context<'_>, who: Did, entry: PrincipalEntry, factors: Vec<Factor>) -> Write {
    let changed = PrincipalEntry {
        factors,
        since: context.index,
        ..entry
    };
    Write::principal(&who, &changed)
}
