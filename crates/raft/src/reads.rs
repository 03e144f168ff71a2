use crate::types::Raft;
use openraft::error::RaftError;
use tokio::sync::{mpsc, oneshot};

/// Lets reads that come at the same time share one round to the followers.
#[derive(Clone)]
pub(crate) struct Reads(mpsc::Sender<oneshot::Sender<Result<u64, ReadError>>>);

/// Why the leader did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// This node does not lead, or no quorum says that it does: ask again.
    Unconfirmed,
    /// The replica has stopped.
    Stopped,
}

impl Reads {
    /// The reads of `raft`, and the work of their task, which ends with the last handle.
    pub(crate) fn new(raft: Raft) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self(sender), confirm(raft, receiver))
    }

    /// Index of the entry that a read which begins now must have applied; only the leader knows it.
    pub(crate) async fn read_index(&self) -> Result<u64, ReadError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).await.map_err(|_| ReadError::Stopped)?;
        answer.await.unwrap_or(Err(ReadError::Stopped))
    }
}

async fn confirm(
    raft: Raft,
    mut receiver: mpsc::Receiver<oneshot::Sender<Result<u64, ReadError>>>,
) {
    let mut waiting = Vec::new();
    // A round answers those only who came before it began.
    while receiver.recv_many(&mut waiting, MAX_WAITING).await > 0 {
        let answer = match raft.get_read_log_id().await {
            Ok((read, _)) => Ok(read.map_or(0, |id| id.index)),
            Err(RaftError::APIError(_)) => Err(ReadError::Unconfirmed),
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
        };
        for reply in waiting.drain(..) {
            // Who no longer waits needs no answer.
            let _gone = reply.send(answer);
        }
    }
}

const MAX_WAITING: usize = 1024;
