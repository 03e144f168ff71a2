use super::{Ground, wait_for};
use crate::run::Run;
use anyhow::Result;
use fastrand::Rng;
use std::{fs, os::unix::process::ExitStatusExt, process::ExitStatus};

/// What a node's disk does, or somebody to it.
pub(super) struct Disk {
    pub(super) name: &'static str,
    pub(super) in_brief: bool,
    fault: Fault,
    ends: Ends,
}

enum Fault {
    /// Of this database, a sync.
    Sync(&'static str, &'static str),
    /// A row of this table of the state is another one.
    Rewrite(&'static str),
}

/// What the node makes of it.
enum Ends {
    /// It goes on.
    Not,
    /// It stops with exit code 74, or does not start, and says this.
    Stops(&'static str),
    /// As at a power failure: it had no say in it.
    Dies,
}

/// In the order in which they strike.
pub(super) const DISKS: [Disk; 14] = [
    sync(
        "log: power fails within a sync",
        true,
        "raft.redb",
        "torn",
        Ends::Dies,
    ),
    sync(
        "log: power fails before a sync",
        false,
        "raft.redb",
        "before",
        Ends::Dies,
    ),
    sync(
        "log: power fails after a sync",
        false,
        "raft.redb",
        "after",
        Ends::Dies,
    ),
    sync(
        "log: sync fails, nothing is kept",
        true,
        "raft.redb",
        "lost",
        FAILS,
    ),
    sync(
        "log: sync fails, all is kept",
        false,
        "raft.redb",
        "kept",
        FAILS,
    ),
    sync("log: syncs are slow", true, "raft.redb", "slow", Ends::Not),
    sync(
        "state: power fails within a sync",
        false,
        "state.redb",
        "torn",
        Ends::Dies,
    ),
    sync(
        "state: power fails before a sync",
        true,
        "state.redb",
        "before",
        Ends::Dies,
    ),
    sync(
        "state: power fails after a sync",
        true,
        "state.redb",
        "after",
        Ends::Dies,
    ),
    sync(
        "state: sync fails, nothing is kept",
        false,
        "state.redb",
        "lost",
        FAILS,
    ),
    sync(
        "state: sync fails, all is kept",
        true,
        "state.redb",
        "kept",
        FAILS,
    ),
    rewrite("a leaf is rewritten", true, "leaves-1", "leaf"),
    rewrite(
        "a node of the tree is rewritten",
        false,
        "nodes-1",
        "damaged",
    ),
    rewrite(
        "a statement is rewritten",
        false,
        "openings-1",
        "opening of leaf",
    ),
];

const FAILS: Ends = Ends::Stops("the disk fails");

const fn sync(
    name: &'static str,
    in_brief: bool,
    file: &'static str,
    fault: &'static str,
    ends: Ends,
) -> Disk {
    Disk {
        name,
        in_brief,
        fault: Fault::Sync(file, fault),
        ends,
    }
}

const fn rewrite(
    name: &'static str,
    in_brief: bool,
    table: &'static str,
    says: &'static str,
) -> Disk {
    Disk {
        name,
        in_brief,
        fault: Fault::Rewrite(table),
        ends: Ends::Stops(says),
    }
}

/// One after the other, each on any node, under load.
pub(super) fn strike(
    run: &mut Run,
    ground: &mut Ground,
    disks: &[&Disk],
    rng: &mut Rng,
) -> Result<()> {
    let load = ground.load(rng)?;
    for disk in disks {
        run.wait_for_progress(&load)?;
        let names = ground.hospitals();
        let name = rng.choice(&names).cloned().unwrap_or_default();
        let (variable, value) = disk.draw(rng);
        run.note(
            &format!("{name}: {} ({value})", disk.name),
            load.acknowledged(),
        );
        ground.network.process(&name)?.kill()?;
        let said_before = fs::read_to_string(ground.network.process(&name)?.log())?.len();
        ground.start_faulty(&name, variable, &value)?;
        match disk.ends {
            Ends::Not => {
                run.wait_for_progress(&load)?;
                ground.network.process(&name)?.kill()?;
            }
            Ends::Dies => {
                let ended = ended(ground, &name)?;
                anyhow::ensure!(ended.signal().is_some(), "it ended with {ended}");
            }
            Ends::Stops(says) => {
                let ended = ended(ground, &name)?;
                let log = fs::read_to_string(ground.network.process(&name)?.log())?;
                let said = log.get(said_before..).unwrap_or_default();
                let last = said.lines().last().unwrap_or_default();
                let code = match said.contains("serving") {
                    true => DISK_FAILED,
                    false => NOT_STARTED,
                };
                anyhow::ensure!(
                    ended.code() == Some(code),
                    "it ended with {ended}, not with {code}: {last}"
                );
                anyhow::ensure!(said.contains(says), "it does not say why: {last}");
            }
        }
        if let Fault::Rewrite(_) = disk.fault {
            // The others go on without it.
            run.wait_for_progress(&load)?;
            ground.medanchord(&name, &["rebuild-state"])?;
        }
        ground.start(&name)?;
        wait_for("the node is back", || {
            ground.acknowledge_all()?;
            Ok(ground.network.wait_for(&name).ok())
        })?;
    }
    run.wait_for_progress(&load)?;
    let told = load.stop(&ground.runtime)?;
    let names = ground.hospitals();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    run.check(&ground.runtime, &ground.network, &names, &told)
}

impl Disk {
    /// What the faulty build is told.
    fn draw(&self, rng: &mut Rng) -> (&'static str, String) {
        match self.fault {
            Fault::Sync(file, fault) => {
                let (sync, seed) = (rng.u64(1..=LATEST_SYNC), rng.u32(..));
                (
                    "MEDANCHOR_FAULT_DISK",
                    format!("{file}:{fault}:{sync}:{seed}"),
                )
            }
            Fault::Rewrite(table) => {
                let row = rng.u64(..FEWEST_ROWS);
                ("MEDANCHOR_FAULT_REWRITE", format!("{table}:{row}"))
            }
        }
    }
}

fn ended(ground: &mut Ground, name: &str) -> Result<ExitStatus> {
    wait_for("the node ends", || ground.network.process(name)?.ended())
}

/// Some syncs come before the node serves, some while it does.
const LATEST_SYNC: u64 = 20;
/// Rows that each table has by then.
const FEWEST_ROWS: u64 = 5;
/// Exit code of a node that no longer knows what is durable.
const DISK_FAILED: i32 = 74;
/// Of one that cannot start.
const NOT_STARTED: i32 = 1;
