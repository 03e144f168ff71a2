//! How the log does when it is long: filled beforehand by [`fill`], then loaded, restarted and looked at.

use crate::{
    arguments::Arguments,
    beside_etcd::{Figures, Shape, statements},
    clinic::Clinic,
    interrupt::Interrupt,
    process_memory::anonymous_mib,
    report::Report,
    samples::{Samples, count},
};
use anyhow::{Context, Result};
use futures::TryStreamExt;
use medanchor_anchor::{Applied, Batch, Body, Entry, Outcome, SignedStatement};
use medanchor_cli::Session;
use medanchor_dag::SigningKey;
use medanchor_node::Folder;
use medanchor_raft::{Filler, Identity};
use std::{
    path::Path,
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::runtime::Runtime;

/// Measures it, at every size that is asked for; the network is kept in `dir`.
pub(crate) fn measure(
    arguments: &Arguments,
    runtime: &Runtime,
    dir: &Path,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    report.begin(
        "large-log",
        "statements, by three nodes whose log was filled beforehand; a restart ends when the node serves a leaf",
    );
    let mut clinic = Clinic::start(dir, runtime)?;
    let mut sizes = arguments.leaves.clone();
    if sizes.is_empty() {
        sizes = arguments.choose(vec![10_000, 1_000_000], vec![500, 2_000]);
    }
    sizes.sort_unstable();
    for size in sizes {
        interrupt.check()?;
        clinic.network().stop()?;
        let began = Instant::now();
        fill(&clinic, size, interrupt)?;
        let filled_in = began.elapsed().as_secs_f64();
        clinic.network().start()?;
        let figure = |report: &mut Report, name: &str, unit: &str, value: f64| {
            report.figure(&format!("{size} leaves, {name}"), unit, value);
        };
        figure(report, "filled in", "s", filled_in);
        for shape in SHAPES.into_iter().take(arguments.choose(SHAPES.len(), 1)) {
            let mut figures = Figures::default();
            for _ in 0..arguments.choose(5, 1) {
                interrupt.check()?;
                let items = arguments.choose(shape.items, shape.items / 8);
                let pids: Vec<u32> = clinic.pids().collect();
                let measured = async {
                    let loads = statements(&clinic, shape, items).await?;
                    figures.add(&pids, loads, shape).await
                };
                runtime.block_on(measured)?;
            }
            let name = |what: &str| format!("{size} leaves, {}, {what}", shape.name);
            report.median(&name("rate"), "per s", &figures.per_second);
            report.latency(&name("a call"), &figures.ms);
            report.median(&name("processor of the nodes"), "us", &figures.nodes_us);
        }
        // Of what the nodes themselves have taken; pages of files that the kernel keeps for them can be dropped.
        let mut anonymous = Samples::default();
        for node in clinic.hospitals() {
            anonymous.push(anonymous_mib(node.pid().context("a node has ended")?)?);
        }
        report.median(
            &format!("{size} leaves, memory (RssAnon)"),
            "MiB",
            &anonymous,
        );
        for (how, name) in [(How::Stopped, "stopped"), (How::Killed, "killed")] {
            let mut seconds = Samples::default();
            for _ in 0..arguments.choose(3, 1) {
                interrupt.check()?;
                seconds.push(restart(&mut clinic, runtime, how, size)?);
            }
            report.median(
                &format!("{size} leaves, restart after it was {name}"),
                "s",
                &seconds,
            );
        }
        let node = clinic.hospitals().first().context("no hospital")?;
        let bytes = Filler::state_bytes(&Folder::new(node.folder()).raft())?;
        let per_leaf = count(usize::try_from(bytes / size.max(1))?);
        figure(report, "disk of the state, a leaf", "B", per_leaf);
    }
    Ok(())
}

/// Brings the log of a network that does not run to `size` leaves: enrolments, each signed and verified, in
/// batches of [`Batch::MAX_ENTRIES`], applied to the first node's state by the replica's own code. The
/// others get copies. Only the replicated log before it is missing, as after a snapshot.
fn fill(clinic: &Clinic, size: u64, interrupt: &Interrupt) -> Result<()> {
    let founded = clinic.founded()?;
    let Body::Founded(body) = founded.statement.body else {
        anyhow::bail!("the founding statement founds nothing");
    };
    let identity = Identity {
        origin: founded.statement.origin,
        joined: body.clone(),
        founded: body,
        key: Arc::new(SigningKey::generate()?),
    };
    let folders = clinic.hospitals().iter();
    let mut folders = folders.map(|node| Folder::new(node.folder()).raft());
    let first = folders.next().context("no hospital")?;
    let mut filler = Filler::open(first, folders.collect(), identity)?;
    let missing = size.saturating_sub(filler.tree_size()?);
    let (sender, batches) = mpsc::sync_channel(BATCHES_AHEAD);
    std::thread::scope(|scope| {
        let maker = scope.spawn(move || make(clinic, missing, &sender));
        for batch in batches {
            interrupt.check()?;
            let applied = filler.apply(&[batch])?;
            let is_ok = |one: &Applied| matches!(one, Applied::Leaf(leaf) if leaf.leaf.outcome == Outcome::Ok);
            anyhow::ensure!(
                applied.iter().all(is_ok),
                "the log refuses what is filled in"
            );
        }
        let made = maker.join();
        made.map_err(|_| anyhow::anyhow!("statements could not be made"))?
    })?;
    filler.finish()?;
    Ok(())
}

/// Batches of `missing` statements in all.
fn make(clinic: &Clinic, mut missing: u64, batches: &mpsc::SyncSender<Batch>) -> Result<()> {
    while missing > 0 {
        let count = missing.min(Batch::MAX_ENTRIES as u64);
        let entries = (0..count).map(|_| {
            let mut salt = [0; 32];
            getrandom::fill(&mut salt).context("draw a salt")?;
            let signed: SignedStatement = clinic.enrolment()?;
            anyhow::Ok(Entry { salt, signed })
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let batch = Batch {
            v: 1,
            proposed_at: u64::try_from(now)?,
            entries: entries.collect::<Result<_>>()?,
            holds: Vec::new(),
            lists: Vec::new(),
        };
        if batches.send(batch).is_err() {
            break;
        }
        missing -= count;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum How {
    Stopped,
    Killed,
}

/// Seconds from the start of the process until the node serves a leaf.
fn restart(clinic: &mut Clinic, runtime: &Runtime, how: How, size: u64) -> Result<f64> {
    let nodes = &mut clinic.network().nodes;
    let node = nodes.get_mut(RESTARTED).context("no such node")?;
    match how {
        How::Stopped => drop(node.stop()?),
        How::Killed => node.kill()?,
    }
    let began = Instant::now();
    node.start()?;
    let clinic = &*clinic;
    runtime.block_on(async {
        loop {
            match read(clinic, size / 2).await {
                Ok(()) => return Ok(began.elapsed().as_secs_f64()),
                Err(error) if began.elapsed() > GIVE_UP_AFTER => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    })
}

async fn read(clinic: &Clinic, index: u64) -> Result<()> {
    let node = clinic.hospitals().get(RESTARTED);
    let node = node.context("no such node")?;
    // Leaves are listed for operators and auditors alone.
    let operator = medanchor_cli::Home::new(Folder::new(node.folder()).operator());
    let client = Session::open(&operator)?.client.only(&node.name);
    let client = client.context("the operator does not know its node")?;
    let leaves: Vec<_> = client.leaves(index, Some(1)).try_collect().await?;
    anyhow::ensure!(leaves.len() == 1, "the leaf is not there");
    Ok(())
}

const SHAPES: [Shape; 2] = [
    Shape {
        name: "64 clients",
        clients: 64,
        batch: 1,
        items: 4_000,
    },
    Shape {
        name: "16 clients, batches of 100",
        clients: 16,
        batch: 100,
        items: 8_000,
    },
];
/// The node that is restarted.
const RESTARTED: usize = 2;
const BATCHES_AHEAD: usize = 4;
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);
