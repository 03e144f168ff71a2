use crate::admission::{Admitted, Refusal};
use crate::batcher::{ProposeError, Proposed};
use crate::certify::{MAX_DIGESTS, learn};
use crate::codec::{
    entry_from_pb, log_id_from_pb, log_id_to_pb, meta_from_pb, vote_from_pb, vote_to_pb,
};
use crate::error::{StoreError, blocking};
use crate::peers::CHUNK_BYTES;
use crate::reads::ReadError;
use crate::replica::Replica;
use crate::snapshot::SnapshotFile;
use crate::types::{Entry, LogId, NodeId, Snapshot, Vote};
use medanchor_anchor::{Group, StateDigest, Submission};
use medanchor_api::pb::raft::{self as pb, raft_service_server::RaftService};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::{Extensions, Request, Response, Status, Streaming};

/// Serves a replica to the other nodes.
///
/// Messages that are meant for another node are refused, and so are those of a caller that is not the node
/// it speaks for. Register it with [`RaftServer::into_service`].
pub struct RaftServer {
    replica: Replica,
    caller: Caller,
    /// One snapshot at a time: each takes disk space before it is known to be good.
    receiving: Arc<Semaphore>,
}

/// Says which node makes a call, by what the connection proved (the peer's certificate, in the request's
/// extensions). `None`: no member of the network.
pub type Caller = Arc<dyn Fn(&Extensions) -> Option<NodeId> + Send + Sync>;

/// The generated server around a [`RaftServer`].
pub type RaftServiceServer = pb::raft_service_server::RaftServiceServer<RaftServer>;

impl RaftServer {
    /// A server for `replica`. `caller` is asked about every call.
    pub fn new(replica: Replica, caller: Caller) -> Self {
        Self {
            replica,
            caller,
            receiving: Arc::new(Semaphore::new(1)),
        }
    }

