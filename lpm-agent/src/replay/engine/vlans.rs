//! In which VLANs the same ends were seen.

use std::{cell::Cell, cell::RefCell, collections::HashMap};

use lpm_common::{layout::VlanPair, vlan::Pairs};

use super::Engine;

/// Map `VLAN_PAIRS` of the kernel.
#[derive(Debug, Default)]
pub(super) struct Vlans {
    pairs: RefCell<HashMap<u64, VlanPair>>,
    tagged: Cell<bool>,
}

impl Vlans {
    /// Forgets all; a flow whose pair is forgotten is judged anew.
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
        // A capture that holds more ends than this has most of them behind it.
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

    /// The report tells how many; a capture has few interfaces.
    fn doubtful(&self, _ifindex: u32) {}
}
