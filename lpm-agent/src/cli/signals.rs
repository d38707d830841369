//! Signals and other events that end a command.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output::Gone;

/// Waits for Ctrl-C or SIGTERM. With `hangup` it also waits for the end of the terminal, or of the
/// output's reader.
pub(super) struct End {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<(Signal, Gone)>,
}

impl End {
    /// Installs the handlers. From here on the signals do not kill the process any more.
    pub(super) fn new(hangup: bool) -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: hangup
                .then(|| io::Result::Ok((signal(SignalKind::hangup())?, Gone::watch()?)))
                .transpose()?,
        })
    }

    /// Waits for one of the events.
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

/// A stream of SIGHUP signals, which ask to read the files again.
pub(super) fn reload() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}
