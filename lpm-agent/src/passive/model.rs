//! The agent's model, which answers the exporters.

mod backends;
pub mod levels;
mod links;
mod misattributed;
pub mod places;
mod queries;
mod requests;
mod row_reclaim;
mod sweep;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lpm_common::{
    counter::COUNTERS,
    layout::{Echo, Family, Leg, NameId, PairKey, PeerKind, Traffic, Vantage},
};

use self::{
    backends::Backends,
    levels::{Counted, Levelled, RowLabels},
    places::{PlaceLabels, Places},
};
pub use self::{
    queries::{Answers, Echoes},
    requests::Requests,
    sweep::Sweep,
};
use super::{
    Clock, Counts, Flow, NameIds, NodePairs, pairs::Reached, segments::Segments, window::Windows,
};
use crate::{
    identity::{OVERFLOW, Registry, UNKNOWN},
    kernel::{
        blind::Reason,
        conntrack::Conntrack,
        maps::{MINIMA, Maps, place},
        ports::Ports,
    },
};

/// Index of the overflow row, for all that found no row of its own.
const OVERFLOW_ROW: usize = 0;

/// The labels that all RTT metrics share: the namespaces of both ends, and the kind of the remote
/// end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    /// Namespace of the local end.
    pub namespace: Arc<str>,
    /// Namespace of the remote end. Empty: that end has no name.
    pub peer_namespace: Arc<str>,
    /// Kind of the remote end.
    pub peer_kind: PeerKind,
}

/// The round trips of TCP in the kernel's histograms.
#[derive(Clone, Debug, Default)]
pub struct RoundTrips {
    /// Histograms of the rows in which each flow is counted once.
    pub by_labels: BTreeMap<(Labels, Leg, Echo), Counts>,
    /// Histograms by the levels that tell members of namespaces apart.
    pub levelled: Levelled,
    /// Histograms by the nodes and zones of both ends, over all namespaces.
    pub places: Places,
    /// Number of all samples, those at other vantages included.
    pub samples: u64,
}

/// A watched interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Name of the interface.
    pub name: String,
    /// Vantage as which the interface is watched.
    pub vantage: Vantage,
    /// How the programs are attached: `tcx` or `netlink`.
    pub mode: &'static str,
}

/// An interface that should be measured and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlindLink {
    /// Name of the interface when that was found.
    pub name: String,
    /// Vantage as which the interface should be watched.
    pub vantage: Vantage,
    /// Reason why the interface is not measured.
    pub reason: Reason,
}

/// A flow with what the agent knows beyond its entry.
#[derive(Clone, Debug)]
pub struct KnownFlow {
    /// The flow as its entry has it.
    pub flow: Flow,
    /// Packets and bytes by direction.
    pub traffic: [Traffic; 2],
    /// True: seen within the idle time and not closed.
    pub active: bool,
}

/// The flows, histograms and counters of one set of kernel programs.
pub struct Model {
    tables: Arc<dyn Maps>,
    ids: Arc<NameIds>,
    idle: Duration,
    windows: Mutex<Windows>,
    /// When the current window began.
    begun: Mutex<Instant>,
    pairs: Arc<NodePairs>,
    /// Held while counts are moved from one row to another.
    rows: RwLock<()>,
    merging: Mutex<row_reclaim::RowReclaim>,
    links: RwLock<BTreeMap<u32, Link>>,
    one_sided: RwLock<BTreeMap<u32, bool>>,
    blind: RwLock<BTreeMap<u32, BlindLink>>,
    translated: OnceLock<Conntrack>,
    backends: Arc<Backends>,
    ports: OnceLock<Ports>,
    node: OnceLock<Arc<str>>,
    packets: AtomicU64,
    bytes: AtomicU64,
    late: misattributed::Misattributed,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

impl Model {
    /// Makes a model over the kernel's maps. A flow that was not seen for `idle` is not active.
    ///
    /// # Errors
    /// The kernel's clocks cannot be read.
    pub fn new(tables: Arc<dyn Maps>, ids: Arc<NameIds>, idle: Duration) -> io::Result<Self> {
        tables.run_clock()?;
        let backends = Backends::new(Arc::clone(&tables), Arc::clone(&ids));
        let backends = Arc::new(backends);
        Ok(Self {
            windows: Mutex::new(Windows::resume(&*tables)),
            tables,
            ids,
            idle,
            begun: Mutex::new(Instant::now()),
            pairs: Arc::default(),
            rows: RwLock::default(),
            merging: Mutex::default(),
            links: RwLock::default(),
            one_sided: RwLock::default(),
            blind: RwLock::default(),
            translated: OnceLock::new(),
            backends,
            ports: OnceLock::new(),
            node: OnceLock::new(),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            late: misattributed::Misattributed::default(),
        })
    }

