//! Whose an address is now. It needs no kernel: whoever has names looks them up here.

mod local_pods;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use ipnet::IpNet;

pub use self::local_pods::PodKey;
use super::{
    Name, PrefixMap,
    labels::Chosen,
    merge::Delta,
    names_file,
    peers::NamePublisher,
    resolver::{LocalEnd, LocalEnds, Resolver},
    status::Status,
};

/// Names by address, and whom the interfaces of this node belong to.
#[derive(Debug, Default)]
pub struct Registry {
    names: RwLock<Arc<PrefixMap>>,
    local: RwLock<Arc<LocalEnds>>,
    node: Option<Arc<str>>,
    labels: Chosen,
    /// Names of this node's pods.
    here: RwLock<BTreeMap<IpNet, Arc<Name>>>,
    status: Arc<Status>,
    board: Arc<NamePublisher>,
}

impl Registry {
    /// Makes these changes, all at once for whoever looks names up.
    pub fn apply(&self, changes: &[Delta]) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let now = Arc::make_mut(&mut names);
        for (range, name) in changes {
            self.note_here(*range, name.as_ref());
            match name {
                Some(name) => now.insert(*range, Arc::clone(name)),
                None => drop(now.remove(*range)),
            }
        }
    }

    /// Makes these all the names, with the node's own addresses: as the names have them, or as
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

    /// How the sources of names are.
    #[must_use]
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Where other nodes' agents hear of this node's pods.
    #[must_use]
    pub fn board(&self) -> &Arc<NamePublisher> {
        &self.board
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

    /// All names as they are now: for many lookups in a row.
    #[must_use]
    pub fn names(&self) -> Arc<PrefixMap> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// An interface of this node is this one's; `None`: its flows' local ends are named by address.
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

    /// Whom the interfaces of this node belong to, by index, as far as the interface tells it.
    #[must_use]
    pub fn local(&self) -> Arc<LocalEnds> {
        Arc::clone(&self.local.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who the ends of flows are now: for many flows in a row.
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
            registry.apply(&merge.apply(change).into_iter().collect::<Vec<_>>());
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
