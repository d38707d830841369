//! The event loop: applies the messages of watches and other agents to the cluster state, the
//! status and the names.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{
    node_scope::NodeScope,
    owners::Wanted,
    pod_addressing::PodAddressing,
    state::{ClusterState, StateEvent, Watched},
    watch_set::Message,
    width::{Turn, Width},
};
use crate::{
    identity::{
        Name, UNKNOWN,
        cluster_nodes::ClusterNodes,
        merge::{Change, Moved, News, Origin},
        names_file::Kind,
        peers::PeerMessage,
        status::{Scope, Status},
    },
    kube::{Event, Failure},
};

/// Kinds of objects that have addresses.
const WITH_ADDRESSES: [Watched; 3] = [Watched::Pods, Watched::Services, Watched::Nodes];

pub(super) struct EventLoop<T> {
    state: ClusterState,
    /// Pod ranges from the configuration.
    ranges: Vec<IpNet>,
    status: Arc<Status>,
    tell: T,
    /// True: all kinds that have addresses were listed completely once.
    complete: bool,
    /// True: an address without a name is reported as unknown.
    unknown: bool,
    /// True: every source that could correct the last agent's names in the kernel has reported, and
    /// [`News::Complete`] was sent.
    told: bool,
    width: Width,
}

impl<T: FnMut(News) -> bool> EventLoop<T> {
    pub(super) fn new(
        state: ClusterState,
        ranges: Vec<IpNet>,
        status: Arc<Status>,
        tell: T,
    ) -> Self {
        Self {
            state,
            ranges,
            status,
            tell,
            complete: false,
            unknown: true,
            told: false,
            width: Width::default(),
        }
    }

    /// Reports that nothing is known yet. False: the receiver has gone.
    pub(super) fn begin(&mut self, node_scope: Option<&NodeScope>) -> bool {
        self.status.set_scope(Scope {
            wanted: if node_scope.is_some() {
                "node"
            } else {
                "cluster"
            },
            now: if node_scope.is_some() {
                "node"
            } else {
                "cluster"
            },
            why: None,
        });
        self.say(everything_unknown(true))
    }

    /// Applies what has arrived. False: the receiver has gone.
    pub(super) fn take(
        &mut self,
        messages: &mut Vec<Message>,
        heard: Option<(u64, PeerMessage)>,
        mut node_scope: Option<&mut NodeScope>,
    ) -> bool {
        let (mut changes, mut moved) = (Vec::new(), Vec::new());
        for message in messages.drain(..) {
            self.message(message, &mut changes, &mut moved);
        }
        for kind in self.state.followed() {
            let (count, synced) = (self.state.count(*kind), self.state.is_synced(*kind));
            self.status.set_objects(*kind, count, synced);
        }
        self.status.set_claims(self.state.pods().claims());
        if let Some(node_scope) = node_scope.as_deref_mut() {
            let from = changes.len();
            node_scope.changed(&self.state, &moved, &mut changes);
            if let Some((number, said)) = heard {
                moved.extend(node_scope.take(number, said, &self.state, &mut changes));
            }
            node_scope.tick(&self.state, self.width.asks(), &mut changes);
            self.state.remember_the_gone(from, &mut changes);
        }
        // The reuse of addresses is reported before the names change.
        let listens = moved.is_empty() || (self.tell)(News::Moved(moved));
        listens && self.settle(node_scope, changes)
    }

    /// Tells the list of nodes, once all of them are known.
    pub(super) fn tell_nodes(&self, to: &ClusterNodes) {
        let nodes = self.state.nodes();
        if self.state.is_synced(Watched::Nodes) {
            to.set(nodes.version(), || nodes.list());
        }
    }

    /// Takes the owners to be requested.
    pub(super) fn wanted(&mut self) -> Vec<Wanted> {
        self.state.take_wanted()
    }

    /// Takes the nodes to be requested.
    pub(super) fn nodes(&mut self) -> Vec<String> {
        self.state.take_nodes()
    }

    /// The change of scope that is due. None: the followed pods are the right ones.
    pub(super) fn turn(&self) -> Option<Turn> {
        self.width.turn()
    }

    /// Changes the set of followed pods. False: the receiver has gone.
    pub(super) fn turned(&mut self, turn: &Turn, node_scope: &mut NodeScope) -> bool {
        let mut changes = Vec::new();
        let scope = self.width.turned(turn);
        match turn {
            Turn::Widen(_) => self.state.widen(&mut changes),
            Turn::Narrow => self.state.narrow(&mut changes),
        }
        self.status.set_scope(scope);
        self.status.follow_only(self.state.followed());
        self.settle(Some(node_scope), changes)
    }

