//! The log beside [etcd](https://etcd.io): three nodes of each on this machine, in the same run, in turns.
//!
//! The two do different work. A put is a value that three nodes keep. A statement is signed; all three nodes
//! verify its signature and its author, and hash it into a tree. A record is also held by two nodes, which
//! have compared it with what its device signed.

use crate::{
    arguments::Arguments,
    clinic::{Clinic, connect, session},
    cpu,
    etcd::{Etcd, EtcdClient, Put},
    interrupt::Interrupt,
    payload::{KIB, payload},
    report::Report,
    samples::{Samples, count},
};
use anyhow::{Context, Result};
use futures::{
    StreamExt, TryStreamExt,
    future::{BoxFuture, try_join_all},
    stream::{self, BoxStream},
};
use medanchor_anchor::{Outcome, SignedStatement, Statement};
use medanchor_api::{Client, ClientError, Submitted};
use medanchor_envelope::Suite;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, mpsc};

/// Measures it; etcd keeps its files in `dir`.
pub(crate) async fn measure(
    arguments: &Arguments,
    clinic: &Clinic,
    dir: &Path,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    report.begin(
        "etcd",
        "three nodes each, TLS and client certificates everywhere, durable on a quorum before the answer",
    );
    let Some(etcd) = Etcd::start(dir, clinic.hospitals())? else {
        report.note("etcd: not installed (Debian package `etcd-server`), so there is nothing to compare with");
        return Ok(());
    };
    etcd.wait_until_ready().await?;
    report.note(&etcd.version);
    let value = value(clinic).await?;
    report.note(&format!(
        "etcd's values have {} bytes, as our statements",
        value.len()
    ));
    let wanted = |shape: &Shape| !arguments.brief || shape.clients == 1;
    for shape in SHAPES.into_iter().filter(wanted) {
        let mut figures = [Figures::default(), Figures::default(), Figures::default()];
        for _ in 0..arguments.choose(3, 1) {
            for (system, figures) in SYSTEMS.into_iter().zip(&mut figures) {
                interrupt.check()?;
                let items = arguments.choose(shape.items, shape.items / 8);
                let loads = match system {
                    System::Etcd => puts(&etcd, shape, items, &value).await?,
                    System::Statements => statements(clinic, shape, items).await?,
                    System::Records => records(clinic, shape, items).await?,
                };
                let pids: Vec<u32> = match system {
                    System::Etcd => etcd.pids().collect(),
                    System::Statements | System::Records => clinic.pids().collect(),
                };
                figures.add(&pids, loads, shape).await?;
            }
        }
        print(shape, &figures, report);
    }
    Ok(())
}

/// How the load comes.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) clients: usize,
    /// Sent at once, and the next only when all of them are answered.
    pub(crate) batch: usize,
    /// Of all clients together.
    pub(crate) items: usize,
}

#[derive(Clone, Copy)]
enum System {
    Etcd,
    Statements,
    Records,
}

#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) per_second: Samples,
    pub(crate) ms: Samples,
    /// Of all processes of the nodes, for one item.
    pub(crate) nodes_us: Samples,
    /// Of this process, for one item: all clients, who had signed before.
    clients_us: Samples,
}

impl Figures {
    pub(crate) async fn add(&mut self, pids: &[u32], loads: Vec<Load>, shape: Shape) -> Result<()> {
        let batches: usize = loads.iter().map(|load| load.0.len()).sum();
        let items = count(batches * shape.batch);
        let own = [std::process::id()];
        let cpu = || anyhow::Ok((cpu::of_processes(pids)?, cpu::of_processes(&own)?));
        let before = cpu()?;
        let (seconds, ms) = run(loads).await?;
        let after = cpu()?;
        let us = |time: Duration| time.as_secs_f64() * 1e6 / items;
        self.per_second.push(items / seconds);
        self.nodes_us.push(us(after.0 - before.0));
        self.clients_us.push(us(after.1 - before.1));
        ms.into_iter().for_each(|ms| self.ms.push(ms));
        Ok(())
    }
}

fn print(shape: Shape, figures: &[Figures; 3], report: &mut Report) {
    let [etcd, statements, records] = figures;
    for (what, ours) in [("statements", statements), ("records", records)] {
        let name = |figure: &str| format!("{}, {what}, {figure}", shape.name);
        let rate = |of: &Figures| of.per_second.median();
        report.beside(&name("rate"), "per s", rate(ours), rate(etcd));
        for (figure, per_cent) in [("p50", 50), ("p99", 99)] {
            let ms = |of: &Figures| of.ms.percentile(per_cent);
            report.beside(&name(figure), "ms", ms(ours), ms(etcd));
        }
        let cpu = |of: &Figures| of.nodes_us.median();
        report.beside(&name("processor of the nodes"), "us", cpu(ours), cpu(etcd));
        let cpu = |of: &Figures| of.clients_us.median();
        report.beside(
            &name("processor of the clients"),
            "us",
            cpu(ours),
            cpu(etcd),
        );
    }
}

/// What one client does, call by call.
pub(crate) struct Load(Vec<Call>);

type Call = BoxFuture<'static, Result<()>>;

/// All clients at once. Seconds until the last is done, and the milliseconds of every call.
async fn run(loads: Vec<Load>) -> Result<(f64, Vec<f64>)> {
    let began = Instant::now();
    let clients = loads.into_iter().map(|load| {
        tokio::spawn(async move {
            let mut ms = Vec::new();
            for call in load.0 {
                let began = Instant::now();
                call.await?;
                ms.push(began.elapsed().as_secs_f64() * 1000.0);
            }
            anyhow::Ok(ms)
        })
    });
    let ms: Vec<Vec<f64>> = try_join_all(clients)
        .await?
        .into_iter()
        .collect::<Result<_>>()?;
    Ok((began.elapsed().as_secs_f64(), ms.concat()))
}

