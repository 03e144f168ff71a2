use crate::{
    config::Timing,
    error::{DialFailure, Unanswered},
    link::Link,
    message::{Payload, Presence, PresenceType},
    session::Session,
    want::{Ask, AskKind, Connected, Step, Want},
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use libp2p::{PeerId, multihash::Multihash};
use medanchor_dag::{Block, Cid, SourceError, cid_of, sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

/// The client half of Bitswap: who is connected, and which blocks are wanted from them.
#[derive(Debug)]
pub(crate) struct Exchange {
    links: Mutex<BTreeMap<PeerId, Arc<Link>>>,
    wants: Mutex<HashMap<Multihash<64>, Running>>,
    reach: watch::Sender<BTreeMap<PeerId, Reach>>,
    slots: Semaphore,
    /// Fetches that share the peers' windows.
    shares: AtomicUsize,
    timing: Timing,
}

/// A fetch of many blocks: its part of what may be asked for at a time. Others get it when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    exchange: Arc<Exchange>,
    session: Arc<Session>,
}

/// Whether a configured peer that has an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Dialling,
    Connected,
    Failed(DialFailure),
}

/// A want that is being driven. Whoever wants the same block joins it.
#[derive(Debug)]
struct Running {
    pending: Arc<Pending>,
    outcome: WeakShared<Outcome>,
}

#[derive(Debug)]
struct Pending {
    want: Mutex<Want>,
    changed: Notify,
}

type Outcome = BoxFuture<'static, Result<Block, Failure>>;

#[derive(Clone, Debug)]
enum Failure {
    /// All said that they do not have it.
    NotFound,
    Unanswered(Unanswered),
}

impl Exchange {
    pub(crate) fn new(dialled: impl Iterator<Item = PeerId>, timing: Timing) -> Self {
        let reach = dialled.map(|peer| (peer, Reach::Dialling)).collect();
        Self {
            links: Mutex::default(),
            wants: Mutex::default(),
            reach: watch::Sender::new(reach),
            slots: Semaphore::new(MAX_WANTS),
            shares: AtomicUsize::new(0),
            timing,
        }
    }

    /// A share for the fetch that this session belongs to.
    pub(crate) fn share(self: &Arc<Self>, session: &Arc<Session>) -> Share {
        self.shares.fetch_add(1, Ordering::Relaxed);
        Share {
            exchange: Arc::clone(self),
            session: Arc::clone(session),
        }
    }

