//! How long an access request takes: decided, the key re-wrapped, the release anchored and witnessed.

use crate::{
    arguments::Arguments,
    clinic::{Clinic, session, statement},
    interrupt::Interrupt,
    payload::KIB,
    records::PURPOSE,
    report::Report,
    samples::Samples,
};
use anyhow::{Context, Result};
use medanchor_anchor::{AccessRequest, Body, SignedStatement};
use medanchor_api::{Asked, Client, Decision};
use std::time::Instant;

/// Measures it.
pub(crate) async fn measure(
    arguments: &Arguments,
    clinic: &Clinic,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    report.begin(
        "grants",
        "an access request for one record, from one client, call by call",
    );
    let record = clinic.anchored(4 * KIB).await?;
    let clinician = session(&clinic.clinician)?;
    let keys = clinician.home.own_keys()?;
    let new_request = || -> Result<SignedStatement> {
        let body = Body::AccessRequest(AccessRequest {
            records: vec![record],
            selection: None,
            purpose: PURPOSE.to_owned(),
            role: "clinician".to_owned(),
            recipient: keys.recipient().as_bytes().to_vec(),
            at: 0,
            second_factor: None,
        });
        Ok(statement(&clinician.origin, body)?.sign(&[&keys.signing]))
    };
    // The first request also makes connections, and is not counted.
    request(&clinician.client, &new_request()?).await?;
    let (mut new, mut again) = (Samples::default(), Samples::default());
    for _ in 0..arguments.choose(50, 15) {
        interrupt.check()?;
        let signed = new_request()?;
        new.push(request(&clinician.client, &signed).await?);
        again.push(request(&clinician.client, &signed).await?);
    }
    report.latency("a new request", &new);
    report.latency("the same request again", &again);
    Ok(())
}

/// Milliseconds until the key is released.
pub(crate) async fn request(client: &Client, signed: &SignedStatement) -> Result<f64> {
    let began = Instant::now();
    let asked = Asked {
        signed: signed.clone(),
        cohort: Vec::new(),
    };
    match client
        .request(&asked)
        .await
        .context("request a record's key")?
    {
        Decision::Granted(_) => Ok(began.elapsed().as_secs_f64() * 1000.0),
        Decision::Denied(denied) => anyhow::bail!("the request was denied: {}", denied.reason),
    }
}
