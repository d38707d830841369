//! The housekeeping thread: keeps the names and the node's own addresses current. In a session that
//! measures it also does the [chores](super::passive_chores) of the passive half.

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

use super::{SessionError, passive_chores::PassiveChores};
use crate::{
    identity::{
        PrefixMap, Registry, addresses, cluster_ranges,
        external::{self, External},
        merge::{Delta, Merge, Moved, News, Origin},
        names_file,
        permits::Permits,
    },
    kernel::netns::Netns,
};

/// Time for which changes are gathered. Each new set of names makes all flows look up theirs again.
const GATHER: Duration = Duration::from_millis(100);

/// Longest time until a change of the node's addresses is noticed.
const ADDRESSES_EVERY: Duration = Duration::from_secs(2);

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
    /// Starts the thread. Returns once the names are in the registry, and in the kernel if there are
    /// chores of a passive half.
    pub(super) fn start(
        registry: Arc<Registry>,
        chores: Option<PassiveChores>,
        configured: Configured,
        netns: Option<Netns>,
    ) -> Result<Self, SessionError> {
        let (sender, receiver) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let state = State {
            registry,
            chores,
            configured: Configured::default(),
            merge: Merge::permitting(configured.permits.clone()),
            own: Vec::new(),
            settled: false,
            moved: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name("lpm-housekeep".to_owned())
            .spawn(move || state.live(netns, configured, &ready, &receiver))
            .map_err(SessionError::Thread)?;
        let died = || SessionError::Thread(io::Error::other("the housekeeping thread panicked"));
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
            tracing::error!("the housekeeping thread panicked");
        }
    }
}

struct State {
    registry: Arc<Registry>,
    /// None: this process measures nothing.
    chores: Option<PassiveChores>,
    configured: Configured,
    merge: Merge,
    own: Vec<IpAddr>,
    /// All names are known, and those that an earlier agent left in the kernel have been removed.
    settled: bool,
    /// Addresses that changed owners earlier. They get their new names now.
    moved: Vec<Moved>,
}

impl State {
    /// The thread: enters the network namespace, applies the first names, reports on `ready`, and
    /// works until all senders are gone.
    fn live(
        mut self,
        netns: Option<Netns>,
        configured: Configured,
        ready: &Sender<Result<(), SessionError>>,
        updates: &Receiver<Update>,
    ) {
        let begun = netns
            .map_or(Ok(()), |netns| netns.enter())
            .map_err(Into::into);
        let first = self.configure(configured);
        let begun = begun.and_then(|()| self.refresh(first).map_err(SessionError::Maps));
        let well = begun.is_ok();
        // The send fails only if the caller died.
        let _ = ready.send(begun);
        if well {
            self.run(updates);
        }
    }

    /// Works until all senders are gone.
    fn run(&mut self, updates: &Receiver<Update>) {
        loop {
            let settled = self.settled;
            let chores = self.chores.as_mut();
            let window_left = chores.map(|chores| chores.end_windows(settled));
            let wait = window_left.map_or(ADDRESSES_EVERY, |left| left.min(ADDRESSES_EVERY));
            let deltas = match updates.recv_timeout(wait) {
                Ok(update) => self.gather(update, updates),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let renamed = !deltas.is_empty();
            if let Err(error) = self.refresh(deltas) {
                tracing::error!(%error, "the names in the kernel could not be updated");
            }
            if let Some(chores) = &mut self.chores {
                chores.match_backends(renamed);
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

    /// Tells the kernel programs that the agent lives, reads the node's addresses, and applies new
    /// names: to the registry, and to the kernel's maps if this process measures.
    fn refresh(&mut self, mut deltas: Vec<Delta>) -> io::Result<()> {
        let chores = self.chores.as_ref();
        chores.map_or(Ok(()), PassiveChores::stay_awake)?;
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
        let zones = self.merge.take_zones();
        if begins || !deltas.is_empty() || zones.is_some() {
            let moved = std::mem::take(&mut self.moved);
            if let Some(chores) = chores.filter(|_| !moved.is_empty()) {
                chores.count_late(&moved)?;
            }
            self.registry.apply(&deltas);
            if let Some(zones) = zones {
                self.registry.set_zones(zones);
            }
            let outranked = self.merge.outranked();
            self.registry.status().set_outranked(outranked);
            chores.map_or(Ok(()), |chores| chores.follow(&deltas))?;
        }
        if self.configured.complete && !self.settled {
            chores.map_or(Ok(()), PassiveChores::settle)?;
            self.settled = true;
        }
        Ok(())
    }
}
