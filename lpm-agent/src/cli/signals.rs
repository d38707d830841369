//! Signals and other events that end a command.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::sys::{
    signal::SigSet,
    signalfd::{SfdFlags, SignalFd},
};
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

/// Ctrl-C and SIGTERM as a descriptor that becomes readable, for commands without a runtime.
#[derive(Debug)]
pub(super) struct BlockedSignals(SignalFd);

impl BlockedSignals {
    /// Blocks the signals in this thread and in those that it starts. From here on they do not kill
    /// the process any more.
    pub(super) fn new() -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(nix::sys::signal::Signal::SIGINT);
        mask.add(nix::sys::signal::Signal::SIGTERM);
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&mask, flags)?))
    }

    /// Another descriptor for the same signals: both become readable, and neither is read.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let fd = self.0.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is a signalfd, and nobody else owns it.
        let fd = unsafe { SignalFd::from_owned_fd(fd) };
        Ok(Self(fd))
    }
}

impl AsFd for BlockedSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
