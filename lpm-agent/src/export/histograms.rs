//! Histograms in the form that Prometheus stores: sparse native buckets, and at most 26 classic
//! ones on the same bounds.

use std::fmt;

use lpm_common::histogram::{BUCKETS, SCHEMA, ZERO_INDEX, schema_index};
use prometheus_client::encoding::{
    EncodeLabelSet, MetricEncoder, NativeHistogram, NativeHistogramBuckets, NoLabelSet,
};

use crate::passive::{Counts, histogram::upper_bound_seconds};

/// Schema indices of the classic buckets' bounds (2^(k/8) s): whole powers of two from 15 us to
/// 8 s, and from 122 us to 3.9 ms, where the round trips inside a cluster are, half ones too. With
/// `+Inf` that is 26 buckets.
const CLASSIC: [i32; 25] = [
    -128, -120, -112, -104, -100, -96, -92, -88, -84, -80, -76, -72, -68, -64, -56, -48, -40, -32,
    -24, -16, -8, 0, 8, 16, 24,
];

/// Schema indices of the classic buckets' bounds where few must do: whole powers of two from 15 us to
/// 0.5 s. With `+Inf` that is 17 buckets.
const COARSE: [i32; 16] = [
    -128, -120, -112, -104, -96, -88, -80, -72, -64, -56, -48, -40, -32, -24, -16, -8,
];

/// A run of at most this many empty buckets is written out: a new span costs as much.
const WIDEST_GAP: usize = 2;

/// Sparse buckets as Prometheus encodes them: spans (distance to the one before, length) and
/// differences of counts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sparse {
    spans: Vec<(i32, u32)>,
    deltas: Vec<i64>,
}

impl Sparse {
    /// Makes sparse buckets of all buckets except the zero bucket.
    fn of(buckets: &[u64; BUCKETS]) -> Self {
        let mut sparse = Self::default();
        let mut last_count = 0;
        // The index after the last bucket written. The first span counts from index 0.
        let mut next = 0;
        for (bucket, count) in buckets.iter().enumerate().skip(1) {
            if *count == 0 {
                continue;
            }
            let index = schema_index(bucket);
            let gap = index - next;
            match sparse.spans.last_mut() {
                Some((_, length)) if usize::try_from(gap).is_ok_and(|gap| gap <= WIDEST_GAP) => {
                    for _ in 0..gap {
                        sparse.deltas.push(-last_count);
                        last_count = 0;
                        *length += 1;
                    }
                    *length += 1;
                }
                _ => sparse.spans.push((gap, 1)),
            }
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            sparse.deltas.push(count - last_count);
            last_count = count;
            next = index + 1;
        }
        sparse
    }
}

/// Upper bounds in seconds and counts (not cumulative) of the classic buckets.
fn classic(buckets: &[u64; BUCKETS], bounds: &[i32]) -> Vec<(f64, u64)> {
    let mut classic = Vec::with_capacity(bounds.len() + 1);
    let mut from = 0;
    for index in bounds {
        let last = usize::try_from(index - ZERO_INDEX).unwrap_or(0);
        classic.push((upper_bound_seconds(last), buckets[from..=last].iter().sum()));
        from = last + 1;
    }
    classic.push((f64::INFINITY, buckets[from..].iter().sum()));
    classic
}

