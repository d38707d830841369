//! Pods: their addresses, workloads and services.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};

use super::{
    address_owners::AddressOwners,
    address_reuse,
    intern::Interner,
    objects::{Pod, PodStatus},
    outside::{Holder, Outside, remember},
    owners::{Owners, Workload},
};
use crate::{
    identity::{
        Name,
        claims::{Claims, Refusals},
        cluster_ranges::unknown_pod,
        merge::{Change, Moved, Origin},
        names_file::Kind,
        permits::Permits,
    },
    kube::{Event, uid_of},
    text::cut,
};

/// A service that an address is behind. The first in order gives the address its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Backend {
    /// True: the service has no address of its own, so clients may not have used it.
    pub(super) headless: bool,
    /// Name of the service.
    pub(super) service: Arc<str>,
    /// Namespace of the service, and of the pods behind it.
    pub(super) namespace: Arc<str>,
}

/// A pod that exists.
#[derive(Debug)]
struct Known {
    name: Arc<Name>,
    addresses: Box<[IpAddr]>,
    /// Owner that would confirm the pod's workload. None: nothing is missing.
    awaits: Option<u128>,
}

/// Most addresses of ended pods that are remembered. Round trips that are counted late at further
/// ones stay uncounted.
const ENDLESS: usize = 4096;

/// All pods.
#[derive(Debug, Default)]
pub(super) struct Pods {
    labels: Vec<Arc<str>>,
    known: HashMap<u128, Known>,
    claims: AddressOwners,
    outside: Outside,
    backends: HashMap<IpAddr, Vec<Backend>>,
    waiting: HashMap<u128, HashSet<u128>>,
    /// When pods were asked to end.
    asked: HashMap<u128, Timestamp>,
    /// Addresses of pods that are gone, where it is unknown since when.
    endless: HashSet<IpAddr>,
}

impl Pods {
    /// Starts without pods. Names include these labels of pods.
    pub(super) fn new(labels: &[String]) -> Self {
        Self {
            labels: labels.iter().map(|label| label.as_str().into()).collect(),
            ..Self::default()
        }
    }

    /// Lets addresses in these further networks count.
    pub(super) fn permit(&mut self, permits: Permits) {
        self.outside = Outside::new(permits);
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn uids(&self) -> impl Iterator<Item = u128> {
        self.known.keys().copied()
    }

    /// All addresses in the cluster's network, with the names of their pods.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&Name, IpAddr)> {
        let pods = self.known.values();
        pods.flat_map(|pod| pod.addresses.iter().map(|address| (&*pod.name, *address)))
    }

    /// The numbers of claims to addresses in further networks.
    pub(super) fn claims(&self) -> Claims {
        self.outside.numbers()
    }

