//! Processes inside a namespace that end with their guard.

use std::{
    io,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

/// A child known to its guard and to its namespace, whichever ends first.
pub(crate) type Shared = Arc<Mutex<Child>>;

/// A process started by [`Netns::spawn`](super::Netns::spawn): killed, with
/// what it started, when this is dropped.
#[derive(Debug)]
pub struct NsChild {
    child: Shared,
    pid: Pid,
}

impl NsChild {
    pub(crate) fn new(child: Child) -> Self {
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id is positive"));
        Self {
            child: Arc::new(Mutex::new(child)),
            pid,
        }
    }

    pub(crate) fn shared(&self) -> Shared {
        Arc::clone(&self.child)
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Its standard input, once, if the command piped it.
    #[must_use]
    pub fn stdin(&self) -> Option<ChildStdin> {
        self.lock().stdin.take()
    }

    /// Its standard output, once, if the command piped it.
    #[must_use]
    pub fn stdout(&self) -> Option<ChildStdout> {
        self.lock().stdout.take()
    }

    /// Its standard error, once, if the command piped it.
    #[must_use]
    pub fn stderr(&self) -> Option<ChildStderr> {
        self.lock().stderr.take()
    }

    /// Sends a signal to the process, unless it ended already.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // The lock keeps the process from being reaped, and its id from being
        // given to another, between the check and the signal.
        let mut child = self.lock();
        if child.try_wait()?.is_none() {
            kill(self.pid, signal)?;
        }
        Ok(())
    }

    /// Its exit status, if it ended.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        self.lock().try_wait()
    }

    /// Waits for its end; an error of kind `TimedOut` after `limit`.
    pub fn wait(&self, limit: Duration) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                let message = format!("process {} still runs after {limit:?}", self.pid);
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NsChild {
    fn drop(&mut self) {
        end(&self.child);
    }
}

/// Kills the group of a child that still runs, and reaps it.
pub(crate) fn end(child: &Shared) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}
