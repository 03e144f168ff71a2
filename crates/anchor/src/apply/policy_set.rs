use super::{
    context::{Context, Refusal, require},
    member::require_majority,
};
use crate::{
    AccessPolicyEntry, Outcome, PolicySet, Table,
    entry::{ACCESS_POLICY, Write},
};

/// Signed by a majority of the members. Whether its text is sound is for those who sign: a set that does not parse
/// permits nothing.
pub(super) fn policy_set(context: &Context<'_>, body: &PolicySet) -> Result<Vec<Write>, Refusal> {
    require_majority(context, context.network()?.members())?;
    let policy = body.cid();
    let known = context.state.access_policy()?;
    let is_new = known.is_some_and(|entry| entry.policy != policy);
    require(is_new, Outcome::Conflict)?;
    let entry = AccessPolicyEntry {
        policy,
        set: Some(serde_bytes::ByteBuf::from(body.set.clone())),
        since: context.index,
    };
    Ok(vec![Write::entry(Table::Meta, ACCESS_POLICY, &entry)])
}
