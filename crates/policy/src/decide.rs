use crate::{
    Code, Policies, PolicySets,
    consent::{Said, names},
    facts::Facts,
    grounds::{Asker, Grounds, open_emergencies},
    policies::Answer,
    purpose, second_factor,
};
use medanchor_anchor::{
    AccessRequest, Anchored, Basis, Body, BreakGlass, ConsentEntry, CustodyKind, RecordEntry,
    SignedStatement, State, TablesError,
};
use medanchor_dag::{CustodyId, Did};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A decision and what it read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The leaves that it rests on, for `released` and `refused`.
    pub basis: Basis,
    /// What was decided.
    pub verdict: Verdict,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every record may be released.
    Permit {
        /// Ids of the policies that permit it, sorted.
        policies: Vec<String>,
        /// The last moment of the release, unix ms: no later than the request's, nor than that of a consent or an
        /// emergency without which it would not be permitted, nor than when a review of the requester's is due.
        until: u64,
    },
    /// No record may be released.
    Deny {
        /// The stable code.
        code: Code,
        /// Which condition failed and what would change it, without any patient's data.
        reason: String,
    },
}

/// Decides whether the records' keys may be released to whoever signed `request`. `now` is log time, unix
/// ms, or a later time: whatever has an end ends by it. The same arguments always give the same decision.
///
/// # Errors
///
/// When the storage fails. Every other error is a denial.
pub fn decide(
    state: &State<'_>,
    sets: &PolicySets,
    request: &SignedStatement,
    now: u64,
) -> Result<Decision, TablesError> {
    let (code, reason) = match judge(state, sets, request, now) {
        Ok((policies, until)) => {
            return Ok(Decision {
                basis: basis(state, request)?,
                verdict: Verdict::Permit { policies, until },
            });
        }
        Err(Stop::Denied(code, reason)) => (code, reason),
        Err(Stop::Tables(error)) => return Err(error),
    };
    // INVARIANT: who may not know of the records learns nothing of them from the basis either.
    let basis = match code.tells_of_records() {
        true => basis(state, request)?,
        false => requester_basis(state, request)?,
    };
    Ok(Decision {
        basis,
        verdict: Verdict::Deny { code, reason },
    })
}

/// Why a decision ends early.
enum Stop {
    Denied(Code, String),
    Tables(TablesError),
}

impl From<TablesError> for Stop {
    fn from(error: TablesError) -> Self {
        Self::Tables(error)
    }
}

/// A request, and who makes it.
struct Ask<'a> {
    request: &'a AccessRequest,
    asker: Asker<'a>,
    /// The last moment of the request, and of the role where a review is due.
    not_after: u64,
}

/// What permits the use of one record, and until when.
struct Permitted {
    policies: Vec<String>,
    until: u64,
}

/// Every condition, from who asks to each record: the policies that permit all of them, and until when.
fn judge(
    state: &State<'_>,
    sets: &PolicySets,
    request: &SignedStatement,
    now: u64,
) -> Result<(Vec<String>, u64), Stop> {
    let policies = policies_in_force(state, sets)?;
    let ask = authenticate(state, request, now)?;
    let (records, grounds) = common_grounds(state, &ask)?;
    let (mut permitting, mut until) = (BTreeSet::new(), ask.not_after);
    for record in &records {
        let permitted = judge_record(state, &policies, &ask, record, &grounds)?;
        permitting.extend(permitted.policies);
        until = until.min(permitted.until);
    }
    Ok((permitting.into_iter().collect(), until))
}

fn policies_in_force(state: &State<'_>, sets: &PolicySets) -> Result<Arc<Policies>, Stop> {
    match sets.in_force(state)? {
        Some(policies) => Ok(policies),
        None => deny(
            Code::PolicyMismatch,
            "this version of the node cannot decide by the policy set that the network has agreed on: its operator \
             must update the node, or the members set another one",
        ),
    }
}

