//! What a sender reports of each probe.

use std::time::Duration;

use lpm_common::stamp::agent::StampSource;
use nix::errno::Errno;

use super::{
    Stamps,
    offset::{Claims, Delays, Known, Restart},
    socket::Source,
    statistics,
};

/// Where each of a packet's four times comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sources {
    /// The source of T1.
    pub sent: At,
    /// The source of T2.
    pub reflector_received: At,
    /// The source of T3.
    pub reflector_sent: At,
    /// The source of T4.
    pub received: At,
}

impl Sources {
    /// Whether all four times are of kernels or cards, and T4 - T1 and T3 - T2 each of one clock. A
    /// reflector that does not say what its times are is taken at its word.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.sent == self.received
            && matches!(self.sent, At::Kernel | At::Hardware)
            && self.reflector_received == self.reflector_sent
            && self.reflector_sent != At::User
    }
}

/// Where a time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// A network card.
    Hardware,
    /// A kernel.
    Kernel,
    /// A kernel's TCP: before the queue of the device, in whole microseconds.
    Tcp,
    /// A program.
    User,
    /// A reflector that does not say where it takes its times.
    Peer,
}

impl At {
    /// The word in the output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Kernel => "kernel",
            Self::Tcp => "tcp",
            Self::User => "user",
            Self::Peer => "peer",
        }
    }

    pub(crate) fn of(source: Source) -> Self {
        match source {
            Source::Hardware => Self::Hardware,
            Source::Kernel => Self::Kernel,
            Source::User => Self::User,
        }
    }

    pub(super) fn of_agent(source: StampSource) -> Self {
        match source {
            StampSource::Hardware => Self::Hardware,
            StampSource::Kernel => Self::Kernel,
            StampSource::User => Self::User,
            StampSource::None => Self::Peer,
        }
    }
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// It was answered.
    Answered(Answered),
    /// No answer came within the timeout.
    Lost {
        /// The probe's number, from 0.
        probe: u32,
        /// The packet's number on the wire.
        sequence: u32,
    },
    /// An answer came after the timeout. The probe was reported as lost before.
    Late {
        /// The probe's number.
        probe: u32,
        /// How long the reflector kept the probe, by what the answer itself says. None: it says
        /// nothing that can be.
        dwell: Option<Duration>,
    },
    /// A further answer came.
    Duplicate {
        /// The probe's number.
        probe: u32,
    },
    /// The network, or this machine, refused the probe.
    Unreachable {
        /// The probe's number.
        probe: u32,
        /// Why.
        error: Errno,
    },
    /// An answer came, to a probe or to a packet that only fetched a time. Losses and reordering are
    /// told by these numbers.
    Numbered {
        /// The numbers, as the answer has them.
        answer: statistics::Answer,
        /// Whether the reflector has shown by now that it counts packets by itself. Until then, its
        /// number may be a copy of the packet's.
        counts: bool,
    },
    /// Whatever was known of the offset between the clocks is so no more.
    Restarted(Restart),
    /// All probes of a train are reported, but for those that may come late.
    Train(TrainEnd),
}

/// What a train tells of the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainEnd {
    /// The train's number, from 0.
    pub train: u32,
    /// The offset at the train's last packet. None: no packet bounds it.
    pub offset: Option<Known>,
    /// What both clocks claim.
    pub claims: Claims,
}

/// Why an answered probe has no times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Void {
    /// A clock was set while the probe was on its way, or its rate left the allowance.
    Clock,
    /// The times are impossible: the reflector does not tell the truth.
    Impossible,
}

impl Void {
    /// The word in the output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Impossible => "impossible",
        }
    }
}

/// A probe that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The probe's number, from 0.
    pub probe: u32,
    /// The number of the train that the probe is of, from 0.
    pub train: u32,
    /// The four times, or why they count for nothing.
    pub stamps: Result<Stamps, Void>,
    /// Where the times come from.
    pub sources: Sources,
    /// Time from this kernel receiving the answer to the program taking it. None: the kernel took no
    /// time, or the clock was set back in between.
    pub waited: Option<Duration>,
    /// The number of the window: it changes where the offset between the clocks may have jumped.
    /// Only times of one window are comparable.
    pub window: u32,
    /// The offset between the clocks at this packet. None: nothing is known of it.
    pub offset: Option<Known>,
    /// Each way's delay. None: nothing is known of the offset between the clocks.
    pub delays: Option<Delays>,
    /// The probe's and the answer's way, as far as the packets tell.
    pub seen: Seen,
}

/// What a packet looked like where it arrived. What nobody told is None.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// TTL or hop limit with which the packet was sent.
    pub ttl_sent: Option<u8>,
    /// TTL or hop limit with which the packet arrived at the reflector.
    pub ttl_forward: u8,
    /// TTL or hop limit with which the answer arrived here.
    pub ttl_backward: Option<u8>,
    /// DSCP with which the packet arrived there.
    pub dscp_forward: Option<u8>,
    /// DSCP with which the answer arrived here.
    pub dscp_backward: Option<u8>,
    /// ECN with which the packet arrived there.
    pub ecn_forward: Option<u8>,
    /// ECN with which the answer arrived here.
    pub ecn_backward: Option<u8>,
}

impl Seen {
    /// Routers between the sender and the reflector: each takes one of the TTL.
    ///
    /// None: the TTL was not told, or somebody on the way set it anew.
    #[must_use]
    pub fn hops(&self) -> Option<u8> {
        let arrived = Some(self.ttl_forward).filter(|ttl| *ttl != 0)?;
        self.ttl_sent?.checked_sub(arrived)
    }
}
