//! Network interfaces as rtnetlink reports them.

use std::{collections::BTreeMap, fmt, io};

use lpm_common::layout::Vantage;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp},
};
use serde::Serialize;

use super::netlink::Route;

/// Link type of raw IP (`linux/if_arp.h`). The libc crate lacks these numbers.
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_IP6GRE: u16 = 823;

/// Kind of an interface, as `ip -d link` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub enum Kind {
    /// A network card, real or of a virtual machine.
    Physical,
    /// The loopback device `lo`.
    Loopback,
    /// One end of a veth pair.
    Veth,
    /// A `VxLAN` tunnel.
    Vxlan,
    /// A Geneve tunnel.
    Geneve,
    /// A bridge itself, not its ports.
    Bridge,
    /// Any other kind, by the kernel's name for it: `tun`, `wireguard`, `ipip`...
    Other(String),
}

impl Kind {
    fn named(kind: String) -> Self {
        match kind.as_str() {
            "veth" => Self::Veth,
            "vxlan" => Self::Vxlan,
            "geneve" => Self::Geneve,
            "bridge" => Self::Bridge,
            _ => Self::Other(kind),
        }
    }

    /// The name used in rules, in output and, where there is one, by the kernel.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Physical => "physical",
            Self::Loopback => "loopback",
            Self::Veth => "veth",
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::Bridge => "bridge",
            Self::Other(kind) => kind,
        }
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        kind.as_str().to_owned()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The header that a packet starts with where TC sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// The IP header.
    Network,
}

/// One interface of the network namespace that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Index of the interface in that namespace.
    pub index: u32,
    /// Current name of the interface.
    pub name: String,
    /// Kind of the interface.
    pub kind: Kind,
    /// Link type: an `ARPHRD_*` number.
    pub link_type: u16,
    /// MTU: the largest packet without the link-layer header, bytes. None: the kernel did not say.
    pub mtu: Option<u32>,
    /// True: administratively up.
    pub up: bool,
    /// Index of the master: a bridge, a bond, or the synthetic device of a VM.
    pub master: Option<u32>,
    /// Index of a veth's other end, in the namespace where that lives.
    pub peer: Option<u32>,
    /// True: the veth's other end is in another network namespace.
    pub peer_elsewhere: bool,
    /// The kernel's id of the XDP program. None: there is no XDP program.
    pub xdp: Option<u32>,
}

impl Interface {
    /// The header that the packets start with. None: the programs cannot read the link type.
    #[must_use]
    pub fn layer(&self) -> Option<Layer> {
        // linux/if_arp.h. Loopback frames carry an Ethernet header of zeroes.
        match self.link_type {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(Layer::Ethernet),
            libc::ARPHRD_NONE
            | libc::ARPHRD_PPP
            | ARPHRD_RAWIP
            | libc::ARPHRD_SIT
            | libc::ARPHRD_TUNNEL
            | libc::ARPHRD_TUNNEL6
            | libc::ARPHRD_IPGRE
            | ARPHRD_IP6GRE => Some(Layer::Network),
            _ => None,
        }
    }

    /// The vantage that fits the kind of an interface, for one that was asked for by name.
    #[must_use]
    pub fn natural_vantage(&self) -> Vantage {
        match self.kind {
            Kind::Veth => Vantage::Pod,
            Kind::Vxlan | Kind::Geneve => Vantage::Overlay,
            Kind::Bridge => Vantage::Bridge,
            Kind::Physical | Kind::Loopback | Kind::Other(_) => Vantage::Nic,
        }
    }

    /// Parses a message about a link. None: the message is about something else that shares the
    /// type (a bridge reports its ports that way), or names no interface.
    pub(crate) fn from_message(message: &LinkMessage) -> Option<Self> {
        let header = &message.header;
        // Only AF_UNSPEC messages are read: AF_BRIDGE messages concern the port, not the interface.
        if u8::from(header.interface_family) != 0 {
            return None;
        }
        let link_type = u16::from(header.link_layer_type);
        let mut interface = Self {
            index: header.index,
            name: String::new(),
            kind: match link_type {
                libc::ARPHRD_LOOPBACK => Kind::Loopback,
                _ => Kind::Physical,
            },
            link_type,
            mtu: None,
            up: header.flags.contains(LinkFlags::Up),
            master: None,
            peer: None,
            peer_elsewhere: false,
            xdp: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => interface.mtu = Some(*mtu),
                LinkAttribute::Controller(master) => interface.master = Some(*master),
                LinkAttribute::Link(peer) => interface.peer = Some(*peer),
                LinkAttribute::LinkNetNsId(_) => interface.peer_elsewhere = true,
                LinkAttribute::Xdp(attributes) => {
                    interface.xdp = attributes.iter().find_map(|attribute| match attribute {
                        LinkXdp::ProgId(id) => Some(*id),
                        _ => None,
                    });
                }
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            interface.kind = Kind::named(kind.to_string());
                        }
                    }
                }
                _ => {}
            }
        }
        (!interface.name.is_empty()).then_some(interface)
    }
}

/// The interfaces of the calling thread's network namespace, by index.
pub fn list() -> io::Result<BTreeMap<u32, Interface>> {
    dump(&mut Route::open()?)
}

pub(crate) fn dump(route: &mut Route) -> io::Result<BTreeMap<u32, Interface>> {
    let found = route.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(found
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Interface::from_message(link),
            _ => None,
        })
        .map(|interface| (interface.index, interface))
        .collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An interface to try rules on.
    pub(crate) fn interface(name: &str, kind: Kind) -> Interface {
        Interface {
            index: 7,
            name: name.to_owned(),
            kind,
            link_type: libc::ARPHRD_ETHER,
            mtu: Some(1500),
            up: true,
            master: None,
            peer: None,
            peer_elsewhere: false,
            xdp: None,
        }
    }

    #[test]
    fn link_types_without_ethernet_header() {
        let mut tun = interface("tun0", Kind::Other("tun".to_owned()));
        assert_eq!(tun.layer(), Some(Layer::Ethernet));
        for link_type in [0xFFFE, 512, 519, 768, 769, 776, 778, 823] {
            tun.link_type = link_type;
            assert_eq!(tun.layer(), Some(Layer::Network), "{link_type}");
        }
        // InfiniBand: its header is neither.
        tun.link_type = 32;
        assert_eq!(tun.layer(), None);
    }

    #[test]
    fn the_loopback_interface_is_found() {
        let interfaces = list().expect("rtnetlink needs no privilege");
        let lo = interfaces
            .values()
            .find(|interface| interface.name == "lo")
            .expect("lo");
        assert_eq!(lo.kind, Kind::Loopback);
        assert_eq!(lo.layer(), Some(Layer::Ethernet));
    }
}
