//! The pods of this node, for what metrics tell of them beside their round trips.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use ipnet::IpNet;

use super::Registry;
use crate::identity::{Name, labels::Chosen, names_file::Kind};

/// Namespace and pod.
pub type PodKey = (Arc<str>, Arc<str>);

impl Registry {
    /// One for this node; names carry these labels of pods.
    #[must_use]
    pub fn on_node(node: Option<Arc<str>>, labels: Chosen) -> Self {
        Self {
            node,
            labels,
            ..Self::default()
        }
    }

    /// Labels of pods that were asked for.
    #[must_use]
    pub fn labels(&self) -> &Chosen {
        &self.labels
    }

    /// The pods of this node that have an address, each once.
    #[must_use]
    pub fn pods_here(&self) -> BTreeMap<PodKey, Arc<Name>> {
        let here = self.here.read().unwrap_or_else(PoisonError::into_inner);
        let pods = here.values().filter_map(|name| {
            let key = (name.namespace.clone()?, name.pod.clone()?);
            Some((key, Arc::clone(name)))
        });
        pods.collect()
    }

    /// A range has this name now. Only what metrics tell of is kept.
    pub(super) fn note_here(&self, range: IpNet, name: Option<&Arc<Name>>) {
        if self.labels.is_empty() {
            return;
        }
        let name = name.filter(|name| name.kind == Kind::Pod && name.node == self.node);
        let mut here = self.here.write().unwrap_or_else(PoisonError::into_inner);
        match name {
            Some(name) => drop(here.insert(range, Arc::clone(name))),
            None => drop(here.remove(&range)),
        }
    }
}
