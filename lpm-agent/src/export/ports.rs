//! The traffic of watched interfaces, and the links between nodes that tunnels make.

use std::{fmt, net::IpAddr};

use lpm_common::layout::Vantage;
use serde::{Deserialize, Serialize};

use super::families::{Families, LabelSet};
use crate::{
    kernel::ports::{Carried, Port},
    passive::Model,
};

/// Traffic of one direction of an interface since the interface exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedRecord {
    /// Bytes, with their link-layer headers.
    pub bytes: u64,
    /// Packets; a GSO packet is one.
    pub packets: u64,
    /// Packets that were dropped there.
    pub drops: u64,
    /// Packets with errors.
    pub errors: u64,
}

impl From<Carried> for CarriedRecord {
    fn from(carried: Carried) -> Self {
        Self {
            bytes: carried.bytes,
            packets: carried.packets,
            drops: carried.drops,
            errors: carried.errors,
        }
    }
}

/// An interface as a port of the node, with the kernel's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// Kind of the interface: `physical`, `vxlan`, `veth`...
    pub kind: String,
    /// Traffic that the interface received.
    pub received: CarriedRecord,
    /// Traffic that the interface sent.
    pub transmitted: CarriedRecord,
    /// Capacity in bits per second. Of a tunnel: that of the network card under it. Absent:
    /// unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// The links to other nodes, if the interface is a tunnel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<NodeLink>,
}

/// A link between two nodes, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLink {
    /// Identifier of the link: `<source>/<interface>-<target>`.
    pub id: String,
    /// Name of this node.
    pub source_node: String,
    /// Name of the other node, or its address if it has no name.
    pub target_node: String,
    /// Address of the tunnel's other end.
    pub target_address: IpAddr,
    /// Kind of the tunnel: `vxlan`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Capacity in bits per second, as that of the port. Absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
}

impl PortRecord {
    /// Makes a record of a port, with the current names of nodes.
    #[must_use]
    pub fn new(port: &Port, model: &Model) -> Self {
        let kind = port.interface.kind.as_str();
        let source = model.node();
        let name = |address: &IpAddr| {
            let name = model.registry().lookup(*address);
            let node = name.and_then(|name| name.node.clone());
            node.map_or_else(|| address.to_string(), |node| node.to_string())
        };
        let link = |address: &IpAddr| {
            let target = name(address);
            NodeLink {
                id: format!("{source}/{}-{target}", port.interface.name),
                source_node: source.to_string(),
                target_node: target,
                target_address: *address,
                kind: kind.to_owned(),
                capacity: port.capacity,
            }
        };
        Self {
            kind: kind.to_owned(),
            received: port.received.into(),
            transmitted: port.transmitted.into(),
            capacity: port.capacity,
            links: port.remotes.iter().map(link).collect(),
        }
    }
}

/// A counter of ports: its name, its help, and the function that reads its value.
type Counter = (&'static str, &'static str, fn(&Carried) -> u64);

/// Writes the traffic of the watched interfaces, except those of pods: there are hundreds, and the
/// kubelet counts them.
pub(super) fn encode(model: &Model, out: &mut Families<'_>) -> fmt::Result {
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

/// Writes what these interfaces carry.
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
        .filter_map(|(labels, port)| Some((labels.clone(), i64::try_from(port.capacity?).ok()?)));
    out.gauges(
        "port_capacity_bits_per_second",
        "Speed of an interface; for a tunnel, the speed of the network card under it",
        capacity,
    )
}
