//! TCP SYN (RFC 9293 section 3.5): the round trip to a port of any machine, without a reflector.
//!
//! The target's TCP answers a SYN by SYN-ACK, or by RST where nobody listens. Both are answers. No
//! connection comes about: a RST follows a SYN-ACK.
//!
//! There are two ways. A raw socket ([`raw`]) needs the capability `NET_RAW`, and has the kernel's times
//! at the device, as all other probes have. Without the capability the kernel connects ([`connect`]):
//! its TCP tells the round trip of a SYN-ACK, from before the device's queue and in whole microseconds,
//! and nothing of a RST, for which there are this program's own times.
//!
//! A SYN that is not answered is sent again after a second, and a SYN-ACK likewise (RFC 6298 section
//! 2.1). The answer to which of them arrives cannot be told. So no probe is longer than that
//! ([`LONGEST`]), and one that the kernel has sent again is lost.

use std::{net::SocketAddr, time::Duration};

use super::icmp::{
    socket::Route,
    summary::{self, Session as Figures},
};

pub mod connect;
mod flight;
pub mod packet;
pub mod raw;
pub mod sender;

/// The longest time for which a probe may wait for its answer.
pub const LONGEST: Duration = Duration::from_secs(1);

/// What is sent, and to whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The port that is asked.
    pub target: SocketAddr,
    /// Where and how the probes go.
    pub route: Route,
    /// How many probes. None: until the end is asked for.
    pub count: Option<u32>,
    /// Time between two probes.
    pub interval: Duration,
    /// Time after which a probe without an answer is lost, at most [`LONGEST`].
    pub timeout: Duration,
}

/// How a target answers a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Somebody listens.
    SynAck,
    /// Nobody listens, or a firewall says so.
    Reset,
}

impl Answer {
    /// The word in the output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SynAck => "syn-ack",
            Self::Reset => "rst",
        }
    }
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What became of it.
    pub what: summary::Report,
    /// How it was answered.
    pub answer: Option<Answer>,
}

impl From<summary::Report> for Report {
    fn from(what: summary::Report) -> Self {
        Self { what, answer: None }
    }
}

/// All reports of a session so far.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// The counts and figures that a session of any probe of round trips has.
    pub figures: Figures,
    /// Probes answered in time by a SYN-ACK.
    pub syn_acks: u64,
    /// Probes answered in time by a RST.
    pub resets: u64,
}

impl Session {
    /// Takes a report.
    pub fn take(&mut self, report: &Report) {
        self.figures.take(&report.what);
        match report.answer {
            Some(Answer::SynAck) => self.syn_acks += 1,
            Some(Answer::Reset) => self.resets += 1,
            None => {}
        }
    }
}
