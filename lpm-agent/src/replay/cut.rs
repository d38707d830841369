//! TCP packets of which a capture has the control bits and not all options. A snap length of 68
//! bytes cuts those of a SYN, and over IPv6 all. Nothing of what is cut is guessed. Handshake and
//! sequence numbers need none of it.

use lpm_common::{
    bytes::{Bytes, OutOfBounds},
    packet::flag,
    parse::{self, Network, Packet},
};

/// The fixed header, bytes (RFC 9293 section 3.1).
const FIXED: u32 = 20;
/// Bytes of the header that are needed: up to the control bits.
const NEEDED: u32 = 14;
/// A SACK option with one block (RFC 2018 section 3).
const SACK: u32 = 10;
const END: u8 = 0;
const NOP: u8 = 1;

/// A packet without the options that were cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// The packet with the options that were captured whole. [`lpm_common::packet::TcpHead::sack`]
    /// is set if there may be one among the others.
    pub packet: Packet,
    /// True: there may be timestamps among the options that were cut.
    pub may_have_timestamps: bool,
}

/// A packet that ends where its last whole option does. Beyond it there is no option.
#[derive(Clone, Copy)]
struct Shortened<B> {
    bytes: B,
    from: u32,
}

impl<B: Bytes> Bytes for Shortened<B> {
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        // The copy goes byte by byte: the range may lie on both sides of the end.
        let mut read = [END; N];
        for (at, byte) in (offset..self.from).zip(&mut read) {
            *byte = self.bytes.byte(at)?;
        }
        Ok(read)
    }

    fn len(&self) -> u32 {
        self.bytes.len()
    }
}

/// Reads a TCP packet whose options were cut. None: they were not cut, or the fixed header was cut
/// too, or the packet has to be skipped for another reason.
pub fn read<B: Bytes + Copy>(bytes: B, network: &Network) -> Option<Cut> {
    let l4 = network.l4;
    let words = u32::from(bytes.byte(l4 + 12).ok()? >> 4);
    let headers = l4 + words * 4;
    // The control bits are there, and the last byte of the options is missing.
    bytes.byte(l4 + NEEDED - 1).ok()?;
    if headers <= l4 + FIXED || bytes.byte(headers - 1).is_ok() {
        return None;
    }
    let (from, behind) = whole(&bytes, l4 + FIXED, headers);
    let mut packet = parse::transport(&Shortened { bytes, from }, network).ok()?;
    let head = &mut packet.head;
    head.sack |= !head.has(flag::SYN) && headers.saturating_sub(behind) >= SACK;
    Some(Cut {
        may_have_timestamps: !head.has_timestamp,
        packet,
    })
}

/// The end of the options that were captured whole, and the beginning of what is unknown.
fn whole(bytes: &impl Bytes, mut at: u32, end: u32) -> (u32, u32) {
    while at < end {
        let len = match bytes.byte(at) {
            Ok(END) => return (at, end),
            Ok(NOP) => 1,
            Ok(_) => match bytes.byte(at + 1) {
                Ok(len) if len >= 2 => u32::from(len),
                // Without the option's length its end is unknown.
                _ => return (at, at),
            },
            Err(OutOfBounds) => return (at, at),
        };
        if bytes.byte(at + len - 1).is_err() {
            let sack = bytes.byte(at) == Ok(5);
            return (at, if sack { at } else { at + len });
        }
        at += len;
    }
    (at, end)
}
