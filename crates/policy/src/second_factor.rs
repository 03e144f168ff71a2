use medanchor_anchor::{AccessRequest, Body, PrincipalEntry, SignedStatement, State, TablesError};

/// Whether the requester has shown a second factor that counts at `now`, log time or later, unix ms: the node that verifies
/// it, which must be a member's, says so in the request, for this network, and not too long ago. What the requester claims
/// by itself counts for nothing.
pub(crate) fn counts(
    state: &State<'_>,
    signed: &SignedStatement,
    request: &AccessRequest,
    requester: &PrincipalEntry,
    now: u64,
) -> Result<bool, TablesError> {
    let Some(shown) = &request.second_factor else {
        return Ok(false);
    };
    let Body::FactorVerified(verified) = &shown.statement.body else {
        return Ok(false);
    };
    let mut factors = requester.factors.iter();
    let Some(factor) = factors.find(|factor| factor.factor == verified.factor) else {
        return Ok(false);
    };
    let says = shown.statement.origin == signed.statement.origin
        && shown.signatures.len() == 1
        && shown.author() == Some(&factor.node)
        && signed.author() == Some(&verified.who)
        && shown.statement.not_after_unix_ms >= Some(now)
        && shown.verifies();
    if !says {
        return Ok(false);
    }
    let members = state.members()?;
    Ok(members.iter().any(|member| member.node == factor.node))
}
