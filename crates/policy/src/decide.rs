use crate::{
    Code, Policies, PolicySets,
    consent::Said,
    facts::Facts,
    grounds::{Asker, Device, Grounds, open_emergencies},
    policies::Answer,
    purpose, second_factor,
};
use medanchor_anchor::{
    AccessRequest, Anchored, Basis, Body, BreakGlass, LeafIndex, RecordEntry, ReleaseList,
    ReleasePart, ReleaseRow, Selection, SignedStatement, State, TablesError,
};
use medanchor_dag::{CustodyId, Did, Hash};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A decision and what it read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The leaves that it rests on, for `released` and `refused`. Of a permit it tells of no record: [`Permit::parts`] do.
    pub basis: Basis,
    /// What was decided.
    pub verdict: Verdict,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Records may be released: every one that was named, or some of those that were selected.
    Permit(Permit),
    /// No record may be released.
    Deny {
        /// The stable code.
        code: Code,
        /// Which condition failed and what would change it, without any patient's data.
        reason: String,
    },
}

/// What may be released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    /// The records, for each custody key that was asked for.
    pub parts: Vec<PermittedPart>,
    /// How many records were selected and may not be released, of those that the requester may know of, by why not.
    pub left_out: BTreeMap<Code, u64>,
}

/// What may be released under one custody key, and what that rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermittedPart {
    /// The custody key.
    pub custody: CustodyId,
    /// The nodes that may release under it; none when nothing may be released.
    pub brokers: Vec<Did>,
    /// The leaf that last changed it; 0 when nothing may be released.
    pub since: LeafIndex,
    /// The newest consent given or withdrawn under it.
    pub consent: Option<LeafIndex>,
    /// The records.
    pub rows: Vec<PermittedRow>,
}

/// A record that may be released, and what that rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermittedRow {
    /// The record.
    pub record: RecordEntry,
    /// The leaf that last changed the standing of its device.
    pub device: LeafIndex,
    /// Ids of the policies that permit it, sorted.
    pub policies: Vec<String>,
    /// The last moment of the release, unix ms: no later than the request's, nor than that of a consent or an
    /// emergency without which it would not be permitted, nor than when a review of the requester's is due.
    pub until: u64,
}

impl Permit {
    /// All its records.
    pub fn rows(&self) -> impl Iterator<Item = &PermittedRow> {
        self.parts.iter().flat_map(|part| &part.rows)
    }

    /// Ids of the policies that permit it, sorted.
    pub fn policies(&self) -> Vec<String> {
        let policies: BTreeSet<&String> = self.rows().flat_map(|row| &row.policies).collect();
        policies.into_iter().cloned().collect()
    }

    /// The last moment at which all of it may be released, unix ms; 0 when it is nothing.
    pub fn until(&self) -> u64 {
        self.rows().map(|row| row.until).min().unwrap_or(0)
    }
}

/// Decides whether the records' keys may be released to whoever signed `request`. `cohort` are the custody keys whose records it
/// selects, none when it names them. `now` is log time, unix ms, or a later time: whatever has an end ends by it. The same
/// arguments always give the same decision.
///
/// Of records that are named all may be released or none. Of those that are selected those are that would be if each were
/// named alone.
///
/// # Errors
///
/// When the storage fails. Every other error is a denial.
pub fn decide(
    state: &State<'_>,
    sets: &PolicySets,
    request: &SignedStatement,
    cohort: &[CustodyId],
    now: u64,
) -> Result<Decision, TablesError> {
    let judged = judge(state, sets, request, Wanted::AsAsked(cohort), now);
    decision(state, request, judged)
}

/// Decides whether all that a list says was released on `request` may be, whatever else was selected.
///
/// # Errors
///
/// As [`decide`].
pub(crate) fn decide_listed(
    state: &State<'_>,
    sets: &PolicySets,
    request: &SignedStatement,
    list: &ReleaseList,
    now: u64,
) -> Result<Decision, TablesError> {
    let judged = judge(state, sets, request, Wanted::Listed(list), now);
    decision(state, request, judged)
}

