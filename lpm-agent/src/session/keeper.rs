//! The thread that does what must be done now and then: it ends the windows, and keeps the names
//! and the node's own addresses as they are.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{ADDRESSES_EVERY, SessionError};
use crate::{
    identity::{Names, addresses},
    kernel::netns::Netns,
    passive::Model,
};

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Keeper {
    names: Option<Sender<Names>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread; returns once the names are in the kernel.
    pub(super) fn start(
        model: Arc<Model>,
        names: Names,
        netns: Option<Netns>,
        (window, keep): (Duration, Duration),
    ) -> Result<Self, SessionError> {
        let (sender, receiver) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("lpm-keeper".to_owned())
            .spawn(move || {
                let begun = netns
                    .map_or(Ok(()), |netns| netns.enter())
                    .map_err(Into::into);
                let mut state = State {
                    model,
                    names,
                    own: Vec::new(),
                    keep,
                };
                let begun = begun.and_then(|()| state.refresh().map_err(SessionError::Maps));
                let well = begun.is_ok();
                // Nobody waits any more only if the caller died.
                let _ = ready.send(begun);
                if well {
                    state.run(&receiver, window);
                }
            })
            .map_err(SessionError::Thread)?;
        let died = || SessionError::Thread(io::Error::other("the keeper panicked"));
        started.recv().map_err(|_| died())??;
        Ok(Self {
            names: Some(sender),
            thread: Some(thread),
        })
    }

    /// Other names hold from now on.
    pub(super) fn set_names(&self, names: Names) {
        // It fails only if the thread has ended, which it says itself.
        let _ = self.names.as_ref().map(|sender| sender.send(names));
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // The thread ends when there is nobody to hear from.
        self.names = None;
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that keeps names and windows panicked");
        }
    }
}

struct State {
    model: Arc<Model>,
    names: Names,
    own: Vec<IpAddr>,
    /// How long the programs work without a sign of the agent.
    keep: Duration,
}

impl State {
    /// Works until the sender is gone.
    fn run(&mut self, names: &Receiver<Names>, window: Duration) {
        let mut window_ends = Instant::now() + window;
        loop {
            let now = Instant::now();
            if now >= window_ends {
                if let Err(error) = self.model.end_window() {
                    tracing::error!(%error, "the kernel's clocks cannot be read");
                }
                if let Err(error) = self.tell_apart() {
                    tracing::error!(%error, "what talks most is not told apart");
                }
                window_ends += window;
                continue;
            }
            match names.recv_timeout((window_ends - now).min(ADDRESSES_EVERY)) {
                Ok(names) => {
                    self.names = names;
                    self.own.clear();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Err(error) = self.refresh() {
                tracing::error!(%error, "the names in the kernel are not those they should be");
            }
        }
    }

    /// Where not all can be told apart, those are that talk most.
    fn tell_apart(&self) -> io::Result<()> {
        let directory = self.model.directory();
        if !directory.levels().any() {
            return Ok(());
        }
        let packets = self.model.packets_by_address(&self.model.clock()?);
        directory.tell_apart(self.model.tables(), &packets, &self.own)
    }

    /// Gives the sign that the agent lives, looks at the node's addresses, and tells the kernel if
    /// anything is new.
    fn refresh(&mut self) -> io::Result<()> {
        self.model.tables().stay_awake(self.keep)?;
        let own = addresses::own()?;
        if self.own.is_empty() || own != self.own {
            self.model
                .directory()
                .update(self.model.tables(), &self.names, &own)?;
            self.own = own;
        }
        Ok(())
    }
}
