//! Round trips by level: workloads, services and pods within namespaces.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lpm_common::{
    counter::{COUNTERS, Counter},
    layout::{Echo, Leg, NameValue, PairKey, PeerKind},
};

use super::{Clock, Counts, KnownFlow, Labels, Model, OVERFLOW, OVERFLOW_ROW};
use crate::{
    identity::{Member, ids::is_gone},
    passive::flow::plain_address,
};

/// How long a flow counts as closed just now: longer than the interval between two looks for
/// addresses to ask names for.
const JUST_NOW: Duration = Duration::from_secs(5);

/// Labels of the workload level: the workloads at both ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadLabels {
    /// The namespaces, and the kind of the remote end.
    pub labels: Labels,
    /// Workload of the local end.
    pub workload: Workload,
    /// Workload of the remote end.
    pub peer_workload: Workload,
}

/// The workload that a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// Name of the workload. [`OVERFLOW`]: not told apart. Empty: there is no workload.
    pub name: Arc<str>,
    /// Kind of the workload, as kubernetes-mixin calls it (`deployment`, `barepod`). Empty: not
    /// known.
    pub kind: Arc<str>,
}

impl Workload {
    fn new(name: &str, kind: Option<&str>) -> Self {
        Self {
            name: name.into(),
            kind: kind.unwrap_or_default().into(),
        }
    }
}

/// Labels of the service level: the service that is addressed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceLabels {
    /// Labels of the flows. The peer's namespace is the service's.
    pub labels: Labels,
    /// Name of the service. [`OVERFLOW`]: not told apart.
    pub service: Arc<str>,
}

/// Labels of the pod level: a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodLabels {
    /// The namespaces, and the kind of the remote end.
    pub labels: Labels,
    /// Name of the pod. [`OVERFLOW`]: not told apart.
    pub pod: Arc<str>,
}

/// Histograms by labels, leg and echo.
pub type By<L> = BTreeMap<(L, Leg, Echo), Counts>;

/// A row of histograms, and the labels that all its levels share.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowLabels<'a> {
    /// Number of the row.
    pub(super) row: usize,
    /// The row's label set. None: it is the overflow row.
    pub(super) pair: Option<PairKey>,
    /// The namespaces, and the kind of the remote end.
    pub(super) labels: &'a Labels,
}

/// One histogram of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted<'a> {
    pub(super) leg: Leg,
    pub(super) echo: Echo,
    pub(super) counts: &'a Counts,
}

/// The round trips of the levels that are switched on.
#[derive(Clone, Debug, Default)]
pub struct Levelled {
    /// Round trips by workload.
    pub workloads: By<WorkloadLabels>,
    /// Round trips by service.
    pub services: By<ServiceLabels>,
    /// Round trips by pod.
    pub pods: By<PodLabels>,
    /// True: a member could not be told apart because no id or row was left.
    overflown: bool,
}

impl Levelled {
    /// Starts without round trips, for the levels of this model.
    pub(super) fn of(model: &Model) -> Self {
        let is_full = |counters: [u64; COUNTERS]| counters[Counter::RowsFull as usize] > 0;
        let overflown = model.ids.is_overflown()
            || model.ids.levels().pod && model.counters().is_ok_and(is_full);
        Self {
            overflown,
            ..Self::default()
        }
    }

    /// Adds the counts of a row.
    pub(super) fn add(&mut self, model: &Model, row: &RowLabels<'_>, counted: Counted<'_>) {
        let RowLabels { row, pair, labels } = *row;
        let Counted { leg, echo, counts } = counted;
        let levels = model.ids.levels();
        let ends = pair.map(|pair| (pair.local(), pair.remote()));
        let overflown = row == OVERFLOW_ROW;
        let workload = |end: Option<NameValue>| workload(model, end, overflown);
        if levels.workload
            && let Some(local) = workload(ends.map(|ends| ends.0))
            && let Some(remote) = workload(ends.map(|ends| ends.1))
        {
            let labels = WorkloadLabels {
                labels: labels.clone(),
                workload: local,
                peer_workload: remote,
            };
            insert(&mut self.workloads, (labels, leg, echo), counts);
        }
        if levels.service
            && let Some(service) = service(model, ends.map(|ends| ends.1), overflown)
        {
            let labels = labels.clone();
            let labels = ServiceLabels { labels, service };
            insert(&mut self.services, (labels, leg, echo), counts);
        }
        if levels.pod
            && let Some(pod) = pod(model, ends.map(|ends| ends.0), overflown, self.overflown)
        {
            let labels = labels.clone();
            insert(
                &mut self.pods,
                (PodLabels { labels, pod }, leg, echo),
                counts,
            );
        }
    }
}

