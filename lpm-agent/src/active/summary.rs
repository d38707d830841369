//! The figures of a session, made of its reports.

use std::collections::BTreeMap;

use super::{
    offset::{Bounds, Delays},
    sender::{Answered, Report, Sources},
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
    lost: Vec<u32>,
    answers: Vec<Numbers>,
    classes: BTreeMap<Sources, Class>,
}

/// The numbers of an answered packet, in the order of the reports.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    probe: u32,
    sequence: u32,
    reflected: u32,
    is_stateful: bool,
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
            Report::Lost { probe } => {
                self.sent += 1;
                self.lost.push(*probe);
            }
            Report::Late { probe } => {
                self.late += 1;
                self.lost.retain(|lost| lost != probe);
            }
            Report::Duplicate { .. } => self.duplicates += 1,
            Report::Unreachable { .. } => {
                self.sent += 1;
                self.unreachable += 1;
            }
        }
    }

    fn take_answer(&mut self, answered: &Answered) {
        self.answers.push(Numbers {
            probe: answered.probe,
            sequence: answered.sequence,
            reflected: answered.reflected,
            is_stateful: answered.is_stateful,
        });
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

    /// Whether the reflector counts packets by itself: it says so, or a number differs from the
    /// packet's.
    #[must_use]
    pub fn counts(&self) -> bool {
        (self.answers.iter())
            .any(|answer| answer.is_stateful || answer.sequence != answer.reflected)
    }

    /// What was lost on which way, of the probes that were reported.
    ///
    /// Between two answered probes the reflector's numbers say how many packets it received. A packet
    /// that only fetched a time counts among them, so a probe is told wrong where the fetching packet
    /// before it was lost, too.
    #[must_use]
    pub fn losses(&self) -> Lost {
        let mut lost = Lost::default();
        if !self.counts() {
            lost.unknown = self.lost.len() as u64;
            return lost;
        }
        let mut answers = self.answers.clone();
        answers.sort_by_key(|answer| answer.probe);
        for probe in &self.lost {
            let at = answers.partition_point(|answer| answer.probe < *probe);
            let before = at.checked_sub(1).and_then(|at| answers.get(at));
            match (before, answers.get(at)) {
                (Some(before), Some(after)) => {
                    // Packets on the wire between the two, and how many of them arrived there.
                    let missing = after.sequence.wrapping_sub(before.sequence).wrapping_sub(1);
                    let arrived = after
                        .reflected
                        .wrapping_sub(before.reflected)
                        .wrapping_sub(1);
                    // Those between that were answered all the same only fetched a time.
                    let probes = after.probe - before.probe - 1;
                    let fetches = missing.saturating_sub(probes);
                    if arrived <= fetches {
                        lost.forward += 1;
                    } else if arrived == missing {
                        lost.backward += 1;
                    } else {
                        lost.unknown += 1;
                    }
                }
                _ => lost.unknown += 1,
            }
        }
        lost
    }

    /// Reordering of the packets on their way to the reflector, as far as it counts by itself.
    #[must_use]
    pub fn reordered_forward(&self) -> Reordering {
        let mut answers = self.answers.clone();
        answers.sort_by_key(|answer| answer.reflected);
        statistics::reordering(answers.iter().map(|answer| answer.sequence))
    }
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
