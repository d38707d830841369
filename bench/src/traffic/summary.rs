//! What many durations come to.

use serde::Serialize;

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
        let rank = |percent: usize| values[(count * percent).div_ceil(100).max(1) - 1];
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

#[cfg(test)]
mod tests {
    use super::*;

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
