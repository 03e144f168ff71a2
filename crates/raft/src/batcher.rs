use crate::config::Clock;
use crate::runtime::{Instant, fill_random, spawn, spawn_blocking, timeout_at};
use crate::types::{NodeId, Proposal, Raft, Response};
use medanchor_anchor::{Appended, Applied, Batch, BoxError, Entry, Group, Hold};
use openraft::error::RaftError;
use openraft::raft::ClientWriteResponse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Lets submissions that come at the same time share one entry of the log, and so one write to disk and
/// one round to the followers.
#[derive(Clone)]
pub(crate) struct Batcher {
    sender: mpsc::Sender<Waiting>,
    room: Room,
    pace: Pace,
}

/// How long the newest batch took, in ms: when the queue is full, there is room again about then.
#[derive(Clone, Default)]
struct Pace(Arc<AtomicU64>);

impl Pace {
    fn note(&self, began: Instant) {
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.store(took, Ordering::Relaxed);
    }

    fn retry_after(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed)).clamp(SOONEST, LATEST)
    }
}

/// Where groups wait: so many statements, and so many bytes of them.
#[derive(Clone)]
struct Room {
    statements: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// The room that a group takes, until it is dropped.
struct Place {
    _statements: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Room {
    fn new(statements: usize, bytes: usize) -> Self {
        Self {
            statements: Arc::new(Semaphore::new(statements)),
            bytes: Arc::new(Semaphore::new(bytes)),
        }
    }

    fn enter(&self, statements: usize, bytes: usize) -> Option<Place> {
        let take = |from: &Arc<Semaphore>, count: usize| {
            let count = u32::try_from(count).ok()?;
            Arc::clone(from).try_acquire_many_owned(count).ok()
        };
        Some(Place {
            _statements: take(&self.statements, statements)?,
            _bytes: take(&self.bytes, bytes)?,
        })
    }
}

/// Where a submission ended up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proposed {
    /// Its leaf.
    pub(crate) appended: Appended,
    /// Index of the entry that a replica must have applied to see it.
    pub(crate) log_index: u64,
}

/// Why a submission has no leaf.
#[derive(Debug)]
pub(crate) enum ProposeError {
    /// Another node leads, or none: nothing was proposed.
    NotLeader(Option<NodeId>),
    /// It can never have one.
    Rejected(&'static str),
    /// Too many wait.
    Overloaded {
        /// When there may be room again.
        retry_after: Duration,
    },
    /// It may have one or get one.
    Unknown(BoxError),
    /// The replica has stopped.
    Stopped(BoxError),
}

impl Batcher {
    /// A batcher, and the work of its task: ends when `closing` turns true and everything that waited is
    /// answered.
    pub(crate) fn new(
        raft: Raft,
        clock: Clock,
        closing: watch::Receiver<bool>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let room = Room::new(MAX_WAITING, MAX_WAITING_BYTES);
        let pace = Pace::default();
        let task = Task {
            pace: pace.clone(),
            raft,
            clock,
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            receiver,
            left_over: None,
        };
        (Self { sender, room, pace }, task.run(closing))
    }

    /// Waits until the group's entry is applied here: one answer for each statement, in order. All of it is
    /// in one batch, since its statements share their holds.
    pub(crate) async fn propose(&self, group: Group) -> Result<Answers, ProposeError> {
        let overloaded = || ProposeError::Overloaded {
            retry_after: self.pace.retry_after(),
        };
        let (reply, answer) = oneshot::channel();
        let size_bytes = size_bytes(&group);
        let place = self.room.enter(group.statements.len(), size_bytes);
        let waiting = Waiting {
            size_bytes,
            group,
            reply,
            place: place.ok_or_else(overloaded)?,
        };
        self.sender.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded(),
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped("shut down".into()),
        })?;
        answer
            .await
            .map_err(|closed| ProposeError::Unknown(closed.into()))
    }
}

/// What became of each statement of a group.
pub(crate) type Answers = Vec<Result<Proposed, ProposeError>>;

struct Waiting {
    group: Group,
    size_bytes: usize,
    reply: oneshot::Sender<Answers>,
    place: Place,
}

