//! Reads every block again and again, and has those repaired that are bad or missing (I7).

use crate::{clock, fatal_store::FatalStore};
use anyhow::{Context, Result};
use medanchor_anchor::{Read, State};
use medanchor_dag::{
    BlockSource, BlockStore, Cid, Did, RawBlocks, ScrubProgress, ScrubStep, SourceError,
    StoreError, WalkError, walk,
};
use medanchor_ipfs::Peer;
use medanchor_raft::Replica;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Goes over all blocks of this node at a set rate, one at a time. A pass reads every block that the store knows,
/// then looks for every block of the records that this node said it holds.
pub(crate) struct Scrubber {
    parts: ScrubberParts,
    progress: Mutex<ScrubProgress>,
}

/// What a scrubber needs.
pub(crate) struct ScrubberParts {
    /// This node.
    pub(crate) node: Did,
    pub(crate) store: Arc<FatalStore>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) bytes_per_second: u64,
    /// From the end of a pass to the beginning of the next.
    pub(crate) every: Duration,
}

/// A part of a pass, done.
struct Part {
    /// The last that was looked at.
    last: Cid,
    blocks: u64,
    bytes: u64,
    /// What it counts as: small blocks cost more than their bytes.
    cost: u64,
    /// Blocks that should be here.
    missing: Vec<Cid>,
}

impl Scrubber {
    pub(crate) fn new(parts: ScrubberParts) -> Result<Self> {
        let progress = parts.store.scrub_progress();
        Ok(Self {
            progress: Mutex::new(progress.context("read how far the scrub has come")?),
            parts,
        })
    }

    /// How far it has come.
    pub(crate) fn progress(&self) -> ScrubProgress {
        self.lock().clone()
    }

    /// Scrubs until `stop`.
    pub(crate) async fn scrub_task(self: Arc<Self>, stop: CancellationToken) {
        if self.parts.bytes_per_second == 0 {
            return;
        }
        let scrubbing = async {
            loop {
                if let Err(error) = self.pass().await {
                    tracing::error!("the scrub pauses: {error:#}");
                    sleep(RETRY_AFTER).await;
                }
            }
        };
        stop.run_until_cancelled(scrubbing).await;
        if let Err(error) = self.save().await {
            tracing::warn!("the next start scrubs some blocks again: {error:#}");
        }
    }

    /// Repairs what is found bad at once, and what nobody could give from time to time, until `stop`.
    pub(crate) async fn repair_task(
        self: Arc<Self>,
        mut found: mpsc::Receiver<Cid>,
        stop: CancellationToken,
    ) {
        let every = self.parts.every.min(RETRY_AFTER);
        let repairing = async {
            let mut again_at = Instant::now();
            loop {
                tokio::select! {
                    Some(cid) = found.recv() => {
                        self.repair(&cid).await;
                    }
                    () = sleep_until(again_at) => {
                        if let Err(error) = self.repair_all().await {
                            tracing::error!("bad blocks cannot be repaired: {error:#}");
                        }
                        again_at = Instant::now() + every;
                    }
                }
            }
        };
        stop.run_until_cancelled(repairing).await;
    }

    /// Goes on with the pass that is under way, or waits until it is time for another.
    async fn pass(self: &Arc<Self>) -> Result<()> {
        if self.lock().began_at_unix_ms == 0 {
            sleep(self.begins_in()).await;
            self.lock().begin(clock::unix_ms());
        }
        let mut save_at = Instant::now();
        loop {
            let began = Instant::now();
            let step = self.lock().step;
            match (self.advance(step).await?, step) {
                (Some(cost), _) => {
                    if Instant::now() >= save_at {
                        self.save().await?;
                        save_at = Instant::now() + SAVE_EVERY;
                    }
                    sleep_until(began + self.takes(cost)).await;
                }
                (None, ScrubStep::Blocks) => self.lock().enter(ScrubStep::Records),
                (None, ScrubStep::Records) => break,
            }
        }
        self.lock().end(clock::unix_ms());
        self.save().await
    }

    /// Looks at some more, and repairs what it finds. What that cost, or `None` at the end of this step.
    async fn advance(self: &Arc<Self>, step: ScrubStep) -> Result<Option<u64>> {
        let after = Cid::try_from(self.lock().after.as_slice()).ok();
        let scrubber = Arc::clone(self);
        let looking = spawn_blocking(move || match step {
            ScrubStep::Blocks => scrubber.read_blocks(after.as_ref()),
            ScrubStep::Records => scrubber.look_for_records(after.as_ref()),
        });
        let Some(part) = looking.await?? else {
            return Ok(None);
        };
        let mut repaired = false;
        for cid in &part.missing {
            repaired |= self.repair(cid).await;
        }
        let mut progress = self.lock();
        // What was repaired may have links to more that is missing: look again before going on.
        if !repaired {
            progress.after = part.last.to_bytes().into();
            progress.blocks = progress.blocks.saturating_add(part.blocks);
            progress.bytes = progress.bytes.saturating_add(part.bytes);
        }
        Ok(Some(part.cost))
    }

