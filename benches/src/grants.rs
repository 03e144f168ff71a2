//! How long an access request takes: decided, the key re-wrapped, the release anchored and witnessed.

use crate::{
    arguments::Arguments,
    clinic::{Clinic, session, statement},
    interrupt::Interrupt,
    payload::{KIB, payload},
    records::PURPOSE,
    report::Report,
    samples::Samples,
};
use anyhow::{Context, Result};
use futures::stream;
use medanchor_anchor::{AccessRequest, Body, SignedStatement, Statement, Strength};
use medanchor_api::{Asked, Client, Decision};
use medanchor_dag::Cid;
use medanchor_envelope::Suite;
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
    let record = anchored_record(clinic).await?;
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

async fn anchored_record(clinic: &Clinic) -> Result<Cid> {
    let device = session(&clinic.device)?;
    let mut author = clinic.author().await?;
    let content = payload(4 * KIB);
    let suite = Suite::ChaCha20Poly1305;
    // A record this small has no blocks of its own for chunks.
    let sealed = author.seal(content.as_slice(), suite, &mut |_| Ok(()))?;
    device
        .client
        .put(stream::iter(sealed.blocks()))
        .await
        .context("upload a record")?;
    let statement = Statement::anchored(&device.origin, sealed.anchored()).sign(&[&author.key]);
    let strength = Some(Strength::Published);
    device
        .client
        .submit(&statement, strength)
        .await
        .context("anchor a record")?;
    Ok(*sealed.record.cid())
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
