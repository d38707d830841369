//! Parses packets of every layout: VLAN tags in the frame, IPv4 options, IPv6
//! extension headers, jumbo lengths, any order of TCP options.

use super::{Link, Packet, Skip, number, options};
use crate::{
    bytes::Bytes,
    layout::Methods,
    packet::{MAPPED, Meta, TcpHead, Wrap},
    query,
};

/// Number of VLAN tags inside the frame that are followed.
const MAX_TAGS: u32 = 2;
/// Number of IPv6 extension headers that are followed.
const MAX_EXTENSIONS: u32 = 6;

/// The IP header of a packet, and where the header after it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Address of the sender, words in network byte order; IPv4 mapped.
    pub src: [u32; 4],
    /// Address of the receiver.
    pub dst: [u32; 4],
    /// VLAN ids, as in [`crate::layout::FlowCold::segment`].
    pub segment: u32,
    /// Offset of the header after IP's: TCP's, or that of another `protocol`.
    pub l4: u32,
    /// Where the IP header says that the packet ends.
    pub end: u32,
    /// Whether the addresses are IPv6.
    pub v6: bool,
    /// Whether the packet is the first fragment of several; never of TCP.
    pub fragment: bool,
    /// IP protocol number: TCP's, or one that [`query::accepts`].
    pub protocol: u8,
}

/// Reads the headers of any packet up to that of TCP, or of another protocol
/// that a method measures.
///
/// # Errors
/// [`Skip`]: why nothing in the packet can be measured.
#[inline(always)]
pub fn network<B: Bytes>(
    bytes: &B,
    link: Link,
    meta: &Meta,
    methods: Methods,
) -> Result<Network, Skip> {
    let (l3, ethertype, segment) = self::link(bytes, link, meta.vlan)?;
    match ethertype {
        number::IPV4 => ipv4(bytes, l3, segment, methods),
        number::IPV6 => ipv6(bytes, l3, segment, methods),
        _ => Err(Skip::NotIp),
    }
}

/// Returns the offset of the network header, its ethertype, and the VLAN ids.
#[inline(always)]
pub(super) fn link<B: Bytes>(bytes: &B, link: Link, vlan: u32) -> Result<(u32, u16, u32), Skip> {
    match link {
        Link::Ethernet => ethernet(bytes, vlan),
        Link::Ip => {
            let ethertype = match bytes.byte(0)? >> 4 {
                4 => number::IPV4,
                6 => number::IPV6,
                _ => return Err(Skip::NotIp),
            };
            Ok((0, ethertype, vlan))
        }
    }
}

/// Whether there is anything to measure behind an IP header.
#[inline(always)]
fn wanted(protocol: u8, methods: Methods) -> bool {
    protocol == number::TCP || query::accepts(protocol, methods)
}

/// Reads the TCP header.
///
/// # Errors
/// [`Skip`]: why nothing in the packet can be measured.
#[inline(always)]
pub fn transport<B: Bytes>(bytes: &B, network: &Network) -> Result<Packet, Skip> {
    let ports = bytes.be32(network.l4)?;
    let head = tcp(bytes, network)?;
    Ok(Packet {
        src: network.src,
        dst: network.dst,
        sport: (ports >> 16) as u16,
        dport: (ports & 0xffff) as u16,
        segment: network.segment,
        wrap: Wrap::default(),
        v6: network.v6,
        head,
    })
}

/// Returns the offset of the network header, its ethertype, and the VLAN ids.
#[inline(always)]
fn ethernet<B: Bytes>(bytes: &B, outer: u32) -> Result<(u32, u16, u32), Skip> {
    let mut at = number::ETHERNET_HEADER;
    let mut ethertype = bytes.be16(at - 2)?;
    let mut segment = outer;
    let mut shift = if outer == 0 { 0 } else { 12 };
    for _ in 0..MAX_TAGS {
        if !number::VLAN_TAGS.contains(&ethertype) {
            break;
        }
        let id = u32::from(bytes.be16(at)? & 0xfff);
        if shift > 12 {
            return Err(Skip::TooDeep);
        }
        segment |= id << shift;
        shift += 12;
        ethertype = bytes.be16(at + 2)?;
        at += 4;
        shift = bytes.hide_from_verifier(shift);
        segment = bytes.hide_from_verifier(segment);
    }
    let (at, segment) = (
        bytes.hide_from_verifier(at),
        bytes.hide_from_verifier(segment),
    );
    if number::VLAN_TAGS.contains(&ethertype) {
        return Err(Skip::TooDeep);
    }
    Ok((at, ethertype, segment))
}

/// Length of an IPv4 header, by its first byte.
#[inline(always)]
fn ipv4_header(version_and_length: u8) -> Result<u32, Skip> {
    let header = u32::from(version_and_length & 0xf) * 4;
    if version_and_length >> 4 != 4 || header < 20 {
        return Err(Skip::Malformed);
    }
    Ok(header)
}

