//! Metrics of the traffic of watched interfaces.

use std::{fmt, sync::Arc};

use lpm_common::layout::Vantage;

use super::{collect::Collect, families::Families, sink::LabelSet};
use crate::{
    kernel::ports::{Carried, Port},
    passive::Model,
};

/// A counter of ports: its name, its help, and the function that reads its value.
type Counter = (&'static str, &'static str, fn(&Carried) -> u64);

/// Metrics of the traffic of watched interfaces, except those of pods: there are hundreds, and the
/// kubelet counts them.
pub(super) struct Ports(pub(super) Arc<Model>);

impl Collect for Ports {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let model = &self.0;
        let mut links = model.links();
        links.retain(|_, link| !matches!(link.vantage, Vantage::Pod | Vantage::Node));
        let ports = model.some_ports(links.keys().copied());
        let watched: Vec<(LabelSet, &Port)> = links
            .into_iter()
            .filter_map(|(index, link)| {
                let labels = vec![
                    ("interface", link.name),
                    ("vantage", link.vantage.as_str().to_owned()),
                ];
                Some((labels, ports.get(&index)?))
            })
            .collect();
        write(&watched, out)
    }
}

/// Writes the traffic of these interfaces.
pub(super) fn write(watched: &[(LabelSet, &Port)], out: &mut Families<'_>) -> fmt::Result {
    let counters: [Counter; 4] = [
        (
            "port_bytes",
            "Bytes at an interface, as the kernel counts them",
            |of| of.bytes,
        ),
        (
            "port_packets",
            "Packets at an interface, as the kernel counts them (a GSO packet counts as one)",
            |of| of.packets,
        ),
        (
            "port_drops",
            "Packets that were dropped at an interface",
            |of| of.drops,
        ),
        ("port_errors", "Packets with errors at an interface", |of| {
            of.errors
        }),
    ];
    for (name, help, of) in counters {
        let series = watched.iter().flat_map(|(labels, port)| {
            let ways = [("receive", &port.received), ("transmit", &port.transmitted)];
            ways.map(|(way, carried)| {
                let mut labels = labels.clone();
                labels.push(("direction", way.to_owned()));
                (labels, of(carried))
            })
        });
        out.counters(name, help, None, series)?;
    }
    let capacity = watched
        .iter()
        .filter_map(|(labels, port)| Some((labels.clone(), port.capacity?)));
    out.gauges(
        "port_capacity_bits_per_second",
        "Speed of an interface; for a tunnel, the speed of the network card under it",
        capacity,
    )
}
