//! A flow, copied out of the flow table while the kernel writes to it.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU16, AtomicU32, Ordering, fence},
    time::Duration,
};

use lpm_common::{
    layout::{DirectionSlots, FlowCold, FlowEntry, UNIT_NS, Vantage},
    matcher::state,
};

/// Attempts to read an entry that the kernel gives to another flow meanwhile.
const RETRIES: usize = 3;

/// A flow at one vantage, as it was at one moment. Arrays are by direction: packets from the local
/// end first, then packets to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Index in the flow table.
    pub index: usize,
    /// Identifies the flow for as long as it has its entry.
    pub fingerprint: u64,
    /// Address of the local end.
    pub local: IpAddr,
    /// Address of the remote end.
    pub remote: IpAddr,
    /// TCP port of the local end.
    pub local_port: u16,
    /// TCP port of the remote end.
    pub remote_port: u16,
    /// Interface of the vantage, in the namespace of the agent's interfaces.
    pub ifindex: u32,
    /// VLAN ids or VNI as in [`FlowCold::segment`]. 0: none.
    pub segment: u32,
    /// VNI of the tunnel around the innermost one, see [`lpm_common::layout::tunnel`].
    pub outer_vni: u32,
    /// Vantage of the flow. None: a number that this version does not know.
    pub vantage: Option<Vantage>,
    /// True: the SYN was seen.
    pub opened: bool,
    /// True: a FIN from both ends, or an RST, was seen.
    pub closed: bool,
    /// Jiffies of the first packet, low 32 bits.
    pub first_seen: u32,
    /// Jiffies of the last packet, low 32 bits.
    pub last_seen: u32,
    /// Index of the histogram row.
    pub row: u16,
    /// [`lpm_common::layout::Traffic`] by direction, as packed in the entry.
    pub traffic: [u64; 2],
    /// Times of the remote leg, then of the local leg.
    pub legs: [LegTimes; 2],
}

/// Round trips of one leg. None: not measured yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegTimes {
    /// The latest round trip.
    pub last: Option<Duration>,
    /// The smallest round trip. In an entry: since the agent last took it. Otherwise: since the
    /// agent first saw the flow.
    pub min: Option<Duration>,
    /// The smoothed round trip, as in RFC 6298.
    pub smoothed: Option<Duration>,
    /// Number of round trips, modulo 2^32.
    pub samples: u32,
}

/// What tells a flow from all others in the course of time, those with the same addresses and ports
/// included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowIdentity {
    /// Identifies the flow for as long as it has its entry.
    pub fingerprint: u64,
    /// When the flow was first seen, jiffies.
    pub first_seen: u32,
}

impl FlowIdentity {
    /// The identity of the flow with this fingerprint, which has the entry.
    #[must_use]
    pub fn of(fingerprint: u64, entry: &FlowEntry) -> Self {
        Self {
            fingerprint,
            first_seen: entry.cold.first_seen.load(Ordering::Relaxed),
        }
    }
}

impl Flow {
    /// What tells the flow from all others.
    #[must_use]
    pub fn identity(&self) -> FlowIdentity {
        FlowIdentity {
            fingerprint: self.fingerprint,
            first_seen: self.first_seen,
        }
    }

    /// Copies an entry. None: the entry is free, or changes flows again and again.
    #[must_use]
    pub fn read(index: usize, entry: &FlowEntry) -> Option<Self> {
        for _ in 0..RETRIES {
            let fingerprint = entry.fingerprint.load(Ordering::Acquire);
            if fingerprint == 0 {
                return None;
            }
            let flow = Self::copy(index, fingerprint, entry);
            fence(Ordering::Acquire);
            if entry.fingerprint.load(Ordering::Relaxed) == fingerprint {
                return Some(flow);
            }
        }
        None
    }

    fn copy(index: usize, fingerprint: u64, entry: &FlowEntry) -> Self {
        let cold = &entry.cold;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the row is in the low 16 bits"
        )]
        let row = entry.row.load(Ordering::Relaxed) as u16;
        Self {
            index,
            fingerprint,
            local: address(&cold.local),
            remote: address(&cold.remote),
            local_port: cold.local_port.load(Ordering::Relaxed),
            remote_port: cold.remote_port.load(Ordering::Relaxed),
            ifindex: cold.ifindex.load(Ordering::Relaxed),
            segment: cold.segment.load(Ordering::Relaxed),
            outer_vni: cold.outer_vni(),
            vantage: Vantage::from_raw(cold.vantage()),
            opened: cold.opened(),
            closed: is_closed(entry),
            first_seen: cold.first_seen.load(Ordering::Relaxed),
            last_seen: entry.last_seen.load(Ordering::Relaxed),
            row,
            traffic: super::window::words(entry),
            legs: [0, 1].map(|leg: usize| LegTimes::read(&entry.slots[leg])),
        }
    }
}

