use super::context::{Context, Network, Refusal, require};
use crate::{
    Erased, Member, MemberAdded, MemberEntry, MemberRemoved, Outcome, PrincipalEntry,
    PrincipalKind, SignatureKind, Status, Table, VerifierKey,
    entry::{QUORUM, Write},
};
use medanchor_dag::Did;

/// Signed by the joining organisation and by a majority of the members.
pub(super) fn added(context: &Context<'_>, body: &MemberAdded) -> Result<Vec<Write>, Refusal> {
    let network = context.network()?;
    let everybody = context.state.member_entries()?;
    require(context.is_signed_by(&body.org), Outcome::Forbidden)?;
    require_majority(context, network.members())?;
    require_bound_keys(&context.signed.statement.origin, body)?;
    require_new(context, body, &everybody)?;
    let cosigners = network.members().len() + 1 + network.witnesses().len();
    let fits = network.members().len() < MAX_MEMBERS && usize::from(body.quorum) <= cosigners;
    require(fits, Outcome::Conflict)?;
    // INVARIANT (I9): an erasure has room for every node that ever kept the log.
    let has_room = everybody.len() < Erased::MAX_REPLICAS;
    require(has_room, Outcome::Conflict)?;
    // INVARIANT: rows are never deleted, so that no node id is given twice.
    let highest = everybody.iter().map(|entry| entry.member.node_id).max();
    let node_id = highest.unwrap_or(0).checked_add(1);
    let entry = body.entry(node_id.ok_or(Outcome::Conflict)?, context.index);
    let org = organisation(context, &body.org)?;
    Ok(vec![
        Write::member(&entry),
        Write::principal(&body.org, &org),
        Write::number(Table::Meta, QUORUM, body.quorum.into()),
    ])
}

/// Signed by a majority of the other members. The organisation stays known, as an organisation like others.
pub(super) fn removed(context: &Context<'_>, body: &MemberRemoved) -> Result<Vec<Write>, Refusal> {
    let network = context.network()?;
    let everybody = context.state.member_entries()?;
    let is_meant = |entry: &&MemberEntry| entry.member.node_id == body.node_id;
    let entry = everybody.iter().find(is_meant).ok_or(Outcome::Unknown)?;
    let agrees = entry.member.org == body.org
        && entry.member.log_key == body.log_key
        && entry.member.cosigner_key == body.cosigner_key;
    require(agrees && entry.is_active(), Outcome::Conflict)?;
    let is_other = |member: &&Member| member.node_id != body.node_id;
    let others: Vec<Member> = network.members().iter().filter(is_other).cloned().collect();
    require_majority(context, &others)?;
    let cosigners = others.len() + network.witnesses().len();
    // With fewer members than copies nothing could be anchored any more.
    let placing = network.placing().with_members(others);
    let fits = placing.fits() && usize::from(body.quorum) <= cosigners;
    require(fits, Outcome::Conflict)?;
    let gone = MemberEntry {
        removed_at: Some(context.index),
        ..entry.clone()
    };
    let org = context.known(&body.org)?;
    let org = PrincipalEntry {
        roles: org
            .roles
            .into_iter()
            .filter(|role| role != MEMBER)
            .collect(),
        since: context.index,
        ..org
    };
    Ok(vec![
        Write::member(&gone),
        Write::principal(&body.org, &org),
        Write::number(Table::Meta, QUORUM, body.quorum.into()),
    ])
}

/// More than half of `members` have signed, each with its organisation's key. The signatures are by
/// different keys, and no two members share one.
pub(super) fn require_majority(context: &Context<'_>, members: &[Member]) -> Result<(), Refusal> {
    let signed = members.iter().filter(|m| context.is_signed_by(&m.org));
    require(signed.count() > members.len() / 2, Outcome::Forbidden)
}

