//! What a sender reports of each probe.

use lpm_common::stamp::agent::StampSource;
use nix::errno::Errno;

use super::{Stamps, offset::Delays, socket::Source};

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

/// Where a time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// A network card.
    Hardware,
    /// A kernel.
    Kernel,
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
            Self::User => "user",
            Self::Peer => "peer",
        }
    }

    pub(super) fn of(source: Source) -> Self {
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
}

/// A probe that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The probe's number, from 0.
    pub probe: u32,
    /// The four times. None: a clock was set meanwhile, or they are impossible.
    pub stamps: Option<Stamps>,
    /// Where the times come from.
    pub sources: Sources,
    /// Each way's delay. None: nothing is known of the offset between the clocks.
    pub delays: Option<Delays>,
    /// TTL or hop limit with which the packet arrived at the reflector.
    pub ttl: u8,
    /// DSCP with which the packet arrived there. None: the reflector does not tell.
    pub dscp_forward: Option<u8>,
    /// DSCP with which the answer arrived here. None: the kernel did not tell.
    pub dscp_backward: Option<u8>,
}
