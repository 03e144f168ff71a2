//! The replicated log in a simulated world: replicas with real state, whose tasks, time, disks, network,
//! clocks and random numbers all follow from one seed. The same seed gives the same run.

mod clients;
mod disk;
mod executor;
mod faults;
// The end-to-end tests check their histories by the same.
#[expect(dead_code, reason = "others keep leaves in their histories, too")]
#[path = "../../../../../testnet/src/history.rs"]
mod history;
mod liar;
mod network;
pub(crate) mod runtime;
mod trace;
mod world;

use crate::{Alarm, NodeId, Replica};
use clients::{Clients, append_at};
use executor::{WORLD, here, random, simulate};
use runtime::sleep;
use std::any::Any;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;
use trace::{Summary, Trace};
use world::{World, dump, tree};

#[test]
fn replicas_agree_whatever_happens_to_them() {
    // Three replicas, five, and three with a liar.
    for seed in [0, 2, 7] {
        run(seed);
    }
}

#[test]
fn same_seed_gives_the_same_run() {
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first.digest, run(3).digest);
}

/// As many seeds as `MEDANCHOR_SIM_SEEDS` says, `from..until` or one.
#[test]
#[ignore = "takes as long as it is told to"]
fn simulate_many() {
    let seeds = std::env::var("MEDANCHOR_SIM_SEEDS").unwrap_or_else(|_| "0..100".to_owned());
    let (from, until) = match seeds.split_once("..") {
        Some((from, until)) => (from.parse().unwrap(), until.parse().unwrap()),
        None => (seeds.parse().unwrap(), seeds.parse::<u64>().unwrap() + 1),
    };
    let (mut total, mut failed) = (Summary::default(), Vec::new());
    for seed in from..until {
        match try_run(seed) {
            Ok(report) => {
                print(&format!(
                    "seed {seed}: trace {}, {report}",
                    hex(&report.digest)
                ));
                total.add(&report);
            }
            Err(_) => failed.push(seed),
        }
    }
    print(&format!(
        "seeds {from}..{until}, of which failed {failed:?}: {total}"
    ));
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
}

