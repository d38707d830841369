//! Records of the traffic of watched interfaces, and of the links between nodes that tunnels make.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

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