/// Who asks: enrolled, active, in a role it holds, for a purpose that exists.
fn authenticate<'a>(
    state: &State<'_>,
    signed: &'a SignedStatement,
    now: u64,
) -> Result<Ask<'a>, Stop> {
    let Some((request, requester)) = parts(signed) else {
        return deny(
            Code::MalformedRequest,
            "not an access request for 1 to 256 records, signed by the requester alone",
        );
    };
    if !signed.verifies() {
        return deny(
            Code::BadSignature,
            "the request's signature does not verify",
        );
    }
    let expiry = signed.statement.not_after_unix_ms;
    let Some(not_after) = expiry.filter(|not_after| *not_after >= now) else {
        return deny(
            Code::RequestExpired,
            "the request's time is over: sign a new one",
        );
    };
    let Some(entry) = state.principal(requester)? else {
        return deny(
            Code::NotEnrolled,
            "the requester is not enrolled: its organisation must enrol it",
        );
    };
    let org = state.principal(&entry.org)?;
    let org = org.filter(|org| org.is_active() && entry.is_active());
    let Some(org) = org else {
        return deny(
            Code::Inactive,
            "the requester or its organisation is suspended or revoked: who enrolled it may reinstate it \
             from suspension",
        );
    };
    if !entry.roles.contains(&request.role) {
        let reason = format!(
            "the requester is not enrolled with the role `{}`; it holds: {}",
            request.role,
            entry.roles.join(", ")
        );
        return deny(Code::RoleNotHeld, reason);
    }
    if entry.is_overdue(&request.role, now) {
        let reason = format!(
            "the role `{}` is suspended: an emergency in which the requester overrode consent was not reviewed in time; a \
             reviewer of its organisation may still close it",
            request.role
        );
        return deny(Code::ReviewOverdue, reason);
    }
    let Some(purposes) = purpose::chain(&request.purpose) else {
        let reason = format!(
            "`{}` is not an HL7 purpose of use, such as TREAT or HRESCH",
            request.purpose
        );
        return deny(Code::PurposeUnknown, reason);
    };
    let second_factor = second_factor::counts(state, signed, request, &entry, now)?;
    let overdue_after = entry.overdue_after(&request.role);
    Ok(Ask {
        request,
        asker: Asker {
            did: *requester,
            org: entry.org,
            role: &request.role,
            purpose: &request.purpose,
            purposes,
            now,
            emergencies: open_emergencies(&entry, &org),
            second_factor,
        },
        not_after: overdue_after.map_or(not_after, |due| not_after.min(due)),
    })
}

/// The records and their common grounds, if the requester may know of every one. One that it has nothing
/// to do with reads the same as one that does not exist.
fn common_grounds(state: &State<'_>, ask: &Ask<'_>) -> Result<(Vec<RecordEntry>, Grounds), Stop> {
    let mut records = Vec::with_capacity(ask.request.records.len());
    let mut custodies: BTreeMap<CustodyId, Grounds> = BTreeMap::new();
    for cid in &ask.request.records {
        let Some(record) = state.record(cid)? else {
            return not_permitted();
        };
        let id = record.anchored.custody;
        let grounds = match custodies.remove(&id) {
            Some(grounds) => grounds,
            None => match Grounds::read(state, &id)? {
                Some(grounds) => grounds,
                None => return not_permitted(),
            },
        };
        if !is_related(state, ask, &record, &grounds)? {
            return not_permitted();
        }
        custodies.insert(id, grounds);
        records.push(record);
    }
    match (custodies.pop_first(), custodies.is_empty()) {
        (Some((_, grounds)), true) => Ok((records, grounds)),
        _ => deny(
            Code::MixedCustody,
            "the records are under more than one custody key: ask for each separately",
        ),
    }
}

/// Whether the requester may know that the record exists: its organisation's key or device, its own
/// data, open data, or data that somebody once consented to give it.
fn is_related(
    state: &State<'_>,
    ask: &Ask<'_>,
    record: &RecordEntry,
    grounds: &Grounds,
) -> Result<bool, TablesError> {
    let (custody, asker) = (&grounds.custody, &ask.asker);
    let is_named = |consent: &ConsentEntry| names(consent, &asker.did, &asker.org, asker.role);
    Ok(custody.kind == CustodyKind::Open
        || custody.owner == asker.org
        || custody.controller.as_ref() == Some(&asker.did)
        || grounds.consents.iter().any(is_named)
        || grounds.emergency(asker)
        || owns_device(state, ask, record)?)
}

