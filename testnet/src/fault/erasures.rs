use super::{
    Ground,
    steps::{dies, order},
    storage, wait_for,
};
use crate::{Ran, run::Run};
use anyhow::{Context, Result};
use fastrand::Rng;
use medanchor_node::Folder;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A step of an erasure, at which the node dies that holds the key.
pub(super) struct Step {
    /// As the faulty build knows it.
    pub(super) name: &'static str,
    pub(super) in_brief: bool,
}

/// In the order in which it dies there.
pub(super) const STEPS: [Step; 5] = [
    step("epoch-key-made", false),
    step("epoch-key-said", false),
    step("custody-resealed", true),
    step("epoch-key-overwritten", false),
    step("key-destroyed", false),
];

const fn step(name: &'static str, in_brief: bool) -> Step {
    Step { name, in_brief }
}

/// One after the other, under load, in one network: a patient is forgotten, and the node dies. It starts again, and everybody
/// destroys what is listed of theirs. In the end what is somebody else's opens as before.
pub(super) fn strike(
    run: &mut Run,
    dir: &Path,
    faulty: &Path,
    steps: &[&Step],
    rng: &mut Rng,
) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    let mut ground = Ground::lay(&dir.join("erasures"), faulty, storage::prepare)?;
    ground.take_orders()?;
    let load = ground.load(rng)?;
    for step in steps {
        run.wait_for_progress(&load)?;
        let patient = Patient::come(&ground, step.name)?;
        let keys = Keys::of(&mut ground)?;
        let before = keys.epoch_key()?;
        step.let_die(&mut ground, &patient)?;
        run.note(
            &format!("{HOLDER} dies: {}", step.name),
            load.acknowledged(),
        );
        run.wait_for_progress(&load)?;
        ground.start_again(HOLDER)?;
        wait_for("everybody has destroyed what is listed of theirs", || {
            let erased = patient.erase(&ground, "5")?;
            Ok((erased.code == 0).then_some(()))
        })?;
        run.passed("epoch keys that another one has followed", 1, || {
            anyhow::ensure!(keys.epoch_key()? != before, "it is still there");
            anyhow::ensure!(!keys.next.exists(), "the next one is still there beside it");
            Ok(())
        })?;
    }
    ground.end(run, load, &ground.hospitals(), rng)
}

impl Step {
    /// Tells the node to die at this step, and has the patient forgotten.
    fn let_die(&self, ground: &mut Ground, patient: &Patient) -> Result<()> {
        fs::write(order(ground, HOLDER), self.name).context("name the step")?;
        let began = Instant::now();
        while began.elapsed() < COMES_WITHIN {
            // What comes of it is seen once the node is back.
            patient.erase(ground, "1")?;
            if dies(ground, HOLDER)? {
                return Ok(());
            }
        }
        anyhow::bail!("`{HOLDER}` does not come to `{}`", self.name)
    }
}

/// Somebody with a record, whom nobody is to remember.
struct Patient {
    custody: String,
}

impl Patient {
    fn come(ground: &Ground, name: &str) -> Result<Self> {
        let people = &ground.people;
        let made = people
            .operator
            .run(["custody", "new", "--kind", "person"])?;
        let custody = made.success()?.text("custody")?;
        let file = ground.dir.join(name);
        fs::write(&file, name).context("write a payload")?;
        let file = file.to_str().context("name the payload")?;
        let put = ["put", file, "--class", "log", "--custody", &custody];
        people.device.run(put)?.success()?;
        Ok(Self { custody })
    }

    fn erase(&self, ground: &Ground, wait: &str) -> Result<Ran> {
        let erase = ["erase", "--subject", &self.custody, "--yes"];
        let wait = ["--wait-for", wait];
        ground.people.operator.run(erase.into_iter().chain(wait))
    }
}

/// Where the node's epoch key is.
struct Keys {
    now: PathBuf,
    next: PathBuf,
}

impl Keys {
    fn of(ground: &mut Ground) -> Result<Self> {
        let keys = Folder::new(ground.network.process(HOLDER)?.folder()).keys();
        Ok(Self {
            now: keys.join("custody-store.key"),
            next: keys.join("next-custody-store.key"),
        })
    }

    fn epoch_key(&self) -> Result<Vec<u8>> {
        fs::read(&self.now).context("read the epoch key")
    }
}

const HOLDER: &str = "hospital-a";
const COMES_WITHIN: Duration = Duration::from_secs(120);
