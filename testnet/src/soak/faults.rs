//! What goes wrong, drawn from the seed.

use super::{
    clocks::Clocks,
    links::{Links, Way},
};
use crate::Network;
use anyhow::{Context, Result};
use fastrand::Rng;
use std::{fmt, thread, time::Duration};

/// Something that goes wrong and is put right again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Processes are killed at once, as power loss would, and started again.
    Kill(Vec<String>),
    /// A process is asked to stop, and started again.
    Stop(String),
    /// A process does not run for a while, and does not know it.
    Pause(String),
    /// The leader does not run until another node leads, and for a while longer. Then it goes on, with what clients sent
    /// it meanwhile, and does not know that it was deposed.
    Depose(String),
    /// A node reaches no other and no other reaches it. Clients still do.
    Isolate(String, Way),
    /// One node does not reach another, which still reaches it.
    Cut(String, String, Way),
    /// A process's clock is so many seconds ahead.
    Clock(String, i64),
}

/// Draws faults: each kind strikes once before any strikes again.
pub(crate) struct Faults {
    kinds: Vec<Kind>,
    /// Of this round, in the order in which they come from the end.
    left: Vec<Kind>,
    drawn: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Kill,
    KillTwo,
    KillAll,
    Stop,
    Pause,
    Depose,
    Isolate(Way),
    Cut(Way),
    Clock(i64),
}

impl Faults {
    /// All kinds; those of clocks where they can be set.
    pub(crate) fn new(with_clocks: bool) -> Self {
        let kinds = KINDS.into_iter();
        let possible = kinds.filter(|kind| with_clocks || !matches!(kind, Kind::Clock(_)));
        Self {
            kinds: possible.collect(),
            left: Vec::new(),
            drawn: 0,
        }
    }

    /// The next one.
    pub(crate) fn draw(&mut self, rng: &mut Rng, names: &[String], leader: &str) -> Fault {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            rng.shuffle(&mut self.left);
        }
        let kind = self.left.pop().unwrap_or(Kind::Kill);
        self.drawn += 1;
        Fault::of(kind, rng, names, leader)
    }

    /// How many kinds were drawn, and how many there are.
    pub(crate) fn coverage(&self) -> (usize, usize) {
        (self.drawn.min(self.kinds.len()), self.kinds.len())
    }
}

/// What faults are done with.
pub(crate) struct Means<'a> {
    pub(crate) network: &'a mut Network,
    pub(crate) links: &'a Links,
    /// `None`: clocks cannot be set here.
    pub(crate) clocks: Option<&'a Clocks>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(names) => write!(f, "kill {}", names.join(", ")),
            Self::Stop(name) => write!(f, "stop {name}"),
            Self::Pause(name) => write!(f, "pause {name}"),
            Self::Depose(leader) => write!(f, "depose {leader}, stopped until another leads"),
            Self::Isolate(name, way) => write!(f, "isolate {name} ({way})"),
            Self::Cut(from, to, way) => write!(f, "cut {from} -> {to} ({way})"),
            Self::Clock(name, seconds) => write!(f, "clock of {name} {seconds:+} s"),
        }
    }
}

impl Fault {
    /// One of this kind. About every second one strikes the leader.
    fn of(kind: Kind, rng: &mut Rng, names: &[String], leader: &str) -> Self {
        let name = rng.choice(names).map_or(leader, String::as_str);
        let struck = if rng.bool() { leader } else { name }.to_owned();
        match kind {
            Kind::Kill => Self::Kill(vec![struck]),
            Kind::KillTwo => {
                let mut two = names.to_vec();
                rng.shuffle(&mut two);
                two.truncate(2);
                Self::Kill(two)
            }
            Kind::KillAll => Self::Kill(names.to_vec()),
            Kind::Stop => Self::Stop(struck),
            Kind::Pause => Self::Pause(struck),
            Kind::Depose => Self::Depose(leader.to_owned()),
            Kind::Isolate(way) => Self::Isolate(struck, way),
            Kind::Cut(way) => {
                let others: Vec<&String> = names.iter().filter(|name| **name != struck).collect();
                let to = rng.choice(others).cloned().unwrap_or_default();
                Self::Cut(struck, to, way)
            }
            Kind::Clock(seconds) => Self::Clock(struck, seconds),
        }
    }

    /// Lets it happen, waits, and puts it right.
    pub(crate) fn strike(&self, means: &mut Means<'_>, lasts: Duration) -> Result<()> {
        let Means {
            network,
            links,
            clocks,
        } = means;
        match self {
            Self::Kill(names) => {
                for name in names {
                    network.process(name)?.kill()?;
                }
                thread::sleep(lasts);
                for name in names {
                    network.process(name)?.start()?;
                }
            }
            Self::Stop(name) => {
                let status = network.process(name)?.stop()?.context("it had ended")?;
                anyhow::ensure!(status.success(), "{name} did not drain: {status}");
                thread::sleep(lasts);
                network.process(name)?.start()?;
            }
            Self::Pause(name) => {
                network.process(name)?.pause()?;
                thread::sleep(lasts);
                network.process(name)?.resume()?;
            }
            Self::Depose(leader) => {
                network.process(leader)?.pause()?;
                let deposed = network.wait_for_leader_besides(leader);
                if deposed.is_ok() {
                    thread::sleep(lasts);
                }
                network.process(leader)?.resume()?;
                deposed?;
            }
            Self::Isolate(name, way) => {
                links.set_around(name, *way);
                thread::sleep(lasts);
                links.open_all();
            }
            Self::Cut(from, to, way) => {
                links.set(from, to, *way);
                thread::sleep(lasts);
                links.open_all();
            }
            Self::Clock(name, seconds) => {
                if let Some(clocks) = clocks {
                    clocks.set(name, *seconds)?;
                    thread::sleep(lasts);
                    clocks.set(name, 0)?;
                }
            }
        }
        Ok(())
    }
}

const HOUR: i64 = 3600;
const KINDS: [Kind; 12] = [
    Kind::Kill,
    Kind::KillTwo,
    Kind::KillAll,
    Kind::Stop,
    Kind::Pause,
    Kind::Depose,
    Kind::Isolate(Way::Silent),
    Kind::Isolate(Way::Refused),
    Kind::Cut(Way::Silent),
    Kind::Cut(Way::Refused),
    Kind::Clock(HOUR),
    Kind::Clock(-HOUR),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_drawn_before_any_is_drawn_again() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let kind = |fault: &Fault| match fault {
            Fault::Kill(names) => format!("kill {}", names.len()),
            Fault::Stop(_) => "stop".to_owned(),
            Fault::Pause(_) => "pause".to_owned(),
            Fault::Depose(leader) => {
                assert_eq!(leader, "b");
                "depose".to_owned()
            }
            Fault::Isolate(_, way) => format!("isolate {way}"),
            Fault::Cut(from, to, way) => {
                assert_ne!(from, to);
                format!("cut {way}")
            }
            Fault::Clock(_, seconds) => format!("clock {seconds}"),
        };
        for (with_clocks, count) in [(true, KINDS.len()), (false, KINDS.len() - 2)] {
            let mut rng = Rng::with_seed(7);
            let mut faults = Faults::new(with_clocks);
            for _ in 0..3 {
                let round = (0..count).map(|_| kind(&faults.draw(&mut rng, &names, "b")));
                let round: std::collections::BTreeSet<String> = round.collect();
                assert_eq!(round.len(), count);
            }
            assert_eq!(faults.coverage(), (count, count));
        }
    }
}
