//! Parses packets of the common layout: Ethernet or none, no tag in the frame,
//! IPv4 without options or IPv6 without extension headers, TCP without options
//! or with the timestamp option first, no SYN, no DNS.
//!
//! Packets of other protocols are told apart from queries and their answers,
//! which [`crate::query`] reads.

use super::{Link, Skip, number};
use crate::{
    bytes::Prefix,
    hash::{self, Seeds},
    layout::{Method, Methods},
    packet::{Direction, TcpHead, flag},
    query,
};

/// The addresses of a packet of the common layout, and where its TCP header is.
#[derive(Clone, Copy, Debug)]
pub struct CommonTcp {
    /// The hash of both addresses, for [`hash::fingerprint`].
    pub addresses: u64,
    /// Local port in the high 16 bits, remote port in the low ones.
    pub ports: u32,
    /// Offset of the TCP header.
    pub l4: u32,
    /// Where the IP header says that the packet ends.
    pub end: u32,
}

/// What [`common`] found.
#[derive(Clone, Copy, Debug)]
pub enum Common {
    /// A TCP packet; [`common_head`] reads the rest.
    Tcp(CommonTcp),
    /// Nothing to measure.
    Skip(Skip),
    /// Another layout; [`super::network`] reads it.
    Uncommon,
}

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const TIMESTAMP: usize = 12;

/// What is known of a frame before it is parsed.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Length in bytes, however much of the frame can be read.
    pub len: u32,
    /// Link layer: what the frame begins with.
    pub link: Link,
    /// Direction of the packet.
    pub direction: Direction,
    /// The methods that are on.
    pub methods: Methods,
}

/// Parses a packet of the common layout.
#[inline(always)]
pub fn common<P: Prefix, S: Seeds>(bytes: &P, frame: &Frame, seeds: &S) -> Common {
    match frame.link {
        Link::Ethernet => {
            const L3: usize = number::ETHERNET_HEADER as usize;
            if !bytes.covers(L3 + IPV4_HEADER + TCP_HEADER) {
                return Common::Uncommon;
            }
            match bytes.be16(12) {
                number::IPV4 => v4(bytes, L3, frame, seeds),
                number::IPV6 => v6(bytes, L3, frame, seeds),
                _ => Common::Uncommon,
            }
        }
        Link::Ip => {
            if !bytes.covers(IPV4_HEADER + TCP_HEADER) {
                return Common::Uncommon;
            }
            match bytes.byte(0) >> 4 {
                4 => v4(bytes, 0, frame, seeds),
                6 => v6(bytes, 0, frame, seeds),
                _ => Common::Skip(Skip::NotIp),
            }
        }
    }
}

#[inline(always)]
fn v4<P: Prefix, S: Seeds>(bytes: &P, l3: usize, frame: &Frame, seeds: &S) -> Common {
    if bytes.byte(l3) != 0x45 {
        return Common::Uncommon;
    }
    if bytes.byte(l3 + 9) != number::TCP {
        // Only the first fragment of a datagram has its header.
        if bytes.be16(l3 + 6) & 0x1fff != 0 {
            return Common::Skip(Skip::Fragment);
        }
        return other(bytes, l3 + 9, l3 + IPV4_HEADER, frame);
    }
    let total = u32::from(bytes.be16(l3 + 2));
    // Any fragment, the first one included: more-fragments bit or an offset.
    let fragment = bytes.be16(l3 + 6) & 0x3fff != 0;
    if fragment || total == 0 {
        return Common::Uncommon;
    }
    let (src, dst) = (bytes.word(l3 + 12), bytes.word(l3 + 16));
    let addresses = match frame.direction {
        Direction::FromLocal => hash::v4(seeds, src, dst),
        Direction::ToLocal => hash::v4(seeds, dst, src),
    };
    let end = l3 as u32 + total;
    ports(bytes, l3 + IPV4_HEADER, end, addresses, frame)
}

/// Parses a protocol other than TCP, whose number is at `protocol`. Tells
/// whether the first bytes can be a query or an answer, or nothing to measure.
#[inline(always)]
fn other<P: Prefix>(bytes: &P, protocol: usize, l4: usize, frame: &Frame) -> Common {
    let (direction, methods) = (frame.direction, frame.methods);
    if query::may_be(bytes.byte(protocol), bytes.be32(l4), direction, methods) {
        Common::Uncommon
    } else {
        Common::Skip(Skip::NotTcp)
    }
}