/// Runs the world of a seed.
fn run(seed: u64) -> Summary {
    try_run(seed).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs the world of a seed. On failure it says how to run it again.
fn try_run(seed: u64) -> Result<Summary, Box<dyn Any + Send>> {
    let trace = Trace::new(std::env::var_os("MEDANCHOR_SIM_TRACE").is_some());
    let result = simulate(seed, scenario(seed, trace));
    if result.is_err() {
        print(&format!(
            "seed {seed} failed. Run it again with its trace:\n  MEDANCHOR_SIM_SEEDS={seed} \
             MEDANCHOR_SIM_TRACE=1 cargo test -p medanchor-raft simulate_many -- --ignored --nocapture"
        ));
    }
    result
}

async fn scenario(seed: u64, trace: Trace) -> Summary {
    let size = if seed % 3 == 2 { 5 } else { 3 };
    let world = World::founded(size, trace).await;
    let clients = Arc::new(Clients::default());
    clients.begin(&world).await;
    let until = here().now() + FAULTS_FOR;
    for number in 0..CLIENTS {
        let client = Arc::clone(&clients).work(Arc::clone(&world), number, until);
        here().spawn_in(WORLD, client);
    }
    match seed % 8 {
        7 => lie(&world, &clients, until).await,
        _ => disturb(&world, &clients, until).await,
    }
}

/// Anything but lies: after it, everything is as if nothing had been.
async fn disturb(world: &Arc<World>, clients: &Arc<Clients>, until: Duration) -> Summary {
    faults::inject(world, until).await;
    faults::heal(world);
    for id in 1..=world.size {
        if let Err(error) = append_at(world, id, PATIENCE).await {
            panic!("no progress after healing: {error}");
        }
    }
    // Whoever still waits is told within a deadline.
    sleep(Duration::from_secs(10)).await;
    let first = agree(world, &(1..=world.size).collect::<Vec<_>>()).await;
    clients.check(&first);
    compare_heads(world).await;
    for (id, alarm) in world.alarms() {
        assert!(!accuses(&alarm), "node {id} accuses an honest one: {alarm}");
    }
    report(world, &first)
}

/// A leader that tells one of the others something else.
async fn lie(world: &Arc<World>, clients: &Arc<Clients>, until: Duration) -> Summary {
    let pause = random(|rng| rng.u64(500..5_000));
    sleep(Duration::from_millis(pause)).await;
    let liar = loop {
        match world.leader() {
            Some(leader) => break leader,
            None => sleep(Duration::from_millis(50)).await,
        }
    };
    let others: Vec<_> = (1..=world.size).filter(|id| *id != liar).collect();
    let victim = others[random(|rng| rng.usize(..others.len()))];
    let most_lies = random(|rng| rng.usize(1..4));
    world.lie(liar, victim, most_lies);
    sleep(until.saturating_sub(here().now())).await;
    sleep(Duration::from_secs(10)).await;
    compare_heads(world).await;

    let lies = world
        .trace
        .summary()
        .faults
        .contains_key(&trace::Fault::Lie);
    let alarms = world.alarms();
    for (id, alarm) in &alarms {
        if let Alarm::Conflict {
            node_id,
            heads,
            kind,
        } = alarm
        {
            assert_eq!(
                *node_id, liar,
                "node {id} has proof against an honest one: {alarm}"
            );
            assert_eq!(heads[0].conflict(&heads[1]), Some(*kind));
        }
        let about = alarm.node_id();
        let explained = about == Some(liar) || about == Some(victim);
        assert!(
            !accuses(alarm) || explained,
            "node {id} accuses an honest one: {alarm}"
        );
    }
    let named = |alarm: &Alarm| matches!(alarm, Alarm::Conflict { .. });
    assert_eq!(
        lies,
        alarms.iter().any(|(_, alarm)| named(alarm)),
        "a liar is not named"
    );
    if lies {
        world.trace.count("liars named");
    }
    let honest: Vec<_> = (1..=world.size).filter(|id| *id != victim).collect();
    let first = agree(world, &honest).await;
    clients.check(&first);
    report(world, &first)
}

/// Checks that these replicas hold the same rows, and that what any replica ever showed is a prefix. Gives
/// one of them.
async fn agree(world: &Arc<World>, ids: &[NodeId]) -> Replica {
    for id in ids {
        let (size, root) = {
            let replica = world.replica(*id).expect("it runs");
            tree(&replica)
        };
        world.note_root(*id, size, root);
    }
    let mut replicas = Vec::new();
    let deadline = here().now() + PATIENCE;
    // They have the same entries before long: nothing is written any more.
    loop {
        replicas.clear();
        replicas.extend(ids.iter().filter_map(|id| world.replica(*id)));
        let applied: Vec<_> = replicas
            .iter()
            .map(|replica| replica.status().applied)
            .collect();
        if replicas.len() == ids.len() && applied.iter().all(|one| *one == applied[0]) {
            break;
        }
        assert!(
            here().now() < deadline,
            "replicas do not become equal: {applied:?}"
        );
        sleep(Duration::from_millis(100)).await;
    }
    let expected = dump(&replicas[0]);
    for (id, replica) in ids.iter().zip(&replicas) {
        for (left, right) in expected.iter().zip(dump(replica)) {
            assert_eq!(*left, right, "node {id} has other rows");
        }
    }
    let first = replicas.swap_remove(0);
    let view = first.state().view();
    for (size, root) in world.roots() {
        let found = medanchor_anchor::State::new(&view).root_at(size).unwrap();
        assert_eq!(found, root, "the tree of {size} leaves has changed");
    }
    drop(view);
    first
}

/// Every node compares all heads with everybody's.
async fn compare_heads(world: &World) {
    for id in 1..=world.size {
        let compared = world.ask(id, async move |replica| {
            let mut comparison = replica.comparison();
            comparison.start_over();
            comparison.compare().await
        });
        if let Some(Err(error)) = compared.await {
            panic!("node {id} cannot compare heads: {error}");
        }
    }
}

/// Whether an alarm says that a node lies.
fn accuses(alarm: &Alarm) -> bool {
    matches!(
        alarm,
        Alarm::Conflict { .. } | Alarm::OtherTree { .. } | Alarm::NotSigned { .. }
    )
}

fn report(world: &World, replica: &Replica) -> Summary {
    for (_, node) in world.nodes() {
        node.replica
            .iter()
            .for_each(|replica| world.note_purged(replica));
    }
    let (leaves, root) = tree(replica);
    world
        .trace
        .note(&format_args!("{leaves} leaves, root {root}"));
    world.trace.summary()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(clippy::print_stdout, reason = "whoever runs many wants to see them")]
fn print(line: &str) {
    println!("{line}");
}

const CLIENTS: u64 = 3;
const FAULTS_FOR: Duration = Duration::from_secs(15);
/// How long the network may take until all is well again.
const PATIENCE: Duration = Duration::from_secs(60);
