//! Metrics of round trips by workload, service, pod, node and zone, where these levels are switched
//! on.

use std::fmt;

use super::{families::Families, labels::label_set, sink::LabelSet};
use crate::passive::{
    Counts,
    model::{
        levels::{By, Levelled},
        places::Places,
    },
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

/// Writes the families of nodes and zones that hold anything.
pub(super) fn encode_places(places: Places, out: &mut Families<'_>) -> fmt::Result {
    out.histograms(
        "node_rtt",
        "TCP round-trip times, by this node and the node of the peer, over all namespaces; the \
         peer's node may be `unknown`, and peers outside of the cluster have none",
        series(places.nodes, |of| {
            vec![
                ("node", of.node.to_string()),
                ("peer_node", of.peer_node.to_string()),
            ]
        }),
    )?;
    out.histograms(
        "zone_rtt",
        "TCP round-trip times, by this node's zone and the zone of the peer's node, over all \
         namespaces; either may be `unknown`, and peers outside of the cluster have none",
        series(places.zones, |of| {
            vec![
                ("zone", of.zone.to_string()),
                ("peer_zone", of.peer_zone.to_string()),
            ]
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
