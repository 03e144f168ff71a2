//! One run of real nodes under load: what was done to them, and what was checked after it.

use crate::{
    Network,
    load::{Load, Put, Told, leaves_of},
    people::People,
    run_folder::RunFolder,
};
use anyhow::{Context, Result};
use fastrand::Rng;
use medanchor_anchor::{Checkpoint, MemoryTables, SignedNote, tree};
use medanchor_node::Folder;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// What a run did so far.
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) began: Instant,
    pub(crate) faults: Vec<Value>,
    pub(crate) checks: Vec<Value>,
    pub(crate) interrupted: Arc<AtomicBool>,
}

impl Run {
    pub(crate) fn new(seed: u64, interrupted: Arc<AtomicBool>) -> Self {
        let run = Self {
            seed,
            began: Instant::now(),
            faults: Vec::new(),
            checks: Vec::new(),
            interrupted,
        };
        run.say(&format!("seed {seed}"));
        run
    }

    /// The exit code. The folder of a run in which something was wrong is kept.
    pub(crate) fn end(&self, result: Result<()>, folder: RunFolder, json: bool) -> ExitCode {
        let ok = result.is_ok();
        if let Err(error) = &result {
            self.say(&format!("FAILED: {error:#}"));
            self.say(&format!("everything is in {}", folder.path().display()));
            folder.keep();
        }
        if json {
            println!("{}", self.report(ok, result.err()));
        }
        ExitCode::from(u8::from(!ok))
    }

