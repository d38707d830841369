//! What the pure code needs from its surroundings: clocks, counters and a way
//! out for samples.

use core::sync::atomic::Ordering::Relaxed;

use crate::{
    atomic::AtomicU64,
    counter::Counter,
    layout::{Echo, FlowEntry, Methods, RequestEntry},
    matcher,
};

/// Whether the agent has been gone for too long. Both times are jiffies, in 64
/// bits, because 32 bits would wrap around. `u64::MAX`: the programs never
/// stop.
#[inline(always)]
#[must_use]
pub const fn is_abandoned(awake_until: u64, jiffies: u64) -> bool {
    jiffies > awake_until
}

/// Clocks, counters, atomic adds and the way out for samples. The kernel
/// programs and the host model each implement it.
pub trait Env {
    /// Returns `x` as a number of which the kernel's verifier knows nothing.
    ///
    /// Where several code paths meet, the verifier follows each path to the end
    /// unless it knows the same of all numbers. Before Linux 6.4 every number
    /// counts for that, whether it matters later or not. So numbers that depend
    /// on the path are hidden where the paths meet.
    #[inline(always)]
    fn hide_from_verifier(&self, x: u32) -> u32 {
        x
    }

    /// `CLOCK_MONOTONIC`, nanoseconds. A read costs up to 100 ns in a virtual
    /// machine, so callers read it only when a TSval is stored or matched.
    fn now_ns(&self) -> u64;

    /// Low 32 bits of jiffies.
    fn jiffies(&self) -> u32;

    /// Jiffies per second.
    fn hz(&self) -> u32;

    /// Jiffies since `time`, plus one second. The second keeps the difference
    /// from wrapping: a time that another CPU noted can be ahead of this CPU's
    /// clock, and means now, not months ago.
    #[inline(always)]
    fn since(&self, time: u32) -> u32 {
        self.jiffies().wrapping_sub(time).wrapping_add(self.hz())
    }

    /// Whether more than `jiffies` have passed since `time`.
    #[inline(always)]
    fn passed(&self, time: u32, jiffies: u32) -> bool {
        self.since(time) > jiffies.saturating_add(self.hz())
    }

    /// The methods that are on.
    fn methods(&self) -> Methods;

    /// Adds `n` without a race and without reading the sum back (a fetching add
    /// needs Linux 5.12).
    fn add64(&self, to: &AtomicU64, n: u64);

    /// Adds `n` to the counter.
    fn count(&self, counter: Counter, n: u64);

    /// Takes a stamp and its echo, and classifies how long the far end may have
    /// held the echo back.
    #[inline(always)]
    fn raw(&self, entry: &FlowEntry, raw: &RawSample) {
        let echo = matcher::classify(entry, raw);
        self.sample(entry, &raw.sample(echo));
    }

    /// Takes a matched round trip: histogram, statistics, watchers.
    fn sample(&self, entry: &FlowEntry, sample: &RttSample);

    /// Takes the time of a request and its answer: histogram, watchers.
    fn request(&self, entry: &FlowEntry, request: &RequestEntry, sample: &RequestSample);

    /// Counts segments of a direction that passed before, or that were left out
    /// before.
    fn retransmitted(&self, entry: &FlowEntry, direction: u8, segments: u32);

    /// Counts a query that was not answered in time, in a place of a histogram
    /// row. `sent_ns` is when the query was sent.
    fn unanswered(&self, row: u32, place: u32, sent_ns: u64);

    /// Called when a flow loses its entry. What the agent has not yet taken
    /// from the entry (the window's minima) must be kept.
    fn retire(&self, entry: &FlowEntry);

    /// Stores 0 before everything that is stored afterwards. The entry then
    /// belongs to no flow.
    fn vacate(&self, from: &AtomicU64) {
        from.store(0, Relaxed);
    }

    /// Stores the fingerprint after everything that was stored before.
    fn publish(&self, to: &AtomicU64, fingerprint: u64);

    /// Whether the packet at hand comes from a socket of this host with this
    /// address (network byte order, IPv4 mapped) and port. False for a packet
    /// whose sender address was translated on its way.
    fn sent_here(&self, _address: [u32; 4], _port: u16) -> bool {
        false
    }

    /// Whether the query at hand comes from a socket of this host. The socket
    /// may be bound to no address, or have no port (`port` is 0). True where
    /// nobody can tell.
    fn asked_here(&self, _address: [u32; 4], _port: u16) -> bool {
        true
    }

