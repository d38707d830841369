//! Control messages beside a packet (cmsg(3)), as bytes: what the kernel tells of a packet, and what
//! a packet is sent with. The layout is that of 64-bit machines.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Outgoing, Source, Stamp};

/// Bytes of a control message's header: its length, level and type.
const HEADER: usize = 16;

/// Control messages begin at multiples of this.
const ALIGNED: usize = 8;

/// Bytes of all that a packet is sent with: a traffic class, a source address, a wish for times.
pub(super) const ROOM: usize = 3 * HEADER + 8 + 24 + 8;

/// What a report of the error queue is about (`sock_extended_err` of linux/errqueue.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) errno: u32,
    pub(super) origin: u8,
    /// Type and code of an ICMP error.
    pub(super) icmp: [u8; 2],
    pub(super) info: u32,
    pub(super) data: u32,
}

impl About {
    /// Whether ICMP (of IPv4) says that a filter prohibits the packet: the network, the host, or
    /// communication at all (RFC 1812 section 5.2.7.1). The kernel's number for these is that of a host
    /// that cannot be reached.
    pub(super) const fn is_prohibition(self) -> bool {
        matches!(self.icmp, [3, 9 | 10 | 13])
    }
}

/// What control messages tell of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) stamp: Option<Stamp>,
    pub(super) to: Option<IpAddr>,
    pub(super) ttl: Option<u8>,
    pub(super) traffic_class: Option<u8>,
    pub(super) about: Option<About>,
}

/// Reads control messages. What is cut or unknown is left out.
pub(super) fn read(mut bytes: &[u8]) -> Told {
    let mut told = Told::default();
    while let Some((level, kind, data, rest)) = next(bytes) {
        told.take(level, kind, data);
        bytes = rest;
    }
    told
}

/// Splits off the first control message: its level, its type, its data, and what is behind it.
fn next(bytes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let length = usize::from_ne_bytes(array(bytes, 0)?);
    let data = bytes.get(HEADER..length)?;
    let rest = bytes.get(length.next_multiple_of(ALIGNED)..);
    Some((
        int(bytes, 8)?,
        int(bytes, 12)?,
        data,
        rest.unwrap_or_default(),
    ))
}

impl Told {
    fn take(&mut self, level: i32, kind: i32, data: &[u8]) {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING) => self.stamp = stamp(data),
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // `ipi_addr`, the destination in the packet's header.
                let address = array::<4>(data, 8).map(Ipv4Addr::from);
                self.to = address.map(IpAddr::V4);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let address = array::<16>(data, 0).map(Ipv6Addr::from);
                self.to = address.map(|address| IpAddr::V6(address).to_canonical());
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                self.ttl = int(data, 0).and_then(|ttl| u8::try_from(ttl).ok());
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => self.traffic_class = data.first().copied(),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.traffic_class = int(data, 0).and_then(|class| u8::try_from(class).ok());
            }
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                self.about = about(data);
            }
            _ => {}
        }
    }
}

/// Chooses the better of the three times of `SCM_TIMESTAMPING`: the card's (the third) before the
/// kernel's (the first). A time of all zeros is none.
fn stamp(data: &[u8]) -> Option<Stamp> {
    let time = |at: usize, source| {
        let seconds = i64::from_ne_bytes(array(data, at * 16)?);
        let nanoseconds = i64::from_ne_bytes(array(data, at * 16 + 8)?);
        let whole = seconds.checked_mul(1_000_000_000)?;
        let nanoseconds = whole.checked_add(nanoseconds)?;
        (nanoseconds != 0).then_some(Stamp {
            nanoseconds,
            source,
        })
    };
    time(2, Source::Hardware).or_else(|| time(0, Source::Kernel))
}