impl LegTimes {
    fn read(slots: &DirectionSlots) -> Self {
        Self {
            last: duration(slots.last.load(Ordering::Relaxed)),
            min: duration(slots.window_min.load(Ordering::Relaxed)),
            smoothed: duration(slots.smoothed.load(Ordering::Relaxed)),
            samples: slots.samples.load(Ordering::Relaxed),
        }
    }
}

/// Converts a statistic of a flow entry. None: not measured yet.
pub(super) fn duration(units: u32) -> Option<Duration> {
    match units {
        u32::MAX => None,
        units => Some(Duration::from_nanos(u64::from(units) * UNIT_NS)),
    }
}

/// Converts an address from a map's memory: network byte order, IPv4 mapped into IPv6.
fn address(words: &[AtomicU32; 4]) -> IpAddr {
    plain_address([0, 1, 2, 3].map(|word: usize| words[word].load(Ordering::Relaxed)))
}

/// Converts an address of a sample: network byte order in memory, IPv4 mapped into IPv6.
#[must_use]
pub fn plain_address(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(bytes).to_canonical()
}

/// True if the connection is over: a FIN from both ends, or an RST from one.
pub(super) fn is_closed(entry: &FlowEntry) -> bool {
    let [from, to] = [0, 1].map(|way: usize| entry.hot[way].state.load(Ordering::Relaxed));
    (from | to) & state::RST != 0 || from & to & state::FIN != 0
}

/// Addresses and ports of an entry's ends, the local one first, without a copy of the rest.
pub(super) fn ends_of(cold: &FlowCold) -> (SocketAddr, SocketAddr) {
    let end =
        |words, port: &AtomicU16| SocketAddr::new(address(words), port.load(Ordering::Relaxed));
    (
        end(&cold.local, &cold.local_port),
        end(&cold.remote, &cold.remote_port),
    )
}

/// The interface of an entry, without a copy of the rest.
#[must_use]
pub fn interface_of(cold: &FlowCold) -> u32 {
    cold.ifindex.load(Ordering::Relaxed)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Writes an IPv4 flow into an entry as the kernel would.
    pub(crate) fn fill(entry: &FlowEntry, fingerprint: u64, last: u8) {
        let local = Ipv4Addr::new(198, 18, 5, last).to_ipv6_mapped().octets();
        let remote = Ipv4Addr::new(198, 18, 9, 1).to_ipv6_mapped().octets();
        for (to, from) in [(&entry.cold.local, local), (&entry.cold.remote, remote)] {
            for (word, bytes) in to.iter().zip(from.chunks_exact(4)) {
                let bytes = bytes.try_into().expect("four bytes");
                word.store(u32::from_ne_bytes(bytes), Ordering::Relaxed);
            }
        }
        entry.cold.local_port.store(4000, Ordering::Relaxed);
        entry.cold.remote_port.store(5301, Ordering::Relaxed);
        entry.cold.ifindex.store(7, Ordering::Relaxed);
        entry.cold.set_birth(Vantage::Pod as u8, false);
        entry.fingerprint.store(fingerprint, Ordering::Release);
    }

    #[test]
    fn a_free_entry_is_no_flow() {
        assert_eq!(Flow::read(0, &FlowEntry::default()), None);
    }

    #[test]
    fn addresses_ports_and_times() {
        let entry = FlowEntry::default();
        fill(&entry, 9, 1);
        entry.slots[0].window_min.store(100, Ordering::Relaxed);
        let flow = Flow::read(3, &entry).expect("a flow");
        assert_eq!(flow.local, IpAddr::from([198, 18, 5, 1]));
        assert_eq!(flow.remote, IpAddr::from([198, 18, 9, 1]));
        assert_eq!((flow.local_port, flow.remote_port), (4000, 5301));
        assert_eq!(flow.legs[0].min, Some(Duration::from_nanos(6400)));
        assert_eq!(flow.legs[0].last, None, "not measured is not zero");
        assert_eq!(flow.legs[1], LegTimes::default());
    }
}
