//! Metrics of clocks: what this machine's claims, and how far other machines' are off.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    collect::Collect,
    families::Families,
    probes::{bounds, seconds},
};
use crate::active::{
    agent::figures::{Estimated, Figures},
    clock::Claim,
};

/// The metrics of clocks.
pub(super) struct Clocks {
    figures: Arc<Figures>,
    claim: fn() -> Claim,
}

impl Clocks {
    /// Asks this machine's kernel at each scrape.
    pub(super) fn new(figures: Arc<Figures>) -> Self {
        Self {
            figures,
            claim: Claim::ask,
        }
    }

    /// What the kernel claims is this, for the lists of metrics.
    #[cfg(test)]
    pub(super) fn claiming(figures: Arc<Figures>, claim: fn() -> Claim) -> Self {
        Self { figures, claim }
    }
}

impl Collect for Clocks {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let error = (self.claim)().error;
        out.gauges(
            "clock_error_bound_seconds",
            "How far this machine's clock is off at most, as it claims itself (adjtimex: maxerror). \
             Absent: it claims nothing",
            error.map(|error| (Vec::new(), seconds(error))),
        )?;
        let offsets = self.offsets().into_iter().flat_map(|(target, estimated)| {
            bounds(estimated).map(|(bound, value)| {
                let labels = vec![
                    ("target_node", target.to_string()),
                    ("bound", bound.to_owned()),
                ];
                (labels, seconds(value))
            })
        });
        out.gauges(
            "clock_offset_seconds",
            "How far the target's clock is ahead of this machine's, after the last train that was \
             answered. The truth lies between lower and upper whatever the clocks claim; best is an \
             estimate",
            offsets,
        )?;
        let refuted = self.figures.together().refuted;
        out.counters(
            "clock_claims_refuted",
            "Trains whose bounds of the clock offset refute what both clocks claim of themselves",
            None,
            (refuted > 0).then_some((Vec::new(), refuted)),
        )
    }
}

impl Clocks {
    /// The offset of each target's clock: that of the session which knows it best.
    fn offsets(&self) -> BTreeMap<Arc<str>, Estimated> {
        let mut offsets: BTreeMap<Arc<str>, Estimated> = BTreeMap::new();
        let width = |one: &Estimated| one.bounds.upper.saturating_sub(one.bounds.lower);
        for session in self.figures.sessions() {
            let Some(offset) = session.figures().offset else {
                continue;
            };
            let best = offsets.entry(Arc::clone(&session.target)).or_insert(offset);
            if width(&offset) < width(best) {
                *best = offset;
            }
        }
        offsets
    }
}
