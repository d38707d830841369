//! Finds the directions in which each interface has shown packets of its flows.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use lpm_common::layout::{FlowEntry, Traffic};

use super::{Clock, flow::interface_of};
use crate::kernel::{maps::Maps, one_sided::DirectionCounts};

/// Time after which an answer counts as missing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Packets of one direction after which there must have been an answer, whatever they were. A
/// connection attempt that nobody answers has fewer.
const MANY: u64 = 12;

/// Fewest packets from which anything is concluded.
const FEW: u64 = 3;

/// Packets by direction of all interfaces with flows.
#[must_use]
pub fn of_interfaces(tables: &dyn Maps, clock: &Clock) -> BTreeMap<u32, DirectionCounts> {
    let mut all: BTreeMap<u32, DirectionCounts> = BTreeMap::new();
    for index in 0..tables.flow_count() {
        let Some(entry) = tables.flow(index) else {
            break;
        };
        if entry.fingerprint.load(Ordering::Acquire) != 0 {
            add(
                all.entry(interface_of(&entry.cold)).or_default(),
                entry,
                clock,
            );
        }
    }
    all
}

fn add(sides: &mut DirectionCounts, entry: &FlowEntry, clock: &Clock) {
    let [from, to] = [0, 1].map(|way: usize| {
        let word = entry.hot[way].traffic.load(Ordering::Relaxed);
        Traffic::unpack(word).packets
    });
    sides.from_local += from;
    sides.to_local += to;
    let one_way = match (from, to) {
        (_, 0) => 0,
        (0, _) => 1,
        _ => {
            sides.both += from + to;
            return;
        }
    };
    let first_seen = entry.cold.first_seen.load(Ordering::Relaxed);
    if from + to < FEW || clock.age(first_seen) < PATIENCE {
        return;
    }
    // The flow echoes what the other end has sent, or goes on and on.
    let echoes = entry.hot[one_way].tsecr.load(Ordering::Relaxed) != 0;
    if echoes || from + to >= MANY {
        if one_way == 0 {
            sides.from_only += from;
        } else {
            sides.to_only += to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::flow::tests::fill, *};
    use crate::kernel::maps::memory::Memory;

    /// An entry of interface 7, first seen this many jiffies (4 ms) before 10,000.
    fn flow(entry: &FlowEntry, packets: [u64; 2], tsecr: u32, age: u32) {
        fill(entry, 1, 1);
        for (hot, packets) in entry.hot.iter().zip(packets) {
            let traffic = Traffic { packets, bytes: 60 };
            hot.traffic.store(traffic.pack(), Ordering::Relaxed);
            hot.tsecr.store(tsecr, Ordering::Relaxed);
        }
        entry.cold.first_seen.store(10_000 - age, Ordering::Relaxed);
    }

    #[test]
    fn what_must_have_been_answered() {
        let tables = Memory::new(8, 4, 1);
        let clock = Clock::fixed(250, 10_000, 0);
        flow(&tables.flows[0], [5, 4], 9, 1000);
        flow(&tables.flows[1], [6, 0], 9, 1000);
        // In order: nobody answers its SYNs; an answer may be on its way; a packet or two.
        flow(&tables.flows[2], [7, 0], 0, 1000);
        flow(&tables.flows[3], [64, 0], 9, 10);
        flow(&tables.flows[4], [2, 0], 9, 1000);
        flow(&tables.flows[5], [40, 0], 0, 1000);
        flow(&tables.flows[6], [0, 3], 9, 1000);
        let sides = of_interfaces(&tables, &clock)[&7];
        let expected = DirectionCounts {
            both: 9,
            from_only: 46,
            to_only: 3,
            from_local: 124,
            to_local: 7,
            forwarded: 0,
        };
        assert_eq!(sides, expected);
    }
}
