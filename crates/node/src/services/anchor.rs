use super::{
    errors::{parsed, read_status, submit_status, tables_status},
    registry::require_auditor,
};
use crate::{
    caller::{self, Caller, Callers},
    config::EntryReaders,
    membership::Membership,
    publisher::Publisher,
    submit::Submitter,
};
use futures::stream::{self, BoxStream, StreamExt};
use medanchor_anchor::{Kind, LeafIndex, PolicyChain, Prove, Read, ReleaseList, SignedNote, State};
use medanchor_api::{
    AsOf, LeafEntry, LeafName, ReceiptOf, Submit, Submitted,
    pb::anchor::{
        CheckpointRequest, CheckpointResponse, ListLeavesRequest, ListLeavesResponse,
        PolicyChainRequest, PolicyChainResponse, ReceiptRequest, ReceiptResponse, SubmitRequest,
        SubmitResponse, SubmitStreamRequest, SubmitStreamResponse,
        anchor_service_server::AnchorService,
    },
    status,
};
use medanchor_dag::Hash;
use medanchor_raft::Replica;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

/// The anchor log.
pub(crate) struct Anchor {
    pub(crate) submitter: Arc<Submitter>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) callers: Callers,
    /// Who may read all leaves.
    pub(crate) entries: EntryReaders,
    /// Cancelled when nothing new is taken any more.
    pub(crate) draining: CancellationToken,
}

#[tonic::async_trait]
impl AnchorService for Anchor {
    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitResponse>, Status> {
        let by = self.organisation(request.extensions());
        let submit = parsed(Submit::try_from(request.into_inner()))?;
        let submitted = submitted(&self.submitter, by, submit).await?;
        Ok(Response::new(submitted.into()))
    }

    type SubmitStreamStream = BoxStream<'static, Result<SubmitStreamResponse, Status>>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let submitter = Arc::clone(&self.submitter);
        let by = self.organisation(request.extensions());
        let draining = self.draining.clone().cancelled_owned();
        let requests = request.into_inner().take_until(draining);
        let answers = requests.map(move |request| {
            let submitter = Arc::clone(&submitter);
            async move {
                let submit = parsed(Submit::try_from(request?))?;
                let submitted = submitted(&submitter, by, submit).await;
                Ok(SubmitStreamResponse {
                    submitted: submitted.ok().map(Submitted::into),
                })
            }
        });
        Ok(Response::new(answers.buffered(SUBMIT_WINDOW).boxed()))
    }

    async fn receipt(
        &self,
        request: Request<ReceiptRequest>,
    ) -> Result<Response<ReceiptResponse>, Status> {
        let privileged = self.callers.of(request.extensions()) != Caller::Guest;
        let ReceiptOf { leaf, strength } = parsed(ReceiptOf::try_from(request.into_inner()))?;
        let (index, knows_it) = self.find(&leaf).await?;
        let mut receipt = self
            .publisher
            .receipt(index, strength)
            .await
            .map_err(read_status)?;
        // Whoever can name a record or a statement may know how it was recorded, and everybody must be able to
        // check whose key they seal to and whom they believe; all other openings are for operators.
        let public = matches!(
            receipt.leaf.kind,
            Kind::Founded
                | Kind::Custody
                | Kind::MemberAdded
                | Kind::MemberRemoved
                | Kind::WitnessAdded
                | Kind::WitnessRemoved
                | Kind::Placed
                | Kind::PolicySet
                | Kind::Holding
        );
        if !privileged && !knows_it && !public {
            receipt.opening = None;
        }
        let list = match privileged && receipt.leaf.kind == Kind::Released {
            true => release_list(&self.replica, index)?,
            false => None,
        };
        Ok(Response::new(ReceiptResponse {
            leaf_index: index,
            receipt: receipt.to_string().into_bytes(),
            release_list: list.map(|list| list.to_bytes()).unwrap_or_default(),
        }))
    }

    type ListLeavesStream = BoxStream<'static, Result<ListLeavesResponse, Status>>;

    async fn list_leaves(
        &self,
        request: Request<ListLeavesRequest>,
    ) -> Result<Response<Self::ListLeavesStream>, Status> {
        let everyone = self.entries == EntryReaders::Everyone;
        require_auditor(everyone || Callers::is_auditor(request.extensions()))?;
        let openings = self.callers.of(request.extensions()) != Caller::Guest;
        let ListLeavesRequest { from_index, limit } = request.into_inner();
        let replica = Arc::clone(&self.replica);
        let until = match limit {
            0 => u64::MAX,
            limit => from_index.saturating_add(limit),
        };
        let pages = stream::try_unfold((from_index, false), move |(next, told)| {
            let replica = Arc::clone(&replica);
            async move {
                let page = tokio::task::spawn_blocking(move || {
                    let until = until.min(next.saturating_add(PAGE));
                    leaves(&replica, next, until, openings)
                })
                .await
                .map_err(super::errors::internal)??;
                let len = page.value.len() as u64;
                // Even without a leaf the caller is told what this was read from, once.
                let ends = len == 0 && told;
                Ok::<_, Status>((!ends).then_some((page, (next + len, true))))
            }
        });
        let leaves = pages
            .map(|page| match page {
                Ok(page) => answers(page).into_iter().map(Ok).collect(),
                Err(status) => vec![Err(status)],
            })
            .flat_map(stream::iter);
        Ok(Response::new(leaves.boxed()))
    }

    async fn checkpoint(
        &self,
        _: Request<CheckpointRequest>,
    ) -> Result<Response<CheckpointResponse>, Status> {
        let checkpoint = self.publisher.newest().unwrap_or_default();
        Ok(Response::new(CheckpointResponse { checkpoint }))
    }

    async fn policy_chain(
        &self,
        request: Request<PolicyChainRequest>,
    ) -> Result<Response<PolicyChainResponse>, Status> {
        let sizes = request.into_inner().sizes;
        if sizes.len() > MAX_SIZES {
            let sentence = format!("more than {MAX_SIZES} sizes are asked for");
            return Err(status(Code::InvalidArgument, "malformed", sentence));
        }
        let chain = self.chain(sizes)?;
        Ok(Response::new(PolicyChainResponse {
            policy_chain: chain.to_bytes(),
        }))
    }
}

