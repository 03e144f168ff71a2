use anyhow::{Context, Result};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody wants to stop. Nodes are processes of their own, so that they are stopped in order before
/// this program ends.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens for SIGINT and SIGTERM from now on. Call it within a tokio runtime.
    pub(crate) fn listen() -> Result<Self> {
        let interrupted = Self(Arc::default());
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let mut signals = signal(kind).context("listen for signals")?;
            let noticed = Arc::clone(&interrupted.0);
            tokio::spawn(async move {
                if signals.recv().await.is_some() {
                    noticed.store(true, Ordering::Relaxed);
                }
            });
        }
        Ok(interrupted)
    }

    /// An error once somebody wants to stop: ask between two measurements.
    pub(crate) fn check(&self) -> Result<()> {
        anyhow::ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}