    fn message(&mut self, message: Message, changes: &mut Vec<Change>, moved: &mut Vec<Moved>) {
        match message {
            Message::Event(event) => {
                if let Some(lag) = lag(&event) {
                    self.status.set_lag(lag);
                }
                moved.extend(self.state.moved(&event));
                self.state.take(*event, changes);
            }
            Message::Alive(kind) => {
                if let Some(broken) = self.status.alive(kind) {
                    let seconds = broken.as_secs();
                    tracing::info!("{} are followed again after {seconds} s", kind.as_str());
                }
            }
            Message::Failed(kind, failure) => self.failed(kind, &failure),
        }
    }

    /// Reports the changes, and whether an address without a name is known to have none. False: the
    /// receiver has gone.
    fn settle(&mut self, node_scope: Option<&mut NodeScope>, mut changes: Vec<Change>) -> bool {
        let synced = WITH_ADDRESSES
            .iter()
            .all(|kind| self.state.is_synced(*kind));
        let (mut addressing, mut told) = (PodAddressing::PerNode, synced);
        if let Some(node_scope) = node_scope {
            node_scope.publish(&self.state, synced);
            if !self.width.is_wide() {
                addressing = node_scope.look(&self.state);
                told = synced && node_scope.have_told();
            } else if synced {
                if let Some(scope) = self.width.look(|| node_scope.look(&self.state)) {
                    self.status.set_scope(scope);
                }
                if !self.width.asks() {
                    let from = changes.len();
                    node_scope.end(&mut changes);
                    self.state.remember_the_gone(from, &mut changes);
                }
            }
            let (report, errors) = node_scope.report();
            self.status.set_peers(&report, errors);
        }
        let unknown = !synced || addressing != PodAddressing::PerNode;
        if unknown != self.unknown {
            self.unknown = unknown;
            changes.extend(everything_unknown(unknown));
        }
        if let PodAddressing::Flat(why) = addressing {
            self.width.set_flat(why);
        }
        let listens = self.say(changes);
        if synced && !self.complete {
            self.complete = true;
            if let Some(hint) = self.no_range() {
                tracing::info!("{hint}");
            }
            if let Some(hint) = self.refused() {
                tracing::info!("{hint}");
            }
            self.status.set_complete();
        }
        if !told || std::mem::replace(&mut self.told, true) {
            return listens;
        }
        listens && (self.tell)(News::Complete)
    }

    /// The reason if a pod's address is in no known range, so that it cannot be recognised as the
    /// cluster's. None: there is no such pod.
    fn no_range(&self) -> Option<String> {
        let told = |address| {
            let configured = self.ranges.iter().any(|range| range.contains(&address));
            configured || self.state.nodes().cover(address)
        };
        let mut pods = self.state.pods().addresses();
        let (name, address) = pods.find(|(_, address)| !told(*address))?;
        Some(format!(
            "pod {}/{} has the address {address}, which is outside all nodes' pod ranges \
             (spec.podCIDRs): give the pod ranges as identity.cluster_ranges. Without them a new \
             pod counts as external until the API server reports it",
            name.namespace.as_deref().unwrap_or_default(),
            name.pod.as_deref().unwrap_or_default(),
        ))
    }

    /// A sentence about addresses in annotations that do not count. None: there are none.
    fn refused(&self) -> Option<String> {
        let refused = self.state.pods().claims().refused;
        (!refused.is_empty()).then(|| {
            format!(
                "addresses in pods' annotations that do not count: {refused}. If they are of \
                 networks that you know, give these as identity.kubernetes.networks"
            )
        })
    }

    fn say(&mut self, changes: Vec<Change>) -> bool {
        changes.is_empty() || (self.tell)(News::Changes(changes))
    }

    /// Logs each reason once until the watch works again.
    fn failed(&self, kind: Watched, failure: &Failure) {
        let reason = failure.reason();
        let sentence = failure.sentence(kind.described());
        if (self.status).failed(kind, reason, &sentence, Instant::now()) {
            if reason == "gone" {
                tracing::warn!("{sentence}");
            } else {
                tracing::error!("{sentence}");
            }
        }
    }
}

/// The changes that make every address without a name unknown, or end that. They hold while not all
/// names are known.
pub(super) fn everything_unknown(unknown: bool) -> Vec<Change> {
    let name = Arc::new(Name {
        kind: Kind::External,
        namespace: Some(UNKNOWN.into()),
        ..Name::default()
    });
    ["0.0.0.0/0", "::/0"]
        .map(|range| Change {
            origin: Origin::Waiting,
            range: range.parse().expect("a range"),
            name: unknown.then(|| Arc::clone(&name)),
        })
        .into()
}

/// Delay between a change of a pod and its event. The server's times are whole seconds, so the
/// delay is up to a second too long.
fn lag(event: &StateEvent) -> Option<Duration> {
    let StateEvent::Pod(Event::Apply(pod)) = event else {
        return None;
    };
    let now = k8s_openapi::jiff::Timestamp::now();
    let changed = pod.changed()?;
    Some(Duration::try_from(now.duration_since(changed)).unwrap_or_default())
}
