//! Names in the kernel: addresses map to small ids, pairs of ids to rows.

use core::mem::size_of;

use crate::atomic::AtomicU64;

/// What an address belongs to. `External` is every address without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PeerKind {
    /// An address without a name.
    External = 1,
    /// A pod.
    Pod = 2,
    /// A node. The addresses of this node itself count as well.
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

/// Owner of an address or an interface, as a small number. The upper bits are
/// the namespace, the lower bits a member of it (a workload, a service, a pod).
/// The agent assigns both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct NameId(pub u32);

impl NameId {
    /// Number of bits of a member.
    pub const MEMBER_BITS: u32 = 11;

    /// Number of bits in all.
    pub const BITS: u32 = 25;

    /// The largest number of a namespace.
    pub const MAX_NAMESPACE: u16 = (1 << (Self::BITS - Self::MEMBER_BITS)) - 1;

    /// In labels of rows only: the namespace that the row was for is gone.
    pub const GONE: Self = Self::new(Self::MAX_NAMESPACE, 0);

    /// The largest number of a member.
    pub const MAX_MEMBER: u16 = (1 << Self::MEMBER_BITS) - 1;

    /// Makes an id of both numbers, each cut to its bits. Namespace 0: none;
    /// member 0: the namespace as a whole.
    #[must_use]
    pub const fn new(namespace: u16, member: u16) -> Self {
        let namespace = namespace & Self::MAX_NAMESPACE;
        let member = member & Self::MAX_MEMBER;
        Self((namespace as u32) << Self::MEMBER_BITS | member as u32)
    }

    /// The namespace; 0: none.
    #[must_use]
    pub const fn namespace(self) -> u16 {
        (self.0 >> Self::MEMBER_BITS) as u16 & Self::MAX_NAMESPACE
    }

    /// The member of the namespace; 0: none.
    #[must_use]
    pub const fn member(self) -> u16 {
        self.0 as u16 & Self::MAX_MEMBER
    }
}

/// Value of map `NAMES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NameValue {
    /// Owner of the address; 0: none.
    pub id: NameId,
    /// A [`PeerKind`].
    pub kind: u8,
    /// 1 if the address is this node's own.
    pub own: u8,
    /// 1 if the address stands for others; map `BACKENDS` tells which.
    pub stands: u8,
    /// Keeps the layout free of implicit padding.
    pub reserved: u8,
}

const _: () = assert!(size_of::<NameValue>() == 8);

impl NameValue {
    /// Makes a name with this owner and kind, of an address that is not the
    /// node's own.
    #[must_use]
    pub const fn new(id: NameId, kind: PeerKind) -> Self {
        Self {
            id,
            kind: kind as u8,
            own: 0,
            stands: 0,
            reserved: 0,
        }
    }
}

/// Key of map `BACKENDS`: addresses of the local and the remote end, as in flow
/// keys, and both ports (the local one in the upper half).
pub type BackendKey = [u32; 9];

/// Capacity of map `BACKENDS`; an element takes some 150 bytes while it exists.
pub const MOST_BACKENDS: u32 = 16_384;

/// Makes the key of a connection in map `BACKENDS`.
#[inline(always)]
#[must_use]
pub const fn backend_key(local: ([u32; 4], u16), remote: ([u32; 4], u16)) -> BackendKey {
    let (from, to) = (local.0, remote.0);
    let ports = (local.1 as u32) << 16 | remote.1 as u32;
    [
        from[0], from[1], from[2], from[3], to[0], to[1], to[2], to[3], ports,
    ]
}

/// What the eight histograms of a row hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// TCP: leg times four plus echo. The fourth place of each leg holds the
    /// minima of evicted flows.
    Tcp = 0,
    /// ICMP echo: leg times four; [`super::ICMP_UNANSWERED`].
    Icmp = 1,
    /// DNS: by [`super::Rcode`], and [`super::DNS_UNANSWERED`]. The label set
    /// leaves out the remote end.
    Dns = 2,
    /// Requests over TCP: leg times four.
    Request = 3,
}

/// Key of map `PAIRS` and label set of a histogram row, packed into 64 bits.
/// From the lowest bit on: vantage (4 bits), kinds of the local and the remote
/// end (3 each), whether the local end is the node itself (1), [`Family`] (2),
/// the ids of both ends (25 each).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairKey(pub u64);

/// Where the parts of a [`PairKey`] begin.
mod at {
    pub(super) const LOCAL_KIND: u32 = 4;
    pub(super) const REMOTE_KIND: u32 = 7;
    pub(super) const OWN: u32 = 10;
    pub(super) const FAMILY: u32 = 11;
    pub(super) const LOCAL: u32 = 13;
    pub(super) const REMOTE: u32 = LOCAL + super::NameId::BITS;
}

impl PairKey {
    /// Bit of a vantage number: the flow is inside a tunnel. Such rows enter no
    /// aggregate of a vantage, because the pod's own veth counts the same
    /// flows.
    pub const INSIDE: u8 = 8;

    /// Set in a row that is free again. The row is then no label set; the bits
    /// below hold the number of the next free row (0: none).
    pub const FREE: u64 = 1 << 63;

