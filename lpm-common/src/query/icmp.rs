//! ICMP echo (RFC 792; RFC 4443 section 4).
//!
//! The id and sequence number of the echo request identify the query. For a
//! message in fragments the first one has them, and the time is taken when it
//! passes. Echo requests of both ends are measured; those of the local end give
//! the remote leg. All other messages, errors that quote an echo included, are
//! neither query nor answer.

use super::{Head, Role};
use crate::{
    bytes::Bytes,
    counter::Counter,
    layout::{ICMP_UNANSWERED, Leg, Method},
    packet::Direction,
    parse::{Network, number},
};

/// Bytes of the header of both messages.
const HEADER: u32 = 8;

/// Type and code of echo request and echo reply.
const fn types(v6: bool) -> (u16, u16) {
    if v6 {
        (128 << 8, 129 << 8)
    } else {
        (8 << 8, 0)
    }
}

/// Whether this is the type and code of an echo request or an echo reply.
#[inline(always)]
#[must_use]
pub const fn is_echo(v6: bool, type_and_code: u16) -> bool {
    let (request, reply) = types(v6);
    type_and_code == request || type_and_code == reply
}

/// Reads an ICMP echo message.
///
/// # Errors
/// [`Counter`]: why the message cannot be measured.
#[inline(always)]
pub fn read<B: Bytes>(bytes: &B, network: &Network, direction: Direction) -> Result<Head, Counter> {
    // ICMPv6 in IPv4, or the other way round, is no valid message.
    if network.v6 != (network.protocol == number::ICMPV6) {
        return Err(Counter::SkippedNotTcp);
    }
    let l4 = network.l4;
    if l4 + HEADER > network.end {
        return Err(Counter::SkippedMalformed);
    }
    let truncated = |_| Counter::SkippedTruncated;
    let (request, reply) = types(network.v6);
    let [first, id_and_sequence] = bytes.words::<2>(l4).map_err(truncated)?;
    let type_and_code = (u32::from_be(first) >> 16) as u16;
    let role = if type_and_code == request {
        Role::Asks
    } else if type_and_code == reply {
        Role::Answers
    } else {
        return Err(Counter::SkippedNotTcp);
    };
    let leg = match (role, direction) {
        (Role::Asks, Direction::FromLocal) | (Role::Answers, Direction::ToLocal) => Leg::Remote,
        _ => Leg::Local,
    } as u8;
    Ok(Head {
        role,
        method: Method::Icmp as u8,
        leg,
        place: leg * 4,
        unanswered: leg * 4 + ICMP_UNANSWERED,
        detail: 0,
        length: 0,
        id: u32::from_be(id_and_sequence).rotate_left(16),
    })
}
