//! A pod, its node and a remote machine beyond a wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{DelayLine, Direction, Error, Impairment, Netns, WireEnd, wait_reachable};

/// How a [`Pair`] is made.
#[derive(Debug, Clone)]
pub struct PairConfig {
    /// What the wire does, both ways. None: a plain veth pair instead of a
    /// wire, for benchmarks that must not count the wire.
    pub wire: Option<Impairment>,
    /// Whether TCP carries timestamps.
    pub timestamps: bool,
}

impl Default for PairConfig {
    fn default() -> Self {
        Self {
            wire: Some(Impairment::default()),
            timestamps: true,
        }
    }
}

/// A pod (`client`) whose veth ends in a node (`node`), which routes to a
/// remote machine (`server`) across a wire.
///
/// ```text
/// client                    node                          server
///   eth0 ---------- vethclient  wire0 ~~~~ wire ~~~~ eth0
///   198.18.1.2      198.18.1.1  198.18.2.1           198.18.2.2
///   fd00:18:1::2    fd00:18:1::1 fd00:18:2::1        fd00:18:2::2
/// ```
///
/// The wire's forward direction is from the node to the server. An agent in
/// `node` attaches to `vethclient` (vantage `pod`).
#[derive(Debug)]
pub struct Pair {
    /// The wire, unless [`PairConfig::wire`] was None.
    pub wire: Option<DelayLine>,
    /// The pod.
    pub client: Netns,
    /// The node.
    pub node: Netns,
    /// The remote machine.
    pub server: Netns,
}

impl Pair {
    /// The node's end of the pod's veth.
    pub const POD_INTERFACE: &'static str = "vethclient";
    /// The node's end of the wire.
    pub const WIRE_INTERFACE: &'static str = "wire0";
    /// The pod's addresses.
    pub const CLIENT: [IpAddr; 2] = addresses(1, 2);
    /// The remote machine's addresses.
    pub const SERVER: [IpAddr; 2] = addresses(2, 2);

    /// Lays it out and waits until the pod reaches the remote machine.
    pub fn new(config: &PairConfig) -> Result<Self, Error> {
        let (client, node, server) = (
            Netns::new("client")?,
            Netns::new("node")?,
            Netns::new("server")?,
        );
        client.set_tcp_timestamps(config.timestamps)?;
        server.set_tcp_timestamps(config.timestamps)?;
        forward(&node)?;
        node.veth(Self::POD_INTERFACE, &client, "eth0", 1500)?;
        let wire = if config.wire.is_some() {
            let first = WireEnd {
                netns: &node,
                interface: Self::WIRE_INTERFACE,
            };
            let second = WireEnd {
                netns: &server,
                interface: "eth0",
            };
            Some(DelayLine::between(first, second, 1500)?)
        } else {
            node.veth(Self::WIRE_INTERFACE, &server, "eth0", 1500)?;
            None
        };
        let pair = Self {
            wire,
            client,
            node,
            server,
        };
        pair.address()?;
        for address in Self::SERVER {
            wait_reachable(&pair.client, address)?;
        }
        if let (Some(wire), Some(impairment)) = (&pair.wire, &config.wire) {
            wire.set_both(impairment);
            drop(wire.take_records());
        }
        Ok(pair)
    }

    fn address(&self) -> Result<(), Error> {
        host(&self.client, 1)?;
        host(&self.server, 2)?;
        for (interface, net) in [(Self::POD_INTERFACE, 1), (Self::WIRE_INTERFACE, 2)] {
            self.node.ip_batch(&format!(
                "addr add 198.18.{net}.1/24 dev {interface}\n\
                 addr add fd00:18:{net}::1/64 dev {interface} nodad\n\
                 link set {interface} up"
            ))?;
        }
        Ok(())
    }

    /// The wire.
    ///
    /// # Panics
    ///
    /// If the pair was made without one.
    #[must_use]
    pub fn wire(&self) -> &DelayLine {
        self.wire
            .as_ref()
            .expect("this pair was made without a wire")
    }

    /// Sets the same one-way delay in both directions.
    pub fn set_delay(&self, delay: std::time::Duration) {
        for direction in [Direction::Forward, Direction::Backward] {
            self.wire().set(direction, Impairment::delay(delay));
        }
    }
}

/// Addresses and the default route of a machine at the edge of network `net`.
fn host(netns: &Netns, net: u16) -> Result<(), Error> {
    netns.ip_batch(&format!(
        "addr add 198.18.{net}.2/24 dev eth0\n\
         addr add fd00:18:{net}::2/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via 198.18.{net}.1\n\
         route add default via fd00:18:{net}::1"
    ))
}

const fn addresses(net: u8, host: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(198, 18, net, host)),
        IpAddr::V6(Ipv6Addr::new(
            0xfd00,
            0x18,
            net as u16,
            0,
            0,
            0,
            0,
            host as u16,
        )),
    ]
}

/// Makes a namespace route between its interfaces.
pub(super) fn forward(netns: &Netns) -> Result<(), Error> {
    netns.sysctl("net.ipv4.ip_forward", "1")?;
    netns.sysctl("net.ipv6.conf.all.forwarding", "1")
}
