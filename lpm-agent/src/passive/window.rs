//! Windows: every ten seconds each flow's minimum becomes one observation. The kernel's words for
//! traffic, which wrap, are extended to numbers that do not.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering, fence},
    time::Duration,
};

use lpm_common::layout::{FlowEntry, Leg, Traffic, UNIT_NS};

use super::{
    flow::{FlowIdentity, duration, ends_of, interface_of},
    histogram,
    segments::Segments,
};
use crate::kernel::maps::{MINIMA, Maps, WAYS, place};

/// Attempts to take the claim of a set that the kernel holds. It does so for a microsecond.
const CLAIM_ATTEMPTS: usize = 1000;

/// State of the agent between its looks at the flow table.
#[derive(Debug, Default)]
pub struct Windows {
    /// State by index of the entry: its flow, and the counts at the last look.
    seen: Vec<Seen>,
    /// Traffic that wrapping removed from the words of all flows so far.
    wrapped: Traffic,
    /// Traffic of flows that the agent itself forgot, because their interface was gone.
    forgotten: Traffic,
    /// The segments between the places that see a flow.
    segments: Segments,
}

/// An entry at the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    flow: FlowIdentity,
    /// The entry's packed [`Traffic`], by direction.
    words: [u64; 2],
    /// Traffic that wrapping removed from these words, by direction.
    lost: [Traffic; 2],
    /// Smallest round trip by leg, in the entry's units; `u32::MAX`: none.
    minima: [u32; 2],
}

impl Windows {
    /// Continues from the end of the last agent with these maps.
    #[must_use]
    pub fn resume(tables: &dyn Maps) -> Self {
        Self {
            forgotten: tables.carried().unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Takes the minimum of each flow's legs since the last call. `reached` is called with the ends
    /// of each flow, the local one first, that measured a round trip to its remote end since.
    pub fn take(&mut self, tables: &dyn Maps, mut reached: impl FnMut((SocketAddr, SocketAddr))) {
        self.seen.resize(tables.flow_count(), Seen::default());
        for index in 0..tables.flow_count() {
            let Some(entry) = tables.flow(index) else {
                break;
            };
            let fingerprint = entry.fingerprint.load(Ordering::Acquire);
            if fingerprint == 0 {
                continue;
            }
            let words = words(entry);
            let flow = FlowIdentity::of(fingerprint, entry);
            let minima = take_minima(tables, entry);
            let to = (minima[Leg::Remote as usize] != u32::MAX).then(|| ends_of(&entry.cold));
            fence(Ordering::Acquire);
            if entry.fingerprint.load(Ordering::Relaxed) == fingerprint {
                let active = self.carry(index, flow, words);
                let seen = &mut self.seen[index].minima;
                *seen = [seen[0].min(minima[0]), seen[1].min(minima[1])];
                if active {
                    self.segments.see(&entry.cold, minima);
                }
                to.into_iter().for_each(&mut reached);
            }
        }
        self.segments.end_window();
        tables.carry(self.carried());
    }

    /// The segments between the places that see a flow.
    #[must_use]
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Detects that a flow's words wrapped. Returns whether it had packets since the last look.
    fn carry(&mut self, index: usize, flow: FlowIdentity, words: [u64; 2]) -> bool {
        let seen = &mut self.seen[index];
        if seen.flow != flow {
            *seen = Seen {
                flow,
                words,
                lost: [Traffic::default(); 2],
                minima: [u32::MAX; 2],
            };
            return true;
        }
        let active = seen.words != words;
        for (way, word) in words.into_iter().enumerate() {
            let lost = lost(seen.words[way], word);
            seen.lost[way] += lost;
            self.wrapped += lost;
            seen.words[way] = word;
        }
        active
    }

    /// A flow's traffic by direction, from the words in its entry, as if they did not wrap.
    #[must_use]
    pub fn traffic(&self, index: usize, flow: FlowIdentity, words: [u64; 2]) -> [Traffic; 2] {
        let mut traffic = self.beyond_carried(index, flow, words);
        if let Some(seen) = self.seen_as(index, flow) {
            traffic[0] += seen.lost[0];
            traffic[1] += seen.lost[1];
        }
        traffic
    }

    /// A flow's smallest round trip by leg in the windows that have ended. None: not measured.
    #[must_use]
    pub fn minima(&self, index: usize, flow: FlowIdentity) -> [Option<Duration>; 2] {
        self.seen_as(index, flow)
            .map_or([None; 2], |seen| seen.minima.map(duration))
    }

    /// The part of a flow's traffic that [`Self::carried`] does not hold.
    #[must_use]
    pub fn beyond_carried(
        &self,
        index: usize,
        flow: FlowIdentity,
        words: [u64; 2],
    ) -> [Traffic; 2] {
        let seen = self.seen_as(index, flow);
        [0, 1].map(|way: usize| {
            let mut traffic = Traffic::unpack(words[way]);
            if let Some(seen) = seen {
                traffic += lost(seen.words[way], words[way]);
            }
            traffic
        })
    }

    fn seen_as(&self, index: usize, flow: FlowIdentity) -> Option<&Seen> {
        self.seen.get(index).filter(|seen| seen.flow == flow)
    }

    /// Packets and bytes that no entry holds any more and the kernel did not count as evicted.
    #[must_use]
    pub fn carried(&self) -> Traffic {
        let mut carried = self.forgotten;
        carried += self.wrapped;
        carried
    }

    /// Forgets the flows of an interface that is gone: takes their last minima and their counts,
    /// and frees their entries. Returns the number of flows.
    ///
    /// # Errors
    /// The kernel's map of claims cannot be written, or a set stayed claimed.
    pub fn forget(&mut self, tables: &dyn Maps, ifindex: u32) -> std::io::Result<usize> {
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
                take_minima(tables, entry);
                for word in words(entry) {
                    self.forgotten += Traffic::unpack(word);
                }
                entry.fingerprint.store(0, Ordering::Release);
                forgotten += 1;
            }
            tables.release(number)?;
        }
        tables.carry(self.carried());
        failed.map_or(Ok(forgotten), Err)
    }
}

