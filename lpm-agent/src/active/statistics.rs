//! Figures of a session's packets: pure, packets in and figures out.
//!
//! Delays are in nanoseconds. What no packet shows is None.

use std::collections::{BTreeMap, BTreeSet};

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

    /// Packet delay variation (RFC 5481 section 4.2): each delay less the least one. An offset
    /// between clocks that does not change falls out, so it is exact for one way, too.
    #[must_use]
    pub fn variation(&self) -> Self {
        let least = self.min().unwrap_or_default();
        Self(
            self.0
                .iter()
                .map(|delay| delay.saturating_sub(least))
                .collect(),
        )
    }
}

/// Interarrival jitter (RFC 3550 section 6.4.1, appendix A.8) of transit times in the order of
/// arrival, in nanoseconds: each time's difference to the one before counts a sixteenth.
///
/// Transit times may be off by a clock's offset, which falls out. None: fewer than two packets.
#[must_use]
pub fn jitter(transits: impl IntoIterator<Item = i64>) -> Option<f64> {
    let mut transits = transits.into_iter();
    let mut last = transits.next()?;
    let mut jitter = None;
    for transit in transits {
        let difference = apart(transit, last);
        let before = jitter.unwrap_or_default();
        jitter = Some(before + (difference - before) / 16.0);
        last = transit;
    }
    jitter
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_delays_that_occurred() {
        let delays: Distribution = (1..=10).map(|nth| nth * 100).collect();
        assert_eq!(delays.percentile(50), Some(500));
        assert_eq!(delays.percentile(90), Some(900));
        assert_eq!(delays.percentile(99), Some(1_000));
        assert_eq!(delays.percentile(0), Some(100));
        assert_eq!(delays.mean(), Some(550));
        assert_eq!(delays.variation().max(), Some(900));
        assert_eq!(Distribution::default().mean(), None);
        assert_eq!(Distribution::default().percentile(50), None);
    }

    /// RFC 3550 appendix A.8, worked by hand: differences 16, 16 and 0.
    #[test]
    fn jitter_gains_a_sixteenth_of_each_difference() {
        assert_eq!(jitter([100, 116, 100, 100]), Some(1.816_406_25));
        assert_eq!(jitter([100]), None);
        assert_eq!(jitter([5, 5, 5]), Some(0.0));
    }

    /// RFC 4737 section 7.1, example: 1, 2, 3, 7, 4, 5, 6, 8, 9, 10. Packets 4, 5 and 6 are
    /// reordered with extents 1, 2 and 3.
    #[test]
    fn reordering_is_that_of_rfc_4737() {
        let expected = Reordering {
            received: 10,
            reordered: 3,
            extent: 3,
        };
        assert_eq!(reordering([1, 2, 3, 7, 4, 5, 6, 8, 9, 10]), expected);
        let none = reordering([1, 2, 2, 3, 1, 9]);
        assert_eq!((none.received, none.reordered, none.extent), (4, 0, 0));
    }

    #[test]
    fn a_gap_tells_how_many_of_its_packets_arrived() {
        let answer = |packet, reflected| Answer { packet, reflected };
        let gap = |first, missing, received| Gap {
            first,
            missing,
            received,
        };
        let answers = [
            answer(1, Some(0)),
            answer(4, Some(3)),
            answer(4, Some(4)),
            answer(8, Some(6)),
            answer(10, None),
        ];
        let expected = [
            gap(0, 1, Some(0)),
            gap(2, 2, Some(2)),
            gap(5, 3, Some(1)),
            gap(9, 1, None),
        ];
        assert_eq!(gaps(&answers), expected);
        assert_eq!(
            gaps(&[answer(0, Some(0)), answer(2, Some(9))])[0].received,
            None
        );
    }

    proptest! {
        /// A path that loses and duplicates: each gap tells how many packets arrived.
        #[test]
        fn gaps_are_those_of_the_path(
            fates in proptest::collection::vec(0_u8..5, 1..200),
        ) {
            let (mut count, mut answers) = (0, Vec::new());
            let (mut truth, mut gap) = (Vec::new(), None);
            for (packet, fate) in (0..).zip(&fates) {
                let answer = |count| Answer { packet, reflected: Some(count) };
                if *fate < 2 {
                    let open: &mut Gap = gap.get_or_insert(Gap {
                        first: packet,
                        missing: 0,
                        received: Some(0),
                    });
                    open.missing += 1;
                    // Lost on the way back: the reflector received it.
                    if *fate == 1 {
                        open.received = open.received.map(|received| received + 1);
                        count += 1;
                    }
                    continue;
                }
                truth.extend(gap.take());
                match fate {
                    // Twice on the way there.
                    2 => {
                        answers.extend([answer(count), answer(count + 1)]);
                        count += 2;
                    }
                    // Twice on the way back.
                    3 => {
                        answers.extend([answer(count), answer(count)]);
                        count += 1;
                    }
                    _ => {
                        answers.push(answer(count));
                        count += 1;
                    }
                }
            }
            prop_assert_eq!(gaps(&answers), truth);
        }

        /// An independent reading of RFC 4737 section 3.3 and 4.2.1, packet by packet.
        #[test]
        fn reordering_is_that_of_a_plain_reading(
            numbers in proptest::collection::vec(0_u32..60, 0..60),
        ) {
            let mut once: Vec<u32> = Vec::new();
            for number in numbers.iter().copied() {
                if !once.contains(&number) {
                    once.push(number);
                }
            }
            let mut expected = Reordering { received: once.len() as u64, ..Reordering::default() };
            for (at, number) in once.iter().enumerate() {
                if let Some(first) = once[..at].iter().position(|other| other > number) {
                    expected.reordered += 1;
                    expected.extent = expected.extent.max((at - first) as u64);
                }
            }
            prop_assert_eq!(reordering(numbers), expected);
        }
    }
}
