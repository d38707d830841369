//! Metrics of the counters of the kernel programs.

use std::{collections::BTreeMap, fmt, sync::Arc};

use lpm_common::counter::Counter;

use super::{collect::Collect, families::Families};
use crate::passive::Model;

/// The counters that are shown as the kernel counts them: name, help, and names of the labels. Two
/// labels share one value, split by `/`.
const SHOWN: &[(&str, &str, &[&str])] = &[
    ("flow_events", "Beginnings and ends of flows", &["event"]),
    (
        "packets_without_timestamp",
        "TCP packets without the timestamp option",
        &[],
    ),
    (
        "stamps",
        "Outcomes of TSvals and segments that could have been measured",
        &["result"],
    ),
    (
        "reordered_packets",
        "TCP packets with an older TSval than an earlier packet: reordered, not retransmitted",
        &[],
    ),
    (
        "unmatched_echoes",
        "New echoes for which no stamp was stored",
        &[],
    ),
    (
        "foreign_echoes",
        "Echoes of a TSval, or acknowledgments of a segment, that the other side never sent",
        &[],
    ),
    (
        "vlan_joins",
        "Flows and answers with their two directions in different VLANs, and those not joined \
         because several VLANs could carry the other direction",
        &["of", "result"],
    ),
    (
        "query_events",
        "Other outcomes of ICMP echo and DNS messages",
        &["method", "event"],
    ),
    (
        REQUEST_EVENTS,
        "TCP requests for which no time is reported",
        &["event"],
    ),
    (
        "map_drops",
        "Entries that a kernel map could not take",
        &["map", "reason"],
    ),
    (
        "parse_skipped",
        "Packets that were skipped instead of measured",
        &["reason"],
    ),
];

/// Name of the counters of requests. The method is off unless it is asked for.
const REQUEST_EVENTS: &str = "request_events";

/// Metrics of the kernel programs' counters, and of the names that found no room in the map that the
/// agent itself fills.
pub(super) struct KernelCounters(pub(super) Arc<Model>);

impl Collect for KernelCounters {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        // An error here means that the map is gone, and then no counter is known.
        let counters = self.0.counters().map_err(|_| fmt::Error)?;
        let mut series: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
        for (counter, value) in Counter::ALL.iter().zip(&counters) {
            let (metric, label) = counter.metric();
            series.entry(metric).or_default().push((label, *value));
        }
        let names = ("names/full", self.0.ids().names_refused());
        series.entry("map_drops").or_default().push(names);
        for &(metric, help, names) in SHOWN {
            let found = series.remove(metric).unwrap_or_default();
            // A method that is off measures nothing, which is not 0.
            let requests = || counters[Counter::SampledRequest as usize];
            let any = requests() + found.iter().map(|(_, value)| value).sum::<u64>();
            if metric == REQUEST_EVENTS && any == 0 {
                continue;
            }
            let found = found.into_iter().map(|(label, value)| {
                let values = label.splitn(names.len().max(1), '/');
                let labels = names
                    .iter()
                    .copied()
                    .zip(values.map(str::to_owned))
                    .collect();
                (labels, value)
            });
            out.counters(metric, help, None, found)?;
        }
        Ok(())
    }
}
