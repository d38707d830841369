//! The netlink path: clsact filters, for kernels before 6.6.
//!
//! A filter outlives its process. Its place (priority and handle) may be taken over by somebody
//! else between two looks. So every filter is read again before it is deleted. It is deleted only
//! if its program is ours by its kernel id.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{bpf::Direction, netlink::Route};

/// All protocols, as TC wants it: network byte order (`ETH_P_ALL`).
const ALL_PROTOCOLS: u16 = 3u16.to_be();

/// A filter as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) interface: u32,
    pub(crate) direction: Direction,
    pub(crate) priority: u16,
    /// Protocol, in network byte order.
    pub(crate) protocol: u16,
    pub(crate) handle: u32,
    pub(crate) kind: String,
    /// Chain of the filter. Only the filters of chain 0 are run for each packet.
    pub(crate) chain: u32,
    /// Name that the owner gave it (`TCA_BPF_NAME`).
    pub(crate) name: Option<String>,
    /// Kernel id of the filter's program.
    pub(crate) program: Option<u32>,
    pub(crate) tag: Option<u64>,
}

impl Filter {
    /// True if a BPF filter for all protocols can share this filter's priority.
    pub(crate) fn shares_priority(&self) -> bool {
        self.kind == TcFilterBpf::KIND && self.protocol == ALL_PROTOCOLS
    }
}

/// Makes sure that the interface has the clsact qdisc, which filters hang on. True: it was added.
pub(crate) fn ensure_clsact(route: &mut Route, interface: u32) -> io::Result<bool> {
    let mut request = message(interface);
    request.header.handle = TcHandle {
        major: 0xFFFF,
        minor: 0,
    };
    request.header.parent = TcHandle::CLSACT;
    request
        .attributes
        .push(TcAttribute::Kind(CLSACT.to_owned()));
    let request = RouteNetlinkMessage::NewQueueDiscipline(request);
    match route.change(request, NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Ok(true),
        // An `ingress` qdisc can sit there instead. It takes filters for the egress, too, and runs
        // them on what comes in: our two programs would both see the same packets.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            if is_clsact(route, interface)? {
                Ok(false)
            } else {
                Err(error)
            }
        }
        Err(error) => Err(error),
    }
}

const CLSACT: &str = "clsact";

fn is_clsact(route: &mut Route, interface: u32) -> io::Result<bool> {
    // The kernel lists those of all interfaces. Asking for one would be answered by a
    // notification to everybody who listens.
    let request = RouteNetlinkMessage::GetQueueDiscipline(message(interface));
    Ok(route.dump(&request)?.iter().any(|found| match found {
        RouteNetlinkMessage::NewQueueDiscipline(qdisc) => {
            i64::from(qdisc.header.index) == i64::from(interface)
                && qdisc.header.parent == TcHandle::CLSACT
                && qdisc
                    .attributes
                    .contains(&TcAttribute::Kind(CLSACT.to_owned()))
        }
        _ => false,
    }))
}

/// The filters of one hook, in the order in which they are run. Empty if the interface has no qdisc
/// for them.
pub(crate) fn filters(
    route: &mut Route,
    interface: u32,
    direction: Direction,
) -> io::Result<Vec<Filter>> {
    let mut request = message(interface);
    request.header.parent = parent(direction);
    let found = match route.dump(&RouteNetlinkMessage::GetTrafficFilter(request)) {
        Ok(found) => found,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(found
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewTrafficFilter(message) => Some(message),
            _ => None,
        })
        .filter(|message| i64::from(message.header.index) == i64::from(interface))
        .map(|message| parse(message, interface, direction))
        .collect())
}

fn parse(message: &TcMessage, interface: u32, direction: Direction) -> Filter {
    let [high, low, protocol @ ..] = message.header.info.to_be_bytes();
    let mut filter = Filter {
        interface,
        direction,
        priority: u16::from_be_bytes([high, low]),
        protocol: u16::from_be_bytes(protocol),
        handle: message.header.handle.into(),
        kind: String::new(),
        chain: 0,
        name: None,
        program: None,
        tag: None,
    };
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
            TcAttribute::Chain(chain) => filter.chain = *chain,
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => {
                            filter.name = Some(name.clone());
                        }
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = Some(*id),
                        // The byte order of aya's ProgramInfo::tag().
                        TcOption::Bpf(TcFilterBpfOption::ProgTag(tag)) => {
                            filter.tag = Some(u64::from_be_bytes(*tag));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    filter
}

/// The place of a new filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) interface: u32,
    pub(crate) direction: Direction,
    pub(crate) priority: u16,
    pub(crate) handle: u32,
}

/// Adds a direct-action filter. The error is `EEXIST` if the place is taken.
pub(crate) fn add(
    route: &mut Route,
    place: Place,
    program: impl AsFd,
    name: &str,
) -> io::Result<()> {
    put(route, place, program, name, NLM_F_CREATE | NLM_F_EXCL)
}

/// Replaces the program of a filter that has just been read and found to be ours. It happens at
/// once: each packet meets one of both.
pub(crate) fn replace(
    route: &mut Route,
    place: Place,
    program: impl AsFd,
    name: &str,
) -> io::Result<()> {
    put(route, place, program, name, NLM_F_CREATE)
}

fn put(
    route: &mut Route,
    place: Place,
    program: impl AsFd,
    name: &str,
    flags: u16,
) -> io::Result<()> {
    let mut message = message(place.interface);
    message.header.parent = parent(place.direction);
    message.header.handle = place.handle.into();
    message.header.info = info(place.priority, ALL_PROTOCOLS);
    let fd = u32::try_from(program.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    message
        .attributes
        .push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(fd)),
        TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    route.change(RouteNetlinkMessage::NewTrafficFilter(message), flags)
}

/// Deletes a filter that has just been read and found to be ours.
pub(crate) fn delete(route: &mut Route, filter: &Filter) -> io::Result<()> {
    let mut message = message(filter.interface);
    message.header.parent = parent(filter.direction);
    // Without a handle the kernel would delete all filters of the priority.
    if filter.handle == 0 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    message.header.handle = filter.handle.into();
    message.header.info = info(filter.priority, filter.protocol);
    message
        .attributes
        .push(TcAttribute::Kind(filter.kind.clone()));
    route.change(RouteNetlinkMessage::DelTrafficFilter(message), 0)
}

fn message(interface: u32) -> TcMessage {
    let mut message = TcMessage::default();
    // The kernel's interface indices are positive ints.
    message.header.index = i32::try_from(interface).unwrap_or(0);
    message
}

fn parent(direction: Direction) -> TcHandle {
    let minor = match direction {
        Direction::Ingress => TcHandle::MIN_INGRESS,
        Direction::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle {
        major: 0xFFFF,
        minor,
    }
}

fn info(priority: u16, protocol: u16) -> u32 {
    u32::from(priority) << 16 | u32::from(protocol)
}