    pub(crate) fn wait_for_progress(&self, load: &Load) -> Result<()> {
        let enough = load.acknowledged() + PROGRESS;
        let deadline = Instant::now() + PATIENCE;
        while load.acknowledged() < enough && !load.has_failed() {
            let interrupted = self.interrupted.load(Ordering::Relaxed);
            anyhow::ensure!(!interrupted, "interrupted");
            anyhow::ensure!(
                Instant::now() < deadline,
                "the network does not go on: nothing was acknowledged in {PATIENCE:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
        anyhow::ensure!(!load.has_failed(), "a client found something wrong");
        Ok(())
    }

    /// One log, which these nodes have, must explain what all clients were told.
    pub(crate) fn check(
        &mut self,
        runtime: &Runtime,
        network: &Network,
        names: &[&str],
        told: &Told,
    ) -> Result<()> {
        let leaves = self.equal_logs(runtime, network, names)?;
        let what = format!("leaves equal on {}", names.join(", "));
        self.passed(&what, leaves.len(), || Ok(()))?;
        let history = &told.history;
        self.passed(
            "acknowledged leaves in the log",
            history.writes.len(),
            || {
                for write in &history.writes {
                    let found = usize::try_from(write.index).ok();
                    let found = found.and_then(|index| leaves.get(index));
                    anyhow::ensure!(
                        found == Some(&write.leaf),
                        "leaf {} was acknowledged and is not in the log",
                        write.index
                    );
                }
                Ok(())
            },
        )?;
        let operations = history.writes.len() + history.reads.len();
        self.passed("operations linearizable", operations, || {
            history.check().map_err(anyhow::Error::msg)
        })?;
        let mut tables = MemoryTables::default();
        for (index, leaf) in (0..).zip(&leaves) {
            tree::append(&mut tables, index, leaf)?;
        }
        self.passed("receipts of the one tree", told.trees.len(), || {
            for (&size, root) in &told.trees {
                anyhow::ensure!(
                    tree::root(&tables, size)? == *root,
                    "a receipt shows another tree of {size} leaves"
                );
            }
            Ok(())
        })?;
        let cosigned = cosigned(network)?;
        self.passed("co-signers signed the one tree", cosigned.len(), || {
            for (name, checkpoint) in &cosigned {
                anyhow::ensure!(
                    tree::root(&tables, checkpoint.size)? == checkpoint.root,
                    "`{name}` co-signed another tree of {} leaves",
                    checkpoint.size
                );
            }
            Ok(())
        })
    }

    /// Some of the payloads that were put must come back as they were. `dir` is for the copies.
    pub(crate) fn read_back(
        &mut self,
        people: &People,
        puts: &[Put],
        dir: &Path,
        rng: &mut Rng,
    ) -> Result<()> {
        let copy = dir.join("copy");
        let sample = sample(puts, rng);
        self.passed("payloads read back", sample.len(), || {
            for put in sample {
                let arguments = ["get", &put.record, "--purpose", "TREAT", "-o"];
                let copy_name = copy.to_str().context("name the copy")?;
                people
                    .clinician
                    .run(arguments.into_iter().chain([copy_name]))?
                    .success()?;
                let read = fs::read(&copy).context("read the copy")?;
                anyhow::ensure!(read == put.payload, "`{}` is another payload", put.record);
            }
            Ok(())
        })
    }

    /// Every leaf, once all of these nodes have the same.
    fn equal_logs(
        &self,
        runtime: &Runtime,
        network: &Network,
        names: &[&str],
    ) -> Result<Vec<Vec<u8>>> {
        let home = network.operator(0)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let logs = network
                .nodes
                .iter()
                .filter(|node| names.contains(&node.name.as_str()))
                .map(|node| leaves_of(runtime, &home, node));
            let mut logs = logs.collect::<Result<Vec<_>>>()?;
            let first = logs.pop().context("there is no node")?;
            if logs.iter().all(|log| *log == first) {
                return Ok(first);
            }
            let common = logs
                .iter()
                .map(Vec::len)
                .min()
                .unwrap_or(0)
                .min(first.len());
            for log in &logs {
                anyhow::ensure!(
                    log.get(..common) == first.get(..common),
                    "two nodes have different leaves"
                );
            }
            anyhow::ensure!(Instant::now() < deadline, "a node stays behind");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Says what is being done.
    pub(crate) fn note(&mut self, what: &str, acknowledged: u64) {
        let at = self.began.elapsed();
        self.say(&format!(
            "{:7.1} s  {acknowledged:6} acknowledged  {what}",
            at.as_secs_f64()
        ));
        self.faults.push(json!({
            "fault": what,
            "at_ms": u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
        }));
    }

    pub(crate) fn passed(
        &mut self,
        name: &str,
        count: usize,
        check: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let result = check();
        let ok = result.is_ok();
        self.checks
            .push(json!({ "check": name, "count": count, "ok": ok }));
        self.say(&format!(
            "{}  {count} {name}",
            if ok { "ok    " } else { "FAILED" }
        ));
        result
    }

    pub(crate) fn say(&self, line: &str) {
        eprintln!("{line}");
    }

    fn report(&self, ok: bool, error: Option<anyhow::Error>) -> Value {
        json!({
            "ok": ok,
            "seed": self.seed,
            "faults": self.faults,
            "checks": self.checks,
            "error": error.map(|error| format!("{error:#}")),
        })
    }
}

/// The last, and some of the others.
fn sample<'a>(puts: &'a [Put], rng: &mut Rng) -> Vec<&'a Put> {
    let Some((last, others)) = puts.split_last() else {
        return Vec::new();
    };
    let mut sample = rng.choose_multiple(others.iter(), SAMPLE);
    sample.push(last);
    sample
}

/// What each co-signer, running or not, has signed last.
fn cosigned(network: &Network) -> Result<Vec<(String, Checkpoint)>> {
    let mut all = Vec::new();
    for node in network.nodes.iter().chain(&network.witness) {
        let folder = Folder::new(node.folder()).cosigned();
        for file in fs::read_dir(folder).context("find what was co-signed")? {
            let path = file?.path();
            // A node that was killed may have left half of a next one beside it.
            if path.extension().is_some() {
                continue;
            }
            let text = fs::read_to_string(path).context("read what was co-signed")?;
            let note = SignedNote::parse(&text).context("parse what was co-signed")?;
            all.push((node.name.clone(), note.text().parse()?));
        }
    }
    Ok(all)
}

/// Acknowledgements between two faults.
const PROGRESS: u64 = 20;
/// Payloads that are read back.
const SAMPLE: usize = 10;
const PATIENCE: Duration = Duration::from_secs(180);
