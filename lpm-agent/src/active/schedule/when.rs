//! When the trains of a session begin.
//!
//! All is drawn from a seed, so agents that start together do not send together, and a session's
//! times can be computed again.

use std::time::{Duration, Instant};

use fastrand::Rng;

/// A Poisson gap is at most so many times its mean. One gap of 22,000 would be longer.
const LONGEST: f64 = 10.0;

/// A train that is so late begins a new rhythm.
const LATE: Duration = Duration::from_secs(1);

/// The rhythm of a session's trains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rhythm {
    /// A train at each interval, from the first one on.
    Even,
    /// A train at each interval, which varies by this share of itself both ways: 0.2 is from 0.8 to
    /// 1.2 intervals, all equally likely. The second train lies anywhere in the first interval.
    Periodic {
        /// From 0 to 1.
        spread: f64,
        /// Where the numbers begin.
        seed: u64,
    },
    /// Exponential gaps whose mean is the interval (RFC 2330 section 11.1.1), each longer than a
    /// train and at most ten intervals.
    Poisson {
        /// Where the numbers begin.
        seed: u64,
    },
}

/// The gaps from the beginning of a train to that of the next one.
#[derive(Clone, Debug)]
pub struct Gaps {
    rhythm: Rhythm,
    random: Rng,
    is_first: bool,
}

impl Gaps {
    /// The gaps of a rhythm.
    #[must_use]
    pub fn new(rhythm: Rhythm) -> Self {
        let seed = match rhythm {
            Rhythm::Even => 0,
            Rhythm::Periodic { seed, .. } | Rhythm::Poisson { seed } => seed,
        };
        Self {
            rhythm,
            random: Rng::with_seed(seed),
            is_first: true,
        }
    }

    /// The next gap, around an interval. None is shorter than `least`, the length of a train.
    pub fn next(&mut self, interval: Duration, least: Duration) -> Duration {
        let is_first = std::mem::replace(&mut self.is_first, false);
        let free = interval.saturating_sub(least);
        match self.rhythm {
            Rhythm::Even => interval.max(least),
            // Sessions that begin together are apart from their second train on.
            Rhythm::Periodic { .. } if is_first => least + free.mul_f64(self.random.f64()),
            Rhythm::Periodic { spread, .. } => {
                let share = spread.mul_add(2.0 * self.random.f64() - 1.0, 1.0);
                interval.mul_f64(share.max(0.0)).max(least)
            }
            Rhythm::Poisson { .. } => {
                // From above 0 to 1, so the logarithm is finite.
                let exponential = -(1.0 - self.random.f64()).ln();
                least + free.mul_f64(exponential.min(LONGEST))
            }
        }
    }
}

