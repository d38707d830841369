//! Ports: the traffic of interfaces, their losses, and where tunnels lead, as the kernel counts
//! them.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, Stats64},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
};

use super::{
    interfaces::{Interface, Kind},
    netlink::Route,
    netns::Netns,
};

/// Traffic of one direction of an interface since it exists (`struct rtnl_link_stats64`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes, with their link-layer headers.
    pub bytes: u64,
    /// Packets; a GSO packet is one.
    pub packets: u64,
    /// Packets that were dropped for want of memory, buffers, or a taker.
    pub drops: u64,
    /// Packets with errors.
    pub errors: u64,
}

/// An interface with its traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The interface.
    pub interface: Interface,
    /// Traffic that the interface received.
    pub received: Carried,
    /// Traffic that the interface sent.
    pub transmitted: Carried,
    /// Capacity in bits per second. None: the interface has no speed of its own, or does not say.
    pub capacity: Option<u64>,
    /// Other ends of the tunnel, if the interface is one and they were asked for.
    pub remotes: Vec<IpAddr>,
}

/// Reads the ports of one network namespace.
#[derive(Debug)]
pub struct Ports {
    route: Mutex<Route>,
}

impl Ports {
    /// Opens the network namespace. None: that of the caller.
    ///
    /// # Errors
    /// The namespace or rtnetlink cannot be used.
    pub fn open(netns: Option<Netns>) -> io::Result<Self> {
        let open = move || {
            netns.map_or(Ok(()), |netns| netns.enter().map_err(io::Error::other))?;
            Route::open()
        };
        // A socket stays in the namespace where it was opened. This thread does not go there.
        let route = thread::Builder::new()
            .name("lpm-ports".to_owned())
            .spawn(open)?
            .join();
        let route = route.map_err(|_| io::Error::other("the thread that opens it panicked"))??;
        Ok(Self {
            route: Mutex::new(route),
        })
    }

    /// All interfaces, by index.
    ///
    /// # Errors
    /// rtnetlink does not answer.
    pub fn read(&self) -> io::Result<BTreeMap<u32, Port>> {
        let mut route = self.route();
        let links = route.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let found = links.iter().filter_map(port_of);
        let mut ports: BTreeMap<u32, Port> =
            found.map(|port| (port.interface.index, port)).collect();
        if ports.values().any(is_tunnel) {
            for (index, remote) in remotes(&mut route)? {
                if let Some(port) = ports.get_mut(&index)
                    && !port.remotes.contains(&remote)
                {
                    port.remotes.push(remote);
                }
            }
        }
        let speeds: BTreeMap<u32, Option<u64>> = ports
            .iter()
            .map(|(index, port)| (*index, port.capacity))
            .collect();
        for port in ports.values_mut().filter(|port| is_tunnel(port)) {
            port.capacity = card(port).and_then(|index| *speeds.get(&index)?);
        }
        Ok(ports)
    }

    /// Some interfaces, by index, without the other ends of tunnels. Interfaces that are gone are
    /// missing. Asking for a few costs a few microseconds. Asking for all costs milliseconds on a
    /// node of 250 pods, whose interfaces the kernel looks for in lists of namespaces.
    ///
    /// # Errors
    /// rtnetlink does not answer.
    pub fn read_some(
        &self,
        indices: impl IntoIterator<Item = u32>,
    ) -> io::Result<BTreeMap<u32, Port>> {
        let mut route = self.route();
        let mut ports = BTreeMap::new();
        for index in indices {
            let Some(mut port) = one(&mut route, index)? else {
                continue;
            };
            if let Some(card) = card(&port) {
                port.capacity = one(&mut route, card)?.and_then(|card| card.capacity);
            }
            ports.insert(index, port);
        }
        Ok(ports)
    }

    fn route(&self) -> MutexGuard<'_, Route> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One interface by its index. None: it is gone.
fn one(route: &mut Route, index: u32) -> io::Result<Option<Port>> {
    let mut ask = LinkMessage::default();
    ask.header.index = index;
    match route.get(RouteNetlinkMessage::GetLink(ask)) {
        Ok(found) => Ok(found.as_ref().and_then(port_of)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_tunnel(port: &Port) -> bool {
    matches!(port.interface.kind, Kind::Vxlan)
}

/// Index of the card under a tunnel, whose speed is the tunnel's.
fn card(port: &Port) -> Option<u32> {
    port.interface.peer.filter(|_| is_tunnel(port))
}

fn port_of(message: &RouteNetlinkMessage) -> Option<Port> {
    match message {
        RouteNetlinkMessage::NewLink(link) => port(link),
        _ => None,
    }
}

fn port(link: &LinkMessage) -> Option<Port> {
    let interface = Interface::from_message(link)?;
    let (mut carried, mut address) = ((Carried::default(), Carried::default()), None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Stats64(stats) => carried = both(stats),
            LinkAttribute::Address(bytes) => address = Some(bytes),
            _ => {}
        }
    }
    let capacity = match interface.kind {
        // The speed that a veth or a bridge reports is made up.
        Kind::Physical => address.and_then(|address| speed(&interface, address)),
        _ => None,
    };
    Some(Port {
        interface,
        received: carried.0,
        transmitted: carried.1,
        capacity,
        remotes: Vec::new(),
    })
}

fn both(stats: &Stats64) -> (Carried, Carried) {
    let received = Carried {
        bytes: stats.rx_bytes,
        packets: stats.rx_packets,
        drops: stats.rx_dropped,
        errors: stats.rx_errors,
    };
    let transmitted = Carried {
        bytes: stats.tx_bytes,
        packets: stats.tx_packets,
        drops: stats.tx_dropped,
        errors: stats.tx_errors,
    };
    (received, transmitted)
}

/// Bits per second, from `/sys/class/net/<name>/speed` (Mbit/s; -1, or an error: unknown).
///
/// `/sys` shows the network namespace that it was mounted in, which need not be the watched one. An
/// interface with another index or address there is another interface.
fn speed(interface: &Interface, address: &[u8]) -> Option<u64> {
    let read = |what: &str| {
        let text = fs::read_to_string(format!("/sys/class/net/{}/{what}", interface.name)).ok()?;
        Some(text.trim().to_owned())
    };
    let hex: Vec<String> = address.iter().map(|byte| format!("{byte:02x}")).collect();
    if read("ifindex")? != interface.index.to_string() || read("address")? != hex.join(":") {
        return None;
    }
    let megabits: u64 = read("speed")?.parse().ok()?;
    Some(megabits * 1_000_000)
}

/// The other ends of the namespace's tunnels, with the index of their interface. They are the
/// destinations in the tunnels' forwarding tables.
fn remotes(route: &mut Route) -> io::Result<Vec<(u32, IpAddr)>> {
    let mut ask = NeighbourMessage::default();
    ask.header.family = AddressFamily::Bridge;
    let found = route.dump(&RouteNetlinkMessage::GetNeighbour(ask))?;
    Ok(found.iter().filter_map(remote).collect())
}

fn remote(message: &RouteNetlinkMessage) -> Option<(u32, IpAddr)> {
    let RouteNetlinkMessage::NewNeighbour(entry) = message else {
        return None;
    };
    let address = entry
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
            // No family of its own marks the address of a forwarding entry.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => plain(bytes),
            _ => None,
        })?;
    (!address.is_unspecified() && !address.is_multicast())
        .then_some((entry.header.ifindex, address))
}

fn plain(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}
