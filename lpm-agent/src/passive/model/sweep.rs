//! The sweep: sums over the flow table for a scrape, in one walk.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use lpm_common::{
    counter::{COUNTERS, Counter},
    layout::{FlowEntry, Traffic, Vantage},
};

use super::Model;
use crate::passive::{
    Clock,
    flow::{FlowIdentity, is_closed},
    window::words,
};

/// Sums over all flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Number of packets ever seen, at all vantages.
    pub packets: u64,
    /// Number of bytes ever seen, at all vantages.
    pub bytes: u64,
    /// Number of flows seen within the idle time and not closed, by vantage.
    pub active: BTreeMap<Vantage, u64>,
}

impl Model {
    /// Walks over the flow table, without copying any flow. A flow that is being evicted is missing
    /// from the sums for a moment. So the larger one of this sum and the last is returned: a
    /// counter never goes back.
    #[must_use]
    pub fn sweep(&self, clock: &Clock, counters: &[u64; COUNTERS]) -> Sweep {
        let windows = self.windows();
        let mut all = windows.carried();
        all += Traffic {
            packets: counters[Counter::EvictedPackets as usize],
            bytes: counters[Counter::EvictedBytes as usize],
        };
        let mut active = BTreeMap::new();
        // An entry is four cache lines, and the table is far larger than the caches. So of free
        // entries only the fingerprint is read, and there is only one walk.
        for index in 0..self.tables.flow_count() {
            let Some(entry) = self.tables.flow(index) else {
                break;
            };
            let fingerprint = entry.fingerprint.load(Ordering::Acquire);
            if fingerprint == 0 {
                continue;
            }
            let flow = FlowIdentity::of(fingerprint, entry);
            for traffic in windows.beyond_carried(index, flow, words(entry)) {
                all += traffic;
            }
            if self.is_active(entry, clock)
                && let Some(vantage) = Vantage::from_raw(entry.cold.vantage())
            {
                *active.entry(vantage).or_default() += 1;
            }
        }
        Sweep {
            packets: grown(&self.packets, all.packets),
            bytes: grown(&self.bytes, all.bytes),
            active,
        }
    }

    fn is_active(&self, entry: &FlowEntry, clock: &Clock) -> bool {
        clock.age(entry.last_seen.load(Ordering::Relaxed)) < self.idle && !is_closed(entry)
    }
}

/// The larger one of this value and the last, which is then remembered.
fn grown(last: &AtomicU64, now: u64) -> u64 {
    last.fetch_max(now, Ordering::Relaxed).max(now)
}
