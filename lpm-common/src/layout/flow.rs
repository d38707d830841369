//! The flow entry: one flow at one vantage, in four cache lines.

use core::{
    mem::{offset_of, size_of},
    sync::atomic::Ordering::Relaxed,
};

use crate::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// Outstanding timestamps per direction of a flow.
///
/// Three, because three 16-byte slots and the statistics of the leg they
/// measure share one cache line: a sample touches the hot line and this one.
pub const SLOTS: usize = 3;

/// Resolution of all times in an entry, nanoseconds. 32 bits of it wrap after
/// 275 s.
pub const UNIT_NS: u64 = 64;

/// A flow at one vantage. Both directions and both legs are in one entry.
///
/// | bytes | what | touched by |
/// |---|---|---|
/// | 0..64 | hot line | every packet |
/// | 64..128 | slots of the packets from the local end (remote leg) | a new TSval or TSecr |
/// | 128..192 | slots of the packets to the local end (local leg) | a new TSval or TSecr |
/// | 192..256 | key and birth | creation, eviction, readers |
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct FlowEntry {
    /// Seeded hash of the flow key; 0: the entry is free. It is stored last
    /// when an entry is made. Every reader checks it before and after reading.
    pub fingerprint: AtomicU64,
    /// Low 32 bits of jiffies at the flow's last packet.
    pub last_seen: AtomicU32,
    /// Histogram row in the low 16 bits, the names' generation for which it
    /// was resolved in the high 16 bits.
    pub row: AtomicU32,
    /// Per direction, indexed by [`crate::packet::Direction`].
    pub hot: [DirectionHot; 2],
    /// Stamps and statistics, per direction of the stamped packet.
    pub slots: [DirectionSlots; 2],
    /// The key, and what was learnt when the entry was made.
    pub cold: FlowCold,
}

/// What every packet of one direction reads or writes.
#[derive(Debug, Default)]
#[repr(C)]
pub struct DirectionHot {
    /// Packets and bytes, packed so that one atomic add does for both; see
    /// [`Traffic`].
    pub traffic: AtomicU64,
    /// Newest TSval seen (RFC 7323 section 5.2: modulo 2^31).
    pub tsval: AtomicU32,
    /// Newest TSecr seen.
    pub tsecr: AtomicU32,
    /// Bits of [`crate::matcher::state`]; the upper bits hold the TSval (or
    /// sequence number) before which nothing is stamped.
    pub state: AtomicU32,
    /// Highest end of sequence seen: one past the last byte (RFC 9293 section
    /// 3.4: modulo 2^32).
    pub seq_end: AtomicU32,
}

/// What [`DirectionHot::traffic`] counts since the flow has its entry. A word
/// wraps. A reader that looks at least every ten seconds adds up the
/// differences; each difference is right up to 67 million packets and 275 GB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets on the wire (a GSO packet counts each of its segments).
    pub packets: u64,
    /// Bytes on the wire, link-layer header included, of each segment.
    pub bytes: u64,
}

impl Traffic {
    const BYTES: u32 = 38;

    /// Packs the counts into a word that can be added to
    /// [`DirectionHot::traffic`].
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        (self.packets << Self::BYTES).wrapping_add(self.bytes)
    }

    /// Unpacks a word, or the difference (modulo 2^64) of two words.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            packets: word >> Self::BYTES,
            bytes: word & ((1 << Self::BYTES) - 1),
        }
    }
}

/// Adds modulo 2^64: the half of a word that the other half wrapped into can be
/// less than 0.
impl core::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}

/// Outstanding timestamps of one direction, and the statistics of its leg.
///
/// All times are in [`UNIT_NS`]; in the statistics `u32::MAX` is "not yet
/// measured".
#[derive(Debug)]
#[repr(C)]
pub struct DirectionSlots {
    /// TSval in the high 32 bits, time in the low 32 bits; 0: free.
    pub stamps: [AtomicU64; SLOTS],
    /// Sequence number at which two full segments, counted from the first byte
    /// of the stamped segment, are complete.
    pub targets: [AtomicU32; SLOTS],
    /// Spacing of stamps in ticks of the sender's timestamp clock.
    pub gap: AtomicU32,
    /// Smallest round trip since the agent last took it (the agent swaps
    /// `u32::MAX` in).
    pub window_min: AtomicU32,
    /// Round trips measured since the flow has its entry, modulo 2^32.
    pub samples: AtomicU32,
    /// Latest round trip.
    pub last: AtomicU32,
    /// Round trip smoothed as in RFC 6298 section 2 (alpha 1/8).
    pub smoothed: AtomicU32,
    /// Time from the stamped segment to the completion of the second full
    /// segment; encoded by [`crate::matcher::state`].
    pub second: [AtomicU16; SLOTS],
    /// Payload of a full segment on the wire, bytes; 0: unknown.
    pub full_segment: AtomicU16,
}