impl Anchor {
    /// The changes of the policy; once a checkpoint is published under the newest, also that they, and the logs of
    /// these sizes, are prefixes of the log as it is now.
    fn chain(&self, sizes: Vec<u64>) -> Result<PolicyChain, Status> {
        let now = self.membership.now();
        let mut chain = now.chain.clone();
        let after = now.epochs.current_after();
        let head = self.publisher.published();
        let Some((newest, head)) = head.filter(|(size, _)| after > 0 && *size > after) else {
            return Ok(chain);
        };
        let view = self.replica.view().map_err(read_status)?;
        let state = State::new(view.as_ref());
        let changes = chain.changes.iter().map(|change| change.index + 1);
        for size in changes
            .chain(sizes)
            .filter(|size| (1..=newest).contains(size))
        {
            let proof = state.consistency_proof(size, newest);
            chain.proofs.insert(size, proof.map_err(tables_status)?);
        }
        chain.head = Some(SignedNote::parse(&head).map_err(super::errors::internal)?);
        Ok(chain)
    }

    /// The leaf asked for, and whether the caller showed that it knows the record or the statement. "There is
    /// none" is said only by a replica that is up to date.
    async fn find(&self, leaf: &LeafName) -> Result<(LeafIndex, bool), Status> {
        if let Some(found) = self.find_here(leaf)? {
            return Ok(found);
        }
        self.replica.barrier().await.map_err(read_status)?;
        self.find_here(leaf)?
            .ok_or_else(|| status(Code::NotFound, "not-found", "the log has no such leaf"))
    }

    fn organisation(&self, extensions: &Extensions) -> Option<Hash> {
        caller::organisation(self.membership.now().organisations(), extensions)
    }

    fn find_here(&self, leaf: &LeafName) -> Result<Option<(LeafIndex, bool)>, Status> {
        let view = self.replica.view().map_err(read_status)?;
        let state = State::new(view.as_ref());
        Ok(match leaf {
            LeafName::Index(index) => {
                let size = state.tree_size().map_err(tables_status)?;
                (*index < size).then_some((*index, false))
            }
            LeafName::Record(cid) => {
                let record = state.record(cid).map_err(tables_status)?;
                record.map(|record| (record.index, true))
            }
            // Its nonce makes the hash one that only those who have the statement can name.
            LeafName::Statement(hash) => {
                let index = state.statement(hash).map_err(tables_status)?;
                index.map(|index| (index, true))
            }
        })
    }
}

async fn submitted(
    submitter: &Submitter,
    by: Option<Hash>,
    submit: Submit,
) -> Result<Submitted, Status> {
    let Submit { signed, strength } = submit;
    let (appended, receipt) = submitter
        .submit(by, signed, strength)
        .await
        .map_err(submit_status)?;
    Ok(Submitted {
        index: appended.index,
        leaf: appended.leaf,
        receipt,
    })
}

fn release_list(replica: &Replica, index: LeafIndex) -> Result<Option<ReleaseList>, Status> {
    let view = replica.view().map_err(read_status)?;
    let list = State::new(view.as_ref()).release_list(index);
    list.map_err(tables_status)
}

fn leaves(
    replica: &Replica,
    from: LeafIndex,
    until: LeafIndex,
    openings: bool,
) -> Result<AsOf<Vec<LeafEntry>>, Status> {
    let view = replica.view().map_err(read_status)?;
    let state = State::new(view.as_ref());
    let tree_size = state.tree_size().map_err(tables_status)?;
    let until = until.min(tree_size);
    let mut page = Vec::new();
    for index in from..until {
        let Some(leaf) = state.leaf(index).map_err(tables_status)? else {
            break;
        };
        let opening = match openings {
            true => state.opening(index).map_err(tables_status)?,
            false => None,
        };
        let erased_with = match openings && opening.is_none() {
            true => state.erased_with(index).map_err(tables_status)?,
            false => None,
        };
        page.push(LeafEntry {
            index,
            leaf,
            opening,
            erased_with,
        });
    }
    Ok(AsOf {
        tree_size,
        value: page,
    })
}

/// At least one answer, so that an empty page has its tree size too.
fn answers(page: AsOf<Vec<LeafEntry>>) -> Vec<ListLeavesResponse> {
    let AsOf { tree_size, value } = page;
    let answer = |value| ListLeavesResponse::from(AsOf { tree_size, value });
    match value.is_empty() {
        true => vec![answer(None)],
        false => value.into_iter().map(|leaf| answer(Some(leaf))).collect(),
    }
}

/// Statements of one stream that are under way at the same time.
const SUBMIT_WINDOW: usize = 256;
/// Old checkpoints that one answer shows to be prefixes of the log.
const MAX_SIZES: usize = 1024;
/// Leaves read at once.
const PAGE: u64 = 256;
