//! Finds the frame inside a `VxLAN` (RFC 7348) or Geneve (RFC 8926) packet.
//!
//! This module finds where the inner frame begins and ends, and which network
//! it belongs to. The inner frame is then read as any other frame, through
//! [`Within`].

use super::{Link, Skip, full, number};
use crate::{
    bytes::{Bytes, OutOfBounds, Prefix},
    layout::{TunnelKind, tunnel::segment_of},
    packet::Meta,
};

/// Number of ports of one kind of tunnel that can be set.
pub const PORTS: usize = 4;

/// Number of nested tunnels that are followed.
pub const LEVELS: u32 = 2;

const UDP: u8 = 17;
const UDP_HEADER: u32 = 8;
/// Length of the fixed header, which `VxLAN` and Geneve share.
const TUNNEL_HEADER: u32 = 8;

/// `VxLAN` flag: there is a VNI (RFC 7348 section 5).
pub(crate) const VXLAN_HAS_VNI: u8 = 0x08;
/// `VxLAN`-GPE flag: there is a next protocol (draft-ietf-nvo3-vxlan-gpe).
const VXLAN_NEXT_PROTOCOL: u8 = 0x04;
/// Geneve protocol type: the inner frame is Ethernet.
const TRANSPARENT_ETHERNET: u16 = 0x6558;
/// Geneve flag: a control message, not a packet of the network.
const GENEVE_CONTROL: u8 = 0x80;

/// The UDP destination ports of tunnels.
pub trait Tunnels {
    /// The number of the [`TunnelKind`] that the port belongs to; 0: none.
    fn kind_of(&self, port: u16) -> u32;
}

/// Ports of tunnels; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelPorts {
    /// Ports of `VxLAN`.
    pub vxlan: [u16; PORTS],
    /// Ports of Geneve.
    pub geneve: [u16; PORTS],
}

impl Tunnels for TunnelPorts {
    fn kind_of(&self, port: u16) -> u32 {
        if port == 0 {
            0
        } else if self.vxlan.contains(&port) {
            TunnelKind::Vxlan as u32
        } else if self.geneve.contains(&port) {
            TunnelKind::Geneve as u32
        } else {
            0
        }
    }
}

/// What a tunnel packet carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// Where the inner frame begins; 0: the packet is no tunnel packet.
    pub at: u32,
    /// Where the inner frame ends, by the outer headers.
    pub end: u32,
    /// Number of the [`TunnelKind`].
    pub kind: u32,
    /// The network's number, 24 bits.
    pub vni: u32,
    /// VLAN ids of the outer frame, as in [`crate::packet::Wrap::outer_tags`].
    pub tags: u32,
    /// Whether the inner frame begins with its IP header.
    pub is_ip: bool,
}

impl Inside {
    /// What the inner frame begins with.
    #[inline(always)]
    #[must_use]
    pub const fn link(&self) -> Link {
        if self.is_ip { Link::Ip } else { Link::Ethernet }
    }
}

/// Looks for a tunnel packet in a frame.
///
/// A fragment counts as no tunnel packet, because its tunnel header or its
/// payload is elsewhere. It is then read as an ordinary packet, and skipped as
/// a fragment.
///
/// # Errors
/// [`Skip`]: the port is a tunnel's, but the inner frame cannot be read.
#[inline(always)]
pub fn open<B: Bytes, T: Tunnels>(
    bytes: &B,
    link: Link,
    vlan: u32,
    tunnels: &T,
) -> Result<Inside, Skip> {
    let (l3, ethertype, tags) = full::link(bytes, link, vlan)?;
    let (l4, end) = match ethertype {
        number::IPV4 => udp4(bytes, l3)?,
        number::IPV6 => udp6(bytes, l3)?,
        _ => (0, 0),
    };
    let (l4, end, tags) = (
        bytes.hide_from_verifier(l4),
        bytes.hide_from_verifier(end),
        bytes.hide_from_verifier(tags),
    );
    if l4 == 0 {
        return Ok(Inside::default());
    }
    let kind = bytes.hide_from_verifier(tunnels.kind_of(bytes.be16(l4 + 2)?));
    if kind == 0 {
        return Ok(Inside::default());
    }
    if end > bytes.len() {
        return Err(Skip::Truncated);
    }
    let end = udp_end(bytes, l4, end)?;
    let at = l4 + UDP_HEADER;
    let vni = bytes.be32(at + 4)? >> 8;
    let (at, is_ip) = if kind == TunnelKind::Vxlan as u32 {
        vxlan(bytes, at)?
    } else {
        geneve(bytes, at, end)?
    };
    Ok(Inside {
        at: bytes.hide_from_verifier(at),
        end,
        kind,
        vni,
        tags,
        is_ip,
    })
}

