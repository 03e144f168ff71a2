use anyhow::{Context, Result};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// True once Ctrl-C was pressed, which then no longer ends this process: what it started can be stopped
/// in order.
///
/// # Errors
///
/// When the runtime that listens cannot be started.
pub(crate) fn on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let noticed = Arc::clone(&interrupted);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                noticed.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(interrupted)
}
