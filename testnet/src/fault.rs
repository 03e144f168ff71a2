//! Faults that a node must be built for: a leader that lies, a broker that cheats, a disk that fails or forgets, rows of a database that
//! somebody has changed, a death at a certain step of a write. After each, nothing that was acknowledged may be missing, one log must explain all that
//! clients were told, and who is wrong must have been named.

mod brokers;
mod disks;
mod erasures;
mod lies;
mod steps;
mod storage;

use crate::{
    Network, NetworkOptions, interrupt::on_ctrl_c, load::Load, network::this_program,
    people::People, run::Run, run_folder::RunFolder,
};
use anyhow::{Context, Result};
use brokers::CHEATS;
use disks::DISKS;
use fastrand::Rng;
use lies::LIES;
use medanchor_node::Folder;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};
use steps::STEPS;
use tokio::runtime::Runtime;

/// Which faults, and with what.
#[derive(Clone, Debug)]
pub struct FaultOptions {
    /// The testnet's own program, built with `--cfg medanchor_fault`.
    pub faulty: PathBuf,
    /// Decides where faults strike and what clients say. `None`: drawn, and printed.
    pub seed: Option<u64>,
    /// Only the stories with this in their names.
    pub only: Option<String>,
    /// One of each kind.
    pub brief: bool,
    /// One JSON object on standard output.
    pub json: bool,
    /// Folder of the networks; `None`: a new temporary one.
    pub dir: Option<PathBuf>,
}

/// Tells every story. The exit code says whether every check passed; when one does not, the folder is kept.
///
/// # Errors
///
/// When it cannot begin.
pub fn fault(options: &FaultOptions) -> Result<ExitCode> {
    let interrupted = on_ctrl_c()?;
    let folder = RunFolder::make(options.dir.as_deref(), "medanchor-fault-")?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut run = Run::new(seed, interrupted);
    let result = tell(&mut run, options, folder.path());
    Ok(run.end(result, folder, options.json))
}

fn tell(run: &mut Run, options: &FaultOptions, dir: &Path) -> Result<()> {
    let mut rng = Rng::with_seed(run.seed);
    let faulty = fs::canonicalize(&options.faulty).context("find the faulty program")?;
    let wanted = |name: &str, in_brief: bool| match &options.only {
        Some(part) => name.contains(part.as_str()),
        None => in_brief || !options.brief,
    };
    for lie in LIES.iter().filter(|lie| wanted(lie.name, lie.in_brief)) {
        let mut ground = Ground::lay(&dir.join(lie.name), &faulty, |_| Ok(()))?;
        lie.tell(run, &mut ground, &mut rng)
            .with_context(|| format!("the lie `{}`", lie.name))?;
    }
    for cheat in CHEATS
        .iter()
        .filter(|cheat| wanted(cheat.name, cheat.in_brief))
    {
        let mut ground = Ground::lay(&dir.join(cheat.name), &faulty, |_| Ok(()))?;
        cheat
            .tell(run, &mut ground)
            .with_context(|| format!("the broker's `{}`", cheat.name))?;
    }
    let disks = DISKS.iter().filter(|disk| wanted(disk.name, disk.in_brief));
    let disks: Vec<_> = disks.collect();
    if !disks.is_empty() {
        let mut ground = Ground::lay(&dir.join("disks"), &faulty, |_| Ok(()))?;
        disks::strike(run, &mut ground, &disks, &mut rng).context("a broken disk")?;
    }
    let steps = STEPS.iter().filter(|step| wanted(step.name, step.in_brief));
    let steps: Vec<_> = steps.collect();
    steps::strike(run, dir, &faulty, &steps, &mut rng).context("a step of the write path")?;
    let steps = storage::STEPS.iter();
    let steps: Vec<_> = steps
        .filter(|step| wanted(step.name, step.in_brief))
        .collect();
    storage::strike(run, dir, &faulty, &steps, &mut rng)
        .context("a step of a move, a collection or a repair")?;
    let steps = erasures::STEPS.iter();
    let steps: Vec<_> = steps
        .filter(|step| wanted(step.name, step.in_brief))
        .collect();
    erasures::strike(run, dir, &faulty, &steps, &mut rng).context("a step of an erasure")
}

/// A network that runs, and those who use it.
struct Ground {
    runtime: Runtime,
    network: Network,
    people: People,
    dir: PathBuf,
    program: PathBuf,
    faulty: PathBuf,
}

impl Ground {
    fn lay(
        dir: &Path,
        faulty: &Path,
        prepare: impl FnOnce(&mut Network) -> Result<()>,
    ) -> Result<Self> {
        fs::create_dir_all(dir).context("make the folder")?;
        let program = this_program()?;
        let options = NetworkOptions {
            program: program.clone(),
            nodes: 3,
            witness: true,
            foreign_witnesses: Vec::new(),
        };
        let mut network = Network::found(&dir.join("network"), &options)?;
        prepare(&mut network)?;
        network.start()?;
        Ok(Self {
            runtime: Runtime::new().context("start the runtime")?,
            people: People::enrol(&network)?,
            network,
            dir: dir.to_owned(),
            program,
            faulty: faulty.to_owned(),
        })
    }

