use crate::{
    CliError, Exit, OwnKeys, Recorded, Session, clock,
    lasting::Sample,
    outbox::{Blocks, Upload},
    progress::Transfer,
    session::PAUSES,
    throttle::Throttle,
};
use anyhow::{Context, Result};
use futures::{TryStreamExt, stream};
use medanchor_anchor::{Anchored, Outcome, SignedStatement, Statement, Strength};
use medanchor_api::Submitted;
use medanchor_dag::{Block, Cid};
use serde::Serialize;
use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::spawn_blocking,
};

/// A record that is anchored.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    /// Its CID.
    pub record: String,
    /// CID of the wrap of its content key.
    pub wrap: String,
    /// Where the log has it.
    #[serde(flatten)]
    pub recorded: Recorded,
    /// Log time of its leaf.
    pub at: String,
    /// Length of the payload in bytes.
    pub size_bytes: u64,
    /// Number of sealed chunks.
    pub chunks: u64,
    /// The device's stream.
    pub stream: String,
    /// Its number in the stream.
    pub seq: u64,
    /// Whether it was sealed by an earlier, interrupted run.
    pub resumed: bool,
}

/// Sends what is sealed: the blocks of several records at a time, their statements one after the other, so that the
/// log has every record after the one before it in its stream.
pub(crate) struct Sender<'a> {
    session: &'a Session,
    keys: &'a OwnKeys,
    is_endless: AtomicBool,
    throttle: Option<Throttle>,
    transfer: Arc<Transfer>,
    /// Records whose blocks are sent, and batches of them in memory.
    records: Semaphore,
    batches: Arc<Semaphore>,
    turn: watch::Sender<Turn>,
}

/// What is done when no node can serve at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// It is tried again for some seconds.
    Some,
    /// It is tried again for ever.
    Endless,
}

/// Whose statement is submitted next.
#[derive(Clone, Copy, Debug)]
struct Turn {
    number: u64,
    /// Nobody's any more: the log lacks one, so what follows it must wait.
    is_over: bool,
}

/// What stays in the outbox because the log lacks a record before it.
#[derive(Debug, thiserror::Error)]
#[error("it waits in the outbox for a record before it")]
pub(crate) struct Waits;

impl<'a> Sender<'a> {
    pub(crate) fn new(
        session: &'a Session,
        keys: &'a OwnKeys,
        persistence: Persistence,
        throttle: Option<Throttle>,
        transfer: Arc<Transfer>,
    ) -> Self {
        let first = Turn {
            number: 0,
            is_over: false,
        };
        Self {
            session,
            keys,
            is_endless: AtomicBool::new(persistence == Persistence::Endless),
            throttle,
            transfer,
            records: Semaphore::new(RECORDS),
            batches: Arc::new(Semaphore::new(BATCHES)),
            turn: watch::Sender::new(first),
        }
    }

    /// Uploads what is sealed, has it anchored once those with smaller numbers are, and waits for what the session
    /// waits for. It stays in the outbox, whatever becomes of it.
    ///
    /// `number` counts what this sender sends, from 0. `resumed`: some of its blocks may be on the nodes.
    pub(crate) async fn send(&self, number: u64, upload: &Upload, resumed: bool) -> Result<Stored> {
        let committed = self.commit_in_turn(number, upload, resumed).await;
        self.turn.send_modify(|turn| match &committed {
            Ok(_) => turn.number = number + 1,
            Err(_) => turn.is_over = true,
        });
        let (signed, submitted) = committed?;
        let said = loop {
            match self.session.said(&signed, &submitted).await {
                Ok(said) => break said,
                Err(error) if self.is_to_go_on(&error) => tokio::time::sleep(LONGEST).await,
                Err(error) => {
                    upload.set_committed()?;
                    return Err(error);
                }
            }
        };
        let record = &upload.record;
        let recorded = self.session.recorded(&signed, &said)?;
        Ok(Stored {
            record: record.cid().to_string(),
            wrap: upload.wrap.cid().to_string(),
            recorded,
            at: clock::rfc3339(said.at_unix_ms),
            size_bytes: record.size_bytes(),
            chunks: record.chunk_count(),
            stream: record.header().stream.to_string(),
            seq: record.seq(),
            resumed,
        })
    }

