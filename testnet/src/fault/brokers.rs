use super::{Ground, wait_for};
use crate::{Ran, run::Run};
use anyhow::{Context, Result};
use std::fs;

/// A broker that does not do as the network has agreed, and what comes of it.
pub(super) struct Cheat {
    /// As the faulty build knows it.
    pub(super) name: &'static str,
    pub(super) in_brief: bool,
    shown: fn(&mut Ground, &str, &str) -> Result<String>,
}

/// In the order in which they cheat.
pub(super) const CHEATS: [Cheat; 2] = [
    Cheat {
        name: "skip-log",
        in_brief: true,
        shown: key_without_leaf_is_refused,
    },
    Cheat {
        name: "permit",
        in_brief: true,
        shown: wrong_decision_is_noticed,
    },
];

impl Cheat {
    pub(super) fn tell(&self, run: &mut Run, ground: &mut Ground) -> Result<()> {
        let payload = ground.dir.join("payload");
        fs::write(&payload, self.name).context("write the payload")?;
        let custody = ground.people.custody.clone();
        let payload = payload.to_str().context("name the payload")?;
        let put = [
            "put",
            payload,
            "--custody",
            &custody,
            "--class",
            "telemetry",
        ];
        let record = ground.people.device.run(put)?.success()?.text("record")?;
        let name = ground.hospitals().into_iter().next().context("no node")?;
        ground.network.process(&name)?.stop()?;
        ground.start_faulty(&name, "MEDANCHOR_FAULT_BROKER", self.name)?;
        ground.network.wait_for(&name)?;
        let shown = (self.shown)(ground, &record, &name)?;
        run.note(&format!("{name} cheats: {}: {shown}", self.name), 0);
        ground.network.process(&name)?.stop()?;
        ground.start(&name)?;
        ground.network.wait_for(&name)?;
        let copy = ground.dir.join("copy");
        let _ = fs::remove_file(&copy);
        run.passed("the record is given when the broker is honest", 1, || {
            get(ground, &record, "TREAT")?.success()?;
            let text = fs::read_to_string(&copy).context("read what was given")?;
            anyhow::ensure!(text == self.name, "it is another one: `{text}`");
            Ok(())
        })
    }
}

/// I2: the client takes no key whose leaf it does not see, however good the key is.
fn key_without_leaf_is_refused(ground: &mut Ground, record: &str, _: &str) -> Result<String> {
    let refused = wait_for("the broker answers", || {
        let ran = get(ground, record, "TREAT")?;
        Ok((ran.code != UNAVAILABLE).then_some(ran))
    })?;
    anyhow::ensure!(
        refused.json["code"] == "not-verified",
        "it ended with {}: {}{}",
        refused.code,
        refused.json,
        refused.errors
    );
    anyhow::ensure!(
        !ground.dir.join("copy").exists(),
        "it was given all the same"
    );
    let list = ["log", "list", "--limit", "10000"];
    let log = ground.people.operator.run(list)?.success()?;
    let mut leaves = log.json["leaves"].as_array().into_iter().flatten();
    anyhow::ensure!(
        !leaves.any(|leaf| leaf["kind"] == "released"),
        "the broker had it recorded"
    );
    Ok("the client refused the key".to_owned())
}

/// I5: `apply` takes the release, as it never runs policies; every member's node decides it again.
fn wrong_decision_is_noticed(ground: &mut Ground, record: &str, cheat: &str) -> Result<String> {
    // No consent is for research, and no treatment is research.
    let given = wait_for("the broker answers", || {
        let ran = get(ground, record, "HRESCH")?;
        Ok((ran.code != UNAVAILABLE).then_some(ran))
    })?;
    let leaf = given.success()?.json["leaf_index"].clone();
    let leaf = leaf.as_u64().context("which leaf released it?")?;
    let named = format!("leaf {leaf}, `released`");
    for name in ground.hospitals() {
        if name == cheat {
            continue;
        }
        wait_for(&format!("`{name}` notices it"), || {
            let alarms = ground.alarms(&name)?;
            let mut alarms = alarms.iter().map(|(_, text)| text);
            let noticed =
                alarms.any(|text| text.contains("wrong-decision") && text.contains(&named));
            Ok(noticed.then_some(()))
        })?;
    }
    let explain = ["audit".to_owned(), "explain".to_owned(), leaf.to_string()];
    let explained = ground.people.operator.run(explain)?;
    anyhow::ensure!(
        explained.code == NOT_VERIFIED && explained.json["agreement"] == "differs",
        "the log explains it: {} {}",
        explained.code,
        explained.json
    );
    Ok("every other member's node raised an alarm".to_owned())
}

fn get(ground: &Ground, record: &str, purpose: &str) -> Result<Ran> {
    let copy = ground.dir.join("copy");
    let copy = copy.to_str().context("name the copy")?;
    let get = ["get", record, "--purpose", purpose];
    ground.people.clinician.run(get.iter().chain(&["-o", copy]))
}

/// Exit codes of `medanchor`: `docs/operations.md`.
const NOT_VERIFIED: i32 = 4;
const UNAVAILABLE: i32 = 5;
