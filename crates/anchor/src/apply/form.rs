use super::context::Refusal;
use crate::{
    AccessRequest, Account, AccountHead, Actor, Anchored, Body, BreakGlassRule, Consented, Custody,
    DeviceDetails, Effect, Enrolled, Erased, FactorVerified, Founded, Holding, LegalHold, ListHead,
    Member, MemberAdded, MemberRemoved, Period, PlacedNode, Placement, PlacementRule, PolicySet,
    PrincipalKind, Provision, Refused, Released, SignedStatement, Statement, WitnessAdded,
    WitnessUrl,
};
use cid::Cid;
use medanchor_dag::Codec;
use std::{collections::BTreeSet, net::SocketAddr};

/// Rejects a statement whose strings, lists, numbers or length are outside the bounds that `Statement` documents.
pub(super) fn check_form(signed: &SignedStatement, size_bytes: usize) -> Result<(), Refusal> {
    if size_bytes <= Statement::MAX_BYTES && is_well_formed(signed) {
        Ok(())
    } else {
        Err(Refusal::Rejected("malformed"))
    }
}

fn is_well_formed(signed: &SignedStatement) -> bool {
    signed.check_form().is_ok() && is_origin(&signed.statement.origin) && is_body(&signed.statement)
}

fn is_body(statement: &Statement) -> bool {
    match &statement.body {
        Body::Founded(body) => is_founded(body),
        Body::Enrolled(body) => is_enrolled(body),
        Body::Suspended(_) | Body::Reinstated(_) | Body::Revoked(_) | Body::Withdrawn(_) => true,
        Body::Rotated(_) => true,
        Body::RolesChanged(body) => are_roles(&body.roles),
        Body::Custody(body) => is_custody(body),
        Body::Consented(body) => is_consented(body),
        Body::Anchored(body) => is_anchored(body),
        Body::AccessRequest(body) => is_access_request(statement, body),
        Body::Released(body) => is_released(statement, body),
        Body::Refused(body) => is_refused(statement, body),
        Body::MemberAdded(body) => is_member_added(body),
        Body::MemberRemoved(body) => is_member_removed(body),
        Body::WitnessAdded(body) => is_witness_added(body),
        Body::WitnessRemoved(body) => is_verifier_key(&body.key) && body.quorum >= 1,
        Body::Placed(body) => is_placement(body),
        Body::PolicySet(body) => (1..=PolicySet::MAX_BYTES).contains(&body.set.len()),
        Body::Holding(body) => is_holding(body),
        Body::LegalHoldPlaced(body) => is_legal_hold(&body.legal_hold) && is_matter(&body.matter),
        Body::LegalHoldReleased(body) => is_legal_hold(body),
        Body::FactorEnrolled(_) | Body::FactorRemoved(_) | Body::FactorVerified(_) => true,
        Body::Account(body) => is_account(body),
        Body::BreakGlassRule(body) => is_break_glass_rule(body),
        Body::BreakGlass(body) => is_role(&body.role),
        Body::BreakGlassReviewed(_) | Body::Destroyed(_) => true,
        Body::EpochKey(body) => body.from != body.to,
        Body::Erased(body) => is_erased(body),
    }
}

fn is_founded(body: &Founded) -> bool {
    let members = &body.members;
    let keys = || members.iter().flat_map(|member| [member.org, member.node]);
    let most_cosigners = members.len() + body.witnesses.len();
    (1..=32).contains(&members.len())
        && members.iter().all(is_member)
        && are_distinct(keys())
        && are_distinct(members.iter().map(|member| &member.name))
        && are_distinct(members.iter().map(|member| member.node_id))
        && body.witnesses.len() <= 32
        && body.witnesses.iter().all(|key| is_verifier_key(key))
        && (1..=most_cosigners).contains(&usize::from(body.quorum))
        // More than there are members: nothing can be anchored before as many have joined.
        && (1..=32).contains(&body.copies)
        && is_dag_cbor(&body.policy)
}

fn is_member_added(body: &MemberAdded) -> bool {
    is_member(&body.member(1))
        && body.org != body.node
        && is_address(&body.address)
        && is_address(&body.swarm)
        && (1..=MemberAdded::MAX_AUTHORITY_BYTES).contains(&body.authority.len())
        && body.quorum >= 1
}

fn is_member_removed(body: &MemberRemoved) -> bool {
    body.node_id >= 1
        && is_verifier_key(&body.log_key)
        && is_verifier_key(&body.cosigner_key)
        && body.quorum >= 1
}

fn is_witness_added(body: &WitnessAdded) -> bool {
    let url: Result<WitnessUrl, _> = body.url.parse();
    let length = body.certificate.len();
    let has_place = url.is_ok_and(|url| match url.is_https() {
        true => (1..=WitnessAdded::MAX_CERTIFICATE_BYTES).contains(&length),
        false => length == 0,
    });
    is_verifier_key(&body.key) && has_place && body.quorum >= 1
}

