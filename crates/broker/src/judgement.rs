use crate::{ReleaseError, answer::Declined, request::Request};
use medanchor_anchor::{Basis, CustodyEntry, Kind, RecordEntry, State};
use medanchor_dag::{Did, Hash};
use medanchor_policy::{Code, Policies, Verdict, decide};

/// What the state says of a request.
pub(crate) enum Judgement {
    /// Its keys may be released.
    Permit(Permit),
    /// It is to be refused, with a leaf.
    Refuse(Refusal),
    /// It is refused without a leaf.
    Decline(Declined),
}

/// What a release says.
pub(crate) struct Permit {
    /// Ids of the policies that permit it.
    pub(crate) policies: Vec<String>,
    /// The last moment of the release, unix ms.
    pub(crate) until: u64,
    /// What the decision read.
    pub(crate) basis: Basis,
    /// The records, in the order of the request.
    pub(crate) records: Vec<RecordEntry>,
}

/// What a refusal says.
pub(crate) struct Refusal {
    /// The stable code.
    pub(crate) code: String,
    /// The condition that failed and what would change it.
    pub(crate) reason: String,
    /// What the decision read.
    pub(crate) basis: Basis,
}

/// Decides `request` as `broker`, on what the log says, at `now`, unix ms.
pub(crate) fn judge(
    policies: &Policies,
    broker: &Did,
    state: State<'_>,
    request: &Request,
    now: u64,
) -> Result<Judgement, ReleaseError> {
    if state.principal(&request.requester)?.is_none() {
        return Ok(Judgement::Decline(Declined::new(
            Code::NotEnrolled.as_str(),
            "the requester is not enrolled: its organisation must enrol it first",
        )));
    }
    if is_released(state, &request.hash)? {
        return Ok(Judgement::Decline(Declined::new(
            "already-released",
            "another broker has released keys on this request: ask that one, or make a new request",
        )));
    }
    let mut records = Vec::with_capacity(request.body.records.len());
    for record in &request.body.records {
        records.extend(state.record(record)?);
    }
    if let Some(custody) = custody_of(state, &records)?
        && !custody.custody.brokers.contains(broker)
    {
        let brokers = custody.custody.brokers;
        return Err(ReleaseError::NotBroker { brokers });
    }
    let decision = decide(
        &state,
        policies,
        &request.signed,
        now.max(state.log_time()?),
    )?;
    Ok(match decision.verdict {
        Verdict::Permit { policies, until } => Judgement::Permit(Permit {
            policies,
            until,
            basis: decision.basis,
            records,
        }),
        Verdict::Deny { code, reason } => Judgement::Refuse(Refusal {
            code: code.to_owned(),
            reason,
            basis: decision.basis,
        }),
    })
}
/// The custody key of the first known record.
fn custody_of(
    state: State<'_>,
    records: &[RecordEntry],
) -> Result<Option<CustodyEntry>, ReleaseError> {
    match records.first() {
        Some(record) => Ok(state.custody(&record.anchored.custody)?),
        None => Ok(None),
    }
}

/// Whether keys were released on this request, by whichever broker.
fn is_released(state: State<'_>, request: &Hash) -> Result<bool, ReleaseError> {
    let Some(index) = state.request(request)? else {
        return Ok(false);
    };
    let leaf = state.leaf(index)?;
    Ok(leaf.is_some_and(|leaf| leaf.kind == Kind::Released))
}
