//! Implements the traits of `lpm-common` with the maps.

use core::sync::atomic::Ordering::Relaxed;

use aya_ebpf::{bindings::BPF_NOEXIST, maps::lpm_trie::Key};
use lpm_common::{
    atomic::AtomicU64,
    env::Claims,
    hash::Seeds,
    layout::{
        BackendKey, Control, FlowEntry, Histogram, InterfaceConfig, NameId, NameValue, PairKey,
        QueryEntry, RequestEntry, VlanPair,
    },
    pipeline::{Interfaces, node::PodAddresses},
    query::Queries,
    rows::{self, Rows, Slots},
    table::Table,
    vlan::Pairs,
};

use crate::{
    maps::{
        BACKENDS, CLAIMS, CONTROL, FLOWS, HISTOGRAMS, HOMES, INTERFACES, NAMES, PAIRS, QUERIES,
        REQUESTS, ROWS, VLAN_PAIRS,
    },
    settings,
};

/// The memory of all maps, and the secrets of the flow hash.
pub struct Store;

/// The control block.
#[inline(always)]
#[must_use]
pub fn control() -> Option<&'static Control> {
    CONTROL.get(0).map(|shared| &shared.0)
}

/// The histogram of a row. `place` is leg * 4 + echo for TCP; for others see
/// `lpm_common::layout::Family`.
#[inline(always)]
#[must_use]
pub fn histogram(row: u32, place: u32, cpu: u32) -> Option<&'static Histogram> {
    let stripe = cpu & settings::stripe_mask();
    let index = (stripe * settings::rows() + row) * 8 + place;
    HISTOGRAMS.get(index).map(|shared| &shared.0)
}

impl Seeds for Store {
    #[inline(always)]
    fn seed(&self, i: usize) -> u32 {
        settings::seed(i)
    }
}

impl Table for Store {
    #[inline(always)]
    fn entry(&self, index: u32) -> Option<&FlowEntry> {
        FLOWS.get(index).map(|shared| &shared.0)
    }

    #[inline(always)]
    fn set_mask(&self) -> u32 {
        settings::set_mask()
    }

    #[inline(always)]
    fn idle_jiffies(&self) -> u32 {
        settings::idle_jiffies()
    }

    #[inline(always)]
    fn request(&self, index: u32) -> Option<&RequestEntry> {
        REQUESTS.get(index).map(|shared| &shared.0)
    }
}

impl Queries for Store {
    #[inline(always)]
    fn query(&self, index: u32) -> Option<&QueryEntry> {
        QUERIES.get(index).map(|shared| &shared.0)
    }

    #[inline(always)]
    fn query_mask(&self) -> u32 {
        settings::query_mask()
    }
}

impl Claims for Store {
    #[inline(always)]
    fn claim(&self, name: u32) -> bool {
        CLAIMS.insert(name, 0, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn release(&self, name: u32) {
        // Only the claim's holder comes here, so there is one to remove.
        let _ = CLAIMS.remove(name);
    }
}

impl Pairs for Store {
    #[inline(always)]
    fn pair(&self, key: u64) -> VlanPair {
        // SAFETY: one word, which is copied at once. If the element is another's
        // meanwhile, its VLANs name no entry of these ends, or one of theirs.
        match unsafe { VLAN_PAIRS.get(key) } {
            Some(pair) => *pair,
            None => VlanPair::NOTHING,
        }
    }

    #[inline(always)]
    fn set_pair(&self, key: u64, pair: VlanPair) {
        // The map makes room by itself. If that fails under contention, the
        // cost is that of a forgotten element.
        let _ = VLAN_PAIRS.insert(key, pair, 0);
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        control().is_some_and(|control| control.tagged.load(Relaxed) != 0)
    }

    #[inline(always)]
    fn tag_seen(&self) {
        if let Some(control) = control() {
            control.tagged.store(1, Relaxed);
        }
    }

    #[inline(always)]
    fn doubtful(&self, ifindex: u32) {
        if let Some(control) = control() {
            control.doubtful.store(ifindex, Relaxed);
        }
    }
}

impl Interfaces for Store {
    #[inline(always)]
    fn config(&self, ifindex: u32) -> Option<InterfaceConfig> {
        // SAFETY: the value is small and copied at once; the agent replaces
        // values, it does not change them in place.
        unsafe { INTERFACES.get(ifindex) }.copied()
    }
}

impl PodAddresses for Store {
    #[inline(always)]
    fn home(&self, address: [u32; 4]) -> Option<u32> {
        // SAFETY: one word, which is copied at once.
        unsafe { HOMES.get(address) }.copied()
    }

    #[inline(always)]
    fn settle(&self, address: [u32; 4], ifindex: u32) {
        // It fails if the map is full or the address is settled already. Then
        // connections to the address are seen from the pod's first packet on.
        let _ = HOMES.insert(address, ifindex, u64::from(BPF_NOEXIST));
    }
}

impl Rows for Store {
    #[inline(always)]
    fn generation(&self) -> u32 {
        control().map_or(0, |control| control.generation.load(Relaxed))
    }

    #[inline(always)]
    fn name(&self, address: [u32; 4]) -> Option<NameValue> {
        let [a, b, c, d] = address.map(u32::to_ne_bytes);
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&a);
        bytes[4..8].copy_from_slice(&b);
        bytes[8..12].copy_from_slice(&c);
        bytes[12..].copy_from_slice(&d);
        NAMES.get(Key::new(128, bytes)).copied()
    }

    #[inline(always)]
    fn backend(&self, of: &BackendKey) -> Option<NameId> {
        // SAFETY: one word, which is copied at once.
        unsafe { BACKENDS.get(of) }.copied().map(NameId)
    }

    #[inline(always)]
    fn row(&self, pair: PairKey) -> Option<u32> {
        // SAFETY: a row, once given, stays.
        unsafe { PAIRS.get(pair.0) }.copied()
    }

    #[inline(always)]
    fn assign(&self, pair: PairKey) -> Option<u32> {
        rows::give(pair, self)
    }
}

impl Slots for Store {
    #[inline(always)]
    fn rows(&self) -> u32 {
        settings::rows()
    }

    #[inline(always)]
    fn control(&self) -> Option<&Control> {
        control()
    }

    #[inline(always)]
    fn label(&self, row: u32) -> Option<&AtomicU64> {
        ROWS.get(row).map(|shared| &shared.0.pair)
    }

    #[inline(always)]
    fn bind(&self, pair: PairKey, row: u32) -> bool {
        PAIRS.insert(pair.0, row, 0).is_ok()
    }
}
