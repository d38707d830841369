//! Nodes: their addresses, and the ranges that their pods' addresses are of.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    claims::Claims,
    objects::{Node, TUNNEL_ADDRESSES},
    texts::Texts,
};
use crate::identity::{
    Name, UNKNOWN,
    directory::HOST,
    merge::{Change, Origin},
    names::Kind,
};

/// Addresses that are remembered as some pod's once.
const REMEMBERED: usize = 65_536;

/// All nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: HashMap<u128, Known>,
    claims: Claims,
    /// How many nodes have a range.
    ranges: HashMap<IpNet, usize>,
}

#[derive(Debug)]
struct Known {
    name: Arc<Name>,
    addresses: Vec<IpAddr>,
    ranges: Vec<IpNet>,
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
        (uid, node): (u128, &Node),
        texts: &mut Texts,
        out: &mut Vec<Change>,
    ) {
        let name = Arc::new(Name {
            kind: Kind::Node,
            namespace: Some(texts.share(HOST)),
            node: node.metadata.name.as_deref().map(|name| texts.share(name)),
            ..Name::default()
        });
        let now = Known {
            name,
            addresses: addresses(node),
            ranges: ranges(node),
        };
        for address in &now.addresses {
            self.claims.claim(*address, uid, None);
        }
        for range in &now.ranges {
            *self.ranges.entry(*range).or_default() += 1;
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
            self.release(&before.ranges);
            ranges.extend(before.ranges);
        }
        self.say(&touched, &ranges, out);
    }

    pub(super) fn remove(&mut self, uid: u128, out: &mut Vec<Change>) {
        let Some(gone) = self.known.remove(&uid) else {
            return;
        };
        for address in &gone.addresses {
            self.claims.release(*address, uid);
        }
        self.release(&gone.ranges);
        self.say(&gone.addresses, &gone.ranges, out);
    }

    /// Whether an address is of some node's range of pods.
    pub(super) fn cover(&self, address: IpAddr) -> bool {
        self.ranges.keys().any(|range| range.contains(&address))
    }

    fn release(&mut self, ranges: &[IpNet]) {
        for range in ranges {
            if let Some(nodes) = self.ranges.get_mut(range) {
                *nodes -= 1;
                if *nodes == 0 {
                    self.ranges.remove(range);
                }
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
            // No pod has the network's own address; the node's tunnel device may (flannel).
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

/// The name of an address that is a pod's, but not known whose.
pub(super) fn unknown_pod() -> Arc<Name> {
    Arc::new(Name {
        kind: Kind::Pod,
        namespace: Some(UNKNOWN.into()),
        ..Name::default()
    })
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

/// Addresses that were a pod's, where no range tells that they still are: on flat networks.
#[derive(Debug, Default)]
pub(super) struct Once {
    order: VecDeque<IpAddr>,
    all: HashSet<IpAddr>,
}

impl Once {
    /// An address is no pod's any more; of too many the oldest are forgotten.
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
