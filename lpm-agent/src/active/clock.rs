//! The clock of one end: what it says, what it claims, and whether it was set or left its rate.
//!
//! All times of a sender or a reflector pass through its [`Clock`]. So a test can [bend](bend) one
//! end's clock and leave the packets, the sockets and the kernel's times as they are.

pub mod bend;
mod claim;
mod watch;

use nix::{
    errno::Errno,
    sys::time::TimeValLike as _,
    time::{ClockId, clock_gettime},
};

pub use self::claim::{Claim, DRIFT};
pub use self::watch::{Change, SetWatch};
use self::{
    bend::Bend,
    watch::{Reading, Steady},
};
use super::socket::Stamp;

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

/// One end's clock.
#[derive(Debug)]
pub struct Clock {
    set: SetWatch,
    steady: Steady,
    bend: Option<Bend>,
    changes: u16,
    last: Option<Change>,
}

impl Clock {
    /// Begins to watch this machine's clock.
    ///
    /// # Errors
    /// The kernel gives no timer.
    pub fn start() -> Result<Self, Errno> {
        Self::with(None)
    }

    /// Begins to watch a clock that a test bends.
    ///
    /// # Errors
    /// The kernel gives no timer.
    pub fn bent(bend: &Bend) -> Result<Self, Errno> {
        Self::with(Some(bend.clone()))
    }

    fn with(bend: Option<Bend>) -> Result<Self, Errno> {
        let reading = reading(bend.as_ref());
        Ok(Self {
            set: SetWatch::start()?,
            steady: Steady::new(reading, claim::allowance()),
            bend,
            changes: 0,
            last: None,
        })
    }

    /// Nanoseconds since 1970, by `CLOCK_REALTIME`.
    #[must_use]
    pub fn real(&self) -> i64 {
        self.time(real())
    }

    /// Nanoseconds of `CLOCK_MONOTONIC`, which is never set, but runs at the rate of
    /// `CLOCK_REALTIME`.
    #[must_use]
    pub fn monotonic(&self) -> i64 {
        let time = monotonic();
        (self.bend.as_ref()).map_or(time, |bend| bend.monotonic(time))
    }

    /// What this end's clock says at a time that the kernel took, both in nanoseconds since 1970.
    #[must_use]
    pub fn time(&self, kernel: i64) -> i64 {
        (self.bend.as_ref()).map_or(kernel, |bend| bend.time(kernel))
    }

    /// A time of a packet, as this end's clock says it.
    #[must_use]
    pub fn stamp(&self, stamp: Stamp) -> Stamp {
        Stamp {
            nanoseconds: self.time(stamp.nanoseconds),
            ..stamp
        }
    }

    /// What the clock claims now.
    #[must_use]
    pub fn claim(&self) -> Claim {
        let bent = self.bend.as_ref().and_then(Bend::claim);
        bent.unwrap_or_else(Claim::ask)
    }

    /// Most by which the clock drifts now, in parts per billion. It is more than the allowance while
    /// somebody slews the clock faster than that.
    #[must_use]
    pub fn drift(&self) -> u32 {
        self.steady.drift()
    }

    /// Looks whether the clock was set, or left its rate, and tells the number of the clock since
    /// then, cut to 16 bits. Times between two calls that tell the same even number are of one
    /// clock.
    ///
    /// The call that sees a change tells an odd number, and the next one an even number again. A
    /// time that the kernel took before the change may come to the program after it: the packets
    /// beside an odd number are [in doubt](is_in_doubt).
    pub fn changes(&mut self) -> u16 {
        self.look(false)
    }

    /// Looks as [`Self::changes`] does, and stays in doubt: packets from before the change may still
    /// wait for this end's program.
    pub fn changes_while_packets_wait(&mut self) -> u16 {
        self.look(true)
    }

    fn look(&mut self, stays: bool) -> u16 {
        let was_set = self.set.was_set();
        let change = self.steady.take(reading(self.bend.as_ref()));
        let change = change.or_else(|| was_set.then_some(Change::Set));
        let by = match (change, is_in_doubt(self.changes)) {
            (None, false) => 0,
            (None, true) if stays => 0,
            (Some(_), true) => 2,
            _ => 1,
        };
        self.last = change.or(self.last);
        self.changes = self.changes.wrapping_add(by);
        self.changes
    }

    /// The latest change.
    #[must_use]
    pub fn last_change(&self) -> Option<Change> {
        self.last
    }
}

/// Whether [`Clock::changes`] saw a change just when it told this number.
#[must_use]
pub const fn is_in_doubt(changes: u16) -> bool {
    changes % 2 == 1
}

/// Readings that take no longer tell a setting from the time that reading takes, in nanoseconds.
const NARROW: i64 = 500;

/// Reads all clocks at once: each pair brackets what lies between. A reading that was interrupted
/// could hide a setting, so it is taken again.
fn reading(bend: Option<&Bend>) -> Reading {
    let width = |reading: &Reading| reading.monotonic[1] - reading.monotonic[0];
    let mut best = read_all(bend);
    for _ in 0..8 {
        if width(&best) <= NARROW {
            break;
        }
        let again = read_all(bend);
        if width(&again) < width(&best) {
            best = again;
        }
    }
    best
}

fn read_all(bend: Option<&Bend>) -> Reading {
    let raw = || read(ClockId::CLOCK_MONOTONIC_RAW);
    let begun = raw();
    let before = monotonic();
    let real = real();
    let after = monotonic();
    let ended = raw();
    let slow = |time| bend.map_or(time, |bend| bend.monotonic(time));
    Reading {
        raw: [begun, ended],
        monotonic: [slow(before), slow(after)],
        real: bend.map_or(real, |bend| bend.time(real)),
    }
}

#[cfg(test)]
mod tests;