    fn load(&self, rng: &mut Rng) -> Result<Load> {
        Load::start(&self.runtime, &self.people, &self.dir, rng)
    }

    fn hospitals(&self) -> Vec<String> {
        self.network
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect()
    }

    fn leader(&self) -> Result<String> {
        self.people.operator.run(["status"])?.text("leader")
    }

    /// Starts a node that does not run, from the faulty program.
    fn start_faulty(&mut self, name: &str, variable: &str, value: &str) -> Result<()> {
        let node = self.network.process(name)?;
        node.set_program(&self.faulty);
        node.set_environment([(variable, value.as_ref())]);
        node.start()
    }

    /// Starts all hospitals anew, from the faulty program. Each dies where its order says.
    fn take_orders(&mut self) -> Result<()> {
        self.network.stop()?;
        for name in self.hospitals() {
            let order = steps::order(self, &name);
            let order = order.to_str().context("name the file")?.to_owned();
            self.start_faulty(&name, "MEDANCHOR_FAULT_KILL", &order)?;
        }
        self.network.start()
    }

    /// Starts a node that died, with the program that it had, and waits until it is back.
    fn start_again(&mut self, name: &str) -> Result<()> {
        self.network.process(name)?.start()?;
        wait_for("the node is back", || Ok(self.network.wait_for(name).ok()))
    }

    /// Ends the load. Nothing acknowledged is missing on the nodes of these names, and what was put is read back.
    fn end(&self, run: &mut Run, load: Load, names: &[String], rng: &mut Rng) -> Result<()> {
        run.wait_for_progress(&load)?;
        let told = load.stop(&self.runtime)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        run.check(&self.runtime, &self.network, &names, &told)?;
        run.read_back(&self.people, &told.puts, &self.dir, rng)
    }

    /// Starts a node that does not run, as it should be.
    fn start(&mut self, name: &str) -> Result<()> {
        let node = self.network.process(name)?;
        node.set_program(&self.program);
        node.set_environment([]);
        node.start()
    }

    /// Runs another command of `medanchord` on a node's folder.
    fn medanchord(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let node = self.network.process(name)?;
        let status = Command::new(&self.program)
            .args(["medanchord", "--data"])
            .arg(node.folder())
            .args(arguments)
            .stderr(Stdio::null())
            .status()
            .context("run medanchord")?;
        anyhow::ensure!(status.success(), "medanchord {arguments:?}: {status}");
        Ok(())
    }

    /// The alarms of a node that nobody has acknowledged: each id, and what its file says.
    fn alarms(&mut self, name: &str) -> Result<Vec<(String, String)>> {
        let folder = self.network.process(name)?.folder().join("alarms");
        let mut alarms = Vec::new();
        for file in fs::read_dir(folder).context("find alarms")? {
            let path = file?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "alarm")
            {
                let id = path.file_stem().unwrap_or_default().to_string_lossy();
                let text = fs::read_to_string(&path).context("read an alarm")?;
                alarms.push((id.into_owned(), text));
            }
        }
        Ok(alarms)
    }

    /// What a node has co-signed last of the network's log, with when.
    fn last_cosigned(&mut self, name: &str) -> Result<String> {
        let folder = Folder::new(self.network.process(name)?.folder()).cosigned();
        let mut last = String::new();
        for file in fs::read_dir(folder).context("find what was co-signed")? {
            let path = file?.path();
            // Beside it may be the next one, which is being written.
            if path.extension().is_none() {
                last = fs::read_to_string(path).context("read what was co-signed")?;
            }
        }
        Ok(last)
    }

    /// Every operator has looked into it, and lets their node go on.
    fn acknowledge_all(&mut self) -> Result<()> {
        let processes = self.network.processes();
        let names: Vec<String> = processes.map(|node| node.name.clone()).collect();
        for name in names {
            for (id, _) in self.alarms(&name)? {
                self.medanchord(&name, &["acknowledge", &id])?;
            }
        }
        Ok(())
    }
}

/// The node that says of itself that it leads. What the others say they may remember from before a restart.
fn leading(ground: &Ground) -> Result<Option<String>> {
    let status = ground.people.operator.run(["status"])?;
    let mut nodes = status.json["nodes"].as_array().into_iter().flatten();
    let leader = nodes.find(|node| node["role"] == "leader");
    Ok(leader.and_then(|node| node["node"].as_str().map(str::to_owned)))
}

/// Waits until `found` gives something.
fn wait_for<T>(what: &str, mut found: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found().with_context(|| what.to_owned())? {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

const PATIENCE: Duration = Duration::from_secs(90);
