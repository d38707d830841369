//! Hand-made frames for tests. Checksums are left out: nothing here reads
//! them.

use core::net::IpAddr;
use std::{vec, vec::Vec};

use crate::packet::flag;

/// A packet that a test makes: TCP, unless `other` says otherwise.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Address of the sender.
    pub src: IpAddr,
    /// Address of the receiver, of the sender's family.
    pub dst: IpAddr,
    /// Sender's port.
    pub sport: u16,
    /// Receiver's port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Number of bytes of payload.
    pub payload: u32,
    /// What the payload begins with.
    pub data: Vec<u8>,
    /// Another protocol than TCP: its number, and all that follows the IP
    /// header.
    pub other: Option<(u8, Vec<u8>)>,
    /// Timestamp value and echo reply.
    pub timestamp: Option<(u32, u32)>,
    /// MSS option.
    pub mss: Option<u16>,
    /// Whether the frame begins with an Ethernet header.
    pub ethernet: bool,
    /// VLAN tags in the frame, outer first: ethertype and id.
    pub tags: Vec<(u16, u16)>,
    /// IPv4 options, a multiple of 4 bytes.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers: type and whole header, its first byte (next
    /// header) being filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Options before the timestamp option, which make its place uncommon.
    pub options_first: Vec<u8>,
    /// Bytes after the IP packet's end, as Ethernet pads short frames.
    pub padding: usize,
}

impl Frame {
    /// Makes an Ethernet frame with a bare ACK between two addresses.
    #[must_use]
    pub fn new(src: IpAddr, dst: IpAddr, sport: u16, dport: u16) -> Self {
        Self {
            src,
            dst,
            sport,
            dport,
            seq: 0,
            ack: 0,
            flags: flag::ACK,
            payload: 0,
            data: Vec::new(),
            other: None,
            timestamp: None,
            mss: None,
            ethernet: true,
            tags: Vec::new(),
            ip_options: Vec::new(),
            extensions: Vec::new(),
            options_first: Vec::new(),
            padding: 0,
        }
    }

