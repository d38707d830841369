//! A pod's way through its node in segments, each with a delay of its own.

use std::net::IpAddr;

use super::{DelayLine, Error, Impairment, Netns, WireEnd, wait_reachable};

/// Two nodes with one pod each and a layer-2 `VxLAN` overlay between them. On the
/// first node every segment of the way is a wire that can be set:
///
/// ```text
///  pod a                     node a                                     node b
///   eth0 ~~pod~~ vetha =bra= f0 ~~forwarding~~ f1 =brb= vxlan1
///                                                         |
///                                 g0 (198.18.0.1) ~~overlay~~ g1 =bru= eth0 ~~wire~~ eth0
/// ```
///
/// Pod a is 198.19.0.1 and `fd00:19::1`, pod b 198.19.0.2 and `fd00:19::2`. The
/// forward direction of all wires is from pod a to pod b. An agent in `nodes[0]`
/// watches `vetha` (pod), `vxlan1` (overlay) and, if told so, `eth0` (nic) with
/// the flows inside its packets; it must leave `f0`, `f1`, `g0` and `g1` alone.
#[derive(Debug)]
pub struct Segmented {
    /// Between the pod and its node's end of the veth.
    pub pod: DelayLine,
    /// Between the pod's veth and the overlay's device.
    pub forwarding: DelayLine,
    /// Between the overlay's device and the network card.
    pub overlay: DelayLine,
    /// Between the nodes.
    pub wire: DelayLine,
    /// The pods' namespaces, `a` and `b`.
    pub pods: [Netns; 2],
    /// The nodes' namespaces.
    pub nodes: [Netns; 2],
}

impl Segmented {
    /// The node's end of pod a's veth.
    pub const POD_INTERFACE: &'static str = "vetha";
    /// Node a's overlay device.
    pub const OVERLAY_INTERFACE: &'static str = "vxlan1";
    /// Node a's network card.
    pub const CARD_INTERFACE: &'static str = "eth0";
    /// UDP port of the overlay's packets.
    pub const OVERLAY_PORT: u16 = 7000;
    /// Network identifier of the overlay.
    pub const VNI: u32 = 19;

    /// Lays it out and waits until the pods reach each other.
    pub fn new() -> Result<Self, Error> {
        let pods = [Netns::new("poda")?, Netns::new("podb")?];
        let nodes = [Netns::new("nodea")?, Netns::new("nodeb")?];
        let [a, b] = &nodes;
        let pod = line((&pods[0], "eth0"), (a, Self::POD_INTERFACE), 1400)?;
        let forwarding = line((a, "f0"), (a, "f1"), 1400)?;
        let overlay = line((a, "g0"), (a, "g1"), 1500)?;
        let wire = line((a, Self::CARD_INTERFACE), (b, "eth0"), 1500)?;
        b.veth("vethb", &pods[1], "eth0", 1400)?;
        a.ip_batch(
            "addr add 198.18.0.1/24 dev g0\n\
             link add bra type bridge stp_state 0 mcast_snooping 0\n\
             link add brb type bridge stp_state 0 mcast_snooping 0\n\
             link add bru type bridge stp_state 0 mcast_snooping 0\n\
             link set vetha master bra\n\
             link set f0 master bra\n\
             link set f1 master brb\n\
             link set g1 master bru\n\
             link set eth0 master bru\n\
             link set bra up\nlink set brb up\nlink set bru up",
        )?;
        b.ip_batch(
            "addr add 198.18.0.2/24 dev eth0\n\
             link add brb type bridge stp_state 0 mcast_snooping 0\n\
             link set vethb master brb up\n\
             link set brb up",
        )?;
        for (number, node, card) in [(1, a, "g0"), (2, b, "eth0")] {
            node.ip_batch(&format!(
                "link add vxlan1 mtu 1400 type vxlan id {vni} local 198.18.0.{number} \
                 remote 198.18.0.{other} dev {card} dstport {port}\n\
                 link set vxlan1 master brb up",
                vni = Self::VNI,
                port = Self::OVERLAY_PORT,
                other = 3 - number,
            ))?;
        }
        for (number, pod) in (1..).zip(&pods) {
            pod.ip_batch(&format!(
                "addr add 198.19.0.{number}/24 dev eth0\n\
                 addr add fd00:19::{number}/64 dev eth0 nodad\n\
                 link set eth0 up"
            ))?;
        }
        let laid_out = Self {
            pod,
            forwarding,
            overlay,
            wire,
            pods,
            nodes,
        };
        for address in Self::addresses(1) {
            wait_reachable(&laid_out.pods[0], address)?;
        }
        Ok(laid_out)
    }

    /// The addresses of a pod, IPv4 and IPv6: 0 is pod a, 1 pod b.
    #[must_use]
    pub fn addresses(pod: u8) -> [IpAddr; 2] {
        [
            [198, 19, 0, pod + 1].into(),
            [0xfd00, 0x19, 0, 0, 0, 0, 0, u16::from(pod) + 1].into(),
        ]
    }

    /// The wires with the names of their segments, in order from pod a.
    #[must_use]
    pub fn lines(&self) -> [(&'static str, &DelayLine); 4] {
        [
            ("pod", &self.pod),
            ("forwarding", &self.forwarding),
            ("overlay", &self.overlay),
            ("wire", &self.wire),
        ]
    }

    /// Lets this segment alone be slow, both ways.
    pub fn slow(&self, segment: &str, impairment: &Impairment) {
        for (name, line) in self.lines() {
            if name == segment {
                line.set_both(impairment);
            } else {
                line.set_both(&Impairment::default());
            }
        }
    }
}

fn line(first: (&Netns, &str), second: (&Netns, &str), mtu: u32) -> Result<DelayLine, Error> {
    let [first, second] = [first, second].map(|(netns, interface)| WireEnd { netns, interface });
    DelayLine::between(first, second, mtu)
}
