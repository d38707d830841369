//! Signals, and whatever else ends a command.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output::Gone;

/// Waits for Ctrl-C or SIGTERM; with `hangup`, also for the terminal, or whoever reads the output, to
/// go.
pub(super) struct End {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<(Signal, Gone)>,
}

impl End {
    /// From here on the signals do not kill the process any more.
    pub(super) fn new(hangup: bool) -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: hangup
                .then(|| io::Result::Ok((signal(SignalKind::hangup())?, Gone::watch()?)))
                .transpose()?,
        })
    }

    /// Waits for one of them.
    pub(super) async fn wait(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some((hangup, gone)) => tokio::select! {
                    _ = hangup.recv() => {}
                    () = gone.wait() => {}
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = hangup => {}
        }
    }
}

/// SIGHUP as a wish to read the files anew.
pub(super) fn reload() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}
