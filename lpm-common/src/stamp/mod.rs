//! STAMP test packets as bytes: the base packets (RFC 8762 section 4, RFC 8972 section 3) and their
//! TLVs (RFC 8972 section 4).
//!
//! Everything here is pure: packets in, packets out. Sockets, clocks and keys are the agent's.
//! [`packet`] has the base packets of both modes, [`time`] the timestamps and the Error Estimate,
//! [`tlv`] the extensions, [`reflect`] what a Session-Reflector makes of a packet, and [`reply`]
//! what a Session-Sender reads from the answer.
//!
//! Bytes that a peer wrote are hostile: no function here panics on them, and an answer is never
//! longer than the packet that it answers.

pub mod agent;
mod location;
pub mod packet;
mod protection;
pub mod reflect;
pub mod reply;
pub mod time;
pub mod tlv;

#[cfg(test)]
mod tests;

pub use packet::{Mode, ReflectorPacket, SenderPacket, session_number};
pub use protection::Mac;
pub use time::{ErrorEstimate, Format, Timestamp};

/// The UDP port that a Session-Reflector listens on unless told otherwise (RFC 8762 section 4.1).
pub const PORT: u16 = 862;

/// Bytes of an HMAC in a base packet and in the HMAC TLV: HMAC-SHA-256 cut to 128 bits (RFC 8762
/// section 4.4).
pub const HMAC: usize = 16;

/// Bytes of the shortest packet that is answered: a TWAMP-Light sender's packet whose padding makes
/// room for the answer's fields up to the TTL (RFC 5357 section 4.2.1). A shorter packet would get
/// an answer longer than itself.
pub const SHORTEST: usize = 41;

/// Copies `N` bytes from `at`. None: the bytes end before.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Writes `value` at `at`. Bytes beyond the end of `bytes` are left out.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}
