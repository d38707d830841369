//! Forwards the log messages of debug builds of the kernel programs (`cargo xtask build
//! --debug-programs`).

use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::kernel::load::Kernel;

/// Longest sleep of the reader before it checks whether to end, milliseconds.
const PATIENCE: u8 = 200;

/// Forwards messages of the programs to the agent's log. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct ProgramLog {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ProgramLog {
    /// Starts the reader. None: the programs are no debug build, and write no messages.
    pub(super) fn start(kernel: &mut Kernel) -> io::Result<Option<Self>> {
        let Ok(mut logger) = EbpfLogger::init(kernel.ebpf_mut()) else {
            return Ok(None);
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let read = move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut fds = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
                // Interrupted or not, the waiting messages are read.
                let _ = poll(&mut fds, PollTimeout::from(PATIENCE));
                logger.flush();
            }
        };
        let thread = thread::Builder::new()
            .name("lpm-programs".to_owned())
            .spawn(read)?;
        Ok(Some(Self {
            stop,
            thread: Some(thread),
        }))
    }
}

impl Drop for ProgramLog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that reads the programs' messages panicked");
        }
    }
}
