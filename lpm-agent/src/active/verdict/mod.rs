//! What the figures of a link mean together, in a word. Everything here is pure: rounds of probes
//! and what surrounds them in, a verdict and its grounds out.
//!
//! A [`Round`] is what one train of probes tells. [`decide`] gives each round a word of its own, and
//! the [`Judge`] of a session names a verdict once several rounds agree. A link has the verdict of the
//! session that is worst, in the order of [`Verdict`].
//!
//! The order in which causes are considered, and why:
//!
//! 1. Nothing comes back at all. Then the times say nothing, and what stands around the link decides:
//!    an explicit prohibition (`blocked`), an address that left the API (`gone`), flows of others that
//!    live (`blocked`; a closed port is `host`), a neighbour that does not answer (`gone`), a closed
//!    port (`host`). Only if none of these is known it is the `network`.
//! 2. Some of several paths are bad (`path`): it says more than `network` and explains the rest.
//! 3. The round trip by kernel times is beyond its baseline (`network`). The reflector's time is not in
//!    it, so a slow host cannot cause this.
//! 4. Programs keep packets that the kernel has in time (`host`). It comes before losses, because such
//!    packets may be answered too late and count as lost.
//! 5. Packets are lost (`network`).
//! 6. A clock was set, left its rate, or is refuted (`clock`). It comes last: losses and round trips
//!    need no common clock, and packets over a step are in no figure.

mod baseline;
mod collect;
mod decide;
mod grounds;
mod judge;
mod round;
mod surroundings;

pub use baseline::Baseline;
pub use collect::Collector;
pub use decide::{CLOCK_LASTS, Decision, LOOK, LOSS, LOSSY, PENDING, STALL};
pub use grounds::{Grounds, Reason};
pub use judge::{AGREE, Judge, Judgement, OK_AFTER};
pub use round::{Refused, Round, Spread};
pub use surroundings::{Neighbour, Passive, PassiveLiveness, Paths, Presence, Surroundings};

/// What is wrong with a link, in a word. The order is that of precedence between the sessions of one
/// link: the first one holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The peer does not answer ARP or ND, or is not in the API any more.
    Gone,
    /// Probes are silent or prohibited, while other traffic between the two nodes lives.
    Blocked,
    /// Some of the paths between the two nodes are bad.
    Path,
    /// Probes are lost, or take longer than the link's own baseline.
    Network,
    /// The kernels have the packets in time, and a program of an end does not.
    Host,
    /// A clock was set, left its rate, or is refuted.
    Clock,
    /// Nothing is wrong.
    Ok,
}

impl Verdict {
    /// All of them, in the order of precedence.
    pub const ALL: [Self; 7] = [
        Self::Gone,
        Self::Blocked,
        Self::Path,
        Self::Network,
        Self::Host,
        Self::Clock,
        Self::Ok,
    ];

    /// The word in the label `verdict`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Blocked => "blocked",
            Self::Path => "path",
            Self::Network => "network",
            Self::Host => "host",
            Self::Clock => "clock",
            Self::Ok => "ok",
        }
    }
}

#[cfg(test)]
mod tests;
