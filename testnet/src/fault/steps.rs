use super::{Ground, leading, wait_for};
use crate::{Network, run::Run};
use anyhow::{Context, Result};
use fastrand::Rng;
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// A step of the write path, at which a node dies.
pub(super) struct Step {
    /// As the faulty build knows it.
    pub(super) name: &'static str,
    pub(super) in_brief: bool,
    /// In a network of its own: the longer the log, the further apart are its snapshots.
    alone: bool,
    comes_to: ComesTo,
}

/// Which node comes to a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ComesTo {
    Any,
    Leader,
    Follower,
    /// One that was away until the others had purged what it lacks.
    Behind,
    /// One of those that remove the last hospital.
    Remover,
}

/// In the order in which nodes die there.
pub(super) const STEPS: [Step; 21] = [
    snapshot("snapshot-received", false, ComesTo::Behind),
    snapshot("snapshot-installed", true, ComesTo::Behind),
    snapshot("snapshot-loaded", false, ComesTo::Behind),
    snapshot("snapshot-written", false, ComesTo::Any),
    snapshot("snapshot-made", false, ComesTo::Any),
    snapshot("certificate-written", true, ComesTo::Any),
    snapshot("snapshot-certified", false, ComesTo::Any),
    step("blocks-stored", false, ComesTo::Any),
    step("hold-signed", true, ComesTo::Any),
    step("batch-made", false, ComesTo::Leader),
    step("head-signed", true, ComesTo::Leader),
    step("entry-appended", false, ComesTo::Leader),
    step("leader-synced", false, ComesTo::Leader),
    step("follower-synced", true, ComesTo::Follower),
    step("entry-committed", false, ComesTo::Any),
    step("entry-applied", true, ComesTo::Any),
    step("state-flushed", false, ComesTo::Any),
    step("checkpoint-signed", false, ComesTo::Leader),
    step("cosignature-recorded", true, ComesTo::Any),
    step("checkpoint-cosigned", false, ComesTo::Leader),
    step("policy-chain-written", true, ComesTo::Remover),
];

const fn step(name: &'static str, in_brief: bool, comes_to: ComesTo) -> Step {
    Step {
        name,
        in_brief,
        alone: false,
        comes_to,
    }
}

const fn snapshot(name: &'static str, in_brief: bool, comes_to: ComesTo) -> Step {
    Step {
        alone: true,
        ..step(name, in_brief, comes_to)
    }
}

/// Snapshots are made often.
fn prepare(network: &mut Network) -> Result<()> {
    for node in &network.nodes {
        node.configure(|config| config.snapshot_every = Some(SNAPSHOT_EVERY))?;
    }
    Ok(())
}

/// One after the other, under load, each on a node that comes to it. Whoever died starts again.
pub(super) fn strike(
    run: &mut Run,
    dir: &Path,
    faulty: &Path,
    steps: &[&Step],
    rng: &mut Rng,
) -> Result<()> {
    let (alone, others): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(|step| step.alone);
    let groups = alone.chunks(1).chain([others.as_slice()]);
    for group in groups {
        if let Some(first) = group.first() {
            let mut ground = Ground::lay(&dir.join(first.name), faulty, prepare)?;
            strike_one_network(run, &mut ground, group, rng)?;
        }
    }
    Ok(())
}

fn strike_one_network(
    run: &mut Run,
    ground: &mut Ground,
    steps: &[&Step],
    rng: &mut Rng,
) -> Result<()> {
    ground.take_orders()?;
    let load = ground.load(rng)?;
    let mut names = ground.hospitals();
    for step in steps {
        run.wait_for_progress(&load)?;
        if step.comes_to == ComesTo::Remover {
            let last = names.pop().context("there is no hospital")?;
            ground.network.process(&last)?.stop()?;
        }
        let name = step.let_die(ground, &names, rng)?;
        run.note(&format!("{name} dies: {}", step.name), load.acknowledged());
        // The others go on without it, where they are enough.
        if names.len() == ground.network.nodes.len() {
            run.wait_for_progress(&load)?;
        }
        ground.start_again(&name)?;
    }
    ground.end(run, load, &names, rng)
}

