//! The nodes' and the pods' networks, in the shapes that real CNIs give them.

use std::{fs, path::Path, sync::Arc};

use serde_json::json;

use super::Error;
use crate::testbed::{self, Netns};

/// The shape of the pods' network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// flannel's: on each node the bridge `cni0` with the pods' veths, and `flannel.1` (`VxLAN`,
    /// UDP 8472) to the other's; MTU 1450; nodes have ranges (podCIDR).
    Flannel,
    /// Azure CNI's, transparent mode: a route per pod to its veth, no bridge, nothing between the
    /// nodes but routes; MTU 1500; nodes have no ranges.
    Azure,
}

impl Network {
    /// Whether a node's pods have addresses of a range of its own that the API shows.
    #[must_use]
    pub const fn gives_nodes_ranges(self) -> bool {
        matches!(self, Self::Flannel)
    }

    const fn mtu(self) -> u32 {
        match self {
            Self::Flannel => 1450,
            Self::Azure => 1500,
        }
    }
}

/// The range of the pods of node `number` (1 or 2).
pub(super) fn pods(number: u8) -> String {
    format!("198.19.{number}.0/24")
}

/// Gives the nodes their addresses and the ways to each other's pods.
pub(super) fn underlay(nodes: &[Arc<Netns>; 2], network: Network) -> Result<(), testbed::Error> {
    for (number, node) in (1..).zip(nodes) {
        let other = 3 - number;
        node.sysctl("net.ipv4.ip_forward", "1")?;
        // kube-proxy's marks and a pod's own address must survive both.
        node.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
        node.sysctl("net.ipv4.conf.default.rp_filter", "0")?;
        node.ip_batch(&format!(
            "addr add 198.18.0.{number}/24 dev eth0\n\
             route add default via 198.18.0.{other} dev eth0"
        ))?;
        match network {
            Network::Azure => node.ip(&format!(
                "route add {} via 198.18.0.{other} dev eth0",
                pods(other)
            ))?,
            Network::Flannel => flannel(node, number)?,
        }
    }
    Ok(())
}

/// What flannel's VXLAN backend sets up on node `number`.
fn flannel(node: &Netns, number: u8) -> Result<(), testbed::Error> {
    let other = 3 - number;
    let mac = |number: u8| format!("02:19:00:00:01:{number:02x}");
    node.ip_batch(&format!(
        "link add flannel.1 address {own} mtu 1450 type vxlan id 1 local 198.18.0.{number} \
         dev eth0 dstport 8472 nolearning\n\
         addr add 198.19.{number}.0/32 dev flannel.1\n\
         link set flannel.1 up\n\
         neigh add 198.19.{other}.0 lladdr {peer} dev flannel.1 nud permanent\n\
         route add {range} via 198.19.{other}.0 dev flannel.1 onlink",
        own = mac(number),
        peer = mac(other),
        range = pods(other),
    ))?;
    node.bridge_batch(&format!(
        "fdb append {} dev flannel.1 dst 198.18.0.{other}",
        mac(other)
    ))
}

/// Writes the configuration of the CNI plugins of node `number`.
pub(super) fn configure_cni(dir: &Path, number: u8, network: Network) -> Result<(), Error> {
    let ipam = json!({
        "type": "host-local",
        "dataDir": dir.join("addresses"),
        "ranges": [[{"subnet": pods(number)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    let plugin = match network {
        Network::Flannel => json!({
            "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
            "mtu": network.mtu(), "ipam": ipam,
        }),
        Network::Azure => json!({"type": "ptp", "mtu": network.mtu(), "ipam": ipam}),
    };
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "lpm",
        "plugins": [plugin],
    });
    let files = dir.join("cni");
    fs::create_dir_all(&files)
        .and_then(|()| fs::write(files.join("10-lpm.conflist"), format!("{list:#}\n")))
        .map_err(|source| Error::system("write the CNI's configuration", source))
}
