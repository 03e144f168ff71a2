//! A broker that cheats, for the tests of what requesters and the other members make of it. This is in no build without
//! `--cfg medanchor_fault`, and such a build is never a release: `docs/decisions`, 0016.
//!
//! | `MEDANCHOR_FAULT_BROKER` | what it does |
//! |---|---|
//! | `skip-log` | hands out keys without having them recorded, with the receipt of an earlier leaf |
//! | `permit` | records and releases what the policies deny |

use crate::{
    ReleaseError,
    judgement::{Judgement, Permit},
    request::Request,
};
use medanchor_anchor::{Basis, State};
use medanchor_policy::{PermittedPart, PermittedRow};
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
    let Some(part) = part(state, request)? else {
        return Ok(Judgement::Refuse(refusal));
    };
    let basis = state.requester_basis(&request.requester)?;
    Ok(Judgement::Permit(Permit {
        requester: refusal.requester,
        org: refusal.org,
        refusal_basis: Basis::default(),
        basis: basis.unwrap_or(refusal.basis),
        decided_at: refusal.decided_at,
        other_brokers: Vec::new(),
        permitted: medanchor_policy::Permit {
            parts: vec![part],
            ..medanchor_policy::Permit::default()
        },
        elsewhere: Vec::new(),
    }))
}

/// The records that were named, under the custody key of the first; `None` when there are none.
fn part(state: State<'_>, request: &Request) -> Result<Option<PermittedPart>, ReleaseError> {
    let mut rows = Vec::new();
    for record in &request.body.records {
        if let Some(record) = state.record(record)? {
            rows.push(PermittedRow {
                device: state.device_since(&record.anchored.device)?,
                policies: vec!["clinician-treats".to_owned()],
                until: request.not_after,
                record,
            });
        }
    }
    let Some(custody) = rows.first().map(|row| row.record.anchored.custody) else {
        return Ok(None);
    };
    let entry = state.custody(&custody)?;
    Ok(Some(PermittedPart {
        custody,
        brokers: Vec::new(),
        since: entry.as_ref().map_or(0, |entry| entry.since),
        consent: entry.and_then(|entry| entry.newest_consent),
        rows,
    }))
}

fn cheat() -> Option<String> {
    let cheat = env::var("MEDANCHOR_FAULT_BROKER").ok()?;
    tracing::warn!("this broker was made to cheat: {cheat}");
    Some(cheat)
}