    /// The frame's bytes.
    ///
    /// # Panics
    /// If the addresses are of different families.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let (protocol, body) = match &self.other {
            Some((protocol, body)) => (*protocol, body.clone()),
            None => (6, self.tcp()),
        };
        let mut bytes = if self.ethernet {
            self.ethernet_header()
        } else {
            Vec::new()
        };
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = 20 + self.ip_options.len();
                let total = u16::try_from(header + body.len()).unwrap_or(0);
                bytes.push(0x40 | u8::try_from(header / 4).unwrap_or(15));
                bytes.push(0);
                bytes.extend(total.to_be_bytes());
                bytes.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
                bytes.extend(&self.ip_options);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (first, extensions) = self.chain(protocol);
                let length = u16::try_from(extensions.len() + body.len()).unwrap_or(0);
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([first, 64]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
                bytes.extend(extensions);
            }
            _ => panic!("one packet has addresses of one family"),
        }
        bytes.extend(body);
        bytes.resize(bytes.len() + self.padding, 0);
        bytes
    }

    fn ethernet_header(&self) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (ethertype, id) in &self.tags {
            bytes.extend(ethertype.to_be_bytes());
            bytes.extend(id.to_be_bytes());
        }
        let ethertype: u16 = if self.src.is_ipv4() { 0x0800 } else { 0x86dd };
        bytes.extend(ethertype.to_be_bytes());
        bytes
    }

    /// The first next-header number, and the extension headers.
    fn chain(&self, protocol: u8) -> (u8, Vec<u8>) {
        let mut bytes = Vec::new();
        let numbers: Vec<u8> = self
            .extensions
            .iter()
            .map(|(number, _)| *number)
            .chain([protocol])
            .collect();
        for (i, (_, header)) in self.extensions.iter().enumerate() {
            bytes.push(numbers[i + 1]);
            bytes.extend(&header[1..]);
        }
        (numbers[0], bytes)
    }

    fn tcp(&self) -> Vec<u8> {
        let mut options = self.options_first.clone();
        if let Some(mss) = self.mss {
            options.extend([2, 4]);
            options.extend(mss.to_be_bytes());
        }
        if let Some((tsval, tsecr)) = self.timestamp {
            options.extend([1, 1, 8, 10]);
            options.extend(tsval.to_be_bytes());
            options.extend(tsecr.to_be_bytes());
        }
        options.resize(options.len().next_multiple_of(4), 0);
        let mut bytes = Vec::new();
        bytes.extend(self.sport.to_be_bytes());
        bytes.extend(self.dport.to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.push(u8::try_from((20 + options.len()) / 4 * 16).unwrap_or(0xf0));
        bytes.push(self.flags);
        bytes.extend([0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(options);
        let end = bytes.len() + self.data.len().max(self.payload as usize);
        bytes.extend(&self.data);
        bytes.resize(end, 0x5a);
        bytes
    }
}

/// Makes one frame with data and timestamps of each layout that the parsers
/// know, with the layout's name.
#[must_use]
pub fn layouts(src: IpAddr, dst: IpAddr, sport: u16, dport: u16) -> Vec<(&'static str, Frame)> {
    let mut plain = Frame::new(src, dst, sport, dport);
    plain.payload = 10;
    plain.timestamp = Some((1000, 0));
    let with = |change: &dyn Fn(&mut Frame)| {
        let mut frame = plain.clone();
        change(&mut frame);
        frame
    };
    let mut layouts = vec![
        ("plain", plain.clone()),
        ("no timestamp", with(&|frame| frame.timestamp = None)),
        ("no Ethernet header", with(&|frame| frame.ethernet = false)),
        ("VLAN", with(&|frame| frame.tags = vec![(0x8100, 0x6005)])),
        (
            "QinQ",
            with(&|frame| frame.tags = vec![(0x88a8, 7), (0x8100, 9)]),
        ),
        (
            "three tags",
            with(&|frame| frame.tags = vec![(0x8100, 1); 3]),
        ),
        (
            "MSS first",
            with(&|frame| frame.options_first = vec![2, 4, 5, 180]),
        ),
        (
            "SACK first",
            with(&|frame| frame.options_first = [&[1, 1, 5, 10][..], &[0; 8]].concat()),
        ),
        (
            "SYN",
            with(&|frame| (frame.flags, frame.mss) = (flag::SYN, Some(1460))),
        ),
        (
            "option of length 0",
            with(&|frame| frame.options_first = vec![254, 0, 1, 1]),
        ),
        (
            "option beyond the header",
            with(&|frame| frame.options_first = vec![1, 1, 254, 40]),
        ),
    ];
    if src.is_ipv4() {
        layouts.push(("IP options", with(&|frame| frame.ip_options = vec![1; 12])));
        layouts.push((
            "most IP options",
            with(&|frame| frame.ip_options = vec![1; 40]),
        ));
    } else {
        let fragment = |offset: u8| (44, vec![0, 0, 0, offset, 0, 0, 0, 1]);
        let options = |number: u8, units: u8| {
            (
                number,
                [&[0, units][..], &vec![0; 6 + 8 * usize::from(units)]].concat(),
            )
        };
        layouts.push((
            "hop-by-hop",
            with(&|frame| frame.extensions = vec![options(0, 0)]),
        ));
        layouts.push((
            "three extensions",
            with(&|frame| frame.extensions = vec![options(0, 1), options(43, 2), options(60, 0)]),
        ));
        layouts.push((
            "authentication",
            with(&|frame| frame.extensions = vec![(51, vec![0; 24])]),
        ));
        layouts.push((
            "seven extensions",
            with(&|frame| frame.extensions = vec![options(60, 0); 7]),
        ));
        layouts.push((
            "fragment",
            with(&|frame| frame.extensions = vec![fragment(8)]),
        ));
        layouts.push((
            "atomic fragment",
            with(&|frame| frame.extensions = vec![fragment(0)]),
        ));
    }
    layouts
}