fn decision(
    state: &State<'_>,
    request: &SignedStatement,
    judged: Result<Permit, Stop>,
) -> Result<Decision, TablesError> {
    let (code, reason) = match judged {
        Ok(permit) => {
            return Ok(Decision {
                basis: requester_basis(state, request)?,
                verdict: Verdict::Permit(permit),
            });
        }
        Err(Stop::Denied(code, reason)) => (code, reason),
        Err(Stop::Tables(error)) => return Err(error),
    };
    // INVARIANT: who may not know of the records learns nothing of them from the basis either.
    let basis = match code.tells_of_records() && names_records(request) {
        true => basis(state, request)?,
        false => requester_basis(state, request)?,
    };
    Ok(Decision {
        basis,
        verdict: Verdict::Deny { code, reason },
    })
}

/// Which records are decided on.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// Those of the request, with the custody keys of its selection.
    AsAsked(&'a [CustodyId]),
    /// Those of a list.
    Listed(&'a ReleaseList),
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

/// Every condition, from who asks to each record.
fn judge(
    state: &State<'_>,
    sets: &PolicySets,
    request: &SignedStatement,
    wanted: Wanted<'_>,
    now: u64,
) -> Result<Permit, Stop> {
    let policies = policies_in_force(state, sets)?;
    let ask = authenticate(state, request, now)?;
    let judging = Judging {
        state,
        policies: &policies,
        ask: &ask,
    };
    match (wanted, &ask.request.selection) {
        (_, None) => judging.named(),
        (Wanted::AsAsked(cohort), Some(selection)) => judging.selected(selection, cohort),
        (Wanted::Listed(list), Some(_)) => judging.listed(list),
    }
}

/// What has come of the records of a selection so far.
struct Tally {
    permit: Permit,
    /// Why the first that was denied was.
    denied: Option<(Code, String)>,
    permitted: usize,
    looked_at: usize,
}

impl Tally {
    fn count(&mut self, judged: Result<PermittedRow, Stop>) -> Result<Option<PermittedRow>, Stop> {
        match judged {
            Ok(row) => {
                self.permitted = self.permitted.saturating_add(1);
                Ok(Some(row))
            }
            Err(Stop::Denied(code, reason)) => {
                *self.permit.left_out.entry(code).or_default() += 1;
                self.denied.get_or_insert((code, reason));
                Ok(None)
            }
            Err(failed) => Err(failed),
        }
    }
}

/// What every record is judged by.
struct Judging<'a> {
    state: &'a State<'a>,
    policies: &'a Policies,
    ask: &'a Ask<'a>,
}

impl Judging<'_> {
    /// All of them or none.
    fn named(&self) -> Result<Permit, Stop> {
        let (records, grounds) = common_grounds(self.state, self.ask)?;
        let mut part = grounds.part();
        for record in records {
            part.rows.push(self.judge(record, &grounds)?);
        }
        Ok(Permit {
            parts: vec![part],
            ..Permit::default()
        })
    }

    /// Each by itself. What the requester may not know of is not even counted.
    fn selected(&self, selection: &Selection, cohort: &[CustodyId]) -> Result<Permit, Stop> {
        if !selection.cohort.is_of(cohort) {
            return deny(
                Code::MalformedRequest,
                "the custody keys that came with the request are not those of its selection",
            );
        }
        let mut tally = Tally {
            permit: Permit::default(),
            denied: None,
            permitted: 0,
            looked_at: 0,
        };
        let own_stream = match &selection.stream {
            Some(stream) => owns_device(self.state, self.ask, &stream.device)?,
            None => false,
        };
        for custody in cohort {
            let part = self.selected_under(custody, selection, own_stream, &mut tally)?;
            tally.permit.parts.push(part.or_nothing());
        }
        match (tally.permitted, tally.denied) {
            (0, Some((code, reason))) => deny(code, reason),
            (0, None) => deny(
                Code::NotPermitted,
                "nothing is selected: there are no such records, or nothing entitles the requester to them",
            ),
            _ => Ok(tally.permit),
        }
    }

    fn selected_under(
        &self,
        custody: &CustodyId,
        selection: &Selection,
        own_stream: bool,
        tally: &mut Tally,
    ) -> Result<PermittedPart, Stop> {
        let Some(grounds) = Grounds::read(self.state, custody)? else {
            return Ok(PermittedPart::nothing(*custody));
        };
        let mut part = grounds.part();
        // INVARIANT: what the requester may not know of is not looked at, so that neither a bound nor the time tells of it. Its
        // own devices' records under a custody key that it has nothing to do with are selected by their stream.
        let may_be_known = grounds.may_be_known(&self.ask.asker);
        if !may_be_known && !own_stream {
            return Ok(part);
        }
        let mut first = Some(selection.leaves.from);
        while let Some(from) = first.filter(|first| *first <= selection.leaves.until) {
            let records = self.state.records_under(custody, from, PAGE)?;
            let last = records.last().filter(|_| records.len() == PAGE);
            first = last.and_then(|last| last.index.checked_add(1));
            tally.looked_at = tally.looked_at.saturating_add(records.len());
            for record in records {
                if self.state.selects(selection, &record)?
                    && (may_be_known || owns_device(self.state, self.ask, &record.anchored.device)?)
                {
                    let judged = self.judge(record, &grounds);
                    part.rows.extend(tally.count(judged)?);
                }
            }
            if tally.permitted > ReleaseList::MAX_RECORDS || tally.looked_at > MAX_LOOKED_AT {
                return too_many();
            }
        }
        Ok(part)
    }

    /// All of them or none.
    fn listed(&self, list: &ReleaseList) -> Result<Permit, Stop> {
        let mut permit = Permit::default();
        for listed in &list.parts {
            let mut part = PermittedPart::nothing(listed.custody);
            if let Some(grounds) = Grounds::read(self.state, &listed.custody)? {
                part = grounds.part();
                for row in &listed.rows {
                    let record = self.state.record(&row.record)?;
                    let record = record.filter(|entry| entry.anchored.custody == listed.custody);
                    let Some(record) = record else {
                        return not_permitted();
                    };
                    if !is_related(self.state, self.ask, &record, &grounds)? {
                        return not_permitted();
                    }
                    part.rows.push(self.judge(record, &grounds)?);
                }
            }
            permit.parts.push(part.or_nothing());
        }
        Ok(permit)
    }

    /// One record, if it may be released.
    fn judge(&self, record: RecordEntry, grounds: &Grounds) -> Result<PermittedRow, Stop> {
        let permitted = judge_record(self.state, self.policies, self.ask, &record, grounds)?;
        Ok(PermittedRow {
            device: self.state.device_since(&record.anchored.device)?,
            policies: permitted.policies,
            until: permitted.until.min(self.ask.not_after),
            record,
        })
    }
}