    /// Packs the label set of a flow.
    #[must_use]
    pub fn new(vantage: u8, local: NameValue, remote: NameValue) -> Self {
        let id = |id: NameId| u64::from(id.0 & ((1 << NameId::BITS) - 1));
        Self(
            u64::from(vantage & 15)
                | u64::from(local.kind & 7) << at::LOCAL_KIND
                | u64::from(remote.kind & 7) << at::REMOTE_KIND
                | u64::from(local.own & 1) << at::OWN
                | id(local.id) << at::LOCAL
                | id(remote.id) << at::REMOTE,
        )
    }

    /// Makes the same label set for another family (flows are [`Family::Tcp`]).
    #[must_use]
    pub fn with(self, family: Family) -> Self {
        Self(self.0 & !(3 << at::FAMILY) | (family as u64) << at::FAMILY)
    }

    /// Makes the label set of the namespaces alone. Pairs share its row when no
    /// row is left that tells their members apart.
    #[must_use]
    pub fn whole(self) -> Self {
        let members = u64::from(NameId::MAX_MEMBER);
        Self(self.0 & !(members << at::LOCAL | members << at::REMOTE))
    }

    /// Makes the same label set with other ids.
    #[must_use]
    pub fn with_ids(self, local: NameId, remote: NameId) -> Self {
        let id = |id: NameId| u64::from(id.0 & ((1 << NameId::BITS) - 1));
        let all = (1 << (2 * NameId::BITS)) - 1;
        Self(self.0 & !(all << at::LOCAL) | id(local) << at::LOCAL | id(remote) << at::REMOTE)
    }

    /// The label set of a pair that is gone, at this vantage. It is shown
    /// nowhere, and its samples still count as samples.
    #[must_use]
    pub fn gone(self) -> Self {
        let nobody = NameValue {
            id: NameId::GONE,
            ..NameValue::default()
        };
        let gone = Self::new(self.vantage(), nobody, nobody);
        self.family().map_or(gone, |family| gone.with(family))
    }

    /// The family of the row's histograms; None: this version does not know it.
    #[must_use]
    pub fn family(self) -> Option<Family> {
        [Family::Tcp, Family::Icmp, Family::Dns, Family::Request]
            .into_iter()
            .find(|family| *family as u64 == self.0 >> at::FAMILY & 3)
    }

    /// The [`super::Vantage`] as a number, with [`Self::INSIDE`].
    #[must_use]
    pub fn vantage(self) -> u8 {
        self.0 as u8 & 15
    }

    /// The local end: its owner, its kind, and whether it is the node itself.
    #[must_use]
    pub fn local(self) -> NameValue {
        NameValue {
            id: self.id(at::LOCAL),
            kind: (self.0 >> at::LOCAL_KIND) as u8 & 7,
            own: (self.0 >> at::OWN) as u8 & 1,
            stands: 0,
            reserved: 0,
        }
    }

    /// The remote end: its owner and kind.
    #[must_use]
    pub fn remote(self) -> NameValue {
        NameValue {
            id: self.id(at::REMOTE),
            kind: (self.0 >> at::REMOTE_KIND) as u8 & 7,
            own: 0,
            stands: 0,
            reserved: 0,
        }
    }

    fn id(self, at: u32) -> NameId {
        NameId((self.0 >> at) as u32 & ((1 << NameId::BITS) - 1))
    }
}

/// Element of map `ROWS`: the label set of the histogram row with the same
/// number (0: the row is free), and what is counted beside the histograms.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Row {
    /// A [`PairKey`]; see [`PairKey::FREE`].
    pub pair: AtomicU64,
    /// Retransmitted segments by [`crate::packet::Direction`].
    pub retransmitted: [AtomicU64; 2],
}

const _: () = assert!(size_of::<Row>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_holds_all_that_was_put_into_it() {
        let local = NameValue {
            own: 1,
            ..NameValue::new(NameId::new(NameId::MAX_NAMESPACE, 1), PeerKind::Node)
        };
        let remote = NameValue::new(NameId::new(1, NameId::MAX_MEMBER), PeerKind::Service);
        for family in [Family::Tcp, Family::Icmp, Family::Dns, Family::Request] {
            let pair = PairKey::new(5 | PairKey::INSIDE, local, remote).with(family);
            assert_eq!(pair.local(), local);
            assert_eq!(pair.remote(), remote);
            assert_eq!(pair.vantage(), 5 | PairKey::INSIDE);
            assert_eq!(pair.family(), Some(family));
            assert_eq!(pair.0 & PairKey::FREE, 0);
            let ids = (pair.local().id, pair.remote().id);
            assert_eq!(pair.with_ids(ids.0, ids.1), pair);
            let other = pair.with_ids(NameId::new(7, 8), NameId::new(9, 10));
            assert_eq!(other.with_ids(ids.0, ids.1), pair);
            assert_eq!(other.remote().id, NameId::new(9, 10));
            assert_eq!(pair.gone().local().id, NameId::GONE);
            assert_eq!(pair.gone().family(), pair.family());
            let whole = pair.whole();
            assert_eq!(whole.local().id, NameId::new(NameId::MAX_NAMESPACE, 0));
            assert_eq!(whole.remote().id, NameId::new(1, 0));
            assert_eq!(
                (whole.vantage(), whole.family()),
                (pair.vantage(), Some(family))
            );
        }
    }
}
