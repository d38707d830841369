//! Tagged frames through a node, on kernels without VLAN devices: the tags
//! are put on and taken off by the wires.

use std::net::IpAddr;

use super::{
    DelayLine, Direction, Error, Impairment, Netns, WireEnd, wait_reachable, wire::VlanAction,
};

/// A client and a server whose frames are tagged between them and a node,
/// which bridges them untouched.
///
/// ```text
/// client               node                      server
///   eth0 ~~ near ~~ vethclient = br0 = vethserver ~~ far ~~ eth0
///   198.18.3.1            tagged frames             198.18.3.2
///   fd00:18:3::1                                    fd00:18:3::2
/// ```
///
/// The forward direction of both wires is from the client to the server.
/// An agent in `node` attaches to `vethclient`.
#[derive(Debug)]
pub struct VlanPair {
    /// The wire between client and node.
    pub near: DelayLine,
    /// The wire between node and server.
    pub far: DelayLine,
    /// The client's namespace.
    pub client: Netns,
    /// The node's namespace.
    pub node: Netns,
    /// The server's namespace.
    pub server: Netns,
    /// From the client, and to it.
    ids: [Vec<u16>; 2],
}

impl VlanPair {
    /// The node's interface to the client.
    pub const CLIENT_INTERFACE: &'static str = "vethclient";
    /// The node's interface to the server.
    pub const SERVER_INTERFACE: &'static str = "vethserver";

    /// Lays it out with these VLAN ids, the outermost first (one or two).
    pub fn new(ids: &[u16]) -> Result<Self, Error> {
        Self::with([ids, ids])
    }

    /// Lays it out with these VLAN ids from the client and these to it; none: without a tag.
    pub fn with(ids: [&[u16]; 2]) -> Result<Self, Error> {
        let (client, node, server) = (
            Netns::new("client")?,
            Netns::new("node")?,
            Netns::new("server")?,
        );
        node.ip_batch("link add br0 type bridge stp_state 0 mcast_snooping 0\nlink set br0 up")?;
        let near = DelayLine::between(
            WireEnd {
                netns: &client,
                interface: "eth0",
            },
            WireEnd {
                netns: &node,
                interface: Self::CLIENT_INTERFACE,
            },
            1500,
        )?;
        let far = DelayLine::between(
            WireEnd {
                netns: &node,
                interface: Self::SERVER_INTERFACE,
            },
            WireEnd {
                netns: &server,
                interface: "eth0",
            },
            1500,
        )?;
        for port in [Self::CLIENT_INTERFACE, Self::SERVER_INTERFACE] {
            node.ip_batch(&format!("link set {port} mtu 1508 master br0"))?;
        }
        let pair = Self {
            near,
            far,
            client,
            node,
            server,
            ids: ids.map(<[u16]>::to_vec),
        };
        for (netns, host) in [(&pair.client, 1), (&pair.server, 2)] {
            netns.ip_batch(&format!(
                "addr add 198.18.3.{host}/24 dev eth0\naddr add fd00:18:3::{host}/64 dev eth0 nodad"
            ))?;
        }
        pair.set(&Impairment::default(), &Impairment::default());
        for address in Self::server_addresses() {
            wait_reachable(&pair.client, address)?;
        }
        drop((pair.near.take_records(), pair.far.take_records()));
        Ok(pair)
    }

    /// The server's addresses.
    #[must_use]
    pub fn server_addresses() -> [IpAddr; 2] {
        [
            [198, 18, 3, 2].into(),
            [0xfd00, 0x18, 3, 0, 0, 0, 0, 2].into(),
        ]
    }

    /// From now on what comes from the client bears these VLAN ids, without a delay.
    pub fn from_client_in(&self, ids: &[u16]) {
        let vlan = VlanAction::Push(ids.to_vec());
        let impairment = Impairment {
            vlan,
            ..Impairment::default()
        };
        self.near.set(Direction::Forward, impairment);
    }

    /// Sets what the wires do, each both ways, and keeps the tagging.
    pub fn set(&self, near: &Impairment, far: &Impairment) {
        let [there, back] = self.ids.clone().map(VlanAction::Push);
        let (forward, backward) = (Direction::Forward, Direction::Backward);
        let settings = [
            (&self.near, forward, near, there),
            (&self.near, backward, near, VlanAction::Pop),
            (&self.far, forward, far, VlanAction::Pop),
            (&self.far, backward, far, back),
        ];
        for (wire, direction, impairment, vlan) in settings {
            wire.set(
                direction,
                Impairment {
                    vlan,
                    ..impairment.clone()
                },
            );
        }
    }
}
