//! Two nodes with pods, joined by a `VxLAN` overlay across a wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{DelayLine, Error, Impairment, Netns, WireEnd, pair::forward, wait_reachable};

/// How the overlay joins the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// One layer-2 network as L2S-M makes it: on each node the bridge `br1`
    /// with the pods' veths and the `VxLAN` device `vxlan1` (UDP 7000) as
    /// ports; MTU 1400.
    L2sm,
    /// Routed as flannel does: on each node the bridge `cni0` with the pods'
    /// veths, and `flannel.1` (UDP 8472) to the other's; MTU 1450.
    Flannel,
    /// Routed, as with flannel, but by a device without Ethernet headers, as
    /// `WireGuard` or a tunnel would be: `gpe0` (`VxLAN`-GPE, UDP 4790); MTU 1450.
    Layer3,
}

impl Flavour {
    /// The node's `VxLAN` device.
    #[must_use]
    pub const fn vxlan(self) -> &'static str {
        match self {
            Self::L2sm => "vxlan1",
            Self::Flannel => "flannel.1",
            Self::Layer3 => "gpe0",
        }
    }

    /// The node's bridge.
    #[must_use]
    pub const fn bridge(self) -> &'static str {
        match self {
            Self::L2sm => "br1",
            Self::Flannel | Self::Layer3 => "cni0",
        }
    }

    /// The UDP port of the `VxLAN` packets.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::L2sm => 7000,
            Self::Flannel => 8472,
            Self::Layer3 => 4790,
        }
    }

    /// MTU of the pods, in bytes.
    #[must_use]
    pub const fn mtu(self) -> u32 {
        match self {
            Self::L2sm => 1400,
            Self::Flannel | Self::Layer3 => 1450,
        }
    }
}

/// How an [`Overlay`] is made.
#[derive(Debug, Clone)]
pub struct OverlayConfig {
    /// How the nodes are joined.
    pub flavour: Flavour,
    /// Pods on each node, 1 to 250.
    pub pods_per_node: u8,
    /// What the wire does, both ways.
    pub wire: Impairment,
    /// Whether the pods' TCP carries timestamps.
    pub timestamps: bool,
}

impl OverlayConfig {
    /// One pod per node, a perfect wire, timestamps on.
    #[must_use]
    pub fn new(flavour: Flavour) -> Self {
        Self {
            flavour,
            pods_per_node: 1,
            wire: Impairment::default(),
            timestamps: true,
        }
    }
}

/// A pod: a namespace with `eth0` whose other end is on its node.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub netns: Netns,
    /// Its name: the node's letter and a number from 0, such as `a0`.
    pub name: String,
    /// The node's end of its veth: `veth` and the name, such as `vetha0`.
    pub interface: String,
    /// 198.19.1.2 for `a0`, 198.19.1.3 for `a1`, 198.19.2.2 for `b0`, ...
    pub v4: Ipv4Addr,
    /// `fd00:19:1::2` for `a0`, `fd00:19:2::2` for `b0`, ...
    pub v6: Ipv6Addr,
}

/// Two nodes, `a` and `b`, with pods `a0`, `a1`, ... and `b0`, `b1`, ...
///
/// ```text
/// a0 eth0 -- vetha0 \                                      / vethb0 -- eth0 b0
/// a1 eth0 -- vetha1 - bridge - vxlan - eth0 ~wire~ eth0 ...
/// ```
///
/// The nodes' `eth0` are 198.18.0.1 and 198.18.0.2 (`fd00:18::1` and `fd00:18::2`);
/// the wire's forward direction is from `a` to `b`, and its log shows the
/// inner TCP segments. Two pods of one node reach each other by its bridge.
#[derive(Debug)]
pub struct Overlay {
    /// The wire between the nodes.
    pub wire: DelayLine,
    /// The pods of both nodes, those of `a` first.
    pub pods: Vec<Pod>,
    /// The nodes `a` and `b`.
    pub nodes: [Netns; 2],
    /// How it was made.
    pub flavour: Flavour,
}

impl Overlay {
    /// Lays it out and waits until pods reach each other, across and beside.
    pub fn new(config: &OverlayConfig) -> Result<Self, Error> {
        let nodes = [Netns::new("nodea")?, Netns::new("nodeb")?];
        let wire = DelayLine::between(
            WireEnd {
                netns: &nodes[0],
                interface: "eth0",
            },
            WireEnd {
                netns: &nodes[1],
                interface: "eth0",
            },
            1500,
        )?;
        let flavour = config.flavour;
        for (number, node) in (1..).zip(&nodes) {
            forward(node)?;
            node.ip_batch(&format!(
                "addr add 198.18.0.{number}/24 dev eth0\n\
                 addr add fd00:18::{number}/64 dev eth0 nodad\n\
                 link add {bridge} type bridge stp_state 0 mcast_snooping 0\n\
                 link set {bridge} mtu {mtu} up",
                bridge = flavour.bridge(),
                mtu = flavour.mtu(),
            ))?;
            match flavour {
                Flavour::L2sm => join_l2sm(node, number)?,
                Flavour::Flannel => join_flannel(node, number)?,
                Flavour::Layer3 => join_layer3(node, number)?,
            }
        }
        let mut pods = Vec::new();
        for (number, node) in (1..).zip(&nodes) {
            for index in 0..config.pods_per_node.clamp(1, 250) {
                pods.push(pod(node, number, index, flavour, config.timestamps)?);
            }
        }
        let overlay = Self {
            wire,
            pods,
            nodes,
            flavour,
        };
        overlay.wait_ready()?;
        overlay.wire.set_both(&config.wire);
        drop(overlay.wire.take_records());
        Ok(overlay)
    }

