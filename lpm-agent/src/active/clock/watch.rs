//! Watching a clock: whether it was set, and whether it keeps its rate.

use nix::{
    errno::Errno,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};

use super::super::offset::Bounds;

/// What happened to a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was set.
    Set,
    /// It runs faster or slower than its allowance.
    Rate,
}

/// Tells whether the clock was set: a timer that the kernel cancels then (`timerfd_create(2)`). The
/// kernel cancels it some microseconds after it has set the clock.
#[derive(Debug)]
pub struct SetWatch {
    timer: TimerFd,
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
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
        let watch = Self { timer };
        watch.arm()?;
        Ok(watch)
    }

    fn arm(&self) -> Result<(), Errno> {
        let end = Expiration::OneShot(TimeSpec::new(NEVER, 0));
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        self.timer.set(end, flags)
    }

    /// Whether the clock was set since the last call.
    #[must_use]
    pub fn was_set(&self) -> bool {
        // Reading blocks unless the timer was cancelled.
        let was_set = self.timer.wait() == Err(Errno::ECANCELED);
        if was_set {
            // The clock was set beyond the timer's end at worst. Then the watch ends.
            let _ = self.arm();
        }
        was_set
    }
}

/// All clocks at one moment, in nanoseconds: `CLOCK_MONOTONIC_RAW` before and after the others,
/// `CLOCK_MONOTONIC` before and after `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) raw: [i64; 2],
    pub(super) monotonic: [i64; 2],
    pub(super) real: i64,
}

/// Compares readings.
///
/// The kernel runs `CLOCK_REALTIME` and `CLOCK_MONOTONIC` at one rate, so their difference changes
/// only when somebody sets the clock. Both are corrected, `CLOCK_MONOTONIC_RAW` is not: the rate
/// between them is that of the correction. A change counts once it exceeds what the readings leave
/// open, some tenths of a microsecond.
#[derive(Debug)]
pub(super) struct Steady {
    /// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`.
    set_to: Bounds,
    anchor: Reading,
    /// Most drift that is normal, in parts per billion.
    allowance: u32,
    /// Most drift that is no news.
    limit: u32,
}

/// Time over which a rate is compared, in nanoseconds.
const WINDOW: i64 = 1_000_000_000;

const BILLION: i128 = 1_000_000_000;

impl Steady {
    /// Begins with a reading. `allowance` is in parts per billion.
    pub(super) fn new(reading: Reading, allowance: u32) -> Self {
        Self {
            set_to: set_to(&reading),
            anchor: reading,
            allowance,
            limit: allowance,
        }
    }

    pub(super) fn drift(&self) -> u32 {
        self.limit
    }

    /// Compares with the readings before.
    pub(super) fn take(&mut self, reading: Reading) -> Option<Change> {
        let now = set_to(&reading);
        let meeting = self.set_to.meet(now);
        self.set_to = meeting.unwrap_or(now);
        let rate = self.rate(&reading);
        if meeting.is_none() {
            return Some(Change::Set);
        }
        rate
    }

    fn rate(&mut self, reading: &Reading) -> Option<Change> {
        let (anchor, limit) = (self.anchor, i128::from(self.limit));
        let corrected = i128::from(reading.monotonic[0]) - i128::from(anchor.monotonic[0]);
        let shortest = i128::from(reading.raw[0]) - i128::from(anchor.raw[1]);
        let longest = i128::from(reading.raw[1]) - i128::from(anchor.raw[0]);
        if shortest <= 0 {
            return None;
        }
        // What the readings cannot explain, and the most that they allow, in nanoseconds.
        let least = (corrected - longest).max(shortest - corrected);
        let most = (corrected - shortest).max(longest - corrected);
        let most = u32::try_from(most * BILLION / shortest + 1).unwrap_or(u32::MAX);
        // A quarter more: the next readings of the same rate are no news.
        let beyond = most.saturating_add(most / 4);
        if least * BILLION > limit * longest {
            self.anchor = *reading;
            self.limit = beyond.max(self.allowance);
            return Some(Change::Rate);
        }
        if longest >= i128::from(WINDOW) {
            self.anchor = *reading;
            self.limit = beyond.min(self.limit).max(self.allowance);
        }
        None
    }
}

fn set_to(reading: &Reading) -> Bounds {
    Bounds {
        lower: reading.real.saturating_sub(reading.monotonic[1]),
        upper: reading.real.saturating_sub(reading.monotonic[0]),
    }
}
