//! Which sessions an agent has: those of its list of targets, and those to the cluster's nodes.
//!
//! Pure: the configuration and the list of nodes in, the wanted sessions out.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::spec::{self, Read, Spec};
use crate::{
    active::schedule::rendezvous::{self, Node, Reach},
    config::{Host, Ports, Probed, Probes, SESSIONS, Tags},
    identity::cluster_nodes::ClusterNode,
};

/// The tag with a node's zone.
const ZONE: &str = "zone";

/// Why a target is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// Another target has the same address and port.
    Address,
    /// `from` is an address of the other family.
    Family,
    /// It is this node itself.
    Itself,
    /// The list of targets has one of this name.
    Name,
    /// The node has no address.
    NoAddress,
    /// All nodes: the cluster has no node with this node's name.
    NotANode,
    /// All ports of `probes.ports` have sessions.
    Ports,
    /// There are as many sessions as an agent may have.
    Sessions,
}

impl LeftOut {
    /// The word in the label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Family => "family",
            Self::Itself => "itself",
            Self::Name => "name",
            Self::NoAddress => "no_address",
            Self::NotANode => "not_a_node",
            Self::Ports => "ports",
            Self::Sessions => "sessions",
        }
    }

    /// What it means and what helps, for people.
    const fn remedy(self) -> &'static str {
        match self {
            Self::Address => "another target has the same address and port: give each one name",
            Self::Family => "probes.from is an address of the other family",
            Self::Itself => "a node does not probe itself",
            Self::Name => "probes.targets has a target of the same name, which is probed instead",
            Self::NoAddress => "the node has no InternalIP",
            Self::NotANode => {
                "the cluster has no node with this node's name: give it as node_name or in NODE_NAME"
            }
            Self::Ports => "probes.ports has too few ports: give one for each target and class",
            Self::Sessions => {
                "an agent has at most 512 pairs of a target and a class: lower \
                 probes.nodes.full_up_to or probes.nodes.peers, or give fewer classes"
            }
        }
    }
}

/// What is wanted of a prober.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// The sessions.
    pub(super) specs: Vec<Spec>,
    /// How many targets are left out, by reason.
    pub(super) left_out: BTreeMap<LeftOut, u64>,
    /// How many times longer the intervals of nodes are than asked for, to fit the budget. None: no
    /// budget is given, or no node is probed.
    pub(super) stretch: Option<f64>,
}

/// What decides on the sessions.
#[derive(Debug)]
pub(super) struct Targets {
    own: Arc<str>,
    read: Read,
    /// None: the nodes are not known yet.
    nodes: Option<Arc<[ClusterNode]>>,
    /// What was said of targets that are left out.
    said: BTreeMap<LeftOut, u64>,
}

impl Targets {
    pub(super) fn new(own: Arc<str>, read: Read) -> Self {
        Self {
            own,
            read,
            nodes: None,
            said: BTreeMap::new(),
        }
    }

    /// Takes another configuration.
    pub(super) fn set_read(&mut self, read: Read) {
        self.read = read;
    }

    /// Takes another list of nodes.
    pub(super) fn set_nodes(&mut self, nodes: Arc<[ClusterNode]>) {
        self.nodes = Some(nodes);
    }

    /// The sessions that are wanted by now. Says in the log what is left out, if that is new.
    pub(super) fn wanted(&mut self) -> Wanted {
        let wanted = wanted(&self.own, &self.read, self.nodes.as_deref());
        for (reason, count) in &wanted.left_out {
            if self.said.get(reason) != Some(count) {
                tracing::warn!(
                    "targets that are not probed: {count}, as {}",
                    reason.remedy()
                );
            }
        }
        self.said.clone_from(&wanted.left_out);
        wanted
    }
}

/// The sessions of a configuration and of a list of nodes.
fn wanted(own: &str, read: &Read, nodes: Option<&[ClusterNode]>) -> Wanted {
    let mut wanted = Wanted::default();
    // All nodes may have the same list.
    let is_own = |spec: &&Spec| spec.probed.name == own;
    let itself: BTreeSet<&str> = (read.specs.iter().filter(is_own))
        .map(|spec| &*spec.probed.name)
        .collect();
    wanted.leave_out(LeftOut::Itself, itself.len());
    let listed = read.specs.iter().filter(|spec| !is_own(spec));
    wanted.specs = listed.cloned().collect();
    let Some(nodes) = nodes.filter(|_| read.probes.nodes.enabled) else {
        return wanted;
    };
    let probed = wanted.nodes(own, &read.probes, nodes);
    let from = wanted.specs.len();
    wanted.add(&probed, read);
    wanted.fit(&read.probes, from);
    wanted
}

