//! The soak: real nodes under load while things go wrong, in an order that the seed decides. After it, nothing
//! that was acknowledged may be missing, and one log must explain all that clients were told.

mod clocks;
mod faults;
mod history;
mod links;
mod load;

use crate::{
    Network, NetworkOptions, interrupt::on_ctrl_c, network::this_program, run_folder::RunFolder,
};
use anyhow::{Context, Result};
use clocks::Clocks;
use fastrand::Rng;
use faults::{Fault, Means};
use links::Links;
use load::{Cast, Load, Put, Told, leaves_of};
use medanchor_anchor::{MemoryTables, tree};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// How long to soak, and what decides what goes wrong.
#[derive(Clone, Debug)]
pub struct SoakOptions {
    /// How long faults strike. The checks come after.
    pub minutes: u64,
    /// Decides which faults strike and what clients say. `None`: drawn, and printed.
    pub seed: Option<u64>,
    /// One JSON object on standard output.
    pub json: bool,
    /// Folder of the network; `None`: a new temporary one.
    pub dir: Option<PathBuf>,
}

/// Runs the soak. The exit code says whether every check passed; when one does not, the folder is kept.
///
/// # Errors
///
/// When it cannot begin.
pub fn soak(options: &SoakOptions) -> Result<ExitCode> {
    let interrupted = on_ctrl_c()?;
    let folder = RunFolder::make(options.dir.as_deref(), "medanchor-soak-")?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut run = Run {
        seed,
        began: Instant::now(),
        faults: Vec::new(),
        checks: Vec::new(),
        interrupted,
    };
    run.say(&format!("seed {seed}"));
    let lasts = Duration::from_secs(options.minutes.saturating_mul(60));
    let result = run.soak(lasts, folder.path());
    let ok = result.is_ok();
    if let Err(error) = &result {
        run.say(&format!("FAILED: {error:#}"));
        run.say(&format!("everything is in {}", folder.path().display()));
        folder.keep();
    }
    if options.json {
        println!("{}", run.report(ok, result.err()));
    }
    Ok(ExitCode::from(u8::from(!ok)))
}

struct Run {
    seed: u64,
    began: Instant,
    faults: Vec<Value>,
    checks: Vec<Value>,
    interrupted: Arc<AtomicBool>,
}

impl Run {
    fn soak(&mut self, lasts: Duration, dir: &Path) -> Result<()> {
        let runtime = Runtime::new().context("start the runtime")?;
        let mut rng = Rng::with_seed(self.seed);
        let options = NetworkOptions {
            program: this_program()?,
            nodes: NODES,
            witness: true,
        };
        let mut network = Network::found(&dir.join("network"), &options)?;
        let folders: Vec<&Path> = network.nodes.iter().map(|node| node.folder()).collect();
        let links = Links::lay(runtime.handle(), &folders)?;
        let clocks = Clocks::lay(&mut network, dir)?;
        if clocks.is_none() {
            self.say("clocks are left alone: libfaketime (Debian's faketime) is not installed");
        }
        network.start()?;
        let hospital = network.operator(0)?;
        let device = network.invite(0, "device")?;
        let clinician = network.invite(0, "clinician")?;
        for (kind, who, role) in [
            ("device", &device, "device"),
            ("person", &clinician, "clinician"),
        ] {
            let did = who.run(["key", "show"])?.success()?.text("did")?;
            hospital
                .run([kind, "enrol", &did, "--role", role])?
                .success()?;
        }
        let made = hospital.run(["custody", "new", "--kind", "person"])?;
        let custody = made.success()?.text("custody")?;
        let cast = Cast {
            operator: &hospital,
            device: &device,
            custody: &custody,
            folder: dir,
        };
        let load = Load::start(&runtime, &cast, &mut rng)?;
        let mut means = Means {
            network: &mut network,
            links: &links,
            clocks: clocks.as_ref(),
        };
        let struck = self.strike(&mut means, &load, lasts, &mut rng);
        // What a client noticed says more than that the network did not go on.
        let told = load.stop(&runtime)?;
        struck?;
        self.check(&runtime, &mut network, &told)?;
        let copy = dir.join("copy");
        let sample = sample(&told.puts, &mut rng);
        self.passed("payloads read back", sample.len(), || {
            for put in sample {
                let arguments = ["get", &put.record, "--purpose", "TREAT", "-o"];
                let copy_name = copy.to_str().context("name the copy")?;
                clinician
                    .run(arguments.into_iter().chain([copy_name]))?
                    .success()?;
                let read = fs::read(&copy).context("read the copy")?;
                anyhow::ensure!(read == put.payload, "`{}` is another payload", put.record);
            }
            Ok(())
        })
    }

    /// One fault after the other; after each the network must go on by itself.
    fn strike(
        &mut self,
        means: &mut Means<'_>,
        load: &Load,
        lasts: Duration,
        rng: &mut Rng,
    ) -> Result<()> {
        let processes = means.network.processes();
        let names: Vec<String> = processes.map(|node| node.name.clone()).collect();
        let end = Instant::now() + lasts;
        let mut fast = None;
        while Instant::now() < end {
            self.wait_for_progress(load)?;
            let leader = means.network.operator(0)?.run(["status"])?.text("leader")?;
            let fault = Fault::draw(rng, &names, &leader).sparing_the_quorum(&mut fast);
            let lasts = Duration::from_millis(rng.u64(200..8000));
            self.note(&fault, lasts, load);
            fault
                .strike(means, lasts)
                .with_context(|| format!("{fault}"))?;
            means.network.wait_until_ready()?;
        }
        self.wait_for_progress(load)
    }

    fn wait_for_progress(&self, load: &Load) -> Result<()> {
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

    /// One log must explain what all clients were told.
    fn check(&mut self, runtime: &Runtime, network: &mut Network, told: &Told) -> Result<()> {
        let leaves = self.equal_logs(runtime, network)?;
        self.passed("leaves equal on every node", leaves.len(), || Ok(()))?;
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
        self.passed("receipts of the one tree", told.trees.len(), || {
            let mut tables = MemoryTables::default();
            for (index, leaf) in (0..).zip(&leaves) {
                tree::append(&mut tables, index, leaf)?;
            }
            for (&size, root) in &told.trees {
                anyhow::ensure!(
                    tree::root(&tables, size)? == *root,
                    "a receipt shows another tree of {size} leaves"
                );
            }
            Ok(())
        })
    }

    /// Every leaf, once all nodes have the same.
    fn equal_logs(&self, runtime: &Runtime, network: &Network) -> Result<Vec<Vec<u8>>> {
        let home = network.operator(0)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let logs = network
                .nodes
                .iter()
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

    fn note(&mut self, fault: &Fault, lasts: Duration, load: &Load) {
        let at = self.began.elapsed();
        self.say(&format!(
            "{:7.1} s  {:6} acknowledged  {fault}, {:.1} s",
            at.as_secs_f64(),
            load.acknowledged(),
            lasts.as_secs_f64()
        ));
        self.faults.push(json!({
            "fault": fault.to_string(),
            "at_ms": u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            "lasts_ms": u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX),
        }));
    }

    fn passed(
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

    fn say(&self, line: &str) {
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

const NODES: u8 = 3;
/// Acknowledgements between two faults.
const PROGRESS: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(180);
const SAMPLE: usize = 10;