    /// The kernel's maps.
    #[must_use]
    pub fn tables(&self) -> &dyn Maps {
        &*self.tables
    }

    /// Names of addresses.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        self.ids.registry()
    }

    /// Namespaces and what is told apart within them, by id.
    #[must_use]
    pub fn ids(&self) -> &NameIds {
        &self.ids
    }

    /// Ends a window: each flow's minimum becomes an observation, queries without an answer are
    /// counted, and the clocks are compared again.
    ///
    /// # Errors
    /// The kernel's clocks cannot be read, or claims cannot be made. The window was ended
    /// nevertheless.
    pub fn end_window(&self) -> io::Result<()> {
        let backend = |from, to| self.translated.get()?.backend(from, to);
        let mut reached = Reached::new(self.registry().names(), &backend);
        let begun = {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *begun, Instant::now())
        };
        self.windows()
            .take(&*self.tables, |ends| reached.count(ends));
        reached.end(&self.pairs, begun);
        let counted = self.count_unanswered();
        self.tables.run_clock().and(counted)
    }

    /// The nodes that flows of this node reach, as of the last window.
    #[must_use]
    pub fn node_pairs(&self) -> &Arc<NodePairs> {
        &self.pairs
    }

    /// Reads the clocks.
    ///
    /// # Errors
    /// A clock cannot be read.
    pub fn clock(&self) -> io::Result<Clock> {
        Clock::now(&*self.tables)
    }

    /// All flows in the table, idle ones included.
    #[must_use]
    pub fn flows(&self, clock: &Clock) -> Vec<KnownFlow> {
        let windows = self.windows();
        (0..self.tables.flow_count())
            .filter_map(|index| Flow::read(index, self.tables.flow(index)?))
            .map(|mut flow| {
                let identity = flow.identity();
                for (leg, before) in flow
                    .legs
                    .iter_mut()
                    .zip(windows.minima(flow.index, identity))
                {
                    leg.min = leg.min.into_iter().chain(before).min();
                }
                KnownFlow {
                    traffic: windows.traffic(flow.index, identity, flow.traffic),
                    active: !flow.closed && clock.age(flow.last_seen) < self.idle,
                    flow,
                }
            })
            .collect()
    }

    /// The kernel's counters.
    ///
    /// # Errors
    /// The kernel's map cannot be read.
    pub fn counters(&self) -> io::Result<[u64; COUNTERS]> {
        self.tables.counters()
    }

    /// Round trips of TCP by labels, leg and echo, and their number.
    #[must_use]
    pub fn rtt(&self) -> RoundTrips {
        let _whole = self.reading();
        let mut found = RoundTrips {
            levelled: Levelled::of(self),
            ..RoundTrips::default()
        };
        for row in 0..self.used_rows() {
            if self.family(row) != Some(Family::Tcp) {
                continue;
            }
            let labels = self.row_labels(row);
            let pair = self.row_pair(row);
            let place = PlaceLabels::of(self, pair);
            for leg in [Leg::Remote, Leg::Local] {
                for echo in Echo::ALL {
                    let counts = self.row_counts(row, leg, echo as usize);
                    found.samples += counts.count();
                    if !counts.is_empty() {
                        found.places.add(&place, leg, echo, &counts);
                    }
                    if let Some(labels) = labels.as_ref().filter(|_| !counts.is_empty()) {
                        let all = found.by_labels.entry((labels.clone(), leg, echo));
                        all.or_default().add(&counts);
                        let counted = Counted {
                            leg,
                            echo,
                            counts: &counts,
                        };
                        let of_row = RowLabels { row, pair, labels };
                        found.levelled.add(self, &of_row, counted);
                    }
                }
            }
        }
        found
    }

    /// Retransmitted segments by labels, and by the leg that their acknowledgments measure. A row
    /// without any is there too, once it has a flow: then it is known that nothing was
    /// retransmitted.
    #[must_use]
    pub fn retransmitted(&self) -> BTreeMap<(Labels, Leg), u64> {
        let _whole = self.reading();
        let mut all = BTreeMap::new();
        for (row, labels) in self.rows() {
            let Some(counts) = self.tables.row(row).map(|row| &row.retransmitted) else {
                continue;
            };
            for leg in [Leg::Remote, Leg::Local] {
                let count = counts[leg as usize].load(Ordering::Relaxed);
                *all.entry((labels.clone(), leg)).or_default() += count;
            }
        }
        all
    }

    /// The minima per flow and window, by labels and leg.
    #[must_use]
    pub fn flow_rtt(&self) -> BTreeMap<(Labels, Leg), Counts> {
        let _whole = self.reading();
        let mut all: BTreeMap<_, Counts> = BTreeMap::new();
        for (row, labels) in self.rows() {
            for leg in [Leg::Remote, Leg::Local] {
                let counts = self.row_counts(row, leg, MINIMA);
                if !counts.is_empty() {
                    all.entry((labels.clone(), leg)).or_default().add(&counts);
                }
            }
        }
        all
    }

    /// Reads the segments: the times between the places that see a flow.
    pub fn segments<T>(&self, read: impl FnOnce(&Segments) -> T) -> T {
        read(self.windows().segments())
    }

    /// How full each map is, from 0 to 1: entries held by active flows, rows taken, queries that
    /// wait for their answers.
    #[must_use]
    pub fn pressure(&self, active: u64) -> [(&'static str, f64); 4] {
        #[expect(clippy::cast_precision_loss, reason = "maps are far smaller than 2^53")]
        let ratio = |part: u64, whole: usize| part as f64 / whole.max(1) as f64;
        let all = (0..self.used_rows()).filter(|row| !self.is_free(*row));
        let rows = all.count() as u64;
        let names = self.ids.names_wanted() as u64;
        [
            ("flows", ratio(active, self.tables.flow_count())),
            ("rows", ratio(rows, self.tables.row_count())),
            ("queries", ratio(self.waiting(), self.tables.query_count())),
            ("names", ratio(names, self.tables.name_count())),
        ]
    }

    /// Locks the rows for reading. While the lock is held, no counts are moved from one row to
    /// another.
    fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_free(&self, row: usize) -> bool {
        let row = self.tables.row(row);
        row.is_some_and(|row| row.pair.load(Ordering::Relaxed) & PairKey::FREE != 0)
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used_rows(&self) -> usize {
        let next = self.tables.control().next_row.load(Ordering::Acquire) as usize;
        next.clamp(1, self.tables.row_count())
    }

    /// The family of a row. None: the row is not in use.
    fn family(&self, row: usize) -> Option<Family> {
        if row == OVERFLOW_ROW {
            return Some(Family::Tcp);
        }
        self.row_pair(row)?.family()
    }

    fn row_pair(&self, row: usize) -> Option<PairKey> {
        let pair = self.tables.row(row)?.pair.load(Ordering::Acquire);
        (pair != 0 && pair & PairKey::FREE == 0).then_some(PairKey(pair))
    }

    /// The rows of TCP whose flows are counted there and nowhere else, with their labels.
    fn rows(&self) -> impl Iterator<Item = (usize, Labels)> {
        (0..self.used_rows())
            .filter(|row| self.family(*row) == Some(Family::Tcp))
            .filter_map(|row| Some((row, self.row_labels(row)?)))
    }

    /// The labels of a row by its index; see [`Self::labels`].
    fn row_labels(&self, row: usize) -> Option<Labels> {
        if row == OVERFLOW_ROW {
            return Some(overflow());
        }
        self.labels(self.row_pair(row)?)
    }

    /// The labels of a row. None: its flows are counted at another vantage too, or belong to
    /// namespaces that are gone.
    fn labels(&self, pair: PairKey) -> Option<Labels> {
        let (local, remote) = (pair.local(), pair.remote());
        let is_gone = |id| self.ids.is_of_the_gone(id);
        if !is_counted_once(pair) || is_gone(local.id) || is_gone(remote.id) {
            return None;
        }
        Some(Labels {
            namespace: self
                .ids
                .namespace(local.id.namespace())
                .unwrap_or_else(|| UNKNOWN.into()),
            peer_namespace: self
                .ids
                .namespace(remote.id.namespace())
                .unwrap_or_default(),
            peer_kind: PeerKind::from_raw(remote.kind).unwrap_or(PeerKind::External),
        })
    }

    fn row_counts(&self, row: usize, leg: Leg, echo: usize) -> Counts {
        let mut counts = Counts::default();
        for stripe in 0..self.tables.stripes() {
            let index = place(self.tables.row_count(), stripe, row, leg as usize, echo);
            if let Some(histogram) = self.tables.histogram(index) {
                counts.add_kernel(histogram);
            }
        }
        counts
    }
}

/// True if the flows of a row are counted there and at no other vantage, and their namespaces were
/// not lost without anything left of them.
fn is_counted_once(pair: PairKey) -> bool {
    let local = pair.local();
    let here = match Vantage::from_raw(pair.vantage()) {
        Some(Vantage::Pod | Vantage::Node) => true,
        Some(Vantage::Nic) => local.own == 1,
        Some(Vantage::Overlay | Vantage::Bridge) | None => false,
    };
    here && local.id != NameId::GONE
}

fn overflow() -> Labels {
    Labels {
        namespace: OVERFLOW.into(),
        peer_namespace: OVERFLOW.into(),
        peer_kind: PeerKind::External,
    }
}

#[cfg(test)]
pub(crate) mod tests;
