//! The registry of names by address. It needs no kernel.

mod local_pods;
mod nodes;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use ipnet::IpNet;

pub use self::{local_pods::PodKey, nodes::Zones};
use super::{
    Name, PrefixMap,
    cluster_nodes::ClusterNodes,
    labels::Chosen,
    merge::Delta,
    names_file,
    peers::NamePublisher,
    resolver::{LocalEnd, LocalEnds, Resolver},
    status::Status,
};

/// Names by address, and the owners of this node's interfaces.
#[derive(Debug, Default)]
pub struct Registry {
    names: RwLock<Arc<PrefixMap>>,
    local: RwLock<Arc<LocalEnds>>,
    node: Option<Arc<str>>,
    labels: Chosen,
    /// Names of this node's pods.
    here: RwLock<BTreeMap<IpNet, Arc<Name>>>,
    /// Addresses of nodes.
    nodes: RwLock<HashMap<IpAddr, Arc<Name>>>,
    cluster_nodes: Arc<ClusterNodes>,
    /// Zones of nodes.
    zones: RwLock<Arc<Zones>>,
    status: Arc<Status>,
    publisher: Arc<NamePublisher>,
}

impl Registry {
    /// Applies changes. A lookup sees all of them or none.
    pub fn apply(&self, changes: &[Delta]) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let now = Arc::make_mut(&mut names);
        for (range, name) in changes {
            self.note_here(*range, name.as_ref());
            self.note_node(*range, name.as_ref());
            match name {
                Some(name) => now.insert(*range, Arc::clone(name)),
                None => drop(now.remove(*range)),
            }
        }
    }

    /// Replaces all names. The node's own addresses get the name that `names` has, or
    /// [`super::HOST`].
    pub fn replace(&self, names: &PrefixMap, own: &[IpAddr]) {
        let mut all = names.clone();
        for address in own {
            all.insert(
                (*address).into(),
                Arc::new(names_file::own(names, *address, None)),
            );
        }
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
    }

    /// State of the sources of names.
    #[must_use]
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// The publisher of this node's pods, which other nodes' agents listen to.
    #[must_use]
    pub fn publisher(&self) -> &Arc<NamePublisher> {
        &self.publisher
    }

    /// The nodes of the cluster, as a list.
    #[must_use]
    pub fn cluster_nodes(&self) -> &Arc<ClusterNodes> {
        &self.cluster_nodes
    }

    /// The name of an address.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<Arc<Name>> {
        self.names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .lookup(address)
            .cloned()
    }

    /// All names as they are now, for many lookups in a row.
    #[must_use]
    pub fn names(&self) -> Arc<PrefixMap> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the local end of an interface of this node. None: its flows' local ends are named by
    /// address.
    pub fn set_local(&self, index: u32, end: Option<LocalEnd>) {
        let mut local = self.local.write().unwrap_or_else(PoisonError::into_inner);
        if local.get(&index) == end.as_ref() {
            return;
        }
        let local = Arc::make_mut(&mut local);
        match end {
            Some(end) => drop(local.insert(index, end)),
            None => drop(local.remove(&index)),
        }
    }

    /// The local ends of this node's interfaces, by index, as far as the interface decides.
    #[must_use]
    pub fn local(&self) -> Arc<LocalEnds> {
        Arc::clone(&self.local.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A resolver for the ends of flows with the current names, for many flows in a row.
    #[must_use]
    pub fn whose(&self) -> Resolver {
        Resolver::new(self.names(), self.local())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{
        merge::{Change, Merge, Origin},
        names_file::Kind,
    };

    fn pod(namespace: &str) -> Arc<Name> {
        Arc::new(Name {
            kind: Kind::Pod,
            namespace: Some(namespace.into()),
            ..Name::default()
        })
    }

    /// No map, no program and no privilege is needed: what a source says is found by its address.
    #[test]
    fn names_are_resolved_without_a_kernel() {
        let (registry, mut merge) = (Registry::default(), Merge::default());
        let mut tell = |range: &str, name: Option<Arc<Name>>| {
            let change = Change {
                origin: Origin::Pod,
                range: range.parse().expect("a range"),
                name,
            };
            registry.apply(&merge.apply(change));
        };
        let namespace = |address: &str| {
            let name = registry.lookup(address.parse().expect("an address"))?;
            name.namespace.as_deref().map(str::to_owned)
        };
        tell("198.18.0.0/16", Some(pod("range")));
        tell("198.18.0.1/32", Some(pod("shop")));
        assert_eq!(namespace("198.18.0.1").as_deref(), Some("shop"));
        assert_eq!(namespace("198.18.0.2").as_deref(), Some("range"));
        assert_eq!(namespace("198.19.0.1"), None);
        // Whoever took all names before does not see the change.
        let before = registry.whose();
        tell("198.18.0.1/32", None);
        assert_eq!(namespace("198.18.0.1").as_deref(), Some("range"));
        let address = IpAddr::from([198, 18, 0, 1]);
        assert_eq!(before.remote(address), Some(&pod("shop")));
        // An interface goes before the address.
        registry.set_local(7, Some(LocalEnd::Pod(pod("media"))));
        let now = registry.whose();
        assert_eq!(now.local(7, 0, address), Some(&pod("media")));
        assert_eq!(now.local(8, 0, address), Some(&pod("range")));
    }
}
