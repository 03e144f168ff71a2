use crate::{ReleaseError, answer::Declined, request::Request};
use medanchor_anchor::{Basis, Kind, State};
use medanchor_dag::{CustodyId, Did, Hash};
use medanchor_policy::{Code, Decision, PermittedPart, PolicySets, Verdict, decide};

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
    /// The requester: the key that it was enrolled with.
    pub(crate) requester: Did,
    /// The requester's organisation.
    pub(crate) org: Did,
    /// What the decision read of the policy set and of who asks.
    pub(crate) basis: Basis,
    /// What it read of the records, too, where they are named: for when one of them cannot be released for its bytes.
    pub(crate) refusal_basis: Basis,
    /// When it was made, unix ms.
    pub(crate) decided_at: u64,
    /// The other nodes that may release under the first custody key.
    pub(crate) other_brokers: Vec<Did>,
    /// What may be released by this broker.
    pub(crate) permitted: medanchor_policy::Permit,
    /// Custody keys under which there is more, of which it is no broker.
    pub(crate) elsewhere: Vec<CustodyId>,
}

/// What a refusal says.
pub(crate) struct Refusal {
    /// The requester: the key that it was enrolled with.
    pub(crate) requester: Did,
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
    let Some((who, requester)) = state.signer(&request.requester)? else {
        return Ok(Judgement::Decline(Declined::new(
            Code::NotEnrolled.as_str(),
            "the requester is not enrolled, or signs with a key that it has rotated: its organisation must enrol it first",
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
    let (signed, cohort) = (&request.signed, request.cohort.as_slice());
    let Decision { basis, verdict } = decide(&state, policies, signed, cohort, decided_at)?;
    Ok(match verdict {
        Verdict::Permit(permitted) => {
            let (permitted, other_brokers, elsewhere) = own_part(broker, permitted)?;
            let refusal_basis = match request.body.selection {
                None => state.basis(&request.body, &request.requester)?,
                Some(_) => None,
            };
            Judgement::Permit(Permit {
                requester: who,
                org: requester.org,
                refusal_basis: refusal_basis.unwrap_or_else(|| basis.clone()),
                basis,
                decided_at,
                other_brokers,
                permitted,
                elsewhere,
            })
        }
        Verdict::Deny { code, reason } => {
            if !basis.tells_of_no_record() {
                require_broker(state, broker, request)?;
            }
            Judgement::Refuse(Refusal {
                requester: who,
                org: requester.org,
                code: code.to_string(),
                reason,
                basis,
                decided_at,
            })
        }
    })
}

/// What of a permit is this broker's to release, the other brokers of the first custody key of that, and the custody keys that
/// it leaves to others.
fn own_part(
    broker: &Did,
    mut permitted: medanchor_policy::Permit,
) -> Result<(medanchor_policy::Permit, Vec<Did>, Vec<CustodyId>), ReleaseError> {
    let has_rows = |part: &&PermittedPart| !part.rows.is_empty();
    let is_own = |part: &PermittedPart| part.brokers.contains(broker);
    let mut parts = permitted.parts.iter().filter(has_rows);
    let own = parts.clone().find(|part| is_own(part));
    let Some(own) = own else {
        let first = parts.next().map(|part| part.brokers.clone());
        let brokers = first.unwrap_or_default();
        return Err(ReleaseError::NotBroker { brokers });
    };
    let mut others = own.brokers.clone();
    others.retain(|other| other != broker);
    let mut elsewhere = Vec::new();
    for part in &mut permitted.parts {
        if !part.rows.is_empty() && !is_own(part) {
            elsewhere.push(part.custody);
            part.leave_out();
        }
    }
    Ok((permitted, others, elsewhere))
}

/// Whoever tells of a record is a broker of its custody key.
fn require_broker(state: State<'_>, broker: &Did, request: &Request) -> Result<(), ReleaseError> {
    let mut brokers = Vec::new();
    for record in &request.body.records {
        if let Some(record) = state.record(record)? {
            let entry = state.custody(&record.anchored.custody)?;
            brokers = entry.map_or_else(Vec::new, |entry| entry.custody.brokers);
            break;
        }
    }
    match brokers.contains(broker) {
        true => Ok(()),
        false => Err(ReleaseError::NotBroker { brokers }),
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