#[inline(always)]
fn ipv4<B: Bytes>(bytes: &B, l3: u32, segment: u32, methods: Methods) -> Result<Network, Skip> {
    // The whole fixed header is there before any of it is used.
    let Ok([first, second, third, src, dst]) = bytes.words::<5>(l3) else {
        ipv4_header(bytes.byte(l3)?)?;
        return Err(Skip::Truncated);
    };
    let [version_and_length, _, total @ ..] = first.to_ne_bytes();
    let header = ipv4_header(version_and_length)?;
    // The first fragment of a datagram has all that its method needs. That of
    // a TCP segment would lack the segment's length.
    let fragment = u32::from_be(second) & 0x3fff;
    let [_, protocol, ..] = third.to_ne_bytes();
    if fragment != 0 && !(fragment == 0x2000 && query::accepts(protocol, methods)) {
        return Err(Skip::Fragment);
    }
    if !wanted(protocol, methods) {
        return Err(Skip::NotTcp);
    }
    let total = u32::from(u16::from_be_bytes(total));
    Ok(Network {
        src: [0, 0, MAPPED, src],
        dst: [0, 0, MAPPED, dst],
        segment,
        v6: false,
        fragment: fragment != 0,
        protocol,
        l4: l3 + header,
        // A length of 0 is a GSO packet beyond 64 KiB (IPv4 BIG TCP).
        end: if total == 0 { bytes.len() } else { l3 + total },
    })
}

#[inline(always)]
fn ipv6<B: Bytes>(bytes: &B, l3: u32, segment: u32, methods: Methods) -> Result<Network, Skip> {
    let Ok(header) = bytes.words::<10>(l3) else {
        let version = bytes.byte(l3)? >> 4;
        return Err(if version == 6 {
            Skip::Truncated
        } else {
            Skip::Malformed
        });
    };
    let [first, second, ends @ ..] = header;
    if u32::from_be(first) >> 28 != 6 {
        return Err(Skip::Malformed);
    }
    let src = [ends[0], ends[1], ends[2], ends[3]];
    let dst = [ends[4], ends[5], ends[6], ends[7]];
    let second = u32::from_be(second);
    let (payload, next) = (second >> 16, (second >> 8) as u8);
    let (l4, protocol, fragment) = extensions(bytes, l3 + 40, next, methods)?;
    // A length of 0 is a jumbogram (RFC 2675) or a GSO packet beyond 64 KiB.
    let end = if payload == 0 {
        bytes.len()
    } else {
        l3 + 40 + payload
    };
    Ok(Network {
        src,
        dst,
        segment,
        v6: true,
        fragment,
        protocol,
        l4,
        end,
    })
}

/// Follows extension headers (RFC 8200 section 4) to the header that is wanted.
/// Returns its offset, its number, and whether it is in the first of several
/// fragments.
#[inline(always)]
fn extensions<B: Bytes>(
    bytes: &B,
    mut at: u32,
    mut next: u8,
    methods: Methods,
) -> Result<(u32, u8, bool), Skip> {
    let mut fragment = 0;
    for _ in 0..MAX_EXTENSIONS {
        let units = match next {
            _ if wanted(next, methods) => break,
            number::HOP_BY_HOP | number::ROUTING | number::DESTINATION => {
                u32::from(bytes.byte(at + 1)?) * 8 + 8
            }
            // In units of 4 bytes, minus 2 (RFC 4302 section 2.2).
            number::AUTHENTICATION => u32::from(bytes.byte(at + 1)?) * 4 + 8,
            number::FRAGMENT => {
                // An atomic fragment (RFC 6946) is a whole packet.
                let offset_and_more = bytes.be16(at + 2)? & 0xfff9;
                if offset_and_more > 1 {
                    return Err(Skip::Fragment);
                }
                fragment |= u32::from(offset_and_more);
                8
            }
            _ => return Err(Skip::NotTcp),
        };
        next = bytes.byte(at)?;
        at = bytes.hide_from_verifier(at + units);
        fragment = bytes.hide_from_verifier(fragment);
    }
    if fragment != 0 && !query::accepts(next, methods) {
        return Err(Skip::Fragment);
    }
    if wanted(next, methods) {
        Ok((at, next, fragment != 0))
    } else {
        Err(Skip::TooDeep)
    }
}

#[inline(always)]
fn tcp<B: Bytes>(bytes: &B, network: &Network) -> Result<TcpHead, Skip> {
    let l4 = network.l4;
    let words = u32::from(bytes.byte(l4 + 12)? >> 4);
    if words < 5 {
        return Err(Skip::Malformed);
    }
    let headers = l4 + words * 4;
    if network.end > bytes.len() {
        return Err(Skip::Truncated);
    }
    if headers > network.end {
        return Err(Skip::Malformed);
    }
    let mut head = TcpHead {
        seq: bytes.be32(l4 + 4)?,
        ack: bytes.be32(l4 + 8)?,
        payload: network.end - headers,
        headers: headers as u16,
        options: (words * 4 - 20) as u8,
        flags: bytes.byte(l4 + 13)?,
        ..TcpHead::default()
    };
    options::read(bytes, l4 + 20, headers, &mut head)?;
    Ok(head)
}
