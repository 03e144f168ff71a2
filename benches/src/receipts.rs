//! What a receipt weighs, and what it takes to verify one offline, beside a single Ed25519 verification.

use crate::{
    arguments::Arguments,
    beside_etcd::sealed,
    clinic::{Clinic, connect},
    interrupt::Interrupt,
    report::Report,
    samples::{Samples, count},
};
use anyhow::{Context, Result};
use medanchor_anchor::{Receipt, Strength, TrustPolicy};
use medanchor_dag::{SigningKey, sha256};
use medanchor_node::Folder;
use std::{fs, time::Instant};

/// Measures it.
pub(crate) async fn measure(
    arguments: &Arguments,
    clinic: &Clinic,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    report.begin(
        "receipt",
        "published receipts of records, with the opening: parsed and verified by the policy, on one thread",
    );
    let client = connect(clinic, 0).await?;
    let hospital = clinic.hospitals().first().context("no hospital")?;
    let policy = fs::read_to_string(Folder::new(hospital.folder()).policy());
    let policy: TrustPolicy = policy.context("read the policy")?.parse()?;
    let mut bytes = Samples::default();
    let mut us = Samples::default();
    let mut one_us = Samples::default();
    let mut signatures = Samples::default();
    for signed in sealed(clinic, &client, arguments.choose(200, 20)).await? {
        interrupt.check()?;
        let submitted = client.submit(&signed, Some(Strength::Published)).await?;
        let text = submitted.receipt.context("no receipt")?.to_string();
        let began = Instant::now();
        let receipt: Receipt = text.parse()?;
        let verified = receipt.verify(&policy, Strength::Published)?;
        us.push(began.elapsed().as_secs_f64() * 1e6);
        bytes.push(count(text.len()));
        // The log's, the co-signers', and those on the statement.
        let statement = receipt
            .opening
            .as_ref()
            .map_or(0, |opening| opening.0.signed.signatures.len());
        signatures.push(count(1 + verified.checkpoint.cosigners.len() + statement));
        one_us.push(one_verification()?);
    }
    report.median("size", "bytes", &bytes);
    report.median("signatures on it", "", &signatures);
    report.median("parse and verify", "us", &us);
    report.median("one Ed25519 verification", "us", &one_us);
    Ok(())
}

/// Microseconds of one signature's verification.
fn one_verification() -> Result<f64> {
    let key = SigningKey::generate()?;
    let digest = sha256(key.did().as_bytes());
    let signature = key.sign(LABEL, &digest);
    let did = key.did();
    let began = Instant::now();
    did.verify(LABEL, &digest, &signature)?;
    Ok(began.elapsed().as_secs_f64() * 1e6)
}

const LABEL: &str = "medanchor/v1/bench";
