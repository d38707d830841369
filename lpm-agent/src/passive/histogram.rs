//! Histograms with the kernel's buckets, in the agent's own memory.

use std::{sync::atomic::Ordering, time::Duration};

use lpm_common::{
    histogram::{self, BUCKETS, SCHEMA, SUM_WORD},
    layout::Histogram,
};

/// Counts by bucket (schema 3 of Prometheus' native histograms) and their sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    buckets: Box<[u64; BUCKETS]>,
    sum_ns: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            buckets: Box::new([0; BUCKETS]),
            sum_ns: 0,
        }
    }
}

impl Counts {
    /// Counts one observation.
    pub fn observe(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[histogram::bucket(ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Adds the counts of one of the kernel's histograms.
    pub fn add_kernel(&mut self, histogram: &Histogram) {
        // Most histograms are empty, and two words show it.
        let [zero, sum] = [0, SUM_WORD].map(|word: usize| &histogram.words[word]);
        if zero.load(Ordering::Relaxed) == 0 && sum.load(Ordering::Relaxed) == 0 {
            return;
        }
        for (to, from) in self.buckets.iter_mut().zip(&histogram.words) {
            *to += from.load(Ordering::Relaxed);
        }
        self.sum_ns = self
            .sum_ns
            .saturating_add(histogram.words[SUM_WORD].load(Ordering::Relaxed));
    }

    /// Adds another histogram.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *to += from;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// What was observed since an earlier state of these counts.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (to, from) in since.buckets.iter_mut().zip(before.buckets.iter()) {
            *to = to.saturating_sub(*from);
        }
        since.sum_ns = since.sum_ns.saturating_sub(before.sum_ns);
        since
    }

    /// Number of observations: the sum of the buckets.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// True if nothing was ever observed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|count| *count == 0)
    }

    /// Sum of all observations, seconds.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_ns).as_secs_f64()
    }

    /// Counts by bucket, the zero bucket first.
    #[must_use]
    pub fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }

    /// Mean of the observations. None: nothing was observed.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        self.sum_ns
            .checked_div(self.count())
            .map(Duration::from_nanos)
    }

    /// The upper bound of the bucket that holds the `q`-th quantile (0 to 1). A bucket is 9 % wide.
    /// None: nothing was observed.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank; beyond 2^53 observations an error of one does not matter"
        )]
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_nanos(histogram::upper_bound_ns(bucket)))
    }
}

/// Counts one observation in a histogram of the kernel, which adds to the same words.
pub(crate) fn observe(histogram: &Histogram, ns: u64) {
    histogram.words[histogram::bucket(ns)].fetch_add(1, Ordering::Relaxed);
    histogram.words[SUM_WORD].fetch_add(ns, Ordering::Relaxed);
}

/// Upper bound of a bucket in seconds, exactly as Prometheus computes it.
#[must_use]
pub fn upper_bound_seconds(bucket: usize) -> f64 {
    let per_octave = f64::from(1_u32 << SCHEMA);
    (f64::from(histogram::schema_index(bucket)) / per_octave).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_observed_has_no_mean() {
        let counts = Counts::default();
        assert!(counts.is_empty());
        assert_eq!(counts.mean(), None);
        assert_eq!(counts.quantile(0.5), None);
    }

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let mut counts = Counts::default();
        for ms in 1..=100 {
            counts.observe(Duration::from_millis(ms));
        }
        assert_eq!(counts.count(), 100);
        assert_eq!(counts.mean(), Some(Duration::from_micros(50_500)));
        let median = counts.quantile(0.5).expect("a median").as_secs_f64();
        assert!((0.050..0.055).contains(&median), "{median}");
        let all = counts.quantile(1.0).expect("a maximum").as_secs_f64();
        assert!((0.100..0.110).contains(&all), "{all}");
    }

    #[test]
    fn bounds_in_seconds() {
        assert!((upper_bound_seconds(184) - 1.0).abs() < f64::EPSILON);
        assert!((upper_bound_seconds(176) - 0.5).abs() < f64::EPSILON);
    }
}
