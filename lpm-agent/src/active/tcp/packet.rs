//! Segments as bytes (RFC 9293 section 3.1). Pure.

use std::net::{IpAddr, SocketAddr};

use super::Answer;
use crate::active::icmp::packet::checksum;

/// Bytes of a header without options.
const HEADER: usize = 20;

/// Bytes of a SYN: the header, and the option that tells the longest segment.
pub const SYN: usize = HEADER + 4;

const FIN: u8 = 1;
const SYN_FLAG: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A segment that asks for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub target: SocketAddr,
    /// The sequence number. An answer acknowledges the one behind it.
    pub sequence: u32,
}

impl Syn {
    /// Writes the segment with its checksum.
    #[must_use]
    pub fn bytes(&self) -> [u8; SYN] {
        let mut bytes = [0; SYN];
        bytes[..2].copy_from_slice(&self.source.port().to_be_bytes());
        bytes[2..4].copy_from_slice(&self.target.port().to_be_bytes());
        bytes[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        // Length in words of 32 bits, in the upper half.
        bytes[12] = 6 << 4;
        bytes[13] = SYN_FLAG;
        bytes[14..16].copy_from_slice(&64_240_u16.to_be_bytes());
        // The longest segment: an Ethernet frame's without the headers.
        let longest: u16 = if self.target.is_ipv4() { 1460 } else { 1440 };
        bytes[20..22].copy_from_slice(&[2, 4]);
        bytes[22..].copy_from_slice(&longest.to_be_bytes());
        let sum = checksum(&[&self.pseudo_header()[..], &bytes[..]].concat());
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The addresses, the length and the protocol, which the checksum covers, too (RFC 9293 section
    /// 3.1, RFC 8200 section 8.1).
    fn pseudo_header(&self) -> Vec<u8> {
        let length = u8::try_from(SYN).unwrap_or_default();
        let mut bytes = Vec::with_capacity(40);
        for address in [self.source.ip(), self.target.ip()] {
            match address {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        // Both families' forms have the same sum.
        bytes.extend([0, 6, 0, length]);
        bytes
    }
}

/// A segment that answers a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The port that was asked.
    pub from: u16,
    /// The port that the SYN came from.
    pub to: u16,
    /// The sequence number that is acknowledged: one behind the SYN's.
    pub acknowledged: u32,
    /// What it says.
    pub answer: Answer,
}

/// Reads an answer. None: it is another segment, or cut short.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Segment> {
    let header = bytes.first_chunk::<HEADER>()?;
    let answer = match header[13] & (FIN | SYN_FLAG | RST | ACK) {
        flags if flags == SYN_FLAG | ACK => Answer::SynAck,
        flags if flags == RST | ACK => Answer::Reset,
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let number = [header[8], header[9], header[10], header[11]];
    Some(Segment {
        from: port(0),
        to: port(2),
        acknowledged: u32::from_be_bytes(number),
        answer,
    })
}

/// Reads source port and sequence number of a SYN that an ICMP error quotes. It need not quote more
/// (RFC 792: 64 bits).
#[must_use]
pub fn quoted(bytes: &[u8]) -> Option<(u16, u32)> {
    let &[a, b, _, _, s0, s1, s2, s3] = bytes.first_chunk::<8>()?;
    Some((
        u16::from_be_bytes([a, b]),
        u32::from_be_bytes([s0, s1, s2, s3]),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn(source: &str, target: &str) -> Syn {
        Syn {
            source: source.parse().expect("an address"),
            target: target.parse().expect("an address"),
            sequence: 0x0102_0304,
        }
    }

    /// The checksums are Scapy 2.7's: `IP(src, dst)/TCP(sport=40000, dport=80, seq=0x01020304,
    /// window=64240, options=[("MSS", 1460)])`, and 1440 of IPv6.
    #[test]
    fn a_syn_is_that_of_rfc_9293() {
        let bytes = syn("198.18.0.1:40000", "198.18.0.2:80").bytes();
        let head = [
            0x9c, 0x40, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x60, 2, 0xfa, 0xf0,
        ];
        assert_eq!(bytes[..16], head);
        assert_eq!(bytes[16..], [0x70, 0x77, 0, 0, 2, 4, 5, 0xb4]);
        let bytes = syn("[fd00::1]:40000", "[fd00::2]:80").bytes();
        assert_eq!(bytes[16..], [0x02, 0xaf, 0, 0, 2, 4, 5, 0xa0]);
    }

    #[test]
    fn answers_are_read_and_others_are_not() {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&[0, 80, 0x9c, 0x40]);
        bytes[8..12].copy_from_slice(&[1, 2, 3, 5]);
        let mut of = |flags: u8| {
            bytes[13] = flags;
            read(&bytes)
        };
        let expected = |answer| Segment {
            from: 80,
            to: 40_000,
            acknowledged: 0x0102_0305,
            answer,
        };
        assert_eq!(of(0x12), Some(expected(Answer::SynAck)));
        // ECN's bits do not matter.
        assert_eq!(of(0x52), Some(expected(Answer::SynAck)));
        assert_eq!(of(0x14), Some(expected(Answer::Reset)));
        for other in [0x02, 0x04, 0x10, 0x11, 0x13, 0x16, 0x18] {
            assert_eq!(of(other), None, "{other:#x}");
        }
        for length in 0..HEADER {
            assert_eq!(read(&[0x12; HEADER][..length]), None, "{length}");
        }
    }

    #[test]
    fn a_quoted_syn_needs_ports_and_number_only() {
        let bytes = syn("198.18.0.1:40000", "198.18.0.2:80").bytes();
        assert_eq!(quoted(&bytes[..8]), Some((40_000, 0x0102_0304)));
        assert_eq!(quoted(&bytes[..7]), None);
    }
}
