//! Nodes: their addresses, and their pod ranges.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use ipnet::IpNet;

use super::{
    address_owners::AddressOwners,
    intern::Interner,
    objects::{Node, TUNNEL_ADDRESSES},
};
use crate::{
    identity::{
        HOST, Name,
        cluster_nodes::ClusterNode,
        cluster_ranges::unknown_pod,
        merge::{Change, Origin},
        names_file::Kind,
    },
    mesh::Agent,
    text,
};

/// Label with a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Most addresses that are remembered as former pods'.
const REMEMBERED: usize = 65_536;

/// All nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: HashMap<u128, Known>,
    claims: AddressOwners,
    /// Ids of the nodes that have a range.
    ranges: HashMap<IpNet, Vec<u128>>,
    /// Lengths of the ranges. True marks IPv6.
    lengths: BTreeSet<(bool, u8)>,
    /// Changes with every change of addresses and ranges.
    version: u64,
}

#[derive(Debug)]
struct Known {
    name: Arc<Name>,
    addresses: Vec<IpAddr>,
    ranges: Vec<IpNet>,
    /// Address at which other nodes reach what runs in the node's network.
    internal: Option<IpAddr>,
    zone: Option<Arc<str>>,
    /// When the node was first known without any range.
    bare: Option<Instant>,
}

impl Nodes {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn uids(&self) -> impl Iterator<Item = u128> {
        self.known.keys().copied()
    }

    pub(super) fn apply(
        &mut self,
        uid: u128,
        node: &Node,
        texts: &mut Interner,
        out: &mut Vec<Change>,
    ) {
        let name = Arc::new(Name {
            kind: Kind::Node,
            namespace: Some(texts.share(HOST)),
            node: node.metadata.name.as_deref().map(|name| texts.share(name)),
            zone: zone(node).map(|zone| texts.share(zone)),
            ..Name::default()
        });
        let ranges = ranges(node);
        let before = self.known.get(&uid);
        let bare = ranges.is_empty().then(|| {
            let since = before.and_then(|before| before.bare);
            since.unwrap_or_else(Instant::now)
        });
        let now = Known {
            name,
            addresses: addresses(node),
            ranges,
            internal: internal(node),
            zone: zone(node).map(|zone| texts.share(zone)),
            bare,
        };
        if before.is_none_or(|before| !before.is_where(&now)) {
            self.version += 1;
        }
        for address in &now.addresses {
            self.claims.claim(*address, uid, None);
        }
        for range in &now.ranges {
            self.ranges.entry(*range).or_default().push(uid);
            self.lengths.insert(length(*range));
        }
        let (mut touched, mut ranges) = (now.addresses.clone(), now.ranges.clone());
        if let Some(before) = self.known.insert(uid, now) {
            let kept = touched.clone();
            for address in before.addresses {
                if !kept.contains(&address) {
                    self.claims.release(address, uid);
                    touched.push(address);
                }
            }
            self.release(&before.ranges, uid);
            ranges.extend(before.ranges);
        }
        self.say(&touched, &ranges, out);
    }

    pub(super) fn remove(&mut self, uid: u128, out: &mut Vec<Change>) {
        let Some(gone) = self.known.remove(&uid) else {
            return;
        };
        self.version += 1;
        for address in &gone.addresses {
            self.claims.release(*address, uid);
        }
        self.release(&gone.ranges, uid);
        self.say(&gone.addresses, &gone.ranges, out);
    }

    /// True if an address is in some node's pod range.
    pub(super) fn cover(&self, address: IpAddr) -> bool {
        self.having(address).is_some()
    }

    /// The agent of the node whose pod range an address is in. None: no node has such a range, or two
    /// nodes have it and the owner is unknown.
    pub(super) fn home(&self, address: IpAddr) -> Option<Agent> {
        let [uid] = self.having(address)? else {
            return None;
        };
        let node = self.known.get(uid)?;
        Some(Agent {
            node: Arc::clone(node.name.node.as_ref()?),
            address: node.internal?,
        })
    }

    /// All nodes that have a name.
    pub(super) fn list(&self) -> Vec<ClusterNode> {
        let nodes = self.known.values();
        let listed = nodes.filter_map(|node| {
            Some(ClusterNode {
                name: Arc::clone(node.name.node.as_ref()?),
                address: node.internal,
                zone: node.zone.clone(),
            })
        });
        listed.collect()
    }

    /// A number that changes with everything that [`Self::home`] and [`Self::list`] depend on.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// All addresses of the nodes themselves.
    pub(super) fn addresses(&self) -> HashSet<IpAddr> {
        let nodes = self.known.values();
        nodes.flat_map(|node| node.addresses.clone()).collect()
    }

    /// The id of the node with this name.
    pub(super) fn uid(&self, name: &str) -> Option<u128> {
        let is = |(_, node): &(&u128, &Known)| node.name.node.as_deref() == Some(name);
        Some(*self.known.iter().find(is)?.0)
    }

    /// The names of all nodes.
    pub(super) fn names(&self) -> HashSet<&str> {
        let nodes = self.known.values();
        nodes.filter_map(|node| node.name.node.as_deref()).collect()
    }

