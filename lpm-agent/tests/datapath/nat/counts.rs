//! Samples and histograms of one moment.

use std::collections::BTreeMap;

use super::Site;
use crate::support::paths::counted;

/// Observations by namespaces.
pub(super) type Counts = BTreeMap<(&'static str, &'static str), u64>;

/// What has been counted between two moments, by namespaces.
pub(super) fn grown(after: Counts, before: &Counts) -> Vec<(&'static str, &'static str, u64)> {
    let grown = after.into_iter().map(|((one, other), now)| {
        let before = before.get(&(one, other)).copied().unwrap_or(0);
        (one, other, now - before)
    });
    grown.filter(|(.., count)| *count > 0).collect()
}

impl Site {
    /// The number of samples that came down the stream, and the histograms at that very moment. The
    /// last acknowledgment of a conversation may be counted while either is read.
    pub(super) fn settled(&self) -> (usize, Counts) {
        loop {
            self.monitor.settle().expect("all samples");
            let samples = self.monitor.samples().len();
            let counts = self.counted();
            self.monitor.settle().expect("all samples");
            if self.monitor.samples().len() == samples {
                return (samples, counts);
            }
        }
    }

    /// Observations in the histograms of all namespaces.
    fn counted(&self) -> Counts {
        let namespaces = ["alpha", "beta", "gamma", "outside", "services", "host", ""];
        let mut all = BTreeMap::new();
        for one in namespaces {
            for other in namespaces {
                let count = counted(&self.monitor, one, other);
                if count > 0 {
                    all.insert((one, other), count);
                }
            }
        }
        all
    }
}