/// The keys are what they are said to be, so that the policy which follows can be written.
fn require_bound_keys(origin: &str, body: &MemberAdded) -> Result<(), Refusal> {
    let (log, cosigner) = keys(&body.log_key, &body.cosigner_key)?;
    let is_log = log.kind() == SignatureKind::Ed25519 && log.name() == origin;
    let is_cosigner = cosigner.kind() == SignatureKind::Cosignature
        && cosigner.name() == format!("{origin}/{}", body.name);
    if is_log && is_cosigner && log.key() != cosigner.key() {
        Ok(())
    } else {
        Err(Refusal::Rejected("malformed"))
    }
}

/// An organisation that was removed may come back under its name, with a new node. Every other name and
/// every other key is new: a key of a node that lost its disk may have signed what nobody remembers.
fn require_new(
    context: &Context<'_>,
    body: &MemberAdded,
    everybody: &[MemberEntry],
) -> Result<(), Refusal> {
    let comes_back = |entry: &MemberEntry| {
        !entry.is_active() && entry.member.org == body.org && entry.member.name == body.name
    };
    let taken = |entry: &MemberEntry| {
        let member = &entry.member;
        let named = member.org == body.org || member.name == body.name;
        (named && !comes_back(entry))
            || [body.org, body.node].contains(&member.node)
            || member.certificate == body.certificate
            || member.peer_id == body.peer_id
    };
    require(!everybody.iter().any(taken), Outcome::Conflict)?;
    require(
        context.state.identity(&body.node)?.is_none(),
        Outcome::Conflict,
    )?;
    let (log, cosigner) = keys(&body.log_key, &body.cosigner_key)?;
    for used in context.network()?.log_and_cosigner_keys(everybody) {
        let is_used = used.key() == log.key() || used.key() == cosigner.key();
        require(!is_used, Outcome::Conflict)?;
    }
    Ok(())
}

/// The organisation's own entry: a new one, or that of an organisation that is enrolled already.
fn organisation(context: &Context<'_>, org: &Did) -> Result<PrincipalEntry, Refusal> {
    let Some((who, mut known)) = context.state.identity(org)? else {
        return Ok(member_organisation(org, context.index));
    };
    require(who == *org, Outcome::Conflict)?;
    require(known.kind == PrincipalKind::Organisation, Outcome::Conflict)?;
    require(known.is_active(), Outcome::Inactive)?;
    known.roles.extend(member_roles());
    known.roles.sort();
    known.roles.dedup();
    known.since = context.index;
    Ok(known)
}

/// The entry of an organisation that enters the log as a member.
pub(super) fn member_organisation(org: &Did, index: u64) -> PrincipalEntry {
    PrincipalEntry {
        kind: PrincipalKind::Organisation,
        org: *org,
        roles: member_roles().into(),
        standing: Status::Active,
        since: index,
        enrolled_at: index,
        factors: Vec::new(),
        emergencies: Vec::new(),
        break_glass: None,
        key: None,
    }
}

fn member_roles() -> [String; 2] {
    ["custodian", MEMBER].map(str::to_owned)
}

fn keys(log: &str, cosigner: &str) -> Result<(VerifierKey, VerifierKey), Refusal> {
    let parse = |text: &str| text.parse().map_err(|_| Refusal::Rejected("malformed"));
    Ok((parse(log)?, parse(cosigner)?))
}

impl Network {
    /// Keys that sign or co-sign checkpoints, or did once.
    pub(super) fn log_and_cosigner_keys<'e>(
        &'e self,
        everybody: &'e [MemberEntry],
    ) -> impl Iterator<Item = VerifierKey> + 'e {
        let members = everybody.iter().map(|entry| &entry.member);
        let keys = members.flat_map(|member| [&member.log_key, &member.cosigner_key]);
        // What the founding holds was not parsed: a text that is no key signs nothing.
        keys.chain(self.witnesses())
            .filter_map(|text| text.parse().ok())
    }
}

const MEMBER: &str = "member";
/// As many as may found a network.
const MAX_MEMBERS: usize = 32;
