//! How a flow entry and a sample name the tunnels around a flow's packets.
//!
//! The word `segment` of both holds one of two things:
//!
//! | bits | no tunnel | inside a tunnel |
//! |---|---|---|
//! | 0..24 | VLAN ids: outer in 0..12, inner in 12..24 | VNI of the innermost tunnel |
//! | 24..26 | 0 | its [`TunnelKind`] |
//! | 26..28 | 0 | [`TunnelKind`] of the tunnel around it; 0: none |
//!
//! The VNI of the outer tunnel stands in a place of its own.

/// The encapsulation of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TunnelKind {
    /// RFC 7348.
    Vxlan = 1,
    /// RFC 8926.
    Geneve = 2,
}

impl TunnelKind {
    /// The kind with this number; `None`: no tunnel.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Vxlan,
            2 => Self::Geneve,
            _ => return None,
        })
    }

    /// The word used in samples and the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }
}

/// Bits of a VNI.
pub const VNI: u32 = 0x00ff_ffff;
const INNER_SHIFT: u32 = 24;
const OUTER_SHIFT: u32 = 26;
const KIND: u32 = 3;

/// The word `segment` of a flow inside a tunnel.
#[inline(always)]
#[must_use]
pub const fn segment_of(kind: u32, vni: u32, outer_kind: u32) -> u32 {
    vni & VNI | (kind & KIND) << INNER_SHIFT | (outer_kind & KIND) << OUTER_SHIFT
}

/// Number of the kind of the innermost tunnel in the word `segment`.
#[inline(always)]
#[must_use]
pub const fn kind_of(segment: u32) -> u32 {
    segment >> INNER_SHIFT & KIND
}

/// A tunnel: its kind and the number of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tunnel {
    /// The tunnel's encapsulation.
    pub kind: TunnelKind,
    /// The network's number, 24 bits.
    pub vni: u32,
}

/// The tunnels around a flow's packets, outermost first, read from the word
/// `segment` and the outer VNI.
#[must_use]
pub fn tunnels(segment: u32, outer_vni: u32) -> [Option<Tunnel>; 2] {
    let tunnel = |shift: u32, vni: u32| {
        TunnelKind::from_raw(segment >> shift & KIND).map(|kind| Tunnel { kind, vni })
    };
    let inner = tunnel(INNER_SHIFT, segment & VNI);
    match tunnel(OUTER_SHIFT, outer_vni & VNI) {
        Some(outer) => [Some(outer), inner],
        None => [inner, None],
    }
}

/// Whether the word `segment` says that the flow is inside a tunnel.
#[inline(always)]
#[must_use]
pub const fn is_inside(segment: u32) -> bool {
    segment >> INNER_SHIFT != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        let (vxlan, geneve) = (TunnelKind::Vxlan, TunnelKind::Geneve);
        assert_eq!(tunnels(0, 0), [None, None]);
        assert_eq!(tunnels(0x00ff_f001, 0), [None, None], "VLAN ids");
        let one = segment_of(vxlan as u32, 0, 0);
        assert!(is_inside(one), "VNI 0 is a network too");
        let first = Tunnel {
            kind: vxlan,
            vni: 0,
        };
        assert_eq!(tunnels(one, 0), [Some(first), None]);
        let two = segment_of(geneve as u32, VNI, vxlan as u32);
        let inner = Tunnel {
            kind: geneve,
            vni: VNI,
        };
        let outer = Tunnel {
            kind: vxlan,
            vni: 5,
        };
        assert_eq!(tunnels(two, 5), [Some(outer), Some(inner)]);
    }
}
