//! Frees the room of blocks that neither a record nor a promise needs, while the node serves.

use crate::{clock, fatal_store::FatalStore};
use anyhow::{Context, Result};
use medanchor_anchor::{Read, State};
use medanchor_dag::{Cid, Did, Effort, Marks};
use medanchor_raft::Replica;
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Marks every block of the records that this node said it holds, then removes what is neither marked, nor promised,
/// nor was put or looked for lately. It rests most of the time, so that nobody who reads notices it.
pub(crate) struct Collector {
    parts: CollectorParts,
    cycles: AtomicU64,
    ended_at_unix_ms: AtomicU64,
    /// Generations of what was put or looked for lately that have begun.
    generations: AtomicU64,
    /// How many had begun when the last cycle did.
    collected: AtomicU64,
    /// As soon as so many have begun a cycle is wanted.
    wanted: AtomicU64,
    /// What log time is to pass before the next generation begins; 0: nothing.
    promised: AtomicU64,
    waits_for: Mutex<Option<Cid>>,
}

/// What a collector needs.
pub(crate) struct CollectorParts {
    /// This node.
    pub(crate) node: Did,
    pub(crate) store: Arc<FatalStore>,
    pub(crate) replica: Arc<Replica>,
    /// From the end of a cycle to the beginning of the next.
    pub(crate) every: Duration,
    /// How many times as long as the processor worked on a step it rests.
    pub(crate) rest: u32,
    /// How long a block that is not part of an anchored record stays at least.
    pub(crate) keep_unanchored: Duration,
    /// Records that the operator knows to be lost: of these only what is known is kept.
    pub(crate) lost_records: BTreeSet<Cid>,
}

impl Collector {
    pub(crate) fn new(parts: CollectorParts) -> Self {
        Self {
            parts,
            cycles: AtomicU64::new(0),
            ended_at_unix_ms: AtomicU64::new(0),
            generations: AtomicU64::new(0),
            collected: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            waits_for: Mutex::default(),
        }
    }

    /// Cycles since the node started.
    pub(crate) fn cycles(&self) -> u64 {
        self.cycles.load(Ordering::Relaxed)
    }

    /// When the last of them ended; 0: none has.
    pub(crate) fn ended_at_unix_ms(&self) -> u64 {
        self.ended_at_unix_ms.load(Ordering::Relaxed)
    }

    /// How many generations of what was put or looked for lately have begun.
    pub(crate) fn generations(&self) -> u64 {
        self.generations.load(Ordering::Relaxed)
    }

    /// Whether everything is gone that no record needed when so many generations had begun: asks for a cycle as soon as
    /// nothing of that is recent any more.
    pub(crate) fn is_collected_since(&self, generations: u64) -> bool {
        let old = generations.saturating_add(2);
        self.wanted.fetch_max(old, Ordering::Relaxed);
        self.collected.load(Ordering::Relaxed) >= old
    }

    /// What log time is to pass, unix ms, before another generation begins; 0: it need not.
    pub(crate) fn promised(&self) -> u64 {
        self.promised.load(Ordering::Relaxed)
    }

    /// The record for which nothing is removed now, because what is below a block of it is not known.
    pub(crate) fn waits_for(&self) -> Option<Cid> {
        *self.lock()
    }

    /// Collects until `stop`; first the files that the process before has left without rows.
    pub(crate) async fn collect_task(self: Arc<Self>, stop: CancellationToken) {
        let collecting = async {
            let store = &self.parts.store;
            let mut aging = Aging::new(store, self.parts.keep_unanchored, Instant::now());
            let mut next = Instant::now() + self.parts.every;
            if let Err(error) = self.sweep().await {
                tracing::error!("the next cycle looks for left-over files again: {error:#}");
            }
            loop {
                sleep(self.parts.every.min(LOOK_EVERY)).await;
                if let Err(error) = self.collect(&mut aging, &mut next).await {
                    tracing::error!("nothing is collected now: {error:#}");
                }
            }
        };
        stop.run_until_cancelled(collecting).await;
    }

    async fn collect(self: &Arc<Self>, aging: &mut Aging, next: &mut Instant) -> Result<()> {
        let log_time = State::new(self.parts.replica.view()?.as_ref()).log_time()?;
        if aging.advance(&self.parts.store, log_time, Instant::now()) {
            self.generations.fetch_add(1, Ordering::Relaxed);
        }
        let promised = aging.promised.unwrap_or(0);
        self.promised.store(promised, Ordering::Relaxed);
        let (generations, wanted) = (self.generations(), self.wanted.load(Ordering::Relaxed));
        let is_wanted = generations >= wanted && self.collected.load(Ordering::Relaxed) < wanted;
        if aging.is_over && (is_wanted || Instant::now() >= *next) {
            let done = self.cycle().await;
            if done.is_ok() {
                self.collected.store(generations, Ordering::Relaxed);
            }
            *next = Instant::now() + self.parts.every;
            done?;
        }
        Ok(())
    }

