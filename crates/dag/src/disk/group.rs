use super::files::Staged;
use crate::StoreError;
use bytes::Bytes;
use std::{
    io, mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// What a put adds: rows, and the files of the larger blocks under temporary names.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) rows: Vec<([u8; 32], Bytes)>,
    pub(super) staged: Vec<Staged>,
}

/// Lets puts that wait for each other share one commit: while one is being committed the others queue, and
/// the next to get the lock commits all of them. So many small puts cost few fsyncs.
#[derive(Debug, Default)]
pub(super) struct Group {
    queue: Mutex<Vec<Arc<Waiting>>>,
    writer: Mutex<()>,
}

#[derive(Debug)]
struct Waiting {
    put: Put,
    outcome: OnceLock<Result<(), Arc<StoreError>>>,
}

impl Group {
    /// Has `put` committed, with whatever else waits.
    pub(super) fn commit(
        &self,
        put: Put,
        commit: impl FnOnce(&[&Put]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let waiting = Arc::new(Waiting {
            put,
            outcome: OnceLock::new(),
        });
        lock(&self.queue).push(Arc::clone(&waiting));
        let _writer = self.exclusive();
        if waiting.outcome.get().is_none() {
            let group = mem::take(&mut *lock(&self.queue));
            let puts: Vec<_> = group.iter().map(|waiting| &waiting.put).collect();
            let outcome = commit(&puts).map_err(Arc::new);
            for waiting in &group {
                waiting.outcome.get_or_init(|| outcome.clone());
            }
        }
        match waiting.outcome.get() {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(shared(error)),
            None => Err(StoreError::Io("the commit did not end".into())),
        }
    }

    /// Keeps commits out while the guard is held.
    pub(super) fn exclusive(&self) -> MutexGuard<'_, ()> {
        lock(&self.writer)
    }
}

/// The same error for each of those that shared the commit.
fn shared(error: &Arc<StoreError>) -> StoreError {
    let source = Arc::clone(error);
    match **error {
        StoreError::Full(_) => StoreError::Full(io::Error::new(io::ErrorKind::StorageFull, source)),
        StoreError::Stopped(_) => StoreError::Stopped(io::Error::other(source)),
        _ => StoreError::Io(Box::new(source)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
