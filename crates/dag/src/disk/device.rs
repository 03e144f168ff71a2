use crate::StoreError;
use std::{
    fmt,
    fs::File,
    io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// What is done to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Write,
    Sync,
}

/// The disk: every write and every fsync of the store goes through here, so that a failed fsync is
/// remembered, and so that a test can make any of them fail.
pub(super) struct Device {
    sync_failed: AtomicBool,
    before: Fault,
    after: Fault,
}

/// What a test makes of a step.
type Fault = Box<dyn Fn(Step) -> io::Result<()> + Send + Sync>;

impl Device {
    /// A disk that fails where `before` does.
    pub(super) fn new(before: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self {
            sync_failed: AtomicBool::new(false),
            before: Box::new(before),
            after: Box::new(|_| Ok(())),
        }
    }

    /// A disk that says it has failed where `after` does, although it has done what it was to do.
    #[cfg(test)]
    pub(super) fn failing_after(
        after: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            after: Box::new(after),
            ..Self::default()
        }
    }

    pub(super) fn write<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        (self.before)(Step::Write)?;
        let written = write()?;
        (self.after)(Step::Write)?;
        Ok(written)
    }

    /// Runs an fsync. It is never tried twice: the second may succeed although bytes were lost.
    pub(super) fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.has_failed() {
            return Err(earlier());
        }
        let result = (self.before)(Step::Sync)
            .and_then(|()| sync())
            .and_then(|()| (self.after)(Step::Sync));
        if result.is_err() {
            self.sync_failed.store(true, Ordering::SeqCst);
        }
        result
    }

    /// Runs an fsync for each item, several at once: the file system then shares the work between them.
    pub(super) fn sync_each<T: Sync>(
        &self,
        items: &[T],
        sync: impl Fn(&T) -> io::Result<()> + Sync,
    ) -> io::Result<()> {
        let sync_some = |items: &[T]| items.iter().try_for_each(|item| self.sync(|| sync(item)));
        let share = items.len().div_ceil(MAX_SYNCS);
        if items.len() <= 1 {
            return sync_some(items);
        }
        thread::scope(|scope| {
            let tasks: Vec<_> = items
                .chunks(share)
                .map(|items| scope.spawn(|| sync_some(items)))
                .collect();
            tasks
                .into_iter()
                .try_for_each(|task| task.join().unwrap_or_else(|_| Err(earlier())))
        })
    }

    pub(super) fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = File::open(folder)?;
        self.sync(|| folder.sync_all())
    }

    pub(super) fn has_failed(&self) -> bool {
        self.sync_failed.load(Ordering::SeqCst)
    }

    /// From now on nothing is written: as after a failed fsync, only a restart helps.
    pub(super) fn give_up(&self, error: io::Error) -> StoreError {
        self.sync_failed.store(true, Ordering::SeqCst);
        StoreError::Stopped(error)
    }

    /// Refuses to go on after a failed fsync.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.has_failed() {
            return Err(StoreError::Stopped(earlier()));
        }
        Ok(())
    }

    /// What a caller can do about this error.
    pub(super) fn explain(&self, error: io::Error) -> StoreError {
        if self.has_failed() {
            return StoreError::Stopped(error);
        }
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(error),
            _ => StoreError::Io(Box::new(error)),
        }
    }
}

impl Default for Device {
    fn default() -> Self {
        Self::new(|_| Ok(()))
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("sync_failed", &self.sync_failed)
            .finish_non_exhaustive()
    }
}

fn earlier() -> io::Error {
    io::Error::other("an earlier fsync failed")
}

/// How many fsyncs run at once.
const MAX_SYNCS: usize = 8;
