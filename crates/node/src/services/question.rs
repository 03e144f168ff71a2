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

/// Who asks that signs with this key, by the one that it was enrolled with. `None`: nobody does who may act, as it and its
/// organisation must be active.
pub(super) fn asker(state: &State<'_>, key: &Did) -> Result<Option<Did>, TablesError> {
    let Some((who, entry)) = state.signer(key)?.filter(|(_, entry)| entry.is_active()) else {
        return Ok(None);
    };
    let org = state.principal(&entry.org)?;
    Ok(org.filter(PrincipalEntry::is_active).map(|_| who))
}