impl Grounds {
    /// What the custody key is, with no records yet.
    fn part(&self) -> PermittedPart {
        PermittedPart {
            brokers: self.entry.custody.brokers.clone(),
            since: self.entry.since,
            consent: self.entry.newest_consent,
            ..PermittedPart::nothing(self.entry.custody.custody)
        }
    }
}

impl PermittedPart {
    fn nothing(custody: CustodyId) -> Self {
        Self {
            custody,
            brokers: Vec::new(),
            since: 0,
            consent: None,
            rows: Vec::new(),
        }
    }

    /// A part of which nothing is released says nothing of its custody key.
    #[must_use]
    pub fn or_nothing(self) -> Self {
        match self.rows.is_empty() {
            true => Self::nothing(self.custody),
            false => self,
        }
    }

    /// Nothing of it is released.
    pub fn leave_out(&mut self) {
        *self = Self::nothing(self.custody);
    }

    /// The same as it is listed, with the hashes of the wraps of its records, in order.
    pub fn listed(&self, wraps: impl IntoIterator<Item = Hash>) -> ReleasePart {
        let rows = self.rows.iter().zip(wraps);
        ReleasePart {
            custody: self.custody,
            since: self.since,
            consent: self.consent,
            rows: rows
                .map(|(row, wrap)| ReleaseRow {
                    record: row.record.anchored.record,
                    device: row.device,
                    wrap,
                })
                .collect(),
        }
    }
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
    let Some((request, key)) = parts(signed) else {
        return deny(
            Code::MalformedRequest,
            "not an access request for 1 to 256 records or a selection, signed by the requester alone",
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
    // INVARIANT: a key that was rotated asks for nobody.
    let Some((did, entry)) = state.signer(key)? else {
        return deny(
            Code::NotEnrolled,
            "the requester is not enrolled, or signs with a key that it has rotated: its organisation must enrol it",
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
    let second_factor = second_factor::counts(state, signed, request, (&did, &entry), now)?;
    let overdue_after = entry.overdue_after(&request.role);
    Ok(Ask {
        request,
        asker: Asker {
            did,
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

/// Whether the requester may know that the record exists: by its custody key, or by its organisation's device.
fn is_related(
    state: &State<'_>,
    ask: &Ask<'_>,
    record: &RecordEntry,
    grounds: &Grounds,
) -> Result<bool, TablesError> {
    Ok(grounds.may_be_known(&ask.asker) || owns_device(state, ask, &record.anchored.device)?)
}

fn owns_device(state: &State<'_>, ask: &Ask<'_>, device: &Did) -> Result<bool, TablesError> {
    Ok(Device::read(state, device, &ask.asker.org)?.is_own)
}

/// The policies that permit one record, or why none does.
fn judge_record(
    state: &State<'_>,
    policies: &Policies,
    ask: &Ask<'_>,
    record: &RecordEntry,
    grounds: &Grounds,
) -> Result<Permitted, Stop> {
    let device = Device::read(state, &record.anchored.device, &ask.asker.org)?;
    let (facts, said) = grounds.facts(&ask.asker, &record.anchored, &device);
    match policies.answer(&facts) {
        Answer::Permitted(permitting) => Ok(Permitted {
            policies: permitting,
            until: permitted_until(policies, ask, &record.anchored, grounds, &device),
        }),
        Answer::Failed => deny(Code::PolicyError, FAILED),
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
        Answer::Failed => return (Code::PolicyError, FAILED.to_owned()),
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
    device: &Device,
) -> u64 {
    let turns = grounds.turns(&ask.asker);
    let mut turns = turns.range(..=ask.not_after).copied();
    let is_over = |moment: &u64| {
        let then = Asker {
            now: *moment,
            ..ask.asker.clone()
        };
        let (facts, _) = grounds.facts(&then, anchored, device);
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
    let fits = match &request.selection {
        None => (1..=AccessRequest::MAX_RECORDS).contains(&request.records.len()),
        Some(_) => request.records.is_empty(),
    };
    let is_alone = signed.signatures.len() == 1;
    Some(request)
        .zip(signed.author())
        .filter(|_| fits && is_alone)
}

fn names_records(signed: &SignedStatement) -> bool {
    parts(signed).is_some_and(|(request, _)| request.selection.is_none())
}

fn too_many<T>() -> Result<T, Stop> {
    deny(
        Code::TooManyRecords,
        "more records are selected than are released at once, 16384: select fewer, and the others another time",
    )
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

const FAILED: &str = "the policies could not be evaluated: the network's policy set must be mended";
/// At how many moments, at which consents or emergencies may say something else, a decision is made again to find its end.
const MAX_TURNS: usize = 32;
/// How many records are read at once.
const PAGE: usize = 1024;
/// How many records are looked at for one request.
const MAX_LOOKED_AT: usize = 1 << 20;
