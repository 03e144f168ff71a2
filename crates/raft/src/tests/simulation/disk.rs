use super::executor::{here, random};
use super::trace::{Fault, Trace};
use fastrand::Rng;
use redb::StorageBackend;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A disk in memory. What is written is in the operating system's cache until it is synced, sector by
/// sector. It can be slow or full, fail to sync, and lose its power at any step. Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    name: String,
    written: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that are written and not synced, with the order of their last writes.
    pending: BTreeMap<usize, u64>,
    writes: u64,
    plan: Option<Plan>,
    /// The most bytes that it has room for.
    room: Option<usize>,
    slow: bool,
    condition: Condition,
    trace: Trace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Condition {
    #[default]
    Works,
    /// The process that used it has ended: the cache is still there.
    Ended,
    /// A sync failed: only what is durable is there.
    Failed,
    /// So it is without power.
    Off,
}

/// What happens to the disk, how many of its steps from now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) after: u64,
    pub(crate) event: Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The next sync fails, and this is what reaches the disk of it.
    FailSync(Reached),
    /// The power goes, and this is what had reached the disk of what was not synced.
    PowerLoss(Reached),
    /// There is no more room.
    Full,
}

/// What is on the disk of what was written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    Nothing,
    Everything,
    /// What was written first.
    Prefix,
    /// Some sectors.
    Some,
}

impl Disk {
    pub(crate) fn new(name: String, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(State {
            name,
            trace,
            ..State::default()
        })))
    }

    pub(crate) fn plan(&self, plan: Plan) {
        self.lock().plan = Some(plan);
    }

    /// From now on syncs take seconds; or not any more.
    pub(crate) fn set_slow(&self, slow: bool) {
        self.lock().slow = slow;
    }

    /// Nothing is planned any more.
    pub(crate) fn calm(&self) {
        let mut state = self.lock();
        (state.plan, state.slow) = (None, false);
    }

    /// The power goes.
    pub(crate) fn lose_power(&self, reached: Reached) {
        self.lock().lose_power(reached);
    }

    pub(crate) fn has_lost_power(&self) -> bool {
        self.lock().condition == Condition::Off
    }

    /// Whether anything was done to it that a process must end for.
    pub(crate) fn is_damaged(&self) -> bool {
        let state = self.lock();
        state.condition != Condition::Works || state.room.is_some()
    }

    /// What the process that used it does from now on is without effect.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        if state.condition == Condition::Works {
            state.condition = Condition::Ended;
        }
    }

    /// The disk as another process finds it.
    pub(crate) fn after_end(&self) -> Self {
        let state = self.lock();
        let (written, pending) = match state.condition {
            Condition::Works | Condition::Ended => (&state.written, state.pending.clone()),
            Condition::Failed | Condition::Off => (&state.durable, BTreeMap::new()),
        };
        Self(Arc::new(Mutex::new(State {
            name: state.name.clone(),
            written: written.clone(),
            durable: state.durable.clone(),
            pending,
            writes: state.writes,
            trace: state.trace.clone(),
            ..State::default()
        })))
    }

    pub(crate) fn database(&self) -> Result<redb::Database, redb::DatabaseError> {
        redb::Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// One step of the disk: what was planned may happen now.
    fn step(&mut self, is_sync: bool) -> io::Result<()> {
        if self.condition != Condition::Works {
            return Err(io::Error::other("the disk is gone"));
        }
        let Some(plan) = &mut self.plan else {
            return Ok(());
        };
        plan.after = plan.after.saturating_sub(1);
        if plan.after > 0 {
            return Ok(());
        }
        match plan.event {
            Event::FailSync(_) if !is_sync => return Ok(()),
            Event::FailSync(reached) => {
                self.condition = Condition::Failed;
                self.reach(reached);
                self.fault(match reached {
                    Reached::Nothing => Fault::SyncFailed,
                    Reached::Everything => Fault::SyncFailedPersisted,
                    Reached::Prefix | Reached::Some => Fault::SyncFailedTorn,
                });
            }
            Event::PowerLoss(reached) => {
                self.lose_power(reached);
                here().kill(here().process());
            }
            Event::Full => {
                self.plan = None;
                self.room = Some(self.written.len());
                self.fault(Fault::DiskFull);
                return Ok(());
            }
        }
        // Whatever is asked of it now is answered with an error, too: nobody may go on.
        self.plan = None;
        Err(io::Error::other("the disk fails"))
    }

    fn lose_power(&mut self, reached: Reached) {
        if matches!(self.condition, Condition::Failed | Condition::Off) {
            self.condition = Condition::Off;
            return;
        }
        self.condition = Condition::Off;
        let lost = self.pending.len();
        self.reach(reached);
        self.fault(match reached {
            _ if lost == 0 => Fault::PowerLoss,
            Reached::Nothing => Fault::PowerLossUnsynced,
            Reached::Everything => Fault::PowerLossPersisted,
            Reached::Prefix | Reached::Some => Fault::PowerLossTorn,
        });
    }

    fn fault(&self, fault: Fault) {
        self.trace.fault(fault, &self.name);
    }

    /// Some of what was not synced is on the disk all the same.
    fn reach(&mut self, reached: Reached) {
        let mut sectors: Vec<(u64, usize)> = Vec::new();
        sectors.extend(self.pending.iter().map(|(sector, order)| (*order, *sector)));
        sectors.sort_unstable();
        let mut resized = true;
        random(|rng: &mut Rng| match reached {
            Reached::Nothing => {
                resized = false;
                sectors.clear();
            }
            Reached::Everything => (),
            Reached::Prefix => sectors.truncate(rng.usize(..=sectors.len())),
            Reached::Some => {
                resized = rng.bool();
                sectors.retain(|_| rng.bool());
            }
        });
        if resized {
            self.durable.resize(self.written.len(), 0);
        }
        for (_, sector) in sectors {
            self.persist(sector);
        }
        self.pending.clear();
    }

    fn persist(&mut self, sector: usize) {
        let from = sector * SECTOR_BYTES;
        let until = (from + SECTOR_BYTES)
            .min(self.written.len())
            .min(self.durable.len());
        if from < until {
            self.durable[from..until].copy_from_slice(&self.written[from..until]);
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let state = self.lock();
        let found = state.written.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).unwrap();
        let mut state = self.lock();
        state.step(false)?;
        if state.room.is_some_and(|room| room < len) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.written.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.lock();
        let delay = random(|rng| match state.slow {
            true => rng.u64(100_000..2_500_000),
            false => rng.u64(100..4_000),
        });
        DELAY.set(DELAY.get() + Duration::from_micros(delay));
        state.step(true)?;
        let len = state.written.len();
        state.durable.resize(len, 0);
        for sector in std::mem::take(&mut state.pending).into_keys() {
            state.persist(sector);
        }
        if state.slow {
            state.fault(Fault::SyncDelayed);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let until = from + data.len();
        let mut state = self.lock();
        state.step(false)?;
        if state.room.is_some() {
            // As on a file system that copies on write, what is there already takes room too.
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.written[from..until].copy_from_slice(data);
        state.writes += 1;
        let order = state.writes;
        for sector in from / SECTOR_BYTES..until.div_ceil(SECTOR_BYTES) {
            state.pending.insert(sector, order);
        }
        Ok(())
    }
}

/// How long the disk work that was done since this was asked last takes.
pub(crate) fn take_delay() -> Duration {
    DELAY.take()
}

thread_local! {
    static DELAY: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
const CACHE_BYTES: usize = 4 * 1024 * 1024;

impl Reached {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        match rng.u32(..4) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Prefix,
            _ => Self::Some,
        }
    }
}