fn is_placement(body: &Placement) -> bool {
    let zone = |zone: &String| is_text(zone, 1, 32, is_name);
    let classes = || body.rules.iter().flat_map(|rule| &rule.classes);
    let rest = body.rules.iter().filter(|rule| rule.classes.is_empty());
    body.nodes.len() <= 32
        && are_distinct(body.nodes.iter().map(|node| node.node_id))
        && body.nodes.iter().all(|node| {
            node.node_id >= 1 && node.weight <= PlacedNode::MAX_WEIGHT && node.zone.iter().all(zone)
        })
        && body.rules.len() <= 16
        && are_distinct(classes())
        && rest.count() <= 1
        && body.rules.iter().all(is_placement_rule)
        && body.quotas.len() <= 64
        && are_distinct(body.quotas.iter().map(|quota| quota.org))
}

fn is_placement_rule(rule: &PlacementRule) -> bool {
    rule.classes.is_sorted()
        && (1..=32).contains(&rule.copies)
        && rule.only.len() <= 32
        && rule.only.is_sorted_by(|one, next| one < next)
        // A member has one node.
        && (!rule.at_home || rule.copies == 1 && rule.only.is_empty())
}

fn is_holding(body: &Holding) -> bool {
    let records = || body.holds.iter().chain(&body.gives_back);
    (1..=Holding::MAX_RECORDS).contains(&records().count())
        && records().all(is_dag_cbor)
        && are_distinct(records())
}

fn is_legal_hold(body: &LegalHold) -> bool {
    body.record.iter().all(is_dag_cbor)
}

/// Without a disclosure there is no chain.
fn is_account(body: &Account) -> bool {
    let none = AccountHead::default();
    (body.count == none.count) == (body.head == none.head)
}

fn is_erased(body: &Erased) -> bool {
    (1..=Erased::MAX_HOLDERS).contains(&body.holders.len())
        && body.holders.is_sorted_by(|one, next| one.who < next.who)
        && (1..=Erased::MAX_REPLICAS).contains(&body.replicas.len())
        && body.replicas.is_sorted_by(|one, next| one < next)
}

fn is_break_glass_rule(body: &BreakGlassRule) -> bool {
    let lasts = BreakGlassRule::MIN_LASTS_MS..=BreakGlassRule::MAX_LASTS_MS;
    let review_within = body.lasts_ms..=BreakGlassRule::MAX_REVIEW_WITHIN_MS;
    are_roles(&body.roles)
        && (1..=16).contains(&body.reviewers.len())
        && body.reviewers.is_sorted_by(|one, next| one < next)
        && lasts.contains(&body.lasts_ms)
        && review_within.contains(&body.review_within_ms)
}

fn are_roles(roles: &[String]) -> bool {
    roles.len() <= 16
        && roles.is_sorted_by(|one, next| one < next)
        && roles.iter().all(|role| is_role(role))
}

fn is_role(text: &str) -> bool {
    is_text(text, 1, 32, |c| matches!(c, 'a'..='z' | '-'))
}