impl Wanted {
    fn leave_out(&mut self, reason: LeftOut, count: usize) {
        if count > 0 {
            *self.left_out.entry(reason).or_default() += count as u64;
        }
    }

    /// The nodes that this one probes, as targets.
    fn nodes(&mut self, own: &str, probes: &Probes, nodes: &[ClusterNode]) -> Vec<Arc<Probed>> {
        let all: Vec<Node<'_>> = (nodes.iter())
            .map(|node| Node {
                name: &node.name,
                zone: node.zone.as_deref(),
            })
            .collect();
        if !all.iter().any(|node| node.name == own) {
            self.leave_out(LeftOut::NotANode, nodes.len());
            return Vec::new();
        }
        let reach = Reach {
            full_up_to: probes.nodes.full_up_to.into(),
            peers: probes.nodes.peers.into(),
        };
        let listed: HashSet<String> = (self.specs.iter())
            .map(|spec| spec.probed.name.clone())
            .collect();
        let ends = self.specs.iter().filter_map(|spec| match spec.probed.host {
            Host::Address(address) => Some((address, spec.probed.port)),
            Host::Name(_) => None,
        });
        let mut ends: HashSet<(IpAddr, u16)> = ends.collect();
        let mut chosen = Vec::new();
        for index in rendezvous::targets(own, &all, reach) {
            let node = &nodes[index];
            let is_listed = listed.contains(&*node.name);
            match usable(node, probes, is_listed) {
                Ok(address) if ends.insert((address, probes.port)) => {
                    let zone = node.zone.as_deref();
                    let tags: Tags = (zone.iter())
                        .map(|zone| (ZONE.to_owned(), (*zone).to_owned()))
                        .collect();
                    chosen.push(Arc::new(probes.node(&node.name, address, tags)));
                }
                Ok(_) => self.leave_out(LeftOut::Address, 1),
                Err(reason) => self.leave_out(reason, 1),
            }
        }
        chosen
    }

    /// Adds targets, as many as there may be.
    fn add(&mut self, probed: &[Arc<Probed>], read: &Read) {
        let ports = read.probes.ports.map_or(usize::MAX, Ports::count);
        for probed in probed {
            let sessions = self.specs.len() + probed.classes.len();
            if sessions > SESSIONS {
                self.leave_out(LeftOut::Sessions, 1);
            } else if sessions > ports {
                self.leave_out(LeftOut::Ports, 1);
            } else {
                let key = read.node_key.clone();
                self.specs
                    .extend(spec::of(probed, key.as_ref(), &read.manner));
            }
        }
    }

    /// Lengthens the intervals of the sessions from this one on, so that all fit the budget.
    fn fit(&mut self, probes: &Probes, from: usize) {
        let (listed, nodes) = self.specs.split_at(from);
        let takes = |specs: &[Spec]| specs.iter().map(Spec::packets_per_second).sum::<f64>();
        let Some(budget) = probes.packets_per_second.filter(|_| !nodes.is_empty()) else {
            return;
        };
        let left = (f64::from(budget) - takes(listed)).max(f64::MIN_POSITIVE);
        let stretch = (takes(nodes) / left).max(1.0);
        for spec in &mut self.specs[from..] {
            spec.stretch(stretch);
        }
        self.stretch = Some(stretch);
    }
}

/// The address of a node that can be probed, or why it cannot.
fn usable(node: &ClusterNode, probes: &Probes, is_listed: bool) -> Result<IpAddr, LeftOut> {
    if is_listed {
        return Err(LeftOut::Name);
    }
    let address = node.address.ok_or(LeftOut::NoAddress)?;
    let from = probes.from.as_ref().and_then(|from| from.parse().ok());
    if from.is_some_and(|from: IpAddr| from.is_ipv4() != address.is_ipv4()) {
        return Err(LeftOut::Family);
    }
    Ok(address)
}

#[cfg(test)]
mod tests;