    /// The block, verified, from the peers that are connected.
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        cid: Cid,
        session: &Arc<Session>,
    ) -> Result<Block, SourceError> {
        let block = self
            .join(cid, session)
            .await
            .map_err(|failure| failure.about(cid))?;
        if *block.cid() == cid {
            return Ok(block);
        }
        // The same bytes were wanted under another codec as well.
        Block::verify(cid, block.into_bytes()).map_err(|error| SourceError::Store(error.into()))
    }

    fn join(self: &Arc<Self>, cid: Cid, session: &Arc<Session>) -> Shared<Outcome> {
        let mut wants = self.wants();
        let running = wants.get(cid.hash());
        if let Some(outcome) = running.and_then(|running| running.outcome.upgrade()) {
            return outcome;
        }
        let pending = Arc::new(Pending {
            want: Mutex::new(Want::new(cid, Arc::clone(session), self.timing)),
            changed: Notify::new(),
        });
        let outcome = drive(Arc::clone(self), Arc::clone(&pending))
            .boxed()
            .shared();
        if let Some(weak) = outcome.downgrade() {
            let running = Running {
                pending,
                outcome: weak,
            };
            wants.insert(*cid.hash(), running);
        }
        outcome
    }

    /// A connection was made: every want goes on with one more peer.
    pub(crate) fn connected(&self, peer: PeerId, link: Arc<Link>) {
        self.links().insert(peer, link);
        self.set_reach(peer, Reach::Connected);
        self.wake_all();
    }

    /// The last connection was closed: every want goes on without this peer.
    pub(crate) fn disconnected(&self, peer: PeerId, reach: Reach) {
        // First, so that a want that finds nobody connected knows that somebody is dialled.
        self.set_reach(peer, reach);
        if let Some(link) = self.links().remove(&peer) {
            link.closed.cancel();
        }
        self.wake_all();
    }

    /// Nobody is connected or dialled any more: every want ends.
    pub(crate) fn stop(&self) {
        self.reach.send_modify(|reach| {
            for one in reach.values_mut() {
                *one = Reach::Failed(DialFailure::Stopped);
            }
        });
        for link in mem::take(&mut *self.links()).into_values() {
            link.closed.cancel();
        }
        self.wake_all();
    }

    /// Others are dialled from now on. What is known of those that stay is kept.
    pub(crate) fn set_dialled(&self, dialled: impl Iterator<Item = PeerId>) {
        let links = self.links();
        self.reach.send_modify(|reach| {
            let reach_of = |peer| match reach.get(&peer) {
                Some(known) => *known,
                None if links.contains_key(&peer) => Reach::Connected,
                None => Reach::Dialling,
            };
            *reach = dialled.map(|peer| (peer, reach_of(peer))).collect();
        });
    }

    /// Takes note of how dialling goes. Peers without an address are not dialled and not noted.
    pub(crate) fn set_reach(&self, peer: PeerId, new: Reach) {
        self.reach
            .send_if_modified(|reach| match reach.get_mut(&peer) {
                Some(old) if *old != new => {
                    *old = new;
                    true
                }
                _ => false,
            });
    }

    pub(crate) fn peers(&self) -> Vec<PeerId> {
        self.links().keys().copied().collect()
    }

    pub(crate) fn link(&self, peer: &PeerId) -> Option<Arc<Link>> {
        self.links().get(peer).cloned()
    }

    pub(crate) fn failures(&self) -> Vec<(PeerId, DialFailure)> {
        let failure = |(peer, reach): (&PeerId, &Reach)| match reach {
            Reach::Failed(failure) => Some((*peer, *failure)),
            _ => None,
        };
        self.reach.borrow().iter().filter_map(failure).collect()
    }

    #[cfg(test)]
    pub(crate) fn wanted(&self) -> usize {
        self.wants().len()
    }

    fn is_dialling(&self) -> bool {
        let reach = self.reach.borrow();
        reach.values().any(|reach| *reach == Reach::Dialling)
    }

    /// Nobody who answered has it: whether that was everybody.
    fn not_found(&self, silent: BTreeSet<PeerId>) -> Failure {
        let unanswered = self.unanswered(silent);
        if unanswered.is_empty() {
            Failure::NotFound
        } else {
            Failure::Unanswered(unanswered)
        }
    }

    fn unanswered(&self, silent: BTreeSet<PeerId>) -> Unanswered {
        Unanswered {
            silent,
            unreachable: self.failures(),
        }
    }

    /// Takes in what `peer` says it has and has not.
    pub(crate) fn received_presences(&self, peer: PeerId, presences: &[Presence]) {
        for presence in presences {
            let Ok(cid) = Cid::try_from(presence.cid.as_ref()) else {
                continue;
            };
            if let Some(pending) = self.pending(cid.hash()) {
                let has = presence.presence_type == i32::from(PresenceType::Have);
                pending.want().received_presence(peer, has);
                pending.changed.notify_one();
            }
        }
    }

    /// Takes in blocks that `peer` sent. Those that nobody wants are dropped.
    pub(crate) async fn received_blocks(&self, peer: PeerId, payload: Vec<Payload>) {
        let size: usize = payload.iter().map(|one| one.data.len()).sum();
        let received = if size > HASH_INLINE_BYTES {
            let naming = spawn_blocking(move || payload.into_iter().filter_map(named).collect());
            naming.await.unwrap_or_default()
        } else {
            payload.into_iter().filter_map(named).collect()
        };
        let received: Vec<Named> = received;
        for one in received {
            self.received(peer, one);
        }
    }

    fn received(&self, peer: PeerId, received: Named) {
        let (cid, block) = match received {
            Named::Block(block) => (*block.cid(), Some(block)),
            Named::TooLarge(cid) => (cid, None),
        };
        let Some(pending) = self.pending(cid.hash()) else {
            tracing::debug!(%peer, %cid, "block was not wanted");
            if let Some(link) = self.link(&peer) {
                link.unwanted();
            }
            return;
        };
        let mut want = pending.want();
        let wanted = *want.cid();
        match block.map(|block| in_codec_of(wanted, block)) {
            Some(Some(block)) => {
                let asked = want.block_asked_at(&peer);
                let bytes = block.bytes().len();
                // It is gone when the connection was closed meanwhile.
                let window = self.link(&peer).map(|link| link.delivered(asked, bytes));
                want.received_block(peer, block, window.unwrap_or_default());
            }
            _ => want.received_presence(peer, false),
        }
        drop(want);
        pending.changed.notify_one();
    }

    fn pending(&self, hash: &Multihash<64>) -> Option<Arc<Pending>> {
        let wants = self.wants();
        wants.get(hash).map(|running| Arc::clone(&running.pending))
    }

    fn snapshot(&self) -> Vec<Connected> {
        let connected = |(peer, link): (&PeerId, &Arc<Link>)| Connected {
            peer: *peer,
            link: link.id,
            heard: link.last_heard(),
        };
        self.links().iter().map(connected).collect()
    }

    fn wake_all(&self) {
        for running in self.wants().values() {
            running.pending.changed.notify_one();
        }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<PeerId, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants(&self) -> MutexGuard<'_, HashMap<Multihash<64>, Running>> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// How many blocks to ask for at a time.
    pub(crate) fn window(&self) -> usize {
        let shares = self.exchange.shares.load(Ordering::Relaxed);
        let window = self.session.window(Instant::now());
        (window / shares.max(1)).max(1)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.exchange.shares.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pending {
    fn want(&self) -> MutexGuard<'_, Want> {
        self.want.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failure {
    fn about(self, cid: Cid) -> SourceError {
        match self {
            Self::NotFound => SourceError::NotFound(cid),
            Self::Unanswered(unanswered) => SourceError::Unavailable {
                cid,
                source: Box::new(unanswered),
            },
        }
    }
}

/// Asks peers until one sends the block or none is left to ask. It always ends: see [`Want`].
async fn drive(exchange: Arc<Exchange>, pending: Arc<Pending>) -> Result<Block, Failure> {
    let finishing = Finishing { exchange, pending };
    let Finishing { exchange, pending } = &finishing;
    let _slot = exchange.slots.acquire().await;
    let mut reach = exchange.reach.subscribe();
    loop {
        let dialling = exchange.is_dialling();
        let mut asks = Vec::new();
        let step = pending
            .want()
            .step(Instant::now(), &exchange.snapshot(), &mut asks);
        for (peer, ask) in asks {
            if let Some(link) = exchange.link(&peer) {
                // A want that goes on takes back only what was not answered.
                if ask.kind == AskKind::Cancel {
                    link.missed();
                }
                link.tell(ask);
            }
        }
        let failure = match step {
            Step::Found(block) => return Ok(block),
            Step::Wait(until) => {
                tokio::select! {
                    () = pending.changed.notified() => {}
                    () = sleep_until(until) => {}
                }
                continue;
            }
            Step::NotFound => exchange.not_found(BTreeSet::new()),
            // When there is nobody else to have it, this one has spoken for all.
            Step::NoAnswer(silent) | Step::NoPeers(silent) => exchange.not_found(silent),
        };
        if !dialling {
            return Err(failure);
        }
        // Somebody may still have it; each attempt to connect has a deadline.
        tokio::select! {
            () = pending.changed.notified() => {}
            _ = reach.changed() => {}
        }
    }
}

/// Ends a want, also one that nobody waits for any more: peers that were asked need not answer.
struct Finishing {
    exchange: Arc<Exchange>,
    pending: Arc<Pending>,
}

impl Drop for Finishing {
    fn drop(&mut self) {
        let (cid, asked) = {
            let want = self.pending.want();
            (*want.cid(), want.asked())
        };
        let mut wants = self.exchange.wants();
        let current = wants.get(cid.hash());
        let is_current = current.is_some_and(|one| Arc::ptr_eq(&one.pending, &self.pending));
        if !is_current {
            return;
        }
        wants.remove(cid.hash());
        // Under the lock: a new want for the same block must come after these.
        for peer in asked {
            if let Some(link) = self.exchange.link(&peer) {
                link.tell(Ask {
                    cid,
                    kind: AskKind::Cancel,
                });
            }
        }
    }
}

/// A received block under the name that its bytes have.
enum Named {
    Block(Block),
    TooLarge(Cid),
}

fn named(payload: Payload) -> Option<Named> {
    let codec = payload.codec()?;
    if payload.data.len() > medanchor_dag::MAX_BLOCK_BYTES {
        // So that the peer is not waited for.
        return Some(Named::TooLarge(cid_of(codec, &sha256(&payload.data))));
    }
    Block::new(codec, payload.data).ok().map(Named::Block)
}

/// The block under the name it is wanted by: the codec may differ, the hash does not.
fn in_codec_of(wanted: Cid, block: Block) -> Option<Block> {
    if *block.cid() == wanted {
        return Some(block);
    }
    Block::verify(wanted, block.into_bytes()).ok()
}

/// Wants at a time; further ones wait for their turn.
const MAX_WANTS: usize = 1024;
/// Hashing more than this takes long enough to be done elsewhere.
const HASH_INLINE_BYTES: usize = 128 << 10;