fn owns_device(
    state: &State<'_>,
    ask: &Ask<'_>,
    record: &RecordEntry,
) -> Result<bool, TablesError> {
    let device = state.principal(&record.anchored.device)?;
    Ok(device.is_some_and(|device| device.org == ask.asker.org))
}

/// The policies that permit one record, or why none does.
fn judge_record(
    state: &State<'_>,
    policies: &Policies,
    ask: &Ask<'_>,
    record: &RecordEntry,
    grounds: &Grounds,
) -> Result<Permitted, Stop> {
    let owns_device = owns_device(state, ask, record)?;
    let (facts, said) = grounds.facts(&ask.asker, &record.anchored, owns_device);
    match policies.answer(&facts) {
        Answer::Permitted(permitting) => Ok(Permitted {
            policies: permitting,
            until: permitted_until(policies, ask, &record.anchored, grounds, owns_device),
        }),
        Answer::Failed => deny(
            Code::PolicyError,
            "the policies could not be evaluated: the network's policy set must be mended",
        ),
        Answer::Forbidden(_) | Answer::NotPermitted => {
            let (code, reason) = why_not(policies, &facts, said, &ask.request.purpose);
            deny(code, reason)
        }
    }
}

/// Which condition failed of a use that is not permitted, and what would change it.
fn why_not(policies: &Policies, facts: &Facts<'_>, said: Said, purpose: &str) -> (Code, String) {
    // INVARIANT: who would not be permitted without a denial either does not hear of it.
    let undenied = Facts {
        denied: false,
        consented: said.permitted.is_ok(),
        ..facts.clone()
    };
    // What is missing besides a second factor comes first.
    let answer = policies.answer(&with_second_factor(&undenied));
    let code = match answer {
        _ if emergency_would_help(policies, facts) => Code::EmergencyRequired,
        Answer::Permitted(_) if said.denied => Code::ConsentDenied,
        Answer::Permitted(_) => Code::SecondFactorRequired,
        Answer::Forbidden(ids) => {
            let reason = format!("forbidden by the policies: {}", ids.join(", "));
            return (Code::Forbidden, reason);
        }
        Answer::Failed => {
            let reason =
                "the policies could not be evaluated: the network's policy set must be mended";
            return (Code::PolicyError, reason.to_owned());
        }
        Answer::NotPermitted => said
            .permitted
            .err()
            .filter(|_| consent_would_help(policies, &undenied))
            .unwrap_or(Code::RoleNotPermitted),
    };
    (code, explain(code, facts, purpose))
}

/// The last moment of the request, or the one before the first at which a consent or an emergency says something on which
/// the use is not permitted any more, or after which too many do for all to be looked at.
fn permitted_until(
    policies: &Policies,
    ask: &Ask<'_>,
    anchored: &Anchored,
    grounds: &Grounds,
    owns_device: bool,
) -> u64 {
    let turns = grounds.turns(&ask.asker);
    let mut turns = turns.range(..=ask.not_after).copied();
    let is_over = |moment: &u64| {
        let then = Asker {
            now: *moment,
            ..ask.asker.clone()
        };
        let (facts, _) = grounds.facts(&then, anchored, owns_device);
        !permits(policies, &facts)
    };
    let over = turns.by_ref().take(MAX_TURNS).find(is_over);
    let end = over.or_else(|| turns.next());
    end.map_or(ask.not_after, |moment| moment.saturating_sub(1))
}

fn permits(policies: &Policies, facts: &Facts<'_>) -> bool {
    matches!(policies.answer(facts), Answer::Permitted(_))
}

fn with_second_factor<'a>(facts: &Facts<'a>) -> Facts<'a> {
    Facts {
        second_factor: true,
        ..facts.clone()
    }
}

