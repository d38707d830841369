//! Public records of the tunnels around a flow.

use std::fmt::Write as _;

use lpm_common::layout::tunnel::{Tunnel, tunnels};
use serde::{Deserialize, Serialize};

/// One tunnel around a flow's packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelRecord {
    /// Kind of the tunnel: `vxlan` or `geneve`.
    pub kind: String,
    /// VNI of the tunnel.
    pub vni: u32,
}

impl TunnelRecord {
    /// The tunnels around a flow, outermost first. They are read from its segment word
    /// [`segment`](lpm_common::layout::FlowCold::segment) and its outer VNI.
    #[must_use]
    pub fn all(segment: u32, outer_vni: u32) -> Vec<Self> {
        let record = |Tunnel { kind, vni }| Self {
            kind: kind.as_str().to_owned(),
            vni,
        };
        tunnels(segment, outer_vni)
            .into_iter()
            .flatten()
            .map(record)
            .collect()
    }
}

/// The place where a flow is seen: the interface, and each tunnel on the way in (`eth0/vxlan:7`).
#[must_use]
pub fn place(interface: &str, tunnels: &[TunnelRecord]) -> String {
    let mut place = interface.to_owned();
    for TunnelRecord { kind, vni } in tunnels {
        // Writing to a string cannot fail.
        let _ = write!(place, "/{kind}:{vni}");
    }
    place
}

#[cfg(test)]
mod tests {
    use lpm_common::layout::tunnel::segment_of;

    use super::*;

    #[test]
    fn places() {
        assert_eq!(place("eth0", &TunnelRecord::all(5, 0)), "eth0", "a VLAN");
        let one = TunnelRecord::all(segment_of(1, 0, 0), 0);
        assert_eq!(place("eth0", &one), "eth0/vxlan:0");
        let two = TunnelRecord::all(segment_of(2, 7, 1), 3);
        assert_eq!(place("eth0", &two), "eth0/vxlan:3/geneve:7");
    }
}
