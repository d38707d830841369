//! Host routes: addresses that only one interface leads to. CNIs that give each pod an interface
//! without a bridge install them.

use std::{collections::BTreeMap, io, net::IpAddr};

use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};

use super::netlink::Route;

/// The addresses with a route of their own (`/32`, `/128`), by the index of the interface that it
/// leaves by. They are those of the calling thread's network namespace.
///
/// # Errors
/// rtnetlink cannot be asked.
pub fn host_routes() -> io::Result<BTreeMap<u32, Vec<IpAddr>>> {
    let mut all: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
    let found = Route::open()?.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
    for message in &found {
        if let RouteNetlinkMessage::NewRoute(route) = message
            && let Some((index, address)) = host_route(route)
        {
            all.entry(index).or_default().push(address);
        }
    }
    Ok(all)
}

fn host_route(route: &RouteMessage) -> Option<(u32, IpAddr)> {
    // The node's own addresses are routes too, of type local.
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut index, mut address) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => {
                address = Some((IpAddr::from(*v4), 32));
            }
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => {
                address = Some((IpAddr::from(*v6), 128));
            }
            _ => {}
        }
    }
    let (address, whole) = address?;
    (route.header.destination_prefix_length == whole).then_some((index?, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_routes_only() {
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        route.header.destination_prefix_length = 32;
        let to = RouteAddress::Inet([198, 18, 4, 2].into());
        route.attributes = vec![RouteAttribute::Destination(to), RouteAttribute::Oif(7)];
        let pod = IpAddr::from([198, 18, 4, 2]);
        assert_eq!(host_route(&route), Some((7, pod)));
        route.header.destination_prefix_length = 24;
        assert_eq!(host_route(&route), None);
        route.header.destination_prefix_length = 32;
        route.header.kind = RouteType::Local;
        assert_eq!(host_route(&route), None);
    }
}