    /// Looks at the whole store once.
    ///
    /// What is anchored while it runs was promised before, and what was promised was looked for lately, or log time
    /// has passed the promise and `apply` refuses it (see [`Aging`]).
    async fn cycle(self: &Arc<Self>) -> Result<()> {
        let figures = self.parts.store.figures().context("read the index")?;
        let blocks = figures.blocks.saturating_add(figures.missing);
        let marks = Arc::new(Marks::new(blocks, clock::unix_ms()));
        let mut after = None;
        while let Some(last) = self.mark(&marks, after).await? {
            after = Some(last);
        }
        *self.lock() = None;
        #[cfg(medanchor_fault)]
        medanchor_raft::fault_step("garbage-marked");
        let (mut after, mut freed) = (None, (0_u64, 0_u64));
        loop {
            let marks = Arc::clone(&marks);
            let step =
                move |this: &Self| Ok(this.parts.store.collect(after.as_ref(), BATCH, &marks)?);
            let collected = self.step(step).await.context("remove blocks")?;
            #[cfg(medanchor_fault)]
            if collected.blocks > 0 {
                medanchor_raft::fault_step("garbage-removed");
            }
            freed.0 += collected.blocks;
            freed.1 += collected.bytes;
            after = collected.last;
            if after.is_none() {
                break;
            }
        }
        self.sweep().await?;
        let (blocks, bytes) = freed;
        tracing::info!(blocks, bytes, "collected what nothing needs");
        self.cycles.fetch_add(1, Ordering::Relaxed);
        self.ended_at_unix_ms
            .store(clock::unix_ms(), Ordering::Relaxed);
        Ok(())
    }

    /// Removes files that no row stands for.
    async fn sweep(self: &Arc<Self>) -> Result<()> {
        for shard in 0..=u8::MAX {
            let sweep = move |this: &Self| Ok(this.parts.store.sweep_files(shard)?);
            self.step(sweep).await.context("remove left-over files")?;
        }
        Ok(())
    }

    /// Marks some more records; the last of them, or `None` at the end.
    async fn mark(self: &Arc<Self>, marks: &Arc<Marks>, after: Option<Cid>) -> Result<Option<Cid>> {
        let marks = Arc::clone(marks);
        let step = move |this: &Self| {
            let view = this.parts.replica.view()?;
            let entries = State::new(view.as_ref()).records(after.as_ref(), BATCH)?;
            drop(view);
            let store = this.parts.store.unnoticed();
            for entry in entries
                .iter()
                .filter(|e| e.holders.contains(&this.parts.node))
            {
                let (record, wrap) = (entry.anchored.record, entry.anchored.wrap);
                let mut is_known = true;
                for root in [record, wrap] {
                    is_known &= marks.mark(&store, &root).context("read a record")?;
                }
                if !is_known {
                    this.check_lost(record)?;
                }
            }
            Ok(entries.last().map(|entry| entry.anchored.record))
        };
        self.step(step).await
    }

    /// What is below a missing block would be taken for garbage: that is for the operator to allow.
    fn check_lost(&self, record: Cid) -> Result<()> {
        if self.parts.lost_records.contains(&record) {
            tracing::warn!(%record, "what only this lost record has is not kept");
            return Ok(());
        }
        *self.lock() = Some(record);
        anyhow::bail!(
            "record `{record}` is not whole here: it is repaired first, or listed as lost in `lost_records`"
        )
    }

    /// Does a part of a cycle, then rests.
    async fn step<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = Arc::clone(self);
        let step = move || {
            let effort = Effort::begin();
            let done = work(&this);
            (done, effort.rest(this.parts.rest))
        };
        let (done, rest) = spawn_blocking(step).await?;
        sleep(rest).await;
        done
    }

    fn lock(&self) -> MutexGuard<'_, Option<Cid>> {
        self.waits_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// When what was put or looked for is no longer recent. A generation of it is forgotten once it is old enough, nobody
/// relies on it any more, and log time has passed every promise that was given by then.
struct Aging {
    keep: Duration,
    began: Instant,
    /// Until when anything was promised when nobody relied on the last generation any more.
    promised: Option<u64>,
    /// Nothing is recent any more of what was when the node started, which nobody remembers.
    is_over: bool,
}

