//! What one train of probes tells.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use serde::Serialize;

/// The figures of one train. Counts are of probes.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// When the last of its probes was answered or given up.
    pub at: Instant,
    /// The address that was probed.
    pub to: IpAddr,
    /// Time from train to train.
    pub interval: Duration,
    /// Probes whose fate is known.
    pub sent: u32,
    /// Probes that were answered in time, void ones included.
    pub answered: u32,
    /// Answers that came after the timeout, to probes of this train or an earlier one.
    pub late: u32,
    /// Probes that somebody refused.
    pub refused: Refused,
    /// Answers whose times count for nothing: a clock was set meanwhile, or they are impossible.
    pub void: u32,
    /// Answers that lack a kernel's time.
    pub untimed: u32,
    /// Answers that the reflector kept for [`STALL`](super::STALL) or longer, late ones included.
    pub kept: u32,
    /// Answers that this machine's kernel had for [`STALL`](super::STALL) or longer before the program
    /// took them.
    pub waited: u32,
    /// How often a clock was set, left its rate, or contradicted itself.
    pub clock_changes: u32,
    /// Whether the bounds of the offset refute what the clocks claim.
    pub refuted: bool,
    /// Round trips by kernel times. None: nothing was measured.
    pub rtt: Option<Spread>,
    /// How long the reflector kept the probes.
    pub dwell: Option<Spread>,
    /// Time from this machine's kernel receiving an answer to the program taking it.
    pub wait: Option<Spread>,
}

/// Probes that were refused, by what the refusal means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// A filter prohibits them: ICMP code 9, 10 or 13, `ICMPv6` code 1, 5 or 6, or this machine's own.
    pub prohibited: u32,
    /// The host cannot be reached: the last router, or this machine, gets no answer to ARP or ND.
    pub host: u32,
    /// No program has the port.
    pub port: u32,
    /// There is no way to the network, or something else refused them.
    pub other: u32,
}

impl Refused {
    /// All refused probes.
    #[must_use]
    pub const fn all(self) -> u32 {
        self.prohibited + self.host + self.port + self.other
    }
}

/// Quantiles of some times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

impl Spread {
    /// The quantiles of times in nanoseconds, by nearest rank. None: there are none.
    #[must_use]
    pub fn of(times: &mut [u64]) -> Option<Self> {
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        let at = |percent: usize| Duration::from_nanos(times[last * percent / 100]);
        Some(Self {
            p50: at(50),
            p99: at(99),
        })
    }
}

impl Round {
    /// Probes that got no answer in time, refused ones included.
    #[must_use]
    pub const fn lost(&self) -> u32 {
        self.sent.saturating_sub(self.answered)
    }

    /// Whether nothing at all came back.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.sent > 0 && self.answered == 0 && self.late == 0
    }
}