fn insert<L: Ord>(all: &mut By<L>, key: (L, Leg, Echo), counts: &Counts) {
    all.entry(key).or_default().add(counts);
}

/// The workload of an end. None: the workload is gone.
fn workload(model: &Model, end: Option<NameValue>, overflown: bool) -> Option<Workload> {
    let Some(end) = end else {
        return Some(Workload::new(if overflown { OVERFLOW } else { "" }, None));
    };
    let member = model.ids.member(end.id);
    let (name, kind) = member.as_deref().map_or((None, None), Member::workload);
    match name {
        gone if is_gone(gone) => None,
        Some(name) => Some(Workload::new(name, kind)),
        None if is_pod(end) && end.id.namespace() != 0 => Some(Workload::new(OVERFLOW, None)),
        None => Some(Workload::new("", None)),
    }
}

/// The service that the remote end is, or whose only backend it is. None: there is no service, or
/// it is gone.
fn service(model: &Model, end: Option<NameValue>, overflown: bool) -> Option<Arc<str>> {
    let Some(end) = end else {
        return overflown.then(|| OVERFLOW.into());
    };
    let member = model.ids.member(end.id);
    match member
        .as_deref()
        .and_then(|member| member.service.as_deref())
    {
        gone if is_gone(gone) => None,
        Some(service) => Some(service.into()),
        None if end.kind == PeerKind::Service as u8 => Some(OVERFLOW.into()),
        None => None,
    }
}

/// The pod that is the local end. None: the local end is no pod, is gone, or no interface
/// identifies it. `any`: some member could not be told apart, and this one may be such.
fn pod(model: &Model, end: Option<NameValue>, overflown: bool, any: bool) -> Option<Arc<str>> {
    let Some(end) = end else {
        return overflown.then(|| OVERFLOW.into());
    };
    let member = model.ids.member(end.id);
    match member.as_deref().and_then(|member| member.pod.as_deref()) {
        gone if is_gone(gone) => None,
        Some(pod) => Some(pod.into()),
        None if is_pod(end) && any => Some(OVERFLOW.into()),
        None => None,
    }
}

/// Takes an address that a query had, once. What the kernel writes meanwhile may be torn. An agent
/// that is asked for a torn address does not know it.
fn taken(words: &[AtomicU32; 4]) -> Option<IpAddr> {
    let words = [0, 1, 2, 3].map(|word: usize| words[word].swap(0, Ordering::Relaxed));
    (words != [0; 4]).then(|| plain_address(words))
}

fn is_pod(end: NameValue) -> bool {
    end.kind == PeerKind::Pod as u8
}

impl Model {
    /// The generation of the names in the kernel. It changes with them.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.tables.control().generation.load(Ordering::Relaxed)
    }

    /// The remote addresses to ask names for, each once. They are those of flows that are active or
    /// were closed just now, and of queries since the last call. Connections may be so short that
    /// hardly one is open at the moment of a call.
    #[must_use]
    pub fn addresses(&self, clock: &Clock) -> Vec<IpAddr> {
        let flows = self.flows(clock);
        let is_young = |known: &KnownFlow| clock.age(known.flow.last_seen) < JUST_NOW;
        let active = flows.iter().filter(|known| known.active || is_young(known));
        let mut addresses: Vec<IpAddr> = active
            .flat_map(|known| [known.flow.local, known.flow.remote])
            .collect();
        let asked = self.tables.control().asked.iter();
        addresses.extend(asked.filter_map(taken));
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Packets of active flows by address. [`crate::passive::NameIds::tell_apart`] chooses by them.
    #[must_use]
    pub fn packets_by_address(&self, clock: &Clock) -> HashMap<IpAddr, u64> {
        let mut packets: HashMap<IpAddr, u64> = HashMap::new();
        for known in self.flows(clock).iter().filter(|known| known.active) {
            let sum: u64 = known.traffic.iter().map(|way| way.packets).sum();
            for address in [known.flow.local, known.flow.remote] {
                *packets.entry(address).or_default() += sum;
            }
        }
        packets
    }
}