impl Step {
    /// Tells one node after the other to die at this step, until one comes to it.
    fn let_die(&self, ground: &mut Ground, names: &[String], rng: &mut Rng) -> Result<String> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let name = self.choose(ground, names, rng)?;
            let file = order(ground, &name);
            let write = || fs::write(&file, self.name).context("name the step");
            match self.comes_to {
                ComesTo::Behind => {
                    ground.network.process(&name)?.kill()?;
                    wait_for_snapshot(ground, &name)?;
                    write()?;
                    ground.network.process(&name)?.start()?;
                }
                ComesTo::Remover => {
                    write()?;
                    remove_last(ground)?;
                }
                ComesTo::Any | ComesTo::Leader | ComesTo::Follower => write()?,
            }
            if dies(ground, &name)? {
                return Ok(name);
            }
            // There is one removal, and all who are left come to it.
            if self.comes_to == ComesTo::Remover {
                continue;
            }
            // It may come there at this very moment.
            if fs::remove_file(&file).is_err() && dies(ground, &name)? {
                return Ok(name);
            }
        }
        anyhow::bail!("no node comes to `{}`", self.name)
    }

    fn choose(&self, ground: &Ground, names: &[String], rng: &mut Rng) -> Result<String> {
        if self.comes_to == ComesTo::Remover {
            return names.first().cloned().context("there is no hospital");
        }
        let leader = wait_for("a node leads", || leading(ground))?;
        let suits = |name: &&String| match self.comes_to {
            ComesTo::Any | ComesTo::Remover => true,
            ComesTo::Leader => **name == leader,
            ComesTo::Follower | ComesTo::Behind => **name != leader,
        };
        let name = rng.choice(names.iter().filter(suits).collect::<Vec<_>>());
        name.cloned().context("no such node")
    }
}

/// Whether the node dies within some seconds, by itself.
pub(super) fn dies(ground: &mut Ground, name: &str) -> Result<bool> {
    let began = Instant::now();
    while began.elapsed() < COMES_WITHIN {
        if let Some(ended) = ground.network.process(name)?.ended()? {
            anyhow::ensure!(ended.signal().is_some(), "`{name}` ended with {ended}");
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}

/// Until another node has one more certified snapshot than now.
fn wait_for_snapshot(ground: &mut Ground, away: &str) -> Result<()> {
    let others: Vec<PathBuf> = ground
        .network
        .nodes
        .iter()
        .filter(|node| node.name != away)
        .map(|node| node.log())
        .collect();
    let count = || -> Result<usize> {
        let logs = others.iter().map(fs::read_to_string);
        let counts = logs.map(|log| Ok(log?.matches("the snapshot is certified").count()));
        counts.sum()
    };
    let before = count()?;
    // Both, so that whoever leads has purged its log.
    wait_for("a snapshot is certified", || {
        Ok((count()? >= before + others.len()).then_some(()))
    })
}

/// The operators of all others remove the last hospital.
fn remove_last(ground: &mut Ground) -> Result<()> {
    let draft = ground.dir.join("removal");
    let draft = draft.to_str().context("name the draft")?;
    let last = ground.network.nodes.len() - 1;
    let name = ground.hospitals().pop().context("there is no hospital")?;
    let operators = (0..last).map(|number| ground.network.operator(number));
    let operators = operators.collect::<Result<Vec<_>>>()?;
    let (first, others) = operators.split_first().context("there is no operator")?;
    if !fs::exists(draft).context("look for the draft")? {
        let arguments = ["admin", "member", "draft-removal", &name, "-o", draft];
        let quorum = ["--quorum", REMAINING_COSIGNERS];
        first.run(arguments.into_iter().chain(quorum))?.success()?;
        for other in others {
            other
                .run(["admin", "member", "approve", draft])?
                .success()?;
        }
        // It waits for its receipt, which comes when the node that dies is back. If it is refused, none dies.
        let (remover, draft) = (others.last().unwrap_or(first).clone(), draft.to_owned());
        thread::spawn(move || remover.run(["admin", "member", "remove", &draft]));
    }
    Ok(())
}

/// The file that tells a node where to die.
pub(super) fn order(ground: &Ground, name: &str) -> PathBuf {
    ground.dir.join(format!("dies-{name}"))
}

const SNAPSHOT_EVERY: u64 = 20;
/// Hospitals and the witness, once the last hospital is gone.
const REMAINING_COSIGNERS: &str = "3";
const COMES_WITHIN: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(120);
