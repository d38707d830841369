//! Finds the pod behind an interface where a names file gives names and no CNI result does. The pod
//! is the one whose addresses are seen behind the interface.
//!
//! Histograms tell pods apart by their interfaces. Kubernetes reports addresses too late for that,
//! because they change owners. An address in a file belongs to its owner as long as the file says
//! so.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::{Duration, Instant},
};

use lpm_common::layout::{Vantage, tunnel};

use crate::{
    identity::{Name, names_file::Kind},
    passive::Model,
};

/// Interval between two passes over all flows.
const LOOK: Duration = Duration::from_secs(2);

/// The pods found, by the index of their interface.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    pods: BTreeMap<u32, Name>,
    looked: Option<Instant>,
    generation: u32,
}

impl Learnt {
    /// Looks for the pods behind interfaces, at intervals and when names have changed. Returns
    /// whether a pod is new.
    pub(super) fn look(&mut self, model: &Model) -> bool {
        let (now, generation) = (Instant::now(), model.generation());
        let registry = model.registry();
        let is_file = model.ids().levels().pod && registry.status().scope().is_none();
        let early = self.looked.is_some_and(|looked| now - looked < LOOK);
        if !is_file || early && generation == self.generation {
            return false;
        }
        (self.looked, self.generation) = (Some(now), generation);
        let Ok(clock) = model.clock() else {
            return false;
        };
        let names = registry.names();
        // An interface with two pods behind it belongs to neither.
        let mut seen: BTreeMap<u32, Option<Name>> = BTreeMap::new();
        for known in model.flows(&clock) {
            let flow = known.flow;
            let is_pods = matches!(flow.vantage, Some(Vantage::Pod | Vantage::Node));
            if !is_pods || tunnel::is_inside(flow.segment) {
                continue;
            }
            let name = names.lookup(flow.local);
            let Some(name) = name.filter(|name| name.kind == Kind::Pod && name.pod.is_some())
            else {
                continue;
            };
            match seen.entry(flow.ifindex) {
                Entry::Vacant(vacant) => drop(vacant.insert(Some(Name::clone(name)))),
                Entry::Occupied(mut other) => {
                    let owner = |name: &Name| (name.namespace.clone(), name.pod.clone());
                    if other.get().as_ref().map(owner) != Some(owner(name)) {
                        other.insert(None);
                    }
                }
            }
        }
        let mut pods = self.pods.clone();
        for (index, name) in seen {
            match name {
                Some(name) => drop(pods.insert(index, name)),
                None => drop(pods.remove(&index)),
            }
        }
        // A silent interface keeps its pod, unless the file says otherwise.
        let still = |name: &Name| names.ranges().any(|(_, _, known)| **known == *name);
        pods.retain(|_, name| still(name));
        let new = pods != self.pods;
        self.pods = pods;
        new
    }

    /// The pod behind an interface. None: no pod was found there.
    pub(super) fn pod(&self, index: u32) -> Option<&Name> {
        self.pods.get(&index)
    }

    /// Drops what was found of an interface that is gone.
    pub(super) fn forget(&mut self, index: u32) {
        self.pods.remove(&index);
    }
}
