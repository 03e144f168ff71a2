use crate::admission::FROM_THE_FUTURE;
use crate::certify::MAX_DIGESTS;
use crate::codec::{
    entry_to_pb, log_id_from_pb, log_id_to_pb, meta_to_pb, vote_from_pb, vote_to_pb,
};
use crate::config::{Connect, ReplicaConfig};
use crate::error::blocking;
use crate::reach::Reach;
use crate::runtime::{Channel, timeout};
use crate::snapshot::SnapshotFile;
use crate::step_aside::StepAside;
use crate::tail::Tail;
use crate::types::{LogId, NodeId, Snapshot, TypeConfig, Vote};
use futures::{Stream, StreamExt, stream};
use medanchor_anchor::{BoxError, StateDigest};
use medanchor_api::pb::raft::{
    self as pb, head_service_client::HeadServiceClient, install_snapshot_request::Part,
    raft_service_client::RaftServiceClient,
};
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use std::future::Future;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// The way to the other nodes.
#[derive(Clone)]
pub(crate) struct Peers {
    channel: Connect,
    snapshot_deadline: Duration,
    step_aside: StepAside,
    /// What this node's own disk has not synced yet.
    tail: Tail,
    reach: Reach,
    #[cfg(medanchor_fault)]
    liar: crate::fault::Liar,
}

impl Peers {
    pub(crate) fn new(config: &ReplicaConfig, tail: Tail, step_aside: StepAside) -> Self {
        Self {
            channel: Arc::clone(&config.channel),
            snapshot_deadline: config.snapshot_deadline,
            step_aside,
            tail,
            reach: Reach::default(),
            #[cfg(medanchor_fault)]
            liar: crate::fault::Liar::new(config),
        }
    }

    /// Hands a group to `leader`.
    pub(crate) async fn propose_group(
        &self,
        leader: NodeId,
        request: pb::ProposeGroupRequest,
        deadline: Duration,
    ) -> Result<pb::ProposeGroupResponse, BoxError> {
        let mut client = self.client(leader)?;
        let call = client.propose_group(with_deadline(request, deadline));
        Ok(within(deadline, call).await?)
    }

    /// Asks `leader` what a read must see.
    pub(crate) async fn read_index(
        &self,
        leader: NodeId,
        deadline: Duration,
    ) -> Result<u64, BoxError> {
        let mut client = self.client(leader)?;
        let call = client.read_index(with_deadline(pb::ReadIndexRequest {}, deadline));
        Ok(within(deadline, call).await?.log_index)
    }

    /// Tells `others` what members signed about the state, and gives what they say of it. Those that do not
    /// answer are left out.
    pub(crate) async fn exchange_digests(
        &self,
        others: &[NodeId],
        known: &[Vec<u8>],
    ) -> Vec<Vec<u8>> {
        let asked = others.iter().map(|other| async {
            let request = pb::ExchangeDigestsRequest {
                state_digests: known.to_vec(),
            };
            let answer = async {
                let mut client = self.client(*other)?;
                let call = client.exchange_digests(with_deadline(request, EXCHANGE_WITHIN));
                within(EXCHANGE_WITHIN, call).await
            };
            match answer.await {
                Ok(answer) => answer.state_digests,
                Err(status) => {
                    tracing::debug!(%status, "a member was not told of a snapshot");
                    Vec::new()
                }
            }
        });
        let answers = futures::future::join_all(asked).await;
        let answers = answers
            .into_iter()
            .flat_map(|answer| answer.into_iter().take(MAX_DIGESTS));
        answers.collect()
    }

    /// Asks another node for the heads that it keeps.
    pub(crate) async fn list_heads(
        &self,
        node_id: NodeId,
        from_index: u64,
        deadline: Duration,
    ) -> Result<pb::ListHeadsResponse, Status> {
        let mut client = HeadServiceClient::new(self.channel(node_id)?);
        let request = with_deadline(pb::ListHeadsRequest { from_index }, deadline);
        within(deadline, client.list_heads(request)).await
    }

