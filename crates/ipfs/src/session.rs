use libp2p::PeerId;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// What is known of the peers that provide one DAG: who is worth asking next, without asking all.
#[derive(Debug, Default)]
pub(crate) struct Session(Mutex<BTreeMap<PeerId, Tally>>);

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    hits: u64,
    misses: u64,
    /// Blocks that it was asked for and owes.
    owed: u64,
    /// It did not answer: until then it is asked last, however much it sent before.
    avoided_until: Option<Instant>,
}

impl Session {
    /// A session that asks `hint` first.
    pub(crate) fn new(hint: Option<PeerId>) -> Self {
        let tallies = hint.map(|peer| (peer, Tally::default())).into_iter();
        Self(Mutex::new(tallies.collect()))
    }

    /// Whether some peer that answers has sent a block already.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        let tallies = self.tallies();
        tallies
            .values()
            .any(|tally| tally.hits > 0 && !tally.is_avoided(now))
    }

    /// The best of those of `peers` that answer: one that mostly had what it was asked for, and owes least.
    pub(crate) fn best(&self, now: Instant, peers: &[PeerId]) -> Option<PeerId> {
        let tallies = self.tallies();
        let tally = |peer: &PeerId| tallies.get(peer).copied().unwrap_or_default();
        let rank = |peer: &&PeerId| {
            let tally = tally(peer);
            (tally.misses > tally.hits, tally.owed)
        };
        let answering = peers.iter().filter(|peer| !tally(peer).is_avoided(now));
        answering.min_by_key(rank).copied()
    }

    /// The best of those of `peers` that are known to provide blocks.
    pub(crate) fn best_known(&self, now: Instant, mut peers: Vec<PeerId>) -> Option<PeerId> {
        let tallies = self.tallies();
        peers.retain(|peer| tallies.contains_key(peer));
        drop(tallies);
        self.best(now, &peers)
    }

    pub(crate) fn provides(&self, peer: PeerId) {
        self.tallies().entry(peer).or_default();
    }

    pub(crate) fn hit(&self, peer: PeerId) {
        let mut tallies = self.tallies();
        let tally = tallies.entry(peer).or_default();
        tally.hits += 1;
        tally.avoided_until = None;
    }

    pub(crate) fn miss(&self, peer: PeerId) {
        self.tallies().entry(peer).or_default().misses += 1;
    }

    /// Takes note that `peer` left a question unanswered.
    pub(crate) fn silent(&self, now: Instant, peer: PeerId) {
        self.tallies().entry(peer).or_default().avoided_until = Some(now + AVOIDED_FOR);
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

impl Tally {
    fn is_avoided(&self, now: Instant) -> bool {
        self.avoided_until.is_some_and(|until| now < until)
    }
}

/// Then a peer that was silent is tried again: it may only have been busy.
const AVOIDED_FOR: Duration = Duration::from_secs(30);
