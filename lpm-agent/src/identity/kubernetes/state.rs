//! The cluster state, as far as names need it: events of the watches go in, changed names come out.
//! Pure.

use std::collections::HashSet;

use kube::Resource;

use super::{
    csi_nodes::CsiNodes,
    intern::Interner,
    nodes::{Nodes, Once},
    objects::{CSINode, EndpointSlice, Job, Node, Pod, ReplicaSet, Service},
    owners::{Between, Owners, Wanted},
    pods::Pods,
    selectors::Selectors,
    services::{Moved, Services, Slices},
};
use crate::{
    identity::{
        merge::{self, Change, Origin},
        permits::Permits,
    },
    kube::{Event, FollowedKind, Relist, Step},
};

/// Kinds of objects that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Watched {
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// Endpoint slices.
    EndpointSlices,
    /// Nodes.
    Nodes,
    /// Replica sets.
    ReplicaSets,
    /// Jobs.
    Jobs,
    /// Objects that come and go with nodes, and do not change in between.
    CsiNodes,
}

impl Watched {
    /// All kinds that are followed for the whole cluster.
    pub const ALL: [Self; 6] = [
        Self::Pods,
        Self::Services,
        Self::EndpointSlices,
        Self::Nodes,
        Self::ReplicaSets,
        Self::Jobs,
    ];

    /// The kinds that an agent with node scope follows. It asks the other agents for the names of
    /// their pods.
    const OF_A_NODE: [Self; 4] = [Self::Pods, Self::Services, Self::Nodes, Self::CsiNodes];

    /// Name of the resource in Kubernetes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::ReplicaSets => "replicasets",
            Self::Jobs => "jobs",
            Self::CsiNodes => "csinodes",
        }
    }

    /// The API group of the resource.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::Pods | Self::Services | Self::Nodes => "",
            Self::EndpointSlices => "discovery.k8s.io",
            Self::ReplicaSets => "apps",
            Self::Jobs => "batch",
            Self::CsiNodes => "storage.k8s.io",
        }
    }

    /// What a sentence about a failed watch names.
    pub(super) fn described(self) -> FollowedKind {
        FollowedKind {
            resource: self.as_str(),
            group: self.group(),
            result: "names",
        }
    }
}

/// An event of one of the watches.
#[derive(Debug)]
pub enum StateEvent {
    /// Event of a pod.
    Pod(Event<Pod>),
    /// Event of a service.
    Service(Event<Service>),
    /// Event of an endpoint slice.
    EndpointSlice(Event<EndpointSlice>),
    /// Event of a node.
    Node(Event<Node>),
    /// Event of a replica set.
    ReplicaSet(Event<ReplicaSet>),
    /// Event of a job.
    Job(Event<Job>),
    /// Event of a `CSINode` object, which comes and goes with its node.
    CsiNode(Event<CSINode>),
    /// A node was requested and does not exist.
    NoNode(String),
}

/// The state of the cluster.
#[derive(Debug, Default)]
pub struct ClusterState {
    texts: Interner,
    listed: [Relist; Watched::CsiNodes as usize + 1],
    pods: Pods,
    services: Services,
    slices: Slices,
    nodes: Nodes,
    owners: Owners,
    once: Once,
    /// State of node scope. None: the whole cluster is followed.
    narrow: Option<Narrow>,
}

/// State that replaces the watches which an agent with node scope does without.
#[derive(Debug, Default)]
struct Narrow {
    selectors: Selectors,
    wanted: Vec<Wanted>,
    arrivals: CsiNodes,
}

impl ClusterState {
    /// A cluster of which nothing is known yet. Names include these labels of pods.
    #[must_use]
    pub fn new(labels: &[String]) -> Self {
        Self {
            pods: Pods::new(labels),
            ..Self::default()
        }
    }

    /// Lets the addresses of these further networks count, which pods' annotations name. Call it
    /// before the first event.
    #[must_use]
    pub fn permitting(mut self, permits: Permits) -> Self {
        self.pods.permit(permits);
        self
    }

    /// A cluster of which only one node's pods are followed, without endpoint slices, replica sets
    /// and jobs.
    #[must_use]
    pub fn of_a_node(labels: &[String]) -> Self {
        let mut state = Self::new(labels);
        state.owners.set_asks(true);
        state.narrow = Some(Narrow::default());
        state
    }

    /// Follows all pods of the cluster from now on. The known ones stay until the pods are listed.
    pub(super) fn widen(&mut self, out: &mut Vec<Change>) {
        if self.narrow.take().is_some() {
            self.owners.set_asks(false);
            self.listed[Watched::Pods as usize].synced = false;
            self.pods.no_backends(out);
        }
    }

    /// Follows only one node's pods from now on. The known pods of other nodes stay until the
    /// node's own are listed. The workloads of the node's own pods stay, too.
    pub(super) fn narrow(&mut self, out: &mut Vec<Change>) {
        self.narrow = Some(Narrow::default());
        self.owners = Owners::default();
        self.owners.set_asks(true);
        self.slices = Slices::default();
        self.pods.no_backends(out);
        for kind in Watched::ALL {
            if !self.followed().contains(&kind) {
                self.listed[kind as usize] = Relist::default();
            }
        }
    }

