//! Finds the TCP header of a packet and its timestamps.
//!
//! [`common()`] reads, at fixed offsets, the one layout that nearly all packets
//! of a cluster have. [`network`] and [`transport`] read all others.

mod common;
mod full;
mod options;
pub mod tunnel;

pub use common::{Common, CommonTcp, Frame, common, common_head};
pub use full::{Network, network, transport};

use crate::{
    counter::Counter,
    packet::{Direction, FlowKey, TcpHead, Wrap},
};

/// What the frames of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// The IP header (tun, WireGuard, IP-in-IP, PPP at the TC hook).
    Ip,
}

/// Why a packet was not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The packet is not IPv4 or IPv6.
    NotIp,
    /// The packet is IP, but neither TCP nor what another method measures.
    NotTcp,
    /// The packet is a fragment.
    Fragment,
    /// The packet ends before its headers do, or holds less than its length
    /// field says.
    Truncated,
    /// The packet's length fields contradict each other.
    Malformed,
    /// The packet has more tags or extension headers than are followed.
    TooDeep,
    /// The packet holds several tunnel packets.
    Merged,
}

impl Skip {
    /// The counter of packets skipped for this reason.
    #[must_use]
    pub const fn counter(self) -> Counter {
        match self {
            Self::NotIp => Counter::SkippedNotIp,
            Self::NotTcp => Counter::SkippedNotTcp,
            Self::Fragment => Counter::SkippedFragment,
            Self::Truncated => Counter::SkippedTruncated,
            Self::Malformed => Counter::SkippedMalformed,
            Self::TooDeep => Counter::SkippedTooDeep,
            Self::Merged => Counter::SkippedMerged,
        }
    }
}

impl From<crate::bytes::OutOfBounds> for Skip {
    fn from(_: crate::bytes::OutOfBounds) -> Self {
        Self::Truncated
    }
}

/// A TCP packet, as the full parser reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Sender, words in network byte order; IPv4 mapped.
    pub src: [u32; 4],
    /// Receiver.
    pub dst: [u32; 4],
    /// Port of the sender, host byte order.
    pub sport: u16,
    /// Port of the receiver, host byte order.
    pub dport: u16,
    /// VLAN ids, as in [`crate::layout::FlowCold::segment`].
    pub segment: u32,
    /// The tunnels and tags that the packet is wrapped in, beside `segment`.
    pub wrap: Wrap,
    /// Whether the addresses are IPv6.
    pub v6: bool,
    /// The TCP header.
    pub head: TcpHead,
}

impl Packet {
    /// The key of the packet's flow, at a vantage that it passes in this
    /// direction.
    #[inline(always)]
    #[must_use]
    pub fn key(&self, direction: Direction, ifindex: u32) -> FlowKey {
        let (local, local_port, remote, remote_port) = match direction {
            Direction::FromLocal => (self.src, self.sport, self.dst, self.dport),
            Direction::ToLocal => (self.dst, self.dport, self.src, self.sport),
        };
        FlowKey {
            local,
            remote,
            local_port,
            remote_port,
            ifindex,
            segment: self.segment,
            wrap: self.wrap,
            v6: self.v6,
        }
    }
}

/// Protocol numbers and ethertypes that the parsers know, in host byte order.
pub(crate) mod number {
    use network_types::{
        eth::{EthHdr, EtherType},
        ip::IpProto,
    };

    pub(crate) const ETHERNET_HEADER: u32 = EthHdr::LEN as u32;
    pub(crate) const IPV4: u16 = ethertype(EtherType::Ipv4);
    pub(crate) const IPV6: u16 = ethertype(EtherType::Ipv6);
    /// 802.1Q, 802.1ad, and the older QinQ.
    pub(crate) const VLAN_TAGS: [u16; 3] = [
        ethertype(EtherType::Ieee8021q),
        ethertype(EtherType::Ieee8021ad),
        ethertype(EtherType::Ieee8021QinQ1),
    ];
    pub(crate) const TCP: u8 = IpProto::Tcp as u8;
    pub(crate) const UDP: u8 = IpProto::Udp as u8;
    pub(crate) const ICMP: u8 = IpProto::Icmp as u8;
    pub(crate) const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
    pub(crate) const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
    pub(crate) const ROUTING: u8 = IpProto::Ipv6Route as u8;
    pub(crate) const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
    pub(crate) const AUTHENTICATION: u8 = IpProto::Ah as u8;
    pub(crate) const DESTINATION: u8 = IpProto::Ipv6Opts as u8;
    /// NOP, NOP, timestamp, length 10: how every common stack starts its
    /// options (RFC 7323 appendix A).
    pub(crate) const TIMESTAMP_FIRST: u32 = 0x0101_080a;
    /// NOP, NOP, SACK, before its length.
    pub(crate) const SACK_NEXT: u32 = 0x01_0105;

    const fn ethertype(ethertype: EtherType) -> u16 {
        u16::from_be(ethertype as u16)
    }
}
