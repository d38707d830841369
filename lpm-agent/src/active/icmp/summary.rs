//! What a session of echo requests reports, and its figures.

use std::{collections::BTreeMap, net::IpAddr};

use nix::errno::Errno;

use crate::active::{
    report::At,
    statistics::{self, Distribution},
};

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It was answered.
    Answered(Answered),
    /// No answer came within the timeout.
    Lost {
        /// The probe's number, from 0.
        probe: u32,
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
        /// Who said so. None: this machine itself.
        by: Option<IpAddr>,
    },
}

/// A probe that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The probe's number, from 0.
    pub probe: u32,
    /// T4 - T1, in nanoseconds. None: the clock was set meanwhile.
    pub round_trip: Option<i64>,
    /// Where T1 comes from.
    pub sent: At,
    /// Where T4 comes from.
    pub received: At,
    /// TTL or hop limit with which the answer arrived.
    pub ttl: Option<u8>,
    /// The byte of DSCP and ECN with which the answer arrived.
    pub traffic_class: Option<u8>,
}

/// All reports of a session so far.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Probes sent, or refused by this machine.
    pub sent: u64,
    /// Probes answered in time.
    pub received: u64,
    /// Probes without an answer.
    pub lost: u64,
    /// Probes answered too late.
    pub late: u64,
    /// Further answers.
    pub duplicates: u64,
    /// Probes that the network or this machine refused.
    pub unreachable: u64,
    /// Answers over which the clock was set.
    pub void: u64,
    /// The answered probes in the order of their answers.
    order: Vec<u32>,
    round_trips: BTreeMap<(At, At), Vec<i64>>,
}

/// The figures of the answers whose times have the same sources.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Where T1 comes from.
    pub sent: At,
    /// Where T4 comes from.
    pub received: At,
    /// The round trips, with the target's own part.
    pub round_trips: Distribution,
}

impl Session {
    /// Takes a report.
    pub fn take(&mut self, report: &Report) {
        match report {
            Report::Answered(answered) => {
                self.sent += 1;
                self.received += 1;
                self.order.push(answered.probe);
                match answered.round_trip {
                    Some(round_trip) => {
                        let class = (answered.sent, answered.received);
                        self.round_trips.entry(class).or_default().push(round_trip);
                    }
                    None => self.void += 1,
                }
            }
            Report::Lost { .. } => {
                self.sent += 1;
                self.lost += 1;
            }
            Report::Late { probe } => {
                self.late += 1;
                self.lost -= 1;
                self.order.push(*probe);
            }
            Report::Duplicate { .. } => self.duplicates += 1,
            Report::Unreachable { .. } => {
                self.sent += 1;
                self.unreachable += 1;
            }
        }
    }

    /// Whether any answer came.
    #[must_use]
    pub const fn has_answers(&self) -> bool {
        self.received + self.late > 0
    }

    /// Answers that a later probe's answer overtook, on either way (RFC 4737 section 3.3).
    #[must_use]
    pub fn reordered(&self) -> u64 {
        statistics::reordering(self.order.iter().copied()).reordered
    }

    /// The figures by sources of the times, those of the most probes first.
    #[must_use]
    pub fn figures(&self) -> Vec<Figures> {
        let mut all: Vec<_> = self.round_trips.iter().collect();
        all.sort_by_key(|(_, round_trips)| std::cmp::Reverse(round_trips.len()));
        all.into_iter()
            .map(|((sent, received), round_trips)| Figures {
                sent: *sent,
                received: *received,
                round_trips: round_trips.iter().copied().collect(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(probe: u32, round_trip: Option<i64>, received: At) -> Report {
        Report::Answered(Answered {
            probe,
            round_trip,
            sent: At::Kernel,
            received,
            ttl: Some(64),
            traffic_class: Some(0),
        })
    }

    #[test]
    fn a_session_counts_each_probe_once_and_mixes_no_sources() {
        let mut session = Session::default();
        let error = Errno::EHOSTUNREACH;
        for report in [
            answered(0, Some(10), At::Kernel),
            answered(2, Some(30), At::Kernel),
            answered(1, Some(900), At::User),
            answered(3, None, At::Kernel),
            Report::Lost { probe: 4 },
            Report::Lost { probe: 5 },
            Report::Late { probe: 4 },
            Report::Duplicate { probe: 0 },
            Report::Unreachable {
                probe: 6,
                error,
                by: None,
            },
        ] {
            session.take(&report);
        }
        assert_eq!((session.sent, session.received), (7, 4));
        assert_eq!((session.lost, session.late), (1, 1));
        assert_eq!((session.duplicates, session.unreachable), (1, 1));
        assert_eq!(session.void, 1);
        assert_eq!(session.reordered(), 1);
        let figures = session.figures();
        assert_eq!(figures[0].round_trips.max(), Some(30));
        assert_eq!(
            (figures[1].received, figures[1].round_trips.count()),
            (At::User, 1)
        );
    }
}
