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
    /// A node reaches no other and no other reaches it. Clients still do.
    Isolate(String, Way),
    /// One node does not reach another, which still reaches it.
    Cut(String, String, Way),
    /// A process's clock is so many seconds ahead.
    Clock(String, i64),
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
            Self::Isolate(name, way) => write!(f, "isolate {name} ({way})"),
            Self::Cut(from, to, way) => write!(f, "cut {from} -> {to} ({way})"),
            Self::Clock(name, seconds) => write!(f, "clock of {name} {seconds:+} s"),
        }
    }
}

impl Fault {
    /// The next one. Every second one strikes the leader.
    pub(crate) fn draw(rng: &mut Rng, names: &[String], leader: &str) -> Self {
        let any = |rng: &mut Rng| {
            let name = rng.choice(names).map_or(leader, String::as_str);
            if rng.bool() { leader } else { name }.to_owned()
        };
        let way = |rng: &mut Rng| {
            if rng.bool() {
                Way::Silent
            } else {
                Way::Refused
            }
        };
        let struck = any(rng);
        match rng.u8(0..14) {
            0..3 => Self::Kill(vec![struck]),
            3 => {
                let mut two = names.to_vec();
                rng.shuffle(&mut two);
                two.truncate(2);
                Self::Kill(two)
            }
            4 => Self::Kill(names.to_vec()),
            5 => Self::Stop(struck),
            6..8 => Self::Pause(struck),
            8..11 => Self::Isolate(struck, way(rng)),
            11..13 => Self::Clock(struck, if rng.bool() { HOUR } else { -HOUR }),
            _ => {
                let others: Vec<&String> = names.iter().filter(|name| **name != struck).collect();
                let to = rng.choice(others).cloned().unwrap_or_default();
                Self::Cut(struck, to, way(rng))
            }
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
