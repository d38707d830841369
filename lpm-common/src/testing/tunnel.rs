//! Hand-made tunnel packets around frames, for tests. Checksums are left out.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{vec, vec::Vec};

use crate::layout::TunnelKind;

/// The headers of a tunnel packet that a test makes.
#[derive(Clone, Debug)]
pub struct Around {
    /// `VxLAN` or Geneve.
    pub kind: TunnelKind,
    /// The network's number.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// The nodes' addresses: sender and receiver.
    pub nodes: (IpAddr, IpAddr),
    /// Whether the packet begins with an Ethernet header.
    pub ethernet: bool,
    /// VLAN tags, outer first: ethertype and id.
    pub tags: Vec<(u16, u16)>,
    /// IPv4 options, a multiple of 4 bytes.
    pub ip_options: Vec<u8>,
    /// Flags and fragment offset of the IPv4 header.
    pub fragment: u16,
    /// First byte of the tunnel header, if not the usual one.
    pub first: Option<u8>,
    /// Geneve's second byte.
    pub second: u8,
    /// Geneve's protocol type.
    pub protocol: u16,
    /// Geneve's options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// A number added to the UDP length, to make it wrong.
    pub lie: i32,
}

impl Around {
    /// The usual packet of a tunnel between two nodes, from the first to the
    /// second one.
    #[must_use]
    pub fn new(kind: TunnelKind, vni: u32) -> Self {
        let node = |last| IpAddr::V4(Ipv4Addr::new(198, 18, 0, last));
        Self {
            kind,
            vni,
            port: match kind {
                TunnelKind::Vxlan => 4789,
                TunnelKind::Geneve => 6081,
            },
            nodes: (node(1), node(2)),
            ethernet: true,
            tags: Vec::new(),
            ip_options: Vec::new(),
            fragment: 0x4000,
            first: None,
            second: 0,
            protocol: 0x6558,
            options: Vec::new(),
            lie: 0,
        }
    }

