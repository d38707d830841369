//! A client that works beside its caller, in a namespace.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::testbed::{Error, Netns};

/// Tells a client to stop, and hears from it that it is ready.
#[derive(Debug, Clone, Default)]
pub struct Control {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    ready: bool,
    ended: bool,
}

impl Control {
    /// A control that nobody stops: the client ends by its limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the client end soon.
    pub fn stop(&self) {
        self.change(|state| state.stopped = true);
    }

    /// Whether the client should end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Sleeps until `time`; returns early, and true, if stopped.
    pub(super) fn sleep_until(&self, time: Instant) -> bool {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return true;
            }
            let Some(left) = time.checked_duration_since(Instant::now()) else {
                return false;
            };
            let wait = self.shared.1.wait_timeout(state, left);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Says that all connections of the client are open.
    pub(super) fn ready(&self) {
        self.change(|state| state.ready = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.shared.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the client ended, also if it panicked.
struct Ending(Control);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.change(|state| state.ended = true);
    }
}

/// A client on a thread inside a namespace; stopped and joined on drop.
#[derive(Debug)]
pub struct Background<T> {
    control: Control,
    thread: Option<JoinHandle<Result<io::Result<T>, Error>>>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts `client` in `netns`, for example
    /// `Background::start(&pod, move |control| many(&config, control))`.
    pub fn start(
        netns: &Netns,
        client: impl FnOnce(&Control) -> io::Result<T> + Send + 'static,
    ) -> Result<Self, Error> {
        let control = Control::new();
        let theirs = control.clone();
        let ending = Ending(control.clone());
        let thread = netns.spawn_thread("traffic", move || {
            let _ending = ending;
            client(&theirs)
        })?;
        Ok(Self {
            control,
            thread: Some(thread),
        })
    }

    /// Waits until all connections of the client are open.
    pub fn wait_ready(&self, limit: Duration) -> io::Result<()> {
        let unready = |state: &mut State| !state.ready && !state.ended;
        let state = self.control.lock();
        let (state, _) = self
            .control
            .shared
            .1
            .wait_timeout_while(state, limit, unready)
            .unwrap_or_else(PoisonError::into_inner);
        match (state.ready, state.ended) {
            (true, _) => Ok(()),
            (_, true) => Err(io::Error::other(
                "the client ended before it was ready: join it",
            )),
            _ => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the client is not ready after {limit:?}"),
            )),
        }
    }

    /// Stops the client and returns its report.
    pub fn stop(self) -> io::Result<T> {
        self.control.stop();
        self.join()
    }

    /// Waits until the client reached its limit and returns its report.
    ///
    /// # Panics
    ///
    /// If the client did.
    pub fn join(mut self) -> io::Result<T> {
        let thread = self.thread.take().expect("joined only here and on drop");
        match thread.join() {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.control.stop();
        if let Some(thread) = self.thread.take() {
            // Nobody is left to take its report or its panic.
            let _ = thread.join();
        }
    }
}
