//! The clients that a reflector answers.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use ipnet::IpNet;

use crate::identity::Registry;

/// The clients that get answers: fixed ranges, and in an agent nodes and the agent's own targets.
/// Clones share what can change.
#[derive(Clone, Debug, Default)]
pub struct Allow(Arc<RwLock<Lists>>);

/// What is allowed now.
#[derive(Debug, Default)]
struct Lists {
    ranges: Vec<IpNet>,
    /// The names whose nodes are allowed. None: no node is.
    nodes: Option<Arc<Registry>>,
    /// Addresses of the agent's own targets, and whether they are allowed.
    targets: (bool, HashSet<IpAddr>),
}

impl From<Vec<IpNet>> for Allow {
    fn from(ranges: Vec<IpNet>) -> Self {
        let allow = Self::default();
        allow.set(ranges, None, false);
        allow
    }
}

impl Allow {
    /// Replaces what is allowed: these ranges, the nodes that a registry knows, and the agent's
    /// targets if `targets`.
    pub fn set(&self, ranges: Vec<IpNet>, nodes: Option<Arc<Registry>>, targets: bool) {
        let mut lists = self.0.write().unwrap_or_else(PoisonError::into_inner);
        (lists.ranges, lists.nodes, lists.targets.0) = (ranges, nodes, targets);
    }

    /// Replaces the addresses of the agent's targets.
    pub fn set_targets(&self, targets: HashSet<IpAddr>) {
        let mut lists = self.0.write().unwrap_or_else(PoisonError::into_inner);
        lists.targets.1 = targets;
    }

    /// Whether a client gets answers. An IPv4 address is given as such, not mapped into IPv6.
    #[must_use]
    pub fn contains(&self, client: IpAddr) -> bool {
        let lists = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (are_allowed, targets) = &lists.targets;
        let nodes = lists.nodes.as_ref();
        lists.ranges.iter().any(|range| range.contains(&client))
            || nodes.is_some_and(|registry| registry.is_node(client))
            || (*are_allowed && targets.contains(&client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Name, names_file::Kind};

    #[test]
    fn who_is_allowed_follows_nodes_and_targets() {
        let registry = Arc::new(Registry::default());
        let allow = Allow::from(vec!["127.0.0.0/8".parse().expect("a range")]);
        let [node, target, other, local] = [1, 2, 3, 0].map(|last| match last {
            0 => IpAddr::from([127, 0, 0, 1]),
            last => IpAddr::from([198, 18, 0, last]),
        });
        let allowed = |allow: &Allow| [local, node, target, other].map(|one| allow.contains(one));
        let reflector = allow.clone();
        assert_eq!(allowed(&reflector), [true, false, false, false]);
        allow.set_targets([target].into());
        assert_eq!(allowed(&reflector), [true, false, false, false]);
        allow.set(Vec::new(), Some(Arc::clone(&registry)), true);
        assert_eq!(allowed(&reflector), [false, false, true, false]);
        let name = Arc::new(Name {
            kind: Kind::Node,
            ..Name::default()
        });
        registry.apply(&[(node.into(), Some(name))]);
        assert_eq!(allowed(&reflector), [false, true, true, false]);
        registry.apply(&[(node.into(), None)]);
        allow.set_targets(HashSet::new());
        assert_eq!(allowed(&reflector), [false; 4]);
    }
}