    async fn commit_in_turn(
        &self,
        number: u64,
        upload: &Upload,
        resumed: bool,
    ) -> Result<(SignedStatement, Submitted)> {
        let anchored = Anchored::of(&upload.record, *upload.wrap.cid());
        let statement = Statement::anchored(&self.session.origin, anchored);
        let authors = self.keys.authors(&upload.record.device());
        let signed = statement.sign(&authors);
        let mut sample = Sample::of(&upload.record);
        if self.turn.borrow().is_over {
            return Err(Waits.into());
        }
        let mut stored = self.store(upload, resumed, &mut sample).await;
        self.wait_for_turn(number).await?;
        let mut pauses = PAUSES.iter().take(TRIES);
        loop {
            let sent = match stored {
                Ok(()) => self.commit(&signed, &sample).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(submitted) => return Ok((signed, submitted)),
                // The node with the blocks may be gone: another gets what it lacks.
                Err(error) if Exit::of(&error) == Exit::Unavailable => {
                    let pause = match (pauses.next(), self.is_endless()) {
                        (Some(&pause), _) => pause,
                        (None, true) => LONGEST,
                        (None, false) => return Err(error.context(STAYS)),
                    };
                    tokio::time::sleep(pause).await;
                }
                Err(error) if is_refused_for_good(&error) => return Err(error),
                Err(error) => return Err(error.context(STAYS)),
            }
            stored = self.store(upload, true, &mut sample).await;
        }
    }

    async fn wait_for_turn(&self, number: u64) -> Result<()> {
        let mut turn = self.turn.subscribe();
        let turn = turn
            .wait_for(|turn| turn.is_over || turn.number == number)
            .await
            .context("wait for the records before it")?;
        match turn.is_over {
            true => Err(Waits.into()),
            false => Ok(()),
        }
    }

    /// Has the log take it: a node's word is enough to go on with the next, unless it is a refusal.
    async fn commit(&self, signed: &SignedStatement, sample: &Sample) -> Result<Submitted> {
        let submitted = match sample.submit(&self.session.client, signed).await {
            Some(submitted) => submitted,
            None => self.session.commit(signed).await?,
        };
        if submitted.leaf.outcome != Outcome::Ok {
            let proved = self.session.submit_for(signed, Strength::Witnessed);
            proved.await?;
        }
        Ok(submitted)
    }

    /// Puts every block that the node does not hold yet, in batches that bound the memory.
    async fn store(&self, upload: &Upload, resumed: bool, sample: &mut Sample) -> Result<()> {
        if upload.committed {
            return Ok(());
        }
        let _place = self.records.acquire().await?;
        let mut left = upload.record.size_bytes();
        let roots = vec![upload.record.to_block(), upload.wrap.clone()];
        let put = async |(batch, place): (Vec<Block>, OwnedSemaphorePermit)| {
            let stored = self.store_batch(&batch, resumed).await;
            drop(place);
            stored.map(|()| batch_bytes(&batch))
        };
        let batches = self.batches(upload.blocks()?, sample);
        let stored = batches.map_ok(put).try_buffered(BATCHES_OF_ONE);
        let mut stored = std::pin::pin!(stored);
        while let Some(bytes) = stored.try_next().await.context("store the sealed blocks")? {
            let bytes = bytes.min(left);
            left -= bytes;
            self.transfer.came(bytes);
        }
        let stored = self.store_batch(&roots, resumed).await;
        stored.context("store the record")?;
        self.transfer.came(left);
        Ok(())
    }

    async fn store_batch(&self, batch: &[Block], resumed: bool) -> Result<()> {
        let client = &self.session.client;
        let cids: Vec<Cid> = batch.iter().map(|block| *block.cid()).collect();
        // Nobody can hold what was sealed a moment ago.
        let held = match resumed {
            true => client.has(&cids).await?,
            false => vec![false; cids.len()],
        };
        let lacking = batch.iter().zip(held).filter(|(_, held)| !held);
        let lacking: Vec<Block> = lacking.map(|(block, _)| block.clone()).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        if let Some(throttle) = &self.throttle {
            throttle.wait(batch_bytes(&lacking)).await;
        }
        client.put(stream::iter(lacking)).await?;
        Ok(())
    }

