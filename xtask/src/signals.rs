//! Notes SIGINT, SIGTERM and SIGHUP, so that whatever runs can be ended in order.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Catches the signals. From here on they no longer end this program: it must ask [`stopped`].
///
/// # Errors
/// When the handler cannot be set, such as when it is set twice.
pub(crate) fn catch() -> Result<()> {
    ctrlc::set_handler(|| STOPPED.store(true, Ordering::Relaxed)).context("cannot handle signals")
}

/// Whether a signal asked this program to end.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}