    /// Moves the tunnel to IPv6 nodes.
    #[must_use]
    pub fn v6(mut self) -> Self {
        let node = |last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, last));
        self.nodes = (node(1), node(2));
        self
    }

    /// The headers of the packet that goes the other way.
    #[must_use]
    pub fn back(mut self) -> Self {
        self.nodes = (self.nodes.1, self.nodes.0);
        self
    }

    /// Wraps a frame in the tunnel packet.
    ///
    /// # Panics
    /// If the nodes are of different families.
    #[must_use]
    pub fn wrap(&self, frame: &[u8]) -> Vec<u8> {
        let mut udp = vec![0xc0, 0x01];
        udp.extend(self.port.to_be_bytes());
        let tunnel = self.header();
        let length = i32::try_from(8 + tunnel.len() + frame.len()).unwrap_or(0) + self.lie;
        udp.extend(u16::try_from(length.max(0)).unwrap_or(0).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(tunnel);
        udp.extend(frame);
        let mut bytes = Vec::new();
        if self.ethernet {
            bytes.extend([2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2]);
            for (ethertype, id) in &self.tags {
                bytes.extend(ethertype.to_be_bytes());
                bytes.extend(id.to_be_bytes());
            }
            let ethertype: u16 = if self.nodes.0.is_ipv4() {
                0x0800
            } else {
                0x86dd
            };
            bytes.extend(ethertype.to_be_bytes());
        }
        match self.nodes {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = 20 + self.ip_options.len();
                bytes.extend([0x40 | u8::try_from(header / 4).unwrap_or(15), 0]);
                let total = u16::try_from(header + udp.len()).unwrap_or(0);
                bytes.extend(total.to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(self.fragment.to_be_bytes());
                bytes.extend([64, 17, 0, 0]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
                bytes.extend(&self.ip_options);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                bytes.extend([0x60, 0, 0, 0]);
                let payload = u16::try_from(udp.len()).unwrap_or(0);
                bytes.extend(payload.to_be_bytes());
                bytes.extend([17, 64]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
            }
            _ => panic!("one packet has addresses of one family"),
        }
        bytes.extend(udp);
        bytes
    }

    fn header(&self) -> Vec<u8> {
        let [_, a, b, c] = self.vni.to_be_bytes();
        match self.kind {
            TunnelKind::Vxlan => vec![self.first.unwrap_or(8), 0, 0, 0, a, b, c, 0],
            TunnelKind::Geneve => {
                let units = u8::try_from(self.options.len() / 4).unwrap_or(63);
                let [high, low] = self.protocol.to_be_bytes();
                let first = self.first.unwrap_or(units);
                let mut bytes = vec![first, self.second, high, low, a, b, c, 0];
                bytes.extend(&self.options);
                bytes
            }
        }
    }
}

/// One way to wrap a frame for each kind that the parsers know, with its name.
/// The headers are applied in order, the last one outermost.
#[must_use]
pub fn wrappings() -> Vec<(&'static str, Vec<Around>)> {
    let vxlan = |vni| Around::new(TunnelKind::Vxlan, vni);
    let geneve = |vni| Around::new(TunnelKind::Geneve, vni);
    let with = |mut around: Around, change: &dyn Fn(&mut Around)| {
        change(&mut around);
        around
    };
    vec![
        ("VxLAN", vec![vxlan(7)]),
        (
            "VxLAN, other port",
            vec![with(vxlan(7), &|a| a.port = 8472)],
        ),
        (
            "VxLAN, not a tunnel's port",
            vec![with(vxlan(7), &|a| a.port = 7000)],
        ),
        ("VxLAN over IPv6", vec![vxlan(7).v6()]),
        (
            "VxLAN, reserved bits",
            vec![with(vxlan(7), &|a| a.first = Some(0xfb))],
        ),
        (
            "VxLAN without VNI",
            vec![with(vxlan(7), &|a| a.first = Some(0))],
        ),
        (
            "VxLAN with next protocol",
            vec![with(vxlan(7), &|a| a.first = Some(0x0c))],
        ),
        (
            "VxLAN, tagged",
            vec![with(vxlan(7), &|a| a.tags = vec![(0x8100, 9)])],
        ),
        (
            "VxLAN, IP options",
            vec![with(vxlan(7), &|a| a.ip_options = vec![1; 8])],
        ),
        (
            "VxLAN, first fragment",
            vec![with(vxlan(7), &|a| a.fragment = 0x2000)],
        ),
        (
            "VxLAN, last fragment",
            vec![with(vxlan(7), &|a| a.fragment = 0x0010)],
        ),
        (
            "VxLAN, no Ethernet header",
            vec![with(vxlan(7), &|a| a.ethernet = false)],
        ),
        ("VxLAN, too long", vec![with(vxlan(7), &|a| a.lie = 1)]),
        ("VxLAN, too short", vec![with(vxlan(7), &|a| a.lie = -10)]),
        ("VxLAN, no room", vec![with(vxlan(7), &|a| a.lie = -2000)]),
        ("Geneve", vec![geneve(7)]),
        ("Geneve over IPv6", vec![geneve(7).v6()]),
        (
            "Geneve, options",
            vec![with(geneve(7), &|a| a.options = vec![0; 12])],
        ),
        (
            "Geneve, most options",
            vec![with(geneve(7), &|a| a.options = vec![0; 252])],
        ),
        (
            "Geneve, lying options",
            vec![with(geneve(7), &|a| a.first = Some(63))],
        ),
        (
            "Geneve, version 1",
            vec![with(geneve(7), &|a| a.first = Some(0x40))],
        ),
        (
            "Geneve, control",
            vec![with(geneve(7), &|a| a.second = 0x80)],
        ),
        (
            "Geneve, critical option",
            vec![with(geneve(7), &|a| a.second = 0x40)],
        ),
        (
            "Geneve, unknown protocol",
            vec![with(geneve(7), &|a| a.protocol = 0x6559)],
        ),
        (
            "Geneve, IP inside",
            vec![with(geneve(7), &|a| a.protocol = 0x0800)],
        ),
        ("VxLAN in VxLAN", vec![vxlan(7), vxlan(0xab_cdef)]),
        ("Geneve in VxLAN", vec![geneve(7), vxlan(3)]),
        ("VxLAN in Geneve over IPv6", vec![vxlan(7), geneve(3).v6()]),
        (
            "VxLAN in VxLAN, tag between",
            vec![with(vxlan(7), &|a| a.tags = vec![(0x8100, 9)]), vxlan(3)],
        ),
        ("three levels", vec![vxlan(7), vxlan(3), vxlan(5)]),
    ]
}

/// Wraps a frame in several tunnels, the last one outermost.
#[must_use]
pub fn wrap(frame: &[u8], around: &[Around]) -> Vec<u8> {
    around
        .iter()
        .fold(frame.to_vec(), |frame, around| around.wrap(&frame))
}
