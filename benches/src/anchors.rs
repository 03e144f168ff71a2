//! How long the log takes: one client alone, call by call, and 64 at once. Blocks are uploaded before, so that
//! what is timed is: two nodes hold the record, the batch is committed, and, where a receipt is asked for, a
//! checkpoint is co-signed.

use crate::{
    arguments::Arguments,
    clinic::{Clinic, session},
    interrupt::Interrupt,
    payload::{KIB, payload},
    report::Report,
    samples::{Samples, count},
};
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use medanchor_anchor::{Outcome, SignedStatement, Statement, Strength};
use medanchor_api::{Client, ClientError};
use medanchor_envelope::Suite;
use std::time::{Duration, Instant};

/// Measures it.
pub(crate) async fn measure(
    arguments: &Arguments,
    clinic: &Clinic,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    report.begin(
        "anchors",
        "records of 4 KiB, uploaded before; committed: the leaf is durable on a quorum; published: with a \
         receipt that the quorum of co-signers has signed",
    );
    alone(arguments, clinic, report, interrupt).await?;
    together(arguments, clinic, report, interrupt).await
}

async fn alone(
    arguments: &Arguments,
    clinic: &Clinic,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    let blocks = arguments.choose(10, 2);
    let mut device = Load::prepare(clinic, STRENGTHS.len() * blocks * BLOCK).await?;
    let operator = &clinic.operator().client;
    let mut without_record = Samples::default();
    let mut ms = STRENGTHS.map(|_| Samples::default());
    for _ in 0..blocks {
        interrupt.check()?;
        for _ in 0..BLOCK {
            let enrolment = clinic.enrolment()?;
            without_record.push(submit(operator, &enrolment, None).await?);
        }
        for ((strength, _), ms) in STRENGTHS.iter().zip(&mut ms) {
            for _ in 0..BLOCK {
                let next = device.statements.pop().context("no statement is left")?;
                ms.push(submit(&device.client, &next, *strength).await?);
            }
        }
    }
    report.latency("one client, no record to hold, committed", &without_record);
    for ((_, name), ms) in STRENGTHS.iter().zip(&ms) {
        report.latency(&format!("one client, {name}"), ms);
    }
    Ok(())
}

async fn together(
    arguments: &Arguments,
    clinic: &Clinic,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    let (rounds, each) = arguments.choose((3, 20), (1, 5));
    let mut rates = STRENGTHS.map(|_| Samples::default());
    let mut ms = STRENGTHS.map(|_| Samples::default());
    for _ in 0..rounds {
        for (place, (strength, _)) in STRENGTHS.iter().enumerate() {
            interrupt.check()?;
            let loads: Vec<Load> = stream::iter(0..CLIENTS)
                .map(|_| Load::prepare(clinic, each))
                .buffer_unordered(8)
                .try_collect()
                .await?;
            let (seconds, latencies) = run(loads, *strength).await?;
            if let (Some(rates), Some(ms)) = (rates.get_mut(place), ms.get_mut(place)) {
                rates.push(count(CLIENTS * each) / seconds);
                latencies.into_iter().for_each(|latency| ms.push(latency));
            }
        }
    }
    for (((_, name), rates), ms) in STRENGTHS.iter().zip(&rates).zip(&ms) {
        report.median(&format!("{CLIENTS} clients, {name}"), "per s", rates);
        report.latency(&format!("{CLIENTS} clients, {name}, a call"), ms);
    }
    Ok(())
}

/// All clients at once. Seconds until the last is done, and the milliseconds of every call.
async fn run(loads: Vec<Load>, strength: Option<Strength>) -> Result<(f64, Vec<f64>)> {
    let began = Instant::now();
    let clients = loads.into_iter().map(|mut load| async move {
        let mut latencies = Vec::new();
        while let Some(next) = load.statements.pop() {
            latencies.push(submit(&load.client, &next, strength).await?);
        }
        anyhow::Ok(latencies)
    });
    let latencies = futures::future::try_join_all(clients).await?;
    Ok((began.elapsed().as_secs_f64(), latencies.concat()))
}

/// A device with a connection of its own and records that are uploaded and not anchored yet.
struct Load {
    client: Client,
    /// The stream's records, the last first.
    statements: Vec<SignedStatement>,
}

impl Load {
    async fn prepare(clinic: &Clinic, records: usize) -> Result<Self> {
        let session = session(&clinic.device)?;
        let mut author = clinic.author().await?;
        let content = payload(4 * KIB);
        let mut blocks = Vec::new();
        let mut statements = Vec::new();
        for _ in 0..records {
            let suite = Suite::ChaCha20Poly1305;
            let sealed = author.seal(content.as_slice(), suite, &mut |block| {
                blocks.push(block);
                Ok(())
            })?;
            blocks.extend(sealed.blocks());
            let statement = Statement::anchored(&session.origin, sealed.anchored());
            statements.push(statement.sign(&[&author.key]));
        }
        session
            .client
            .put(stream::iter(blocks))
            .await
            .context("upload the records")?;
        statements.reverse();
        Ok(Self {
            client: session.client,
            statements,
        })
    }
}

/// Submits once, again while the nodes are too busy. The milliseconds until it is in the log.
async fn submit(
    client: &Client,
    signed: &SignedStatement,
    strength: Option<Strength>,
) -> Result<f64> {
    let began = Instant::now();
    let submitted = loop {
        match client.submit(signed, strength).await {
            Err(ClientError::Unavailable { .. }) if began.elapsed() < GIVE_UP_AFTER => {
                tokio::time::sleep(PAUSE).await;
            }
            answer => break answer.context("submit a statement")?,
        }
    };
    let outcome = submitted.leaf.outcome;
    anyhow::ensure!(
        outcome == Outcome::Ok,
        "the log refused a statement: {outcome:?}"
    );
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

const STRENGTHS: [(Option<Strength>, &str); 2] = [
    (None, "committed"),
    (Some(Strength::Published), "published"),
];
/// Calls of one kind in a row: a checkpoint that another kind has started slows the first of them alone.
const BLOCK: usize = 10;
const CLIENTS: usize = 64;
const PAUSE: Duration = Duration::from_millis(50);
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