    /// The kinds that are followed.
    pub(super) fn followed(&self) -> &'static [Watched] {
        if self.narrow.is_some() {
            &Watched::OF_A_NODE
        } else {
            &Watched::ALL
        }
    }

    /// The nodes.
    pub(super) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The pods.
    pub(super) fn pods(&self) -> &Pods {
        &self.pods
    }

    /// Takes the owners to be requested, because owners are not watched.
    pub(super) fn take_wanted(&mut self) -> Vec<Wanted> {
        let narrow = self.narrow.as_mut();
        narrow.map_or_else(Vec::new, |narrow| std::mem::take(&mut narrow.wanted))
    }

    /// Takes the nodes to be requested, because they may have come or gone.
    pub(super) fn take_nodes(&mut self) -> Vec<String> {
        let narrow = self.narrow.as_mut();
        narrow.map_or_else(Vec::new, |narrow| narrow.arrivals.take())
    }

    /// True if all objects of a kind have been listed once.
    #[must_use]
    pub fn is_synced(&self, kind: Watched) -> bool {
        self.listed[kind as usize].synced
    }

    /// Number of objects of a kind.
    #[must_use]
    pub fn count(&self, kind: Watched) -> usize {
        match kind {
            Watched::Pods => self.pods.len(),
            Watched::Services => self.services.len(),
            Watched::EndpointSlices => self.slices.len(),
            Watched::Nodes => self.nodes.len(),
            Watched::ReplicaSets => self.owners.len(Between::ReplicaSet),
            Watched::Jobs => self.owners.len(Between::Job),
            Watched::CsiNodes => {
                let narrow = self.narrow.as_ref();
                narrow.map_or(0, |narrow| narrow.arrivals.len())
            }
        }
    }

    /// The addresses that an event takes from their owners, and since when. Call it before the
    /// event is applied.
    pub(super) fn moved(&mut self, event: &StateEvent) -> Vec<merge::Moved> {
        match event {
            // Before the first list is complete the owners of addresses are unknown.
            StateEvent::Pod(event) if self.is_synced(Watched::Pods) => self.pods.moved(event),
            _ => Vec::new(),
        }
    }

    /// Applies an event. The names that change are added to `out`.
    pub fn take(&mut self, event: StateEvent, out: &mut Vec<Change>) {
        let from = out.len();
        match event {
            StateEvent::Pod(event) => self.pod(event, out),
            StateEvent::Service(event) => self.service(event, out),
            StateEvent::EndpointSlice(event) => self.slice(event, out),
            StateEvent::Node(event) => self.node(event, out),
            StateEvent::ReplicaSet(event) => self.owner(Watched::ReplicaSets, event, out),
            StateEvent::Job(event) => self.owner(Watched::Jobs, event, out),
            StateEvent::CsiNode(event) => self.arrival(event),
            StateEvent::NoNode(name) => {
                if let Some(uid) = self.nodes.uid(&name) {
                    self.nodes.remove(uid, out);
                }
            }
        }
        self.remember_the_gone(from, out);
    }

    /// Makes an address that no pod has any more belong to an unknown pod until its next owner is
    /// known. It adds what follows from the changes in `out` from index `from` on.
    pub(super) fn remember_the_gone(&mut self, from: usize, out: &mut Vec<Change>) {
        let gone = out[from..].iter().filter(|change| {
            let of_a_pod = matches!(change.origin, Origin::Pod | Origin::Peer);
            let released = of_a_pod && change.name.is_none();
            released && !self.nodes.cover(change.range.addr())
        });
        let gone: Vec<_> = gone.map(|change| change.range.addr()).collect();
        let mut unknown = Vec::new();
        for address in gone {
            self.once.remember(address, &mut unknown);
        }
        // The address is unknown first, and then no pod's. So it never belongs to anybody else in
        // between.
        out.splice(from..from, unknown);
    }

    fn pod(&mut self, event: Event<Pod>, out: &mut Vec<Change>) {
        let listed = &mut self.listed[Watched::Pods as usize];
        match listed.step(event, Resource::meta) {
            Step::Apply(uid, pod) => {
                let listing = listed.is_listing();
                if let Some(narrow) = &mut self.narrow {
                    let moved = narrow.selectors.pod(uid, &pod, &mut self.texts);
                    narrow.wanted.extend(self.owners.wanted(&pod.metadata));
                    self.behind(moved, out);
                }
                let (owners, texts) = (&self.owners, &mut self.texts);
                self.pods.apply(uid, &pod, listing, owners, texts, out);
            }
            Step::Remove(uid) => self.no_pod(uid, out),
            Step::Keep(kept) => {
                for uid in others(self.pods.uids(), &kept) {
                    self.no_pod(uid, out);
                }
            }
            Step::Nothing => {}
        }
    }

    fn no_pod(&mut self, uid: u128, out: &mut Vec<Change>) {
        self.pods.remove(uid, out);
        if let Some(narrow) = &mut self.narrow {
            let moved = narrow.selectors.no_pod(uid);
            self.behind(moved, out);
        }
    }

    fn service(&mut self, event: Event<Service>, out: &mut Vec<Change>) {
        match self.listed[Watched::Services as usize].step(event, Resource::meta) {
            Step::Apply(uid, service) => {
                if let Some(narrow) = &mut self.narrow {
                    let moved = narrow.selectors.service(uid, &service, &mut self.texts);
                    self.behind(moved, out);
                }
                self.services.apply(uid, &service, &mut self.texts, out);
            }
            Step::Remove(uid) => self.no_service(uid, out),
            Step::Keep(kept) => {
                for uid in others(self.services.uids(), &kept) {
                    self.no_service(uid, out);
                }
            }
            Step::Nothing => {}
        }
    }

    fn no_service(&mut self, uid: u128, out: &mut Vec<Change>) {
        self.services.remove(uid, out);
        if let Some(narrow) = &mut self.narrow {
            let moved = narrow.selectors.no_service(uid);
            self.behind(moved, out);
        }
    }

    /// Applies changes of the addresses behind services.
    fn behind(&mut self, moved: Vec<Moved>, out: &mut Vec<Change>) {
        for (address, backend, there) in moved {
            self.pods.backend(address, &backend, there, out);
        }
    }

    fn slice(&mut self, event: Event<EndpointSlice>, out: &mut Vec<Change>) {
        let step = self.listed[Watched::EndpointSlices as usize].step(event, Resource::meta);
        let moved = match step {
            Step::Apply(uid, slice) => self.slices.apply(uid, &slice, &mut self.texts),
            Step::Remove(uid) => self.slices.remove(uid),
            Step::Keep(kept) => others(self.slices.uids(), &kept)
                .into_iter()
                .flat_map(|uid| self.slices.remove(uid))
                .collect(),
            Step::Nothing => Vec::new(),
        };
        self.behind(moved, out);
    }

    fn node(&mut self, event: Event<Node>, out: &mut Vec<Change>) {
        let listed = &mut self.listed[Watched::Nodes as usize];
        let step = listed.step(event, Resource::meta);
        let listing = listed.is_listing();
        match step {
            Step::Apply(uid, node) => {
                // A requested node may be another one of the same name. Nobody reports that the
                // first is gone.
                let asked = self.narrow.is_some() && !listing;
                let name = node.metadata.name.as_deref().filter(|_| asked);
                let before = name.and_then(|name| self.nodes.uid(name));
                if let Some(before) = before.filter(|before| *before != uid) {
                    self.nodes.remove(before, out);
                }
                self.nodes.apply(uid, &node, &mut self.texts, out);
            }
            Step::Remove(uid) => self.nodes.remove(uid, out),
            Step::Keep(kept) => {
                for uid in others(self.nodes.uids(), &kept) {
                    self.nodes.remove(uid, out);
                }
                if let Some(narrow) = &mut self.narrow {
                    narrow.arrivals.listed(&self.nodes);
                }
            }
            Step::Nothing => {}
        }
    }

    fn arrival(&mut self, event: Event<CSINode>) {
        let step = self.listed[Watched::CsiNodes as usize].step(event, Resource::meta);
        let synced = self.is_synced(Watched::Nodes);
        let Some(narrow) = &mut self.narrow else {
            return;
        };
        let arrivals = &mut narrow.arrivals;
        match step {
            Step::Apply(uid, node) => {
                let name = node.metadata.name.unwrap_or_default();
                arrivals.come(uid, name, synced, &self.nodes);
            }
            Step::Remove(uid) => arrivals.go(uid),
            Step::Keep(kept) => {
                for uid in others(arrivals.uids(), &kept) {
                    arrivals.go(uid);
                }
            }
            Step::Nothing => {}
        }
    }

    fn owner<K: Resource>(&mut self, kind: Watched, event: Event<K>, out: &mut Vec<Change>) {
        let of = match kind {
            Watched::Jobs => Between::Job,
            _ => Between::ReplicaSet,
        };
        match self.listed[kind as usize].step(event, K::meta) {
            Step::Apply(uid, object) => {
                let workload = (self.owners).set(of, uid, object.meta(), &mut self.texts);
                self.pods.owner(uid, &workload, out);
            }
            Step::Remove(uid) => self.owners.remove(of, uid),
            Step::Keep(kept) => {
                for uid in others(self.owners.uids(of), &kept) {
                    self.owners.remove(of, uid);
                }
            }
            Step::Nothing => {}
        }
    }
}

/// The ids that are not among the kept ones.
fn others(uids: impl Iterator<Item = u128>, kept: &HashSet<u128>) -> Vec<u128> {
    uids.filter(|uid| !kept.contains(uid)).collect()
}
