//! The housekeeping thread: ends the windows, reclaims rows, and keeps the names and the node's own
//! addresses current.

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
        permits::Permits,
    },
    kernel::netns::Netns,
    passive::Model,
};

/// Time for which changes are gathered. Each new set of names makes all flows look up theirs again.
const GATHER: Duration = Duration::from_millis(100);

/// Longest time between two searches for rows of what is gone.
const RECYCLE_EVERY: Duration = Duration::from_mins(1);

/// Shortest time between two runs that match connections to services with backends, when names
/// change.
const MATCH_EVERY: Duration = Duration::from_secs(1);

/// Most changes that are applied at once.
const AT_ONCE: usize = 20_000;

/// A message to the housekeeping thread.
#[derive(Debug)]
pub(super) enum Update {
    /// The names of the configuration, which replace those before.
    Configured(Configured),
    /// News from a source of names.
    News(News),
}

/// Intervals and lifetimes of housekeeping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Length of a window: each flow's minimum in this time is one observation.
    pub(super) window: Duration,
    /// How long the kernel programs work without a sign of life from the agent.
    pub(super) keep: Duration,
    /// How long the rows of namespaces, workloads and pods that are gone are kept.
    pub(super) keep_gone: Duration,
}

/// Names that the configuration gives.
#[derive(Debug, Default)]
pub(super) struct Configured {
    /// Names from the names file.
    pub(super) file: PrefixMap,
    /// Ranges outside of the cluster.
    pub(super) external: Vec<External>,
    /// Ranges of the cluster itself (`identity.cluster_ranges`).
    pub(super) within: Vec<IpNet>,
    /// Further networks of pods whose addresses count. A running agent does not change them.
    pub(super) permits: Permits,
    /// The name of this node.
    pub(super) node: Option<Arc<str>>,
    /// True: no source will add more names.
    pub(super) complete: bool,
}

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Housekeeping {
    updates: Option<Sender<Update>>,
    thread: Option<JoinHandle<()>>,
}

impl Housekeeping {
    /// Starts the thread. Returns once the names are in the kernel.
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
                    merge: Merge::permitting(configured.permits.clone()),
                    configured: Configured::default(),
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
                // The send fails only if the caller died.
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

    /// Replaces the names of the configuration.
    pub(super) fn configure(&self, configured: Configured) {
        // The send fails only if the thread has ended, and the thread reports that itself.
        let update = Update::Configured(configured);
        let _ = self.updates.as_ref().map(|sender| sender.send(update));
    }

    /// The sender by which a source reports changes. The thread ends only after all sources have
    /// dropped theirs.
    pub(super) fn updates(&self) -> Option<Sender<Update>> {
        self.updates.clone()
    }
}

impl Drop for Housekeeping {
    fn drop(&mut self) {
        // The thread ends when the last sender is dropped.
        self.updates = None;
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that updates names and windows panicked");
        }
    }
}

struct State {
    model: Arc<Model>,
    configured: Configured,
    merge: Merge,
    own: Vec<IpAddr>,
    /// The names that an earlier agent left in the kernel have been removed.
    settled: bool,
    times: Times,
    /// When rows of what is gone were last searched for.
    looked: Instant,
    /// Names have changed since connections were last matched with backends.
    renamed: bool,
    /// When connections were last matched with backends.
    matched: Instant,
    /// Addresses that changed owners earlier. They get their new names now.
    moved: Vec<Moved>,
}

impl State {
    /// Works until all senders are gone.
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
                    tracing::error!(%error, "the busiest workloads, services and pods could not be selected");
                }
                if let Err(error) = self.recycle() {
                    tracing::error!(%error, "the histogram rows of deleted objects could not be freed");
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
                tracing::error!(%error, "the names in the kernel could not be updated");
            }
            if self.renamed && self.matched.elapsed() >= MATCH_EVERY {
                (self.renamed, self.matched) = (false, Instant::now());
                self.model.backends().refresh();
            }
        }
    }

    /// Takes one update and those that follow it within [`GATHER`].
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
                deltas.flat_map(|change| merge.apply(change)).collect()
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

    /// Reclaims the rows of what is gone, at intervals. It does nothing before all names are known.
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

    /// Chooses which workloads and pods are told apart where not all can be: those with the most
    /// packets.
    fn tell_apart(&self) -> io::Result<()> {
        let ids = self.model.ids();
        if !ids.levels().any() {
            return Ok(());
        }
        let packets = self.model.packets_by_address(&self.model.clock()?);
        ids.tell_apart(self.model.tables(), &packets)
    }

    /// Tells the kernel programs that the agent lives, reads the node's addresses, and writes new
    /// names into the kernel.
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
            let registry = self.model.registry();
            registry.apply(&deltas);
            registry.status().set_outranked(self.merge.outranked());
            self.model.ids().follow(self.model.tables(), &deltas)?;
        }
        if self.configured.complete && !self.settled {
            self.model.ids().settle(self.model.tables())?;
            self.settled = true;
        }
        Ok(())
    }
}
