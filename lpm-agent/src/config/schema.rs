//! Additions to the JSON schema beyond the types: the rules that
//! [`Config::check`](super::Config::check) has, as far as a schema can express them. So an editor
//! and the chart refuse what the agent would.

use std::ops::RangeInclusive;

/// Pattern of a duration: `30s`, `1m 30s`. The agent itself checks how long it may be.
pub(super) const DURATION: &str = concat!(
    "^([0-9]+ ?(ns|nsec|us|usec|ms|msec|s|sec|secs|seconds?|m|min|mins|minutes?|h|hr|hrs|hours?",
    "|d|days?) ?)+$"
);

/// Pattern of a label's name in Kubernetes.
pub(super) const LABEL: &str = concat!(
    "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?",
    "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
);

/// Pattern of a SHA-256 digest in hexadecimal.
pub(super) const SHA256: &str = "^[0-9A-Fa-f]{64}$";

/// The powers of two in this range.
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