/// Whether consent is what is missing, and at most a second factor besides.
fn consent_would_help(policies: &Policies, facts: &Facts<'_>) -> bool {
    let consented = Facts {
        consented: true,
        ..with_second_factor(facts)
    };
    permits(policies, &consented)
}

/// Whether it is asked for as in an emergency, none lets it, and with one it would be permitted.
fn emergency_would_help(policies: &Policies, facts: &Facts<'_>) -> bool {
    let overridden = Facts {
        emergency: true,
        ..with_second_factor(facts)
    };
    !facts.emergency
        && facts.purposes.first() == Some(&BreakGlass::PURPOSE)
        && permits(policies, &overridden)
}

/// Which condition failed, and what would change it.
fn explain(code: Code, facts: &Facts<'_>, purpose: &str) -> String {
    let Facts { role, class, .. } = facts;
    match code {
        Code::NoConsent => format!(
            "role `{role}` needs consent for `{purpose}`, and none names the requester, its organisation or the role: \
             the custody key's owner or controller may give it"
        ),
        Code::PurposeNotCovered => format!(
            "no consent given to the requester covers the purpose `{purpose}` or one above it: ask for a \
             purpose that is consented, or for wider consent"
        ),
        Code::ClassNotCovered => format!(
            "consent for `{purpose}` does not include data of class `{class}`: ask for wider consent"
        ),
        Code::DeviceNotCovered => format!(
            "consent for `{purpose}` does not include what this record's device made: ask for wider consent"
        ),
        Code::ConsentDenied => format!(
            "a consent denies role `{role}` the use for `{purpose}`: only who may give consent may withdraw that"
        ),
        Code::CaptureNotCovered => format!(
            "consent for `{purpose}` does not include data captured at this record's time: ask for a longer \
             period of capture"
        ),
        Code::ConsentNotYetValid => {
            format!("consent for `{purpose}` is valid from a later time on: ask again then")
        }
        Code::ExpiredConsent => {
            format!("consent for `{purpose}` is over: the owner or controller may give it again")
        }
        Code::ConsentWithdrawn => format!(
            "consent for `{purpose}` was withdrawn: only the owner or controller may give it again"
        ),
        Code::EmergencyRequired => format!(
            "`{purpose}` overrides consent, and the log has no emergency of the requester's, in the role `{role}` and for the \
             custody key, that is neither over nor reviewed: break the glass first"
        ),
        Code::SecondFactorRequired => format!(
            "the policies ask role `{role}` for a second factor, and none was shown within the last five minutes: show \
             one to the node that verifies it, and ask again"
        ),
        _ => format!(
            "no policy permits role `{role}` to use data of class `{class}` for `{purpose}`"
        ),
    }
}

fn basis(state: &State<'_>, signed: &SignedStatement) -> Result<Basis, TablesError> {
    let basis = match parts(signed) {
        Some((request, requester)) => state.basis(request, requester)?,
        None => None,
    };
    Ok(basis.unwrap_or_default())
}

fn requester_basis(state: &State<'_>, signed: &SignedStatement) -> Result<Basis, TablesError> {
    let basis = match parts(signed) {
        Some((_, requester)) => state.requester_basis(requester)?,
        None => None,
    };
    Ok(basis.unwrap_or_default())
}

/// The request and the requester, if it is an access request of a size that is allowed.
fn parts(signed: &SignedStatement) -> Option<(&AccessRequest, &Did)> {
    let Body::AccessRequest(request) = &signed.statement.body else {
        return None;
    };
    let fits = (1..=AccessRequest::MAX_RECORDS).contains(&request.records.len());
    let is_alone = signed.signatures.len() == 1;
    Some(request)
        .zip(signed.author())
        .filter(|_| fits && is_alone)
}

fn not_permitted<T>() -> Result<T, Stop> {
    deny(
        Code::NotPermitted,
        "the request is not permitted: a record does not exist, or nothing entitles the requester to it",
    )
}

fn deny<T>(code: Code, reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Denied(code, reason.into()))
}

/// At how many moments, at which consents or emergencies may say something else, a decision is made again to find its end.
const MAX_TURNS: usize = 32;