    /// The pod of this name.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn pod(&self, name: &str) -> &Pod {
        let found = self.pods.iter().find(|pod| pod.name == name);
        found.unwrap_or_else(|| panic!("the overlay has no pod {name}"))
    }

    fn wait_ready(&self) -> Result<(), Error> {
        let (Some(first), Some(last)) = (self.pods.first(), self.pods.last()) else {
            return Ok(());
        };
        for pod in &self.pods {
            let peer = if pod.name.starts_with('a') {
                last
            } else {
                first
            };
            wait_reachable(&pod.netns, IpAddr::V4(peer.v4))?;
            wait_reachable(&pod.netns, IpAddr::V6(peer.v6))?;
        }
        Ok(())
    }
}

/// The MAC address of node `number`'s `VxLAN` device, fixed so that the other
/// node's tables can name it beforehand.
fn vtep(number: u8) -> String {
    format!("02:19:00:00:00:{number:02x}")
}

fn join_l2sm(node: &Netns, number: u8) -> Result<(), Error> {
    node.ip_batch(&format!(
        "link add vxlan1 mtu 1400 type vxlan id 1 local 198.18.0.{number} \
         remote 198.18.0.{other} dev eth0 dstport 7000\n\
         link set vxlan1 master br1 up",
        other = 3 - number,
    ))
}

fn join_flannel(node: &Netns, number: u8) -> Result<(), Error> {
    let (own, other) = (vtep(number), vtep(3 - number));
    let peer = 3 - number;
    node.ip_batch(&format!(
        "link add flannel.1 address {own} mtu 1450 type vxlan id 1 local 198.18.0.{number} \
         dev eth0 dstport 8472 nolearning\n\
         addr add 198.19.{number}.0/32 dev flannel.1\n\
         addr add fd00:19:{number}::/128 dev flannel.1 nodad\n\
         link set flannel.1 up\n\
         neigh add 198.19.{peer}.0 lladdr {other} dev flannel.1 nud permanent\n\
         neigh add fd00:19:{peer}:: lladdr {other} dev flannel.1 nud permanent\n\
         route add 198.19.{peer}.0/24 via 198.19.{peer}.0 dev flannel.1 onlink\n\
         route add fd00:19:{peer}::/64 via fd00:19:{peer}:: dev flannel.1 onlink"
    ))?;
    gateway(node, number)?;
    node.bridge_batch(&format!(
        "fdb append {other} dev flannel.1 dst 198.18.0.{peer}"
    ))
}

fn join_layer3(node: &Netns, number: u8) -> Result<(), Error> {
    let peer = 3 - number;
    let encap = format!("encap ip id 5 dst 198.18.0.{peer} dev gpe0");
    gateway(node, number)?;
    node.ip_batch(&format!(
        "link add gpe0 mtu 1450 type vxlan dstport 4790 gpe external\n\
         link set gpe0 up\n\
         route add 198.19.{peer}.0/24 {encap}\n\
         route add fd00:19:{peer}::/64 {encap}"
    ))
}

/// Gives the node's bridge the address that its pods route to.
fn gateway(node: &Netns, number: u8) -> Result<(), Error> {
    node.ip_batch(&format!(
        "addr add 198.19.{number}.1/24 dev cni0\naddr add fd00:19:{number}::1/64 dev cni0 nodad"
    ))
}

/// Makes a pod and plugs it into its node's bridge.
fn pod(
    node: &Netns,
    number: u8,
    index: u8,
    flavour: Flavour,
    timestamps: bool,
) -> Result<Pod, Error> {
    let letter = if number == 1 { 'a' } else { 'b' };
    let name = format!("{letter}{index}");
    let interface = format!("veth{name}");
    let netns = Netns::new(&name)?;
    netns.set_tcp_timestamps(timestamps)?;
    let host = u16::from(index) + 2;
    let v4 = Ipv4Addr::new(198, 19, number, index + 2);
    let v6 = Ipv6Addr::new(0xfd00, 0x19, number.into(), 0, 0, 0, 0, host);
    node.veth(&interface, &netns, "eth0", flavour.mtu())?;
    node.ip(&format!(
        "link set {interface} master {} up",
        flavour.bridge()
    ))?;
    let (short, long) = match flavour {
        Flavour::L2sm => (16, 32),
        Flavour::Flannel | Flavour::Layer3 => (24, 64),
    };
    netns.ip_batch(&format!(
        "addr add {v4}/{short} dev eth0\naddr add {v6}/{long} dev eth0 nodad\nlink set eth0 up"
    ))?;
    if flavour != Flavour::L2sm {
        netns.ip_batch(&format!(
            "route add default via 198.19.{number}.1\nroute add default via fd00:19:{number}::1"
        ))?;
    }
    Ok(Pod {
        netns,
        name,
        interface,
        v4,
        v6,
    })
}