/// A value as long as a statement.
async fn value(clinic: &Clinic) -> Result<Vec<u8>> {
    let device = session(&clinic.device)?;
    let statement = sealed(clinic, &device.client, 1).await?.pop();
    Ok(payload(statement.context("no statement")?.to_bytes().len()))
}

async fn puts(etcd: &Etcd, shape: Shape, items: usize, value: &[u8]) -> Result<Vec<Load>> {
    let mut loads = Vec::new();
    for number in 0..shape.clients {
        let client = etcd.client(number)?;
        let mut calls: Vec<Call> = Vec::new();
        for _ in 0..shape.calls(items) {
            let mut puts = Vec::new();
            for _ in 0..shape.batch {
                let mut key = [0; 32];
                getrandom::fill(&mut key).context("draw a key")?;
                puts.push(Put::new(&key, value));
            }
            let client: EtcdClient = client.clone();
            calls.push(Box::pin(async move { client.put(puts).await }));
        }
        // Connects, and is not counted.
        client.put(vec![Put::new(b"ready", b"yes")]).await?;
        loads.push(Load(calls));
    }
    Ok(loads)
}

pub(crate) async fn statements(clinic: &Clinic, shape: Shape, items: usize) -> Result<Vec<Load>> {
    let connect = |number| connect(clinic, number);
    let mut loads = Vec::new();
    for number in 0..shape.clients {
        let signed = (0..shape.calls(items) * shape.batch).map(|_| clinic.enrolment());
        let signed: Vec<SignedStatement> = signed.collect::<Result<_>>()?;
        loads.push(calls(&connect(number).await?, &signed, shape));
    }
    Ok(loads)
}

async fn records(clinic: &Clinic, shape: Shape, items: usize) -> Result<Vec<Load>> {
    stream::iter(0..shape.clients)
        .map(|number| async move {
            let client = connect(clinic, number).await?;
            let signed = sealed(clinic, &client, shape.calls(items) * shape.batch).await?;
            Ok(calls(&client, &signed, shape))
        })
        .buffer_unordered(8)
        .try_collect()
        .await
}

impl Shape {
    /// Of each client.
    fn calls(&self, items: usize) -> usize {
        items.div_ceil(self.clients * self.batch).max(2)
    }
}

/// A new device's records of 4 KiB, uploaded.
pub(crate) async fn sealed(
    clinic: &Clinic,
    client: &Client,
    records: usize,
) -> Result<Vec<SignedStatement>> {
    let origin = session(&clinic.device)?.origin;
    let mut author = clinic.author().await?;
    let content = payload(4 * KIB);
    let mut blocks = Vec::new();
    let mut statements = Vec::new();
    for _ in 0..records {
        // A record this small has no blocks of its own for chunks.
        let sealed = author.seal(content.as_slice(), Suite::ChaCha20Poly1305, &mut |_| Ok(()))?;
        blocks.extend(sealed.blocks());
        let statement = Statement::anchored(&origin, sealed.anchored());
        statements.push(statement.sign(&[&author.key]));
    }
    client
        .put(stream::iter(blocks))
        .await
        .context("upload the records")?;
    Ok(statements)
}

fn calls(client: &Client, signed: &[SignedStatement], shape: Shape) -> Load {
    let submissions = Arc::new(Mutex::new(Submissions::open(client)));
    let calls = signed.chunks(shape.batch).map(|batch| -> Call {
        let (submissions, batch) = (Arc::clone(&submissions), batch.to_vec());
        Box::pin(async move { submissions.lock().await.submit(batch).await })
    });
    Load(calls.collect())
}

/// One stream of a client, which stays open.
struct Submissions {
    statements: mpsc::Sender<SignedStatement>,
    answers: BoxStream<'static, Result<Submitted, ClientError>>,
}

impl Submissions {
    fn open(client: &Client) -> Self {
        let (statements, receiver) = mpsc::channel(1024);
        let statements_in = stream::unfold(receiver, |mut receiver| async {
            Some((receiver.recv().await?, receiver))
        });
        Self {
            statements,
            answers: client.submit_stream(statements_in, None),
        }
    }

    /// Sends all of it, and waits for every answer.
    async fn submit(&mut self, batch: Vec<SignedStatement>) -> Result<()> {
        let count = batch.len();
        for signed in batch {
            self.statements.send(signed).await?;
        }
        for _ in 0..count {
            let answer = self.answers.next().await.context("the stream has ended")?;
            let outcome = answer.context("submit a statement")?.leaf.outcome;
            anyhow::ensure!(
                outcome == Outcome::Ok,
                "the log refused a statement: {outcome:?}"
            );
        }
        Ok(())
    }
}

const SYSTEMS: [System; 3] = [System::Etcd, System::Statements, System::Records];

const SHAPES: [Shape; 6] = [
    Shape {
        name: "1 client",
        clients: 1,
        batch: 1,
        items: 200,
    },
    Shape {
        name: "64 clients",
        clients: 64,
        batch: 1,
        items: 4_000,
    },
    Shape {
        name: "1 client, batches of 100",
        clients: 1,
        batch: 100,
        items: 4_000,
    },
    Shape {
        name: "256 clients",
        clients: 256,
        batch: 1,
        items: 4_000,
    },
    Shape {
        name: "4 clients, batches of 100",
        clients: 4,
        batch: 100,
        items: 8_000,
    },
    Shape {
        name: "16 clients, batches of 100",
        clients: 16,
        batch: 100,
        items: 8_000,
    },
];
