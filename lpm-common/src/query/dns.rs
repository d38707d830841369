//! DNS over UDP and TCP port 53 (RFC 1035 section 4; RFC 7766).
//!
//! Measured at the asking end: what the local end asks a remote port 53. Only
//! the 12 bytes of the header are read, so neither lying counts nor names that
//! loop matter. The response code is the header's; extended codes (EDNS) are
//! in the message's tail, and show as what their low four bits are.
//!
//! Over TCP the first message of a segment is read, if the segment begins with
//! one; what follows in it is counted. A query there is taken only whole, an
//! answer with nothing but its header. As a message may so be missed, queries
//! over TCP never count as unanswered.

use super::{Head, Query, Role};
use crate::{
    bytes::Bytes,
    counter::Counter,
    layout::{DNS_UNANSWERED, Leg, Method, NOWHERE, Rcode},
    packet::Direction,
    parse::{Network, Packet, number},
};

/// The server's port.
pub const PORT: u16 = 53;

const UDP_HEADER: u32 = 8;
/// Bytes of a message's header.
const HEADER: u32 = 12;
/// Bytes of the shortest question: the root's name, type and class.
const QUESTION: u32 = 5;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;

/// Bits of [`Head::detail`] that hold the response code.
pub const RCODE: u8 = 0x0f;
/// Bit of [`Head::detail`]: the answer was cut short (TC).
pub const CUT_SHORT: u8 = 0x80;
/// Bit of [`Head::detail`]: more messages follow in the segment.
pub const FURTHER: u8 = 0x40;

/// Reads a UDP datagram; also gives its ports, the sender's in the high half.
///
/// # Errors
/// [`Counter`]: why there is nothing to measure in it.
#[inline(always)]
pub fn udp<B: Bytes>(
    bytes: &B,
    network: &Network,
    direction: Direction,
) -> Result<(u32, Head), Counter> {
    let truncated = |_| Counter::SkippedTruncated;
    let l4 = network.l4;
    if l4 + UDP_HEADER > network.end {
        return Err(Counter::SkippedMalformed);
    }
    let ports = bytes.be32(l4).map_err(truncated)?;
    let server = match direction {
        Direction::FromLocal => ports as u16,
        Direction::ToLocal => (ports >> 16) as u16,
    };
    if server != PORT {
        return Err(Counter::SkippedNotTcp);
    }
    let length = u32::from(bytes.be16(l4 + 4).map_err(truncated)?);
    if length < UDP_HEADER + HEADER || l4 + length > network.end {
        return Err(Counter::DnsMalformed);
    }
    let message = length - UDP_HEADER;
    let head = message_head(bytes, l4 + UDP_HEADER, message, direction)?;
    if head.role == Role::Neither {
        return Err(Counter::SkippedNotTcp);
    }
    Ok((ports, head))
}

/// Whether a flow may carry DNS that is measured here.
#[inline(always)]
#[must_use]
pub const fn over_tcp(packet: &Packet, direction: Direction) -> bool {
    let server = match direction {
        Direction::FromLocal => packet.dport,
        Direction::ToLocal => packet.sport,
    };
    server == PORT && packet.head.payload > 0
}

/// Reads a TCP segment of which [`over_tcp`] holds.
///
/// # Errors
/// [`Counter`]: why there is nothing to measure in it.
#[inline(always)]
pub fn tcp<B: Bytes>(
    bytes: &B,
    packet: &Packet,
    direction: Direction,
    ifindex: u32,
) -> Result<Query, Counter> {
    let cut = |_| Counter::DnsNoMessage;
    let at = u32::from(packet.head.headers);
    let payload = packet.head.payload;
    if payload < 2 + HEADER {
        return Err(Counter::DnsNoMessage);
    }
    let length = u32::from(bytes.be16(at).map_err(cut)?);
    // A segment from the middle of a message looks like anything: take nothing
    // for a message that does not hold together.
    let whole = 2 + length <= payload;
    if length < HEADER || (direction as u8 == Direction::FromLocal as u8 && !whole) {
        return Err(Counter::DnsNoMessage);
    }
    let Ok(mut head) = message_head(bytes, at + 2, length, direction) else {
        return Err(Counter::DnsNoMessage);
    };
    if head.role == Role::Neither {
        return Err(Counter::DnsNoMessage);
    }
    head.unanswered = NOWHERE;
    if 2 + length < payload {
        head.detail |= FURTHER;
    }
    Ok(Query {
        key: packet.key(direction, ifindex),
        ifindex,
        protocol: number::TCP,
        head,
    })
}

/// Reads a message's header; `length` is that of the message, bytes.
#[inline(always)]
fn message_head<B: Bytes>(
    bytes: &B,
    at: u32,
    length: u32,
    direction: Direction,
) -> Result<Head, Counter> {
    let truncated = |_| Counter::SkippedTruncated;
    let id_and_flags = bytes.be32(at).map_err(truncated)?;
    let flags = id_and_flags as u16;
    if flags & OPCODE != 0 {
        return Err(Counter::DnsOpcode);
    }
    let mut head = Head {
        role: Role::Neither,
        method: Method::Dns as u8,
        leg: Leg::Remote as u8,
        place: 0,
        unanswered: DNS_UNANSWERED,
        detail: 0,
        id: id_and_flags >> 16,
    };
    let response = flags & RESPONSE != 0;
    // The other way round it is a server's traffic from its own port 53.
    match direction {
        Direction::FromLocal if !response => {
            let questions = bytes.be16(at + 4).map_err(truncated)?;
            if questions == 0 || length < HEADER + QUESTION {
                return Err(Counter::DnsMalformed);
            }
            head.role = Role::Asks;
        }
        // An error's answer may leave out the question (RFC 1035 section 4.1.1).
        Direction::ToLocal if response => {
            head.role = Role::Answers;
            head.detail = flags as u8 & RCODE;
            head.place = if head.detail < Rcode::Other as u8 {
                head.detail
            } else {
                Rcode::Other as u8
            };
            if flags & TRUNCATED != 0 {
                head.detail |= CUT_SHORT;
            }
        }
        _ => {}
    }
    Ok(head)
}
