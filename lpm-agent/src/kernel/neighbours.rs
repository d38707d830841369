//! The kernel's neighbours: which addresses of directly connected networks answer ARP and ND.

use std::{collections::BTreeMap, io, net::IpAddr, time::Duration};

use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::netlink::Route;

/// Ticks per second of the ages that rtnetlink tells (`USER_HZ`, `jiffies_to_clock_t` in
/// net/core/neighbour.c).
const TICKS: u32 = 100;

/// What the kernel knows of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface that leads to it.
    pub index: u32,
    /// Whether it was asked and did not answer, or has not answered yet.
    pub is_failed: bool,
    /// Time since it last showed that it is there: by an answer, or by traffic of TCP.
    pub confirmed: Duration,
}

/// All neighbours of the calling thread's network namespace, by address.
///
/// # Errors
/// rtnetlink cannot be asked.
pub fn all() -> io::Result<BTreeMap<IpAddr, Neighbour>> {
    let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let found = Route::open()?.dump(&request)?;
    let neighbours = found.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewNeighbour(neighbour) => read(neighbour),
        _ => None,
    });
    Ok(neighbours.collect())
}

/// Has the kernel ask a neighbour again, as it does by itself once what it knows is old (state
/// `PROBE`). Meanwhile packets go on as before.
///
/// # Errors
/// The capability `NET_ADMIN` is missing, or the entry is gone.
pub fn ask(address: IpAddr, neighbour: &Neighbour) -> io::Result<()> {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.header.ifindex = neighbour.index;
    message.header.state = NeighbourState::Probe;
    message.attributes = vec![NeighbourAttribute::Destination(destination)];
    // Without NLM_F_CREATE an entry that is gone stays so.
    Route::open()?.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE)
}

fn read(message: &NeighbourMessage) -> Option<(IpAddr, Neighbour)> {
    let is_failed = match message.header.state {
        NeighbourState::Failed | NeighbourState::Incomplete => true,
        // Nobody asks these: the device needs no addresses, or somebody set them.
        NeighbourState::Noarp | NeighbourState::Permanent | NeighbourState::None => return None,
        _ => false,
    };
    let (mut address, mut confirmed) = (None, Duration::MAX);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::from(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::from(*v6));
            }
            NeighbourAttribute::CacheInfo(info) => {
                confirmed = Duration::from_secs(info.confirmed.into()) / TICKS;
            }
            _ => {}
        }
    }
    let neighbour = Neighbour {
        index: message.header.ifindex,
        is_failed,
        confirmed,
    };
    Some((address?, neighbour))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(state: NeighbourState) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.state = state;
        let address = NeighbourAddress::Inet([198, 18, 0, 2].into());
        message.attributes = vec![NeighbourAttribute::Destination(address)];
        message
    }

    #[test]
    fn only_who_is_asked_can_fail() {
        let of = |state| read(&message(state)).map(|(_, neighbour)| neighbour.is_failed);
        assert_eq!(of(NeighbourState::Failed), Some(true));
        assert_eq!(of(NeighbourState::Incomplete), Some(true));
        for state in [
            NeighbourState::Reachable,
            NeighbourState::Stale,
            NeighbourState::Probe,
        ] {
            assert_eq!(of(state), Some(false), "{state:?}");
        }
        assert_eq!(of(NeighbourState::Noarp), None);
        assert_eq!(of(NeighbourState::Permanent), None);
    }

    #[test]
    fn the_kernel_tells_its_neighbours() {
        // Every namespace may have none; the request itself must be understood.
        all().expect("rtnetlink");
    }
}
