//! Statistics of many values: differences and times in nanoseconds.

use serde::Serialize;

/// Mean, deviation and percentiles of values in nanoseconds, which may be
/// differences and so below zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many there were.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub sigma: f64,
    /// The least.
    pub min: f64,
    /// Half were at most this much.
    pub p50: f64,
    /// 90 % were at most this much.
    pub p90: f64,
    /// 99 % were at most this much.
    pub p99: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of these nanoseconds; None if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let count = values.len();
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 values")]
        let number = count as f64;
        let mean = values.iter().sum::<f64>() / number;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / number;
        let rank = |percent| rank(&values, percent);
        Some(Self {
            count,
            mean,
            sigma: variance.sqrt(),
            min,
            p50: rank(50),
            p90: rank(90),
            p99: rank(99),
            max,
        })
    }

    /// Of these nanoseconds; None if there are none.
    #[must_use]
    pub fn of_times(values: impl IntoIterator<Item = u64>) -> Option<Self> {
        Self::of(values.into_iter().map(float))
    }

    /// The percentiles, with their names.
    #[must_use]
    pub fn percentiles(&self) -> [(&'static str, f64); 3] {
        [("p50", self.p50), ("p90", self.p90), ("p99", self.p99)]
    }
}

/// Nanoseconds as a float; exact below 2^53 ns, 104 days.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub fn float(ns: u64) -> f64 {
    ns as f64
}

/// The bucket of Prometheus' native histograms, schema 3, that holds a time:
/// the least k with `time <= 2^(k/8)` seconds.
#[must_use]
pub fn bucket(ns: f64) -> i32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "logarithms of times are small"
    )]
    let index = ((ns.max(1.0) / 1e9).log2() * 8.0).ceil() as i32;
    index
}

/// Minimum, mean and percentiles of durations, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many there were.
    pub count: usize,
    /// The shortest.
    pub min_ns: u64,
    /// Their mean.
    pub mean_ns: f64,
    /// Half were at most this long.
    pub p50_ns: u64,
    /// 90 % were at most this long.
    pub p90_ns: u64,
    /// 99 % were at most this long.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Summary {
    /// Of these nanoseconds; None if there are none.
    #[must_use]
    pub fn of(mut values: Vec<u64>) -> Option<Self> {
        values.sort_unstable();
        let count = values.len();
        let (min_ns, max_ns) = (*values.first()?, *values.last()?);
        #[expect(clippy::cast_precision_loss, reason = "sums stay far below 2^52 ns")]
        let mean_ns = values.iter().sum::<u64>() as f64 / count as f64;
        let rank = |percent| rank(&values, percent);
        let (p50_ns, p90_ns, p99_ns) = (rank(50), rank(90), rank(99));
        Some(Self {
            count,
            min_ns,
            mean_ns,
            p50_ns,
            p90_ns,
            p99_ns,
            max_ns,
        })
    }
}

/// The value of the nearest rank for a percentile. `sorted` must not be empty.
fn rank<T: Copy>(sorted: &[T], percent: usize) -> T {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_what_the_school_teaches() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).expect("not empty");
        assert_eq!((spread.count, spread.min, spread.max), (4, 1.0, 4.0));
        assert_eq!((spread.mean, spread.p50, spread.p99), (2.5, 2.0, 4.0));
        assert!((spread.sigma - 1.118).abs() < 0.001);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn buckets_hold_their_upper_bound() {
        assert_eq!(bucket(1e9), 0);
        assert_eq!(bucket(1e9 + 1.0), 1);
        assert_eq!(bucket(0.5e9), -8);
        assert_eq!(bucket(0.5e9 * 2_f64.powf(0.125) - 1.0), -7);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let summary = Summary::of((1..=200).rev().collect()).expect("not empty");
        assert_eq!(
            (summary.min_ns, summary.p50_ns, summary.p99_ns),
            (1, 100, 198)
        );
        assert_eq!((summary.max_ns, summary.count), (200, 200));
        assert_eq!(Summary::of(Vec::new()), None);
    }
}