    /// The pods of whose claims to addresses some do not count.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&Name, &Refusals)> {
        let all = self.outside.refused();
        all.filter_map(|(uid, refused)| Some((&*self.known.get(&uid)?.name, refused)))
    }

    /// Forgets all services that addresses are behind.
    pub(super) fn no_backends(&mut self, out: &mut Vec<Change>) {
        let addresses: Vec<IpAddr> = self.backends.drain().map(|(address, _)| address).collect();
        self.say(&addresses, &[], out);
    }

    /// The addresses that an event takes from their owners.
    pub(super) fn moved(&mut self, event: &Event<Pod>) -> Vec<Moved> {
        let (Event::Apply(pod) | Event::InitApply(pod) | Event::Delete(pod)) = event else {
            return Vec::new();
        };
        let uid = uid_of(&pod.metadata);
        let asked = match (pod.asked_to_go(), self.asked.get(&uid)) {
            (_, Some(asked)) => Some(*asked),
            (asked, None) => asked,
        };
        let inside = if pod.spec.host_network {
            Box::default()
        } else {
            addresses(&pod.status)
        };
        // A pod that had the address before and is still reported has lost it.
        let others = |address| {
            let held = self.claims.holder(address).is_some() || self.endless.contains(&address);
            held && !self.claims.all(address).any(|claimant| claimant == uid)
        };
        let mut moved = address_reuse::moved(event, asked, inside, others, |address| {
            self.claims.holder(address) == Some(uid)
        });
        remember(&mut self.endless, &moved, ENDLESS);
        // Nobody takes an address of the cluster's network by a claim.
        let outside = self.outside.permitted(pod).into_iter();
        let outside = outside.filter(|address| self.claims.holder(*address).is_none());
        let others = |address| self.outside.is_free(address) && !self.outside.claims(address, uid);
        let taken = address_reuse::moved(
            event,
            asked,
            outside,
            others,
            |address| matches!(self.outside.holder(address), Holder::Pod(holder, _) if holder == uid),
        );
        self.outside.remember(&taken);
        moved.extend(taken);
        if let Some(asked) = asked {
            self.asked.insert(uid, asked);
        }
        moved
    }

    /// Applies the current state of a pod.
    pub(super) fn apply(
        &mut self,
        uid: u128,
        pod: &Pod,
        listing: bool,
        owners: &Owners,
        texts: &mut Interner,
        out: &mut Vec<Change>,
    ) {
        let since = listing.then(|| since(pod));
        let own = own_addresses(pod);
        let outside = self.outside.apply(uid, pod, &own, since, texts);
        let now = self.read(uid, pod, own, owners, texts);
        for address in &now.addresses {
            self.claims.claim(*address, uid, since);
        }
        if let Some(owner) = now.awaits {
            self.waiting.entry(owner).or_default().insert(uid);
        }
        let mut touched: Vec<IpAddr> = now.addresses.to_vec();
        if let Some(before) = self.known.remove(&uid) {
            if before.awaits != now.awaits {
                self.await_no_more(&before, uid);
            }
            for address in &before.addresses {
                if !touched.contains(address) {
                    self.claims.release(*address, uid);
                    touched.push(*address);
                }
            }
        }
        self.known.insert(uid, now);
        self.say(&touched, &outside, out);
    }

    /// Removes a pod that is gone.
    pub(super) fn remove(&mut self, uid: u128, out: &mut Vec<Change>) {
        let Some(gone) = self.known.remove(&uid) else {
            return;
        };
        self.await_no_more(&gone, uid);
        self.asked.remove(&uid);
        for address in &gone.addresses {
            self.claims.release(*address, uid);
        }
        let outside = self.outside.remove(uid);
        self.say(&gone.addresses, &outside, out);
    }

    /// Records the workload of a replica set's or job's pods.
    pub(super) fn owner(&mut self, owner: u128, workload: &Workload, out: &mut Vec<Change>) {
        for uid in self.waiting.remove(&owner).unwrap_or_default() {
            let Some(pod) = self.known.get_mut(&uid) else {
                continue;
            };
            pod.awaits = None;
            let Workload { kind, name } = workload.clone();
            let name = Name {
                workload: Some(name),
                workload_type: Some(kind),
                ..(*pod.name).clone()
            };
            if *pod.name == name {
                continue;
            }
            pod.name = Arc::new(name);
            let inside = pod.addresses.to_vec();
            let outside = self.outside.addresses(uid);
            self.say(&inside, &outside, out);
        }
    }

    /// Records that an address is behind a service, or (`there` is false) not any more.
    pub(super) fn backend(
        &mut self,
        address: IpAddr,
        backend: &Backend,
        there: bool,
        out: &mut Vec<Change>,
    ) {
        let services = self.backends.entry(address).or_default();
        if there {
            services.push(backend.clone());
            services.sort();
        } else if let Some(index) = services.iter().position(|known| known == backend) {
            // Two slices of one service may hold an address while it moves between them.
            services.remove(index);
        }
        if services.is_empty() {
            self.backends.remove(&address);
        }
        if self.claims.holder(address).is_some() {
            self.say(&[address], &[], out);
        }
    }

    fn await_no_more(&mut self, pod: &Known, uid: u128) {
        let Some(owner) = pod.awaits else { return };
        if let Some(waiting) = self.waiting.get_mut(&owner) {
            waiting.remove(&uid);
            if waiting.is_empty() {
                self.waiting.remove(&owner);
            }
        }
    }

    /// Reports the owners of these addresses of the cluster's network, and of further networks.
    fn say(&self, addresses: &[IpAddr], outside: &[IpAddr], out: &mut Vec<Change>) {
        let change = |origin, address: IpAddr, name| Change {
            origin,
            range: address.into(),
            name,
        };
        out.extend(
            addresses
                .iter()
                .map(|address| change(Origin::Pod, *address, self.name_at(*address))),
        );
        out.extend(
            outside
                .iter()
                .map(|address| change(Origin::Overlay, *address, self.name_outside(*address))),
        );
    }

    fn name_at(&self, address: IpAddr) -> Option<Arc<Name>> {
        let pod = self.known.get(&self.claims.holder(address)?)?;
        let services = self.backends.get(&address).map_or(&[][..], Vec::as_slice);
        let backend = services
            .iter()
            .find(|backend| pod.name.namespace.as_ref() == Some(&backend.namespace));
        let Some(backend) = backend else {
            return Some(Arc::clone(&pod.name));
        };
        Some(Arc::new(Name {
            service: Some(Arc::clone(&backend.service)),
            ..(*pod.name).clone()
        }))
    }

    /// The name of an address in further networks.
    fn name_outside(&self, address: IpAddr) -> Option<Arc<Name>> {
        let (uid, network) = match self.outside.holder(address) {
            Holder::Nobody => return None,
            Holder::Several => return Some(unknown_pod()),
            Holder::Pod(uid, network) => (uid, network),
        };
        Some(Arc::new(Name {
            network: Some(Arc::clone(network)),
            ..(*self.known.get(&uid)?.name).clone()
        }))
    }

    fn read(
        &self,
        uid: u128,
        pod: &Pod,
        addresses: Box<[IpAddr]>,
        owners: &Owners,
        texts: &mut Interner,
    ) -> Known {
        let metadata = &pod.metadata;
        let node = pod.spec.node_name.as_deref();
        let (workload, awaits) = owners.of(metadata, node, texts);
        let name = Name {
            kind: Kind::Pod,
            namespace: metadata.namespace.as_deref().map(|text| texts.share(text)),
            pod: metadata.name.as_deref().map(|name| cut(name).into()),
            workload: Some(workload.name),
            workload_type: Some(workload.kind),
            node: node.map(|node| texts.share(node)),
            labels: self.chosen(metadata, texts),
            ..Name::default()
        };
        let nowhere = addresses.is_empty() && self.outside.addresses(uid).is_empty();
        Known {
            name: Arc::new(name),
            addresses,
            awaits: awaits.filter(|_| !nowhere),
        }
    }

    fn chosen(&self, metadata: &ObjectMeta, texts: &mut Interner) -> BTreeMap<Arc<str>, Arc<str>> {
        let Some(labels) = &metadata.labels else {
            return BTreeMap::new();
        };
        let chosen = self.labels.iter().filter_map(|label| {
            let value = labels.get(&**label)?;
            Some((Arc::clone(label), texts.share(value)))
        });
        chosen.collect()
    }
}

/// The addresses of a pod in the cluster's network. A host-network pod has its node's address,
/// which belongs to the node.
pub(super) fn own_addresses(pod: &Pod) -> Box<[IpAddr]> {
    if pod.has_ended() || pod.spec.host_network {
        Box::default()
    } else {
        addresses(&pod.status)
    }
}

/// The addresses of a pod, each once. A text that is no address is left out.
fn addresses(status: &PodStatus) -> Box<[IpAddr]> {
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut found: Vec<IpAddr> = all
        .chain(status.pod_ip.as_deref())
        .filter_map(|text| text.parse().ok())
        .map(|address: IpAddr| address.to_canonical())
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into()
}

/// When a pod began, in seconds.
fn since(pod: &Pod) -> u64 {
    pod.began()
        .map_or(0, |time| u64::try_from(time.as_second()).unwrap_or(0))
}
