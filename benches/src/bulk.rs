//! How long it takes to release the keys of many records of many patients at once.

use crate::{
    arguments::Arguments,
    author::Author,
    clinic::{Clinic, session, statement},
    hpke::rewrapped,
    interrupt::Interrupt,
    payload::{KIB, payload},
    records::PURPOSE,
    report::Report,
    samples::Samples,
};
use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use medanchor_anchor::{
    AccessRequest, Body, Cohort, Leaves, Period, Selection, SignedStatement, Statement,
};
use medanchor_api::{Asked, Client, Decision, Granted};
use medanchor_cli::{OwnKeys, Session};
use medanchor_dag::{CustodyId, Hash};
use medanchor_envelope::{Suite, Wrap};
use std::time::Instant;

/// Measures it.
pub(crate) async fn measure(
    arguments: &Arguments,
    clinic: &Clinic,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    let (patients, each) = arguments.choose((100, 100), (4, 50));
    let records = patients * each;
    report.begin(
        "bulk",
        &format!(
            "one access request for {records} records of 1 KiB under {patients} custody keys, released as one leaf; until the \
             client has all keys, and has checked each against the witnessed receipt"
        ),
    );
    let cohort = anchored(clinic, patients, each, interrupt).await?;
    let clinician = session(&clinic.clinician)?;
    let keys = clinician.home.own_keys()?;
    let (mut limit, mut new, mut again) =
        (Samples::default(), Samples::default(), Samples::default());
    // The first also makes connections, and is not counted.
    for round in 0..=arguments.choose(5, 1) {
        interrupt.check()?;
        let alone = rewrapped(records)?;
        let asked = ask(&clinician, &keys, &cohort)?;
        let (first, second) = (
            release(&clinician.client, &asked, records).await?,
            release(&clinician.client, &asked, records).await?,
        );
        if round > 0 {
            limit.push(alone);
            new.push(first);
            again.push(second);
        }
    }
    report.median("a new request", "s", &new);
    report.median("the same request again", "s", &again);
    report.median(
        "HPKE alone: each key opened and sealed, one thread",
        "s",
        &limit,
    );
    Ok(())
}

/// Anchors so many records under each of so many new custody keys, and gives those in order.
async fn anchored(
    clinic: &Clinic,
    patients: usize,
    each: usize,
    interrupt: &Interrupt,
) -> Result<Vec<CustodyId>> {
    let mut cohort = Vec::with_capacity(patients);
    for _ in 0..patients {
        interrupt.check()?;
        let mut author = clinic.author_of_another_patient().await?;
        cohort.push(author.custody);
        store(clinic, &mut author, each).await?;
    }
    cohort.sort_unstable();
    Ok(cohort)
}

async fn store(clinic: &Clinic, author: &mut Author, records: usize) -> Result<()> {
    let device = session(&clinic.device)?;
    let content = payload(KIB);
    let (mut blocks, mut statements) = (Vec::new(), Vec::new());
    for _ in 0..records {
        // A record this small has no blocks of its own for chunks.
        let suite = Suite::ChaCha20Poly1305;
        let sealed = author.seal(content.as_slice(), suite, &mut |_| Ok(()))?;
        blocks.extend(sealed.blocks());
        let statement = Statement::anchored(&device.origin, sealed.anchored());
        statements.push(statement.sign(&[&author.key]));
    }
    let put = device.client.put(stream::iter(blocks)).await;
    put.context("upload the records")?;
    let client = &device.client;
    stream::iter(statements)
        .map(|statement: SignedStatement| async move {
            client
                .submit(&statement, None)
                .await
                .context("anchor a record")
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(async |submitted| {
            let outcome = submitted.leaf.outcome;
            ensure!(
                outcome.as_str() == "ok",
                "a record was not anchored: {outcome}"
            );
            Ok(())
        })
        .await
}

fn ask(clinician: &Session, keys: &OwnKeys, cohort: &[CustodyId]) -> Result<Asked> {
    let body = Body::AccessRequest(AccessRequest {
        records: Vec::new(),
        selection: Some(Selection {
            cohort: Cohort::of(cohort),
            stream: None,
            class: None,
            captured: Period::default(),
            leaves: Leaves {
                from: 0,
                until: u64::MAX,
            },
        }),
        purpose: PURPOSE.to_owned(),
        role: "clinician".to_owned(),
        recipient: keys.recipient().as_bytes().to_vec(),
        at: 0,
        second_factor: None,
    });
    Ok(Asked {
        signed: statement(&clinician.origin, body)?.sign(&[&keys.signing]),
        cohort: cohort.to_vec(),
    })
}

/// Seconds until all keys are there and checked.
async fn release(client: &Client, asked: &Asked, records: usize) -> Result<f64> {
    let began = Instant::now();
    match client.request(asked).await.context("request the keys")? {
        Decision::Granted(granted) => check(&granted, records)?,
        Decision::Denied(denied) => bail!("the request was denied: {}", denied.reason),
    }
    Ok(began.elapsed().as_secs_f64())
}

/// As a client does, but for the receipt's own signatures, which are few.
fn check(granted: &Granted, records: usize) -> Result<()> {
    let opening = granted.receipt.opening.as_ref().context("no opening")?;
    let Body::Released(released) = &opening.0.signed.statement.body else {
        bail!("not a release");
    };
    ensure!(released.list == granted.list.head(), "another list");
    let proofs = granted.list.prove_rows();
    ensure!(
        proofs.len() == records && granted.wraps.len() == records,
        "keys are missing"
    );
    for (proof, wrap) in proofs.iter().zip(&granted.wraps) {
        proof.verify(&released.list)?;
        let wrap = Wrap::from_bytes(wrap)?;
        ensure!(proof.row.wrap == Hash::new(wrap.hash()), "another key");
    }
    Ok(())
}

/// Records that are anchored at the same time.
const AT_ONCE: usize = 64;