    /// The tonic service, with the message size that replicas need.
    pub fn into_service(self) -> RaftServiceServer {
        RaftServiceServer::new(self)
            .max_decoding_message_size(crate::peers::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(crate::peers::MAX_MESSAGE_BYTES)
    }

    /// The member that makes the call.
    fn member(&self, extensions: &Extensions) -> Result<NodeId, Status> {
        calling_member(&self.replica, &self.caller, extensions)
    }

    /// The vote in a message of Raft itself, which must come from the node that it names and be meant for
    /// this one.
    fn vote_of(
        &self,
        extensions: &Extensions,
        to: NodeId,
        vote: Option<&pb::Vote>,
    ) -> Result<Vote, Status> {
        let caller = self.member(extensions)?;
        let vote = vote_from_pb(vote).map_err(malformed)?;
        if vote.leader_id.node_id != caller {
            return Err(Status::permission_denied("the vote is another node's"));
        }
        if to != self.replica.node_id() {
            return Err(Status::failed_precondition("meant for another node"));
        }
        Ok(vote)
    }
}

/// The member of the network that makes a call with these extensions.
pub(crate) fn calling_member(
    replica: &Replica,
    caller: &Caller,
    extensions: &Extensions,
) -> Result<NodeId, Status> {
    caller(extensions)
        .filter(|node_id| replica.is_member(*node_id))
        .ok_or_else(|| Status::permission_denied("not a member of the network"))
}

impl fmt::Debug for RaftServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftServer")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl RaftService for RaftServer {
    async fn append_entries(
        &self,
        request: Request<pb::AppendEntriesRequest>,
    ) -> Result<Response<pb::AppendEntriesResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let vote = self.vote_of(&extensions, message.to, message.vote.as_ref())?;
        let entries = message.entries.into_iter().map(entry_from_pb);
        let entries = entries.collect::<Result<Vec<_>, _>>().map_err(malformed)?;
        let leader_commit = message.leader_commit.as_ref().map(log_id_from_pb);
        let Admitted { entries, refused } = self.admit(vote, leader_commit, entries).await?;
        let last = entries.last().map(|entry| entry.log_id);
        let rpc = AppendEntriesRequest {
            vote,
            prev_log_id: message.prev_log_id.as_ref().map(log_id_from_pb),
            entries,
            leader_commit,
        };
        // Also without any entry that may go on: the leader lives, whatever it says.
        let answer = self.replica.raft().append_entries(rpc).await;
        let outcome = match (answer.map_err(stopped)?, refused, last) {
            (AppendEntriesResponse::Success, Some(refusal), None) => Some(refused_outcome(refusal)),
            (AppendEntriesResponse::Success, Some(_), last) => {
                append_outcome(&AppendEntriesResponse::PartialSuccess(last))
            }
            (answer, _, _) => append_outcome(&answer),
        };
        Ok(Response::new(pb::AppendEntriesResponse { outcome }))
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let vote = self.vote_of(&extensions, message.to, message.vote.as_ref())?;
        let last_log_id = message.last_log_id.as_ref().map(log_id_from_pb);
        let rpc = VoteRequest::new(vote, last_log_id);
        let answer = self.replica.raft().vote(rpc).await.map_err(stopped)?;
        Ok(Response::new(pb::VoteResponse {
            vote: Some(vote_to_pb(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(log_id_to_pb),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<pb::InstallSnapshotResponse>, Status> {
        let (_, extensions, mut parts) = request.into_parts();
        self.member(&extensions)?;
        let _receiving = self
            .receiving
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("another snapshot is being received"))?;
        let Some(pb::install_snapshot_request::Part::Header(header)) =
            next_part(&mut parts).await?
        else {
            return Err(Status::invalid_argument("the header comes first"));
        };
        let vote = self.vote_of(&extensions, header.to, header.vote.as_ref())?;
        let certificate = self.certificate(&header)?;
        let file = self.receive(&mut parts, header.size_bytes).await?;
        let snapshot = blocking(move || check(file, &header, certificate))
            .await
            .map_err(|error| damaged(&error))?;
        self.replica.state().expect(&snapshot.meta);
        let raft = self.replica.raft();
        let answer = raft.install_full_snapshot(vote, snapshot).await;
        Ok(Response::new(pb::InstallSnapshotResponse {
            vote: Some(vote_to_pb(&answer.map_err(stopped)?.vote)),
        }))
    }

    async fn exchange_digests(
        &self,
        request: Request<pb::ExchangeDigestsRequest>,
    ) -> Result<Response<pb::ExchangeDigestsResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        self.member(&extensions)?;
        if message.state_digests.len() > MAX_DIGESTS {
            return Err(Status::invalid_argument("too many state digests"));
        }
        let state = self.replica.state();
        learn(state, &message.state_digests).map_err(stopped)?;
        let known = state.snapshots().to_tell();
        Ok(Response::new(pb::ExchangeDigestsResponse {
            state_digests: known.iter().map(StateDigest::to_bytes).collect(),
        }))
    }

    async fn propose(
        &self,
        request: Request<pb::ProposeRequest>,
    ) -> Result<Response<pb::ProposeResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        self.member(&extensions)?;
        let submission = Submission::try_from(message).map_err(malformed)?;
        let outcome = propose_outcome(self.replica.propose(submission).await)?;
        Ok(Response::new(pb::ProposeResponse {
            outcome: Some(outcome),
        }))
    }

    async fn propose_group(
        &self,
        request: Request<pb::ProposeGroupRequest>,
    ) -> Result<Response<pb::ProposeGroupResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        self.member(&extensions)?;
        let group = Group::try_from(message).map_err(malformed)?;
        let count = group.statements.len();
        let outcomes: Result<Vec<_>, Status> = match self.replica.propose_group(group).await {
            Ok(answers) => answers.into_iter().map(propose_outcome).collect(),
            // What keeps the group from the log is the answer to each.
            Err(error) => propose_outcome(Err(error)).map(|outcome| vec![outcome; count]),
        };
        let proposed = outcomes?.into_iter().map(|outcome| pb::ProposeResponse {
            outcome: Some(outcome),
        });
        Ok(Response::new(pb::ProposeGroupResponse {
            proposed: proposed.collect(),
        }))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        self.member(request.extensions())?;
        match self.replica.read_index().await {
            Ok(log_index) => Ok(Response::new(pb::ReadIndexResponse { log_index })),
            Err(ReadError::Unconfirmed) => Err(Status::unavailable("not confirmed as the leader")),
            Err(ReadError::Stopped) => Err(Status::unavailable("the replica has stopped")),
        }
    }
}

impl RaftServer {
    /// What of the entries may go on to Raft.
    async fn admit(
        &self,
        vote: Vote,
        committed: Option<LogId>,
        entries: Vec<Entry>,
    ) -> Result<Admitted, Status> {
        if entries.is_empty() {
            return Ok(Admitted::default());
        }
        let admission = self.replica.admission().clone();
        blocking(move || admission.admit(&vote, committed.map(|id| id.index), entries))
            .await
            .map_err(stopped)
    }

    /// The certificate in the header, once it is known that enough members stand for exactly the snapshot that
    /// the header announces.
    fn certificate(&self, header: &pb::SnapshotHeader) -> Result<Vec<StateDigest>, Status> {
        let digests = header.certificate.iter().take(MAX_DIGESTS);
        let certificate: Vec<StateDigest> = digests
            .map(|bytes| StateDigest::from_bytes(bytes).map_err(malformed))
            .collect::<Result<_, _>>()?;
        let state = self.replica.state();
        let certifiers = state.certifiers().map_err(stopped)?;
        let said = state.snapshots().check(&certificate, &certifiers);
        let said = said.map_err(|error| self.refuse_snapshot(header, &error))?;
        let announced = (header.size_bytes, header.sha256.as_slice());
        if announced == (said.size, said.digest.as_bytes()) {
            Ok(certificate)
        } else {
            Err(self.refuse_snapshot(header, &"it is not the one that was signed"))
        }
    }

