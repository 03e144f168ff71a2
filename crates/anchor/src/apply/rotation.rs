use super::context::{Context, Refusal, require};
use crate::{Outcome, PrincipalEntry, PrincipalKind, Rotated, entry::Write};
use medanchor_dag::Did;

/// Signed by the principal with its key in force, by the new key, and by nobody else: who has lost the one is enrolled anew, and
/// nobody takes over the name of another.
pub(super) fn rotated(context: &Context<'_>, body: &Rotated) -> Result<Vec<Write>, Refusal> {
    require(!is_node(context, &body.who)?, Outcome::Forbidden)?;
    let entry = context.known(&body.who)?;
    // Members and nodes are named by their keys in trust policies and at co-signers.
    let may_rotate = entry.kind != PrincipalKind::Organisation;
    let is_signed = context.is_signed_with(&body.key) && context.signed.signatures.len() == 2;
    require(may_rotate && is_signed, Outcome::Forbidden)?;
    context.require_authority(&body.who)?;
    context.active(&entry.org)?;
    // INVARIANT: no key is ever anybody else's, nor the same one's again.
    let is_new = context.state.identity(&body.key)?.is_none();
    require(is_new && !is_node(context, &body.key)?, Outcome::Conflict)?;
    // INVARIANT (I5): `since` moves on, so that nothing is released to who signed with the key of before.
    let changed = PrincipalEntry {
        key: Some(body.key),
        since: context.index,
        ..entry
    };
    Ok(vec![
        Write::principal(&body.who, &changed),
        Write::key(&body.key, &body.who),
    ])
}

/// Whether a key is, or was, that of a member's node.
fn is_node(context: &Context<'_>, key: &Did) -> Result<bool, Refusal> {
    let entries = context.state.member_entries()?;
    Ok(entries.iter().any(|entry| entry.member.node == *key))
}
