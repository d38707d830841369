//! The Location TLV of an answer (RFC 8972 section 4.2).

use core::net::IpAddr;

use super::{
    put,
    reflect::{Facts, Next, next},
    tlv::{HEADER, flag},
};

/// Sub-TLVs of a Location TLV: what a sender asks for, and what the answer has in its place (RFC
/// 8972 section 4.2.1).
pub(super) mod place {
    pub(in super::super) const SOURCE_MAC: u8 = 1;
    pub(in super::super) const SOURCE_EUI_64: u8 = 3;
    pub(in super::super) const DESTINATION: u8 = 4;
    pub(in super::super) const DESTINATION_V4: u8 = 5;
    pub(in super::super) const DESTINATION_V6: u8 = 6;
    pub(in super::super) const SOURCE: u8 = 7;
    pub(in super::super) const SOURCE_V4: u8 = 8;
    pub(in super::super) const SOURCE_V6: u8 = 9;
}

pub(super) fn locate(facts: &Facts, value: &mut [u8]) {
    put(value, 0, &facts.destination.port().to_be_bytes());
    put(value, 2, &facts.source.port().to_be_bytes());
    let Some(row) = value.get_mut(4..) else {
        return;
    };
    let mut at = 0;
    while let Some(next) = next(row, at) {
        let (flags, kind, end) = match next {
            Next::Cut => (flag::MALFORMED, None, row.len()),
            Next::Whole { kind, length } => {
                let end = at + HEADER + length;
                match (kind, length) {
                    (place::SOURCE_MAC, 8) => {
                        // A datagram socket does not see the MAC address.
                        put(row, at + HEADER, &[0; 8]);
                        (0, Some(place::SOURCE_EUI_64), end)
                    }
                    (place::DESTINATION, 16) => {
                        let kinds = [place::DESTINATION_V4, place::DESTINATION_V6];
                        (
                            0,
                            Some(address(row, at, facts.destination.ip(), kinds)),
                            end,
                        )
                    }
                    (place::SOURCE, 16) => {
                        let kinds = [place::SOURCE_V4, place::SOURCE_V6];
                        (0, Some(address(row, at, facts.source.ip(), kinds)), end)
                    }
                    (place::SOURCE_MAC | place::DESTINATION | place::SOURCE, _) => {
                        (flag::MALFORMED, None, row.len())
                    }
                    _ => (flag::UNRECOGNIZED, None, end),
                }
            }
        };
        put(row, at, &[flags]);
        if let Some(kind) = kind {
            put(row, at + 1, &[kind]);
        }
        at = end;
    }
}

/// Writes an address as the value of the sub-TLV at `at`. Returns the sub-TLV's type.
fn address(row: &mut [u8], at: usize, address: IpAddr, [v4, v6]: [u8; 2]) -> u8 {
    put(row, at + HEADER, &[0; 16]);
    match address.to_canonical() {
        IpAddr::V4(address) => {
            put(row, at + HEADER, &address.octets());
            v4
        }
        IpAddr::V6(address) => {
            put(row, at + HEADER, &address.octets());
            v6
        }
    }
}
