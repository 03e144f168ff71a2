//! A broker that cheats, for the tests of what requesters and the other members make of it. This is in no build without
//! `--cfg medanchor_fault`, and such a build is never a release: `docs/decisions`, 0016.
//!
//! | `MEDANCHOR_FAULT_BROKER` | what it does |
//! |---|---|
//! | `skip-log` | hands out keys without having them recorded, with the receipt of an earlier leaf |
//! | `permit` | records and releases what the policies deny |

use crate::{
    ReleaseError,
    judgement::{Judgement, Permit, records},
    request::Request,
};
use medanchor_anchor::State;
use std::env;

#[cfg(not(debug_assertions))]
compile_error!("a build with `--cfg medanchor_fault` cheats and is never a release");

/// Whether it hands out what is not recorded.
pub(crate) fn skips_log() -> bool {
    cheat().as_deref() == Some("skip-log")
}

/// A permit, whatever the policies say.
pub(crate) fn judged(
    judgement: Judgement,
    state: State<'_>,
    request: &Request,
) -> Result<Judgement, ReleaseError> {
    let refusal = match judgement {
        Judgement::Refuse(refusal) if cheat().as_deref() == Some("permit") => refusal,
        honest => return Ok(honest),
    };
    let records = records(state, request)?;
    let Some(custody) = records.first().map(|record| record.anchored.custody) else {
        return Ok(Judgement::Refuse(refusal));
    };
    let basis = state.basis(&request.body, &request.requester)?;
    Ok(Judgement::Permit(Permit {
        org: refusal.org,
        policies: vec!["clinician-treats".to_owned()],
        until: request.not_after,
        basis: basis.unwrap_or(refusal.basis),
        decided_at: refusal.decided_at,
        custody,
        other_brokers: Vec::new(),
        records,
    }))
}

fn cheat() -> Option<String> {
    let cheat = env::var("MEDANCHOR_FAULT_BROKER").ok()?;
    tracing::warn!("this broker was made to cheat: {cheat}");
    Some(cheat)
}
