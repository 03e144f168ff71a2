use crate::{
    exchange::Exchange,
    local::{Local, LocalBlocks},
    pace::Pace,
    session::Session,
};
use futures::{
    Stream, StreamExt,
    future::OptionFuture,
    stream::{self, FuturesUnordered},
};
use medanchor_dag::{Block, Cid, LinksError, SourceError, StoreError, links};
use std::{
    collections::{HashSet, VecDeque},
    io, iter, mem,
    sync::Arc,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// What had to be fetched to have a DAG whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Blocks that came from other peers; the others were here already.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a DAG is not here, whole.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// One of its blocks could not be fetched or kept. What was saved until then is kept.
    #[error(transparent)]
    Block(#[from] SourceError),
    /// It is not a DAG that is kept here.
    #[error(transparent)]
    Links(#[from] LinksError),
}

/// A block, and whether it is to be kept or is here already.
pub(crate) enum Obtained {
    Fetched(Block),
    Present(Block),
}

impl Obtained {
    pub(crate) fn into_block(self) -> Block {
        match self {
            Self::Fetched(block) | Self::Present(block) => block,
        }
    }
}

/// Where blocks are looked for: here first, then on other peers.
#[derive(Clone)]
pub(crate) struct Finder {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) local: Arc<LocalBlocks>,
}

impl Finder {
    /// One block. A corrupt copy in the local store is replaced.
    pub(crate) async fn obtain(
        &self,
        cid: Cid,
        session: &Arc<Session>,
    ) -> Result<Obtained, SourceError> {
        match self.local.look_up(cid).await? {
            Local::Whole(block) => Ok(Obtained::Present(block)),
            Local::Absent => Ok(Obtained::Fetched(self.exchange.fetch(cid, session).await?)),
            Local::Corrupt => {
                let block = self.exchange.fetch(cid, session).await?;
                self.local.repair(block.clone()).await?;
                Ok(Obtained::Present(block))
            }
        }
    }

    async fn obtain_looked_at(
        &self,
        cid: Cid,
        is_absent: bool,
        session: &Arc<Session>,
    ) -> Result<Obtained, SourceError> {
        match is_absent {
            true => Ok(Obtained::Fetched(self.exchange.fetch(cid, session).await?)),
            false => self.obtain(cid, session).await,
        }
    }

    /// Blocks in the order in which they come.
    pub(crate) fn obtain_all(
        self,
        cids: Vec<Cid>,
        session: Arc<Session>,
    ) -> impl Stream<Item = Result<Block, SourceError>> + Send + 'static {
        let share = self.exchange.share(&session);
        let state = (cids.into_iter(), FuturesUnordered::new(), share);
        stream::unfold(state, move |(mut cids, mut obtaining, share)| {
            while obtaining.len() < share.window()
                && let Some(cid) = cids.next()
            {
                let (finder, session) = (self.clone(), Arc::clone(&session));
                obtaining.push(async move { finder.obtain(cid, &session).await });
            }
            async move {
                let obtained = obtaining.next().await?;
                Some((obtained.map(Obtained::into_block), (cids, obtaining, share)))
            }
        })
    }

    /// Fetches what is missing of the DAGs below `roots`, no faster than `pace`. When this returns, they are on disk,
    /// whole (I1).
    pub(crate) async fn fetch_dag(
        &self,
        roots: &[Cid],
        session: &Arc<Session>,
        mut pace: Option<Pace>,
    ) -> Result<Fetched, FetchError> {
        let share = self.exchange.share(session);
        let mut fetched = Fetched::default();
        let mut to_visit: Vec<Cid> = roots.iter().rev().copied().collect();
        let mut visited = HashSet::new();
        let mut looked_at = VecDeque::new();
        let mut obtaining = FuturesUnordered::new();
        let mut group = Group::default();
        let mut saving: Option<JoinHandle<Result<(), SourceError>>> = None;
        loop {
            while obtaining.len() < share.window() {
                if looked_at.is_empty() && !to_visit.is_empty() {
                    let next = take_new(&mut to_visit, &mut visited);
                    looked_at.extend(self.local.absent(next).await?);
                }
                let Some((cid, is_absent)) = looked_at.pop_front() else {
                    break;
                };
                obtaining.push(self.obtain_looked_at(cid, is_absent, session));
            }
            tokio::select! {
                Some(obtained) = obtaining.next(), if group.has_room() => {
                    let block = match obtained? {
                        Obtained::Present(block) => block,
                        Obtained::Fetched(block) => {
                            fetched.add(&block);
                            if let Some(pace) = &mut pace {
                                let bytes = block.bytes().len() as u64;
                                sleep_until(pace.gone(bytes, Instant::now())).await;
                            }
                            group.add(block.clone());
                            block
                        }
                    };
                    // Depth first: what waits stays small, however large the DAG is.
                    to_visit.extend(links(&block)?.into_iter().rev());
                }
                Some(saved) = OptionFuture::from(saving.as_mut()) => {
                    saving = None;
                    flatten(saved)?;
                }
                else => break,
            }
            if saving.is_none() && (group.is_due() || obtaining.is_empty()) && !group.is_empty() {
                saving = Some(self.save(group.take()));
            }
        }
        // INVARIANT: the loop ends when nothing is to be visited, obtained, grouped or saved.
        Ok(fetched)
    }

    fn save(&self, blocks: Vec<Block>) -> JoinHandle<Result<(), SourceError>> {
        let local = Arc::clone(&self.local);
        tokio::spawn(async move { local.put(blocks).await })
    }
}

impl Fetched {
    fn add(&mut self, block: &Block) {
        self.blocks += 1;
        self.bytes += block.bytes().len() as u64;
    }
}

/// Blocks that are saved together: one fsync for all of them.
#[derive(Default)]
struct Group {
    blocks: Vec<Block>,
    bytes: usize,
}

impl Group {
    fn add(&mut self, block: Block) {
        self.bytes += block.bytes().len();
        self.blocks.push(block);
    }

    fn take(&mut self) -> Vec<Block> {
        self.bytes = 0;
        mem::take(&mut self.blocks)
    }

    fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn is_due(&self) -> bool {
        self.bytes >= GROUP_BYTES || self.blocks.len() >= GROUP_BLOCKS
    }

    /// The disk may lag behind the network by one group, not by more.
    fn has_room(&self) -> bool {
        self.bytes < 2 * GROUP_BYTES && self.blocks.len() < 2 * GROUP_BLOCKS
    }
}

/// The next that were not visited yet, so many that one look at the store for all of them costs each little.
fn take_new(to_visit: &mut Vec<Cid>, visited: &mut HashSet<Cid>) -> Vec<Cid> {
    let next = iter::from_fn(|| to_visit.pop());
    next.filter(|cid| visited.insert(*cid))
        .take(LOOKED_AT_TOGETHER)
        .collect()
}

fn flatten(
    saved: Result<Result<(), SourceError>, tokio::task::JoinError>,
) -> Result<(), SourceError> {
    saved.map_err(|error| StoreError::Io(Box::new(io::Error::other(error))))?
}

const LOOKED_AT_TOGETHER: usize = 64;
const GROUP_BYTES: usize = 8 << 20;
const GROUP_BLOCKS: usize = 1024;
