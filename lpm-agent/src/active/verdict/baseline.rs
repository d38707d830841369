//! What a link's round trip normally is.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Rounds that are kept: 21 minutes at one train in 5 s.
const ROUNDS: usize = 256;

/// Rounds from which on there is a baseline.
const LEAST: usize = 3;

/// A round trip may exceed the baseline by this, or by half of the baseline if that is more.
pub(super) const ALLOWED: Duration = Duration::from_millis(2);

/// A delay that has lasted this long without a break is the new baseline: the path is another one.
const NEW_NORMAL: Duration = Duration::from_hours(6);

/// The medians of rounds that were not beyond it. The baseline is their median.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    medians: VecDeque<Duration>,
    /// When the delay beyond the baseline began.
    beyond_since: Option<Instant>,
}

impl Baseline {
    /// The median over the rounds. None: there are too few.
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        if self.medians.len() < LEAST {
            return None;
        }
        let mut sorted: Vec<Duration> = self.medians.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    /// The longest round trip that is not beyond the baseline.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        let median = self.median()?;
        Some(median + ALLOWED.max(median / 2))
    }

    /// Number of rounds that it is made of.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.medians.len()
    }

    /// Takes a round's median. One beyond the limit does not count, so a bad period never becomes the
    /// baseline, unless it lasts six hours. `is_fine`: nothing else is wrong with the round. Returns
    /// whether the median is beyond the limit.
    pub fn take(&mut self, median: Duration, is_fine: bool, now: Instant) -> bool {
        if self.limit().is_none_or(|limit| median <= limit) {
            self.beyond_since = None;
            if is_fine {
                if self.medians.len() >= ROUNDS {
                    self.medians.pop_front();
                }
                self.medians.push_back(median);
            }
            return false;
        }
        let since = *self.beyond_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= NEW_NORMAL {
            *self = Self::default();
        }
        true
    }
}
