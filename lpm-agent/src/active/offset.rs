//! The offset between two clocks, and each way's delay, as bounds.
//!
//! One packet there and back bounds the offset (reflector minus sender): neither way takes less than
//! nothing, so the offset lies in [T3 - T4, T2 - T1], an interval as wide as the packet's round
//! trip. Clocks drift apart by no more than an allowance, so each packet's interval holds for other
//! times too if it is widened by the allowance. What all packets allow is the intersection.
//!
//! A clock's own claim to be right never narrows the bounds. It only chooses a best estimate within
//! them.

use super::Stamps;

/// Drift in parts per billion.
const BILLION: i128 = 1_000_000_000;

/// Bounds in nanoseconds, both possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The least that is possible.
    pub lower: i64,
    /// The most that is possible.
    pub upper: i64,
}

impl Bounds {
    /// What both allow. None: they exclude each other.
    #[must_use]
    pub fn meet(self, other: Self) -> Option<Self> {
        let lower = self.lower.max(other.lower);
        let upper = self.upper.min(other.upper);
        (lower <= upper).then_some(Self { lower, upper })
    }

    /// Whether a value is possible.
    #[must_use]
    pub fn contains(self, value: i64) -> bool {
        (self.lower..=self.upper).contains(&value)
    }

    /// The middle: off by at most half of the width.
    #[must_use]
    pub fn middle(self) -> i64 {
        self.lower.midpoint(self.upper)
    }

    fn widened(self, by: i64) -> Self {
        Self {
            lower: self.lower.saturating_sub(by),
            upper: self.upper.saturating_add(by),
        }
    }
}

/// What one packet says of the offset.
#[derive(Clone, Copy, Debug)]
struct Observation {
    /// When, in nanoseconds of the sender's monotonic clock.
    at: i64,
    bounds: Bounds,
}

/// What is known of the offset between a sender's and a reflector's clock.
#[derive(Clone, Debug)]
pub struct ClockOffset {
    /// Most by which the clocks drift apart, in parts per billion: both ends' allowances together.
    drift: u32,
    /// All packets before the latest train, by the two that bound most. Later times widen both by
    /// the same, so no other packet matters.
    before: Option<[Observation; 2]>,
    /// The latest train.
    train: Vec<Observation>,
}

/// Why the window began anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The sender's clock was set.
    SetHere,
    /// The sender's clock left its rate.
    RateHere,
    /// The reflector says that its clock was set, or left its rate.
    There,
    /// The packets exclude each other: a clock was set, or drifts beyond its allowance, and nobody
    /// said so.
    Contradiction,
}

impl ClockOffset {
    /// Nothing is known yet. `drift` is the sum of both ends' allowances in parts per billion.
    #[must_use]
    pub fn new(drift: u32) -> Self {
        Self {
            drift,
            before: None,
            train: Vec::new(),
        }
    }

    /// Forgets all packets: a clock was set, or its rate left the allowance.
    pub fn restart(&mut self) {
        self.before = None;
        self.train.clear();
    }

    /// Sets the drift that is allowed: the sum of both ends', in parts per billion. A window in
    /// which it was more keeps that.
    pub fn allow(&mut self, drift: u32) {
        let is_new = self.before.is_none() && self.train.is_empty();
        self.drift = if is_new { drift } else { self.drift.max(drift) };
    }

    /// Takes a train: packets with the sender's monotonic time at which each was sent, in
    /// nanoseconds, oldest first. Packets whose times are impossible are left out.
    ///
    /// If the packets contradict the earlier ones, only the train counts from now on. If they
    /// contradict each other, nothing is known any more.
    pub fn take(&mut self, train: impl IntoIterator<Item = (i64, Stamps)>) -> Result<(), Restart> {
        self.fold();
        let drift = self.drift;
        self.train = (train.into_iter())
            .filter_map(|(at, stamps)| {
                stamps.round_trip()?;
                let bounds = Bounds {
                    lower: stamps.backward().saturating_neg(),
                    upper: stamps.forward(),
                };
                // The bounds are of the moments T3 and T2, which come after `at`.
                let bounds = bounds.widened(drifted(drift, stamps.whole()));
                Some(Observation { at, bounds })
            })
            .collect();
        let Some(last) = self.train.last().copied() else {
            return Ok(());
        };
        if self.at(last.at).is_some() {
            return Ok(());
        }
        self.before = None;
        if self.at(last.at).is_none() {
            self.train.clear();
        }
        Err(Restart::Contradiction)
    }

    /// Keeps of the latest train the packets that bound most, and of those before.
    fn fold(&mut self) {
        let all = self
            .before
            .into_iter()
            .flatten()
            .chain(self.train.drain(..));
        let all: Vec<Observation> = all.collect();
        // For any later time t the bounds are lower - (t - at) * drift: the packet with the largest
        // lower + at * drift stays the best. The same holds for the upper bounds.
        let drift = i128::from(self.drift);
        let slope = |observation: &Observation| i128::from(observation.at) * drift / BILLION;
        let lower = (all.iter()).max_by_key(|one| i128::from(one.bounds.lower) + slope(one));
        let upper = (all.iter()).min_by_key(|one| i128::from(one.bounds.upper) - slope(one));
        self.before = lower.copied().zip(upper.copied()).map(|(a, b)| [a, b]);
    }