fn is_matter(text: &str) -> bool {
    (1..=256).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// An IP address and a port, in the one way to write them.
fn is_address(text: &str) -> bool {
    let address: Result<SocketAddr, _> = text.parse();
    address.is_ok_and(|address| address.port() != 0 && address.to_string() == text)
}

fn is_member(member: &Member) -> bool {
    is_text(&member.name, 1, 32, is_name)
        && member.node_id >= 1
        && is_verifier_key(&member.log_key)
        && is_verifier_key(&member.cosigner_key)
        && is_text(&member.peer_id, 1, 128, |c| c.is_ascii_alphanumeric())
}

fn is_enrolled(body: &Enrolled) -> bool {
    let is_organisation = body.kind == PrincipalKind::Organisation;
    is_organisation == (body.org == body.who)
        && are_roles(&body.roles)
        && is_label(body.label.as_deref())
        && body
            .device
            .as_ref()
            .is_none_or(|details| body.kind == PrincipalKind::Device && are_details(details))
}

fn are_details(details: &DeviceDetails) -> bool {
    let udi = |udi: &String| is_text(udi, 1, 64, |c| c.is_ascii_graphic());
    is_label(details.manufacturer.as_deref())
        && is_label(details.model.as_deref())
        && is_label(details.firmware.as_deref())
        && details.udi.iter().all(udi)
}

fn is_custody(body: &Custody) -> bool {
    body.kem == 0x0020
        && body.key.len() == 32
        && (1..=16).contains(&body.brokers.len())
        && are_distinct(&body.brokers)
        && body.writers.len() <= 64
        && are_distinct(&body.writers)
        && body.held_by.len() <= 32
        && are_distinct(body.held_by.iter().map(|held| held.by))
}

fn is_consented(body: &Consented) -> bool {
    let is_default = body.provision == Provision::default() && !body.except.is_empty();
    body.except.len() <= Consented::MAX_EXCEPTIONS
        && (is_default || body.effect != Effect::Silent)
        && body
            .provisions()
            .all(|(provision, effect)| is_provision(provision, effect))
}

/// Nobody permits everybody everything by leaving something out.
fn is_provision(provision: &Provision, effect: Effect) -> bool {
    let least = usize::from(effect == Effect::Permit);
    (least..=64).contains(&provision.actors.len())
        && are_distinct(&provision.actors)
        && provision.actors.iter().all(is_actor)
        && (least..=64).contains(&provision.purposes.len())
        && are_distinct(&provision.purposes)
        && provision.purposes.iter().all(|code| is_purpose(code))
        && are_distinct(&provision.classes)
        && provision.devices.len() <= 64
        && are_distinct(&provision.devices)
        && is_period(&provision.captured)
        && is_period(&provision.valid)
}

fn is_actor(actor: &Actor) -> bool {
    let is_said = actor.party.is_some() || actor.role.is_some();
    is_said && actor.role.iter().all(|role| is_role(role))
}

fn is_anchored(body: &Anchored) -> bool {
    let prev = body
        .prev
        .as_ref()
        .map(|bytes| Cid::try_from(bytes.as_slice()));
    is_dag_cbor(&body.record)
        && is_dag_cbor(&body.wrap)
        && prev.is_none_or(|prev| prev.is_ok_and(|prev| is_dag_cbor(&prev)))
}

fn is_access_request(statement: &Statement, body: &AccessRequest) -> bool {
    are_asked_for(body)
        && is_purpose(&body.purpose)
        && is_role(&body.role)
        && body.recipient.len() == 32
        && body
            .second_factor
            .as_ref()
            .is_none_or(|shown| FactorVerified::said_by(shown, &statement.origin).is_some())
}

/// Records by name or by what they are, not both.
fn are_asked_for(body: &AccessRequest) -> bool {
    match &body.selection {
        None => {
            (1..=AccessRequest::MAX_RECORDS).contains(&body.records.len())
                && body.records.iter().all(is_dag_cbor)
                && are_distinct(&body.records)
        }
        Some(selection) => body.records.is_empty() && selection.is_sound(),
    }
}

fn is_released(statement: &Statement, body: &Released) -> bool {
    let policy = |c: char| c.is_ascii_graphic();
    is_request(statement, &body.request)
        && request_of(&body.request).is_some_and(|request| fits(request, &body.list))
        && body.policies.len() <= 64
        && body.policies.is_sorted_by(|one, next| one < next)
        && body.policies.iter().all(|id| is_text(id, 1, 64, policy))
        && body.basis.tells_of_no_record()
}

/// Whether a list with this head may be of what was asked for.
fn fits(request: &AccessRequest, list: &ListHead) -> bool {
    match &request.selection {
        None => {
            let records = u64::try_from(request.records.len());
            list.parts == 1 && records == Ok(list.records)
        }
        Some(selection) => list.parts == selection.cohort.count && list.records >= 1,
    }
}

fn is_refused(statement: &Statement, body: &Refused) -> bool {
    let code = |c| matches!(c, 'a'..='z' | '-');
    is_request(statement, &body.request)
        && is_text(&body.code, 1, 64, code)
        && body.basis.devices.len() <= AccessRequest::MAX_RECORDS
}

/// An access request made in the same network, signed by the requester alone.
fn is_request(statement: &Statement, request: &SignedStatement) -> bool {
    request_of(request).is_some()
        && request.signatures.len() == 1
        && request.statement.origin == statement.origin
        && request.check_form().is_ok()
        && is_body(&request.statement)
}

/// The access request in a signed statement.
pub(super) fn request_of(request: &SignedStatement) -> Option<&AccessRequest> {
    match &request.statement.body {
        Body::AccessRequest(body) => Some(body),
        _ => None,
    }
}

/// C2SP: a key name is not empty and has neither spaces nor a plus sign.
fn is_origin(text: &str) -> bool {
    is_text(text, 1, 128, |c| c.is_ascii_graphic() && c != '+')
}

fn is_verifier_key(text: &str) -> bool {
    is_text(text, 1, 512, |c| c.is_ascii_graphic())
}

/// An HL7 ActReason code.
fn is_purpose(text: &str) -> bool {
    is_text(text, 2, 16, |c| c.is_ascii_uppercase())
}

fn is_name(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '-')
}

fn is_label(text: Option<&str>) -> bool {
    text.is_none_or(|text| text.chars().count() <= 64 && !text.chars().any(char::is_control))
}

fn is_text(text: &str, least: usize, most: usize, allowed: impl Fn(char) -> bool) -> bool {
    (least..=most).contains(&text.len()) && text.chars().all(allowed)
}

fn is_period(period: &Period) -> bool {
    period.is_sound()
}

fn is_dag_cbor(cid: &Cid) -> bool {
    cid.version() == cid::Version::V1
        && cid.codec() == Codec::DagCbor.code()
        && cid.hash().code() == SHA2_256
        && cid.hash().digest().len() == 32
}

fn are_distinct<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    items.into_iter().all(|item| seen.insert(item))
}

const SHA2_256: u64 = 0x12;
