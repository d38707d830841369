//! Metrics of round trips by workload, service and pod, where these levels are switched on.

use std::fmt;

use super::{
    families::{Families, LabelSet},
    metrics::label_set,
};
use crate::passive::{
    Counts,
    model::levels::{By, Levelled},
};

/// Writes the families of the levels that hold anything.
pub(super) fn encode(levelled: Levelled, out: &mut Families<'_>) -> fmt::Result {
    out.histograms(
        "workload_rtt",
        "TCP round-trip times, by the workloads at both ends",
        series(levelled.workloads, |of| {
            let mut set = label_set(&of.labels);
            set.push(("workload", of.workload.name.to_string()));
            set.push(("workload_type", of.workload.kind.to_string()));
            set.push(("peer_workload", of.peer_workload.name.to_string()));
            set.push(("peer_workload_type", of.peer_workload.kind.to_string()));
            set
        }),
    )?;
    out.histograms(
        "service_rtt",
        "TCP round-trip times, by the service at the peer's end",
        series(levelled.services, |of| {
            let mut set = label_set(&of.labels);
            set.push(("service", of.service.to_string()));
            set
        }),
    )?;
    out.histograms(
        "pod_rtt",
        "TCP round-trip times, by the pod of this node",
        series(levelled.pods, |of| {
            let mut set = label_set(&of.labels);
            set.push(("pod", of.pod.to_string()));
            set
        }),
    )
}

fn series<L>(
    by: By<L>,
    labels: impl Fn(&L) -> LabelSet,
) -> impl Iterator<Item = (LabelSet, Counts)> {
    by.into_iter().map(move |((of, leg, echo), counts)| {
        let mut set = labels(&of);
        set.push(("leg", leg.as_str().to_owned()));
        set.push(("echo", echo.as_str().to_owned()));
        (set, counts)
    })
}
