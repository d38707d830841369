//! What the pure code asks of its surroundings.

use core::sync::atomic::Ordering::Relaxed;

use crate::{
    atomic::AtomicU64,
    counter::Counter,
    layout::{Echo, FlowEntry, Methods, RequestEntry},
    matcher,
};

/// Whether the programs' agent has been gone for too long: both in jiffies, all
/// 64 bits, as 32 would come round again. `u64::MAX`: they never rest.
#[inline(always)]
#[must_use]
pub const fn is_abandoned(awake_until: u64, jiffies: u64) -> bool {
    jiffies > awake_until
}

/// Clocks, counters, atomic adds and the way out for samples. The kernel
/// programs and the host model each implement it.
pub trait Env {
    /// `x`, of which the kernel's verifier knows nothing any more.
    ///
    /// Where several ways meet, it follows each of them to the end unless what
    /// it knows of all numbers is the same. Before 6.4 every number counts for
    /// that, whether it matters or not; so numbers that depend on the way are
    /// forgotten where the ways meet.
    #[inline(always)]
    fn hide_from_verifier(&self, x: u32) -> u32 {
        x
    }

    /// `CLOCK_MONOTONIC`, nanoseconds. Costs up to 100 ns in a virtual
    /// machine: asked for only when a TSval is stored or matched.
    fn now_ns(&self) -> u64;

    /// Low 32 bits of jiffies.
    fn jiffies(&self) -> u32;

    /// Jiffies per second.
    fn hz(&self) -> u32;

    /// Jiffies since a time, and a second: one that another CPU noted while this
    /// one read its clock may be ahead of it, and is now, not months ago.
    #[inline(always)]
    fn since(&self, time: u32) -> u32 {
        self.jiffies().wrapping_sub(time).wrapping_add(self.hz())
    }

    /// Whether more jiffies than these have passed since a time.
    #[inline(always)]
    fn passed(&self, time: u32, jiffies: u32) -> bool {
        self.since(time) > jiffies.saturating_add(self.hz())
    }

    /// The methods that are on.
    fn methods(&self) -> Methods;

    /// Adds without a race and without reading back (a fetch needs 5.12).
    fn add64(&self, to: &AtomicU64, n: u64);

    /// Counts.
    fn count(&self, counter: Counter, n: u64);

    /// Takes a stamp and its echo, and finds out how long the far end may have
    /// sat on it.
    #[inline(always)]
    fn raw(&self, entry: &FlowEntry, raw: &RawSample) {
        let echo = matcher::classify(entry, raw);
        self.sample(entry, &raw.sample(echo));
    }

    /// Takes a matched round trip: histogram, statistics, watchers.
    fn sample(&self, entry: &FlowEntry, sample: &RttSample);

    /// Takes the time of a request and its answer: histogram, watchers.
    fn request(&self, entry: &FlowEntry, request: &RequestEntry, sample: &RequestSample);

    /// Segments of a direction that passed before, or were left out before.
    fn retransmitted(&self, entry: &FlowEntry, direction: u8, segments: u32);

    /// Counts a question that was not answered in time, in a place of a row;
    /// it was sent then.
    fn unanswered(&self, row: u32, place: u32, sent_ns: u64);

    /// A flow loses its entry: what the agent has not yet taken from it (the
    /// window's minima) must be kept.
    fn retire(&self, entry: &FlowEntry);

    /// Stores 0 before everything that is stored afterwards: the entry is
    /// nobody's.
    fn vacate(&self, from: &AtomicU64) {
        from.store(0, Relaxed);
    }

    /// Stores the fingerprint after everything that was stored before.
    fn publish(&self, to: &AtomicU64, fingerprint: u64);

    /// Whether the packet at hand comes from a socket of this host that has this
    /// address (network byte order, IPv4 mapped) and port. A packet whose
    /// sender was translated on its way does not.
    fn sent_here(&self, _address: [u32; 4], _port: u16) -> bool {
        false
    }

    /// Likewise for a question: also from a socket that has no address of its
    /// own, and from one without port, which is 0. Where nobody can tell, it
    /// does.
    fn asked_here(&self, _address: [u32; 4], _port: u16) -> bool {
        true
    }

    /// Whether a socket of this host is the flow's local end. Where nobody can
    /// tell, it is: the address is the host's.
    fn has_socket(&self, _entry: &FlowEntry) -> bool {
        true
    }

    /// `gso_size` of the packet at hand; 0: not GSO. Asked for only when a
    /// TSval is stored.
    fn segment_size(&self) -> u32;
}

/// A stamp and its echo, of a method that has slots.
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
    /// Whether it lacks something to two full segments that no acknowledgment
    /// before it covered.
    pub lacks: bool,
}

impl RawSample {
    /// With its [`crate::layout::Echo`].
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

    /// All but the time, the round trip and the id as one number.
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
    /// Since the request's first byte, nanoseconds.
    pub rtt_ns: u64,
    /// The answer's end of sequence.
    pub id: u32,
    /// Number of the [`crate::layout::Leg`]: remote if the local end asked.
    pub leg: u8,
}

/// Where claims are made: at most one CPU at a time holds a name.
pub trait Claims {
    /// Takes the claim; false: somebody else has it.
    fn claim(&self, name: u32) -> bool;

    /// Gives it back.
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