    fn read_blocks(&self, after: Option<&Cid>) -> Result<Option<Part>> {
        let mut read = None;
        for cid in self.parts.store.cids(after, BATCH)? {
            let part = read.get_or_insert_with(|| Part::ending(cid));
            // A bad one is quarantined by this, and repaired by whoever waits for it.
            let bytes = match self.parts.store.unnoticed().block(&cid) {
                Ok(block) => block.map_or(0, |block| block.bytes().len() as u64),
                Err(StoreError::Corrupt(_)) => 0,
                Err(error) => return Err(error).context("read a block"),
            };
            part.last = cid;
            part.blocks += 1;
            part.bytes += bytes;
            part.cost += bytes.max(MIN_COST);
            if part.cost >= PART_COST {
                break;
            }
        }
        Ok(read)
    }

    /// A row that is gone is missed by nothing but the log.
    fn look_for_records(&self, after: Option<&Cid>) -> Result<Option<Part>> {
        let records = {
            let view = self.parts.replica.view()?;
            State::new(view.as_ref()).records(after, BATCH)?
        };
        let store = self.parts.store.as_ref();
        let mut looked = None;
        for entry in records {
            let (record, wrap) = (entry.anchored.record, entry.anchored.wrap);
            let part = looked.get_or_insert_with(|| Part::ending(record));
            part.last = record;
            part.cost += MIN_COST;
            if !entry.holders.contains(&self.parts.node) {
                continue;
            }
            for root in [record, wrap] {
                let walked = match walk(&store.unnoticed(), &root, RawBlocks::Look) {
                    Ok(walked) => walked,
                    Err(WalkError::Store(error)) => return Err(error).context("read a block"),
                    // Nothing that this node would hold today.
                    Err(WalkError::Links(error)) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(%record, error, "a record cannot be looked for");
                        continue;
                    }
                };
                part.cost += walked.bytes + walked.blocks * LOOK_COST;
                part.missing.extend(walked.missing);
            }
            if part.cost >= PART_COST || !part.missing.is_empty() {
                break;
            }
        }
        if let Some(part) = &looked {
            let unknown = store.expect(&part.missing)?;
            if unknown > 0 {
                let record = part.last;
                tracing::warn!(%record, "{unknown} blocks of a record are gone: they are fetched again");
            }
        }
        Ok(looked)
    }

    async fn repair_all(self: &Arc<Self>) -> Result<()> {
        let (mut after, mut left) = (None, 0_u64);
        loop {
            let scrubber = Arc::clone(self);
            let listing = spawn_blocking(move || scrubber.parts.store.bad(after.as_ref(), BATCH));
            let bad = listing.await??;
            let Some(last) = bad.last() else { break };
            after = Some(*last);
            for cid in &bad {
                left += u64::from(!self.repair(cid).await);
            }
        }
        if left > 0 {
            tracing::warn!("{left} blocks are bad or missing and no node gives them now");
        }
        Ok(())
    }

    /// Fetches a block that is listed as bad from another node and keeps it. Whether it is here now.
    async fn repair(&self, cid: &Cid) -> bool {
        #[cfg(medanchor_fault)]
        medanchor_raft::fault_step("bad-listed");
        // The peer replaces what the store says is corrupt, fsynced, before it returns.
        match self.parts.peer.fetch(cid).await {
            Ok(_) => {
                #[cfg(medanchor_fault)]
                medanchor_raft::fault_step("block-repaired");
                true
            }
            Err(SourceError::Store(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(%cid, error, "a bad block cannot be replaced");
                false
            }
            Err(error) => {
                tracing::debug!(%cid, "a bad block is not to be had: {error}");
                false
            }
        }
    }

    async fn save(self: &Arc<Self>) -> Result<()> {
        let (scrubber, progress) = (Arc::clone(self), self.progress());
        spawn_blocking(move || scrubber.parts.store.save_scrub_progress(&progress))
            .await?
            .context("save how far the scrub has come")
    }

    fn begins_in(&self) -> Duration {
        let ended = self.lock().ended_at_unix_ms;
        if ended == 0 {
            return Duration::ZERO;
        }
        // A clock that was set back delays the next pass by no more than one period.
        let since = Duration::from_millis(clock::unix_ms().saturating_sub(ended));
        self.parts.every.saturating_sub(since)
    }

    fn takes(&self, cost: u64) -> Duration {
        let rate = self.parts.bytes_per_second.max(1);
        Duration::from_nanos(cost.saturating_mul(1_000_000_000) / rate)
    }

    fn lock(&self) -> MutexGuard<'_, ScrubProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn ending(last: Cid) -> Self {
        Self {
            last,
            blocks: 0,
            bytes: 0,
            cost: 0,
            missing: Vec::new(),
        }
    }
}

/// What a node reads per second without being told.
pub(crate) const BYTES_PER_SECOND: u64 = 4 << 20;
/// From the end of a pass to the beginning of the next, without being told.
pub(crate) const EVERY: Duration = Duration::from_secs(3600);
/// Blocks or records that are listed at a time.
const BATCH: usize = 256;
/// What is read at a time, before the disk is left to others.
const PART_COST: u64 = 1 << 20;
/// To read a block costs at least a page.
const MIN_COST: u64 = 4096;
/// To look for a block costs a row of the index.
const LOOK_COST: u64 = 64;
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// What could not be had is asked for again after this.
const RETRY_AFTER: Duration = Duration::from_secs(60);
