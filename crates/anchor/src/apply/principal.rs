use super::{
    context::{Context, Network, Refusal, require},
    member::member_organisation,
};
use crate::{
    Enrolled, Founded, FoundedEntry, MemberEntry, Outcome, PrincipalEntry, PrincipalKind,
    RolesChanged, Standing, Status, Table,
    entry::{FOUNDED, QUORUM, Write},
};
use medanchor_dag::Did;

/// Signed by exactly the founding organisations; enrols them and nothing else.
pub(super) fn founded(context: &Context<'_>, body: &Founded) -> Result<Vec<Write>, Refusal> {
    let members = &body.members;
    let all_signed = members
        .iter()
        .all(|member| context.is_signed_by(&member.org));
    if !all_signed || context.signed.signatures.len() != members.len() {
        return Err(Refusal::Rejected("founders-missing"));
    }
    let entry = FoundedEntry {
        origin: context.signed.statement.origin.clone(),
        founded: body.clone(),
        since: context.index,
    };
    let organisations = members.iter().flat_map(|member| {
        let entry = MemberEntry {
            member: member.clone(),
            contact: None,
            added_at: context.index,
            removed_at: None,
        };
        let org = member_organisation(&member.org, context.index);
        [Write::principal(&member.org, &org), Write::member(&entry)]
    });
    let begins = [
        Write::entry(Table::Meta, FOUNDED, &entry),
        Write::number(Table::Meta, QUORUM, body.quorum.into()),
    ];
    Ok(organisations.chain(begins).collect())
}

/// Signed by an active organisation: any member for another organisation, its own for all others.
pub(super) fn enrolled(context: &Context<'_>, body: &Enrolled) -> Result<Vec<Write>, Refusal> {
    let network = context.network()?;
    if body.kind == PrincipalKind::Organisation {
        require_member(context, network)?;
    } else {
        let org = context.known(&body.org)?;
        require(org.kind == PrincipalKind::Organisation, Outcome::Forbidden)?;
        context.require_authority(&body.org)?;
    }
    let is_new = context.state.identity(&body.who)?.is_none();
    let is_node = network.member_of_node(&body.who).is_some();
    require(is_new && !is_node, Outcome::Conflict)?;
    let entry = PrincipalEntry {
        kind: body.kind,
        org: body.org,
        roles: body.roles.clone(),
        standing: Status::Active,
        since: context.index,
        enrolled_at: context.index,
        factors: Vec::new(),
        emergencies: Vec::new(),
        break_glass: None,
        key: None,
    };
    Ok(vec![Write::principal(&body.who, &entry)])
}

pub(super) fn suspended(context: &Context<'_>, body: &Standing) -> Result<Vec<Write>, Refusal> {
    change(context, &body.who, &[Status::Active], Status::Suspended)
}

pub(super) fn reinstated(context: &Context<'_>, body: &Standing) -> Result<Vec<Write>, Refusal> {
    change(context, &body.who, &[Status::Suspended], Status::Active)
}

pub(super) fn revoked(context: &Context<'_>, body: &Standing) -> Result<Vec<Write>, Refusal> {
    let from = [Status::Active, Status::Suspended];
    change(context, &body.who, &from, Status::Revoked)
}

/// INVARIANT (I5): `since` moves on, so that nothing is released on the roles of before.
pub(super) fn roles_changed(
    context: &Context<'_>,
    body: &RolesChanged,
) -> Result<Vec<Write>, Refusal> {
    let entry = require_enroller(context, &body.who)?;
    let changes = entry.standing != Status::Revoked && entry.roles != body.roles;
    require(changes, Outcome::Conflict)?;
    let changed = PrincipalEntry {
        roles: body.roles.clone(),
        since: context.index,
        ..entry
    };
    Ok(vec![Write::principal(&body.who, &changed)])
}

fn change(
    context: &Context<'_>,
    who: &Did,
    from: &[Status],
    to: Status,
) -> Result<Vec<Write>, Refusal> {
    let entry = require_enroller(context, who)?;
    require(from.contains(&entry.standing), Outcome::Conflict)?;
    let changed = PrincipalEntry {
        standing: to,
        since: context.index,
        ..entry
    };
    Ok(vec![Write::principal(who, &changed)])
}

/// Signed as the enrolment; a member organisation's standing and roles are not changed this way.
fn require_enroller(context: &Context<'_>, who: &Did) -> Result<PrincipalEntry, Refusal> {
    let network = context.network()?;
    let entry = context.known(who)?;
    require(!network.is_member(who), Outcome::Forbidden)?;
    if entry.kind == PrincipalKind::Organisation {
        require_member(context, network)?;
    } else {
        context.require_authority(&entry.org)?;
    }
    Ok(entry)
}

fn require_member(context: &Context<'_>, network: &Network) -> Result<(), Refusal> {
    let mut members = network.members().iter();
    let signed = members.any(|member| context.is_signed_by(&member.org));
    require(signed, Outcome::Forbidden)
}
