//! The addresses of nodes, for whoever asks by address at each packet, and the nodes' zones.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, PoisonError},
};

use ipnet::IpNet;

use super::Registry;
use crate::identity::{Name, names_file::Kind};

/// Names of zones by names of nodes. A node whose zone is not known is missing.
pub type Zones = HashMap<Arc<str>, Arc<str>>;

impl Registry {
    /// The name of this node. None: it is not known.
    #[must_use]
    pub fn node(&self) -> Option<&Arc<str>> {
        self.node.as_ref()
    }

    /// The names of all nodes that have an address, this one included.
    #[must_use]
    pub fn node_names(&self) -> HashSet<Arc<str>> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let names = nodes.values().filter_map(|name| name.node.clone());
        names.chain(self.node.clone()).collect()
    }

    /// The zones of all nodes.
    #[must_use]
    pub fn zones(&self) -> Arc<Zones> {
        Arc::clone(&self.zones.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the zones of all nodes.
    pub fn set_zones(&self, zones: Zones) {
        let mut now = self.zones.write().unwrap_or_else(PoisonError::into_inner);
        *now = Arc::new(zones);
    }

    /// Whether an address is a node's: this one's, another one's of the cluster, or one that the
    /// names file calls a node's.
    #[must_use]
    pub fn is_node(&self, address: IpAddr) -> bool {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.contains_key(&address)
    }

    /// The name of the node that has an address. None: no node has it, or the node has no name.
    #[must_use]
    pub fn node_at(&self, address: IpAddr) -> Option<Arc<str>> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&address)?.node.clone()
    }

    /// Records the name of a range. Only single addresses of nodes are kept.
    pub(super) fn note_node(&self, range: IpNet, name: Option<&Arc<Name>>) {
        if range.prefix_len() != range.max_prefix_len() {
            return;
        }
        let name = name.filter(|name| name.kind == Kind::Node);
        // Most changes are of pods: they take no lock that a reader would wait for.
        if name.is_none() && !self.is_node(range.addr()) {
            return;
        }
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        match name {
            Some(name) => drop(nodes.insert(range.addr(), Arc::clone(name))),
            None => drop(nodes.remove(&range.addr())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_nodes_come_and_go() {
        let registry = Registry::default();
        let of_kind = |kind| {
            let name = Name {
                kind,
                node: Some("n1".into()),
                ..Name::default()
            };
            Some(Arc::new(name))
        };
        let range = |text: &str| text.parse::<IpNet>().expect("a range");
        let is_node = |text: &str| registry.is_node(text.parse().expect("an address"));
        registry.apply(&[
            (range("198.18.0.1/32"), of_kind(Kind::Node)),
            (range("198.18.0.2/32"), of_kind(Kind::Pod)),
            (range("198.18.1.0/24"), of_kind(Kind::Node)),
            (range("fd00::1/128"), of_kind(Kind::Node)),
        ]);
        assert!(is_node("198.18.0.1") && is_node("fd00::1"));
        assert!(!is_node("198.18.0.2") && !is_node("198.18.1.7"));
        let at = IpAddr::from([198, 18, 0, 1]);
        assert_eq!(registry.node_at(at).as_deref(), Some("n1"));
        registry.apply(&[
            (range("198.18.0.1/32"), None),
            (range("fd00::1/128"), of_kind(Kind::Pod)),
        ]);
        assert!(!is_node("198.18.0.1") && !is_node("fd00::1"));
    }
}
