//! Finds the directions in which each interface has shown packets of its flows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering,
    time::Duration,
};

use lpm_common::layout::{FlowCold, FlowEntry, Traffic};

use super::{Clock, flow::interface_of};
use crate::kernel::{maps::Maps, one_sided::DirectionCounts};

/// Time after which an answer counts as missing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Packets of one direction after which there must have been an answer, whatever they were. A
/// connection attempt that nobody answers has fewer.
const MANY: u64 = 12;

/// Fewest packets from which anything is concluded.
const FEW: u64 = 3;

/// Most flows per look whose answers are looked for at other interfaces. One that is redirected
/// shows it by any of its flows.
const SOUGHT: usize = 1024;

/// Address and port of both ends: first of the end that sends, then of the end that receives.
type Way = [([u32; 4], u16); 2];

/// Packets by direction of all interfaces with flows.
#[must_use]
pub fn of_interfaces(tables: &dyn Maps, clock: &Clock) -> BTreeMap<u32, DirectionCounts> {
    let mut all: BTreeMap<u32, DirectionCounts> = BTreeMap::new();
    let mut sought: HashMap<Way, (u32, u64)> = HashMap::new();
    for entry in flows(tables) {
        let interface = interface_of(&entry.cold);
        let lone = add(all.entry(interface).or_default(), entry, clock);
        if lone > 0 && sought.len() < SOUGHT {
            sought.insert(ways(&entry.cold)[1], (interface, lone));
        }
    }
    if !sought.is_empty() {
        for (interface, packets) in answered_elsewhere(tables, sought) {
            all.entry(interface).or_default().elsewhere += packets;
        }
    }
    all
}

/// The interfaces and packets of the flows in `sought` whose missing direction passed another
/// interface.
fn answered_elsewhere(tables: &dyn Maps, mut sought: HashMap<Way, (u32, u64)>) -> Vec<(u32, u64)> {
    let mut found = Vec::new();
    for entry in flows(tables) {
        let interface = interface_of(&entry.cold);
        for (way, passed) in ways(&entry.cold).into_iter().zip(packets(entry)) {
            let there = |(at, _): &(u32, u64)| *at != interface && passed >= FEW;
            if sought.get(&way).is_some_and(there) {
                found.extend(sought.remove(&way));
            }
        }
    }
    found
}

/// The entries that flows have.
fn flows(tables: &dyn Maps) -> impl Iterator<Item = &FlowEntry> {
    (0..tables.flow_count())
        .map_while(|index| tables.flow(index))
        .filter(|entry| entry.fingerprint.load(Ordering::Acquire) != 0)
}

/// The ways of a flow's packets: from the local end, and to it.
fn ways(cold: &FlowCold) -> [Way; 2] {
    let local = cold
        .local
        .each_ref()
        .map(|word| word.load(Ordering::Relaxed));
    let remote = cold
        .remote
        .each_ref()
        .map(|word| word.load(Ordering::Relaxed));
    let local = (local, cold.local_port.load(Ordering::Relaxed));
    let remote = (remote, cold.remote_port.load(Ordering::Relaxed));
    [[local, remote], [remote, local]]
}

/// Packets of a flow, from the local end and to it.
fn packets(entry: &FlowEntry) -> [u64; 2] {
    [0, 1].map(|way: usize| {
        let word = entry.hot[way].traffic.load(Ordering::Relaxed);
        Traffic::unpack(word).packets
    })
}

/// Adds the packets of a flow. Returns the number of those that count as `from_only`.
fn add(sides: &mut DirectionCounts, entry: &FlowEntry, clock: &Clock) -> u64 {
    let [from, to] = packets(entry);
    sides.from_local += from;
    sides.to_local += to;
    let one_way = match (from, to) {
        (_, 0) => 0,
        (0, _) => 1,
        _ => {
            sides.both += from + to;
            return 0;
        }
    };
    let first_seen = entry.cold.first_seen.load(Ordering::Relaxed);
    if from + to < FEW || clock.age(first_seen) < PATIENCE {
        return 0;
    }
    // The flow echoes what the other end has sent, or goes on and on.
    let echoes = entry.hot[one_way].tsecr.load(Ordering::Relaxed) != 0;
    if echoes || from + to >= MANY {
        if one_way == 0 {
            sides.from_only += from;
            return from;
        }
        sides.to_only += to;
    }
    0
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
            elsewhere: 0,
            to_only: 3,
            from_local: 124,
            to_local: 7,
            forwarded: 0,
        };
        assert_eq!(sides, expected);
    }

    #[test]
    fn what_was_answered_at_another_interface() {
        let tables = Memory::new(8, 4, 1);
        let clock = Clock::fixed(250, 10_000, 0);
        let ports = |entry: &FlowEntry, local, remote| {
            entry.cold.local_port.store(local, Ordering::Relaxed);
            entry.cold.remote_port.store(remote, Ordering::Relaxed);
            for end in [&entry.cold.local, &entry.cold.remote] {
                end[3].store(1, Ordering::Relaxed);
            }
        };
        let [lone, card, veth] = [&tables.flows[0], &tables.flows[1], &tables.flows[2]];
        flow(lone, [20, 0], 9, 1000);
        ports(lone, 40_000, 80);
        let elsewhere = || of_interfaces(&tables, &clock)[&7].elsewhere;
        assert_eq!(elsewhere(), 0, "nowhere");
        // At the network card, first without an answer, then with a few.
        for (to, expected) in [(0, 0), (2, 0), (3, 20)] {
            flow(card, [20, to], 9, 1000);
            card.cold.ifindex.store(8, Ordering::Relaxed);
            ports(card, 40_000, 80);
            assert_eq!(elsewhere(), expected);
        }
        card.fingerprint.store(0, Ordering::Relaxed);
        // At the veth of the pod that answers, past which the others are redirected too.
        flow(veth, [20, 0], 9, 1000);
        veth.cold.ifindex.store(9, Ordering::Relaxed);
        ports(veth, 80, 40_000);
        assert_eq!(elsewhere(), 20);
    }
}
