//! The small maps: the control block, the settings of interfaces, the
//! histograms.

use core::mem::size_of;

use super::NameId;
use crate::{
    atomic::{AtomicU32, AtomicU64},
    histogram::WORDS,
};

/// The one element of map `CONTROL`. The agent writes the first two words, the
/// kernel programs the rest. Rows are assigned and freed under a claim.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Control {
    /// Not 0 while somebody reads the sample stream.
    pub watch: AtomicU32,
    /// Generation of the names, counted from 1. A flow whose row was resolved
    /// for another generation resolves it again.
    pub generation: AtomicU32,
    /// The next free histogram row; row 0 is the overflow row.
    pub next_row: AtomicU32,
    /// The first row that is free again ([`super::PairKey::FREE`]); 0: none.
    pub free_row: AtomicU32,
    /// `bpf_ktime_get_ns` (`CLOCK_MONOTONIC`) when `lpm_clock` last ran.
    pub clock_ktime_ns: AtomicU64,
    /// `bpf_jiffies64` at that moment.
    pub clock_jiffies: AtomicU64,
    /// Not 0 once a VLAN tag was seen. Until then no flow is looked for in
    /// other VLANs ([`crate::vlan`]).
    pub tagged: AtomicU32,
    /// The interface that last showed a flow, or a query, whose other direction
    /// could be in more than one VLAN; 0: none. The agent reads it and stores
    /// 0.
    pub doubtful: AtomicU32,
    /// Keeps what follows out of the cache line that each packet reads.
    pub reserved: [AtomicU64; 3],
    /// Remote ends of queries, as [`super::FlowCold::remote`]; a later one
    /// takes the place of an earlier one. The agent reads and clears them, and
    /// looks up their names.
    pub asked: [[AtomicU32; 4]; ASKED],
}

/// Elements of [`Control::asked`].
pub const ASKED: usize = 32;

const _: () = assert!(size_of::<Control>() == 64 + 16 * ASKED);

/// Where a flow is seen from (the design's frozen term).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Vantage {
    /// The host end of a pod's veth.
    Pod = 1,
    /// A tunnel device of an overlay.
    Overlay = 2,
    /// A routed bridge.
    Bridge = 3,
    /// A network card of the node.
    Nic = 4,
    /// Several ingress hooks as one vantage, where the CNI redirects past a
    /// hook.
    Node = 5,
}

impl Vantage {
    /// The vantage with this number, as stored in a map.
    #[must_use]
    pub fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Pod,
            2 => Self::Overlay,
            3 => Self::Bridge,
            4 => Self::Nic,
            5 => Self::Node,
            _ => return None,
        })
    }

    /// The word used in samples, metrics and the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Overlay => "overlay",
            Self::Bridge => "bridge",
            Self::Nic => "nic",
            Self::Node => "node",
        }
    }

    /// Whether packets that *enter* the host through the interface come from
    /// the local end. True for the host end of a pod's veth and for a routed
    /// bridge. False for tunnels and network cards, whose incoming packets come
    /// from afar.
    #[must_use]
    pub fn ingress_is_from_local(self) -> bool {
        matches!(self, Self::Pod | Self::Bridge)
    }
}

/// Value of map `INTERFACES` (key: interface index). Read when a flow appears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InterfaceConfig {
    /// A [`Vantage`].
    pub vantage: u8,
    /// [`super::PeerKind`] of the local end; 0: its name is found by its
    /// address.
    pub local_kind: u8,
    /// Keeps the layout free of implicit padding.
    pub reserved: u16,
    /// Name of the local end; used if `local_kind` is not 0.
    pub local: NameId,
}

const _: () = assert!(size_of::<InterfaceConfig>() == 8);

/// One histogram: an element of map `HISTOGRAMS`. See [`crate::histogram`].
#[derive(Debug)]
#[repr(C)]
pub struct Histogram {
    /// Counts by [`crate::histogram::bucket`]; the last word is the sum of
    /// all observations in nanoseconds.
    pub words: [AtomicU64; WORDS],
}

const _: () = assert!(size_of::<Histogram>() == 2048);
