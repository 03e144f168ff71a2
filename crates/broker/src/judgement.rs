use crate::{ReleaseError, answer::Declined, request::Request};
use medanchor_anchor::{Basis, Kind, RecordEntry, State};
use medanchor_dag::{CustodyId, Did, Hash};
use medanchor_policy::{Code, Decision, PolicySets, Verdict, decide};

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
    /// The requester's organisation.
    pub(crate) org: Did,
    /// Ids of the policies that permit it.
    pub(crate) policies: Vec<String>,
    /// The last moment of the release, unix ms.
    pub(crate) until: u64,
    /// What the decision read.
    pub(crate) basis: Basis,
    /// When it was made, unix ms.
    pub(crate) decided_at: u64,
    /// The custody key of all the records.
    pub(crate) custody: CustodyId,
    /// The other nodes that may release under it.
    pub(crate) other_brokers: Vec<Did>,
    /// The records, in the order of the request.
    pub(crate) records: Vec<RecordEntry>,
}

/// What a refusal says.
pub(crate) struct Refusal {
    /// The requester's organisation.
    pub(crate) org: Did,
    /// The stable code.
    pub(crate) code: String,
    /// The condition that failed and what would change it.
    pub(crate) reason: String,
    /// What the decision read.
    pub(crate) basis: Basis,
    /// When it was made, unix ms.
    pub(crate) decided_at: u64,
}

/// Decides `request` as `broker`, on what the log says, at `now`, unix ms. A refusal that tells of no record is any
/// node's to make; all else is for a broker of the custody key.
pub(crate) fn judge(
    policies: &PolicySets,
    broker: &Did,
    state: State<'_>,
    request: &Request,
    now: u64,
) -> Result<Judgement, ReleaseError> {
    let Some(requester) = state.principal(&request.requester)? else {
        return Ok(Judgement::Decline(Declined::new(
            Code::NotEnrolled.as_str(),
            "the requester is not enrolled: its organisation must enrol it first",
        )));
    };
    if request.body.at > state.tree_size()? {
        return Ok(Judgement::Decline(Declined::new(
            "unknown-tree",
            "the request says that it was made on a longer log than there is: fetch the newest checkpoint",
        )));
    }
    match released_by(state, broker, &request.hash)? {
        Some(by) if by != *broker => return Err(ReleaseError::NotBroker { brokers: vec![by] }),
        Some(_) => {
            return Ok(Judgement::Decline(Declined::new(
                "already-released",
                "keys were released on this request, and the grant is over: make a new request",
            )));
        }
        None => (),
    }
    let decided_at = now.max(state.log_time()?);
    let Decision { basis, verdict } = decide(&state, policies, &request.signed, decided_at)?;
    let records = records(state, request)?;
    Ok(match verdict {
        Verdict::Permit { policies, until } => {
            let (custody, other_brokers) = custody_of(state, broker, &records)?;
            Judgement::Permit(Permit {
                custody,
                org: requester.org,
                other_brokers,
                policies,
                until,
                basis,
                decided_at,
                records,
            })
        }
        Verdict::Deny { code, reason } => {
            if code.tells_of_records() {
                custody_of(state, broker, &records)?;
            }
            Judgement::Refuse(Refusal {
                org: requester.org,
                code: code.to_string(),
                reason,
                basis,
                decided_at,
            })
        }
    })
}

/// Those of the records that are known.
pub(crate) fn records(
    state: State<'_>,
    request: &Request,
) -> Result<Vec<RecordEntry>, ReleaseError> {
    let mut records = Vec::with_capacity(request.body.records.len());
    for record in &request.body.records {
        records.extend(state.record(record)?);
    }
    Ok(records)
}

/// The first record's custody key, which lists the broker, and those that it lists besides.
fn custody_of(
    state: State<'_>,
    broker: &Did,
    records: &[RecordEntry],
) -> Result<(CustodyId, Vec<Did>), ReleaseError> {
    let custody = records.first().map(|record| record.anchored.custody);
    let entry = match &custody {
        Some(custody) => state.custody(custody)?,
        None => None,
    };
    let mut brokers = entry.map_or_else(Vec::new, |entry| entry.custody.brokers);
    match custody {
        Some(custody) if brokers.contains(broker) => {
            brokers.retain(|other| other != broker);
            Ok((custody, brokers))
        }
        _ => Err(ReleaseError::NotBroker { brokers }),
    }
}

/// The broker that released keys on this request; `broker` itself where the opening that says it is gone.
fn released_by(
    state: State<'_>,
    broker: &Did,
    request: &Hash,
) -> Result<Option<Did>, ReleaseError> {
    let Some(index) = state.request(request)? else {
        return Ok(None);
    };
    let leaf = state.leaf(index)?;
    if leaf.is_none_or(|leaf| leaf.kind != Kind::Released) {
        return Ok(None);
    }
    let opening = state.opening(index)?;
    let author = opening.and_then(|opening| opening.0.signed.author().copied());
    Ok(Some(author.unwrap_or(*broker)))
}