/// Returns the offset of the UDP header, and where the IPv4 header says that
/// the packet ends. The offset is 0 if the packet is not UDP, or is a fragment.
#[inline(always)]
fn udp4<B: Bytes>(bytes: &B, l3: u32) -> Result<(u32, u32), Skip> {
    let first = bytes.byte(l3)?;
    let header = u32::from(first & 0xf) * 4;
    if first >> 4 != 4 || header < 20 {
        return Err(Skip::Malformed);
    }
    if bytes.byte(l3 + 9)? != UDP || bytes.be16(l3 + 6)? & 0x3fff != 0 {
        return Ok((0, 0));
    }
    let total = u32::from(bytes.be16(l3 + 2)?);
    let end = if total == 0 { bytes.len() } else { l3 + total };
    Ok((l3 + header, end))
}

/// Returns what [`udp4`] does, for an IPv6 packet. Tunnels send no extension
/// headers, so none are followed.
#[inline(always)]
fn udp6<B: Bytes>(bytes: &B, l3: u32) -> Result<(u32, u32), Skip> {
    if bytes.byte(l3)? >> 4 != 6 {
        return Err(Skip::Malformed);
    }
    if bytes.byte(l3 + 6)? != UDP {
        return Ok((0, 0));
    }
    let payload = u32::from(bytes.be16(l3 + 4)?);
    let l4 = l3 + 40;
    let end = if payload == 0 {
        bytes.len()
    } else {
        l4 + payload
    };
    Ok((l4, end))
}

/// Where the UDP header says that its payload ends.
#[inline(always)]
fn udp_end<B: Bytes>(bytes: &B, l4: u32, ip_end: u32) -> Result<u32, Skip> {
    let length = u32::from(bytes.be16(l4 + 4)?);
    // A length of 0 is that of a packet beyond 64 KiB (RFC 2675 section 4).
    let end = if length == 0 && ip_end > l4 + 0xffff {
        ip_end
    } else {
        l4 + length
    };
    if end > ip_end || end < l4 + UDP_HEADER + TUNNEL_HEADER {
        return Err(Skip::Malformed);
    }
    Ok(end)
}

/// Returns where the inner frame of a `VxLAN` packet begins, and whether it
/// begins with its IP header. Reserved bits are ignored, as RFC 7348 demands of
/// a receiver.
#[inline(always)]
fn vxlan<B: Bytes>(bytes: &B, at: u32) -> Result<(u32, bool), Skip> {
    let flags = bytes.byte(at)?;
    if flags & VXLAN_HAS_VNI == 0 {
        return Err(Skip::Malformed);
    }
    let mut is_ip = false;
    if flags & VXLAN_NEXT_PROTOCOL != 0 {
        is_ip = match bytes.byte(at + 3)? {
            1 | 2 => true,
            3 => false,
            _ => return Err(Skip::NotIp),
        };
    }
    Ok((at + TUNNEL_HEADER, is_ip))
}

#[inline(always)]
fn geneve<B: Bytes>(bytes: &B, at: u32, end: u32) -> Result<(u32, bool), Skip> {
    let first = bytes.byte(at)?;
    if first >> 6 != 0 {
        return Err(Skip::Malformed);
    }
    if bytes.byte(at + 1)? & GENEVE_CONTROL != 0 {
        return Err(Skip::NotIp);
    }
    let is_ip = match bytes.be16(at + 2)? {
        TRANSPARENT_ETHERNET => false,
        number::IPV4 | number::IPV6 => true,
        _ => return Err(Skip::NotIp),
    };
    let at = at + TUNNEL_HEADER + u32::from(first & 0x3f) * 4;
    if at > end {
        return Err(Skip::Malformed);
    }
    Ok((at, is_ip))
}

/// What [`shortcut`] finds in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// The frame is no tunnel packet, or does not look like the usual one.
    Plain,
    /// The frame may be an unusual tunnel packet; [`open`] reads it.
    Long,
    /// An Ethernet frame in a tunnel packet.
    Inside {
        /// Where the inner frame begins.
        base: u32,
        /// Length of the inner frame, bytes.
        len: u32,
        /// [`crate::layout::FlowCold::segment`] of the inner frame's flow.
        segment: u32,
    },
}

