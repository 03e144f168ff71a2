use crate::admission::Admission;
use crate::alarm::Alarms;
use crate::batcher::{Answers, Batcher, ProposeError, Proposed};
use crate::certify::certify;
use crate::compare::{Comparison, compare_task};
use crate::config::ReplicaConfig;
use crate::databases::Databases;
use crate::error::{StoreError, blocking};
use crate::heads::HeadSigner;
use crate::log_store::LogStore;
use crate::members::Members;
use crate::peers::Peers;
use crate::reads::{self, Reads};
use crate::rejection::rejection;
use crate::runtime::{Instant, JoinHandle, sleep, spawn, timeout, timeout_at};
use crate::self_check::self_check;
use crate::snapshots::Snapshots;
use crate::state_store::{Applied, StateStore};
use crate::status::{ReplicaStatus, Role, follow};
use crate::step_aside::{StepAside, step_aside_task};
use crate::types::{NodeId, Raft};
use futures::future::BoxFuture;
use medanchor_anchor::{
    Append, AppendError, Appended, BoxError, Group, Leaf, LeafIndex, Read, ReadError,
    SignedStatement, Submission, View,
};
use medanchor_api::pb::raft as pb;
use openraft::error::{InitializeError, RaftError};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Mutex, Notify, watch};

/// This node's copy of the anchor log, kept equal to the other nodes' by Raft. Clones are handles to the
/// same replica, which ends with the last of them, or at [`Replica::shutdown`].
#[derive(Clone)]
pub struct Replica(Arc<Inner>);

struct Inner {
    node_id: NodeId,
    founders: BTreeSet<NodeId>,
    admitted: watch::Sender<LeafIndex>,
    data_dir: PathBuf,
    deadline: Duration,
    raft: Raft,
    state: StateStore,
    peers: Peers,
    admission: Admission,
    batcher: Batcher,
    reads: Reads,
    status: watch::Receiver<ReplicaStatus>,
    /// Asks for heads to be compared at once.
    compare: Arc<Notify>,
    closing: watch::Sender<bool>,
    batching: Mutex<Option<JoinHandle<()>>>,
    failure: Arc<OnceLock<String>>,
}

