//! A probe on its way, and its report.

use std::{net::IpAddr, time::Instant};

use nix::errno::Errno;

use super::{
    Report,
    connect::{Attempt, Outcome},
};
use crate::active::{
    icmp::summary::{self, Answered},
    report::At,
    socket::Stamp,
};

/// What a probe waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// For its answer.
    Waiting,
    /// For nothing: it was answered, in time or late.
    Answered,
    /// For nothing, but a late answer is known as such.
    Lost,
    /// For nothing: the network or this machine refused it.
    Refused,
}

/// A probe.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) probe: u32,
    pub(super) state: State,
    pub(super) sent_at: Instant,
    pub(super) sent: Stamp,
    pub(super) changes: u16,
    /// The SYN's number on the raw socket. None: it was not sent, or its count is not known.
    pub(super) packet: Option<u32>,
    /// Where the SYN came from, and its sequence number.
    pub(super) port: u16,
    pub(super) sequence: u32,
    /// The connection that was begun.
    pub(super) attempt: Option<Attempt>,
}

/// Reports that the network or this machine refused a probe.
pub(super) fn refused(probe: u32, error: Errno, by: Option<IpAddr>) -> Report {
    summary::Report::Unreachable { probe, error, by }.into()
}

/// Makes the report of a connection that was begun.
pub(super) fn judge(probe: u32, outcome: Outcome) -> (State, Report) {
    match outcome {
        Outcome::Answered {
            answer,
            round_trip,
            is_of_tcp,
        } => {
            let at = if is_of_tcp { At::Tcp } else { At::User };
            let what = summary::Report::Answered(Answered {
                probe,
                round_trip: i64::try_from(round_trip.as_nanos()).ok(),
                sent: at,
                received: at,
                ttl: None,
                traffic_class: None,
            });
            let answer = Some(answer);
            (State::Answered, Report { what, answer })
        }
        Outcome::SentAgain => (State::Lost, summary::Report::Lost { probe }.into()),
        Outcome::Refused { error, by } => (State::Refused, refused(probe, error, by)),
    }
}
