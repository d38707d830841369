//! The figures of a session, made of its reports.

use std::collections::BTreeMap;

use super::{
    offset::{Bounds, Delays},
    report::{Answered, Report, Sources},
    statistics::{self, Distribution, Reordering},
};

/// All reports of a session so far.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Probes sent, or refused by this machine.
    pub sent: u64,
    /// Probes answered in time.
    pub received: u64,
    /// Probes answered too late.
    pub late: u64,
    /// Further answers.
    pub duplicates: u64,
    /// Probes that the network or this machine refused.
    pub unreachable: u64,
    /// Answers over which a clock was set, or whose times are impossible.
    pub void: u64,
    /// Probes without an answer, and their packets' numbers on the wire.
    lost: Vec<(u32, u32)>,
    classes: BTreeMap<Sources, Class>,
}

/// The delays of the packets of one class of stamps, in nanoseconds.
#[derive(Clone, Debug, Default)]
struct Class {
    round_trips: Vec<i64>,
    dwells: Vec<i64>,
    /// T2 - T1 in the order of sending: the forward delay and an offset that falls out.
    forward: Vec<i64>,
    delays: Vec<Delays>,
}

/// The figures of one class of stamps.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Where the times come from.
    pub sources: Sources,
    /// Round trips without the reflector's dwell.
    pub round_trips: Distribution,
    /// The reflector's dwells.
    pub dwells: Distribution,
    /// Bounds of the mean forward delay.
    pub forward: Option<Bounds>,
    /// Bounds of the mean backward delay.
    pub backward: Option<Bounds>,
    /// Interarrival jitter of the forward way (RFC 3550 section 6.4.1), in nanoseconds.
    pub jitter: Option<f64>,
    /// Delay variation of the forward way (RFC 5481 section 4.2).
    pub variation: Distribution,
}

/// What was lost on which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Probes that the reflector did not receive.
    pub forward: u64,
    /// Probes whose answers were lost.
    pub backward: u64,
    /// Probes of which the way cannot be told.
    pub unknown: u64,
}

impl Session {
    /// Takes a report.
    pub fn take(&mut self, report: &Report) {
        match report {
            Report::Answered(answered) => {
                self.sent += 1;
                self.received += 1;
                self.take_answer(answered);
            }
            Report::Lost { probe, sequence } => {
                self.sent += 1;
                self.lost.push((*probe, *sequence));
            }
            Report::Late { probe } => {
                self.late += 1;
                self.lost.retain(|(lost, _)| lost != probe);
            }
            Report::Duplicate { .. } => self.duplicates += 1,
            Report::Unreachable { .. } => {
                self.sent += 1;
                self.unreachable += 1;
            }
        }
    }

    fn take_answer(&mut self, answered: &Answered) {
        let Some(stamps) = answered.stamps else {
            self.void += 1;
            return;
        };
        let class = self.classes.entry(answered.sources).or_default();
        class.round_trips.extend(stamps.round_trip());
        class.dwells.extend(stamps.dwell());
        class.forward.push(stamps.forward());
        class.delays.extend(answered.delays);
    }

    /// The figures of each class of stamps, that of the most packets first.
    #[must_use]
    pub fn figures(&self) -> Vec<Figures> {
        let mut all: Vec<_> = self.classes.iter().collect();
        all.sort_by_key(|(_, class)| std::cmp::Reverse(class.round_trips.len()));
        all.into_iter()
            .map(|(sources, class)| Figures {
                sources: *sources,
                round_trips: class.round_trips.iter().copied().collect(),
                dwells: class.dwells.iter().copied().collect(),
                forward: mean(class.delays.iter().map(|delays| delays.forward)),
                backward: mean(class.delays.iter().map(|delays| delays.backward)),
                jitter: statistics::jitter(class.forward.iter().copied()),
                variation: class
                    .forward
                    .iter()
                    .copied()
                    .collect::<Distribution>()
                    .variation(),
            })
            .collect()
    }

    /// What was lost on which way, by the numbers of all answers
    /// ([`Sender::answers`](super::sender::Sender::answers)).
    #[must_use]
    pub fn losses(&self, answers: &[statistics::Answer]) -> Lost {
        let mut lost = Lost {
            unknown: self.lost.len() as u64,
            ..Lost::default()
        };
        for gap in statistics::gaps(answers) {
            let packets = gap.first..gap.first.saturating_add(gap.missing);
            let probes = self
                .lost
                .iter()
                .filter(|(_, packet)| packets.contains(packet));
            let probes = probes.count() as u64;
            let (missing, received) = (u64::from(gap.missing), gap.received.map(u64::from));
            let (forward, backward) = match received {
                // Other packets than probes are missing, too. Only one way for all tells.
                Some(0) => (probes, 0),
                Some(received) if received == missing => (0, probes),
                Some(received) if probes == missing => (missing - received, received),
                _ => continue,
            };
            lost.forward += forward;
            lost.backward += backward;
            lost.unknown -= probes;
        }
        lost
    }
}

/// Reordering of the packets on their way to the reflector, as far as it counts by itself.
#[must_use]
pub fn reordered_forward(answers: &[statistics::Answer]) -> Reordering {
    let numbers = answers
        .iter()
        .filter_map(|answer| Some((answer.reflected?, answer.packet)));
    let mut numbers: Vec<(u32, u32)> = numbers.collect();
    numbers.sort_unstable();
    statistics::reordering(numbers.into_iter().map(|(_, packet)| packet))
}

/// Reordering of the answers on their way back, as far as the reflector counts by itself.
#[must_use]
pub fn reordered_backward(answers: &[statistics::Answer]) -> Reordering {
    statistics::reordering(answers.iter().filter_map(|answer| answer.reflected))
}

/// The mean of bounds: the means of their ends.
fn mean(all: impl Iterator<Item = Bounds>) -> Option<Bounds> {
    let (lower, upper): (Vec<i64>, Vec<i64>) = all.map(|one| (one.lower, one.upper)).unzip();
    let mean = |ends: Vec<i64>| ends.into_iter().collect::<Distribution>().mean();
    Some(Bounds {
        lower: mean(lower)?,
        upper: mean(upper)?,
    })
}