/// When a train begins that was due at `due`: then, even if it is a little late, so that the rhythm
/// stays. After a pause it begins now, and what was missed is not sent. `gap` is the time from the
/// train before.
#[must_use]
pub fn begin(due: Instant, now: Instant, gap: Duration) -> Instant {
    let late = now.saturating_duration_since(due);
    if late < LATE.min(gap) { due } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);
    const LEAST: Duration = Duration::from_millis(20);
    const MANY: u32 = 100_000;

    /// Many gaps in intervals, without the first one.
    fn gaps(rhythm: Rhythm) -> Vec<f64> {
        let mut gaps = Gaps::new(rhythm);
        gaps.next(INTERVAL, LEAST);
        let mut next = || gaps.next(INTERVAL, LEAST).as_secs_f64() / INTERVAL.as_secs_f64();
        (0..MANY).map(|_| next()).collect()
    }

    fn mean(of: &[f64]) -> f64 {
        of.iter().sum::<f64>() / f64::from(MANY)
    }

    /// The share of gaps that are above a limit.
    fn above(of: &[f64], limit: f64) -> f64 {
        let count = of.iter().filter(|gap| **gap > limit).count();
        f64::from(u32::try_from(count).expect("few")) / f64::from(MANY)
    }

    #[test]
    fn periodic_gaps_are_uniform_around_the_interval() {
        let gaps = gaps(Rhythm::Periodic {
            spread: 0.2,
            seed: 7,
        });
        assert!(gaps.iter().all(|gap| (0.8..=1.2).contains(gap)));
        assert!((mean(&gaps) - 1.0).abs() < 0.002, "{}", mean(&gaps));
        for (limit, share) in [(0.9, 0.75), (1.0, 0.5), (1.1, 0.25)] {
            let is = above(&gaps, limit);
            assert!((is - share).abs() < 0.01, "{is} above {limit}");
        }
        let even = self::gaps(Rhythm::Periodic {
            spread: 0.0,
            seed: 7,
        });
        assert!(even.iter().all(|gap| (gap - 1.0).abs() < 1e-9));
        let widest = self::gaps(Rhythm::Periodic {
            spread: 1.0,
            seed: 7,
        });
        let least = LEAST.as_secs_f64() / INTERVAL.as_secs_f64();
        assert!(widest.iter().all(|gap| (least..=2.0).contains(gap)));
    }

    /// Mean, distribution and lack of memory (RFC 2330 section 11.1.1), up to the bound.
    #[test]
    fn poisson_gaps_are_exponential() {
        let gaps = gaps(Rhythm::Poisson { seed: 7 });
        let least = LEAST.as_secs_f64() / INTERVAL.as_secs_f64();
        assert!(gaps.iter().all(|gap| (least..=LONGEST).contains(gap)));
        assert!((mean(&gaps) - 1.0).abs() < 0.01, "{}", mean(&gaps));
        for limit in [0.1, 0.5, 1.0, 2.0, 4.0_f64] {
            let (is, wanted) = (
                above(&gaps, limit),
                (-(limit - least) / (1.0 - least)).exp(),
            );
            assert!(
                (is - wanted).abs() < 0.01,
                "{is} above {limit}, not {wanted}"
            );
        }
        let pairs = gaps
            .windows(2)
            .map(|pair| (pair[0] - 1.0) * (pair[1] - 1.0));
        let covariance = pairs.sum::<f64>() / f64::from(MANY);
        assert!(covariance.abs() < 0.02, "{covariance}");
    }

    /// A thousand sessions that begin together have their second trains all over the interval.
    #[test]
    fn sessions_that_begin_together_part() {
        let mut tenths = [0_u32; 10];
        for seed in 0..1000 {
            let seed = crate::active::schedule::rendezvous::mix(seed);
            let gap = Gaps::new(Rhythm::Periodic { spread: 0.2, seed }).next(INTERVAL, LEAST);
            let tenth = (gap.as_nanos() * 10 / INTERVAL.as_nanos()).min(9);
            tenths[usize::try_from(tenth).expect("a digit")] += 1;
        }
        assert!(
            tenths.iter().all(|count| (60..160).contains(count)),
            "{tenths:?}"
        );
        let mut even = Gaps::new(Rhythm::Even);
        assert_eq!([INTERVAL; 3], [(); 3].map(|()| even.next(INTERVAL, LEAST)));
    }

    #[test]
    fn the_same_seed_has_the_same_gaps() {
        let of = |seed| gaps(Rhythm::Poisson { seed });
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
    }

    /// A machine that slept sends no train for what it missed.
    #[test]
    fn no_burst_follows_a_pause() {
        let due = Instant::now();
        for gap in [
            Duration::from_millis(100),
            INTERVAL,
            Duration::from_hours(1),
        ] {
            let (mut next, mut now, mut sent) = (due, due + Duration::from_hours(2), 0);
            let end = now + 3 * gap;
            while next <= end {
                now = now.max(next);
                next = begin(next, now, gap) + gap;
                sent += 1;
            }
            assert!(sent <= 4, "{sent} trains in three gaps of {gap:?}");
        }
        let late = due + Duration::from_millis(2);
        assert_eq!(begin(due, late, INTERVAL), due, "the rhythm stays");
    }
}
