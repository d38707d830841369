//! The VLANs in which the same ends were seen.

use std::{cell::Cell, cell::RefCell, collections::HashMap};

use lpm_common::{layout::VlanPair, vlan::Pairs};

use super::Engine;

/// Counterpart of the kernel's map `VLAN_PAIRS`.
#[derive(Debug, Default)]
pub(super) struct Vlans {
    pairs: RefCell<HashMap<u64, VlanPair>>,
    tagged: Cell<bool>,
}

impl Vlans {
    /// Forgets all pairs. A flow whose pair is forgotten is judged again.
    pub(super) fn clear(&self) {
        self.pairs.borrow_mut().clear();
    }
}

impl Pairs for Engine {
    fn pair(&self, key: u64) -> VlanPair {
        let pairs = self.vlans.pairs.borrow();
        pairs.get(&key).copied().unwrap_or_default()
    }

    fn set_pair(&self, key: u64, pair: VlanPair) {
        let mut pairs = self.vlans.pairs.borrow_mut();
        // A capture with more ends than this has most of them behind it.
        if pairs.len() >= self.flows.len().max(1024) && !pairs.contains_key(&key) {
            pairs.clear();
        }
        pairs.insert(key, pair);
    }

    fn is_tagged(&self) -> bool {
        self.vlans.tagged.get()
    }

    fn tag_seen(&self) {
        self.vlans.tagged.set(true);
    }

    /// Does nothing: the report shows the number, and a capture has few interfaces.
    fn doubtful(&self, _ifindex: u32) {}
}
