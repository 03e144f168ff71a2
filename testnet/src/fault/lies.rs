use super::{Ground, leading, wait_for};
use crate::{Home, Ran, load::Load, run::Run};
use anyhow::{Context, Result};
use fastrand::Rng;
use medanchor_anchor::{Checkpoint, SignedNote};
use std::{fs, thread, time::Duration};

/// What a leader tells one follower, and what comes of it.
pub(super) struct Lie {
    /// As the faulty build knows it.
    pub(super) name: &'static str,
    pub(super) in_brief: bool,
    named: Named,
    /// The follower that is told it believes it: it has another log from then on.
    deceives: bool,
}

/// Where the liar is named.
#[derive(Clone, Copy)]
enum Named {
    /// On every honest node, with a proof that names it to anybody.
    Proved,
    /// By an alarm of the follower that it lies to. It could deny what it did not sign.
    Alarm(&'static str),
    /// In the log of every honest node, which refuses what it sends or says what is wrong with it.
    Logged(&'static str),
}

/// In the order in which they are told.
pub(super) const LIES: [Lie; 11] = [
    second_head("second-head", false),
    second_head("second-head-dropped", true),
    second_head("second-head-substituted", false),
    fork("fork", false),
    fork("fork-dropped", false),
    fork("fork-substituted", true),
    other_batch("other-batch", false),
    other_batch("other-batch-dropped", false),
    other_batch("other-batch-substituted", true),
    Lie {
        name: "ahead",
        in_brief: true,
        named: Named::Logged("s ahead of this node's clock"),
        deceives: false,
    },
    Lie {
        name: "back",
        in_brief: false,
        named: Named::Logged("s before this node's clock"),
        deceives: false,
    },
];

const fn second_head(name: &'static str, in_brief: bool) -> Lie {
    Lie {
        name,
        in_brief,
        named: Named::Proved,
        deceives: false,
    }
}

const fn fork(name: &'static str, in_brief: bool) -> Lie {
    Lie {
        name,
        in_brief,
        named: Named::Proved,
        deceives: true,
    }
}

const fn other_batch(name: &'static str, in_brief: bool) -> Lie {
    Lie {
        name,
        in_brief,
        named: Named::Alarm("not-signed"),
        deceives: false,
    }
}

impl Lie {
    pub(super) fn tell(&self, run: &mut Run, ground: &mut Ground, rng: &mut Rng) -> Result<()> {
        let liar = self.let_lie(ground)?;
        let honest: Vec<String> = ground
            .hospitals()
            .into_iter()
            .filter(|name| *name != liar)
            .collect();
        // It lies to the last of the others.
        let victim = honest.last().context("nobody to lie to")?.clone();
        let load = ground.load(rng)?;
        run.note(
            &format!("{liar} leads and lies: {}", self.name),
            load.acknowledged(),
        );
        self.see_it_told(ground, &liar)?;
        run.note("the lie is told", load.acknowledged());

        let namers = match self.named {
            Named::Alarm(_) => std::slice::from_ref(&victim),
            Named::Proved | Named::Logged(_) => honest.as_slice(),
        };
        for name in namers {
            let how = wait_for(&format!("`{name}` names the liar"), || {
                self.named_by(ground, name, &liar)
            })?;
            run.note(&format!("{name} names it: {how}"), load.acknowledged());
        }
        let stopped = match self.named {
            Named::Proved => stay_silent(run, ground, &honest)?,
            Named::Alarm(_) | Named::Logged(_) => Vec::new(),
        };

        // The operators agree to stop the liar, and it comes back with an honest program.
        ground.network.process(&liar)?.kill()?;
        if self.deceives {
            ground.network.process(&victim)?.stop()?;
        }
        ground.start(&liar)?;
        go_on(run, ground, &load)?;
        for (name, last) in &stopped {
            if !self.deceives || *name != victim {
                wait_for(&format!("`{name}` co-signs again"), || {
                    Ok((ground.last_cosigned(name)? != *last).then_some(()))
                })?;
            }
        }
        let told = load.stop(&ground.runtime)?;
        let kept = ground.hospitals().into_iter();
        let kept: Vec<String> = kept
            .filter(|name| !self.deceives || *name != victim)
            .collect();
        let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
        run.check(&ground.runtime, &ground.network, &kept, &told)
    }

    /// Starts the leader anew as one that lies.
    fn let_lie(&self, ground: &mut Ground) -> Result<String> {
        // Whoever has no log yet could not prove who lies to it from its first entry on.
        wait_for("every node has all of the log", || is_published(ground))?;
        let liar = ground.leader()?;
        ground.network.stop()?;
        ground.start_faulty(&liar, "MEDANCHOR_FAULT_LIE", self.name)?;
        for node in ground.network.processes().filter(|node| node.name != liar) {
            node.start()?;
        }
        lead(ground, &liar)?;
        Ok(liar)
    }

    /// Waits until the victim has answered to a lie. On a busy machine another node may be elected before anybody is
    /// lied to: then the liar must lead again.
    fn see_it_told(&self, ground: &mut Ground, liar: &str) -> Result<()> {
        wait_for("the lie is told", || {
            let log = fs::read_to_string(ground.network.process(liar)?.log())?;
            if log.contains(TOLD) {
                return Ok(Some(()));
            }
            if leading(ground)?.is_some_and(|leader| leader != liar) {
                lead(ground, liar)?;
            }
            Ok(None)
        })
    }

    /// How this node names the liar, if it does.
    fn named_by(&self, ground: &mut Ground, name: &str, liar: &str) -> Result<Option<String>> {
        let kind = match self.named {
            Named::Logged(words) => {
                let log = fs::read_to_string(ground.network.process(name)?.log())?;
                let line = log.lines().find(|line| line.contains(words));
                return Ok(line.map(str::to_owned));
            }
            Named::Alarm(kind) => kind,
            Named::Proved => "batch-conflict",
        };
        let alarms = ground.alarms(name)?;
        let Some((id, text)) = alarms.iter().find(|(id, _)| id.starts_with(kind)) else {
            return Ok(None);
        };
        anyhow::ensure!(
            text.contains(&format!("`{liar}`")),
            "it names another: {text}"
        );
        if let Named::Proved = self.named {
            let folder = ground.network.process(name)?.folder().to_owned();
            let evidence = folder.join("alarms").join(format!("{id}.evidence"));
            let policy = folder.join("policy.txt");
            // Somebody who knows nobody, with two files.
            let stranger = Home::new(ground.dir.join("stranger"), &ground.program);
            let arguments = ["verify".as_ref(), evidence.as_os_str(), "--policy".as_ref()];
            let arguments = arguments.into_iter().chain([policy.as_os_str()]);
            let verified = stranger.run(arguments)?;
            if verified.code != 0 {
                // It is completed when there is a receipt of who the liar is.
                return Ok(None);
            }
            let proved = verified.text("liar")?;
            anyhow::ensure!(proved == liar, "the proof names `{proved}`");
        }
        Ok(Some(id.clone()))
    }
}

/// Whoever has raised such an alarm co-signs nothing while it stands, however much waits for it. Gives what each has
/// co-signed last.
fn stay_silent(
    run: &mut Run,
    ground: &mut Ground,
    names: &[String],
) -> Result<Vec<(String, String)>> {
    let mut silent = Vec::new();
    // What was asked for before the alarm may be signed after it. Then the leader asks again and again.
    let silence = wait_for("nothing is co-signed", || {
        let before = std::mem::take(&mut silent);
        for name in names {
            silent.push((name.clone(), ground.last_cosigned(name)?));
        }
        thread::sleep(SILENT);
        let is_silent = before == silent && !before.is_empty();
        let covers_all = |note: &str| -> Result<bool> {
            let note = SignedNote::parse(note).context("parse what was co-signed")?;
            let checkpoint: Checkpoint = note.text().parse()?;
            Ok(checkpoint.size >= longest(ground)?)
        };
        for (_, note) in &silent {
            if covers_all(note)? {
                // All clients may be waiting for receipts by now.
                grow(ground)?;
                return Ok(None);
            }
        }
        Ok(is_silent.then_some(()))
    });
    run.passed("nodes co-sign nothing", names.len(), || silence)?;
    Ok(silent)
}

/// Has something recorded without waiting for a receipt of it.
fn grow(ground: &Ground) -> Result<()> {
    let newcomer = Home::new(ground.dir.join("newcomer"), &ground.program);
    let mut key = newcomer.run(["key", "show"])?;
    if key.code != 0 {
        key = newcomer.run(["key", "new", "--no-passphrase"])?.success()?;
    }
    let did = key.text("did")?;
    let enrol = ["person", "enrol", &did, "--role", "clinician"];
    let arguments = enrol.into_iter().chain(["--wait", "committed"]);
    ground.people.operator.run(arguments).map(drop)
}

/// `Some` once every node knows a published checkpoint of the whole log.
fn is_published(ground: &Ground) -> Result<Option<()>> {
    let status = ground.people.operator.run(["status"])?;
    let longest = longest_of(&status);
    let mut nodes = status.json["nodes"].as_array().into_iter().flatten();
    let all = nodes.all(|node| node["published_size"].as_u64() == Some(longest));
    Ok((longest > 0 && all).then_some(()))
}

/// Leaves of the longest log.
fn longest(ground: &Ground) -> Result<u64> {
    Ok(longest_of(&ground.people.operator.run(["status"])?))
}

fn longest_of(status: &Ran) -> u64 {
    let nodes = status.json["nodes"].as_array().into_iter().flatten();
    let sizes = nodes.filter_map(|node| node["tree_size"].as_u64());
    sizes.max().unwrap_or(0)
}

/// Sees to it that this node leads: whoever was elected instead of it is stopped until the next election.
fn lead(ground: &mut Ground, name: &str) -> Result<()> {
    for _ in 0..TRIES {
        let leader = wait_for("a node leads", || leading(ground))?;
        if leader == name {
            return Ok(());
        }
        ground.network.process(&leader)?.stop()?;
        wait_for("another node leads", || leading(ground))?;
        ground.network.process(&leader)?.start()?;
    }
    anyhow::bail!("`{name}` is not elected, again and again")
}

/// Acknowledges what comes, until the network does again what it should.
fn go_on(run: &Run, ground: &mut Ground, load: &Load) -> Result<()> {
    let enough = load.acknowledged() + ENOUGH;
    wait_for("the network goes on without lies", || {
        anyhow::ensure!(!load.has_failed(), "a client found something wrong");
        ground.acknowledge_all()?;
        thread::sleep(Duration::from_millis(200));
        Ok((load.acknowledged() >= enough).then_some(()))
    })?;
    run.wait_for_progress(load)
}

const TRIES: usize = 20;
/// What the faulty build says once it was answered.
const TOLD: &str = "a lie was told";
const ENOUGH: u64 = 20;
const SILENT: Duration = Duration::from_secs(3);
