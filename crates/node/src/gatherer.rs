//! Lets statements that are submitted at the same time share what each would cost alone: a signature of
//! every holder and a message to it, a message to the leader, an entry of its log.

use crate::{
    holders::{Holders, Placed},
    submit::SubmitError,
};
use futures::future::join_all;
use medanchor_anchor::{Append, AppendError, Appended, Group, Hold, SignedStatement, Submission};
use medanchor_dag::Hash;
use medanchor_raft::Replica;
use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::sync::{
    Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc, oneshot,
};

/// A handle; its task ends with the last of them.
#[derive(Clone)]
pub(crate) struct Gatherer {
    waiting: mpsc::Sender<Waiting>,
    turns: Arc<Mutex<Turns>>,
}

/// The statements that are being anchored.
type Turns = BTreeMap<Hash, Weak<AsyncMutex<()>>>;

/// The right to have a statement anchored: nobody else has it now.
pub(crate) type StatementTurn = OwnedMutexGuard<()>;

/// What is to be appended.
pub(crate) enum Gathered {
    /// Nobody has to hold anything.
    AsItIs(SignedStatement),
    /// Nodes have to hold what it names first (I1). This one does already.
    ToHold(Placed),
}

struct Waiting {
    submission: Gathered,
    reply: Reply,
}

impl Gatherer {
    /// A gatherer, and the work of its task.
    pub(crate) fn new(
        replica: Arc<Replica>,
        holders: Arc<Holders>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let gatherer = Self {
            waiting: sender,
            turns: Arc::default(),
        };
        (gatherer, gather(Work { replica, holders }, receiver))
    }

    /// Waits while the same statement is being anchored: a large record takes longer than a call, and the call is then
    /// made again.
    pub(crate) async fn turn(&self, statement: Hash) -> StatementTurn {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.get(&statement).and_then(Weak::upgrade);
            let turn = turn.unwrap_or_default();
            turns.insert(statement, Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }

    /// Has it held where it must be, and waits until its leaf is durable on a quorum and applied here.
    pub(crate) async fn append(&self, submission: Gathered) -> Result<Appended, SubmitError> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { submission, reply };
        self.waiting
            .try_send(waiting)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AppendError::Overloaded {
                    retry_after: RETRY_AFTER,
                },
                mpsc::error::TrySendError::Closed(_) => AppendError::Stopped("shut down".into()),
            })?;
        let lost = |closed: oneshot::error::RecvError| {
            SubmitError::from(AppendError::OutcomeUnknown(closed.into()))
        };
        answer.await.unwrap_or_else(|closed| Err(lost(closed)))
    }
}

/// While as many groups are under way as may be, what comes in waits for the same next one.
async fn gather(work: Work, mut receiver: mpsc::Receiver<Waiting>) {
    let under_way = Arc::new(Semaphore::new(GROUPS_UNDER_WAY));
    let mut waiting = Vec::new();
    while let Ok(permit) = Arc::clone(&under_way).acquire_owned().await {
        if receiver.recv_many(&mut waiting, MAX_GROUP).await == 0 {
            return;
        }
        tokio::spawn(work.clone().append_task(mem::take(&mut waiting), permit));
    }
}

#[derive(Clone)]
struct Work {
    replica: Arc<Replica>,
    holders: Arc<Holders>,
}

impl Work {
    async fn append_task(self, group: Vec<Waiting>, permit: OwnedSemaphorePermit) {
        let (mut as_they_are, mut to_hold) = (Vec::new(), Vec::new());
        for Waiting { submission, reply } in group {
            match submission {
                Gathered::AsItIs(signed) => as_they_are.push((signed, reply)),
                // What takes its holders long is nobody else's business.
                Gathered::ToHold(placed) if placed.is_large() => {
                    let work = self.clone();
                    tokio::spawn(async move {
                        answer(reply, work.append_alone(placed).await);
                    });
                }
                Gathered::ToHold(placed) => to_hold.push((placed, reply)),
            }
        }
        let unheld = self.append_group(as_they_are, Vec::new());
        let ((), not_held) = futures::join!(unheld, self.hold_and_append(to_hold));
        // What could not be held with the others waits for nobody's group, and no group for it.
        drop(permit);
        let alone = not_held.into_iter().map(|(placed, reply)| async {
            answer(reply, self.append_alone(placed).await);
        });
        join_all(alone).await;
    }

    /// Those that are not held often enough are given back.
    async fn hold_and_append(&self, to_hold: Vec<(Placed, Reply)>) -> Vec<(Placed, Reply)> {
        let holds = self
            .holders
            .gather_group(to_hold.iter().map(|(placed, _)| placed))
            .await;
        let mut copies: BTreeMap<Hash, usize> = BTreeMap::new();
        for statement in holds.iter().flat_map(|hold| &hold.statements) {
            *copies.entry(*statement).or_default() += 1;
        }
        let is_held = |placed: &Placed| {
            let statement = placed.checked.signed().statement.hash();
            copies
                .get(&statement)
                .is_some_and(|held| *held >= placed.copies)
        };
        let (held, not_held): (Vec<_>, Vec<_>) =
            to_hold.into_iter().partition(|(placed, _)| is_held(placed));
        let held = held
            .into_iter()
            .map(|(placed, reply)| (placed.checked.into_signed(), reply));
        self.append_group(held.collect(), holds).await;
        not_held
    }

    async fn append_group(&self, group: Vec<(SignedStatement, Reply)>, holds: Vec<Hold>) {
        let (statements, replies): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        if statements.is_empty() {
            return;
        }
        // Commit point: from here the statements have leaves that survive every crash.
        let answers = self
            .replica
            .append_group(Group {
                statements,
                holds,
                lists: Vec::new(),
            })
            .await;
        for (reply, appended) in replies.into_iter().zip(answers) {
            answer(reply, appended.map_err(SubmitError::from));
        }
    }

    async fn append_alone(&self, placed: Placed) -> Result<Appended, SubmitError> {
        let holds = self.holders.gather(&placed).await?;
        let signed = placed.checked.into_signed();
        // Commit point, as above.
        Ok(self
            .replica
            .append(Submission {
                signed,
                holds,
                list: None,
            })
            .await?)
    }
}

type Reply = oneshot::Sender<Result<Appended, SubmitError>>;

fn answer(reply: Reply, appended: Result<Appended, SubmitError>) {
    // Who no longer waits needs no answer.
    let _gone = reply.send(appended);
}

/// What is asked of who is sent away: a group is gone in less.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(250);
const MAX_WAITING: usize = 4096;
/// Statements in one group.
const MAX_GROUP: usize = 256;
/// One is held while another is appended.
const GROUPS_UNDER_WAY: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn same_statement_waits_for_its_turn_and_no_other_does() {
        let (waiting, _receiver) = mpsc::channel(1);
        let gatherer = Gatherer {
            waiting,
            turns: Arc::default(),
        };
        let (one, other) = (Hash::of(b"one"), Hash::of(b"other"));
        let turn = gatherer.turn(one).await;
        assert!(gatherer.turn(one).now_or_never().is_none());
        assert!(gatherer.turn(other).now_or_never().is_some());
        drop(turn);
        assert!(gatherer.turn(one).now_or_never().is_some());
        assert_eq!(
            gatherer.turns.lock().unwrap().len(),
            1,
            "the last is kept until the next"
        );
    }
}
