//! The pods of this node, for the info metrics about them.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use ipnet::IpNet;

use super::Registry;
use crate::identity::{Name, labels::Chosen, names_file::Kind};

/// Namespace and name of a pod.
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

    /// The labels of pods that the configuration asks for.
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

    /// Records the name of a range. Only names that the info metrics need are kept.
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