fn about(data: &[u8]) -> Option<About> {
    Some(About {
        errno: u32::from_ne_bytes(array(data, 0)?),
        origin: *data.get(4)?,
        icmp: array(data, 5)?,
        info: u32::from_ne_bytes(array(data, 8)?),
        data: u32::from_ne_bytes(array(data, 12)?),
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    array(bytes, at).map(i32::from_ne_bytes)
}

/// The control messages that a packet is sent with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    bytes: [u8; ROOM],
    length: usize,
}

impl Written {
    /// Writes the control messages of a packet to an IPv4 or an IPv6 address. `times`: the times of
    /// sending that are asked for beside what the socket asks for.
    pub(super) fn new(is_to_v4: bool, how: Outgoing, times: Option<u32>) -> Self {
        let mut written = Self {
            bytes: [0; ROOM],
            length: 0,
        };
        let class = i32::from(how.traffic_class).to_ne_bytes();
        if how.traffic_class == 0 {
            // It is what the socket has by itself.
        } else if is_to_v4 {
            written.push(libc::IPPROTO_IP, libc::IP_TOS, &class);
        } else {
            written.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class);
        }
        match how.from.map(|from| from.to_canonical()) {
            Some(IpAddr::V4(from)) => {
                // `ipi_spec_dst`, the source of what is sent, between the interface and `ipi_addr`.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&from.octets());
                written.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(from)) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&from.octets());
                written.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if let Some(times) = times {
            let times = times.to_ne_bytes();
            written.push(libc::SOL_SOCKET, libc::SO_TIMESTAMPING, &times);
        }
        written
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let length = HEADER + data.len();
        let end = self.length + length.next_multiple_of(ALIGNED);
        let Some(place) = self.bytes.get_mut(self.length..end) else {
            debug_assert!(false, "ROOM counts all control messages");
            return;
        };
        place[..8].copy_from_slice(&length.to_ne_bytes());
        place[8..12].copy_from_slice(&level.to_ne_bytes());
        place[12..HEADER].copy_from_slice(&kind.to_ne_bytes());
        place[HEADER..length].copy_from_slice(data);
        self.length = end;
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control message as the kernel writes it.
    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let length = HEADER + data.len();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(length.next_multiple_of(ALIGNED), 0);
        bytes
    }

    fn times(system: [i64; 2], raw: [i64; 2]) -> Vec<u8> {
        let data: Vec<u8> = [system, [0; 2], raw]
            .as_flattened()
            .iter()
            .flat_map(|number| number.to_ne_bytes())
            .collect();
        message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPING, &data)
    }

    fn stamp_of(bytes: &[u8]) -> Option<(i64, Source)> {
        let stamp = read(bytes).stamp?;
        Some((stamp.nanoseconds, stamp.source))
    }

    /// The report of a sent packet, recorded on Linux 6.18 (loopback device, IPv4): the kernel's time,
    /// and what it is about. A card's report has its time at the third place instead of the first.
    const KERNELS: [u8; 16] = [154, 202, 13, 107, 0, 0, 0, 0, 66, 43, 136, 32, 0, 0, 0, 0];
    const ABOUT: [u8; 16] = [42, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 210, 4, 0, 0];

    #[test]
    fn a_cards_time_goes_before_the_kernels() {
        let (system, raw, none) = ([7, 5], [8, 6], [0, 0]);
        let of = |system, raw| stamp_of(&times(system, raw));
        assert_eq!(of(system, raw), Some((8_000_000_006, Source::Hardware)));
        assert_eq!(of(none, raw), Some((8_000_000_006, Source::Hardware)));
        assert_eq!(of(system, none), Some((7_000_000_005, Source::Kernel)));
        assert_eq!(of(none, none), None);
        assert_eq!(of([i64::MAX, 0], none), None, "no time, and no panic");
    }

    #[test]
    fn a_report_of_a_sent_packet_is_read_whole() {
        let none = [0; 16];
        for (times, source) in [
            ([KERNELS, none, none], Source::Kernel),
            ([none, none, KERNELS], Source::Hardware),
        ] {
            let mut bytes = message(
                libc::SOL_SOCKET,
                libc::SCM_TIMESTAMPING,
                times.as_flattened(),
            );
            // Behind what it is about there is an address, here of all zeros.
            let about = [&ABOUT[..], &none].concat();
            bytes.extend(message(libc::IPPROTO_IP, libc::IP_RECVERR, &about));
            let told = read(&bytes);
            let nanoseconds = 1_796_065_946_545_794_882;
            let stamp = Stamp {
                nanoseconds,
                source,
            };
            assert_eq!(told.stamp, Some(stamp));
            let about = told.about.expect("what it is about");
            assert_eq!((about.errno, about.info, about.data), (42, 0, 1234));
            assert_eq!(about.origin, libc::SO_EE_ORIGIN_TIMESTAMPING);
        }
    }

    #[test]
    fn what_is_cut_is_left_out() {
        let whole = times([7, 5], [0, 0]);
        for length in 0..whole.len() {
            assert_eq!(stamp_of(&whole[..length]), None, "{length}");
        }
        assert_eq!(read(&[0; 64]), Told::default());
        assert_eq!(read(&[255; 64]), Told::default());
    }

    #[test]
    fn what_is_written_reads_back() {
        for (from, is_v4) in [
            (IpAddr::from([198, 18, 0, 1]), true),
            (IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]), false),
        ] {
            let how = Outgoing {
                from: Some(from),
                traffic_class: 184,
            };
            let written = Written::new(is_v4, how, Some(2));
            let messages: Vec<_> =
                std::iter::successors(next(written.as_bytes()), |message| next(message.3))
                    .collect();
            assert_eq!(messages.len(), 3, "{written:?}");
            assert_eq!(int(messages[0].2, 0), Some(184));
            assert_eq!(int(messages[2].2, 0), Some(2));
            assert_eq!(messages[2].1, libc::SO_TIMESTAMPING);
        }
    }
}
