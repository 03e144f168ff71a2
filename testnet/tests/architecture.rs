//! The table of `docs/architecture.md` is what the manifests say.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn crates_depend_on_what_the_table_allows_and_nothing_else() {
    let metadata = metadata();
    let table = table();
    let mut listed: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    for package in metadata.workspace_packages() {
        let name = short_name(package);
        let allowed = table.get(name);
        let allowed = allowed.unwrap_or_else(|| panic!("`{name}` is not in the table"));
        listed.remove(name);
        if let Allowed::Crates(allowed) = allowed {
            let used = own_dependencies(package);
            let beyond: Vec<&String> = used.difference(allowed).collect();
            assert!(beyond.is_empty(), "`{name}` must not depend on {beyond:?}");
        }
    }
    assert!(listed.is_empty(), "crates that do not exist: {listed:?}");
}

#[test]
fn table_is_read_as_it_is_meant() {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let table = table();
    assert_eq!(table["envelope"], Allowed::Crates(BTreeSet::new()));
    assert_eq!(table["anchor"], Allowed::Crates(names(&["dag"])));
    let node = [
        "anchor", "api", "broker", "dag", "ipfs", "policy", "raft", "secrets",
    ];
    assert_eq!(table["node"], Allowed::Crates(names(&node)));
    assert_eq!(table["benches"], Allowed::Anything);
    assert_eq!(table.len(), 13);
}

#[test]
fn only_broker_and_cli_name_envelope() {
    let metadata = metadata();
    let users: BTreeSet<&str> = metadata
        .workspace_packages()
        .into_iter()
        .filter(|package| own_dependencies(package).contains("envelope"))
        .map(short_name)
        .filter(|name| *name != "benches")
        .collect();
    assert_eq!(users, BTreeSet::from(["broker", "cli"]));
}

#[test]
fn pure_crates_have_no_network_and_no_runtime_below_them() {
    let metadata = metadata();
    for name in ["envelope", "secrets", "dag", "anchor", "policy"] {
        let below = all_below(&metadata, name);
        assert!(below.len() > 5, "the graph of `{name}` is not read");
        let found: Vec<&String> = below.iter().filter(|name| is_network(name)).collect();
        assert!(found.is_empty(), "below `{name}`: {found:?}");
    }
    // The same walk finds them where they are.
    assert!(
        all_below(&metadata, "api")
            .iter()
            .any(|name| is_network(name))
    );
}

#[test]
fn consensus_and_swarm_libraries_stay_in_one_crate_each() {
    let metadata = metadata();
    let users = |library: &str| -> BTreeSet<&str> {
        let uses = |package: &&Package| {
            let mut dependencies = package.dependencies.iter();
            dependencies.any(|dependency| dependency.name.starts_with(library))
        };
        let packages = metadata.workspace_packages().into_iter();
        packages.filter(uses).map(short_name).collect()
    };
    assert_eq!(users("openraft"), BTreeSet::from(["raft"]));
    assert_eq!(users("libp2p"), BTreeSet::from(["ipfs"]));
}

#[test]
fn anchor_uses_dag_without_its_disk() {
    let metadata = metadata();
    let by_default = package(&metadata, "dag").features.get("default");
    let anchor = package(&metadata, "anchor");
    let mut dependencies = anchor.dependencies.iter();
    let on_dag = dependencies.find(|dependency| dependency.name == "medanchor-dag");
    let on_dag = on_dag.unwrap();
    let by_default = by_default.filter(|_| on_dag.uses_default_features);
    let mut features = on_dag
        .features
        .iter()
        .chain(by_default.into_iter().flatten());
    assert!(features.all(|feature| feature != "disk"));
}

#[test]
fn every_crate_is_unpublished_and_follows_the_shared_lints() {
    for package in metadata().workspace_packages() {
        let name = &package.name;
        assert_eq!(package.publish.as_deref(), Some(&[][..]), "`{name}`");
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let shared = manifest["lints"]["workspace"].as_bool();
        assert_eq!(shared, Some(true), "lints of `{name}`");
    }
}

/// What a crate may depend on, of our own crates.
#[derive(Debug, PartialEq, Eq)]
enum Allowed {
    /// These.
    Crates(BTreeSet<String>),
    /// Any.
    Anything,
}

/// The rows `| crate | responsibility | may depend on |` of the page.
fn table() -> BTreeMap<String, Allowed> {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<(String, &str)> = rows
        .filter_map(
            |row| match row.split('|').map(str::trim).collect::<Vec<_>>()[..] {
                ["", name, _, allowed, ""] if !name.contains('/') => {
                    Some((name.trim_matches('`').to_owned(), allowed))
                }
                _ => None,
            },
        )
        .collect();
    let all: BTreeSet<&str> = rows
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| root().join("crates").join(name).exists())
        .collect();
    let parse = |(name, text): &(String, &str)| (name.clone(), allowed(name, text, &all));
    rows.iter().map(parse).collect()
}

fn allowed(name: &str, text: &str, all: &BTreeSet<&str>) -> Allowed {
    let own = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
    if text == "anything" {
        return Allowed::Anything;
    }
    if let Some(but) = text.strip_prefix("all but ") {
        let but: BTreeSet<&str> = but.split(" and ").chain([name]).collect();
        return Allowed::Crates(own(all.difference(&but).copied().collect()));
    }
    let without_remarks = text.split(" (").next().unwrap_or_default();
    let names = without_remarks.split(", ").filter(|name| *name != "-");
    Allowed::Crates(own(names.collect()))
}

/// Those of our crates that a crate is built from; tests may use more.
fn own_dependencies(package: &Package) -> BTreeSet<String> {
    let normal = package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind == DependencyKind::Normal);
    normal
        .filter_map(|dependency| dependency.name.strip_prefix(PREFIX))
        .map(str::to_owned)
        .collect()
}

/// Names of everything that a crate is built from, as this workspace resolves it.
fn all_below(metadata: &Metadata, name: &str) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().unwrap();
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|n| (&n.id, n)).collect();
    let start = &package(metadata, name).id;
    let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
    while let Some(id) = open.pop() {
        for dependency in &nodes[id].deps {
            let mut kinds = dependency.dep_kinds.iter();
            let is_built_in = kinds.any(|kind| kind.kind == DependencyKind::Normal);
            if is_built_in && seen.insert(&dependency.pkg) {
                open.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter()
        .map(|id| metadata[id].name.to_string())
        .collect()
}

fn is_network(name: &str) -> bool {
    let exactly = [
        "axum", "h2", "hyper", "mio", "openraft", "rustls", "socket2", "tokio", "tonic",
    ];
    exactly.contains(&name)
        || ["hyper-", "libp2p", "tokio-"]
            .iter()
            .any(|p| name.starts_with(p))
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(["--locked", "--filter-platform", &host()].map(str::to_owned))
        .exec()
        .unwrap()
}

/// Only what is built here has been downloaded.
fn host() -> String {
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let said = String::from_utf8(rustc.stdout).unwrap();
    let mut lines = said.lines();
    lines
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap()
        .to_owned()
}

fn package<'m>(metadata: &'m Metadata, name: &str) -> &'m Package {
    let packages = metadata.workspace_packages();
    packages
        .into_iter()
        .find(|package| short_name(package) == name)
        .unwrap()
}

fn short_name(package: &Package) -> &str {
    package.name.strip_prefix(PREFIX).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

const PREFIX: &str = "medanchor-";
