//! What many values come to.

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
        let rank = |percent: usize| values[(count * percent).div_ceil(100).max(1) - 1];
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
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(crate) fn float(ns: u64) -> f64 {
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
}
