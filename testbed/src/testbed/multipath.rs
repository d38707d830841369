//! Two machines with several equal-cost paths between them, and a `VxLAN` across.

use std::net::IpAddr;

use super::{
    DelayLine, Direction, Error, Impairment, Netns, WireEnd, pair::forward, wait_reachable,
};

/// How a [`Multipath`] is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultipathConfig {
    /// Links between the two machines, 1 to 64.
    pub links: u8,
    /// The link that is a wire, from 0. None: all are plain veth pairs.
    pub wire: Option<u8>,
    /// What both machines' kernels hash to choose a link (`fib_multipath_hash_policy`), over IPv4
    /// and IPv6.
    pub policy: u8,
}

/// Two machines with links of equal cost between them, each of which also routes for a host.
///
/// ```text
///                    p0 -------- p0
/// near (198.18.8.1)  p1 -------- p1  far (198.18.8.2)
///                    p2 ~~wire~~ p2
///                        ...
/// ```
///
/// The machines' own addresses are on their loopback devices (`fd00:18:8::1`, `fd00:18:8::2` over
/// IPv6). A wire's forward direction is from `near` to `far`.
#[derive(Debug)]
pub struct Multipath {
    /// The link that is a wire, if there is one.
    pub wire: Option<DelayLine>,
    /// The machine that probes.
    pub near: Netns,
    /// The machine that answers.
    pub far: Netns,
}

/// The first link's network is 198.18.64.0/24, and `fd00:18:40::/64`.
const FIRST: u8 = 64;

impl Multipath {
    /// The addresses of `near`.
    pub const NEAR: [IpAddr; 2] = addresses(1);
    /// The addresses of `far`.
    pub const FAR: [IpAddr; 2] = addresses(2);
    /// The addresses of the host behind `far`, inside the `VxLAN` of [`Multipath::overlay`].
    pub const BEYOND: [IpAddr; 2] = [v4(19, 0, 2), v6(0x19, 0, 2)];

    /// Lays it out and waits until `near` reaches `far` by each link.
    pub fn new(config: &MultipathConfig) -> Result<Self, Error> {
        let (near, far) = (Netns::new("near")?, Netns::new("far")?);
        for netns in [&near, &far] {
            forward(netns)?;
            for family in ["ipv4", "ipv6"] {
                let key = format!("net.{family}.fib_multipath_hash_policy");
                netns.sysctl(&key, &config.policy.to_string())?;
            }
        }
        let links = config.links.clamp(1, 64);
        let mut wire = None;
        for link in 0..links {
            let name = format!("p{link}");
            if config.wire == Some(link) {
                let [first, second] = [&near, &far].map(|netns| WireEnd {
                    netns,
                    interface: &name,
                });
                wire = Some(DelayLine::between(first, second, 1500)?);
            } else {
                near.veth(&name, &far, &name, 1500)?;
            }
        }
        let made = Self { wire, near, far };
        made.address(links)?;
        for link in 0..links {
            let net = FIRST + link;
            wait_reachable(&made.near, v4(18, net, 2))?;
            wait_reachable(&made.near, v6(0x18, net.into(), 2))?;
        }
        for address in Self::FAR {
            wait_reachable(&made.near, address)?;
        }
        Ok(made)
    }

    fn address(&self, links: u8) -> Result<(), Error> {
        let nets = FIRST..FIRST + links;
        for (netns, own, other) in [(&self.near, 1, 2), (&self.far, 2, 1)] {
            for (link, net) in nets.clone().enumerate() {
                netns.ip_batch(&format!(
                    "addr add 198.18.{net}.{own}/24 dev p{link}\n\
                     addr add fd00:18:{net:x}::{own}/64 dev p{link} nodad\n\
                     link set p{link} up"
                ))?;
            }
            let hops = |via: &dyn Fn(u8) -> String| -> String {
                let hop = |(link, net)| format!(" nexthop via {} dev p{link}", via(net));
                nets.clone().enumerate().map(hop).collect()
            };
            // 198.18.1x.0/24 is the host's network behind the other machine.
            netns.ip_batch(&format!(
                "addr add 198.18.8.{own}/32 dev lo\n\
                 addr add fd00:18:8::{own}/128 dev lo nodad\n\
                 route add 198.18.8.{other}/32 src 198.18.8.{own}{v4}\n\
                 route add fd00:18:8::{other}/128 src fd00:18:8::{own}{v6}\n\
                 route add 198.18.1{other}.0/24{v4}",
                v4 = hops(&|net| format!("198.18.{net}.{other}")),
                v6 = hops(&|net| format!("fd00:18:{net:x}::{other}")),
            ))?;
        }
        Ok(())
    }

    /// The wire.
    ///
    /// # Panics
    ///
    /// If it was made without one.
    #[must_use]
    pub fn wire(&self) -> &DelayLine {
        self.wire.as_ref().expect("this network has no wire")
    }

    /// Lets the wire do this to what `near` sends, and nothing to the way back.
    pub fn impair(&self, impairment: Impairment) {
        self.wire().set(Direction::Forward, impairment);
    }

    /// Makes a host behind each machine, and a `VxLAN` (UDP 4789, 198.19.0.1 and `fd00:19::1`,
    /// 198.19.0.2 and `fd00:19::2`) between the two hosts: the machines see its outer packets only.
    /// Returns the host behind `near` and the one behind `far`.
    pub fn overlay(&self) -> Result<[Netns; 2], Error> {
        let hosts = [Netns::new("hosta")?, Netns::new("hostb")?];
        for (own, (host, router)) in (1..).zip(hosts.iter().zip([&self.near, &self.far])) {
            let other = 3 - own;
            router.veth("host0", host, "eth0", 1500)?;
            router.ip_batch(&format!(
                "addr add 198.18.1{own}.1/24 dev host0\nlink set host0 up"
            ))?;
            host.ip_batch(&format!(
                "addr add 198.18.1{own}.2/24 dev eth0\n\
                 link set eth0 up\n\
                 route add default via 198.18.1{own}.1\n\
                 link add vxlan1 mtu 1400 type vxlan id 9 local 198.18.1{own}.2 \
                 remote 198.18.1{other}.2 dev eth0 dstport 4789\n\
                 addr add 198.19.0.{own}/24 dev vxlan1\n\
                 addr add fd00:19::{own}/64 dev vxlan1 nodad\n\
                 link set vxlan1 up"
            ))?;
        }
        for address in Self::BEYOND {
            wait_reachable(&hosts[0], address)?;
        }
        Ok(hosts)
    }
}

const fn v4(second: u8, third: u8, host: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(198, second, third, host))
}

const fn v6(second: u16, third: u16, host: u16) -> IpAddr {
    IpAddr::V6(std::net::Ipv6Addr::new(
        0xfd00, second, third, 0, 0, 0, 0, host,
    ))
}

const fn addresses(host: u8) -> [IpAddr; 2] {
    [v4(18, 8, host), v6(0x18, 8, host as u16)]
}