impl Default for DirectionSlots {
    fn default() -> Self {
        Self {
            stamps: Default::default(),
            targets: Default::default(),
            gap: AtomicU32::default(),
            window_min: AtomicU32::new(u32::MAX),
            samples: AtomicU32::default(),
            last: AtomicU32::new(u32::MAX),
            smoothed: AtomicU32::new(u32::MAX),
            second: Default::default(),
            full_segment: AtomicU16::default(),
        }
    }
}

/// The flow's key in full, and what was learnt when the entry was made.
#[derive(Debug, Default)]
#[repr(C)]
pub struct FlowCold {
    /// Address of the local end, network byte order in memory; IPv4 is mapped
    /// (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
    pub local: [AtomicU32; 4],
    /// Address of the remote end, network byte order in memory; IPv4 is mapped.
    pub remote: [AtomicU32; 4],
    /// TCP port of the local end, host byte order.
    pub local_port: AtomicU16,
    /// TCP port of the remote end, host byte order.
    pub remote_port: AtomicU16,
    /// Interface of the vantage.
    pub ifindex: AtomicU32,
    /// VLAN ids (outer in bits 0..12, inner in bits 12..24). For a flow inside
    /// a tunnel, the tunnel's VNI and kind: see [`super::tunnel`]. 0: none.
    pub segment: AtomicU32,
    /// Bits 0..6: the [`super::Vantage`] of the interface when the flow
    /// appeared. Bit 6: a socket of this host sent the flow's first packet. Bit
    /// 7: the flow's SYN was seen.
    pub birth: AtomicU8,
    /// Bits 16..24 of the VNI of the tunnel around the innermost one; 0: none.
    pub outer_vni_high: AtomicU8,
    /// Bits 0..16 of the VNI of the tunnel around the innermost one.
    pub outer_vni_low: AtomicU16,
    /// Low 32 bits of jiffies at the flow's first packet.
    pub first_seen: AtomicU32,
    /// MSS option of the SYN sent by each direction, bytes; 0: not seen.
    pub announced_mss: [AtomicU16; 2],
    /// Per direction, while [`crate::matcher::state::STALE`] is set. Low 28
    /// bits: jiffies at the start of a run of stale TSvals. Bits above: how
    /// many packets in a row did not fit the direction's method. If they are
    /// all set: the low bits are the end of sequence, in units of 16 bytes, of a
    /// packet that was not believed.
    pub stale: [AtomicU32; 2],
}

const OPENED: u8 = 0x80;
const HOSTS: u8 = 0x40;

impl FlowCold {
    /// The [`super::Vantage`] of the interface when the flow appeared.
    #[inline(always)]
    #[must_use]
    pub fn vantage(&self) -> u8 {
        self.birth.load(Relaxed) & !(OPENED | HOSTS)
    }

    /// Whether the flow's SYN was seen; false: the flow was first seen in
    /// mid-stream.
    #[inline(always)]
    #[must_use]
    pub fn opened(&self) -> bool {
        self.birth.load(Relaxed) & OPENED != 0
    }

    /// Whether a socket of this host sent the flow's first packet.
    #[inline(always)]
    #[must_use]
    pub fn is_hosts(&self) -> bool {
        self.birth.load(Relaxed) & HOSTS != 0
    }

    /// Notes that a socket of this host sent the flow's first packet.
    #[inline(always)]
    pub fn set_hosts(&self) {
        self.birth.store(self.birth.load(Relaxed) | HOSTS, Relaxed);
    }

    /// Notes the vantage at which the flow appeared, and whether its SYN was
    /// seen.
    #[inline(always)]
    pub fn set_birth(&self, vantage: u8, opened: bool) {
        let opened = if opened { OPENED } else { 0 };
        self.birth.store(vantage | opened, Relaxed);
    }

    /// VNI of the tunnel around the innermost one.
    #[inline(always)]
    #[must_use]
    pub fn outer_vni(&self) -> u32 {
        u32::from(self.outer_vni_high.load(Relaxed)) << 16
            | u32::from(self.outer_vni_low.load(Relaxed))
    }

    /// Notes the VNI of the tunnel around the innermost one.
    #[inline(always)]
    pub fn set_outer_vni(&self, vni: u32) {
        self.outer_vni_high.store((vni >> 16) as u8, Relaxed);
        self.outer_vni_low.store(vni as u16, Relaxed);
    }
}

const LINE: usize = 64;
const _: () = assert!(size_of::<FlowEntry>() == 4 * LINE);
const _: () = assert!(offset_of!(FlowEntry, hot) == 16);
const _: () = assert!(offset_of!(FlowEntry, slots) == LINE);
const _: () = assert!(offset_of!(FlowEntry, cold) == 3 * LINE);
const _: () = assert!(size_of::<DirectionHot>() == 24);
const _: () = assert!(size_of::<DirectionSlots>() == LINE);
const _: () = assert!(size_of::<FlowCold>() == LINE);
