//! Metrics of segments: the round trips between two places that see the same flow.

use std::{fmt, sync::Arc};

use super::{collect::Collect, families::Families};
use crate::passive::{Model, segments::Place};

/// The metrics of segments.
pub(super) struct Segments(pub(super) Arc<Model>);

impl Collect for Segments {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let labels = |from: Place, to: Place| {
            vec![
                ("from", from.as_str().to_owned()),
                ("to", to.as_str().to_owned()),
            ]
        };
        let (times, negative, ambiguous) = self.0.segments(|segments| {
            let times = segments.times();
            let times = times.map(|(from, to, counts)| (labels(from, to), counts.clone()));
            let negative = segments.negative();
            let negative = negative.map(|(from, to, count)| (labels(from, to), count));
            let (times, negative): (Vec<_>, Vec<_>) = (times.collect(), negative.collect());
            (times, negative, segments.ambiguous())
        });
        out.histograms(
            "segment",
            "Round-trip time between two places that see the same flow: the difference of their \
             remote legs' minima, one observation per flow and window (10 s)",
            times,
        )?;
        out.counters(
            "segment_negative",
            "Differences below zero, which are not observed: the two minima are of different \
             packets",
            None,
            negative,
        )?;
        out.counters(
            "segment_ambiguous",
            "Flows in a window that share addresses and ports with another flow at the same kind \
             of vantage",
            None,
            [(vec![], ambiguous)],
        )
    }
}
