//! Figures of a session's packets: pure, packets in and figures out.
//!
//! Delays are in nanoseconds. What no packet shows is None.

use std::collections::{BTreeMap, BTreeSet};

use super::Stamps;

/// Delays in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution(Vec<i64>);

impl FromIterator<i64> for Distribution {
    fn from_iter<T: IntoIterator<Item = i64>>(delays: T) -> Self {
        let mut delays: Vec<i64> = delays.into_iter().collect();
        delays.sort_unstable();
        Self(delays)
    }
}

impl Distribution {
    /// How many delays there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The least delay.
    #[must_use]
    pub fn min(&self) -> Option<i64> {
        self.0.first().copied()
    }

    /// The largest delay.
    #[must_use]
    pub fn max(&self) -> Option<i64> {
        self.0.last().copied()
    }

    /// All delays, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        self.0.iter().copied()
    }

    /// How many delays are larger than this one.
    #[must_use]
    pub fn above(&self, limit: i64) -> usize {
        let up_to = self.0.partition_point(|delay| *delay <= limit);
        self.0.len() - up_to
    }

    /// The arithmetic mean, rounded towards zero.
    #[must_use]
    pub fn mean(&self) -> Option<i64> {
        let sum: i128 = self.0.iter().copied().map(i128::from).sum();
        let mean = sum.checked_div(i128::try_from(self.0.len()).ok()?)?;
        i64::try_from(mean).ok()
    }

    /// The percentile by nearest rank: the least delay that so many hundredths of the delays do not
    /// exceed (RFC 2330 section 11.3).
    #[must_use]
    pub fn percentile(&self, hundredths: u8) -> Option<i64> {
        let rank = (self.0.len() * usize::from(hundredths)).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied()
    }
}

/// A packet's transit times, in nanoseconds: the delay of each way and the offset between the
/// clocks, which falls out of differences within a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transit {
    /// The number of the window in which the offset did not jump.
    pub window: u32,
    /// T2 - T1 and T4 - T3.
    delay: [i64; 2],
    /// T2 and T4.
    arrived: [i64; 2],
}

/// A way between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the sender to the reflector.
    Forward,
    /// From the reflector to the sender.
    Backward,
}

impl Transit {
    /// Takes the four times of a packet.
    #[must_use]
    pub fn of(window: u32, stamps: &Stamps) -> Self {
        Self {
            window,
            delay: [stamps.forward(), stamps.backward()],
            arrived: [stamps.reflector_received, stamps.received],
        }
    }
}

/// Packet delay variation of one way (RFC 5481 section 4.2): each delay less the least one of its
/// window. An offset between the clocks falls out. Clocks that drift apart show as variation, by
/// their drift over the window.
#[must_use]
pub fn variation(transits: &[Transit], way: Way) -> Distribution {
    let mut least: BTreeMap<u32, i64> = BTreeMap::new();
    for one in transits {
        let transit = one.delay[way as usize];
        let least = least.entry(one.window).or_insert(transit);
        *least = transit.min(*least);
    }
    let above = |one: &Transit| {
        let least = least.get(&one.window).copied().unwrap_or_default();
        one.delay[way as usize].saturating_sub(least)
    };
    transits.iter().map(above).collect()
}

/// Interarrival jitter of one way (RFC 3550 section 6.4.1, appendix A.8), in nanoseconds: in the
/// order of arrival, each transit time's difference to the one before counts a sixteenth.
///
/// An offset between the clocks falls out; packets of two windows have no difference. None: fewer
/// than two packets of one window.
#[must_use]
pub fn jitter(transits: &[Transit], way: Way) -> Option<f64> {
    let way = way as usize;
    let mut order: Vec<&Transit> = transits.iter().collect();
    order.sort_by_key(|one| (one.window, one.arrived[way]));
    let pairs = order.windows(2).filter_map(|pair| match pair {
        [a, b] if a.window == b.window => Some(apart(a.delay[way], b.delay[way])),
        _ => None,
    });
    pairs.fold(None, |jitter, difference| {
        let before: f64 = jitter.unwrap_or_default();
        Some(before + (difference - before) / 16.0)
    })
}

