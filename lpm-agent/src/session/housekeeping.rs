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

use ipnet::IpNet;

use super::{ADDRESSES_EVERY, SessionError};
use crate::{
    identity::{
        PrefixMap, addresses, cluster_ranges,
        external::{self, External},
        merge::{Delta, Merge, Moved, News, Origin},
        names_file,
    },
    kernel::netns::Netns,
    passive::Model,
};

/// How long changes are gathered: each time the kernel has new names, all flows look theirs up.
const GATHER: Duration = Duration::from_millis(100);

/// It is looked who is gone this often at least.
const RECYCLE_EVERY: Duration = Duration::from_mins(1);

/// It is looked this often at most whose connections to services are, when names change.
const MATCH_EVERY: Duration = Duration::from_secs(1);

/// Changes that are made at once at most.
const AT_ONCE: usize = 20_000;

/// What the keeper hears.
#[derive(Debug)]
pub(super) enum Update {
    /// The configuration's names are these now.
    Configured(Configured),
    /// A source has news.
    News(News),
}

/// How often, and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Each flow's minimum in this time is one observation.
    pub(super) window: Duration,
    /// How long the programs work without a sign of the agent.
    pub(super) keep: Duration,
    /// How long rows of what is gone are kept.
    pub(super) keep_gone: Duration,
}

/// Names that the configuration gives.
#[derive(Debug, Default)]
pub(super) struct Configured {
    /// The names file's.
    pub(super) file: PrefixMap,
    /// Ranges outside of the cluster.
    pub(super) external: Vec<External>,
    /// Ranges of the cluster's own.
    pub(super) within: Vec<IpNet>,
    /// The name of this node.
    pub(super) node: Option<Arc<str>>,
    /// No source will say more.
    pub(super) complete: bool,
}

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Housekeeping {
    updates: Option<Sender<Update>>,
    thread: Option<JoinHandle<()>>,
}

impl Housekeeping {
    /// Starts the thread; returns once the names are in the kernel.
    pub(super) fn start(
        model: Arc<Model>,
        configured: Configured,
        netns: Option<Netns>,
        times: Times,
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
                    configured: Configured::default(),
                    merge: Merge::default(),
                    own: Vec::new(),
                    settled: false,
                    times,
                    looked: Instant::now(),
                    renamed: false,
                    matched: Instant::now(),
                    moved: Vec::new(),
                };
                let first = state.configure(configured);
                let begun = begun.and_then(|()| state.refresh(first).map_err(SessionError::Maps));
                let well = begun.is_ok();
                // Nobody waits any more only if the caller died.
                let _ = ready.send(begun);
                if well {
                    state.run(&receiver);
                }
            })
            .map_err(SessionError::Thread)?;
        let died = || SessionError::Thread(io::Error::other("the keeper panicked"));
        started.recv().map_err(|_| died())??;
        Ok(Self {
            updates: Some(sender),
            thread: Some(thread),
        })
    }

    /// The configuration's names are others from now on.
    pub(super) fn configure(&self, configured: Configured) {
        // It fails only if the thread has ended, which it says itself.
        let update = Update::Configured(configured);
        let _ = self.updates.as_ref().map(|sender| sender.send(update));
    }

    /// Where a source tells what changes. The keeper ends only after all sources have.
    pub(super) fn updates(&self) -> Option<Sender<Update>> {
        self.updates.clone()
    }
}

impl Drop for Housekeeping {
    fn drop(&mut self) {
        // The thread ends when there is nobody to hear from.
        self.updates = None;
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
    configured: Configured,
    merge: Merge,
    own: Vec<IpAddr>,
    /// The kernel has no names any more that an agent before this one left there.
    settled: bool,
    times: Times,
    /// When it was last looked who is gone.
    looked: Instant,
    /// Names have changed since it was looked whose connections are.
    renamed: bool,
    /// When that was.
    matched: Instant,
    /// Addresses that changed hands a while ago, and get their new names now.
    moved: Vec<Moved>,
}

impl State {
    /// Works until the sender is gone.
    fn run(&mut self, updates: &Receiver<Update>) {
        let window = self.times.window;
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
                if let Err(error) = self.recycle() {
                    tracing::error!(%error, "rows of what is gone are kept");
                }
                window_ends += window;
                continue;
            }
            let deltas = match updates.recv_timeout((window_ends - now).min(ADDRESSES_EVERY)) {
                Ok(update) => self.gather(update, updates),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.renamed |= !deltas.is_empty();
            if let Err(error) = self.refresh(deltas) {
                tracing::error!(%error, "the names in the kernel are not those they should be");
            }
            if self.renamed && self.matched.elapsed() >= MATCH_EVERY {
                (self.renamed, self.matched) = (false, Instant::now());
                self.model.backends().refresh();
            }
        }
    }

