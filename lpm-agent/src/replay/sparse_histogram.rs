//! Sparse histograms of round trips, because most flows use a few buckets only.

use lpm_common::{
    histogram,
    layout::{Echo, Leg, Method, Rcode, Sample},
};

/// Class of a sample: method, leg, echo and response code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    /// Number of a [`Method`].
    method: u8,
    /// Number of a [`Leg`].
    leg: u8,
    echo: Option<Echo>,
    /// Response code of a DNS answer. None: other methods.
    rcode: Option<Rcode>,
}

impl Class {
    /// Class of a sample.
    #[must_use]
    pub fn of(sample: &Sample) -> Self {
        Self {
            method: sample.method,
            leg: sample.leg,
            echo: sample.echo(),
            rcode: sample.rcode(),
        }
    }

    /// Method: `ts`, `seq`, `handshake`, `icmp` or `dns`.
    #[must_use]
    pub fn method(self) -> &'static str {
        Method::from_raw(self.method).map_or("unknown", Method::as_str)
    }

    /// Leg: `remote` or `local`.
    #[must_use]
    pub fn leg(self) -> &'static str {
        if self.leg == Leg::Remote as u8 {
            Leg::Remote.as_str()
        } else {
            Leg::Local.as_str()
        }
    }

    /// Response code of a DNS answer. None: other methods.
    #[must_use]
    pub fn rcode(self) -> Option<&'static str> {
        self.rcode.map(Rcode::as_str)
    }

    /// Echo class: `prompt`, `lone` or `data`.
    #[must_use]
    pub fn echo(self) -> &'static str {
        self.echo.map_or("unknown", Echo::as_str)
    }
}

/// Round trips of one class. It is never empty: not measured is not zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseHistogram {
    count: u64,
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
    /// Buckets of [`histogram::bucket`] that are not empty, ascending, with their counts.
    buckets: Vec<(u8, u64)>,
}

impl SparseHistogram {
    /// Makes a histogram of a first round trip, nanoseconds.
    #[must_use]
    pub fn new(ns: u64) -> Self {
        Self {
            count: 1,
            sum_ns: u128::from(ns),
            min_ns: ns,
            max_ns: ns,
            buckets: vec![(bucket(ns), 1)],
        }
    }

    /// Counts a round trip, nanoseconds.
    pub fn observe(&mut self, ns: u64) {
        self.count += 1;
        self.sum_ns += u128::from(ns);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
        let bucket = bucket(ns);
        match self
            .buckets
            .binary_search_by_key(&bucket, |(bucket, _)| *bucket)
        {
            Ok(at) => self.buckets[at].1 += 1,
            Err(at) => self.buckets.insert(at, (bucket, 1)),
        }
    }

    /// Number of round trips.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Smallest round trip, nanoseconds.
    #[must_use]
    pub fn min_ns(&self) -> u64 {
        self.min_ns
    }

    /// Largest round trip, nanoseconds.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// Mean round trip, nanoseconds, rounded down.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        u64::try_from(self.sum_ns / u128::from(self.count)).unwrap_or(u64::MAX)
    }

    /// Sum of the round trips, nanoseconds.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        u64::try_from(self.sum_ns).unwrap_or(u64::MAX)
    }

    /// A percentile, nanoseconds: the upper bound of the bucket that holds this many hundredths of
    /// the round trips, or the largest round trip if that is less. A bucket is 9 % wide.
    #[must_use]
    pub fn percentile_ns(&self, hundredths: u64) -> u64 {
        let rank = u128::from(self.count) * u128::from(hundredths);
        let rank = u64::try_from(rank.div_ceil(100)).unwrap_or(u64::MAX).max(1);
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += count;
            if seen >= rank {
                return histogram::upper_bound_ns(usize::from(*bucket)).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// Upper bound (inclusive, nanoseconds) and count of each bucket that is not empty, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let bound = |bucket: u8| histogram::upper_bound_ns(usize::from(bucket));
        self.buckets
            .iter()
            .map(move |(bucket, count)| (bound(*bucket), *count))
    }
}

fn bucket(ns: u64) -> u8 {
    u8::try_from(histogram::bucket(ns)).unwrap_or(u8::MAX)
}

const _: () = assert!(histogram::BUCKETS <= 256);

/// Round trips by class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByClass(Vec<(Class, SparseHistogram)>);

impl ByClass {
    /// Counts a sample.
    pub fn observe(&mut self, sample: &Sample) {
        let class = Class::of(sample);
        match self.0.binary_search_by_key(&class, |(class, _)| *class) {
            Ok(at) => self.0[at].1.observe(sample.rtt_ns),
            Err(at) => self
                .0
                .insert(at, (class, SparseHistogram::new(sample.rtt_ns))),
        }
    }

    /// All classes that have round trips.
    pub fn iter(&self) -> impl Iterator<Item = (Class, &SparseHistogram)> {
        self.0.iter().map(|(class, times)| (*class, times))
    }

    /// Number of round trips of all classes.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, times)| times.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_bounds_of_buckets_and_no_more_than_the_largest() {
        let mut times = SparseHistogram::new(1_000_000);
        for ms in 2..=100 {
            times.observe(ms * 1_000_000);
        }
        assert_eq!(times.count(), 100);
        assert_eq!(times.mean_ns(), 50_500_000);
        assert_eq!((times.min_ns(), times.max_ns()), (1_000_000, 100_000_000));
        let median = times.percentile_ns(50);
        assert!((50_000_000..55_000_000).contains(&median), "{median}");
        assert_eq!(
            times.percentile_ns(100),
            100_000_000,
            "not its bucket's bound"
        );
        assert_eq!(times.buckets().map(|(_, count)| count).sum::<u64>(), 100);
    }
}