    /// The pod ranges of the node with this name. None: there is no such node.
    pub(super) fn ranges_of(&self, name: &str) -> Option<&[IpNet]> {
        let is = |node: &&Known| node.name.node.as_deref() == Some(name);
        Some(&self.known.values().find(is)?.ranges)
    }

    /// Nodes that have had no pod range since they are known, and since when.
    pub(super) fn bare(&self) -> impl Iterator<Item = (&str, Instant)> {
        let nodes = self.known.values();
        nodes.filter_map(|node| Some((node.name.node.as_deref()?, node.bare?)))
    }

    /// The nodes that have the longest range with an address in it.
    fn having(&self, address: IpAddr) -> Option<&[u128]> {
        let lengths = self.lengths.iter().rev();
        let fit = lengths.filter(|(v6, _)| *v6 == address.is_ipv6());
        let mut ranges = fit.filter_map(|(_, length)| {
            let range = IpNet::new(address, *length).ok()?.trunc();
            self.ranges.get(&range)
        });
        ranges.next().map(Vec::as_slice)
    }

    fn release(&mut self, ranges: &[IpNet], uid: u128) {
        for range in ranges {
            let Some(nodes) = self.ranges.get_mut(range) else {
                continue;
            };
            // Each node stands there once: one that is applied again has been added already.
            if let Some(index) = nodes.iter().position(|node| *node == uid) {
                nodes.remove(index);
            }
            if nodes.is_empty() {
                self.ranges.remove(range);
            }
        }
    }

    fn say(&self, addresses: &[IpAddr], ranges: &[IpNet], out: &mut Vec<Change>) {
        let change = |origin, range, name| Change {
            origin,
            range,
            name,
        };
        for address in addresses {
            let node = self.claims.holder(*address);
            let name = node.and_then(|uid| Some(Arc::clone(&self.known.get(&uid)?.name)));
            out.push(change(Origin::Node, (*address).into(), name));
        }
        for range in ranges {
            let there = self.ranges.contains_key(range);
            out.push(change(Origin::Derived, *range, there.then(unknown_pod)));
            // No pod has the network's own address. The node's tunnel device may have it (flannel).
            let first = IpNet::from(range.network());
            if first != *range {
                let node = Name {
                    kind: Kind::Node,
                    namespace: Some(HOST.into()),
                    ..Name::default()
                };
                let name = there.then(|| Arc::new(node));
                out.push(change(Origin::Derived, first, name));
            }
        }
    }
}

impl Known {
    /// True if both have the same addresses, pod ranges and zone.
    fn is_where(&self, other: &Self) -> bool {
        let place = |known: &Self| {
            (
                known.internal,
                known.zone.clone(),
                known.addresses.clone(),
                known.ranges.clone(),
            )
        };
        place(self) == place(other)
    }
}

/// The zone of a node, cut to the length of a name. None: the node has no such label.
fn zone(node: &Node) -> Option<&str> {
    let zone = node.metadata.labels.as_ref()?.get(ZONE)?;
    Some(text::cut(zone)).filter(|zone| !zone.is_empty())
}

/// The length of a range. True marks IPv6.
fn length(range: IpNet) -> (bool, u8) {
    (range.addr().is_ipv6(), range.prefix_len())
}

fn addresses(node: &Node) -> Vec<IpAddr> {
    let listed = node.status.addresses.iter().flatten();
    let listed = listed
        .filter(|address| matches!(address.kind.as_str(), "InternalIP" | "ExternalIP"))
        .map(|address| address.address.as_str());
    let annotations = node.metadata.annotations.as_ref();
    let tunnels = TUNNEL_ADDRESSES
        .iter()
        .filter_map(|key| annotations?.get(*key))
        .map(String::as_str);
    let mut found: Vec<IpAddr> = listed
        .chain(tunnels)
        .filter_map(|text| text.parse().ok())
        .map(|address: IpAddr| address.to_canonical())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The node's own address in the cluster: the first of its kind.
fn internal(node: &Node) -> Option<IpAddr> {
    let listed = node.status.addresses.iter().flatten();
    let mut internal = listed.filter(|address| address.kind == "InternalIP");
    let address: IpAddr = internal.find_map(|address| address.address.parse().ok())?;
    Some(address.to_canonical())
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let all = node.spec.pod_cidrs.iter().flatten();
    let mut found: Vec<IpNet> = all
        .chain(&node.spec.pod_cidr)
        .filter_map(|text| text.parse().ok())
        .map(|range: IpNet| range.trunc())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Addresses that once were a pod's, where no range shows that they still are: on flat networks.
#[derive(Debug, Default)]
pub(super) struct Once {
    order: VecDeque<IpAddr>,
    all: HashSet<IpAddr>,
}

impl Once {
    /// Records an address that no pod has any more. If there are too many, the oldest are dropped.
    pub(super) fn remember(&mut self, address: IpAddr, out: &mut Vec<Change>) {
        if !self.all.insert(address) {
            return;
        }
        self.order.push_back(address);
        let change = |address: IpAddr, name| Change {
            origin: Origin::Derived,
            range: address.into(),
            name,
        };
        out.push(change(address, Some(unknown_pod())));
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
            out.push(change(oldest, None));
        }
    }
}
