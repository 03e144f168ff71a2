use crate::window::FIRST_BLOCKS;
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

#[derive(Clone, Copy, Debug)]
struct Tally {
    hits: u64,
    misses: u64,
    /// Blocks that it was asked for and owes.
    owed: usize,
    /// How many it should be asked for at a time.
    window: usize,
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

    /// How many blocks to ask for at a time, of all that provide them.
    pub(crate) fn window(&self, now: Instant) -> usize {
        let tallies = self.tallies();
        let provide = tallies
            .values()
            .filter(|tally| tally.hits > 0 && !tally.is_avoided(now));
        let window: usize = provide.map(|tally| tally.window).sum();
        if window == 0 { FIRST_BLOCKS } else { window }
    }

    /// The best of those of `peers` that answer: one that mostly had what it was asked for, and owes least of what
    /// it should be asked for at a time.
    pub(crate) fn best(&self, now: Instant, peers: &[PeerId]) -> Option<PeerId> {
        let tallies = self.tallies();
        let tally = |peer: &PeerId| tallies.get(peer).copied().unwrap_or_default();
        let rank = |peer: &&PeerId| {
            let tally = tally(peer);
            let owed_share = tally.owed * 1024 / tally.window.max(1);
            (tally.misses > tally.hits, owed_share)
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

    /// Takes note that `peer` sent a block, and of how many it should be asked for now.
    pub(crate) fn hit(&self, peer: PeerId, window: usize) {
        let mut tallies = self.tallies();
        let tally = tallies.entry(peer).or_default();
        tally.hits += 1;
        tally.window = window;
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

impl Default for Tally {
    fn default() -> Self {
        Self {
            hits: 0,
            misses: 0,
            owed: 0,
            window: FIRST_BLOCKS,
            avoided_until: None,
        }
    }
}

impl Tally {
    fn is_avoided(&self, now: Instant) -> bool {
        self.avoided_until.is_some_and(|until| now < until)
    }
}

/// Then a peer that was silent is tried again: it may only have been busy.
const AVOIDED_FOR: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_shared_out_by_what_each_peer_should_be_asked_for() {
        let session = Session::default();
        let now = Instant::now();
        assert_eq!(session.window(now), FIRST_BLOCKS);
        let [slow, fast] = [PeerId::random(), PeerId::random()];
        session.hit(slow, 10);
        session.hit(fast, 30);
        assert_eq!(session.window(now), 40);
        let mut asked = BTreeMap::from([(slow, 0), (fast, 0)]);
        for _ in 0..40 {
            let best = session.best(now, &[slow, fast]).unwrap();
            session.owes(best);
            asked.entry(best).and_modify(|count| *count += 1);
        }
        assert_eq!(asked, BTreeMap::from([(slow, 10), (fast, 30)]));

        session.silent(now, fast);
        assert_eq!(session.window(now), 10);
        assert_eq!(session.best(now, &[slow, fast]), Some(slow));
        session.silent(now, slow);
        assert!(!session.is_settled(now));
        assert_eq!(session.best(now, &[slow, fast]), None);
        assert_eq!(session.window(now + AVOIDED_FOR), 40);
    }
}
