//! The hand-made flows of `tests/vectors` (see the README there).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{path::Path, string::String, vec::Vec};

use serde::Deserialize;

use super::frame::Frame;
use crate::host::Arrival;
use crate::{
    layout::{Method, Methods},
    packet::{Direction, flag},
    parse::Link,
};

/// A flow, and the samples that it must give.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What the case shows.
    pub name: String,
    /// The rule that demands it.
    pub why: String,
    /// The methods that are on; absent: all.
    pub methods: Option<Vec<String>>,
    /// Segments of both directions any part of which was sent before; absent:
    /// not checked.
    pub retransmissions: Option<u64>,
    /// The packets, in order of time.
    pub packets: Vec<Packet>,
    /// The samples, in order of their echoes.
    pub samples: Vec<Expected>,
}

/// A packet of a [`Case`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packet {
    /// Time, nanoseconds.
    pub t_ns: u64,
    /// `from_local` or `to_local`.
    pub dir: String,
    /// Letters of `SAFRP`.
    pub flags: String,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Payload, bytes.
    pub payload: u32,
    /// TSval; null: no timestamp option.
    pub tsval: Option<u32>,
    /// TSecr; null: no timestamp option.
    pub tsecr: Option<u32>,
    /// Payload of each segment of a GSO packet.
    pub gso_size: Option<u32>,
    /// MSS option of a SYN.
    pub mss: Option<u16>,
    /// Blocks of a SACK option, left and right edge (RFC 2018); empty: none.
    #[serde(default)]
    pub sack: Vec<[u32; 2]>,
    /// Bytes after the IP packet's end, as Ethernet pads short frames.
    #[serde(default)]
    pub padding: usize,
}

/// A sample that must come out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Index of the packet that is the echo.
    pub at: usize,
    /// Round trip, nanoseconds.
    pub rtt_ns: u64,
    /// `remote` or `local`.
    pub leg: String,
    /// `prompt`, `lone` or `data`.
    pub echo: String,
    /// TSval; for `seq` and `handshake` the sequence number after the segment.
    pub id: u32,
    /// `ts`, `seq` or `handshake`.
    #[serde(default = "ts")]
    pub method: String,
    /// Whether an implementation with three slots may leave the sample out.
    #[serde(default)]
    pub may_skip: bool,
}

fn ts() -> String {
    String::from("ts")
}

/// Reads the cases of a file.
///
/// # Panics
/// If the file cannot be read, or is not as its README says.
#[must_use]
pub fn read(path: &Path) -> Vec<Case> {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The addresses of the local and the remote end: IPv4 or IPv6.
#[must_use]
pub fn ends(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        let address = |last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 5, last));
        (address(1), address(2))
    } else {
        let address = |last| IpAddr::V4(Ipv4Addr::new(198, 18, 5, last));
        (address(1), address(2))
    }
}

impl Case {
    /// The methods that are on; None: the case does not say.
    ///
    /// # Panics
    /// If a method is not known.
    #[must_use]
    pub fn methods(&self) -> Option<Methods> {
        let known = |name: &String| {
            let mut all = Method::ALL.into_iter();
            all.find(|method| method.as_str() == name)
                .unwrap_or_else(|| panic!("method {name:?}"))
        };
        Some(self.methods.as_ref()?.iter().map(known).collect())
    }
}

impl Packet {
    /// The packet as a frame between [`ends`], with the local port 41140 and
    /// the remote port 5301.
    ///
    /// # Panics
    /// If the flags or the direction are not as the README says.
    #[must_use]
    pub fn frame(&self, v6: bool) -> Frame {
        let (local, remote) = ends(v6);
        let mut frame = match self.direction() {
            Direction::FromLocal => Frame::new(local, remote, 41140, 5301),
            Direction::ToLocal => Frame::new(remote, local, 5301, 41140),
        };
        frame.seq = self.seq;
        frame.ack = self.ack;
        frame.payload = self.payload;
        frame.timestamp = self.tsval.zip(self.tsecr);
        frame.mss = self.mss;
        frame.padding = self.padding;
        if let Ok(blocks @ 1..=4) = u8::try_from(self.sack.len()) {
            let edges = self.sack.iter().flatten().flat_map(|e| e.to_be_bytes());
            frame.options_first = [1, 1, 5, 2 + 8 * blocks].into_iter().chain(edges).collect();
        }
        frame.flags = self.flags.chars().fold(0, |bits, letter| {
            bits | match letter {
                'S' => flag::SYN,
                'A' => flag::ACK,
                'F' => flag::FIN,
                'R' => flag::RST,
                'P' => 0x08,
                _ => panic!("flags {:?}: letters of SAFRP only", self.flags),
            }
        });
        frame
    }

    /// The packet's direction.
    ///
    /// # Panics
    /// If the direction is neither `from_local` nor `to_local`.
    #[must_use]
    pub fn direction(&self) -> Direction {
        match self.dir.as_str() {
            "from_local" => Direction::FromLocal,
            "to_local" => Direction::ToLocal,
            other => panic!("dir {other:?}"),
        }
    }

    /// What the kernel tells of the packet at an Ethernet interface.
    #[must_use]
    pub fn arrival(&self, ifindex: u32) -> Arrival {
        let segment_size = self.gso_size.unwrap_or(0);
        let segments = if segment_size == 0 {
            1
        } else {
            self.payload.div_ceil(segment_size)
        };
        Arrival {
            now_ns: self.t_ns,
            link: Link::Ethernet,
            direction: self.direction(),
            ifindex,
            vlan: 0,
            segments,
            segment_size,
        }
    }
}
