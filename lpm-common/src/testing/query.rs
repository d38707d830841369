//! Hand-made queries and answers for tests.

use core::net::IpAddr;
use std::{vec, vec::Vec};

use super::frame::Frame;
use crate::packet::flag;

/// Makes an ICMP echo request (with `reply`, an echo reply) from one end to
/// another.
#[must_use]
pub fn echo(src: IpAddr, dst: IpAddr, reply: bool, id: u16, sequence: u16) -> Frame {
    let (protocol, kind) = match (src.is_ipv4(), reply) {
        (true, false) => (1, 8),
        (true, true) => (1, 0),
        (false, false) => (58, 128),
        (false, true) => (58, 129),
    };
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(id.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend([0x5a; 48]);
    datagram(src, dst, protocol, bytes)
}

/// A DNS message.
#[derive(Clone, Debug)]
pub struct Message {
    /// The message's id.
    pub id: u16,
    /// The flags, response code included.
    pub flags: u16,
    /// The four counts of the header.
    pub counts: [u16; 4],
    /// What follows the header.
    pub tail: Vec<u8>,
}

impl Message {
    /// Makes a query for an address.
    #[must_use]
    pub fn query(id: u16) -> Self {
        let question = b"\x03www\x07example\x00\x00\x01\x00\x01";
        Self {
            id,
            flags: 0x0100,
            counts: [1, 0, 0, 0],
            tail: question.to_vec(),
        }
    }

    /// Makes an answer with this response code.
    #[must_use]
    pub fn answer(id: u16, rcode: u16) -> Self {
        Self {
            flags: 0x8180 | rcode,
            ..Self::query(id)
        }
    }

    /// The message's bytes on the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        for count in self.counts {
            bytes.extend(count.to_be_bytes());
        }
        bytes.extend(&self.tail);
        bytes
    }

    /// Makes a UDP datagram with the message.
    #[must_use]
    pub fn udp(&self, src: IpAddr, dst: IpAddr, sport: u16, dport: u16) -> Frame {
        let message = self.bytes();
        let length = u16::try_from(8 + message.len()).unwrap_or(u16::MAX);
        let mut bytes = Vec::new();
        for half in [sport, dport, length, 0] {
            bytes.extend(half.to_be_bytes());
        }
        bytes.extend(message);
        let mut frame = datagram(src, dst, 17, bytes);
        (frame.sport, frame.dport) = (sport, dport);
        frame
    }

    /// Makes a TCP segment with these messages.
    #[must_use]
    pub fn tcp(all: &[Self], src: IpAddr, dst: IpAddr, sport: u16, dport: u16) -> Frame {
        let mut frame = Frame::new(src, dst, sport, dport);
        frame.flags = flag::ACK;
        for message in all {
            let bytes = message.bytes();
            let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
            frame.data.extend(length.to_be_bytes());
            frame.data.extend(bytes);
        }
        frame.payload = u32::try_from(frame.data.len()).unwrap_or(u32::MAX);
        frame
    }
}

fn datagram(src: IpAddr, dst: IpAddr, protocol: u8, bytes: Vec<u8>) -> Frame {
    let mut frame = Frame::new(src, dst, 0, 0);
    frame.other = Some((protocol, bytes));
    frame
}