/// Looks for the usual tunnel packet: IPv4 without options, UDP, `VxLAN` with
/// nothing but a VNI, or Geneve with Ethernet inside.
#[inline(always)]
pub fn shortcut<P: Prefix, T: Tunnels>(
    bytes: &P,
    meta: &Meta,
    link: Link,
    tunnels: &T,
) -> Shortcut {
    let l3 = match link {
        Link::Ethernet => number::ETHERNET_HEADER as usize,
        Link::Ip => 0,
    };
    let (l4, tunnel) = (l3 + 20, l3 + 28);
    if !bytes.covers(tunnel)
        || (l3 != 0 && bytes.be16(l3 - 2) != number::IPV4)
        || bytes.byte(l3) != 0x45
        || bytes.byte(l3 + 9) != UDP
    {
        return if is_v6_tunnel(bytes, l3, tunnels) {
            Shortcut::Long
        } else {
            Shortcut::Plain
        };
    }
    if bytes.be16(l3 + 6) & 0x3fff != 0 {
        return Shortcut::Long;
    }
    let kind = tunnels.kind_of(bytes.be16(l4 + 2));
    if kind == 0 {
        return Shortcut::Plain;
    }
    let total = u32::from(bytes.be16(l3 + 2));
    let end = l3 as u32 + total;
    if !bytes.covers(tunnel + TUNNEL_HEADER as usize)
        || u32::from(bytes.be16(l4 + 4)) + 20 != total
        || end > meta.len
        || meta.vlan != 0
    {
        return Shortcut::Long;
    }
    let header = if kind == TunnelKind::Vxlan as u32 {
        usual_vxlan(bytes, tunnel)
    } else {
        usual_geneve(bytes, tunnel)
    };
    let base = tunnel as u32 + header;
    let frame = bytes.after(base);
    if header == 0 || end < base || !frame.covers(20) {
        return Shortcut::Long;
    }
    let len = end - base;
    // See [`crate::pipeline::tunnel::network`].
    if meta.segments > 1 && inner_end(&frame) != len {
        return Shortcut::Long;
    }
    if is_tunnel(&frame, tunnels) {
        return Shortcut::Long;
    }
    Shortcut::Inside {
        base,
        len,
        segment: segment_of(kind, bytes.be32(tunnel + 4) >> 8, 0),
    }
}

/// Length of a `VxLAN` header that has a VNI and no other flag; 0: the header
/// is another one.
#[inline(always)]
fn usual_vxlan<P: Prefix>(bytes: &P, at: usize) -> u32 {
    if bytes.byte(at) == VXLAN_HAS_VNI {
        TUNNEL_HEADER
    } else {
        0
    }
}

/// Most bytes of options in the usual Geneve packet. With the headers before
/// them it is what [`Prefix::after`] can leave out.
const USUAL_OPTIONS: u32 = 160;

/// Length of the header, options included, of a Geneve packet with Ethernet
/// inside; 0: the header is another one.
#[inline(always)]
fn usual_geneve<P: Prefix>(bytes: &P, at: usize) -> u32 {
    let first = bytes.byte(at);
    let options = u32::from(first & 0x3f) * 4;
    if first >> 6 != 0
        || bytes.byte(at + 1) & GENEVE_CONTROL != 0
        || bytes.be16(at + 2) != TRANSPARENT_ETHERNET
        || options > USUAL_OPTIONS
    {
        return 0;
    }
    TUNNEL_HEADER + options
}

/// Whether the packet at `l3` is a tunnel packet over IPv6 without extension
/// headers. The fast path would take it for any other datagram.
#[inline(always)]
fn is_v6_tunnel<P: Prefix, T: Tunnels>(bytes: &P, l3: usize, tunnels: &T) -> bool {
    const HEADERS: usize = 48;
    bytes.covers(l3 + HEADERS)
        && (l3 == 0 || bytes.be16(l3 - 2) == number::IPV6)
        && bytes.byte(l3) >> 4 == 6
        && bytes.byte(l3 + 6) == UDP
        && tunnels.kind_of(bytes.be16(l3 + 42)) != 0
}

/// Whether a frame may be a tunnel packet again.
#[inline(always)]
fn is_tunnel<P: Prefix, T: Tunnels>(bytes: &P, tunnels: &T) -> bool {
    let l3 = number::ETHERNET_HEADER as usize;
    match bytes.be16(l3 - 2) {
        number::IPV4 if !bytes.covers(l3 + 24) || bytes.byte(l3) != 0x45 => true,
        number::IPV4 => {
            bytes.byte(l3 + 9) == UDP
                && (bytes.be16(l3 + 6) & 0x3fff != 0 || tunnels.kind_of(bytes.be16(l3 + 22)) != 0)
        }
        number::IPV6 => is_v6_tunnel(bytes, l3, tunnels),
        _ => false,
    }
}

/// Where the IP header of a frame says that it ends.
#[inline(always)]
fn inner_end<P: Prefix>(bytes: &P) -> u32 {
    match bytes.be16(12) {
        number::IPV4 => 14 + u32::from(bytes.be16(16)),
        number::IPV6 => 54 + u32::from(bytes.be16(18)),
        _ => 0,
    }
}

/// The bytes of a frame inside a packet: `len` bytes from `base` on.
#[derive(Clone, Copy, Debug)]
pub struct Within<B> {
    bytes: B,
    base: u32,
    len: u32,
}

impl<B> Within<B> {
    /// Makes the view of `len` bytes from `base` on.
    #[inline(always)]
    pub const fn new(bytes: B, base: u32, len: u32) -> Self {
        Self { bytes, base, len }
    }
}

impl<B: Bytes> Bytes for Within<B> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        if offset.wrapping_add(N as u32) > self.len {
            return Err(OutOfBounds);
        }
        self.bytes.load(self.base.wrapping_add(offset))
    }

    #[inline(always)]
    fn hide_from_verifier(&self, x: u32) -> u32 {
        self.bytes.hide_from_verifier(x)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }
}