    /// Takes in an update and those that follow at once.
    fn gather(&mut self, first: Update, updates: &Receiver<Update>) -> Vec<Delta> {
        let until = Instant::now() + GATHER;
        let mut deltas = self.take(first);
        while deltas.len() < AT_ONCE {
            let left = until.saturating_duration_since(Instant::now());
            match updates.recv_timeout(left) {
                Ok(update) => deltas.extend(self.take(update)),
                Err(_) => break,
            }
        }
        deltas
    }

    fn take(&mut self, update: Update) -> Vec<Delta> {
        match update {
            Update::Configured(configured) => self.configure(configured),
            Update::News(News::Changes(changes)) => {
                let merge = &mut self.merge;
                let deltas = changes.into_iter();
                deltas.filter_map(|change| merge.apply(change)).collect()
            }
            Update::News(News::Moved(moved)) => {
                self.moved.extend(moved);
                Vec::new()
            }
            Update::News(News::Complete) => {
                self.settled = false;
                self.configured.complete = true;
                Vec::new()
            }
        }
    }

    fn configure(&mut self, configured: Configured) -> Vec<Delta> {
        let mut deltas = self.merge.replace(Origin::File, configured.file.all());
        let ranges = external::names(&configured.external);
        deltas.extend(self.merge.replace(Origin::External, ranges));
        let within = cluster_ranges::names(&configured.within);
        deltas.extend(self.merge.replace(Origin::Within, within));
        self.configured = configured;
        self.own.clear();
        deltas
    }

    /// Now and then, rows of those who are gone are made free. Not before all names are known.
    fn recycle(&mut self) -> io::Result<()> {
        let keep_gone = self.times.keep_gone;
        let every = (keep_gone / 10).min(RECYCLE_EVERY);
        let now = Instant::now();
        let Some(since) = now.checked_sub(keep_gone) else {
            return Ok(());
        };
        if !self.settled || now - self.looked < every {
            return Ok(());
        }
        self.looked = now;
        self.model.recycle(since)
    }

    /// Where not all can be told apart, those are that talk most.
    fn tell_apart(&self) -> io::Result<()> {
        let ids = self.model.ids();
        if !ids.levels().any() {
            return Ok(());
        }
        let packets = self.model.packets_by_address(&self.model.clock()?);
        ids.tell_apart(self.model.tables(), &packets)
    }

    /// Gives the sign that the agent lives, looks at the node's addresses, and tells the kernel
    /// what is new.
    fn refresh(&mut self, mut deltas: Vec<Delta>) -> io::Result<()> {
        self.model.tables().stay_awake(self.times.keep)?;
        let own = addresses::own()?;
        let begins = self.own.is_empty();
        if begins || own != self.own {
            let Configured { file, node, .. } = &self.configured;
            let name = |address: &IpAddr| {
                let name = names_file::own(file, *address, node.as_ref());
                ((*address).into(), Arc::new(name))
            };
            let names = own.iter().map(name).collect();
            deltas.extend(self.merge.replace(Origin::Own, names));
            self.own = own;
        }
        if begins || !deltas.is_empty() {
            if !self.moved.is_empty() {
                let moved = std::mem::take(&mut self.moved);
                self.model.count_late(&moved)?;
            }
            self.model.registry().apply(&deltas);
            self.model.ids().follow(self.model.tables(), &deltas)?;
        }
        if self.configured.complete && !self.settled {
            self.model.ids().settle(self.model.tables())?;
            self.settled = true;
        }
        Ok(())
    }
}
