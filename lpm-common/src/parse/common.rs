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
    /// Where the IP header says that the packet ends. Not compared with the length of the frame yet.
    pub end: u32,
}

impl CommonTcp {
    /// Whether the frame, `len` bytes long, has the whole packet.
    #[inline(always)]
    #[must_use]
    pub const fn is_whole(&self, len: u32) -> bool {
        self.l4 < self.end && !self.exceeds(len)
    }

    /// Whether the IP header says that the packet ends beyond the frame, `len` bytes long.
    #[inline(always)]
    #[must_use]
    pub const fn exceeds(&self, len: u32) -> bool {
        self.end > len
    }

    /// Whether the slow path must read the packet for the DNS messages in it.
    #[inline(always)]
    #[must_use]
    pub fn may_be_dns(&self, methods: Methods) -> bool {
        self.ports as u16 == query::dns::PORT && methods.has(Method::Dns)
    }
}

/// What decides whether a packet with timestamps has anything new in it.
#[derive(Clone, Copy, Debug)]
pub struct CommonTimes {
    /// Timestamp value.
    pub tsval: u32,
    /// Timestamp echo reply.
    pub tsecr: u32,
    /// TCP payload, bytes.
    pub payload: u32,
    /// Offset of the payload in the frame, bytes.
    pub headers: u32,
    /// Length of the TCP options, bytes.
    pub options: u32,
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
pub struct Frame<M> {
    /// Link layer: what the frame begins with.
    pub link: Link,
    /// Direction of the packet.
    pub direction: Direction,
    /// Tells the methods that are on. It is asked only where it matters: a kernel program has few
    /// registers.
    pub methods: M,
}

/// Parses a packet of the common layout, as far as the look-up of its flow needs it. The length of
/// the frame is no part of that; see [`CommonTcp::is_whole`].
#[inline(always)]
pub fn common<P: Prefix, S: Seeds, M: Fn() -> Methods>(
    bytes: &P,
    frame: &Frame<M>,
    seeds: &S,
) -> Common {
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
fn v4<P: Prefix, S: Seeds, M: Fn() -> Methods>(
    bytes: &P,
    l3: usize,
    frame: &Frame<M>,
    seeds: &S,
) -> Common {
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
    // Any fragment, the first one included: more-fragments bit or an offset.
    if bytes.be16(l3 + 6) & 0x3fff != 0 {
        return Common::Uncommon;
    }
    let (src, dst) = (bytes.word(l3 + 12), bytes.word(l3 + 16));
    let addresses = match frame.direction {
        Direction::FromLocal => hash::v4(seeds, src, dst),
        Direction::ToLocal => hash::v4(seeds, dst, src),
    };
    let end = l3 as u32 + u32::from(bytes.be16(l3 + 2));
    tcp(bytes, l3 + IPV4_HEADER, end, addresses, frame.direction)
}

/// Parses a protocol other than TCP, whose number is at `protocol`. Tells
/// whether the first bytes can be a query or an answer, or nothing to measure.
#[inline(always)]
fn other<P: Prefix, M: Fn() -> Methods>(
    bytes: &P,
    protocol: usize,
    l4: usize,
    frame: &Frame<M>,
) -> Common {
    let (direction, methods) = (frame.direction, (frame.methods)());
    if query::may_be(bytes.byte(protocol), bytes.be32(l4), direction, methods) {
        Common::Uncommon
    } else {
        Common::Skip(Skip::NotTcp)
    }
}

#[inline(always)]
fn v6<P: Prefix, S: Seeds, M: Fn() -> Methods>(
    bytes: &P,
    l3: usize,
    frame: &Frame<M>,
    seeds: &S,
) -> Common {
    if !bytes.covers(l3 + IPV6_HEADER + TCP_HEADER) || bytes.byte(l3) >> 4 != 6 {
        return Common::Uncommon;
    }
    if bytes.byte(l3 + 6) != number::TCP {
        return match bytes.byte(l3 + 6) {
            number::UDP | number::ICMPV6 => other(bytes, l3 + 6, l3 + IPV6_HEADER, frame),
            _ => Common::Uncommon,
        };
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
    let end = (l3 + IPV6_HEADER) as u32 + u32::from(bytes.be16(l3 + 4));
    tcp(bytes, l3 + IPV6_HEADER, end, addresses, frame.direction)
}

/// Reads the ports. `end` is where the IP header says that the packet ends.
#[inline(always)]
fn tcp<P: Prefix>(bytes: &P, l4: usize, end: u32, addresses: u64, direction: Direction) -> Common {
    let ports = bytes.be32(l4);
    let ports = match direction {
        Direction::FromLocal => ports,
        Direction::ToLocal => ports.rotate_left(16),
    };
    Common::Tcp(CommonTcp {
        addresses,
        ports,
        l4: l4 as u32,
        end,
    })
}

/// Reads what [`CommonTimes`] has of the TCP header, whose bytes `bytes` begins with. None: the
/// packet has no timestamps there, or it is a SYN, FIN or RST, or not whole.
#[inline(always)]
pub fn common_times<P: Prefix>(bytes: &P, packet: &CommonTcp) -> Option<CommonTimes> {
    const EVENTS: u16 = (flag::SYN | flag::FIN | flag::RST) as u16;
    if !bytes.covers(TCP_HEADER + TIMESTAMP) || bytes.be32(20) != number::TIMESTAMP_FIRST {
        return None;
    }
    // The data offset, and the flags in the low byte.
    let offset_and_flags = bytes.be16(12);
    let length = u32::from(offset_and_flags >> 12) * 4;
    let headers = packet.l4 + length;
    if offset_and_flags & EVENTS != 0
        || length < (TCP_HEADER + TIMESTAMP) as u32
        || headers > packet.end
    {
        return None;
    }
    Some(CommonTimes {
        tsval: bytes.be32(24),
        tsecr: bytes.be32(28),
        payload: packet.end - headers,
        headers,
        options: length - TCP_HEADER as u32,
    })
}

/// The sequence number in a TCP header.
#[inline(always)]
pub fn common_seq<P: Prefix>(bytes: &P) -> u32 {
    bytes.be32(4)
}

/// Reads the rest of a TCP header with timestamps.
#[inline(always)]
pub fn common_rest<P: Prefix>(bytes: &P, times: &CommonTimes) -> TcpHead {
    let options = times.options as u8;
    TcpHead {
        seq: common_seq(bytes),
        ack: bytes.be32(8),
        payload: times.payload,
        tsval: times.tsval,
        tsecr: times.tsecr,
        headers: times.headers as u16,
        options,
        flags: bytes.byte(13),
        has_timestamp: true,
        sack: has_sack(bytes, options),
        mss: 0,
    }
}

/// Whether blocks of SACK follow timestamps in the way of common stacks. Other ways are not looked
/// for: only packets whose timestamps are not used need to know.
#[inline(always)]
fn has_sack<P: Prefix>(bytes: &P, options: u8) -> bool {
    usize::from(options) > TIMESTAMP
        && bytes.covers(TCP_HEADER + TIMESTAMP + 4)
        && bytes.be32(32) >> 8 == number::SACK_NEXT
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
        head.sack = has_sack(bytes, head.options);
    } else if length != TCP_HEADER as u32 {
        return None;
    }
    Some(head)
}