    /// The offset at a time of the sender's monotonic clock, in nanoseconds: reflector minus sender.
    ///
    /// None: no packet has come back, or the packets exclude each other.
    #[must_use]
    pub fn at(&self, at: i64) -> Option<Bounds> {
        let all = self.before.iter().flatten().chain(&self.train);
        all.map(|one| {
            let age = i128::from(at) - i128::from(one.at);
            Some(one.bounds.widened(drifted(self.drift, age)))
        })
        .reduce(|a, b| a?.meet(b?))?
    }

    /// The most by which the clocks can have drifted apart while a packet was on its way, in
    /// nanoseconds.
    #[must_use]
    pub fn drifted(&self, stamps: &Stamps) -> i64 {
        drifted(self.drift, stamps.whole())
    }

    /// Each way's delay of a packet that was sent at a time of the sender's monotonic clock.
    ///
    /// None: the packet's times are impossible, or nothing is known of the offset.
    #[must_use]
    pub fn delays(&self, at: i64, stamps: &Stamps) -> Option<Delays> {
        let drifted = self.drifted(stamps);
        let offset = self.at(at)?.widened(drifted);
        // The round trip is told by two clocks, which run at different rates.
        let possible = Bounds {
            lower: 0,
            upper: stamps.round_trip()?.saturating_add(drifted),
        };
        let forward = Bounds {
            lower: stamps.forward().saturating_sub(offset.upper),
            upper: stamps.forward().saturating_sub(offset.lower),
        };
        let backward = Bounds {
            lower: stamps.backward().saturating_add(offset.lower),
            upper: stamps.backward().saturating_add(offset.upper),
        };
        Some(Delays {
            forward: forward.meet(possible)?,
            backward: backward.meet(possible)?,
        })
    }
}

/// The most that clocks drift apart in `time` nanoseconds. Rounded up: bounds may be too wide, never
/// too narrow.
fn drifted(drift: u32, time: i128) -> i64 {
    let drifted = time.unsigned_abs() * u128::from(drift);
    i64::try_from(drifted.div_ceil(BILLION.unsigned_abs())).unwrap_or(i64::MAX)
}

/// Bounds of each way's delay, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// From the sender to the reflector.
    pub forward: Bounds,
    /// From the reflector to the sender.
    pub backward: Bounds,
}

/// A best estimate of the offset within its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Reflector minus sender, in nanoseconds.
    pub offset: i64,
    /// What the estimate rests on.
    pub basis: Basis,
}

/// What a best estimate rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// On the clocks' claims, which the bounds do not refute.
    Claim,
    /// On nothing: it is the middle of the bounds. There is no claim, or none to believe.
    Unproven,
    /// On nothing: the bounds refute the clocks' claims.
    Refuted,
}

impl Basis {
    /// The word in the output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Unproven => "unproven",
            Self::Refuted => "refuted",
        }
    }
}

/// How far off each end claims its clock to be at most, in nanoseconds. None: it claims nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The sender's claim.
    pub here: Option<i64>,
    /// The reflector's claim.
    pub there: Option<i64>,
}

impl Claims {
    /// How far apart the clocks are at most if both claims hold.
    #[must_use]
    pub fn together(self) -> Option<i64> {
        self.here?.checked_add(self.there?)
    }
}

/// What is known of the offset at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Reflector minus sender, whatever the clocks claim.
    pub bounds: Bounds,
    /// A best estimate within the bounds.
    pub estimate: Estimate,
}

impl Known {
    /// Chooses the best estimate for bounds.
    #[must_use]
    pub fn new(bounds: Bounds, claims: Claims) -> Self {
        let estimate = estimate(bounds, claims.together());
        Self { bounds, estimate }
    }

    /// The best estimate of each way's delay, forward and backward, in nanoseconds: as good as that
    /// of the offset.
    ///
    /// None: the packet's times are impossible.
    #[must_use]
    pub fn ways(&self, stamps: &Stamps) -> Option<[i64; 2]> {
        let round_trip = stamps.round_trip()?;
        let forward = stamps.forward().saturating_sub(self.estimate.offset);
        let forward = forward.clamp(0, round_trip);
        Some([forward, round_trip - forward])
    }
}

/// Chooses a best estimate within the bounds. `claim` is how far off both clocks claim to be at
/// most, together, in nanoseconds. None: one of them claims nothing.
#[must_use]
pub fn estimate(bounds: Bounds, claim: Option<i64>) -> Estimate {
    let unproven = |basis| Estimate {
        offset: bounds.middle(),
        basis,
    };
    let Some(claim) = claim else {
        return unproven(Basis::Unproven);
    };
    let claimed = Bounds {
        lower: claim.saturating_neg(),
        upper: claim,
    };
    match bounds.meet(claimed) {
        Some(both) => Estimate {
            offset: both.middle(),
            basis: Basis::Claim,
        },
        None => unproven(Basis::Refuted),
    }
}

#[cfg(test)]
mod tests;
