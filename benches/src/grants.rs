//! How long an access request takes: decided, the key re-wrapped, the release anchored and witnessed.

use crate::{
    arguments::Arguments,
    clinic::{Clinic, enrol, session, statement},
    interrupt::Interrupt,
    payload::KIB,
    records::PURPOSE,
    report::Report,
    samples::Samples,
};
use anyhow::{Context, Result};
use medanchor_anchor::{AccessRequest, Body, PrincipalKind, SignedStatement};
use medanchor_api::{Asked, Client, Decision};
use medanchor_cli::Session;
use medanchor_dag::{Cid, Codec, cid_of};
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
    // The first request also makes connections, and is not counted.
    request(
        &clinician.client,
        &asked_for(&clinician, record, "clinician")?,
    )
    .await?;
    let (mut new, mut again) = (Samples::default(), Samples::default());
    for _ in 0..arguments.choose(50, 15) {
        interrupt.check()?;
        let signed = asked_for(&clinician, record, "clinician")?;
        new.push(request(&clinician.client, &signed).await?);
        again.push(request(&clinician.client, &signed).await?);
    }
    report.latency("a new request", &new);
    report.latency("the same request again", &again);
    refusals(arguments, clinic, record, report, interrupt).await
}

/// Whether time tells somebody who may see nothing that there is a record.
async fn refusals(
    arguments: &Arguments,
    clinic: &Clinic,
    record: Cid,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    let nothing = cid_of(Codec::DagCbor, &[7; 32]);
    let mut ms = [Samples::default(), Samples::default()];
    for number in 0..arguments.choose(4, 1) {
        let stranger = session(&clinic.invite(&format!("stranger-{number}"))?)?;
        let did = stranger.home.own_keys()?.did();
        enrol(&clinic.other_operator()?, did, PrincipalKind::Person, ROLE).await?;
        refused(&stranger, nothing).await?;
        for _ in 0..arguments.choose(RECORDED_AT_ONCE, 5) {
            interrupt.check()?;
            for (record, ms) in [nothing, record].into_iter().zip(&mut ms) {
                ms.push(refused(&stranger, record).await?);
            }
        }
    }
    let [absent, forbidden] = &ms;
    report.latency("refused, there is no such record", absent);
    report.latency("refused, there is one", forbidden);
    let ratio = forbidden.median() / absent.median();
    report.figure("the second takes this much of the first", "", ratio);
    Ok(())
}

fn asked_for(session: &Session, record: Cid, role: &str) -> Result<SignedStatement> {
    let keys = session.home.own_keys()?;
    let body = Body::AccessRequest(AccessRequest {
        records: vec![record],
        selection: None,
        purpose: PURPOSE.to_owned(),
        role: role.to_owned(),
        recipient: keys.recipient().as_bytes().to_vec(),
        at: 0,
        second_factor: None,
    });
    Ok(statement(&session.origin, body)?.sign(&[&keys.signing]))
}

/// Milliseconds until the key is released.
pub(crate) async fn request(client: &Client, signed: &SignedStatement) -> Result<f64> {
    match answer(client, signed).await? {
        (Decision::Granted(_), ms) => Ok(ms),
        (Decision::Denied(denied), _) => anyhow::bail!("the request was denied: {}", denied.reason),
    }
}

/// Milliseconds until the refusal is recorded.
async fn refused(session: &Session, record: Cid) -> Result<f64> {
    match answer(&session.client, &asked_for(session, record, ROLE)?).await? {
        (Decision::Denied(denied), ms) => {
            let is_recorded = denied.code == "not-permitted" && denied.receipt.is_some();
            anyhow::ensure!(is_recorded, "refused otherwise: {}", denied.code);
            Ok(ms)
        }
        (Decision::Granted(_), _) => anyhow::bail!("a stranger was given a key"),
    }
}

async fn answer(client: &Client, signed: &SignedStatement) -> Result<(Decision, f64)> {
    let began = Instant::now();
    let asked = Asked {
        signed: signed.clone(),
        cohort: Vec::new(),
    };
    let answer = client.request(&asked).await;
    let answer = answer.context("request a record's key")?;
    Ok((answer, began.elapsed().as_secs_f64() * 1000.0))
}

/// Of another hospital, it sees nothing here.
const ROLE: &str = "clinician";
/// Refusals of one person for each of two records, without waiting: what comes faster has no leaf.
const RECORDED_AT_ONCE: usize = 9;
