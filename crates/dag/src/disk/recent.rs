use super::digest_set::DigestSet;
use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// Which blocks somebody has put or looked for lately, and which are just being removed. What was looked for may be
/// relied on: nobody would put it again.
#[derive(Debug)]
pub(super) struct Recent(RwLock<Inner>);

#[derive(Debug)]
struct Inner {
    current: Arc<Generation>,
    last: Arc<Generation>,
    /// INVARIANT: not empty only while the store's commits are kept out.
    condemned: BTreeSet<[u8; 32]>,
    next: u64,
}

#[derive(Debug)]
struct Generation(DigestSet);

/// Keeps what is put or looked for while it is held from being collected, and for
/// [a generation](super::DiskStore::begin_generation) longer.
#[derive(Clone, Debug)]
pub struct Lease(#[expect(dead_code, reason = "counted")] Arc<Generation>);

impl Recent {
    /// Notes that a block may be relied on from now on. Whether it may: one that is just being removed is gone, for
    /// whoever did not notice it before.
    #[must_use]
    pub(super) fn notice(&self, digest: &[u8; 32]) -> bool {
        let inner = self.read();
        inner.current.0.insert(digest);
        !inner.condemned.contains(digest)
    }

    /// Chooses those that nobody has noticed lately: they are gone for everybody, until [`Recent::absolve`].
    pub(super) fn condemn(&self, digests: &[[u8; 32]]) -> Vec<[u8; 32]> {
        let mut inner = self.write();
        let Inner { current, last, .. } = &*inner;
        let is_recent = |digest: &[u8; 32]| current.0.contains(digest) || last.0.contains(digest);
        let chosen: Vec<_> = digests.iter().filter(|d| !is_recent(d)).copied().collect();
        inner.condemned = chosen.iter().copied().collect();
        chosen
    }

    /// Their rows say from now on whether they are here.
    pub(super) fn absolve(&self) {
        self.write().condemned.clear();
    }

    pub(super) fn lease(&self) -> Lease {
        Lease(Arc::clone(&self.read().current))
    }

    /// Whether no lease of the last generation is held.
    pub(super) fn is_last_free(&self) -> bool {
        is_free(&self.read())
    }

    /// Begins a new generation and forgets the last. Whether it did: not while a lease of the last is held.
    pub(super) fn begin_generation(&self) -> bool {
        let mut inner = self.write();
        let free = is_free(&inner);
        if free {
            let new = Arc::new(Generation::new(inner.next));
            inner.next = inner.next.wrapping_add(1);
            inner.last = std::mem::replace(&mut inner.current, new);
        }
        free
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self(RwLock::new(Inner {
            current: Arc::new(Generation::new(1)),
            last: Arc::new(Generation::new(0)),
            condemned: BTreeSet::new(),
            next: 2,
        }))
    }
}

impl Generation {
    fn new(salt: u64) -> Self {
        Self(DigestSet::new(BITS, salt))
    }
}

fn is_free(inner: &Inner) -> bool {
    Arc::strong_count(&inner.last) == 1
}

/// 8 MiB: ten million blocks are told apart with 4 % mistakes, each of which only keeps a block for longer.
const BITS: usize = (8 * 8) << 20;
