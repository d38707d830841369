//! The kernel's clocks, converted to wall time.
//!
//! A flow entry holds the low 32 bits of jiffies. A sample holds `CLOCK_MONOTONIC`. `lpm_clock`, a
//! program that is only test-run, writes both clocks at one moment. From there on jiffies advance
//! with `CLOCK_MONOTONIC` at HZ.

use std::{
    io,
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_getres, clock_gettime};

use crate::kernel::maps::Maps;

/// One reading of all clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    hz: u32,
    pub(super) jiffies: u32,
    monotonic_ns: u64,
    realtime_ns: u64,
}

impl Clock {
    /// Reads the clocks. [`crate::kernel::maps::FlowMaps::run_clock`] must have run once before.
    ///
    /// # Errors
    /// A clock of the C library cannot be read, or `lpm_clock` has not run.
    pub fn now(tables: &dyn Maps) -> io::Result<Self> {
        let control = tables.control();
        let at_ktime = control.clock_ktime_ns.load(Ordering::Acquire);
        let at_jiffies = control.clock_jiffies.load(Ordering::Acquire);
        if at_ktime == 0 {
            return Err(io::Error::other(
                "the agent has not read the kernel's clocks yet",
            ));
        }
        let (monotonic_ns, realtime_ns) = monotonic_and_realtime()?;
        let hz = hz()?;
        let elapsed = u128::from(monotonic_ns.saturating_sub(at_ktime));
        let passed = elapsed * u128::from(hz) / 1_000_000_000;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low 32 bits are wanted"
        )]
        let jiffies = at_jiffies.wrapping_add(passed as u64) as u32;
        Ok(Self {
            hz,
            jiffies,
            monotonic_ns,
            realtime_ns,
        })
    }

    /// The clock of a capture, whose samples have wall time: nanoseconds since 1970.
    #[must_use]
    pub const fn of_capture() -> Self {
        Self {
            hz: 1,
            jiffies: 0,
            monotonic_ns: 0,
            realtime_ns: 0,
        }
    }

    /// Clocks for a test: `hz` jiffies per second, and a current value of `jiffies`.
    #[cfg(test)]
    pub(crate) fn fixed(hz: u32, jiffies: u32, realtime_ns: u64) -> Self {
        Self {
            hz,
            jiffies,
            monotonic_ns: 0,
            realtime_ns,
        }
    }

    /// Age of a jiffies stamp of a flow entry. A stamp that another CPU made while this clock was
    /// read has age 0, not 198 days.
    #[must_use]
    pub fn age(&self, stamp: u32) -> Duration {
        let ticks = self.jiffies.wrapping_sub(stamp);
        if ticks > u32::MAX - 4 * self.hz {
            return Duration::ZERO;
        }
        Duration::from_nanos(u64::from(ticks) * 1_000_000_000 / u64::from(self.hz))
    }

    /// Wall time of a jiffies stamp, with the accuracy of a tick.
    #[must_use]
    pub fn wall(&self, stamp: u32) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.realtime_ns).saturating_sub(self.age(stamp))
    }

    /// Wall time of a `CLOCK_MONOTONIC` reading, nanoseconds.
    #[must_use]
    pub fn wall_of_monotonic(&self, monotonic_ns: u64) -> SystemTime {
        let offset = self.realtime_ns.wrapping_sub(self.monotonic_ns);
        UNIX_EPOCH + Duration::from_nanos(monotonic_ns.wrapping_add(offset))
    }
}

/// A clock for samples alone: it needs no jiffies.
///
/// # Errors
/// A clock of the C library cannot be read.
pub fn wall_clock() -> io::Result<Clock> {
    let (monotonic_ns, realtime_ns) = monotonic_and_realtime()?;
    Ok(Clock {
        hz: hz()?,
        jiffies: 0,
        monotonic_ns,
        realtime_ns,
    })
}

/// Reads both clocks at one moment. Of several tries it takes the one with the smallest distance
/// between two readings of one clock around a reading of the other.
fn monotonic_and_realtime() -> io::Result<(u64, u64)> {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..5 {
        let before = nanos(ClockId::CLOCK_MONOTONIC)?;
        let realtime = nanos(ClockId::CLOCK_REALTIME)?;
        let after = nanos(ClockId::CLOCK_MONOTONIC)?;
        let distance = after.saturating_sub(before);
        if distance < best.0 {
            best = (distance, before + distance / 2, realtime);
        }
    }
    Ok((best.1, best.2))
}

/// `CLOCK_MONOTONIC` now, nanoseconds.
///
/// # Errors
/// The clock cannot be read.
pub fn monotonic_ns() -> io::Result<u64> {
    nanos(ClockId::CLOCK_MONOTONIC)
}

fn nanos(clock: ClockId) -> io::Result<u64> {
    let now = Duration::from(clock_gettime(clock)?);
    u64::try_from(now.as_nanos()).map_err(io::Error::other)
}

/// Jiffies per second. The coarse clock ticks with them.
fn hz() -> io::Result<u32> {
    let tick = Duration::from(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?).as_nanos();
    u32::try_from(1_000_000_000 / tick.max(1)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_wrap() {
        let clock = Clock::fixed(250, 100, 1_000_000_000_000);
        assert_eq!(clock.age(0), Duration::from_millis(400));
        assert_eq!(clock.age(u32::MAX - 149), Duration::from_secs(1));
        assert_eq!(clock.wall(100), UNIX_EPOCH + Duration::from_secs(1000));
        assert_eq!(clock.wall(0), UNIX_EPOCH + Duration::from_millis(999_600));
    }

    #[test]
    fn a_stamp_newer_than_the_clock_is_now() {
        let clock = Clock::fixed(250, 100, 0);
        assert_eq!(clock.age(101), Duration::ZERO);
    }

    #[test]
    fn samples_are_placed_on_the_wall_clock() {
        let clock = wall_clock().expect("clocks");
        let now = SystemTime::now();
        let monotonic = nanos(ClockId::CLOCK_MONOTONIC).expect("clock");
        let wall = clock.wall_of_monotonic(monotonic);
        let off = wall
            .duration_since(now)
            .unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_millis(50), "{off:?}");
        assert!(hz().expect("hz") >= 100);
    }
}