#[inline(always)]
fn v6<P: Prefix, S: Seeds>(bytes: &P, l3: usize, frame: &Frame, seeds: &S) -> Common {
    if !bytes.covers(l3 + IPV6_HEADER + TCP_HEADER) || bytes.byte(l3) >> 4 != 6 {
        return Common::Uncommon;
    }
    if bytes.byte(l3 + 6) != number::TCP {
        return match bytes.byte(l3 + 6) {
            number::UDP | number::ICMPV6 => other(bytes, l3 + 6, l3 + IPV6_HEADER, frame),
            _ => Common::Uncommon,
        };
    }
    let payload = u32::from(bytes.be16(l3 + 4));
    if payload == 0 {
        return Common::Uncommon;
    }
    let address = |at: usize| {
        [
            bytes.word(at),
            bytes.word(at + 4),
            bytes.word(at + 8),
            bytes.word(at + 12),
        ]
    };
    let (src, dst) = (address(l3 + 8), address(l3 + 24));
    let addresses = match frame.direction {
        Direction::FromLocal => hash::v6(seeds, src, dst),
        Direction::ToLocal => hash::v6(seeds, dst, src),
    };
    let end = (l3 + IPV6_HEADER) as u32 + payload;
    ports(bytes, l3 + IPV6_HEADER, end, addresses, frame)
}

/// Reads the ports. `end` is where the IP header says that the packet ends.
#[inline(always)]
fn ports<P: Prefix>(bytes: &P, l4: usize, end: u32, addresses: u64, frame: &Frame) -> Common {
    if end > frame.len {
        return Common::Uncommon;
    }
    let ports = bytes.be32(l4);
    let ports = match frame.direction {
        Direction::FromLocal => ports,
        Direction::ToLocal => ports.rotate_left(16),
    };
    // Read by the slow path, too, for the messages that it carries.
    if frame.methods.has(Method::Dns) && ports as u16 == query::dns::PORT {
        return Common::Uncommon;
    }
    Common::Tcp(CommonTcp {
        addresses,
        ports,
        l4: l4 as u32,
        end,
    })
}

/// Reads the TCP header, whose bytes `bytes` begins with. Call it after the
/// look-up of the flow: fields read before that would have to be kept
/// meanwhile. None: the packet is not of the common layout after all;
/// [`super::network`] reads it.
#[inline(always)]
pub fn common_head<P: Prefix>(bytes: &P, packet: &CommonTcp) -> Option<TcpHead> {
    if !bytes.covers(TCP_HEADER) {
        return None;
    }
    let flags = bytes.byte(13);
    let length = u32::from(bytes.byte(12) >> 4) * 4;
    let headers = packet.l4 + length;
    // A SYN announces the MSS and may make an entry: the slow path.
    if flags & flag::SYN != 0 || headers > packet.end {
        return None;
    }
    let mut head = TcpHead {
        seq: bytes.be32(4),
        ack: bytes.be32(8),
        payload: packet.end - headers,
        headers: headers as u16,
        options: length.wrapping_sub(TCP_HEADER as u32) as u8,
        flags: flags & !flag::SYN,
        ..TcpHead::default()
    };
    if length >= (TCP_HEADER + TIMESTAMP) as u32 {
        if !bytes.covers(TCP_HEADER + TIMESTAMP) || bytes.be32(20) != number::TIMESTAMP_FIRST {
            return None;
        }
        head.has_timestamp = true;
        head.tsval = bytes.be32(24);
        head.tsecr = bytes.be32(28);
        // Common stacks put blocks beside timestamps in this way. Other ways
        // are not looked for here: only packets whose timestamps are not used
        // need to know.
        if length > (TCP_HEADER + TIMESTAMP) as u32 && bytes.covers(TCP_HEADER + TIMESTAMP + 4) {
            head.sack = bytes.be32(32) >> 8 == number::SACK_NEXT;
        }
    } else if length != TCP_HEADER as u32 {
        return None;
    }
    Some(head)
}
