use super::{
    Ground,
    steps::{dies, order},
    wait_for,
};
use crate::{Home, Network, run::Run};
use anyhow::{Context, Result};
use fastrand::Rng;
use medanchor_node::{Config, Folder};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A step of a collection, a repair or a move of records between nodes, at which a node dies.
pub(super) struct Step {
    /// As the faulty build knows it.
    pub(super) name: &'static str,
    pub(super) in_brief: bool,
    comes_by: ComesBy,
}

/// How a node is made to come to a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ComesBy {
    /// Records move to it and away again; what it gave back is garbage.
    Moves,
    /// It starts after it died with the rows of blocks removed and their files left.
    LeftFiles,
    /// A block is damaged on its disk.
    Damage,
}

/// In the order in which nodes die there.
pub(super) const STEPS: [Step; 12] = [
    step("copy-fetched", true, ComesBy::Moves),
    step("copy-said", false, ComesBy::Moves),
    step("others-checked", false, ComesBy::Moves),
    step("copy-given-back", true, ComesBy::Moves),
    step("garbage-marked", false, ComesBy::Moves),
    step("rows-removed", false, ComesBy::Moves),
    step("file-swept", true, ComesBy::LeftFiles),
    step("garbage-removed", false, ComesBy::Moves),
    step("bad-set-aside", true, ComesBy::Damage),
    step("bad-listed", false, ComesBy::Damage),
    step("bad-mended", false, ComesBy::Damage),
    step("block-repaired", false, ComesBy::Damage),
];

const fn step(name: &'static str, in_brief: bool, comes_by: ComesBy) -> Step {
    Step {
        name,
        in_brief,
        comes_by,
    }
}

/// Nodes move, collect and scrub all the time.
pub(super) fn prepare(network: &mut Network) -> Result<()> {
    for node in &network.nodes {
        node.configure(|config| {
            *config = Config {
                absent_after_seconds: Some(2),
                replicate_every_seconds: Some(1),
                collect_every_seconds: Some(1),
                collect_rest: Some(1),
                keep_unanchored_seconds: Some(1),
                hold_seconds: Some(5),
                scrub_every_seconds: Some(1),
                scrub_bytes_per_second: Some(64 << 20),
                ..config.clone()
            };
        })?;
    }
    Ok(())
}

/// One after the other, under load, in one network. Whoever died starts again. In the end every record is whole.
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
    let mut ground = Ground::lay(&dir.join("storage"), faulty, prepare)?;
    ground.take_orders()?;
    let records = Records::put(&ground, rng)?;
    let load = ground.load(rng)?;
    let names = ground.hospitals();
    for step in steps {
        run.wait_for_progress(&load)?;
        let name = rng.choice(&names).context("there is no hospital")?;
        step.let_die(&mut ground, name, &records, rng)
            .with_context(|| format!("at `{}`", step.name))?;
        run.note(&format!("{name} dies: {}", step.name), load.acknowledged());
        run.wait_for_progress(&load)?;
        ground.start_again(name)?;
    }
    ground.end(run, load, &names, rng)?;
    until_all_is_well(&ground)?;
    let payloads = BTreeSet::from_iter(&records.payloads);
    run.passed(
        "records that moved and were repaired, whole",
        payloads.len(),
        || {
            let read = records.read(&ground)?;
            anyhow::ensure!(
                BTreeSet::from_iter(&read) == payloads,
                "others than were put"
            );
            Ok(())
        },
    )
}

impl Step {
    /// Tells the node to die at this step, and has it come there.
    fn let_die(
        &self,
        ground: &mut Ground,
        name: &str,
        records: &Records,
        rng: &mut Rng,
    ) -> Result<()> {
        if self.comes_by == ComesBy::LeftFiles {
            let leaves = step("rows-removed", false, ComesBy::Moves);
            leaves.let_die(ground, name, records, rng)?;
        }
        if self.comes_by == ComesBy::Damage {
            // No block is bad on two nodes at a time.
            until_all_is_well(ground)?;
        }
        fs::write(order(ground, name), self.name).context("name the step")?;
        if self.comes_by == ComesBy::LeftFiles {
            ground.network.process(name)?.start()?;
        }
        let others = ground.hospitals().into_iter().filter(|other| other != name);
        let others: Vec<String> = others.collect();
        let (began, mut round) = (Instant::now(), 0_usize);
        while began.elapsed() < PATIENCE {
            match self.comes_by {
                ComesBy::Moves if round.is_multiple_of(2) => records.move_to(ground, name)?,
                ComesBy::Moves => {
                    let other = rng.choice(&others).context("there is no other")?;
                    records.move_to(ground, other)?;
                }
                ComesBy::Damage => records.damage(ground, name, rng)?,
                ComesBy::LeftFiles => (),
            }
            round += 1;
            if dies(ground, name)? {
                return Ok(());
            }
        }
        anyhow::bail!("`{name}` does not come there")
    }
}

/// Records of large blocks. Those of one class are on one node, which changes; of the others there are two copies.
struct Records {
    payloads: Vec<Vec<u8>>,
    /// File names of blocks with two copies.
    blocks: BTreeSet<PathBuf>,
    /// The operators of two hospitals: a majority.
    operators: [Home; 2],
}

