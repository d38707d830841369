//! Buckets of Prometheus native histograms, schema 3.
//!
//! Bucket `k` holds what is greater than 2^((k-1)/8) s and at most 2^(k/8) s
//! (upper-inclusive, as Prometheus defines native histograms). The kernel
//! counts in nanoseconds: a bound is `floor(2^(k/8) * 1e9)`, so every whole
//! number of nanoseconds falls into the bucket of its exact value. What the
//! kernel counts is what Prometheus stores.

mod bounds;

use core::hint::black_box;

use bounds::UPPER_NS;

/// 64-bit words of one histogram in memory: [`BUCKETS`] counts, unused words,
/// and the sum of all observations (nanoseconds) in the last word.
pub const WORDS: usize = 256;

/// Word that holds the sum of all observations, nanoseconds.
pub const SUM_WORD: usize = WORDS - 1;

/// Number of buckets, the zero bucket included.
pub const BUCKETS: usize = 250;

/// Prometheus' schema number: 2^3 buckets per power of two.
pub const SCHEMA: i8 = 3;

/// Schema index of the bound of the zero bucket: 2^-23 s, 119 ns.
pub const ZERO_INDEX: i32 = -184;

const LAST: usize = BUCKETS - 1;

/// Lookup table from (power of two, next four bits) to a bucket. The low 8 bits
/// hold the bucket of the cell's smallest value; the bits above hold that
/// bucket's upper bound. A cell is narrower than a bucket, so one comparison
/// decides, and one cache line holds all that it reads.
static CELLS: [u64; CELL_COUNT] = cells();

const CELL_COUNT: usize = 512;
const FIRST_OCTAVE: u32 = 7;

const fn cells() -> [u64; CELL_COUNT] {
    let mut cells = [0; CELL_COUNT];
    let mut cell = 0;
    while cell < CELL_COUNT {
        let low = (16 + cell as u64 % 16) << (FIRST_OCTAVE + cell as u32 / 16 - 4);
        let mut k = 0;
        while k < LAST && low > UPPER_NS[k] {
            k += 1;
        }
        cells[cell] = UPPER_NS[k] << 8 | k as u64;
        cell += 1;
    }
    cells
}

/// The bucket of an observation, 0 (the zero bucket) to [`BUCKETS`] - 1. What
/// is beyond the last bound is counted in the last bucket.
#[inline]
#[must_use]
pub fn bucket(ns: u64) -> usize {
    if ns >> FIRST_OCTAVE == 0 {
        return usize::from(ns > UPPER_NS[0]);
    }
    let octave = ns.ilog2();
    let mantissa = (ns >> (octave - 4)) & 15;
    // Opaque, so that the comparison below stays where the verifier learns
    // the bounds from it: it makes out none of a count of leading zeros.
    let cell = black_box(u64::from(octave - FIRST_OCTAVE) * 16 + mantissa);
    if cell >= CELL_COUNT as u64 {
        return LAST;
    }
    let cell = CELLS[cell as usize & (CELL_COUNT - 1)];
    let bucket = (cell & 0xff) as usize + usize::from(ns > cell >> 8);
    if bucket > LAST { LAST } else { bucket }
}

/// The schema-3 index `k` of a bucket: its upper bound is 2^(k/8) s. The zero
/// bucket's is [`ZERO_INDEX`].
#[must_use]
pub fn schema_index(bucket: usize) -> i32 {
    i32::try_from(bucket).map_or(i32::MAX, |bucket| ZERO_INDEX.saturating_add(bucket))
}

/// Upper bound of a bucket in whole nanoseconds, inclusive.
#[must_use]
pub fn upper_bound_ns(bucket: usize) -> u64 {
    UPPER_NS.get(bucket).copied().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, in floating point: exact enough away from the bounds.
    fn reference(ns: u64) -> i32 {
        #[expect(clippy::cast_precision_loss, reason = "a reference near 2^40")]
        let k = ((ns as f64 / 1e9).log2() * 8.0).ceil();
        #[expect(clippy::cast_possible_truncation, reason = "a small number")]
        let k = k as i32;
        k
    }

    #[test]
    fn bounds_are_inclusive() {
        for bucket in 0..LAST {
            let bound = upper_bound_ns(bucket);
            assert_eq!(super::bucket(bound), bucket, "{bound} ns");
            assert_eq!(super::bucket(bound + 1), bucket + 1, "{} ns", bound + 1);
        }
    }

    #[test]
    fn powers_of_two_seconds_are_where_prometheus_puts_them() {
        assert_eq!(schema_index(bucket(1_000_000_000)), 0);
        assert_eq!(schema_index(bucket(1_000_000_001)), 1);
        assert_eq!(schema_index(bucket(500_000_000)), -8);
        assert_eq!(schema_index(bucket(2_000_000_000)), 8);
    }

    #[test]
    fn extremes_are_counted() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(119), 0);
        assert_eq!(bucket(120), 1);
        assert_eq!(bucket(u64::MAX), LAST);
        assert_eq!(bucket(u64::from(u32::MAX) * 64), LAST);
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(ns in 120_u64..270_000_000_000) {
            let k = reference(ns);
            let ours = schema_index(bucket(ns));
            // The reference is inexact within rounding of a bound.
            prop_assert!(k == ours || reference(ns - 1) == ours || reference(ns + 1) == ours);
        }
    }
}
