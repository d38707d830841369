//! What the kernel claims of `CLOCK_REALTIME` (adjtimex(2)).

use std::{fs, sync::OnceLock};

/// Most by which a clock drifts if the kernel claims nothing better, in parts per billion: the
/// largest correction of frequency that adjtimex(2) takes.
pub const DRIFT: u32 = 500_000;

/// An error that the kernel claims of a clock that nobody synchronizes, in microseconds
/// (`NTP_PHASE_LIMIT` of linux/timex.h).
const SATURATED: i64 = 16_000_000;

/// A smaller error, in nanoseconds, is believed of real machines only. In a virtual machine a time
/// service takes the host's clock device for exact, and claims that there is no error.
const BELIEVED_FROM: i64 = 1_000;

/// What the kernel says of `CLOCK_REALTIME` (adjtimex(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// How far the clock is off at most, in nanoseconds. None: it is not synchronized, its error is
    /// beyond what the kernel counts, or the claim is not to be believed.
    pub error: Option<i64>,
}

impl Claim {
    /// Asks the kernel.
    #[must_use]
    pub fn ask() -> Self {
        let (state, timex) = adjtimex();
        Self::of(state, timex.status, timex.maxerror).believed(has_clock_of_a_host())
    }

    /// Judges the kernel's state, status bits and maximum error in microseconds.
    pub(super) fn of(state: i32, status: i32, maximum: i64) -> Self {
        let is_synchronized =
            state >= 0 && state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0;
        let error = (is_synchronized && (0..SATURATED).contains(&maximum))
            .then_some(maximum.saturating_mul(1_000));
        Self { error }
    }

    /// Leaves out a claim that nobody can keep. `is_guest`: this is a virtual machine with a clock
    /// device of its host.
    pub(super) fn believed(self, is_guest: bool) -> Self {
        let error = self
            .error
            .filter(|error| !is_guest || *error >= BELIEVED_FROM);
        Self { error }
    }
}

/// Most by which this machine's clock drifts, in parts per billion: [`DRIFT`], or what the kernel
/// tolerates if that is less, and nobody slews the clock.
pub(super) fn allowance() -> u32 {
    let (_, timex) = adjtimex();
    tolerated(&timex)
}

/// Ticks per second for which a `tick` of 10,000 us is the plain rate (`USER_HZ`).
const PLAIN_TICK: i64 = 10_000;

pub(super) fn tolerated(timex: &libc::timex) -> u32 {
    // Parts per million with a fraction of 16 bits.
    let tolerated = i128::from(timex.tolerance) * 1_000 / (1 << 16);
    let is_slewed = timex.offset != 0 || timex.tick != PLAIN_TICK;
    match u32::try_from(tolerated) {
        Ok(tolerated) if tolerated > 0 && !is_slewed => tolerated.min(DRIFT),
        _ => DRIFT,
    }
}

/// Asks the kernel, and changes nothing.
fn adjtimex() -> (i32, libc::timex) {
    // SAFETY: all bits zero are a valid `timex`, and ask for nothing to be changed.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex`, which outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    (state, timex)
}

/// Whether this is a virtual machine with a clock device (PTP) that its host may provide.
fn has_clock_of_a_host() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let is_guest = fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| is_of_a_guest(&text))
            || fs::exists("/sys/hypervisor/type").unwrap_or(false);
        let has_device = fs::read_dir("/sys/class/ptp").is_ok_and(|mut all| all.next().is_some());
        is_guest && has_device
    })
}

/// Whether `/proc/cpuinfo` has the flag of a virtual machine.
pub(super) fn is_of_a_guest(cpuinfo: &str) -> bool {
    let mut flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.any(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
}
