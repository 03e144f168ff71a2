use crate::{config::Timing, session::Session};
use libp2p::PeerId;
use medanchor_dag::{Block, Cid};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::time::Instant;

/// One block that is wanted, and what each connected peer said about it.
///
/// It holds no socket and no timer: [`Want::step`] says what to send and how long to wait.
#[derive(Debug)]
pub(crate) struct Want {
    cid: Cid,
    session: Arc<Session>,
    timing: Timing,
    peers: BTreeMap<PeerId, (u64, Standing)>,
    /// Those that left before they said that they do not have it.
    left: BTreeSet<PeerId>,
    block: Option<Block>,
    rounds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Unasked,
    AskedForPresence(Instant),
    Has,
    AskedForBlock(Instant),
    Lacks,
    Silent,
}

/// A connected peer, as [`Want::step`] needs to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connected {
    pub(crate) peer: PeerId,
    /// Differs from one connection to the next: what was asked over another one is lost.
    pub(crate) link: u64,
    /// When something was last received from it.
    pub(crate) heard: Instant,
}

/// What to tell a peer about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) cid: Cid,
    pub(crate) kind: AskKind,
}

/// Kinds of [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskKind {
    Presence,
    Block,
    Cancel,
}

/// What comes next for a want.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is here.
    Found(Block),
    /// Every connected peer said that it does not have it.
    NotFound,
    /// Nobody is connected. These were.
    NoPeers(BTreeSet<PeerId>),
    /// These did not answer, however often they were asked, or left; the others do not have it.
    NoAnswer(BTreeSet<PeerId>),
    /// Call [`Want::step`] again when something was received, or at this time.
    Wait(Instant),
}

impl Want {
    pub(crate) fn new(cid: Cid, session: Arc<Session>, timing: Timing) -> Self {
        Self {
            cid,
            session,
            timing,
            peers: BTreeMap::new(),
            left: BTreeSet::new(),
            block: None,
            rounds: 0,
        }
    }

    pub(crate) fn cid(&self) -> &Cid {
        &self.cid
    }

    /// Takes note that `peer` said it has the block, or has it not.
    pub(crate) fn received_presence(&mut self, peer: PeerId, has: bool) {
        let standing = self.peers.get(&peer).map(|(_, standing)| *standing);
        match (standing, has) {
            (Some(Standing::AskedForPresence(_) | Standing::Silent), true) => {
                self.session.provides(peer);
                self.set(peer, Standing::Has);
            }
            (Some(Standing::AskedForBlock(_) | Standing::Has), false) => {
                self.session.miss(peer);
                self.set(peer, Standing::Lacks);
            }
            // INVARIANT: nothing leads away from `Lacks`, so a want ends whatever peers send.
            (Some(Standing::AskedForPresence(_) | Standing::Silent), false) => {
                self.set(peer, Standing::Lacks);
            }
            _ => {}
        }
    }

    /// When `peer` was asked for the block, if it owes it.
    pub(crate) fn block_asked_at(&self, peer: &PeerId) -> Option<Instant> {
        match self.peers.get(peer) {
            Some((_, Standing::AskedForBlock(at))) => Some(*at),
            _ => None,
        }
    }

    /// Takes the block that `peer` sent; it should be asked for as many as `window` from now on. The block must
    /// have been verified against [`Want::cid`].
    pub(crate) fn received_block(&mut self, peer: PeerId, block: Block, window: usize) {
        self.session.hit(peer, window);
        if self.peers.contains_key(&peer) {
            self.set(peer, Standing::Has);
        }
        self.block = Some(block);
    }

    /// The peers that still owe an answer.
    pub(crate) fn asked(&self) -> Vec<PeerId> {
        self.peers
            .iter()
            .filter(|(_, (_, standing))| standing.asked_at().is_some())
            .map(|(peer, _)| *peer)
            .collect()
    }

