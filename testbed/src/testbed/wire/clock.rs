//! The clocks of the delay line.

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of the log, of Rust's `Instant`
/// and of the kernel's `bpf_ktime_get_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every kernel and count up from 0, so neither the
    // error nor a negative value can happen.
    clock_gettime(clock).map_or(0, |time| {
        let (seconds, nanoseconds) = (time.tv_sec(), time.tv_nsec());
        u64::try_from(seconds * 1_000_000_000 + nanoseconds).unwrap_or(0)
    })
}

/// Turns the kernel's packet timestamps, which are `CLOCK_REALTIME`, into
/// `CLOCK_MONOTONIC`. Sampled often, so that a step of the wall clock hurts
/// only the packets in flight.
#[derive(Debug)]
pub(super) struct Converter {
    /// Realtime less monotonic.
    offset_ns: u64,
}

/// A sample of both clocks this close together is good to a tenth of a
/// microsecond; a longer one was interrupted.
const BRACKET_NS: u64 = 400;

impl Converter {
    pub(super) fn new() -> Self {
        let mut converter = Self { offset_ns: 0 };
        let _ = (0..100).any(|_| converter.sample(u64::MAX) < BRACKET_NS);
        converter
    }

    /// Samples the offset again; returns the time in monotonic nanoseconds.
    pub(super) fn refresh(&mut self) -> u64 {
        self.sample(BRACKET_NS);
        monotonic_ns()
    }

    /// Takes the offset over if sampling it took at most `limit_ns`; returns
    /// how long it took.
    fn sample(&mut self, limit_ns: u64) -> u64 {
        let before = monotonic_ns();
        let real = read(ClockId::CLOCK_REALTIME);
        let bracket = monotonic_ns().saturating_sub(before);
        if bracket <= limit_ns {
            self.offset_ns = real.saturating_sub(before + bracket / 2);
        }
        bracket
    }

    /// The monotonic time of a realtime stamp, not later than `now`. A stamp
    /// more than a second old comes from a stepped clock: `now` stands in.
    pub(super) fn monotonic(&self, real_ns: u64, now: u64) -> u64 {
        let time = real_ns.saturating_sub(self.offset_ns).min(now);
        if now - time > 1_000_000_000 {
            now
        } else {
            time
        }
    }
}