/// Takes both minima and returns them in the entry's units. They are counted where the kernel
/// counts those of evicted flows, which outlives the agent.
fn take_minima(tables: &dyn Maps, entry: &FlowEntry) -> [u32; 2] {
    [0, 1].map(|leg: usize| {
        let window = &entry.slots[leg].window_min;
        // A plain read comes first: most flows are idle, and a swap would take their cache lines.
        if window.load(Ordering::Relaxed) == u32::MAX {
            return u32::MAX;
        }
        let units = window.swap(u32::MAX, Ordering::AcqRel);
        if units != u32::MAX {
            let row = usize::from(row_of(&entry.row));
            let index = place(tables.row_count(), 0, row, leg, MINIMA);
            if let Some(counts) = tables.histogram(index) {
                histogram::observe(counts, u64::from(units) * UNIT_NS);
            }
        }
        units
    })
}

fn belongs(entry: &FlowEntry, ifindex: u32) -> bool {
    entry.fingerprint.load(Ordering::Acquire) != 0 && interface_of(&entry.cold) == ifindex
}

/// Takes the claim of a set, which the kernel holds for a microsecond at most.
pub(super) fn claim(tables: &dyn Maps, set: u32) -> std::io::Result<()> {
    for _ in 0..CLAIM_ATTEMPTS {
        if tables.claim(set)? {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Err(std::io::Error::other(format!(
        "set {set:#x} of the flow table stays locked"
    )))
}

/// The entry's packed [`Traffic`], by direction.
pub(super) fn words(entry: &FlowEntry) -> [u64; 2] {
    [0, 1].map(|way: usize| entry.hot[way].traffic.load(Ordering::Relaxed))
}

/// Traffic that a word lost by wrapping on its way from one value to another.
fn lost(from: u64, to: u64) -> Traffic {
    let (before, after) = (Traffic::unpack(from), Traffic::unpack(to));
    let between = Traffic::unpack(to.wrapping_sub(from));
    let lost = |before: u64, between, after| before.wrapping_add(between).wrapping_sub(after);
    Traffic {
        packets: lost(before.packets, between.packets, after.packets),
        bytes: lost(before.bytes, between.bytes, after.bytes),
    }
}

/// The row in the low 16 bits of [`FlowEntry::row`].
pub(super) fn row_of(word: &AtomicU32) -> u16 {
    let [low, high, ..] = word.load(Ordering::Relaxed).to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Counts, flow::tests::fill},
        *,
    };
    use crate::kernel::maps::{FlowMaps as _, memory::Memory};

    /// Row, leg and number of the minima that were taken.
    fn minima(tables: &Memory) -> Vec<(usize, usize, u64)> {
        let rows = tables.row_count();
        let places = (0..rows).flat_map(|row| [(row, 0), (row, 1)]);
        places
            .filter_map(|(row, leg)| {
                let mut counts = Counts::default();
                counts.add_kernel(tables.histogram(place(rows, 0, row, leg, MINIMA))?);
                (!counts.is_empty()).then(|| (row, leg, counts.count()))
            })
            .collect()
    }

    fn identity(fingerprint: u64, first_seen: u32) -> FlowIdentity {
        FlowIdentity {
            fingerprint,
            first_seen,
        }
    }

    #[test]
    fn a_minimum_is_one_observation() {
        let tables = Memory::new(8, 4, 1);
        fill(&tables.flows[5], 77, 1);
        tables.flows[5].row.store(0x0009_0003, Ordering::Relaxed);
        tables.flows[5].slots[0]
            .window_min
            .store(1000, Ordering::Relaxed);
        let mut windows = Windows::default();
        windows.take(&tables, |_| ());
        windows.take(&tables, |_| ());
        assert_eq!(
            minima(&tables),
            [(3, 0, 1)],
            "the second window had no sample"
        );
        assert_eq!(
            tables.flows[5].slots[0].window_min.load(Ordering::Relaxed),
            u32::MAX
        );
        let of = |born| windows.minima(5, identity(77, born));
        assert_eq!(of(0), [Some(Duration::from_micros(64)), None]);
        assert_eq!(of(1), [None; 2], "another flow with the same ports");
    }

    #[test]
    fn traffic_goes_on_beyond_a_word() {
        let tables = Memory::new(4, 4, 1);
        fill(&tables.flows[0], 77, 1);
        let word = &tables.flows[0].hot[1].traffic;
        let mut windows = Windows::default();
        let mut truth = Traffic::default();
        // Both halves wrap many times, and the bytes wrap into the packets.
        let step = Traffic {
            packets: 60_000_000,
            bytes: 250_000_000_000,
        };
        for _ in 0..50 {
            windows.take(&tables, |_| ());
            word.fetch_add(step.pack(), Ordering::Relaxed);
            truth += step;
            let now = word.load(Ordering::Relaxed);
            assert_eq!(windows.traffic(0, identity(77, 0), [0, now])[1], truth);
        }
        windows.take(&tables, |_| ());
        let now = word.load(Ordering::Relaxed);
        assert_eq!(windows.traffic(0, identity(77, 0), [0, now])[1], truth);
        let mut all = windows.carried();
        all += Traffic::unpack(now);
        assert_eq!(all, truth);
        let other = Traffic::unpack(5);
        assert_eq!(windows.traffic(0, identity(78, 0), [0, 5])[1], other);
        // Another flow in the entry, or the same ports again, has smaller counts without having
        // wrapped.
        let carried = windows.carried();
        tables.flows[0].cold.first_seen.store(9, Ordering::Relaxed);
        word.store(1, Ordering::Relaxed);
        windows.take(&tables, |_| ());
        tables.flows[0].fingerprint.store(79, Ordering::Relaxed);
        word.store(0, Ordering::Relaxed);
        windows.take(&tables, |_| ());
        assert_eq!(windows.carried(), carried);
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
            let traffic = Traffic {
                packets: 10,
                bytes: 1000,
            };
            tables.flows[index].hot[0]
                .traffic
                .store(traffic.pack(), Ordering::Relaxed);
            tables.flows[index].slots[1]
                .window_min
                .store(9, Ordering::Relaxed);
        }
        let mut windows = Windows::default();
        assert_eq!(windows.forget(&tables, 7).expect("forget"), 2);
        let Traffic { packets, bytes } = windows.carried();
        assert_eq!((packets, bytes), (20, 2000));
        let taken: u64 = minima(&tables).iter().map(|(.., count)| count).sum();
        assert_eq!(taken, 2);
        let left: Vec<u64> = tables
            .flows
            .iter()
            .map(|entry| entry.fingerprint.load(Ordering::Relaxed))
            .collect();
        assert_eq!(left, [0, 71, 0, 0, 0, 0, 0, 0]);
    }
}