    /// Decides what comes next, and puts what is to be sent into `asks`.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        connected: &[Connected],
        asks: &mut Vec<(PeerId, Ask)>,
    ) -> Step {
        if let Some(block) = self.block.take() {
            return Step::Found(block);
        }
        self.follow(connected);
        if self.peers.is_empty() {
            return Step::NoPeers(self.left.clone());
        }
        self.pass_over_silent(now, connected, asks);
        loop {
            self.ask_next(now, asks);
            if let Some(next) = self.deadline(connected) {
                return Step::Wait(next);
            }
            let silent = self.in_standing(Standing::Silent);
            if silent.is_empty() && self.left.is_empty() {
                return Step::NotFound;
            }
            self.rounds += 1;
            if silent.is_empty() || self.rounds >= MAX_ROUNDS {
                return Step::NoAnswer(self.left.iter().copied().chain(silent).collect());
            }
            for peer in silent {
                self.set(peer, Standing::Unasked);
            }
        }
    }

    /// Forgets peers that left and adds those that came.
    fn follow(&mut self, connected: &[Connected]) {
        let mut gone = self.peers.clone();
        gone.retain(|peer, (link, _)| {
            !connected
                .iter()
                .any(|one| one.peer == *peer && one.link == *link)
        });
        for (peer, (_, standing)) in gone {
            if standing != Standing::Lacks {
                self.left.insert(peer);
            }
            self.set(peer, Standing::Unasked);
            self.peers.remove(&peer);
        }
        for one in connected {
            self.left.remove(&one.peer);
            self.peers
                .entry(one.peer)
                .or_insert((one.link, Standing::Unasked));
        }
    }

    fn pass_over_silent(
        &mut self,
        now: Instant,
        connected: &[Connected],
        asks: &mut Vec<(PeerId, Ask)>,
    ) {
        for one in connected {
            let due = self.due(one);
            if due.is_some_and(|due| due <= now) {
                // The session too: its next blocks are wanted from others first.
                self.session.silent(now, one.peer);
                self.set(one.peer, Standing::Silent);
                asks.push((one.peer, self.ask(AskKind::Cancel)));
            }
        }
    }

    /// Asks the best peer for the block unless one was asked already; who has it is asked of all when
    /// nobody is known to. Peers that were silent lately are the last resort.
    fn ask_next(&mut self, now: Instant, asks: &mut Vec<(PeerId, Ask)>) {
        let asked =
            |(_, standing): &(u64, Standing)| matches!(standing, Standing::AskedForBlock(_));
        if self.peers.values().any(asked) {
            return;
        }
        let has = self.in_standing(Standing::Has);
        let best = self.session.best(now, &has).or_else(|| {
            let unasked = self.in_standing(Standing::Unasked);
            self.session.best_known(now, unasked)
        });
        if let Some(peer) = best {
            self.ask_for_block(peer, now, asks);
        }
        if best.is_none() || !self.session.is_settled(now) {
            for peer in self.in_standing(Standing::Unasked) {
                self.set(peer, Standing::AskedForPresence(now));
                asks.push((peer, self.ask(AskKind::Presence)));
            }
        }
        if self.asked().is_empty()
            && let Some(peer) = has.first()
        {
            self.ask_for_block(*peer, now, asks);
        }
    }

    fn ask_for_block(&mut self, peer: PeerId, now: Instant, asks: &mut Vec<(PeerId, Ask)>) {
        self.set(peer, Standing::AskedForBlock(now));
        asks.push((peer, self.ask(AskKind::Block)));
    }

    fn in_standing(&self, wanted: Standing) -> Vec<PeerId> {
        self.peers
            .iter()
            .filter(|(_, (_, standing))| *standing == wanted)
            .map(|(peer, _)| *peer)
            .collect()
    }

    fn deadline(&self, connected: &[Connected]) -> Option<Instant> {
        connected.iter().filter_map(|one| self.due(one)).min()
    }

    /// When this peer has been waited for long enough.
    fn due(&self, one: &Connected) -> Option<Instant> {
        let (_, standing) = self.peers.get(&one.peer)?;
        let asked = standing.asked_at()?;
        let silent = asked.max(one.heard) + self.timing.silence;
        Some(silent.min(asked + self.timing.answer))
    }

    fn ask(&self, kind: AskKind) -> Ask {
        Ask {
            cid: self.cid,
            kind,
        }
    }

    fn set(&mut self, peer: PeerId, new: Standing) {
        let Some((_, standing)) = self.peers.get_mut(&peer) else {
            return;
        };
        if matches!(standing, Standing::AskedForBlock(_)) {
            self.session.owes_no_more(peer);
        }
        if matches!(new, Standing::AskedForBlock(_)) {
            self.session.owes(peer);
        }
        *standing = new;
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        for peer in self.asked() {
            self.set(peer, Standing::Unasked);
        }
    }
}