/// Encodes one histogram with its labels.
pub(super) fn encode(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    counts: &Counts,
    is_coarse: bool,
) -> fmt::Result {
    let bounds: &[i32] = if is_coarse { &COARSE } else { &CLASSIC };
    let buckets = counts.buckets();
    let sparse = Sparse::of(buckets);
    let native = NativeHistogram {
        schema: i32::from(SCHEMA),
        zero_threshold: upper_bound_seconds(0),
        zero_count: buckets[0],
        negative: NativeHistogramBuckets {
            spans: &[],
            deltas: &[],
        },
        positive: NativeHistogramBuckets {
            spans: &sparse.spans,
            deltas: &sparse.deltas,
        },
        created: None,
    };
    family
        .encode_family(labels)?
        .encode_histogram_with_native::<NoLabelSet>(
            counts.sum_seconds(),
            counts.count(),
            &classic(buckets, bounds),
            None,
            native,
        )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lpm_common::histogram::bucket;

    use super::*;
    use crate::export::number;

    /// Reads sparse buckets back, as Prometheus does.
    fn dense(sparse: &Sparse) -> Vec<(i32, i64)> {
        let (mut index, mut count) = (0, 0);
        let mut deltas = sparse.deltas.iter();
        let mut all = Vec::new();
        for (offset, length) in &sparse.spans {
            index += offset;
            for _ in 0..*length {
                count += deltas.next().expect("a delta per bucket");
                all.push((index, count));
                index += 1;
            }
        }
        assert_eq!(deltas.next(), None);
        all
    }

    #[test]
    fn sparse_buckets_are_the_buckets() {
        let mut counts = Counts::default();
        for ns in [
            50,
            130,
            20_000,
            20_000,
            22_000,
            24_000,
            1_000_000_000,
            2_000_000_000,
        ] {
            counts.observe(Duration::from_nanos(ns));
        }
        let sparse = Sparse::of(counts.buckets());
        let read: Vec<_> = dense(&sparse)
            .into_iter()
            .filter(|(_, count)| *count != 0)
            .collect();
        let wanted: Vec<_> = counts
            .buckets()
            .iter()
            .enumerate()
            .skip(1)
            .filter(|(_, count)| **count != 0)
            .map(|(bucket, count)| (schema_index(bucket), i64::try_from(*count).expect("small")))
            .collect();
        assert_eq!(read, wanted);
        assert!(
            read.contains(&(0, 1)) && read.contains(&(8, 1)),
            "1 s and 2 s are bounds"
        );
        assert_eq!(counts.buckets()[0], 1, "50 ns is in the zero bucket");
        assert_eq!(Sparse::of(Counts::default().buckets()), Sparse::default());
    }

    /// The labels that Prometheus makes of the bounds when it reads them as protobuf, as printed by
    /// Go 1.26.
    const LABELS: [&str; 26] = [
        "1.52587890625e-05",
        "3.0517578125e-05",
        "6.103515625e-05",
        "0.0001220703125",
        "0.00017263349150062197",
        "0.000244140625",
        "0.00034526698300124393",
        "0.00048828125",
        "0.0006905339660024879",
        "0.0009765625",
        "0.0013810679320049757",
        "0.001953125",
        "0.0027621358640099515",
        "0.00390625",
        "0.0078125",
        "0.015625",
        "0.03125",
        "0.0625",
        "0.125",
        "0.25",
        "0.5",
        "1.0",
        "2.0",
        "4.0",
        "8.0",
        "+Inf",
    ];

    #[test]
    fn bounds_are_the_labels_of_prometheus() {
        let bounds = classic(Counts::default().buckets(), &CLASSIC);
        let written: Vec<String> = bounds
            .iter()
            .map(|(bound, _)| number::bound(*bound))
            .collect();
        assert_eq!(written, LABELS);
    }

    #[test]
    fn classic_buckets_hold_all() {
        let mut counts = Counts::default();
        for ns in [1, 15_258, 15_259, 1_000_000, 8_000_000_000, 8_000_000_001] {
            counts.observe(Duration::from_nanos(ns));
        }
        assert_eq!(classic(counts.buckets(), &COARSE).len(), COARSE.len() + 1);
        let coarse = classic(counts.buckets(), &COARSE).into_iter();
        assert_eq!(coarse.map(|(_, count)| count).sum::<u64>(), counts.count());
        let classic = classic(counts.buckets(), &CLASSIC);
        assert_eq!(classic.len(), 26);
        assert_eq!(
            classic.iter().map(|(_, count)| count).sum::<u64>(),
            counts.count()
        );
        assert_eq!(classic[0].1, 2, "a bound belongs to its bucket");
        assert_eq!(classic[24], (8.0, 1));
        assert_eq!(classic[25], (f64::INFINITY, 1));
        assert!(classic.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(
            bucket(15_258),
            usize::try_from(CLASSIC[0] - ZERO_INDEX).expect("positive")
        );
    }
}
