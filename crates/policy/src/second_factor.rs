use medanchor_anchor::{
    AccessRequest, FactorVerified, Log, PrincipalEntry, SignedStatement, State, TablesError,
};
use medanchor_dag::Did;

/// Whether the requester has shown a second factor that counts at `now`, log time or later, unix ms: the node that verifies
/// it, which must be a member's, says so in the request, for this network, and not too long ago. What the requester claims
/// by itself counts for nothing.
pub(crate) fn counts(
    state: &State<'_>,
    signed: &SignedStatement,
    request: &AccessRequest,
    (requester, entry): (&Did, &PrincipalEntry),
    now: u64,
) -> Result<bool, TablesError> {
    let shown = request.second_factor.as_deref();
    let origin = &signed.statement.origin;
    let said = shown.and_then(|shown| Some((shown, FactorVerified::said_by(shown, origin)?)));
    let Some((shown, (verified, by))) = said else {
        return Ok(false);
    };
    let is_enrolled = entry.factors.iter().any(|factor| {
        factor.factor == verified.factor && factor.since == verified.since && factor.node == *by
    });
    // A node's clock may be a little ahead; one that is far ahead must not make it count for longer.
    let latest = now.saturating_add(FactorVerified::VALIDITY_MS + Log::MAX_AHEAD_MS);
    let expiry = shown.statement.not_after_unix_ms;
    let counts = is_enrolled
        && verified.who == *requester
        && expiry.is_some_and(|expiry| (now..=latest).contains(&expiry))
        && shown.verifies();
    if !counts {
        return Ok(false);
    }
    // INVARIANT (I5): a member that is removed is in the basis, see `State::requester_basis`.
    let members = state.members()?;
    Ok(members.iter().any(|member| member.node == *by))
}
