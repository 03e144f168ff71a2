//! The soak: real nodes under load while things go wrong, in an order that the seed decides. After it, nothing
//! that was acknowledged may be missing, and one log must explain all that clients were told.

mod clocks;
mod faults;
mod links;

use crate::{
    Network, NetworkOptions,
    interrupt::on_ctrl_c,
    load::{Load, Put},
    network::this_program,
    people::People,
    run::Run,
    run_folder::RunFolder,
};
use anyhow::{Context, Result};
use clocks::Clocks;
use fastrand::Rng;
use faults::{Fault, Means};
use links::Links;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
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
    let mut run = Run::new(seed, interrupted);
    let lasts = Duration::from_secs(options.minutes.saturating_mul(60));
    let result = run.soak(lasts, folder.path());
    Ok(run.end(result, folder, options.json))
}

impl Run {
    fn soak(&mut self, lasts: Duration, dir: &Path) -> Result<()> {
        let runtime = Runtime::new().context("start the runtime")?;
        let mut rng = Rng::with_seed(self.seed);
        let options = NetworkOptions {
            program: this_program()?,
            nodes: NODES,
            witness: true,
            foreign_witnesses: Vec::new(),
        };
        let mut network = Network::found(&dir.join("network"), &options)?;
        let folders: Vec<&Path> = network.nodes.iter().map(|node| node.folder()).collect();
        let links = Links::lay(runtime.handle(), &folders)?;
        let clocks = Clocks::lay(&mut network, dir)?;
        if clocks.is_none() {
            self.say("clocks are left alone: libfaketime (Debian's faketime) is not installed");
        }
        network.start()?;
        let people = People::enrol(&network)?;
        let load = Load::start(&runtime, &people, dir, &mut rng)?;
        let mut means = Means {
            network: &mut network,
            links: &links,
            clocks: clocks.as_ref(),
        };
        let struck = self.strike(&mut means, &load, lasts, &mut rng);
        // What a client noticed says more than that the network did not go on.
        let told = load.stop(&runtime)?;
        struck?;
        let all: Vec<&str> = network
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect();
        self.check(&runtime, &network, &all, &told)?;
        let copy = dir.join("copy");
        let sample = sample(&told.puts, &mut rng);
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
        while Instant::now() < end {
            self.wait_for_progress(load)?;
            let leader = means.network.operator(0)?.run(["status"])?.text("leader")?;
            let fault = Fault::draw(rng, &names, &leader);
            let lasts = Duration::from_millis(rng.u64(200..8000));
            let what = format!("{fault}, {:.1} s", lasts.as_secs_f64());
            self.note(&what, load.acknowledged());
            fault
                .strike(means, lasts)
                .with_context(|| format!("{fault}"))?;
            means.network.wait_until_ready()?;
        }
        self.wait_for_progress(load)
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
const SAMPLE: usize = 10;
