use super::executor::here;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Everything that happened in a simulation, in order. Clones are the same trace.
#[derive(Clone, Default)]
pub(crate) struct Trace(Arc<Mutex<Happened>>);

#[derive(Default)]
struct Happened {
    digest: Sha256,
    events: u64,
    faults: BTreeMap<Fault, u64>,
    checks: BTreeMap<&'static str, u64>,
    print: bool,
}

/// What was done to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    MessageLost,
    MessageDelayed,
    MessageDuplicated,
    MessageOvertaken,
    Partition,
    OneWayPartition,
    LeaderIsolated,
    Killed,
    PowerLoss,
    PowerLossUnsynced,
    PowerLossPersisted,
    PowerLossTorn,
    SyncDelayed,
    SyncFailed,
    SyncFailedPersisted,
    SyncFailedTorn,
    DiskFull,
    ClockAhead,
    ClockBehind,
    Lie,
}

impl Trace {
    /// A trace that is printed, too, when `print` says so.
    pub(crate) fn new(print: bool) -> Self {
        let trace = Self::default();
        trace.0.lock().unwrap().print = print;
        trace
    }

    /// Something happened.
    pub(crate) fn note(&self, event: &dyn fmt::Display) {
        let line = format!("{:>12?} {event}", here().now());
        let mut happened = self.0.lock().unwrap();
        happened.digest.update(line.as_bytes());
        happened.digest.update(b"\n");
        happened.events += 1;
        if happened.print {
            print(&line);
        }
    }

    /// A fault was injected at `place`.
    pub(crate) fn fault(&self, fault: Fault, place: &str) {
        self.note(&format_args!("FAULT {fault:?} {place}"));
        *self.0.lock().unwrap().faults.entry(fault).or_default() += 1;
    }

    /// Something was checked, or is worth knowing for who wonders what was.
    pub(crate) fn count(&self, what: &'static str) {
        *self.0.lock().unwrap().checks.entry(what).or_default() += 1;
    }

    /// What it comes down to.
    pub(crate) fn summary(&self) -> Summary {
        let happened = self.0.lock().unwrap();
        Summary {
            digest: happened.digest.clone().finalize().into(),
            events: happened.events,
            faults: happened.faults.clone(),
            checks: happened.checks.clone(),
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace(..)")
    }
}

/// What a simulation comes down to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) digest: [u8; 32],
    pub(crate) events: u64,
    pub(crate) faults: BTreeMap<Fault, u64>,
    pub(crate) checks: BTreeMap<&'static str, u64>,
}

impl Summary {
    /// What two runs came down to.
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        for (fault, times) in &other.faults {
            *self.faults.entry(*fault).or_default() += times;
        }
        for (what, times) in &other.checks {
            *self.checks.entry(what).or_default() += times;
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events; injected:", self.events)?;
        for (fault, times) in &self.faults {
            write!(f, " {fault:?} {times},")?;
        }
        write!(f, " checked:")?;
        for (what, times) in &self.checks {
            write!(f, " {times} {what},")?;
        }
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "the trace is asked for")]
fn print(line: &str) {
    println!("{line}");
}