/// Why a replica did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration contradicts itself.
    #[error("configuration is not valid: {0}")]
    Config(&'static str),
    /// The data directory could not be read or written.
    #[error("data directory cannot be used")]
    Store(#[from] StoreError),
    /// Raft could not start from what is stored.
    #[error("raft could not start")]
    Raft(#[source] BoxError),
}

/// Why the replica is no longer in service. The node must leave service too.
#[derive(Debug, thiserror::Error)]
#[error("replica stopped")]
pub struct Stopped(#[source] BoxError);

impl Replica {
    /// Opens what the data directory holds and takes part in the network. A node that starts for the first
    /// time waits for [`Replica::found`] on the founding node.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub async fn open(config: ReplicaConfig) -> Result<Self, OpenError> {
        check(&config)?;
        let dir = config.data_dir.clone();
        let databases = blocking(move || Databases::open(&dir)).await?;
        Self::open_with(config, databases).await
    }

    /// Whether a replica is kept in `data_dir`. One that has lost a part of its files is none.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn exists(data_dir: &Path) -> Result<bool, OpenError> {
        Ok(Databases::exist(data_dir)?)
    }

    /// Makes the files of a replica that has not taken part in anything yet.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written.
    pub fn create(data_dir: &Path) -> Result<(), OpenError> {
        Ok(Databases::open(data_dir).map(drop)?)
    }

    /// Puts the state aside, so that the next start makes it anew from the newest certified snapshot and from the
    /// log, which stay as they are: what this replica acknowledged is kept. The replica must not run. Gives the
    /// file in which the old state is.
    ///
    /// # Errors
    ///
    /// When there is no whole replica in `data_dir`, it runs, or the directory cannot be written.
    pub fn rebuild_state(data_dir: &Path) -> Result<PathBuf, OpenError> {
        Ok(Databases::put_state_aside(data_dir)?)
    }

    pub(crate) async fn open_with(
        config: ReplicaConfig,
        databases: Databases,
    ) -> Result<Self, OpenError> {
        #[cfg(medanchor_fault)]
        let config = crate::fault::config(config);
        let raft_config = Arc::new(raft_config(&config)?);
        let (node_id, dir) = (config.node_id, config.data_dir.clone());
        let (identity, every) = (config.identity.clone(), config.snapshot_every);
        let alarms = Alarms::new(config.alarm.clone());
        let told = alarms.clone();
        let (state, log) = blocking(move || {
            let snapshots = Snapshots::open(dir, identity.clone(), every)?.telling(told);
            let state = StateStore::open(databases.state, snapshots)?;
            let signer = HeadSigner {
                node_id,
                identity,
                state: state.clone(),
            };
            let log = LogStore::open(databases.log, databases.log_bytes, signer)?;
            Ok((state, log))
        })
        .await?;
        let (step_aside, how_long) = (StepAside::new(), config.step_aside);
        let compare_every = config.compare_every;
        let peers = Peers::new(&config, log.tail().clone(), step_aside.clone());
        let tail = log.tail().clone();
        let admission = Admission::new(&config, log.clone(), state.clone(), alarms.clone());
        let raft = Raft::new(node_id, raft_config, peers.clone(), log, state.clone())
            .await
            .map_err(|fatal| OpenError::Raft(fatal.into()))?;
        let (reads, confirming) = Reads::new(raft.clone());
        spawn(confirming);
        let replica = Self::start(config, raft, state, peers, reads, admission);
        spawn(stop_on_failure(
            tail.failed(replica.0.closing.subscribe()),
            replica.raft().clone(),
            Arc::clone(&replica.0.failure),
        ));
        spawn(step_aside_task(
            step_aside,
            replica.raft().clone(),
            how_long,
            alarms,
            replica.0.closing.subscribe(),
        ));
        spawn(compare_task(
            replica.comparison(),
            compare_every,
            Arc::clone(&replica.0.compare),
            replica.0.closing.subscribe(),
        ));
        Ok(replica)
    }

    fn start(
        config: ReplicaConfig,
        raft: Raft,
        state: StateStore,
        peers: Peers,
        reads: Reads,
        admission: Admission,
    ) -> Self {
        let closing = watch::Sender::new(false);
        let failure = Arc::new(OnceLock::new());
        let (batcher, batching) =
            Batcher::new(raft.clone(), Arc::clone(&config.clock), closing.subscribe());
        let (status, following) = follow(raft.metrics(), state.applied());
        spawn(following);
        let work = make_durable(state.clone(), config.durable_every, closing.subscribe());
        spawn(stop_on_failure(work, raft.clone(), Arc::clone(&failure)));
        let work = certify(
            state.clone(),
            raft.clone(),
            peers.clone(),
            (Arc::clone(&config.clock), config.snapshot_again),
            closing.subscribe(),
        );
        spawn(stop_on_failure(work, raft.clone(), Arc::clone(&failure)));
        let work = self_check(state.clone(), closing.subscribe());
        spawn(stop_on_failure(work, raft.clone(), Arc::clone(&failure)));
        let admitted = watch::Sender::new(0);
        let members = Members {
            raft: raft.clone(),
            state: state.clone(),
            admitted: admitted.subscribe(),
        };
        spawn(members.reconcile_task(closing.subscribe()));
        Self(Arc::new(Inner {
            node_id: config.node_id,
            founders: config.founders,
            admitted,
            data_dir: config.data_dir,
            deadline: config.deadline,
            raft,
            state,
            peers,
            admission,
            batcher,
            reads,
            status,
            compare: Arc::default(),
            closing,
            batching: Mutex::new(Some(spawn(batching))),
            failure,
        }))
    }

    /// Founds the network with leaf 0, and waits until it is there: on the founder with the lowest id. On
    /// another node, and once the log is not empty, it does nothing; so every node may call it at every
    /// start.
    ///
    /// # Errors
    ///
    /// [`AppendError::Rejected`] when the statement cannot found a network, [`AppendError::Stopped`].
    /// While too few members can be reached it goes on trying.
    pub async fn found(&self, founded: SignedStatement) -> Result<(), AppendError> {
        if self.0.founders.first() != Some(&self.0.node_id) {
            return Ok(());
        }
        self.initialize().await?;
        let submission = Submission {
            signed: founded,
            holds: Vec::new(),
            list: None,
        };
        while self.status().tree_size == 0 {
            match self.append(submission.clone()).await {
                Ok(_) => return Ok(()),
                Err(AppendError::Unavailable(error) | AppendError::OutcomeUnknown(error)) => {
                    tracing::info!(%error, "the network is not founded yet");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes the members known to Raft, once.
    async fn initialize(&self) -> Result<(), AppendError> {
        let raft = &self.0.raft;
        let initialized = raft.is_initialized().await;
        // Asked a second time, openraft would say no, and log that as an error.
        if initialized.map_err(|error| AppendError::Stopped(error.into()))? {
            return Ok(());
        }
        match raft.initialize(self.0.founders.clone()).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(AppendError::Stopped(error.into())),
        }
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.0.node_id
    }

    /// Whether `node_id` takes part in Raft, as far as this replica knows: a removed member does until the
    /// others have agreed without it. A replica that knows nothing yet lets in whomever its node does.
    pub fn is_member(&self, node_id: NodeId) -> bool {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        membership.get_node(&node_id).is_some() || membership.nodes().next().is_none()
    }

    /// Lets nodes into Raft whose `member-added` leaf is before `index`: from then on a newcomer may lead,
    /// and what it signs must be believed.
    pub fn admit_before(&self, index: LeafIndex) {
        self.0
            .admitted
            .send_if_modified(|before| std::mem::replace(before, index.max(*before)) < index);
    }

    /// What this replica does and knows now.
    pub fn status(&self) -> ReplicaStatus {
        *self.0.status.borrow()
    }

    /// What this replica does.
    pub fn role(&self) -> Role {
        self.status().role
    }

    /// The leader that this replica knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.status().leader
    }

    /// Tells whenever the role, the leader or the log changes.
    pub fn watch(&self) -> watch::Receiver<ReplicaStatus> {
        self.0.status.clone()
    }

    /// Resolves when this replica has stopped: it was shut down, or its disk failed and nobody knows what
    /// is durable.
    pub async fn stopped(&self) -> Stopped {
        let mut metrics = self.0.raft.metrics();
        // An error means that Raft is gone, which says the same.
        drop(metrics.wait_for(|now| now.running_state.is_err()).await);
        if let Some(failure) = self.0.failure.get() {
            return Stopped(failure.clone().into());
        }
        let reason = metrics.borrow().running_state.clone();
        match reason {
            Err(fatal) => Stopped(fatal.into()),
            Ok(()) => Stopped("raft ended without a reason".into()),
        }
    }

    /// Takes nothing new, answers what waits, makes the state durable and stops.
    ///
    /// # Errors
    ///
    /// When the state cannot be made durable. The log is, so that nothing is lost.
    pub async fn shutdown(&self) -> Result<(), StoreError> {
        self.0.closing.send_replace(true);
        let batching = self.0.batching.lock().await.take();
        if let Some(batching) = batching {
            // Without a quorum what waits gets no answer; it is not waited for without end.
            let _drained = timeout(self.0.deadline, batching).await;
        }
        self.0.raft.shutdown().await?;
        let state = self.0.state.clone();
        blocking(move || state.make_durable()).await
    }

    /// Compares all heads with the other nodes' at once: something says that somebody lies.
    pub fn compare_heads(&self) {
        self.0.compare.notify_one();
    }

    pub(crate) fn comparison(&self) -> Comparison {
        let (admission, peers) = (self.0.admission.clone(), self.0.peers.clone());
        Comparison::new(self.0.node_id, admission, peers)
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.0.raft
    }

    pub(crate) fn state(&self) -> &StateStore {
        &self.0.state
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.0.peers
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.0.deadline
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.0.admission
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.0.data_dir
    }

    /// Proposes on this node, which must lead.
    pub(crate) async fn propose(&self, submission: Submission) -> Result<Proposed, ProposeError> {
        let answers = self.propose_group(submission.into()).await?;
        let only = answers.into_iter().next();
        only.unwrap_or_else(|| Err(ProposeError::Unknown("there is no answer".into())))
    }

    /// Proposes on this node, which must lead: one answer for each statement, in order.
    pub(crate) async fn propose_group(&self, group: Group) -> Result<Answers, ProposeError> {
        let status = self.status();
        match status.role {
            Role::Leader if self.0.peers.is_aside() => Err(ProposeError::NotLeader(None)),
            Role::Leader if self.log_is_full() => Err(ProposeError::Overloaded {
                retry_after: FULL_LOG_RETRY,
            }),
            Role::Leader => self.0.batcher.propose(group).await,
            Role::Stopped => Err(ProposeError::Stopped("raft has stopped".into())),
            _ => Err(ProposeError::NotLeader(status.leader)),
        }
    }

    /// [`StateStore::log_is_full`], and says so.
    fn log_is_full(&self) -> bool {
        let full = self.0.state.log_is_full();
        if full {
            tracing::warn!(
                "nothing new is accepted: the log is full, and too few members sign the state for \
                 it to be purged"
            );
        }
        full
    }

    /// The index that a read must have applied; this node must lead.
    pub(crate) async fn read_index(&self) -> Result<u64, reads::ReadError> {
        self.0.reads.read_index().await
    }

    async fn barrier_until(&self, deadline: Instant) -> Result<(), ReadError> {
        loop {
            let leader = self.leader();
            let answer = match leader {
                None => Err("no leader is known".into()),
                Some(leader) if leader == self.0.node_id => match self.read_index().await {
                    Err(reads::ReadError::Stopped) => {
                        return Err(ReadError::Stopped("raft has stopped".into()));
                    }
                    Err(reads::ReadError::Unconfirmed) => {
                        Err(BoxError::from("not confirmed as the leader"))
                    }
                    Ok(log_index) => Ok(log_index),
                },
                Some(leader) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.0.peers.read_index(leader, left).await
                }
            };
            match answer {
                Ok(log_index) => return self.applied(log_index, deadline).await,
                Err(error) if Instant::now() >= deadline => {
                    return Err(ReadError::Unavailable(error));
                }
                Err(_) => self.pause(leader, deadline).await,
            }
            if self.role() == Role::Stopped {
                return Err(ReadError::Stopped(self.stopped().await.into()));
            }
        }
    }

    /// Waits until this replica has applied the entry.
    pub(crate) async fn applied(&self, log_index: u64, deadline: Instant) -> Result<(), ReadError> {
        let mut applied = self.0.state.applied();
        let reached = applied.wait_for(|now: &Applied| now.log_index >= Some(log_index));
        tokio::select! {
            biased;
            reached = timeout_at(deadline, reached) => match reached {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(closed)) => Err(ReadError::Stopped(closed.into())),
                Err(elapsed) => Err(ReadError::Unavailable(elapsed.into())),
            },
            stopped = self.stopped() => Err(ReadError::Stopped(stopped.into())),
        }
    }

    /// Before another try: until another node leads, or a little while.
    pub(crate) async fn pause(&self, leader: Option<NodeId>, deadline: Instant) {
        let mut status = self.watch();
        let changed = status.wait_for(|now| now.leader != leader || now.role == Role::Stopped);
        let until = deadline.min(Instant::now() + RETRY_PAUSE);
        // Either way it is time to try again.
        drop(timeout_at(until, changed).await);
    }
}

impl Append for Replica {
    fn append(&self, submission: Submission) -> BoxFuture<'_, Result<Appended, AppendError>> {
        let deadline = Instant::now() + self.0.deadline;
        Box::pin(async move {
            let appended = self.append_until(&submission.into(), deadline).await?;
            match appended.into_iter().next() {
                Some(appended) => appended.map_err(AppendError::Rejected),
                None => Err(AppendError::OutcomeUnknown("there is no answer".into())),
            }
        })
    }
}

