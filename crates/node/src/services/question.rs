use medanchor_anchor::{PrincipalEntry, State, TablesError};
use medanchor_api::{SignedQuery, status};
use medanchor_dag::Did;
use tonic::{Code, Status};

/// That what somebody signed to ask for something is for this network, and signed about now.
pub(super) fn check(query: &impl SignedQuery, origin: &str, now: u64) -> Result<(), Status> {
    if query.origin() != origin {
        let sentence = "what was signed is for another network";
        return Err(status(Code::InvalidArgument, "wrong-origin", sentence));
    }
    match query.is_fresh(now) {
        true => Ok(()),
        false => Err(status(
            Code::FailedPrecondition,
            "query-expired",
            "the request was signed at another time than this node's clock says: sign a new one, and compare the clocks",
        )),
    }
}

/// Whether who asks may act: it and its organisation are enrolled and active.
pub(super) fn may_act(state: &State<'_>, who: &Did) -> Result<bool, TablesError> {
    let entry = state.principal(who)?.filter(PrincipalEntry::is_active);
    let org = match entry {
        Some(entry) => state.principal(&entry.org)?,
        None => None,
    };
    Ok(org.is_some_and(|org| org.is_active()))
}
