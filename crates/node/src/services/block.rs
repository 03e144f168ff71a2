use super::errors::{internal, parsed, store_status};
use crate::{
    caller,
    fatal_store::FatalStore,
    membership::Membership,
    places::{Place, Places},
    unanchored::Unanchored,
};
use futures::stream::{self, BoxStream, Stream, StreamExt};
use medanchor_api::{
    Get, Missing, has_cids, overloaded,
    pb::block::{
        GetRequest, GetResponse, HasRequest, HasResponse, PutRequest, PutResponse,
        block_service_server::BlockService,
    },
    status,
};
use medanchor_dag::{Block, BlockSource, BlockStore, Cid, Hash, SourceError, StoreError};
use medanchor_ipfs::Peer;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

/// Blocks in and out.
pub(crate) struct Blocks {
    pub(crate) store: Arc<FatalStore>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) uploads: Uploads,
    pub(crate) membership: Arc<Membership>,
    pub(crate) unanchored: Arc<Unanchored>,
}

/// Uploads at one time: each keeps a group of blocks in memory until it is on disk.
pub(crate) struct Uploads(Places<Option<Hash>>);

impl Default for Uploads {
    fn default() -> Self {
        Self(Places::new(MAX_UPLOADS, MAX_UPLOADS_OF_ONE))
    }
}

impl Uploads {
    /// A place for whoever shows this certificate.
    fn begin(&self, extensions: &Extensions) -> Result<Place<Option<Hash>>, Status> {
        let place = self.0.take(caller::certificate(extensions));
        place.ok_or_else(|| overloaded(UPLOAD_AGAIN_AFTER))
    }
}

#[tonic::async_trait]
impl BlockService for Blocks {
    async fn has(&self, request: Request<HasRequest>) -> Result<Response<HasResponse>, Status> {
        let cids = parsed(has_cids(request.get_ref()))?;
        let store = Arc::clone(&self.store);
        let held = tokio::task::spawn_blocking(move || {
            cids.iter()
                .map(|cid| store.has(cid))
                .collect::<Result<_, _>>()
        })
        .await
        .map_err(internal)?
        .map_err(store_status)?;
        Ok(Response::new(HasResponse { held }))
    }

    async fn put(
        &self,
        request: Request<Streaming<PutRequest>>,
    ) -> Result<Response<PutResponse>, Status> {
        let _place = self.uploads.begin(request.extensions())?;
        let by = caller::organisation(self.membership.now().organisations(), request.extensions());
        let stored = self.store(by, request.into_inner());
        let stored = timeout(UPLOAD_WITHIN, stored).await;
        let answer = stored.unwrap_or_else(|_| Err(too_slow()))?;
        Ok(Response::new(answer))
    }

    type GetStream = BoxStream<'static, Result<GetResponse, Status>>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let Get { cids, local_only } = parsed(Get::try_from(request.into_inner()))?;
        let (store, peer) = (Arc::clone(&self.store), Arc::clone(&self.peer));
        let blocks = stream::iter(cids).map(move |cid| {
            let (store, peer) = (Arc::clone(&store), Arc::clone(&peer));
            async move {
                let block = match local_only {
                    true => local(store, cid).await?,
                    false => given(peer.fetch(&cid).await)?,
                };
                Ok((cid, block).into())
            }
        });
        Ok(Response::new(blocks.buffered(IN_FLIGHT).boxed()))
    }
}

impl Blocks {
    /// Stores what comes until there is no more. All of it is fsynced when this returns.
    async fn store(
        &self,
        by: Option<Hash>,
        mut incoming: impl Stream<Item = Result<PutRequest, Status>> + Unpin,
    ) -> Result<PutResponse, Status> {
        let mut group = Group::default();
        let mut answer = PutResponse::default();
        loop {
            let next = timeout(NEXT_WITHIN, incoming.next()).await;
            let Some(uploaded) = next.map_err(|_| too_slow())? else {
                break;
            };
            let block = parsed(Block::try_from(uploaded?))?;
            answer.blocks += 1;
            answer.size_bytes += block.bytes().len() as u64;
            group.add(block);
            if group.is_due() {
                self.store_group(by, group.take()).await?;
            }
        }
        self.store_group(by, group.take()).await?;
        Ok(answer)
    }