impl Records {
    fn put(ground: &Ground, rng: &mut Rng) -> Result<Self> {
        let operators = [ground.network.operator(0)?, ground.network.operator(1)?];
        let mut records = Self {
            payloads: Vec::new(),
            blocks: BTreeSet::new(),
            operators,
        };
        let gateway = ground.network.invite(0, "gateway")?;
        let did = gateway.run(["key", "show"])?.success()?.text("did")?;
        let enrol = ["device", "enrol", &did, "--role", "device"];
        ground.people.operator.run(enrol)?.success()?;
        records.move_to(ground, "hospital-a")?;
        for class in [FIXED, MOVED] {
            let folder = ground.dir.join(class);
            fs::create_dir_all(&folder).context("make a folder")?;
            for number in 0..RECORDS {
                let mut payload = vec![0; PAYLOAD_BYTES];
                rng.fill(&mut payload);
                fs::write(folder.join(number.to_string()), &payload).context("write a payload")?;
                records.payloads.push(payload);
            }
            let folder = folder.to_str().context("name the folder")?;
            let put = ["put", folder, "--class", class, "--custody"];
            let custody = ground.people.custody.as_str();
            gateway.run(put.into_iter().chain([custody]))?.success()?;
            if class == FIXED {
                records.blocks = files_of(ground)?;
            }
        }
        Ok(records)
    }

    /// Has the members decide that these records are on this node alone.
    fn move_to(&self, ground: &Ground, name: &str) -> Result<()> {
        let (rules, draft) = (ground.dir.join("rules.toml"), ground.dir.join("placement"));
        let text = format!(
            "[[rule]]\nclasses = [\"{MOVED}\"]\ncopies = 1\nonly = [\"{name}\"]\n[[rule]]\ncopies = 2\n"
        );
        fs::write(&rules, text).context("write the rules")?;
        if draft.exists() {
            fs::remove_file(&draft).context("remove the draft before")?;
        }
        let (rules, draft) = (rules.to_str(), draft.to_str());
        let (rules, draft) = (
            rules.context("name the rules")?,
            draft.context("name the draft")?,
        );
        let placement = |home: &Home, arguments: &[&str]| -> Result<()> {
            let words = ["admin", "placement"];
            home.run(words.iter().chain(arguments))?.success()?;
            Ok(())
        };
        let [first, second] = &self.operators;
        placement(first, &["draft", rules, "--output", draft])?;
        placement(second, &["approve", draft])?;
        placement(first, &["set", draft])
    }

    /// Flips a byte in a file of a block that another node has, too.
    fn damage(&self, ground: &mut Ground, name: &str, rng: &mut Rng) -> Result<()> {
        let blocks = Folder::new(ground.network.process(name)?.folder()).blocks();
        let there = self
            .blocks
            .iter()
            .map(|file| blocks.join("blocks").join(file));
        let there: Vec<PathBuf> = there.filter(|path| path.exists()).collect();
        let path = rng.choice(&there).context("the node has none of them")?;
        let mut bytes = fs::read(path).context("read a block")?;
        if let Some(byte) = bytes.get_mut(PAYLOAD_BYTES / 2) {
            *byte ^= 1;
        }
        fs::write(path, bytes).context("damage a block")
    }

    /// The payloads, as a clinician finds them.
    fn read(&self, ground: &Ground) -> Result<Vec<Vec<u8>>> {
        let mut payloads = Vec::new();
        for class in [FIXED, MOVED] {
            let folder = ground.dir.join(format!("read-{class}"));
            let into = folder.to_str().context("name the folder")?;
            let get = [
                "get",
                "--class",
                class,
                "--purpose",
                "TREAT",
                "--into",
                into,
            ];
            ground.people.clinician.run(get)?.success()?;
            for file in fs::read_dir(&folder).context("list what was read")? {
                let path = file?.path();
                if path.extension().is_none() {
                    payloads.push(fs::read(path).context("read a payload")?);
                }
            }
        }
        Ok(payloads)
    }
}

fn until_all_is_well(ground: &Ground) -> Result<()> {
    wait_for("all is well", || {
        let status = ground.people.operator.run(["status"])?;
        Ok((status.code == 0).then_some(()))
    })
}

/// The files of all blocks that two nodes have.
fn files_of(ground: &Ground) -> Result<BTreeSet<PathBuf>> {
    let (mut once, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for node in &ground.network.nodes {
        let blocks = Folder::new(node.folder()).blocks().join("blocks");
        for shard in fs::read_dir(&blocks).context("list the blocks")? {
            let shard = shard?.path();
            for file in fs::read_dir(&shard).context("list the blocks")? {
                let path = file?.path();
                let name = path.strip_prefix(&blocks)?.to_owned();
                if !once.insert(name.clone()) {
                    twice.insert(name);
                }
            }
        }
    }
    Ok(twice)
}

const FIXED: &str = "imaging";
const MOVED: &str = "document";
const RECORDS: usize = 6;
const PAYLOAD_BYTES: usize = 200_000;
const PATIENCE: Duration = Duration::from_secs(120);
