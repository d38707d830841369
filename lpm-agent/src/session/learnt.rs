//! Whose an interface is where no CNI tells and a names file does: the pod that has the addresses
//! behind it.
//!
//! Histograms tell pods apart by their interfaces. What Kubernetes says of addresses comes too late
//! for that, as they change hands; those of a file are whose they are as long as it says so.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::{Duration, Instant},
};

use lpm_common::layout::{Vantage, tunnel};

use crate::{
    identity::{Name, names_file::Kind},
    passive::Model,
};

/// How often all flows are looked at for it.
const LOOK: Duration = Duration::from_secs(2);

/// Pods by the index of their interface.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    pods: BTreeMap<u32, Name>,
    looked: Option<Instant>,
    generation: u32,
}

impl Learnt {
    /// Looks who is behind interfaces, now and then and when names have changed; whether anything is new.
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
        // Of two pods behind one interface neither is its owner.
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
        // Those that are silent now stay whose they were, unless the file says otherwise.
        let still = |name: &Name| names.ranges().any(|(_, _, known)| **known == *name);
        pods.retain(|_, name| still(name));
        let new = pods != self.pods;
        self.pods = pods;
        new
    }

    /// The pod behind an interface.
    pub(super) fn pod(&self, index: u32) -> Option<&Name> {
        self.pods.get(&index)
    }

    /// The interface is gone.
    pub(super) fn forget(&mut self, index: u32) {
        self.pods.remove(&index);
    }
}
