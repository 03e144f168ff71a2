use crate::error::StoreError;
use crate::types::{Entry, LogId};
use std::sync::Arc;
use tokio::sync::watch;

/// What this node has appended as the leader and not synced yet.
///
/// A leader sends an entry while it writes it (Ongaro, "Consensus: Bridging Theory and Practice", 2014, section
/// 10.2.1), so that its own sync and its followers' take place at the same time.
///
/// INVARIANT: nothing counts as kept by a quorum before the leader has synced it. What a follower answers to an
/// entry reaches Raft after [`Tail::synced`], an entry is applied after it, and no follower is told that an entry is
/// committed before it.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<watch::Sender<Unsynced>>);

#[derive(Default)]
struct Unsynced {
    /// In order, without gaps, after all that is on disk.
    entries: Vec<Entry>,
    failure: Option<Arc<StoreError>>,
}

impl Tail {
    /// These entries are being written.
    pub(crate) fn begin(&self, entries: Vec<Entry>) {
        self.0.send_modify(|unsynced| unsynced.entries = entries);
    }

    /// They are durable, or nobody knows whether they are: then nothing is ever synced again.
    pub(crate) fn end(&self, written: Result<(), StoreError>) {
        self.0.send_modify(|unsynced| match written {
            Ok(()) => unsynced.entries.clear(),
            Err(error) => unsynced.failure = Some(Arc::new(error)),
        });
    }

    /// The entries that are being written. Whoever also reads the disk reads it afterwards.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.borrow().entries.clone()
    }

    /// Waits until nothing up to this entry is left to sync.
    ///
    /// # Errors
    ///
    /// When it could not be written.
    pub(crate) async fn synced(&self, upto: Option<&LogId>) -> Result<(), StoreError> {
        let Some(upto) = upto else {
            return Ok(());
        };
        let is_synced = |unsynced: &Unsynced| {
            let first = unsynced.entries.first();
            first.is_none_or(|first| first.log_id.index > upto.index)
        };
        let mut changes = self.0.subscribe();
        let end = changes.wait_for(|now| is_synced(now) || now.failure.is_some());
        match end.await {
            Ok(now) if is_synced(&now) => Ok(()),
            _ => self.check(),
        }
    }

    /// Whether everything could be written so far.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match &self.0.borrow().failure {
            Some(failure) => Err(StoreError::Unsynced(Arc::clone(failure))),
            None => Ok(()),
        }
    }

    /// Waits until something cannot be written, or for `closing`.
    pub(crate) async fn failed(self, mut closing: watch::Receiver<bool>) -> Result<(), StoreError> {
        let mut changes = self.0.subscribe();
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => (),
            _ = changes.wait_for(|now| now.failure.is_some()) => (),
        }
        self.check()
    }
}
