//! What the JSON schema says beyond the types: the rules that [`Config::check`](super::Config::check)
//! has, as far as a schema can, so that an editor and the chart refuse what the agent would.

use std::ops::RangeInclusive;

/// What a duration looks like: `30s`, `1m 30s`. How long it may be is the agent's to say.
pub(super) const DURATION: &str = concat!(
    "^([0-9]+ ?(ns|nsec|us|usec|ms|msec|s|sec|secs|seconds?|m|min|mins|minutes?|h|hr|hrs|hours?",
    "|d|days?) ?)+$"
);

/// What Kubernetes calls the labels of its objects.
pub(super) const LABEL: &str = concat!(
    "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?",
    "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
);

/// The powers of two among these.
pub(super) fn powers_of_two(range: RangeInclusive<u32>) -> Vec<u32> {
    (0..u32::BITS)
        .map(|exponent| 1 << exponent)
        .filter(|power| range.contains(power))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_within_the_range() {
        assert_eq!(powers_of_two(64..=256), [64, 128, 256]);
        assert_eq!(powers_of_two(1..=3), [1, 2]);
    }
}
