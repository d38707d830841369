//! The figures of a session, made of its reports.

use std::collections::BTreeMap;

use super::{
    offset::{Basis, Bounds, Delays},
    report::{Answered, Report, Sources, TrainEnd, Void},
    statistics::{self, Distribution, Reordering, Transit, Way},
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
    /// Answers over which a clock was set.
    pub clock: u64,
    /// Answers whose times are impossible.
    pub impossible: u64,
    /// How often the window of the offset began anew.
    pub restarts: u64,
    /// Trains at which the bounds of the offset refuted the clocks' claims.
    pub refuted: u64,
    /// What the latest train with an answer tells of the clocks.
    pub clocks: Option<TrainEnd>,
    /// Probes without an answer, and their packets' numbers on the wire.
    lost: Vec<(u32, u32)>,
    /// The numbers of all answers, in the order of their arrival.
    answers: Vec<statistics::Answer>,
    /// Whether the reflector counts by itself.
    counts: bool,
    classes: BTreeMap<Sources, Class>,
}

/// The delays of the packets of one class of stamps, in nanoseconds.
#[derive(Clone, Debug, Default)]
struct Class {
    round_trips: Vec<i64>,
    dwells: Vec<i64>,
    transits: Vec<Transit>,
    delays: Vec<Delays>,
    /// Best estimates of each way's delay.
    best: Vec<[i64; 2]>,
    /// Whether one of them rests on no claim.
    is_unproven: bool,
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
    /// Means of the best estimates of each way's delay, forward and backward.
    pub best: Option<[i64; 2]>,
    /// Whether a best estimate rests on no claim.
    pub is_unproven: bool,
    /// Interarrival jitter of the forward way (RFC 3550 section 6.4.1), in nanoseconds.
    pub jitter: Option<f64>,
    /// Interarrival jitter of the backward way.
    pub jitter_backward: Option<f64>,
    /// Delay variation of the forward way (RFC 5481 section 4.2).
    pub variation: Distribution,
    /// Delay variation of the backward way.
    pub variation_backward: Distribution,
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
            Report::Late { probe, .. } => {
                self.late += 1;
                self.lost.retain(|(lost, _)| lost != probe);
            }
            Report::Duplicate { .. } => self.duplicates += 1,
            Report::Unreachable { .. } => {
                self.sent += 1;
                self.unreachable += 1;
            }
            Report::Numbered { answer, counts } => {
                self.answers.push(*answer);
                self.counts |= counts;
            }
            Report::Restarted(_) => self.restarts += 1,
            Report::Train(end) => {
                let Some(known) = end.offset else { return };
                self.refuted += u64::from(known.estimate.basis == Basis::Refuted);
                self.clocks = Some(*end);
            }
        }
    }

    fn take_answer(&mut self, answered: &Answered) {
        let stamps = match answered.stamps {
            Ok(stamps) => stamps,
            Err(Void::Clock) => {
                self.clock += 1;
                return;
            }
            Err(Void::Impossible) => {
                self.impossible += 1;
                return;
            }
        };
        let class = self.classes.entry(answered.sources).or_default();
        class.round_trips.extend(stamps.round_trip());
        class.dwells.extend(stamps.dwell());
        class.transits.push(Transit::of(answered.window, &stamps));
        class.delays.extend(answered.delays);
        if let Some(known) = answered.offset {
            class.best.extend(known.ways(&stamps));
            class.is_unproven |= known.estimate.basis != Basis::Claim;
        }
    }

    /// The figures of each class of stamps, that of the most packets first.
    #[must_use]
    pub fn figures(&self) -> Vec<Figures> {
        let mut all: Vec<_> = self.classes.iter().collect();
        all.sort_by_key(|(_, class)| std::cmp::Reverse(class.round_trips.len()));
        all.into_iter()
            .map(|(sources, class)| class.figures(*sources))
            .collect()
    }

    /// The numbers of all answers, also to packets that only fetched a time, in the order of their
    /// arrival. A reflector that does not count by itself has none of its own.
    #[must_use]
    pub fn answers(&self) -> Vec<statistics::Answer> {
        let own = |answer: &statistics::Answer| statistics::Answer {
            reflected: answer.reflected.filter(|_| self.counts),
            ..*answer
        };
        self.answers.iter().map(own).collect()
    }

    /// Whether the reflector counts packets by itself: only then losses and reordering are told by
    /// their way.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.counts
    }

    /// Reordering on the way there and on the way back. None: the reflector does not count.
    #[must_use]
    pub fn reordering(&self) -> Option<[Reordering; 2]> {
        let answers = self.answers();
        let ways = [reordered_forward(&answers), reordered_backward(&answers)];
        self.counts.then_some(ways)
    }

    /// Packets that came again on the way there and on the way back, also such that only fetched a
    /// time. None: the reflector does not count.
    #[must_use]
    pub fn duplicated(&self) -> Option<[u64; 2]> {
        self.counts.then(|| statistics::duplicated(&self.answers()))
    }

    /// What was lost on which way, by the numbers of all answers.
    #[must_use]
    pub fn losses(&self) -> Lost {
        let answers = self.answers();
        let mut lost = Lost {
            unknown: self.lost.len() as u64,
            ..Lost::default()
        };
        for gap in statistics::gaps(&answers) {
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

impl Class {
    fn figures(&self, sources: Sources) -> Figures {
        let best = |way: usize| {
            let all: Distribution = self.best.iter().map(|ways| ways[way]).collect();
            all.mean()
        };
        Figures {
            sources,
            round_trips: self.round_trips.iter().copied().collect(),
            dwells: self.dwells.iter().copied().collect(),
            forward: mean(self.delays.iter().map(|delays| delays.forward)),
            backward: mean(self.delays.iter().map(|delays| delays.backward)),
            best: best(0).zip(best(1)).map(|(there, back)| [there, back]),
            is_unproven: self.is_unproven,
            jitter: statistics::jitter(&self.transits, Way::Forward),
            jitter_backward: statistics::jitter(&self.transits, Way::Backward),
            variation: statistics::variation(&self.transits, Way::Forward),
            variation_backward: statistics::variation(&self.transits, Way::Backward),
        }
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
