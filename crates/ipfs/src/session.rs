use libp2p::PeerId;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What is known of the peers that provide one DAG: who is worth asking next, without asking all.
#[derive(Debug, Default)]
pub(crate) struct Session(Mutex<BTreeMap<PeerId, Tally>>);

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    hits: u64,
    misses: u64,
    /// Blocks that it was asked for and owes.
    owed: u64,
}

impl Session {
    /// A session that asks `hint` first.
    pub(crate) fn new(hint: Option<PeerId>) -> Self {
        let tallies = hint.map(|peer| (peer, Tally::default())).into_iter();
        Self(Mutex::new(tallies.collect()))
    }

    /// Whether some peer has sent a block already.
    pub(crate) fn is_settled(&self) -> bool {
        self.tallies().values().any(|tally| tally.hits > 0)
    }

    /// The best of `peers`: one that mostly had what it was asked for, and owes least.
    pub(crate) fn best(&self, peers: &[PeerId]) -> Option<PeerId> {
        let tallies = self.tallies();
        let rank = |peer: &&PeerId| {
            let tally = tallies.get(peer).copied().unwrap_or_default();
            (tally.misses > tally.hits, tally.owed)
        };
        peers.iter().min_by_key(rank).copied()
    }

    /// The best of those of `peers` that are known to provide blocks.
    pub(crate) fn best_known(&self, mut peers: Vec<PeerId>) -> Option<PeerId> {
        let tallies = self.tallies();
        peers.retain(|peer| tallies.contains_key(peer));
        drop(tallies);
        self.best(&peers)
    }

    pub(crate) fn provides(&self, peer: PeerId) {
        self.tallies().entry(peer).or_default();
    }

    pub(crate) fn hit(&self, peer: PeerId) {
        self.tallies().entry(peer).or_default().hits += 1;
    }

    pub(crate) fn miss(&self, peer: PeerId) {
        self.tallies().entry(peer).or_default().misses += 1;
    }

    pub(crate) fn owes(&self, peer: PeerId) {
        self.tallies().entry(peer).or_default().owed += 1;
    }

    pub(crate) fn owes_no_more(&self, peer: PeerId) {
        let mut tallies = self.tallies();
        let tally = tallies.entry(peer).or_default();
        tally.owed = tally.owed.saturating_sub(1);
    }

    fn tallies(&self) -> MutexGuard<'_, BTreeMap<PeerId, Tally>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
