//! Every ten seconds each flow's minimum becomes one observation, and what the kernel counts in
//! 32 bits is carried on in 64.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering, fence},
    time::Duration,
};

use lpm_common::layout::{FlowEntry, UNIT_NS};

use super::{Counts, Tables, flow::interface_of, tables::WAYS};

/// Attempts to take the claim of a set that the kernel holds: it does so for a microsecond.
const CLAIM_ATTEMPTS: usize = 1000;

/// What the agent remembers between its looks at the flow table.
#[derive(Debug, Default)]
pub struct Windows {
    /// Minima taken so far, by row and leg.
    minima: HashMap<(u16, u8), Counts>,
    /// By entry: whose it was, and its packets then.
    seen: Vec<Seen>,
    /// Packets beyond the kernel's 32 bits, of all flows that ever were.
    wrapped: u64,
    /// Packets and bytes of flows that the agent itself forgot, their interface being gone.
    forgotten: (u64, u64),
}

/// An entry at the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    fingerprint: u64,
    packets: [u32; 2],
    /// How often each of them wrapped.
    wraps: [u32; 2],
}

impl Windows {
    /// Takes the minimum of each flow's leg since the last time.
    pub fn take(&mut self, tables: &dyn Tables) {
        self.seen.resize(tables.flow_count(), Seen::default());
        for index in 0..tables.flow_count() {
            let Some(entry) = tables.flow(index) else {
                break;
            };
            let fingerprint = entry.fingerprint.load(Ordering::Acquire);
            if fingerprint == 0 {
                continue;
            }
            let packets = packets(entry);
            self.take_minima(entry);
            fence(Ordering::Acquire);
            if entry.fingerprint.load(Ordering::Relaxed) == fingerprint {
                self.carry(index, fingerprint, packets);
            }
        }
    }

    fn take_minima(&mut self, entry: &FlowEntry) {
        for leg in [0_u8, 1] {
            let window = &entry.slots[usize::from(leg)].window_min;
            // A look first: most flows are idle, and a swap would take their cache lines.
            if window.load(Ordering::Relaxed) == u32::MAX {
                continue;
            }
            let units = window.swap(u32::MAX, Ordering::AcqRel);
            if units != u32::MAX {
                let row = row_of(&entry.row);
                let minimum = Duration::from_nanos(u64::from(units) * UNIT_NS);
                self.minima.entry((row, leg)).or_default().observe(minimum);
            }
        }
    }

    /// Notices that a flow's packets wrapped; 2^32 packets take longer than ten seconds.
    fn carry(&mut self, index: usize, fingerprint: u64, packets: [u32; 2]) {
        let seen = &mut self.seen[index];
        if seen.fingerprint != fingerprint {
            *seen = Seen {
                fingerprint,
                packets,
                wraps: [0; 2],
            };
            return;
        }
        for (way, packets) in packets.into_iter().enumerate() {
            if packets < seen.packets[way] {
                seen.wraps[way] += 1;
                self.wrapped += 1 << 32;
            }
            seen.packets[way] = packets;
        }
    }

    /// A flow's packets by direction in 64 bits, as of the last look.
    #[must_use]
    pub fn packets(&self, index: usize, fingerprint: u64, packets: [u32; 2]) -> [u64; 2] {
        let wraps = self
            .seen
            .get(index)
            .filter(|seen| seen.fingerprint == fingerprint)
            .map_or([0; 2], |seen| seen.wraps);
        [0, 1].map(|way: usize| u64::from(packets[way]) + (u64::from(wraps[way]) << 32))
    }

    /// Minima taken so far, by row and leg.
    pub fn minima(&self) -> impl Iterator<Item = (u16, u8, &Counts)> {
        self.minima
            .iter()
            .map(|((row, leg), counts)| (*row, *leg, counts))
    }

    /// Packets and bytes that no entry holds any more and the kernel did not count as evicted.
    #[must_use]
    pub fn carried(&self) -> (u64, u64) {
        (self.forgotten.0 + self.wrapped, self.forgotten.1)
    }