    /// Fsynced when this returns.
    async fn store_group(&self, by: Option<Hash>, group: Vec<Block>) -> Result<(), Status> {
        if group.is_empty() {
            return Ok(());
        }
        let (store, unanchored) = (Arc::clone(&self.store), Arc::clone(&self.unanchored));
        let storing = tokio::task::spawn_blocking(move || {
            let bytes = new_bytes(&store, &group).map_err(store_status)?;
            if !unanchored.take(by, bytes, Instant::now()) {
                return Err(over_quota());
            }
            store.put(&group).map_err(|error| {
                unanchored.give_back(by, bytes);
                store_status(error)
            })
        });
        storing.await.map_err(internal)?
    }
}

/// Bytes of those blocks that are not here yet.
fn new_bytes(store: &FatalStore, group: &[Block]) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for block in group {
        if !store.unnoticed().has(block.cid())? {
            bytes += (block.bytes().len() as u64).max(MIN_COST);
        }
    }
    Ok(bytes)
}

/// Blocks that are stored together: one fsync for all of them.
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

    /// Blocks may be empty: their number is bounded too.
    fn is_due(&self) -> bool {
        self.bytes >= GROUP_BYTES || self.blocks.len() >= GROUP_BLOCKS
    }

    fn take(&mut self) -> Vec<Block> {
        self.bytes = 0;
        std::mem::take(&mut self.blocks)
    }
}

/// What this node holds itself.
async fn local(store: Arc<FatalStore>, cid: Cid) -> Result<Result<Block, Missing>, Status> {
    let block = tokio::task::spawn_blocking(move || store.block(&cid))
        .await
        .map_err(internal)?;
    match block {
        Ok(block) => Ok(block.ok_or(Missing::NotFound)),
        Err(StoreError::Corrupt(_)) => Ok(Err(Missing::Corrupt)),
        Err(error) => Err(store_status(error)),
    }
}

fn given(fetched: Result<Block, SourceError>) -> Result<Result<Block, Missing>, Status> {
    match fetched {
        Ok(block) => Ok(Ok(block)),
        Err(SourceError::NotFound(_)) => Ok(Err(Missing::NotFound)),
        Err(SourceError::Unavailable { .. }) => Ok(Err(Missing::Unavailable)),
        Err(SourceError::Store(error)) => Err(store_status(error)),
    }
}

fn too_slow() -> Status {
    status(
        Code::Unavailable,
        "too-slow",
        "the blocks did not come in time; those that came may be stored: send the rest again",
    )
}

fn over_quota() -> Status {
    status(
        Code::FailedPrecondition,
        "over-quota",
        "your organisation has uploaded as much to this node as it may without anchoring it: anchor what is there, or \
         wait until it is removed (`unanchored_bytes` in the node's config)",
    )
}

/// What they keep in memory: this many times a group and a block.
const MAX_UPLOADS: usize = 32;
const MAX_UPLOADS_OF_ONE: usize = 8;
const UPLOAD_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A window of the client's, at 192 KiB/s.
const UPLOAD_WITHIN: Duration = Duration::from_secs(90);
const NEXT_WITHIN: Duration = Duration::from_secs(15);
/// Blocks are fsynced in groups of about this many bytes.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
const GROUP_BLOCKS: usize = 1024;
/// To keep a block costs at least a row.
const MIN_COST: u64 = 512;
const IN_FLIGHT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::Codec;

    fn fill(block: &Block) -> usize {
        let mut group = Group::default();
        while !group.is_due() {
            group.add(block.clone());
        }
        group.take().len()
    }

    #[test]
    fn group_is_bounded_in_bytes_and_in_blocks() {
        let large = Block::new(Codec::Raw, vec![0; 1 << 20]).unwrap();
        assert_eq!(fill(&large), 8);
        let empty = Block::new(Codec::Raw, Vec::new()).unwrap();
        assert_eq!(fill(&empty), GROUP_BLOCKS);
    }

    #[test]
    fn uploads_have_a_limit_and_are_given_back() {
        let uploads = Uploads::default();
        let nobody = Extensions::default();
        let held: Vec<_> = (0..MAX_UPLOADS_OF_ONE)
            .map(|_| uploads.begin(&nobody).unwrap())
            .collect();
        let refused = uploads.begin(&nobody).unwrap_err();
        let code = medanchor_api::stable_code(&refused);
        assert_eq!(code, Some("overloaded"));
        drop(held);
        assert!(uploads.begin(&nobody).is_ok());
    }

    #[test]
    fn group_that_was_taken_begins_anew() {
        let mut group = Group::default();
        group.add(Block::new(Codec::Raw, vec![0; 1 << 20]).unwrap());
        assert_eq!(group.take().len(), 1);
        assert_eq!((group.blocks.len(), group.bytes), (0, 0));
    }
}
