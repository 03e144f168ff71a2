use crate::{
    author::Author,
    folder::{manifest, put_folder},
    stage::{Stage, configure, done, until},
};
use medanchor_dag::{Cid, RawBlocks};
use medanchor_node::Config;
use medanchor_testnet::{Home, Network, NodeProcess, Ran};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Asks the nodes who has what.
pub(crate) struct Copies {
    author: Author,
    /// The nodes' short names, by did:key.
    names: BTreeMap<String, String>,
}

impl Copies {
    /// Waits until all nodes answer.
    pub(crate) fn of(stage: &Stage) -> Self {
        let mut nodes = Vec::new();
        until("all nodes answer", || {
            nodes = stage.status().json["nodes"].as_array().unwrap().clone();
            nodes.iter().all(|node| node["did"].is_string())
        });
        let text = |node: &Value, field: &str| node[field].as_str().unwrap().to_owned();
        let names = nodes
            .iter()
            .map(|node| (text(node, "did"), text(node, "node")));
        Self {
            author: Author::of(&stage.hospital),
            names: names.collect(),
        }
    }

    /// The nodes that answer for a record, as the newest log says; `None` when no node can say.
    pub(crate) fn holders(&self, record: &str) -> Option<BTreeSet<&str>> {
        let cid: Cid = record.parse().unwrap();
        let record = self
            .author
            .block_on(self.author.session.client.record(&cid));
        let holders = record.ok()?.holders;
        let names = holders.iter().map(|did| &self.names[&did.to_string()]);
        Some(names.map(String::as_str).collect())
    }

    /// Those of `nodes` that answer for a record and have just read all of it.
    pub(crate) fn whole<'n>(&self, record: &str, nodes: &BTreeSet<&'n str>) -> BTreeSet<&'n str> {
        let has = |node: &&str| {
            let check = self.check(node, record, RawBlocks::Read);
            check.is_some_and(|(holder, missing)| holder && missing == 0)
        };
        nodes.iter().copied().filter(has).collect()
    }

    /// So many nodes at least answer for the record, and each of them that can be asked has it. How many they are, if
    /// the log can be read now.
    pub(crate) fn assert_held(&self, record: &str, copies: usize) -> Option<usize> {
        let holders = self.holders(record)?;
        assert!(holders.len() >= copies, "{record} is held by {holders:?}");
        for node in &holders {
            let check = self.check(node, record, RawBlocks::Look);
            if check.is_none_or(|(_, missing)| missing == 0) {
                continue;
            }
            // It may have given it back since, and then only.
            until("the log says who holds it", || {
                self.holders(record).is_some_and(|holders| {
                    assert!(!holders.contains(node), "{node} answers for {record}");
                    true
                })
            });
        }
        Some(holders.len())
    }

    /// Whether a node answers for a record as far as it knows, and how many blocks it lacks; `None` when it does not say.
    fn check(&self, node: &str, record: &str, raw: RawBlocks) -> Option<(bool, u64)> {
        let client = self.author.session.client.only(node).unwrap();
        let cid: Cid = record.parse().unwrap();
        let check = self.author.block_on(client.check_record(&cid, raw)).ok()?;
        Some((check.holder, check.missing))
    }
}

/// Nodes are missed soon, and what nothing needs is freed soon.
pub(crate) fn impatient(network: &Network) {
    configure(network, |config| {
        *config = Config {
            absent_after_seconds: Some(2),
            replicate_every_seconds: Some(1),
            collect_every_seconds: Some(1),
            collect_rest: Some(1),
            keep_unanchored_seconds: Some(1),
            hold_seconds: Some(5),
            ..config.clone()
        };
    });
}

/// A node moves no more than this to have records where they belong.
pub(crate) fn slow(node: &NodeProcess, bytes_per_second: u64) {
    node.configure(|config| config.replicate_bytes_per_second = Some(bytes_per_second))
        .unwrap();
}

/// Has the rules signed by as many members as needed, and submits them.
pub(crate) fn place(stage: &Stage, members: usize, rules: &str) {
    let rules = stage.file("rules.toml", rules.as_bytes());
    let draft = stage.path("placement");
    let _ = fs::remove_file(&draft);
    let run = |home: &Home, arguments: &[&Path]| -> Ran {
        let words = ["admin", "placement"].map(Path::new);
        done(home.run(words.iter().chain(arguments)))
    };
    let (rules, output) = (rules.as_path(), draft.as_path());
    let drafting = [Path::new("draft"), rules, Path::new("--output"), output];
    run(&stage.hospital, &drafting);
    for number in 1..members {
        let operator = stage.network.operator(number).unwrap();
        run(&operator, &[Path::new("approve"), output]);
    }
    run(&stage.hospital, &[Path::new("set"), output]);
}

/// Puts many small records: more than a node fetches together. Each with its payload.
pub(crate) fn put_many(stage: &Stage, count: usize) -> BTreeMap<String, Vec<u8>> {
    let device = stage.device("gateway");
    let folder = stage.path("many");
    fs::create_dir(&folder).unwrap();
    let payload = |number: usize| format!("{number:>2000}").into_bytes();
    for number in 0..count {
        fs::write(folder.join(number.to_string()), payload(number)).unwrap();
    }
    let manifest = manifest(&done(Ok(put_folder(stage, &device, &folder))));
    let records = (0..count).map(|number| {
        let path = fs::canonicalize(folder.join(number.to_string())).unwrap();
        let line = &manifest[path.to_str().unwrap()];
        (line["record"].as_str().unwrap().to_owned(), payload(number))
    });
    records.collect()
}

/// What a node says of itself, null while it does not answer.
pub(crate) fn row(stage: &Stage, node: &str) -> Value {
    let status = stage.hospital.run(["status"]).unwrap();
    let mut rows = status.json["nodes"].as_array().into_iter().flatten();
    let row = rows.find(|row| row["node"] == node);
    row.cloned().unwrap_or_default()
}

/// A figure of what a node knows of records and their copies, 0 while it does not answer.
pub(crate) fn replication(stage: &Stage, node: &str, figure: &str) -> u64 {
    let row = row(stage, node);
    row["replication"][figure].as_u64().unwrap_or_default()
}

/// Kills a node when it holds some of what it is to fetch and not yet all, and starts it again: it goes on from there.
pub(crate) fn kill_while_it_fetches(stage: &mut Stage, node: &str) {
    let fetches = |stage: &Stage| {
        let row = row(stage, node);
        let found = &row["replication"];
        let figure = |figure: &str| found[figure].as_u64().unwrap_or_default();
        let is_known = found["looked_at"].is_string();
        is_known.then(|| (figure("fetched"), figure("to_fetch")))
    };
    let mut before = (0, 0);
    until("it is in the middle of fetching", || {
        before = fetches(stage).unwrap_or_default();
        before.0 > 0 && before.1 > 0
    });
    let process = stage.network.process(node).unwrap();
    process.kill().unwrap();
    process.start().unwrap();
    stage.network.wait_for(node).unwrap();
    // It may have to miss others first, in whose place it fetches.
    let mut after = (0, 0);
    until("it goes on with what is left", || {
        after = fetches(stage).unwrap_or_default();
        after != (0, 0)
    });
    let [all, left] = [before, after].map(|(fetched, to_fetch)| fetched + to_fetch);
    assert!(left < all, "{left} of {all} were left");
}
