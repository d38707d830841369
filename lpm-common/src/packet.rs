//! A parsed TCP packet.

/// Which way a packet goes through a vantage. The number is an index, too: the
/// stamps of a direction measure the leg with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Sent by the local end.
    FromLocal = 0,
    /// Sent to the local end.
    ToLocal = 1,
}

impl Direction {
    /// The direction's number, as an index.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The opposite direction.
    #[inline(always)]
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::FromLocal => Self::ToLocal,
            Self::ToLocal => Self::FromLocal,
        }
    }
}

/// TCP's control bits (RFC 9293 section 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is significant.
    pub const ACK: u8 = 0x10;
}

/// What the matcher needs of a TCP packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpHead {
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// TCP payload, bytes, from the length in the IP header (link-layer
    /// padding does not count); of all segments of a GSO packet.
    pub payload: u32,
    /// Timestamp value (RFC 7323 section 3.2); 0 without the option.
    pub tsval: u32,
    /// Timestamp echo reply; 0 without the option.
    pub tsecr: u32,
    /// Offset of the payload in the frame, bytes: link, IP and TCP headers.
    pub headers: u16,
    /// Length of the TCP options, bytes.
    pub options: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Whether the timestamp option is there (0 is a legal value of both).
    pub has_timestamp: bool,
    /// Whether a SACK option names blocks beyond a hole (RFC 2018).
    pub sack: bool,
    /// Maximum segment size option of a SYN, bytes; 0: none.
    pub mss: u16,
}

impl TcpHead {
    /// Whether this is the first segment of a connection: SYN without ACK.
    #[inline(always)]
    #[must_use]
    pub const fn opens(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK) == flag::SYN
    }

    /// Whether all of the given control bits are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }

    /// Whether any of the given control bits is set.
    #[inline(always)]
    #[must_use]
    pub const fn has_any(&self, bits: u8) -> bool {
        self.flags & bits != 0
    }
}

/// What the kernel knows about a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Length with link-layer header, bytes.
    pub len: u32,
    /// Segments on the wire (`gso_segs`), at least 1.
    pub segments: u32,
    /// Interface.
    pub ifindex: u32,
    /// Outer VLAN id from the packet's metadata; 0: none.
    pub vlan: u32,
}

/// The key of a flow, seen from its vantage. Both directions have the same key,
/// because it names the local and the remote end, not sender and receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// Address of the local end, words in network byte order; IPv4 mapped.
    pub local: [u32; 4],
    /// Address of the remote end.
    pub remote: [u32; 4],
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// Interface of the vantage.
    pub ifindex: u32,
    /// VLAN ids or VNI, as in [`crate::layout::FlowCold::segment`].
    pub segment: u32,
    /// What else the flow's packets are wrapped in.
    pub wrap: Wrap,
    /// Whether the addresses are IPv6.
    pub v6: bool,
}

/// What tells flows inside tunnels apart, beside the innermost tunnel, which is
/// in [`FlowKey::segment`]. All 0 for a flow in no tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrap {
    /// VNI of the outer one of two tunnels.
    pub outer_vni: u32,
    /// VLAN ids of the outermost frame, as in [`FlowKey::segment`].
    pub outer_tags: u32,
    /// VLAN ids of the inner frame, as in [`FlowKey::segment`].
    pub inner_tags: u32,
}

/// The third word of an IPv4-mapped address, as it is in memory.
pub const MAPPED: u32 = 0xffff_u32.to_be();