struct Task {
    pace: Pace,
    raft: Raft,
    clock: Clock,
    in_flight: Arc<Semaphore>,
    receiver: mpsc::Receiver<Waiting>,
    /// Did not fit into the batch before.
    left_over: Option<Waiting>,
}

impl Task {
    async fn run(mut self, mut closing: watch::Receiver<bool>) {
        loop {
            let first = tokio::select! {
                biased;
                () = closed(&mut closing) => {
                    self.receiver.close();
                    self.first().await
                }
                first = self.first() => first,
            };
            let Some(first) = first else { break };
            // While nothing else can be sent, what comes in waits for the same batch.
            let Ok(permit) = Arc::clone(&self.in_flight).acquire_owned().await else {
                break;
            };
            let batch = self.collect(first).await;
            spawn(propose(
                self.raft.clone(),
                Arc::clone(&self.clock),
                batch,
                permit,
                self.pace.clone(),
            ));
        }
        // Drained when every permit is back.
        let _drained = self.in_flight.acquire_many(MAX_IN_FLIGHT_PERMITS).await;
    }

    async fn first(&mut self) -> Option<Waiting> {
        match self.left_over.take() {
            Some(waiting) => Some(waiting),
            None => self.receiver.recv().await,
        }
    }

    /// Everything that waits, up to the limits; while others are in flight, also what comes within
    /// [`LINGER`].
    async fn collect(&mut self, first: Waiting) -> Vec<Waiting> {
        let busy = self.in_flight.available_permits() < MAX_IN_FLIGHT.saturating_sub(1);
        let until = busy.then(|| Instant::now() + LINGER);
        let mut size_bytes = first.size_bytes;
        let mut entries = first.group.statements.len();
        let mut batch = vec![first];
        while entries < Batch::MAX_ENTRIES {
            let next = match (self.receiver.try_recv(), until) {
                (Ok(next), _) => Some(next),
                (Err(_), None) => None,
                (Err(_), Some(until)) => timeout_at(until, self.receiver.recv())
                    .await
                    .unwrap_or(None),
            };
            let Some(next) = next else { break };
            size_bytes = size_bytes.saturating_add(next.size_bytes);
            entries = entries.saturating_add(next.group.statements.len());
            if size_bytes > MAX_BATCH_BYTES || entries > Batch::MAX_ENTRIES {
                self.left_over = Some(next);
                break;
            }
            batch.push(next);
        }
        batch
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that the replica is gone, which closes too.
    drop(closing.wait_for(|closing| *closing).await);
}

/// Proposes one batch and answers everybody who waits for it.
async fn propose(
    raft: Raft,
    clock: Clock,
    waiting: Vec<Waiting>,
    permit: OwnedSemaphorePermit,
    pace: Pace,
) {
    let began = Instant::now();
    let (groups, replies): (Vec<_>, Vec<_>) = waiting
        .into_iter()
        .filter(|waiting| !waiting.reply.is_closed())
        .map(|waiting| {
            // It waits no more.
            drop(waiting.place);
            let count = waiting.group.statements.len();
            (waiting.group, (waiting.reply, count))
        })
        .unzip();
    let count = replies.iter().map(|(_, count)| count).sum();
    if count == 0 {
        // Nobody waits any more; an empty batch would ask everybody for a snapshot.
        return;
    }
    let proposed_at = clock();
    let answers = match spawn_blocking(move || batch(groups, proposed_at)).await {
        Ok(Ok(proposal)) => write(&raft, proposal, count).await,
        Ok(Err(error)) => everybody(count, || ProposeError::Unknown(error.into())),
        Err(_) => everybody(count, || {
            ProposeError::Unknown("the batch could not be made".into())
        }),
    };
    let mut answers = answers.into_iter();
    for (reply, count) in replies {
        // Who no longer waits needs no answer.
        let _gone = reply.send(answers.by_ref().take(count).collect());
    }
    pace.note(began);
    drop(permit);
}

async fn write(raft: &Raft, proposal: Proposal, count: usize) -> Answers {
    #[cfg(medanchor_fault)]
    crate::fault::step("batch-made");
    match raft.client_write(proposal).await {
        Ok(ClientWriteResponse {
            log_id,
            data: Response(applied),
            ..
        }) if applied.len() == count => applied
            .into_iter()
            .map(|applied| match applied {
                Applied::Leaf(appended) => Ok(Proposed {
                    appended,
                    log_index: log_id.index,
                }),
                Applied::Rejected(code) => Err(ProposeError::Rejected(code)),
            })
            .collect(),
        Ok(_) => everybody(count, || {
            ProposeError::Unknown("the entry was not applied as proposed".into())
        }),
        // Also when another leader took over: it may have the entry or not.
        Err(RaftError::APIError(error)) => {
            everybody(count, || ProposeError::Unknown(error.clone().into()))
        }
        Err(RaftError::Fatal(fatal)) => {
            everybody(count, || ProposeError::Stopped(fatal.clone().into()))
        }
    }
}

fn everybody(count: usize, error: impl Fn() -> ProposeError) -> Answers {
    std::iter::repeat_with(|| Err(error()))
        .take(count)
        .collect()
}

/// Adds what `apply` may not draw or measure itself: the time and the salts.
fn batch(groups: Vec<Group>, proposed_at: u64) -> Result<Proposal, getrandom::Error> {
    let mut entries = Vec::with_capacity(groups.len());
    let (mut holds, mut lists) = (Holds::default(), Vec::new());
    for group in groups {
        for signed in group.statements {
            let mut salt = [0; 32];
            fill_random(&mut salt)?;
            entries.push(Entry { salt, signed });
        }
        group.holds.into_iter().for_each(|hold| holds.add(hold));
        lists.extend(group.lists);
    }
    let batch = Batch {
        v: 1,
        proposed_at,
        entries,
        holds: holds.0.into_values().flatten().collect(),
        lists,
    };
    Ok(Proposal::new(batch.to_bytes()))
}

/// Each hold once, found by its signature. A forger may give two holds the same one, so that it is not
/// enough to tell them apart.
#[derive(Default)]
struct Holds(BTreeMap<[u8; 64], Vec<Hold>>);

impl Holds {
    fn add(&mut self, hold: Hold) {
        let same = self.0.entry(*hold.sig.as_bytes()).or_default();
        if !same.contains(&hold) {
            same.push(hold);
        }
    }
}

/// A little more than the group takes in a batch.
fn size_bytes(group: &Group) -> usize {
    let statements = group.statements.iter();
    let statements = statements.map(|signed| signed.to_bytes().len() + ENTRY_BYTES);
    let holds = group.holds.iter();
    let holds = holds.map(|hold| hold.statements.len() * HASH_BYTES + HOLD_BYTES);
    let lists = group.lists.iter().map(|list| list.to_bytes().len());
    statements.sum::<usize>() + holds.sum::<usize>() + lists.sum::<usize>()
}

/// What is asked of who is sent away.
const SOONEST: Duration = Duration::from_millis(10);
const LATEST: Duration = Duration::from_secs(5);
/// Statements that wait at most, in however many groups.
const MAX_WAITING: usize = 4096;
/// The longest message between replicas fits twice.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;
/// One is on its way to the disks while the next fills.
const MAX_IN_FLIGHT: usize = 2;
const MAX_IN_FLIGHT_PERMITS: u32 = 2;
const LINGER: Duration = Duration::from_millis(2);
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Salt and field names.
const ENTRY_BYTES: usize = 96;
/// A hash as a DAG-CBOR byte string.
const HASH_BYTES: usize = 34;
/// A hold without its statements: key, signature, origin, time, field names.
const HOLD_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::Room;

    #[test]
    fn room_is_for_so_many_statements_and_so_many_bytes() {
        let room = Room::new(10, 100);
        let first = room.enter(6, 10).unwrap();
        assert!(room.enter(5, 10).is_none());
        let second = room.enter(1, 90).unwrap();
        assert!(room.enter(1, 1).is_none());
        drop(first);
        assert!(room.enter(1, 11).is_none());
        let third = room.enter(9, 10).unwrap();
        drop((second, third));
        assert!(room.enter(10, 100).is_some());
        assert!(room.enter(1, usize::MAX).is_none());
    }
}