    /// Whether this node leaves leading to others.
    pub(crate) fn is_aside(&self) -> bool {
        self.step_aside.is_aside()
    }

    fn client(&self, node_id: NodeId) -> Result<RaftServiceClient<Channel>, Status> {
        Ok(RaftServiceClient::new(self.channel(node_id)?)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    fn channel(&self, node_id: NodeId) -> Result<Channel, Status> {
        let channel = (self.channel)(node_id);
        channel.ok_or_else(|| Status::unavailable("not a member of the network"))
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, _: &()) -> Peer {
        Peer {
            target,
            peers: self.clone(),
        }
    }
}

/// The way to one other node.
pub(crate) struct Peer {
    target: NodeId,
    peers: Peers,
}

impl Peer {
    async fn synced(&self, upto: Option<&LogId>) -> Result<(), Status> {
        let synced = self.peers.tail.synced(upto).await;
        synced.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Remembers what the node makes of this leader's clock.
    fn note(&self, response: &pb::AppendEntriesResponse, carries_entries: bool) {
        use pb::append_entries_response::Outcome;
        #[cfg(medanchor_fault)]
        if self.peers.liar.is_lying() {
            return;
        }
        match &response.outcome {
            Some(Outcome::Refused(refused)) if refused.code == FROM_THE_FUTURE => {
                self.peers.step_aside.refused(self.target);
            }
            Some(Outcome::Success(_) | Outcome::PartialSuccess(_)) if carries_entries => {
                self.peers.step_aside.taken(self.target);
            }
            _ => (),
        }
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RPCError<NodeId, (), RaftError<NodeId>>> {
        let carries_entries = !rpc.entries.is_empty();
        let last = rpc.entries.last().map(|last| last.log_id);
        let request = pb::AppendEntriesRequest {
            to: self.target,
            vote: Some(vote_to_pb(&rpc.vote)),
            prev_log_id: rpc.prev_log_id.as_ref().map(log_id_to_pb),
            entries: rpc.entries.iter().map(entry_to_pb).collect(),
            leader_commit: rpc.leader_commit.as_ref().map(log_id_to_pb),
        };
        #[cfg(medanchor_fault)]
        let crate::fault::Told {
            first: request,
            then,
            is_lie,
        } = self.peers.liar.tell(request);
        let deadline = option.hard_ttl();
        let answer = async {
            if self.peers.step_aside.is_aside() {
                return Err(Status::unavailable("this node leaves leading to another"));
            }
            self.synced(rpc.leader_commit.as_ref()).await?;
            let mut client = self.peers.client(self.target)?;
            let call = client.append_entries(with_deadline(request, deadline));
            let response = self
                .peers
                .reach
                .heard(self.target, within(deadline, call).await)?;
            self.note(&response, carries_entries);
            #[cfg(medanchor_fault)]
            if is_lie {
                let liar = self.peers.liar.clone();
                // It takes its time, which is not openraft's.
                tokio::spawn(async move {
                    let answered = match then {
                        Some(lie) => {
                            let lie = with_deadline(lie, EXCHANGE_WITHIN);
                            client.append_entries(lie).await.is_ok()
                        }
                        None => true,
                    };
                    // What is made of it is the others' business.
                    if answered {
                        liar.answered();
                    }
                });
            }
            self.synced(last.as_ref()).await?;
            append_response(&response)
        };
        answer.await.map_err(|status| unreachable(&status).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RPCError<NodeId, (), RaftError<NodeId>>> {
        let request = pb::VoteRequest {
            to: self.target,
            vote: Some(vote_to_pb(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(log_id_to_pb),
        };
        let deadline = option.hard_ttl();
        let answer = async {
            let mut client = self.peers.client(self.target)?;
            let call = client.vote(with_deadline(request, deadline));
            let response = self
                .peers
                .reach
                .heard(self.target, within(deadline, call).await)?;
            Ok(VoteResponse {
                vote: vote_from_pb(response.vote.as_ref()).map_err(|error| invalid(&error))?,
                vote_granted: response.granted,
                last_log_id: response.last_log_id.as_ref().map(log_id_from_pb),
            })
        };
        answer
            .await
            .map_err(|status: Status| unreachable(&status).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, Fatal<NodeId>>> {
        let said = snapshot.snapshot.said();
        let certificate = snapshot.snapshot.certificate();
        let header = pb::SnapshotHeader {
            to: self.target,
            vote: Some(vote_to_pb(&vote)),
            size_bytes: said.size,
            sha256: said.digest.as_bytes().to_vec(),
            tree_size: said.tree_size,
            certificate: certificate.iter().map(StateDigest::to_bytes).collect(),
            ..meta_to_pb(&snapshot.meta)
        };
        if certificate.is_empty() {
            let status = Status::unavailable("no snapshot is certified yet");
            return Err(unreachable(&status).into());
        }
        let deadline = self.peers.snapshot_deadline;
        let answer = async {
            let mut client = self.peers.client(self.target)?;
            let parts = parts(header, &snapshot.snapshot);
            let call = client.install_snapshot(with_deadline(parts, deadline));
            let response = within(deadline, call).await?;
            vote_from_pb(response.vote.as_ref()).map_err(|error| invalid(&error))
        };
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            vote = answer => match vote {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(status) => Err(unreachable(&status).into()),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}

/// The header, then the file's bytes. When the file fails the stream ends early, and the receiver sees that
/// bytes are missing.
fn parts(
    header: pb::SnapshotHeader,
    snapshot: &SnapshotFile,
) -> impl Stream<Item = pb::InstallSnapshotRequest> + use<> {
    let chunks = stream::unfold(snapshot.content(), |mut content| async move {
        let read = blocking(move || {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            content
                .by_ref()
                .take(CHUNK_BYTES as u64)
                .read_to_end(&mut chunk)?;
            Ok((chunk, content))
        });
        match read.await {
            Ok((chunk, content)) => (!chunk.is_empty()).then_some((Part::Chunk(chunk), content)),
            Err(error) => {
                tracing::error!(%error, "a snapshot could not be read to its end");
                None
            }
        }
    });
    stream::iter([Part::Header(header)])
        .chain(chunks)
        .map(|part| pb::InstallSnapshotRequest { part: Some(part) })
}

fn append_response(
    response: &pb::AppendEntriesResponse,
) -> Result<AppendEntriesResponse<NodeId>, Status> {
    use pb::append_entries_response::Outcome;
    match &response.outcome {
        Some(Outcome::Success(_)) => Ok(AppendEntriesResponse::Success),
        Some(Outcome::PartialSuccess(id)) => Ok(AppendEntriesResponse::PartialSuccess(Some(
            log_id_from_pb(id),
        ))),
        Some(Outcome::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
        Some(Outcome::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(
            vote_from_pb(Some(vote)).map_err(|error| invalid(&error))?,
        )),
        // openraft tries again after a while.
        Some(Outcome::Refused(refused)) => Err(Status::failed_precondition(format!(
            "it does not take the entry: {}",
            refused.code
        ))),
        None => Err(Status::internal("the answer is empty")),
    }
}

fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// The deadline holds for the time to connect, too.
async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(deadline, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// Whatever went wrong, openraft waits for [`BACKOFF`] before it tries again.
fn unreachable(status: &Status) -> Unreachable {
    Unreachable::from(AnyError::new(status))
}

fn invalid(error: &crate::CodecError) -> Status {
    Status::internal(format!("the answer is invalid: {error}"))
}

/// The longest message between replicas: one entry may be a whole batch.
pub(crate) const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of a snapshot in one message.
pub(crate) const CHUNK_BYTES: usize = 1024 * 1024;
const EXCHANGE_WITHIN: Duration = Duration::from_secs(2);
const BACKOFF: Duration = Duration::from_millis(200);
