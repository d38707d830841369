//! The clock of this machine: what it says, what it claims, and whether it was set.

use std::os::fd::{AsFd, BorrowedFd};

use nix::{
    errno::Errno,
    sys::{
        time::{TimeSpec, TimeValLike as _},
        timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::{ClockId, clock_gettime},
};

/// Most by which a clock drifts if the kernel claims nothing better, in parts per billion: the
/// largest correction of frequency that adjtimex(2) takes.
pub const DRIFT: u32 = 500_000;

/// An error that the kernel claims of a clock that nobody synchronizes, in microseconds
/// (`NTP_PHASE_LIMIT` of linux/timex.h).
const SATURATED: i64 = 16_000_000;

/// Reads a clock, in nanoseconds. The clocks of this module cannot fail.
fn read(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| time.num_nanoseconds())
}

/// Nanoseconds since 1970, by `CLOCK_REALTIME`.
#[must_use]
pub fn real() -> i64 {
    read(ClockId::CLOCK_REALTIME)
}

/// Nanoseconds of `CLOCK_MONOTONIC`, which is never set.
#[must_use]
pub fn monotonic() -> i64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// What the kernel says of `CLOCK_REALTIME` (adjtimex(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// How far the clock is off at most, in nanoseconds. None: it is not synchronized, or its error
    /// is beyond what the kernel counts.
    pub error: Option<i64>,
}

impl Claim {
    /// Asks the kernel.
    #[must_use]
    pub fn ask() -> Self {
        // SAFETY: all bits zero are a valid `timex`, and ask for nothing to be changed.
        let mut timex: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a whole `timex`, which outlives the call.
        let state = unsafe { libc::adjtimex(&raw mut timex) };
        Self::of(state, timex.status, timex.maxerror)
    }

    /// Judges the kernel's state, status bits and maximum error in microseconds.
    fn of(state: i32, status: i32, maximum: i64) -> Self {
        let is_synchronized =
            state >= 0 && state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0;
        let error = (is_synchronized && (0..SATURATED).contains(&maximum))
            .then_some(maximum.saturating_mul(1_000));
        Self { error }
    }
}

/// Tells whether the clock was set: a timer that the kernel cancels then (`timerfd_create(2)`).
#[derive(Debug)]
pub struct SetWatch {
    timer: TimerFd,
    changes: u16,
}

/// Seconds since 1970 at which the timer would expire: the year 2100.
const NEVER: i64 = 4_102_444_800;

impl SetWatch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The kernel gives no timer.
    pub fn start() -> Result<Self, Errno> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(TimerClock::CLOCK_REALTIME, flags)?;
        let watch = Self { timer, changes: 0 };
        watch.arm()?;
        Ok(watch)
    }

    fn arm(&self) -> Result<(), Errno> {
        let end = Expiration::OneShot(TimeSpec::new(NEVER, 0));
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        self.timer.set(end, flags)
    }

    /// How often the clock was set since the beginning, cut to 16 bits. Settings between two calls
    /// count once.
    pub fn changes(&mut self) -> u16 {
        // Reading blocks unless the timer was cancelled.
        if self.timer.wait() == Err(Errno::ECANCELED) {
            self.changes = self.changes.wrapping_add(1);
            // The clock was set beyond the timer's end at worst. Then the watch ends.
            let _ = self.arm();
        }
        self.changes
    }
}

impl AsFd for SetWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_without_synchronization_claims_nothing() {
        let claim = |state, status, maximum| Claim::of(state, status, maximum).error;
        assert_eq!(claim(libc::TIME_OK, 0, 50), Some(50_000));
        assert_eq!(claim(libc::TIME_OK, libc::STA_PLL, 0), Some(0));
        assert_eq!(claim(libc::TIME_ERROR, libc::STA_UNSYNC, 16_000_000), None);
        assert_eq!(claim(libc::TIME_OK, libc::STA_UNSYNC, 50), None);
        assert_eq!(claim(libc::TIME_OK, 0, 16_000_000), None, "saturated");
        assert_eq!(claim(-1, 0, 0), None, "the call failed");
    }

    #[test]
    fn a_clock_that_is_left_alone_has_no_changes() {
        let mut watch = SetWatch::start().expect("a timer");
        assert_eq!(watch.changes(), 0);
        assert!(monotonic() > 0 && real() > 1_700_000_000_000_000_000);
    }
}
