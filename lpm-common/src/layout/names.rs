//! Names in the kernel: addresses to small ids, pairs of ids to rows.

use core::mem::size_of;

use crate::shared::AtomicU64;

/// What an address belongs to. `External` is every address without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PeerKind {
    /// Named by nothing.
    External = 1,
    /// A pod.
    Pod = 2,
    /// A node, this one's own addresses included.
    Node = 3,
    /// The virtual address of a service.
    Service = 4,
}

impl PeerKind {
    /// The kind with this number, as stored in a map.
    #[must_use]
    pub fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::External,
            2 => Self::Pod,
            3 => Self::Node,
            4 => Self::Service,
            _ => return None,
        })
    }

    /// The value of the label `peer_kind`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Pod => "pod",
            Self::Node => "node",
            Self::Service => "service",
        }
    }
}

/// Key of map `NAMES`, as `BPF_MAP_TYPE_LPM_TRIE` wants it
/// (`struct bpf_lpm_trie_key`): prefix length in bits, then the address with
/// IPv4 mapped to IPv6 (so IPv4 `/n` has prefix length `96 + n`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NameKey {
    /// Bits of the address that count.
    pub prefix_len: u32,
    /// Network byte order.
    pub address: [u8; 16],
}

const _: () = assert!(size_of::<NameKey>() == 20);

/// Value of map `NAMES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NameValue {
    /// Namespace id given out by the agent; 0: none.
    pub namespace: u16,
    /// A [`PeerKind`].
    pub kind: u8,
    /// 1 if the address is this node's own.
    pub own: u8,
}

const _: () = assert!(size_of::<NameValue>() == 4);

/// What the eight histograms of a row hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// TCP: leg times four plus echo; the minima of evicted flows in the
    /// fourth place of each leg.
    Tcp = 0,
    /// ICMP echo: leg times four; [`super::ICMP_UNANSWERED`].
    Icmp = 1,
    /// DNS: by [`super::Rcode`]; [`super::DNS_UNANSWERED`]. The remote end is
    /// left out of the label set.
    Dns = 2,
}

/// Key of map `PAIRS` and label set of a histogram row, packed into 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairKey(pub u64);

impl PairKey {
    /// Bits above `own` that hold the [`Family`].
    const FAMILY: u64 = 0x7f;

    /// Packs the label set of a flow.
    #[must_use]
    pub fn new(vantage: u8, local: NameValue, remote: NameValue) -> Self {
        Self(
            u64::from(vantage)
                | u64::from(local.kind) << 8
                | u64::from(remote.kind) << 16
                | u64::from(local.own) << 24
                | u64::from(local.namespace) << 32
                | u64::from(remote.namespace) << 48,
        )
    }

    /// The same label set for another family (flows are [`Family::Tcp`]).
    #[must_use]
    pub fn with(self, family: Family) -> Self {
        Self(self.0 & !(Self::FAMILY << 25) | (family as u64) << 25)
    }

    /// What the row holds; None: not known to this version.
    #[must_use]
    pub fn family(self) -> Option<Family> {
        [Family::Tcp, Family::Icmp, Family::Dns]
            .into_iter()
            .find(|family| *family as u64 == self.0 >> 25 & Self::FAMILY)
    }

    /// The [`super::Vantage`] as a number.
    #[must_use]
    pub fn vantage(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// The local end: namespace, kind, and whether it is the node itself.
    #[must_use]
    pub fn local(self) -> NameValue {
        let [_, kind, _, own, low, high, ..] = self.0.to_le_bytes();
        NameValue {
            namespace: u16::from_le_bytes([low, high]),
            kind,
            own: own & 1,
        }
    }

    /// The remote end: namespace and kind.
    #[must_use]
    pub fn remote(self) -> NameValue {
        let [_, _, kind, _, _, _, low, high] = self.0.to_le_bytes();
        NameValue {
            namespace: u16::from_le_bytes([low, high]),
            kind,
            own: 0,
        }
    }
}

/// Element of map `ROWS`: the label set of the histogram row with the same
/// number (0: the row is free), and what is counted beside the histograms.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Row {
    /// A [`PairKey`].
    pub pair: AtomicU64,
    /// Retransmitted segments by [`crate::packet::Direction`].
    pub retransmitted: [AtomicU64; 2],
}

const _: () = assert!(size_of::<Row>() == 24);
