//! A limit of requests per second.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::api::web_config::RateLimit;

/// A token bucket: it fills by one per interval, up to the burst, and each request takes one.
#[derive(Debug)]
pub(in crate::api) struct Bucket {
    limit: RateLimit,
    /// What is in it, and when that was.
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// A full bucket.
    pub(in crate::api) fn new(limit: RateLimit, now: Instant) -> Self {
        Self {
            limit,
            state: Mutex::new((limit.burst.into(), now)),
        }
    }

    /// Takes one. False: it is empty.
    pub(in crate::api) fn take(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (level, since) = *state;
        let gained = now
            .saturating_duration_since(since)
            .div_duration_f64(self.limit.interval);
        let level = (level + gained).min(self.limit.burst.into());
        let has_one = level >= 1.0;
        *state = (if has_one { level - 1.0 } else { level }, now.max(since));
        has_one
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_one_per_interval() {
        let begin = Instant::now();
        let interval = Duration::from_millis(100);
        let bucket = Bucket::new(RateLimit { interval, burst: 2 }, begin);
        for (after, permitted) in [
            (0, true),
            (0, true),
            (0, false),
            (99, false),
            (100, true),
            (101, false),
            // It never holds more than the burst.
            (10_000, true),
            (10_000, true),
            (10_000, false),
        ] {
            let now = begin + Duration::from_millis(after);
            assert_eq!(bucket.take(now), permitted, "after {after} ms");
        }
    }
}
