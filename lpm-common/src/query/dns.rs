//! DNS over UDP and TCP port 53 (RFC 1035 section 4; RFC 7766).
//!
//! DNS is measured at the asking end: the local end sends queries to port 53 of
//! a remote end. Only the 12 bytes of the header are read, so neither lying
//! counts nor names that loop matter. The response code is that of the header.
//! Extended codes (EDNS) are in the message's tail; they show as their low four
//! bits.
//!
//! Every datagram of a merged packet (GSO, GRO) is read. For an answer in
//! fragments the first one is read, because it has the header.
//!
//! Over TCP all messages of a segment are read if it begins with a message,
//! with a message's length, or with a message whose length came in a segment of
//! its own. A query over TCP is taken only whole; an answer's header is enough.
//! A message may be missed this way, so queries over TCP never count as
//! unanswered.

use super::{Head, Query, Rest, Role};
use crate::{
    bytes::Bytes,
    counter::Counter,
    layout::{DNS_UNANSWERED, Leg, Method, NOWHERE, Rcode},
    packet::{Direction, flag},
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

/// Bytes of the length field before a message over TCP.
const LENGTH: u32 = 2;
/// Added to a direction's number it makes the [`Head::leg`] of an announcement,
/// so that an announcement is never taken for a query.
const ANNOUNCED: u8 = 2;

/// Reads a UDP header. Returns the ports, the sender's in the high half, and
/// where the messages are. `size` is the size of each datagram of a merged
/// packet, or 0.
///
/// # Errors
/// [`Counter`]: why nothing in the packet can be measured.
#[inline(always)]
pub fn udp<B: Bytes>(
    bytes: &B,
    network: &Network,
    direction: Direction,
    size: u32,
) -> Result<(u32, Rest), Counter> {
    let truncated = |_| Counter::SkippedTruncated;
    let l4 = network.l4;
    if l4 + UDP_HEADER > network.end {
        return Err(Counter::SkippedMalformed);
    }
    let [ports, second] = bytes.words::<2>(l4).map_err(truncated)?.map(u32::from_be);
    let server = match direction {
        Direction::FromLocal => ports as u16,
        Direction::ToLocal => (ports >> 16) as u16,
    };
    if server != PORT {
        return Err(if network.fragment {
            Counter::SkippedFragment
        } else {
            Counter::SkippedNotTcp
        });
    }
    let length = second >> 16;
    // The rest of a message in fragments is in other packets.
    let beyond = l4 + length > network.end && !network.fragment;
    if length < UDP_HEADER + HEADER || beyond {
        return Err(Counter::DnsMalformed);
    }
    let message = length - UDP_HEADER;
    let rest = Rest {
        at: l4 + UDP_HEADER,
        end: l4 + length,
        size: if size == 0 { message } else { size },
        next: 0,
    };
    Ok((ports, rest))
}

/// Reads the next message of a packet that has one.
///
/// # Errors
/// [`Counter`]: why the message cannot be measured.
#[inline(always)]
pub fn next<B: Bytes>(bytes: &B, rest: &mut Rest, direction: Direction) -> Result<Head, Counter> {
    let (at, left) = (rest.at, rest.end.wrapping_sub(rest.at));
    if rest.size == 0 {
        return next_of_stream(bytes, rest, direction);
    }
    let length = if left < rest.size { left } else { rest.size };
    rest.at = at.wrapping_add(length);
    if length < HEADER {
        return Err(Counter::DnsMalformed);
    }
    let head = message_head(bytes, at, length, direction)?;
    if head.role == Role::Neither {
        return Err(Counter::SkippedNotTcp);
    }
    Ok(head)
}

/// Reads the next message of a TCP segment that has one.
#[inline(always)]
fn next_of_stream<B: Bytes>(
    bytes: &B,
    rest: &mut Rest,
    direction: Direction,
) -> Result<Head, Counter> {
    let (at, left) = (rest.at, rest.end.wrapping_sub(rest.at));
    // Unless the message is read, nothing is known of what comes after it.
    rest.at = rest.end;
    if left != LENGTH && left < LENGTH + HEADER {
        return Err(Counter::DnsNoMessage);
    }
    let Ok(length) = bytes.be16(at) else {
        return Err(Counter::DnsNoMessage);
    };
    if left == LENGTH {
        return announcement(length, rest.next, direction);
    }
    let head = of_stream(
        bytes,
        at + LENGTH,
        (length.into(), left - LENGTH),
        direction,
    )?;
    if u32::from(length) < left - LENGTH {
        rest.at = at + LENGTH + u32::from(length);
    }
    Ok(head)
}

/// Reads the message at `at` of a TCP stream; `left` bytes of the segment
/// follow from there on.
#[inline(always)]
fn of_stream<B: Bytes>(
    bytes: &B,
    at: u32,
    (length, left): (u32, u32),
    direction: Direction,
) -> Result<Head, Counter> {
    // A segment from the middle of a message looks like anything: take nothing
    // for a message that does not hold together.
    let whole = length <= left;
    if length < HEADER || (direction as u8 == Direction::FromLocal as u8 && !whole) {
        return Err(Counter::DnsNoMessage);
    }
    match message_head(bytes, at, length, direction) {
        Ok(head) if head.role != Role::Neither => Ok(Head {
            unanswered: NOWHERE,
            ..head
        }),
        _ => Err(Counter::DnsNoMessage),
    }
}

/// Makes the announcement of a message: only its length has passed, and the
/// next segment begins with it at the sequence number `next`.
#[inline(always)]
fn announcement(length: u16, next: u32, direction: Direction) -> Result<Head, Counter> {
    if u32::from(length) < HEADER {
        return Err(Counter::DnsNoMessage);
    }
    Ok(Head {
        role: Role::Announces,
        method: Method::Dns as u8,
        leg: ANNOUNCED + direction as u8,
        place: 0,
        unanswered: NOWHERE,
        detail: 0,
        length,
        id: next,
    })
}

/// Whether a flow may carry DNS that is measured at this vantage.
#[inline(always)]
#[must_use]
pub const fn over_tcp(packet: &Packet, direction: Direction) -> bool {
    let server = match direction {
        Direction::FromLocal => packet.dport,
        Direction::ToLocal => packet.sport,
    };
    server == PORT && packet.head.payload > 0
}

/// Where the messages of a TCP segment are, if [`over_tcp`] is true of it.
#[inline(always)]
#[must_use]
pub fn tcp(packet: &Packet, direction: Direction, ifindex: u32) -> (Query, Rest) {
    let (at, payload) = (u32::from(packet.head.headers), packet.head.payload);
    let syn = u32::from(packet.head.has(flag::SYN));
    let rest = Rest {
        at,
        end: at + payload,
        size: 0,
        next: packet.head.seq.wrapping_add(payload).wrapping_add(syn),
    };
    let query = Query {
        key: packet.key(direction, ifindex),
        ifindex,
        protocol: number::TCP,
        head: Head::default(),
    };
    (query, rest)
}

/// The name under which the message's length was kept, if a segment that begins
/// without a length belongs to an announced message.
#[inline(always)]
#[must_use]
pub fn announced_as(query: &Query, rest: &Rest, at: u32, direction: Direction) -> Query {
    let head = Head {
        leg: ANNOUNCED + direction as u8,
        id: rest.next.wrapping_sub(rest.end.wrapping_sub(at)),
        ..Head::default()
    };
    Query { head, ..*query }
}

/// Reads the message at `at` whose length was announced. Other messages may
/// follow.
///
/// # Errors
/// [`Counter`]: the bytes are no message.
#[inline(always)]
pub fn announced<B: Bytes>(
    bytes: &B,
    rest: &mut Rest,
    (at, length): (u32, u16),
    direction: Direction,
) -> Result<Head, Counter> {
    let (length, left) = (u32::from(length), rest.end.wrapping_sub(at));
    rest.at = rest.end;
    let head = of_stream(bytes, at, (length, left), direction)?;
    if length < left {
        rest.at = at + length;
    }
    Ok(head)
}

/// Reads a message's header; `length` is the message's length, bytes.
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
        length: 0,
        id: id_and_flags >> 16,
    };
    let response = flags & RESPONSE != 0;
    // The other way round it is the traffic of a server's own port 53.
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