    /// The blocks below the record, each batch with its place in memory.
    fn batches<'s>(
        &'s self,
        blocks: Blocks,
        sample: &'s mut Sample,
    ) -> impl futures::Stream<Item = Result<(Vec<Block>, OwnedSemaphorePermit)>> + use<'s> {
        stream::try_unfold((blocks, sample), |(mut blocks, sample)| async {
            let place = Arc::clone(&self.batches).acquire_owned().await?;
            let read = spawn_blocking(move || (next_batch(&mut blocks), blocks));
            let (batch, blocks) = read.await.context("read the outbox")?;
            let batch = batch.context("read the outbox")?;
            sample.see(&batch);
            Ok((!batch.is_empty()).then_some(((batch, place), (blocks, sample))))
        })
    }

    fn is_to_go_on(&self, error: &anyhow::Error) -> bool {
        self.is_endless() && Exit::of(error) == Exit::Unavailable
    }

    /// From now on what no node can serve is tried again for some seconds only.
    pub(crate) fn be_brief(&self) {
        self.is_endless.store(false, Ordering::Relaxed);
    }

    fn is_endless(&self) -> bool {
        self.is_endless.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Sender<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("is_endless", &self.is_endless())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "record   {}", self.record)?;
        writeln!(
            f,
            "payload  {} bytes in {} chunks",
            self.size_bytes, self.chunks
        )?;
        writeln!(f, "stream   {} number {}", self.stream, self.seq)?;
        writeln!(f, "at       {}", self.at)?;
        write!(f, "{}", self.recorded)
    }
}

fn next_batch(blocks: &mut impl Iterator<Item = io::Result<Block>>) -> io::Result<Vec<Block>> {
    let mut batch = Vec::new();
    let mut size = 0;
    for block in blocks {
        let block = block?;
        size += block.bytes().len();
        batch.push(block);
        if size >= BATCH_BYTES {
            break;
        }
    }
    Ok(batch)
}

fn batch_bytes(batch: &[Block]) -> u64 {
    let bytes: usize = batch.iter().map(|block| block.bytes().len()).sum();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Whether the log holds the record as refused and will never judge otherwise. Whoever is suspended may be
/// reinstated and what is unknown may become known: then the same record is anchored.
pub(crate) fn is_refused_for_good(error: &anyhow::Error) -> bool {
    let outcome = CliError::outcome_of(error);
    matches!(outcome, Some(Outcome::Conflict | Outcome::Forbidden))
}

const STAYS: &str =
    "anchor the record, which stays in the outbox until `medanchor put` sends it again";
/// Records whose blocks are sent at one time.
const RECORDS: usize = 8;
const BATCH_BYTES: usize = 8 << 20;
/// Batches in memory, of all records and of one.
const BATCHES: usize = 4;
const BATCHES_OF_ONE: usize = 2;
/// How often what no node could serve is tried again, with its blocks.
const TRIES: usize = 3;
/// Between attempts that go on for ever.
const LONGEST: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_record_is_given_up_only_when_the_log_refuses_it_for_good() {
        for (outcome, for_good) in [
            (Outcome::Conflict, true),
            (Outcome::Forbidden, true),
            (Outcome::Inactive, false),
            (Outcome::Unknown, false),
            (Outcome::Expired, false),
            (Outcome::Stale, false),
        ] {
            let leaf_index = 1;
            let refused = CliError::Refused {
                outcome,
                leaf_index,
            };
            let error = anyhow::Error::from(refused).context("record the statement");
            assert_eq!(is_refused_for_good(&error), for_good, "{outcome}");
        }
        let unproved = CliError::NotVerified("no receipt".to_owned());
        assert!(!is_refused_for_good(&unproved.into()));
    }
}
