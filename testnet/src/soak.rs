//! The soak: real nodes under load while things go wrong, in an order that the seed decides. After it, nothing
//! that was acknowledged may be missing, and one log must explain all that clients were told.

mod clocks;
mod faults;
mod links;

use crate::{
    Network, NetworkOptions, interrupt::on_ctrl_c, load::Load, network::this_program,
    people::People, run::Run, run_folder::RunFolder,
};
use anyhow::{Context, Result};
use clocks::Clocks;
use fastrand::Rng;
use faults::{Faults, Means};
use links::Links;
use std::{
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
        self.read_back(&people, &told.puts, dir, &mut rng)
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
        let mut faults = Faults::new(means.clocks.is_some());
        let end = Instant::now() + lasts;
        // A short soak lasts a little longer, until it has seen everything.
        while Instant::now() < end || faults.coverage().0 < faults.coverage().1 {
            self.wait_for_progress(load)?;
            let leader = means.network.operator(0)?.run(["status"])?.text("leader")?;
            let fault = faults.draw(rng, &names, &leader);
            let lasts = Duration::from_millis(rng.u64(200..8000));
            let what = format!("{fault}, {:.1} s", lasts.as_secs_f64());
            self.note(&what, load.acknowledged());
            fault
                .strike(means, lasts)
                .with_context(|| format!("{fault}"))?;
            means.network.wait_until_ready()?;
        }
        let (drawn, kinds) = faults.coverage();
        self.say(&format!("struck: {drawn} of {kinds} kinds of faults"));
        self.wait_for_progress(load)
    }
}

const NODES: u8 = 3;