impl Standing {
    fn asked_at(self) -> Option<Instant> {
        match self {
            Self::AskedForPresence(at) | Self::AskedForBlock(at) => Some(at),
            _ => None,
        }
    }
}

/// How often a silent peer is asked for one block.
const MAX_ROUNDS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::Codec;
    use proptest::prelude::*;
    use std::time::Duration;

    struct Setup {
        want: Want,
        block: Block,
        peers: Vec<PeerId>,
        start: Instant,
        heard: Instant,
    }

    impl Setup {
        fn new(peers: usize) -> Self {
            let block = Block::new(Codec::Raw, &b"block"[..]).unwrap();
            let mut peers: Vec<PeerId> = (0..peers).map(|_| PeerId::random()).collect();
            peers.sort();
            let start = Instant::now();
            Self {
                want: Want::new(*block.cid(), Arc::default(), Timing::default()),
                block,
                peers,
                start,
                heard: start,
            }
        }

        /// The next step after this many seconds, and what was sent to whom.
        fn step(&mut self, seconds: u64) -> (Step, Vec<(usize, AskKind)>) {
            let connected: Vec<Connected> = self
                .peers
                .iter()
                .map(|peer| Connected {
                    peer: *peer,
                    link: 1,
                    heard: self.heard,
                })
                .collect();
            let now = self.start + Duration::from_secs(seconds);
            let mut asks = Vec::new();
            let step = self.want.step(now, &connected, &mut asks);
            let index = |peer| self.peers.iter().position(|p| *p == peer).unwrap();
            let asks = asks.into_iter().map(|(p, ask)| (index(p), ask.kind));
            (step, asks.collect())
        }

        fn presence(&mut self, peer: usize, has: bool) {
            self.want.received_presence(self.peers[peer], has);
        }
    }

    use AskKind::{Block as AskBlock, Cancel, Presence};

    #[test]
    fn all_are_asked_and_the_first_that_has_it_sends_it() {
        let mut setup = Setup::new(3);
        let (step, asks) = setup.step(0);
        assert!(matches!(step, Step::Wait(_)));
        assert_eq!(asks, [(0, Presence), (1, Presence), (2, Presence)]);
        setup.presence(1, true);
        assert_eq!(setup.step(0).1, [(1, AskBlock)]);
        setup.presence(0, true);
        assert_eq!(setup.step(0).1, []);
        let block = setup.block.clone();
        setup.want.received_block(setup.peers[1], block.clone(), 1);
        assert_eq!(setup.step(0), (Step::Found(block), vec![]));
        assert_eq!(setup.want.asked(), [setup.peers[2]]);
    }

    #[test]
    fn want_is_not_found_as_soon_as_all_said_so() {
        let mut setup = Setup::new(2);
        setup.step(0);
        setup.presence(0, false);
        assert!(matches!(setup.step(0).0, Step::Wait(_)));
        setup.presence(1, false);
        assert_eq!(setup.step(0), (Step::NotFound, vec![]));
    }

    #[test]
    fn peer_that_lacks_the_block_after_all_is_replaced_at_once() {
        let mut setup = Setup::new(2);
        setup.step(0);
        setup.presence(0, true);
        setup.presence(1, true);
        assert_eq!(setup.step(0).1, [(0, AskBlock)]);
        setup.presence(0, false);
        assert_eq!(setup.step(0).1, [(1, AskBlock)]);
    }

    #[test]
    fn silent_peer_is_replaced_and_asked_again_last() {
        let mut setup = Setup::new(2);
        setup.step(0);
        setup.presence(0, true);
        setup.step(0);
        setup.presence(1, true);
        assert_eq!(setup.step(3).1, []);
        assert_eq!(setup.step(4).1, [(0, Cancel), (1, AskBlock)]);
        assert_eq!(setup.step(8).1.len(), 3); // cancel, then both once more
        setup.step(12);
        assert_eq!(
            setup.step(16).0,
            Step::NoAnswer(setup.peers.iter().copied().collect())
        );
    }

    #[test]
    fn peer_that_is_sending_is_waited_for() {
        let mut setup = Setup::new(1);
        setup.step(0);
        setup.presence(0, true);
        setup.step(0);
        setup.heard = setup.start + Duration::from_secs(9);
        assert_eq!(setup.step(10).1, []);
        setup.heard = setup.start + Duration::from_secs(60);
        assert_eq!(setup.step(60).1.first(), Some(&(0, Cancel)));
    }

    #[test]
    fn peer_that_reconnects_is_asked_again() {
        let mut setup = Setup::new(1);
        setup.step(0);
        let again = Connected {
            peer: setup.peers[0],
            link: 2,
            heard: setup.start,
        };
        let mut asks = Vec::new();
        setup.want.step(setup.start, &[again], &mut asks);
        assert_eq!(asks.len(), 1);
    }

    #[test]
    fn peer_that_left_unanswered_is_named_and_one_that_said_no_is_not() {
        let mut setup = Setup::new(3);
        setup.step(0);
        setup.presence(0, false);
        setup.presence(1, false);
        let left = [setup.peers.pop().unwrap(), setup.peers.remove(0)];
        assert_eq!(
            setup.step(0).0,
            Step::NoAnswer(left[..1].iter().copied().collect())
        );
        setup.peers.clear();
        assert_eq!(
            setup.step(0).0,
            Step::NoPeers(left[..1].iter().copied().collect())
        );
    }

    #[test]
    fn peer_that_was_silent_is_the_last_resort_of_its_session_for_a_while() {
        let mut setup = Setup::new(2);
        let session = Arc::new(Session::default());
        for _ in 0..1000 {
            session.hit(setup.peers[0], 1);
        }
        let cid = *setup.block.cid();
        let want = || Want::new(cid, Arc::clone(&session), Timing::default());
        setup.want = want();
        assert_eq!(setup.step(0).1, [(0, AskBlock)]);
        assert_eq!(setup.step(4).1, [(0, Cancel), (1, Presence)]);

        setup.want = want();
        assert_eq!(setup.step(4).1, [(0, Presence), (1, Presence)]);
        setup.presence(0, true);
        assert_eq!(setup.step(4).1, []);
        setup.presence(1, true);
        assert_eq!(setup.step(4).1, [(1, AskBlock)]);
        setup.presence(1, false);
        assert_eq!(setup.step(4).1, [(0, AskBlock)]);

        setup.want = want();
        assert_eq!(setup.step(60).1.first(), Some(&(0, AskBlock)));
    }

    #[test]
    fn no_peers_is_said_at_once() {
        assert_eq!(Setup::new(0).step(0).0, Step::NoPeers(BTreeSet::new()));
    }

    #[test]
    fn settled_session_asks_one_peer_for_the_block_straight_away() {
        let mut setup = Setup::new(3);
        let session = Arc::new(Session::default());
        session.hit(setup.peers[2], 1);
        setup.want = Want::new(*setup.block.cid(), session, Timing::default());
        assert_eq!(setup.step(0).1, [(2, AskBlock)]);
        setup.presence(2, false);
        assert_eq!(setup.step(0).1, [(0, Presence), (1, Presence)]);
    }

    #[test]
    fn want_that_ends_leaves_nothing_owed() {
        let mut setup = Setup::new(2);
        let session = Arc::new(Session::default());
        session.hit(setup.peers[0], 1);
        session.hit(setup.peers[1], 1);
        let want = || Want::new(*setup.block.cid(), Arc::clone(&session), Timing::default());
        let (first, second) = (want(), want());
        setup.want = first;
        assert_eq!(setup.step(0).1, [(0, AskBlock)]);
        setup.want = second; // drops the first
        assert_eq!(setup.step(0).1, [(0, AskBlock)]);
    }

    #[test]
    fn presences_in_any_order_never_keep_a_want_alive() {
        let mut setup = Setup::new(1);
        setup.step(0);
        for has in [true, false, true, false, true] {
            setup.presence(0, has);
            setup.step(0);
        }
        assert_eq!(setup.step(0).0, Step::NotFound);
    }

    proptest! {
        #[test]
        fn want_ends_whatever_peers_say(events: Vec<(prop::sample::Index, bool, u8)>) {
            let mut setup = Setup::new(3);
            let mut seconds = 0;
            for (peer, has, pause) in events {
                setup.presence(peer.index(3), has);
                seconds += u64::from(pause);
                setup.step(seconds);
            }
            let mut waits = 0;
            loop {
                let (step, _) = setup.step(seconds);
                if !matches!(step, Step::Wait(_)) {
                    break;
                }
                seconds += 60;
                waits += 1;
                prop_assert!(waits < 20);
            }
        }
    }
}