#[allow(
    clippy::cast_precision_loss,
    reason = "differences of transit times are far below 2^53 ns"
)]
fn apart(a: i64, b: i64) -> f64 {
    a.abs_diff(b) as f64
}

/// An answer to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The sender's sequence number of the packet.
    pub packet: u32,
    /// The reflector's sequence number of the answer, if it keeps state for the session: it counts
    /// the packets that the reflector received.
    pub reflected: Option<u32>,
}

/// Packets in a row that have no answer, between two that have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first packet without an answer.
    pub first: u32,
    /// How many there are.
    pub missing: u32,
    /// How many of them the reflector received. None: it cannot be told.
    pub received: Option<u32>,
}

/// Tells the gaps between answered packets, and how many packets of each the reflector received by
/// its own count. Answers in any order. Packets behind the last answered one are in no gap.
#[must_use]
pub fn gaps(answers: &[Answer]) -> Vec<Gap> {
    // Per packet the lowest and the highest count of its answers.
    let mut counts: BTreeMap<u32, Option<(u32, u32)>> = BTreeMap::new();
    for answer in answers {
        let of_packet = counts.entry(answer.packet).or_default();
        if let Some(count) = answer.reflected {
            let (low, high) = of_packet.unwrap_or((count, count));
            *of_packet = Some((low.min(count), high.max(count)));
        }
    }
    let mut gaps = Vec::new();
    // Before the first packet the reflector had received none.
    let (mut next, mut count) = (0, Some(0));
    for (packet, of_packet) in counts {
        let missing = packet.saturating_sub(next);
        if missing > 0 {
            let received = count.zip(of_packet).and_then(|(before, (low, _))| {
                // More than are missing: a packet overtook another, or was duplicated.
                low.checked_sub(before)
                    .filter(|received| *received <= missing)
            });
            gaps.push(Gap {
                first: next,
                missing,
                received,
            });
        }
        next = packet.saturating_add(1);
        count = of_packet.map(|(_, high)| high.saturating_add(1));
    }
    gaps
}

/// Tells the further copies of packets on the way there and on the way back. A copy that reached the
/// reflector has an answer with a number of its own; a copy of an answer has its number.
#[must_use]
pub fn duplicated(answers: &[Answer]) -> [u64; 2] {
    let (mut packets, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut copies = [0, 0];
    for answer in answers {
        let Some(reflected) = answer.reflected else {
            continue;
        };
        if !numbers.insert(reflected) {
            copies[1] += 1;
        } else if !packets.insert(answer.packet) {
            copies[0] += 1;
        }
    }
    copies
}

/// Reordering of a stream of sequence numbers (RFC 4737).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reordering {
    /// Packets that arrived, each counted once.
    pub received: u64,
    /// Packets of which a later one arrived before them (section 3.3).
    pub reordered: u64,
    /// The largest extent of a reordered packet: how many arrivals lie between it and the first
    /// later one (section 4.2.1).
    pub extent: u64,
}

impl Reordering {
    /// The share of reordered packets, from 0 to 1 (section 4.1.1). None: no packet arrived.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    pub fn ratio(&self) -> Option<f64> {
        (self.received > 0).then(|| self.reordered as f64 / self.received as f64)
    }
}

/// Tells the reordering of sequence numbers in the order of arrival. Further copies of a packet do
/// not count (RFC 4737 section 3.3).
#[must_use]
pub fn reordering(arrivals: impl IntoIterator<Item = u32>) -> Reordering {
    let mut reordering = Reordering::default();
    let mut seen = BTreeSet::new();
    // Sequence numbers that were higher than all before them, with their places. Both ascend.
    let mut records: Vec<(u32, u64)> = Vec::new();
    for number in arrivals {
        if !seen.insert(number) {
            continue;
        }
        let place = reordering.received;
        reordering.received += 1;
        let earlier = records.partition_point(|(record, _)| *record < number);
        if let Some((_, first)) = records.get(earlier) {
            reordering.reordered += 1;
            reordering.extent = reordering.extent.max(place - first);
        } else {
            records.push((number, place));
        }
    }
    reordering
}

#[cfg(test)]
mod tests;
