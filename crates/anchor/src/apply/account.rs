use super::{
    context::{Context, Refusal, require},
    erasure::unerased,
};
use crate::{Account, AccountOf, Outcome, entry::Write};

/// Signed by one who speaks for the account, and true at this very leaf. Nothing changes by it.
pub(super) fn account(context: &Context<'_>, body: &Account) -> Result<Vec<Write>, Refusal> {
    require_speaker(context, &body.of)?;
    if let AccountOf::Custody(custody) = &body.of {
        // What it is of was deleted, and the erasure has the last one.
        unerased(context, custody)?;
    }
    // INVARIANT: an account that says ok has every disclosure before it.
    let stands = context.state.account(&body.of)? == body.stated();
    require(stands, Outcome::Stale)?;
    Ok(Vec::new())
}

fn require_speaker(context: &Context<'_>, of: &AccountOf) -> Result<(), Refusal> {
    for signer in &context.signers {
        if context.state.speaks_for(of, signer)? {
            let speaker = context.require_authority(signer)?;
            return context.active(&speaker.org).map(drop);
        }
    }
    Err(Refusal::Leaf(Outcome::Forbidden))
}