impl Read for Replica {
    fn view(&self) -> Result<Box<dyn View + Send + '_>, ReadError> {
        Ok(Box::new(self.0.state.view()))
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        let deadline = Instant::now() + self.0.deadline;
        Box::pin(async move {
            timeout_at(deadline, self.barrier_until(deadline))
                .await
                .unwrap_or_else(|elapsed| Err(ReadError::Unavailable(elapsed.into())))
        })
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("node_id", &self.0.node_id)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

pub(crate) fn proposed(response: pb::ProposeResponse) -> Result<Proposed, ProposeError> {
    use pb::propose_response::Outcome;
    match response.outcome {
        Some(Outcome::Appended(appended)) => match Leaf::from_bytes(&appended.leaf) {
            Ok(leaf) => Ok(Proposed {
                appended: Appended {
                    index: appended.leaf_index,
                    leaf,
                },
                log_index: appended.log_index,
            }),
            Err(error) => Err(ProposeError::Unknown(error.into())),
        },
        Some(Outcome::Rejected(code)) => Err(ProposeError::Rejected(rejection(&code))),
        Some(Outcome::LeaderNodeId(0)) => Err(ProposeError::NotLeader(None)),
        Some(Outcome::LeaderNodeId(leader)) => Err(ProposeError::NotLeader(Some(leader))),
        Some(Outcome::Overloaded(overloaded)) => Err(ProposeError::Overloaded {
            retry_after: Duration::from_millis(overloaded.retry_after_ms.into()),
        }),
        None => Err(ProposeError::Unknown("the answer is empty".into())),
    }
}

/// Makes the state durable when there is much to write, and now and then, so that a restart has little to apply
/// again, until `closing` turns true.
async fn make_durable(
    state: StateStore,
    every: Duration,
    mut closing: watch::Receiver<bool>,
) -> Result<(), StoreError> {
    loop {
        tokio::select! {
            biased;
            // An error means that the replica is gone.
            _ = closing.wait_for(|closing| *closing) => return Ok(()),
            () = state.large() => (),
            () = sleep(every) => (),
        }
        let state = state.clone();
        blocking(move || state.make_durable()).await?;
    }
}

/// When the disk fails under `work`, the replica stops.
async fn stop_on_failure(
    work: impl Future<Output = Result<(), StoreError>>,
    raft: Raft,
    failure: Arc<OnceLock<String>>,
) {
    if let Err(error) = work.await {
        // Only the first failure is the reason.
        let _known = failure.set(chain(&error));
        // It cannot fail: openraft's signature keeps an error that it no longer gives.
        let _stopped = raft.shutdown().await;
    }
}

/// An error with all that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}

fn check(config: &ReplicaConfig) -> Result<(), OpenError> {
    if config.node_id == 0 || config.founders.contains(&0) {
        return Err(OpenError::Config("node ids begin with 1"));
    }
    if config.snapshot_every == 0 {
        return Err(OpenError::Config("`snapshot_every` must not be 0"));
    }
    if config.step_aside < config.election.1.saturating_mul(ELECTIONS_ASIDE) {
        return Err(OpenError::Config(
            "`step_aside` must give the others time for an election",
        ));
    }
    Ok(())
}

fn raft_config(config: &ReplicaConfig) -> Result<openraft::Config, OpenError> {
    let millis = |time: Duration| {
        u64::try_from(time.as_millis()).map_err(|_| OpenError::Config("a time is too long"))
    };
    let (soonest, latest) = config.election;
    openraft::Config {
        cluster_name: "medanchor".to_owned(),
        heartbeat_interval: millis(config.heartbeat)?,
        election_timeout_min: millis(soonest)?,
        election_timeout_max: millis(latest)?,
        install_snapshot_timeout: millis(config.snapshot_deadline)?,
        // Snapshots are made at entries of our own choice.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: config.keep_entries,
        replication_lag_threshold: config.snapshot_every.saturating_add(config.keep_entries),
        ..openraft::Config::default()
    }
    .validate()
    .map_err(|_| OpenError::Config("heartbeats must be more frequent than elections"))
}

/// What is asked of who is sent away while the log waits for a snapshot.
const FULL_LOG_RETRY: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// What a follower waits at most before it asks for votes: the lease of the last leader, its own time, and twice
/// that if it knows of a longer log, each at most the latest time of an election.
const ELECTIONS_ASIDE: u32 = 4;