    /// Forgets the flows of an interface that is gone: takes their last minima and their counts,
    /// and frees their entries. Returns how many there were.
    ///
    /// # Errors
    /// The kernel's map of claims cannot be written, or a set stayed claimed.
    pub fn forget(&mut self, tables: &dyn Tables, ifindex: u32) -> std::io::Result<usize> {
        let mut forgotten = 0;
        let mut failed = None;
        for first in (0..tables.flow_count()).step_by(WAYS) {
            let set: Vec<&FlowEntry> = (first..first + WAYS)
                .filter_map(|index| tables.flow(index))
                .collect();
            if !set.iter().any(|entry| belongs(entry, ifindex)) {
                continue;
            }
            let number = u32::try_from(first / WAYS).map_err(std::io::Error::other)?;
            match claim(tables, number) {
                Ok(()) => {}
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            }
            for entry in set.into_iter().filter(|entry| belongs(entry, ifindex)) {
                self.take_minima(entry);
                let [from, to] = packets(entry);
                self.forgotten.0 += u64::from(from) + u64::from(to);
                self.forgotten.1 += entry
                    .hot
                    .iter()
                    .map(|hot| hot.bytes.load(Ordering::Relaxed))
                    .sum::<u64>();
                entry.fingerprint.store(0, Ordering::Release);
                forgotten += 1;
            }
            tables.release(number)?;
        }
        failed.map_or(Ok(forgotten), Err)
    }
}

fn belongs(entry: &FlowEntry, ifindex: u32) -> bool {
    entry.fingerprint.load(Ordering::Acquire) != 0 && interface_of(&entry.cold) == ifindex
}

fn claim(tables: &dyn Tables, set: u32) -> std::io::Result<()> {
    for _ in 0..CLAIM_ATTEMPTS {
        if tables.claim(set)? {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Err(std::io::Error::other(format!(
        "set {set} of the flow table stays claimed"
    )))
}

fn packets(entry: &FlowEntry) -> [u32; 2] {
    [0, 1].map(|way: usize| entry.hot[way].packets.load(Ordering::Relaxed))
}

/// The row in the low 16 bits of [`FlowEntry::row`].
pub(super) fn row_of(word: &AtomicU32) -> u16 {
    let [low, high, ..] = word.load(Ordering::Relaxed).to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::{super::flow::tests::fill, *};
    use crate::passive::tables::memory::Memory;

    #[test]
    fn a_minimum_is_one_observation() {
        let tables = Memory::new(8, 4, 1);
        fill(&tables.flows[5], 77, 1);
        tables.flows[5].row.store(0x0009_0003, Ordering::Relaxed);
        tables.flows[5].slots[0]
            .window_min
            .store(1000, Ordering::Relaxed);
        let mut windows = Windows::default();
        windows.take(&tables);
        windows.take(&tables);
        let all: Vec<_> = windows
            .minima()
            .map(|(row, leg, c)| (row, leg, c.count()))
            .collect();
        assert_eq!(all, [(3, 0, 1)], "the second window had no sample");
        assert_eq!(
            tables.flows[5].slots[0].window_min.load(Ordering::Relaxed),
            u32::MAX
        );
    }

    #[test]
    fn packets_go_on_beyond_32_bits() {
        let tables = Memory::new(4, 4, 1);
        fill(&tables.flows[0], 77, 1);
        let packets = &tables.flows[0].hot[1].packets;
        let mut windows = Windows::default();
        packets.store(u32::MAX - 1, Ordering::Relaxed);
        windows.take(&tables);
        packets.store(5, Ordering::Relaxed);
        windows.take(&tables);
        assert_eq!(windows.packets(0, 77, [0, 5]), [0, (1 << 32) + 5]);
        assert_eq!(windows.packets(0, 78, [0, 5]), [0, 5], "another flow");
        assert_eq!(windows.carried(), (1 << 32, 0));
        // Another flow in the same entry has fewer packets without having wrapped.
        tables.flows[0].fingerprint.store(79, Ordering::Relaxed);
        packets.store(1, Ordering::Relaxed);
        windows.take(&tables);
        assert_eq!(windows.carried(), (1 << 32, 0));
    }

    #[test]
    fn an_interface_that_goes_takes_its_flows_along() {
        let tables = Memory::new(8, 4, 1);
        for (index, ifindex) in [(0, 7), (1, 8), (6, 7)] {
            fill(&tables.flows[index], 70 + index as u64, 1);
            tables.flows[index]
                .cold
                .ifindex
                .store(ifindex, Ordering::Relaxed);
            tables.flows[index].hot[0]
                .packets
                .store(10, Ordering::Relaxed);
            tables.flows[index].hot[1]
                .bytes
                .store(1000, Ordering::Relaxed);
            tables.flows[index].slots[1]
                .window_min
                .store(9, Ordering::Relaxed);
        }
        let mut windows = Windows::default();
        assert_eq!(windows.forget(&tables, 7).expect("forget"), 2);
        assert_eq!(windows.carried(), (20, 2000));
        assert_eq!(
            windows
                .minima()
                .map(|(.., counts)| counts.count())
                .sum::<u64>(),
            2
        );
        let left: Vec<u64> = tables
            .flows
            .iter()
            .map(|entry| entry.fingerprint.load(Ordering::Relaxed))
            .collect();
        assert_eq!(left, [0, 71, 0, 0, 0, 0, 0, 0]);
    }
}
