//! The thread that sends all probes: it waits for all sockets and for the next thing to do.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::{EfdFlags, EventFd},
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

use super::{
    figures::Figures,
    probing::Probing,
    resolve::{Found, Resolver},
    spec::Spec,
};
use crate::{
    active::{allow::Allow, plan::Plan, sender::Sender},
    kernel::netns::Netns,
};

/// Tokens of what is no session.
const COMMAND: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// Events that are taken at once.
const EVENTS: usize = 64;

/// Longest time without a look at what is due.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// A message to the thread.
#[derive(Debug)]
enum Command {
    /// Probe these from now on.
    Configure(Vec<Spec>),
    /// What the resolver found.
    Resolved(BTreeMap<String, Found>),
    /// End.
    End,
}

/// Sends commands, and wakes the thread for each.
#[derive(Clone, Debug)]
struct Commands {
    sender: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
}

impl Commands {
    /// False: the thread has ended.
    fn send(&self, command: Command) -> bool {
        self.sender.send(command).is_ok() && self.wake.write(1).is_ok()
    }
}

/// What all sessions use.
#[derive(Debug)]
pub(super) struct Common {
    epoll: Epoll,
}

impl Common {
    /// Opens a sender, and wakes the thread when its socket has something.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(super) fn open(&self, plan: Plan, token: u64) -> io::Result<Sender> {
        let sender = Sender::open(plan)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.epoll.add(&sender, event)?;
        Ok(sender)
    }
}

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Prober {
    commands: Commands,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts the thread, which enters the network namespace and probes nothing yet. `allow` learns
    /// the targets' addresses.
    ///
    /// # Errors
    /// The kernel gives no thread or no descriptor, or the namespace cannot be entered.
    pub(super) fn start(
        figures: Arc<Figures>,
        allow: Allow,
        netns: Option<Arc<Netns>>,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        let commands = Commands { sender, wake };
        let (ready, begun) = mpsc::channel();
        let its_commands = commands.clone();
        let thread = thread::Builder::new()
            .name("lpm-probe".to_owned())
            .spawn(move || {
                let entered = netns
                    .map_or(Ok(()), |netns| netns.enter())
                    .map_err(io::Error::other);
                let work = entered.and_then(|()| Work::new(its_commands, figures, allow));
                let (work, result) = match work {
                    Ok(work) => (Some(work), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                // The send fails only if the caller died.
                let _ = ready.send(result);
                if let Some(mut work) = work {
                    work.run(&receiver);
                }
            })?;
        begun.recv().map_err(io::Error::other)??;
        Ok(Self {
            commands,
            thread: Some(thread),
        })
    }

    /// Probes these from now on. A session that stays as it is goes on.
    pub(super) fn configure(&self, specs: Vec<Spec>) {
        // The send fails only if the thread has panicked, which is told at the end.
        self.commands.send(Command::Configure(specs));
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.commands.send(Command::End);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that probes panicked");
        }
    }
}

/// What the thread owns.
struct Work {
    commands: Commands,
    common: Common,
    timer: TimerFd,
    figures: Arc<Figures>,
    allow: Allow,
    sessions: BTreeMap<u64, Probing>,
    /// Token of the next session.
    next: u64,
    resolver: Option<Resolver>,
    /// The latest news of each name.
    found: BTreeMap<String, Found>,
}

impl Work {
    fn new(commands: Commands, figures: Arc<Figures>, allow: Allow) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        epoll.add(
            &commands.wake,
            EpollEvent::new(EpollFlags::EPOLLIN, COMMAND),
        )?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        Ok(Self {
            commands,
            common: Common { epoll },
            timer,
            figures,
            allow,
            sessions: BTreeMap::new(),
            next: 0,
            resolver: None,
            found: BTreeMap::new(),
        })
    }

    /// Works until the end is asked for.
    fn run(&mut self, commands: &mpsc::Receiver<Command>) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let now = Instant::now();
            let mut wake = now + LONGEST_WAIT;
            for (token, session) in &mut self.sessions {
                if session.wake <= now {
                    session.work(now, *token, &self.common);
                }
                wake = wake.min(session.wake);
            }
            let ready = match self.wait(wake, &mut events) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "the thread that probes cannot wait for packets, and ends");
                    return;
                }
            };
            for event in events.iter().take(ready) {
                match event.data() {
                    TIMER => {
                        let _ = self.timer.wait();
                    }
                    COMMAND => {
                        let _ = self.commands.wake.read();
                        for command in commands.try_iter() {
                            if !self.obey(command) {
                                return;
                            }
                        }
                    }
                    // It takes what has come and what is due at once.
                    token => {
                        if let Some(session) = self.sessions.get_mut(&token) {
                            session.wake = session.wake.min(Instant::now());
                        }
                    }
                }
            }
        }
    }

    /// Waits until `wake`, or until something happens. Returns how many events there are.
    fn wait(&self, wake: Instant, events: &mut [EpollEvent]) -> io::Result<usize> {
        let left = wake.saturating_duration_since(Instant::now());
        let timeout = if left.is_zero() {
            EpollTimeout::ZERO
        } else {
            let end = Expiration::OneShot(TimeSpec::from_duration(left));
            self.timer.set(end, TimerSetTimeFlags::empty())?;
            EpollTimeout::NONE
        };
        match self.common.epoll.wait(events, timeout) {
            Ok(ready) => Ok(ready),
            Err(nix::errno::Errno::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Follows a command. False: it is the last one.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Configure(specs) => self.configure(specs),
            Command::Resolved(found) => {
                let now = Instant::now();
                for session in self.sessions.values_mut() {
                    if let Some(found) = session.spec.host().and_then(|host| found.get(host)) {
                        session.resolved(found, now);
                    }
                }
                self.found = found;
                self.allow_targets();
            }
            Command::End => return false,
        }
        true
    }

    fn configure(&mut self, specs: Vec<Spec>) {
        let now = Instant::now();
        let wanted = specs
            .iter()
            .map(|spec| (spec.probed.name.as_str().into(), spec.class));
        let shown = self.figures.show(wanted);
        self.sessions
            .retain(|_, session| specs.iter().any(|spec| spec.is_same_session(&session.spec)));
        for (spec, shown) in specs.into_iter().zip(shown) {
            shown.tag(Arc::clone(&spec.probed.tags));
            let mut sessions = self.sessions.values_mut();
            if let Some(session) = sessions.find(|session| session.spec.is_same_session(&spec)) {
                session.go_on_as(spec);
                continue;
            }
            let found = spec.host().and_then(|host| self.found.get(host));
            let mut session = Probing::new(spec.clone(), shown, Arc::clone(&self.figures), now);
            if let Some(found) = found {
                session.resolved(found, now);
            }
            self.sessions.insert(self.next, session);
            self.next += 1;
        }
        self.resolve();
        self.allow_targets();
    }

    /// Has the names of the targets looked up.
    fn resolve(&mut self) {
        let hosts = self
            .sessions
            .values()
            .filter_map(|session| session.spec.host());
        let names: BTreeSet<String> = hosts.map(str::to_owned).collect();
        if names.is_empty() {
            self.resolver = None;
            return;
        }
        if self.resolver.is_none() {
            let commands = self.commands.clone();
            // The thread inherits the network namespace.
            match Resolver::start(move |found| commands.send(Command::Resolved(found))) {
                Ok(resolver) => self.resolver = Some(resolver),
                Err(error) => {
                    tracing::error!(%error, "no thread can be started that looks up the names of targets");
                }
            }
        }
        if let Some(resolver) = &self.resolver {
            resolver.follow(names);
        }
    }

    fn allow_targets(&self) {
        let addresses = self.sessions.values().filter_map(Probing::address);
        self.allow.set_targets(addresses.collect::<HashSet<_>>());
    }
}