impl Aging {
    fn new(store: &FatalStore, keep: Duration, now: Instant) -> Self {
        Self {
            keep,
            began: now,
            promised: Some(store.promised()),
            is_over: false,
        }
    }

    /// Whether a generation has begun.
    fn advance(&mut self, store: &FatalStore, log_time: u64, now: Instant) -> bool {
        if self.promised.is_none() && store.is_last_generation_free() {
            self.promised = Some(store.promised());
        }
        let is_old = now.saturating_duration_since(self.began) >= self.keep;
        let has_passed = self.promised.is_some_and(|until| until < log_time);
        let begins = is_old && has_passed && store.begin_generation();
        if begins {
            *self = Self {
                began: now,
                promised: None,
                is_over: true,
                ..*self
            };
        }
        begins
    }
}

/// From the end of a cycle to the beginning of the next, without being told.
pub(crate) const EVERY: Duration = Duration::from_secs(6 * 3600);
/// How many times as long as it worked it rests, without being told: less than a hundredth of a thread's time is work.
pub(crate) const REST: u32 = 110;
/// How long a block stays that is not part of an anchored record, without being told.
pub(crate) const KEEP_UNANCHORED: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Records or blocks that are looked at together.
const BATCH: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::{Block, BlockStore, Codec, DiskStore};

    const KEEP: Duration = Duration::from_secs(60);

    struct Stage {
        _folder: tempfile::TempDir,
        store: FatalStore,
        aging: Aging,
        now: Instant,
    }

    impl Stage {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let disk = DiskStore::open(folder.path()).unwrap();
            let (store, _) = FatalStore::new(disk);
            let now = Instant::now();
            Self {
                aging: Aging::new(&store, KEEP, now),
                _folder: folder,
                store,
                now,
            }
        }

        fn put(&self, number: u8) {
            let block = Block::new(Codec::Raw, vec![number; 10]).unwrap();
            self.store.put(&[block]).unwrap();
        }

        /// Time passes, also in the log. How many blocks may go then.
        fn later(&mut self, by: Duration, log_time: u64) -> u64 {
            self.now += by;
            self.aging.advance(&self.store, log_time, self.now);
            if !self.aging.is_over {
                return 0;
            }
            let marks = Marks::new(1, 0);
            self.store.collect(None, 9, &marks).unwrap().blocks
        }
    }

    #[tokio::test]
    async fn block_goes_when_it_is_old_and_not_before() {
        let mut stage = Stage::new();
        stage.put(1);
        assert_eq!(stage.later(KEEP / 2, 1), 0);
        assert_eq!(stage.later(KEEP / 2, 1), 0, "it may be of now");
        stage.put(2);
        assert_eq!(stage.later(KEEP / 2, 1), 0);
        assert_eq!(stage.later(KEEP / 2, 1), 1);
        assert_eq!(stage.later(KEEP, 1), 1);
    }

    #[tokio::test]
    async fn nothing_goes_before_log_time_has_passed_the_promise() {
        let mut stage = Stage::new();
        let lease = stage.store.lease();
        stage.put(1);
        stage.store.promise(500).unwrap();
        drop(lease);
        assert_eq!(stage.later(KEEP, 1), 0);
        for log_time in [1, 499, 500] {
            assert_eq!(stage.later(2 * KEEP, log_time), 0, "{log_time}");
        }
        // Later promises are of other blocks.
        stage.store.promise(9000).unwrap();
        assert_eq!(stage.later(KEEP, 501), 1);
    }

    #[tokio::test]
    async fn nothing_goes_while_somebody_is_about_to_promise_it() {
        let mut stage = Stage::new();
        let lease = stage.store.lease();
        stage.put(1);
        for _ in 0..5 {
            assert_eq!(stage.later(KEEP, 1), 0);
        }
        stage.store.promise(500).unwrap();
        drop(lease);
        for log_time in [1, 500] {
            assert_eq!(stage.later(KEEP, log_time), 0, "{log_time}");
        }
        assert_eq!(stage.later(KEEP, 501), 1);
    }

    #[tokio::test]
    async fn promise_of_the_process_before_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let disk = DiskStore::open(folder.path()).unwrap();
        disk.promise(500).unwrap();
        let promised = {
            drop(disk);
            DiskStore::open(folder.path()).unwrap()
        };
        let (store, _) = FatalStore::new(promised);
        let now = Instant::now();
        let mut aging = Aging::new(&store, KEEP, now);
        aging.advance(&store, 500, now + 9 * KEEP);
        assert!(!aging.is_over);
        aging.advance(&store, store.promised() + 1, now + 9 * KEEP);
        assert!(aging.is_over);
    }
}
