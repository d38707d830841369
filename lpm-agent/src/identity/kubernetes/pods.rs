//! Pods: their addresses, workloads and services.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};

use super::{
    address_owners::AddressOwners,
    address_reuse::moved,
    intern::Interner,
    networks,
    objects::{Pod, PodStatus},
    owners::{Owners, Workload},
};
use crate::{
    identity::{
        Name,
        cluster_ranges::unknown_pod,
        merge::{Change, Moved, Origin},
        names_file::Kind,
    },
    kube::{Event, uid_of},
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
    /// Addresses in further networks, with the networks' names.
    overlay: Box<[(IpAddr, Arc<str>)]>,
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
    overlay: AddressOwners,
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

    /// All addresses in further networks, with the names of their pods and of the networks.
    pub(super) fn outside(&self) -> impl Iterator<Item = (&Name, IpAddr, &str)> {
        let pods = self.known.values();
        pods.flat_map(|pod| {
            let all = pod.overlay.iter();
            all.map(|(address, network)| (&*pod.name, *address, &**network))
        })
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
        let holder = |address| {
            let inside = self.claims.holder(address);
            inside.or_else(|| self.overlay.holder(address))
        };
        let outside = networks::read(&pod.metadata)
            .into_iter()
            .map(|(address, _)| address);
        let mut all: Vec<IpAddr> = outside.collect();
        if !pod.spec.host_network {
            all.extend(addresses(&pod.status));
        }
        // A pod that had the address before and is still reported has lost it.
        let claims = |address| {
            let mut all = self.claims.all(address).chain(self.overlay.all(address));
            all.any(|claimant| claimant == uid)
        };
        let others = |address| {
            let held = holder(address).is_some() || self.endless.contains(&address);
            held && !claims(address)
        };
        let asked = match (pod.asked_to_go(), self.asked.get(&uid)) {
            (_, Some(asked)) => Some(*asked),
            (asked, None) => asked,
        };
        let moved = moved((event, asked), all, others, |address| {
            holder(address) == Some(uid)
        });
        if let Some(asked) = asked {
            self.asked.insert(uid, asked);
        }
        if self.endless.len() > ENDLESS {
            self.endless.clear();
        }
        for Moved { address, since } in &moved {
            match since {
                Some(_) => self.endless.remove(address),
                None => self.endless.insert(*address),
            };
        }
        moved
    }

    /// Applies the current state of a pod.
    pub(super) fn apply(
        &mut self,
        (uid, pod): (u128, &Pod),
        listing: bool,
        (owners, texts): (&Owners, &mut Interner),
        out: &mut Vec<Change>,
    ) {
        let now = self.read(pod, owners, texts);
        let since = listing.then(|| since(pod));
        for address in &now.addresses {
            self.claims.claim(*address, uid, since);
        }
        for (address, _) in &now.overlay {
            self.overlay.claim(*address, uid, since);
        }
        if let Some(owner) = now.awaits {
            self.waiting.entry(owner).or_default().insert(uid);
        }
        let mut touched: Vec<IpAddr> = now.addresses.to_vec();
        let mut outside: Vec<IpAddr> = now.overlay.iter().map(|(address, _)| *address).collect();
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
            for (address, _) in &before.overlay {
                if !outside.contains(address) {
                    self.overlay.release(*address, uid);
                    outside.push(*address);
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
        for (address, _) in &gone.overlay {
            self.overlay.release(*address, uid);
        }
        let outside: Vec<IpAddr> = gone.overlay.iter().map(|(address, _)| *address).collect();
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
            let outside: Vec<IpAddr> = pod.overlay.iter().map(|(address, _)| *address).collect();
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

    /// The name of an address in further networks. These may use the same addresses. Flows are not
    /// told apart by network, so an address that two pods have has no owner.
    fn name_outside(&self, address: IpAddr) -> Option<Arc<Name>> {
        let mut claims = self.overlay.all(address);
        let pod = self.known.get(&claims.next()?)?;
        if claims.next().is_some() {
            return Some(unknown_pod());
        }
        let network = pod.overlay.iter().find(|(known, _)| *known == address);
        Some(Arc::new(Name {
            network: network.map(|(_, network)| Arc::clone(network)),
            ..(*pod.name).clone()
        }))
    }

    fn read(&self, pod: &Pod, owners: &Owners, texts: &mut Interner) -> Known {
        let metadata = &pod.metadata;
        let node = pod.spec.node_name.as_deref();
        let (workload, awaits) = owners.of(metadata, node, texts);
        let name = Name {
            kind: Kind::Pod,
            namespace: metadata.namespace.as_deref().map(|text| texts.share(text)),
            pod: metadata.name.as_deref().map(Arc::from),
            workload: Some(workload.name),
            workload_type: Some(workload.kind),
            node: node.map(|node| texts.share(node)),
            labels: self.chosen(metadata, texts),
            ..Name::default()
        };
        let addresses = own_addresses(pod);
        let overlay = if pod.has_ended() {
            Box::default()
        } else {
            networks::read(metadata)
                .into_iter()
                .filter(|(address, _)| !addresses.contains(address))
                .map(|(address, network)| (address, texts.share(&network)))
                .collect()
        };
        let nowhere = addresses.is_empty() && overlay.is_empty();
        Known {
            name: Arc::new(name),
            addresses,
            overlay,
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
