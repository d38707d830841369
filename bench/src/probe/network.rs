//! Two machines on one cable, and a tunnel over it.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use lpm_testbed::testbed::{Netns, wait_reachable};

/// Two network namespaces: `eth0` is the cable between them, `vx0` a VxLAN tunnel over it.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) client: Netns,
    pub(super) server: Netns,
}

/// The UDP port of the tunnel.
pub(super) const VXLAN: u16 = 4789;

/// A way between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Veth,
    Vxlan,
}

impl Way {
    pub(super) const ALL: [Self; 2] = [Self::Veth, Self::Vxlan];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Vxlan => "VxLAN over veth",
        }
    }

    /// The address of the server.
    pub(super) const fn server(self) -> IpAddr {
        self.address(2)
    }

    const fn address(self, host: u8) -> IpAddr {
        let net = match self {
            Self::Veth => 1,
            Self::Vxlan => 2,
        };
        IpAddr::V4(Ipv4Addr::new(198, 18, net, host))
    }
}

impl Network {
    pub(super) fn new() -> Result<Self> {
        let (client, server) = (Netns::new("client")?, Netns::new("server")?);
        client.veth("eth0", &server, "eth0", 1500)?;
        for (own, other, netns) in [(1, 2, &client), (2, 1, &server)] {
            netns.ip_batch(&format!(
                "addr add {}/24 dev eth0\nlink set eth0 up\n\
                 link add vx0 mtu 1450 type vxlan id 7 local {} remote {} dev eth0 dstport {VXLAN}\n\
                 addr add {}/24 dev vx0\nlink set vx0 up",
                Way::Veth.address(own),
                Way::Veth.address(own),
                Way::Veth.address(other),
                Way::Vxlan.address(own),
            ))?;
        }
        for way in Way::ALL {
            wait_reachable(&client, way.server())?;
        }
        Ok(Self { client, server })
    }
}
