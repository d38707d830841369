//! Metrics of flows: their traffic, their number, and how full the kernel's maps are.

use std::{fmt, sync::Arc};

use super::{collect::Collect, families::Families};
use crate::passive::Model;

/// The metrics of flows.
pub(super) struct Flows(pub(super) Arc<Model>);

impl Collect for Flows {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        // An error here means that the map is gone, and then nothing is known of flows.
        let counters = self.0.counters().map_err(|_| fmt::Error)?;
        let clock = self.0.clock().map_err(|_| fmt::Error)?;
        let sweep = self.0.sweep(&clock, &counters);
        out.counters(
            "packets",
            "TCP packets on the wire, at all vantages (a GSO packet counts each segment)",
            None,
            [(vec![], sweep.packets)],
        )?;
        out.counters(
            "bytes",
            "Bytes on the wire, at all vantages",
            None,
            [(vec![], sweep.bytes)],
        )?;
        let total = sweep.active.values().sum();
        let by_vantage = sweep
            .active
            .into_iter()
            .map(|(vantage, flows)| (vec![("vantage", vantage.as_str().to_owned())], flows));
        out.gauges(
            "active_flows",
            "Flows seen within the idle time and not closed, at each vantage",
            by_vantage,
        )?;
        let pressure = self.0.pressure(total);
        out.gauges(
            "map_pressure_ratio",
            "How full a kernel map is: entries of active flows, rows in use, queries that wait for \
             an answer, names (above 1: some have no room)",
            pressure.map(|(map, ratio)| (vec![("map", map.to_owned())], ratio)),
        )
    }
}