    /// Whether a socket of this host is the flow's local end. True where nobody
    /// can tell, because the address is the host's.
    fn has_socket(&self, _entry: &FlowEntry) -> bool {
        true
    }

    /// `gso_size` of the packet at hand; 0: not GSO. Asked for only when a
    /// TSval is stored.
    fn segment_size(&self) -> u32;
}

/// A stamp and its echo, of one of the methods that use slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawSample {
    /// When the echo passed, `CLOCK_MONOTONIC` nanoseconds.
    pub now_ns: u64,
    /// Round trip in [`crate::layout::UNIT_NS`].
    pub units: u32,
    /// TSval, or end of sequence.
    pub id: u32,
    /// The echo's acknowledgment number.
    pub ack: u32,
    /// The stamp's slot.
    pub slot: u8,
    /// Number of the [`crate::layout::Leg`].
    pub leg: u8,
    /// Number of the [`crate::layout::Method`].
    pub method: u8,
    /// Whether the echo brings payload or FIN.
    pub data: bool,
    /// Whether the acknowledgment lacks some bytes to two full segments that no
    /// acknowledgment before it covered.
    pub lacks: bool,
}

impl RawSample {
    /// Makes a round trip of it, with its [`crate::layout::Echo`].
    #[inline(always)]
    #[must_use]
    pub const fn sample(&self, echo: Echo) -> RttSample {
        RttSample {
            now_ns: self.now_ns,
            units: self.units,
            id: self.id,
            leg: self.leg,
            echo: echo as u8,
            method: self.method,
        }
    }

    /// Packs all but the time, the round trip and the id into one number.
    #[inline(always)]
    #[must_use]
    pub const fn pack(&self) -> u64 {
        (self.ack as u64) << 32
            | (self.method as u64) << 16
            | (self.leg as u64) << 8
            | (self.data as u64) << 5
            | (self.lacks as u64) << 4
            | self.slot as u64
    }

    /// The reverse of [`Self::pack`]; `units` and `id` are the high and the low
    /// half of `units_and_id`.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(now_ns: u64, units_and_id: u64, packed: u64) -> Self {
        Self {
            now_ns,
            units: (units_and_id >> 32) as u32,
            id: units_and_id as u32,
            ack: (packed >> 32) as u32,
            slot: (packed & 0xf) as u8,
            leg: (packed >> 8 & 1) as u8,
            method: (packed >> 16 & 0xff) as u8,
            data: packed >> 5 & 1 != 0,
            lacks: packed >> 4 & 1 != 0,
        }
    }
}

/// A round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RttSample {
    /// When the echo passed, `CLOCK_MONOTONIC` nanoseconds.
    pub now_ns: u64,
    /// Round trip in [`crate::layout::UNIT_NS`].
    pub units: u32,
    /// TSval, or end of sequence.
    pub id: u32,
    /// Number of the direction of the stamped packet, which is that of the
    /// [`crate::layout::Leg`].
    pub leg: u8,
    /// Number of the [`crate::layout::Echo`].
    pub echo: u8,
    /// Number of the [`crate::layout::Method`].
    pub method: u8,
}

/// A request and its whole answer, of the method `request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestSample {
    /// When the answer's last byte passed, `CLOCK_MONOTONIC` nanoseconds.
    pub now_ns: u64,
    /// Time since the request's first byte, nanoseconds.
    pub rtt_ns: u64,
    /// The answer's end of sequence.
    pub id: u32,
    /// Number of the [`crate::layout::Leg`]: remote if the local end asked.
    pub leg: u8,
}

/// Claims by name: at most one CPU at a time holds a name.
pub trait Claims {
    /// Takes the claim; false: somebody else has it.
    fn claim(&self, name: u32) -> bool;

    /// Gives the claim back.
    fn release(&self, name: u32);
}

#[cfg(test)]
mod tests {
    use super::is_abandoned;

    #[test]
    fn abandoned_from_the_first_jiffy_past_the_word_on() {
        assert!(!is_abandoned(100, 99));
        assert!(!is_abandoned(100, 100));
        assert!(is_abandoned(100, 101));
        // Beyond 32 bits, where a narrower comparison comes round again.
        assert!(is_abandoned(100, 1 << 32));
        assert!(!is_abandoned(1 << 32, 100));
        assert!(!is_abandoned(u64::MAX, u64::MAX), "they never rest");
    }
}