    /// An honest leader offers nothing that is refused.
    fn refuse_snapshot(&self, header: &pb::SnapshotHeader, error: &dyn fmt::Display) -> Status {
        let leader = header.vote.map_or(0, |vote| vote.node_id);
        tracing::error!(
            leader,
            "the snapshot that the leader offers is not installed: {error}"
        );
        Status::failed_precondition("the snapshot is not certified")
    }

    /// Writes the chunks to a file without a name, which a crash leaves no trace of.
    async fn receive(
        &self,
        parts: &mut Streaming<pb::InstallSnapshotRequest>,
        size_bytes: u64,
    ) -> Result<File, Status> {
        let dir = self.replica.data_dir().to_owned();
        let mut file = blocking(move || Ok(tempfile::tempfile_in(dir)?))
            .await
            .map_err(|error| damaged(&error))?;
        let mut missing = size_bytes;
        while let Some(part) = next_part(parts).await? {
            let pb::install_snapshot_request::Part::Chunk(chunk) = part else {
                return Err(Status::invalid_argument("the header comes once"));
            };
            missing = missing
                .checked_sub(chunk.len() as u64)
                .filter(|_| chunk.len() <= CHUNK_BYTES)
                .ok_or_else(|| Status::invalid_argument("more bytes than announced"))?;
            file = blocking(move || {
                file.write_all(&chunk)?;
                Ok(file)
            })
            .await
            .map_err(|error| damaged(&error))?;
        }
        if missing == 0 {
            Ok(file)
        } else {
            Err(Status::data_loss("bytes are missing"))
        }
    }
}

async fn next_part(
    parts: &mut Streaming<pb::InstallSnapshotRequest>,
) -> Result<Option<pb::install_snapshot_request::Part>, Status> {
    match parts.message().await? {
        None => Ok(None),
        Some(request) => match request.part {
            Some(part) => Ok(Some(part)),
            None => Err(Status::invalid_argument("an empty part")),
        },
    }
}

/// Whether the file is the snapshot that the header announces, and that was signed.
fn check(
    file: File,
    header: &pb::SnapshotHeader,
    certificate: Vec<StateDigest>,
) -> Result<Snapshot, StoreError> {
    let (meta, file) = SnapshotFile::verify(file)?;
    let signed = certificate.first().map(StateDigest::said);
    let bare = file.certificate().is_empty();
    if !bare || Some(file.said()) != signed || meta != meta_from_pb(header)? {
        return Err(StoreError::Snapshot("it is not the one that was signed"));
    }
    Ok(Snapshot {
        meta,
        snapshot: Box::new(file.certified(certificate)),
    })
}

fn refused_outcome(refusal: Refusal) -> pb::append_entries_response::Outcome {
    pb::append_entries_response::Outcome::Refused(pb::EntryRefused {
        code: refusal.code().to_owned(),
    })
}

fn append_outcome(
    answer: &AppendEntriesResponse<NodeId>,
) -> Option<pb::append_entries_response::Outcome> {
    use pb::append_entries_response::Outcome;
    match answer {
        AppendEntriesResponse::Success => Some(Outcome::Success(pb::Success {})),
        AppendEntriesResponse::PartialSuccess(id) => id
            .as_ref()
            .map(|id| Outcome::PartialSuccess(log_id_to_pb(id))),
        AppendEntriesResponse::Conflict => Some(Outcome::Conflict(pb::Conflict {})),
        AppendEntriesResponse::HigherVote(vote) => Some(Outcome::HigherVote(vote_to_pb(vote))),
    }
}

fn propose_outcome(
    answer: Result<Proposed, ProposeError>,
) -> Result<pb::propose_response::Outcome, Status> {
    use pb::propose_response::Outcome;
    match answer {
        Ok(proposed) => Ok(Outcome::Appended(pb::Appended {
            leaf_index: proposed.appended.index,
            leaf: proposed.appended.leaf.to_bytes(),
            log_index: proposed.log_index,
        })),
        Err(ProposeError::Rejected(code)) => Ok(Outcome::Rejected(code.to_owned())),
        Err(ProposeError::NotLeader(leader)) => {
            Ok(Outcome::LeaderNodeId(leader.unwrap_or_default()))
        }
        Err(ProposeError::Overloaded { retry_after }) => Ok(Outcome::Overloaded(pb::Overloaded {
            retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX),
        })),
        Err(ProposeError::Unknown(error)) => {
            tracing::warn!(%error, "the outcome of a proposal is unknown");
            Err(Status::unknown("outcome unknown"))
        }
        Err(ProposeError::Stopped(_)) => Err(Status::unavailable("the replica has stopped")),
    }
}

fn malformed(error: impl std::error::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::error::Error) -> Status {
    tracing::debug!(%error, "a message came after the replica stopped");
    Status::unavailable("the replica has stopped")
}

fn damaged(error: &StoreError) -> Status {
    tracing::warn!(%error, "a snapshot could not be received");
    Status::data_loss("the snapshot could not be received")
}
