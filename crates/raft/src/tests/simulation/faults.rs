use super::disk::{Disk, Event, Plan, Reached};
use super::executor::{here, random};
use super::network::Weather;
use super::runtime::sleep;
use super::trace::Fault;
use super::world::World;
use crate::NodeId;
use fastrand::Rng;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Does one thing after another to the world.
pub(crate) async fn inject(world: &World, until: Duration) {
    while here().now() < until {
        let fault = random(draw);
        one(world, fault);
        let pause = random(|rng| rng.u64(50..1_500));
        sleep(Duration::from_millis(pause)).await;
    }
}

/// Everything that was done to it ends. What has crashed starts again.
pub(crate) fn heal(world: &World) {
    world.trace.note(&"heal");
    world.network.heal();
    world.network.set_weather(Weather::default());
    for clock in world.clocks.values() {
        clock.store(0, Ordering::SeqCst);
    }
    for (_, node) in world.nodes() {
        node.machine.log.calm();
        node.machine.state.calm();
    }
}

#[derive(Clone, Copy, Debug)]
enum What {
    Weather,
    Calm,
    Partition,
    OneWay,
    IsolateLeader,
    Heal,
    Kill,
    PowerLoss,
    PowerLossEverywhere,
    PowerLossAtStep,
    FailSync,
    FillDisk,
    SlowDisk,
    Clock,
    ClocksRight,
}

fn draw(rng: &mut Rng) -> What {
    let all = [
        (What::Weather, 3),
        (What::Calm, 2),
        (What::Partition, 2),
        (What::OneWay, 3),
        (What::IsolateLeader, 3),
        (What::Heal, 5),
        (What::Kill, 3),
        (What::PowerLoss, 2),
        (What::PowerLossEverywhere, 1),
        (What::PowerLossAtStep, 6),
        (What::FailSync, 3),
        (What::FillDisk, 2),
        (What::SlowDisk, 3),
        (What::Clock, 2),
        (What::ClocksRight, 2),
    ];
    let total: u32 = all.iter().map(|(_, weight)| weight).sum();
    let mut at = rng.u32(..total);
    for (what, weight) in all {
        if at < weight {
            return what;
        }
        at -= weight;
    }
    What::Calm
}

fn one(world: &World, what: What) {
    let id = random(|rng| rng.u64(1..=world.size));
    let at = id.to_string();
    let fault = |fault| world.trace.fault(fault, &at);
    match what {
        What::Weather => {
            let weather = random(|rng| Weather {
                lost: rng.u32(..150),
                late: rng.u32(..200),
                doubled: rng.u32(..150),
            });
            world.network.set_weather(weather);
        }
        What::Calm => {
            world.network.set_weather(Weather::default());
            for (_, node) in world.nodes() {
                node.machine.log.set_slow(false);
                node.machine.state.set_slow(false);
            }
        }
        What::Partition => partition(world),
        What::OneWay => {
            let other = random(|rng| rng.u64(1..=world.size));
            if other != id {
                world
                    .trace
                    .fault(Fault::OneWayPartition, &format!("{id}>{other}"));
                world.network.cut([(id, other)]);
            }
        }
        What::IsolateLeader => {
            if let Some(leader) = world.leader() {
                world
                    .trace
                    .fault(Fault::LeaderIsolated, &leader.to_string());
                let others = (1..=world.size).filter(|other| *other != leader);
                world
                    .network
                    .cut(others.flat_map(|other| [(leader, other), (other, leader)]));
            }
        }
        What::Heal => {
            world.trace.note(&"whole network");
            world.network.heal();
        }
        What::Kill => world.kill(id),
        What::PowerLoss => world.cut_power(id, random(Reached::draw)),
        What::PowerLossEverywhere => {
            for id in 1..=world.size {
                world.cut_power(id, random(Reached::draw));
            }
        }
        What::PowerLossAtStep => plan(world, id, |rng| {
            (rng.u64(1..60), Event::PowerLoss(Reached::draw(rng)))
        }),
        What::FailSync => plan(world, id, |rng| {
            (rng.u64(1..30), Event::FailSync(Reached::draw(rng)))
        }),
        What::FillDisk => plan(world, id, |rng| (rng.u64(1..30), Event::Full)),
        What::SlowDisk => {
            if let Some(node) = world.node(id) {
                node.machine.log.set_slow(true);
                node.machine.state.set_slow(true);
            }
        }
        What::Clock => {
            let ahead = random(Rng::bool);
            let mut wrong = world.unreliable_clocks.lock().unwrap();
            // More wrong clocks than that, and there is no right time. One that is right again still counts: what it
            // stamped is in its log, and would find its majority among clocks that are wrong later.
            if wrong.contains(&id) || (wrong.len() as u64) < (world.size - 1) / 2 {
                wrong.insert(id);
                fault(if ahead {
                    Fault::ClockAhead
                } else {
                    Fault::ClockBehind
                });
                let by = if ahead { HOUR_MS } else { -HOUR_MS };
                world.clocks[&id].store(by, Ordering::SeqCst);
            }
        }
        What::ClocksRight => {
            world.trace.note(&"clocks right");
            for clock in world.clocks.values() {
                clock.store(0, Ordering::SeqCst);
            }
        }
    }
}

/// Some nodes see each other, and the others each other.
fn partition(world: &World) {
    let side = |_: NodeId| random(Rng::bool);
    let sides: Vec<(NodeId, bool)> = (1..=world.size).map(|id| (id, side(id))).collect();
    let mut cut = Vec::new();
    for (from, of_from) in &sides {
        for (to, of_to) in &sides {
            if of_from != of_to {
                cut.push((*from, *to));
            }
        }
    }
    if !cut.is_empty() {
        world.trace.fault(Fault::Partition, &format!("{sides:?}"));
        world.network.cut(cut);
    }
}

/// Something happens at a later step of one of a node's disks.
fn plan(world: &World, id: NodeId, draw: impl FnOnce(&mut Rng) -> (u64, Event)) {
    let Some(node) = world.node(id) else { return };
    let (after, event) = random(draw);
    let disk: &Disk = match random(Rng::bool) {
        true => &node.machine.log,
        false => &node.machine.state,
    };
    disk.plan(Plan { after, event });
}

const HOUR_MS: i64 = 60 * 60 * 1000;
