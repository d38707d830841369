//! Makes rounds of a sender's reports.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{Refused, Round, STALL, Spread};
use crate::active::{
    offset::Basis,
    report::{Answered, At, Report, Void},
};

/// Most answers whose times are kept: those of the longest train.
const MOST: usize = 1000;

/// The train that runs.
#[derive(Debug)]
pub struct Collector {
    to: IpAddr,
    interval: Duration,
    sent: u32,
    answered: u32,
    late: u32,
    refused: Refused,
    void: u32,
    untimed: u32,
    kept: u32,
    waited: u32,
    clock_changes: u32,
    /// Whether an answer is void because a clock was set.
    is_void: bool,
    /// Times in nanoseconds: round trips, dwells, and waits for this program.
    times: [Vec<u64>; 3],
}

impl Collector {
    /// Begins with a session to this address, with this time from train to train.
    #[must_use]
    pub fn new(to: IpAddr, interval: Duration) -> Self {
        Self {
            to,
            interval,
            sent: 0,
            answered: 0,
            late: 0,
            refused: Refused::default(),
            void: 0,
            untimed: 0,
            kept: 0,
            waited: 0,
            clock_changes: 0,
            is_void: false,
            times: Default::default(),
        }
    }

    /// Takes a report. The end of a train gives its round.
    pub fn take(&mut self, report: &Report, now: Instant) -> Option<Round> {
        match report {
            Report::Answered(answered) => self.answered(answered),
            Report::Lost { .. } => self.sent += 1,
            Report::Late { dwell, .. } => {
                self.late += 1;
                self.kept += u32::from(dwell.is_some_and(|dwell| dwell >= STALL));
            }
            Report::Unreachable { error, .. } => {
                self.sent += 1;
                *self.refusals(*error) += 1;
            }
            Report::Restarted(_) => self.clock_changes += 1,
            Report::Duplicate { .. } | Report::Numbered { .. } => {}
            Report::Train(end) => {
                let is_refuted = |basis| basis == Basis::Refuted;
                let refuted = end
                    .offset
                    .is_some_and(|known| is_refuted(known.estimate.basis));
                return Some(self.end(refuted, now));
            }
        }
        None
    }

    /// The count of refusals with a reason. `sock_extended_err` has ICMP's codes as these numbers
    /// (`icmp_err_convert` of net/ipv4/icmp.c, `tab_unreach` of net/ipv6/icmp.c).
    fn refusals(&mut self, error: Errno) -> &mut u32 {
        match error {
            Errno::EACCES | Errno::EPERM => &mut self.refused.prohibited,
            Errno::EHOSTUNREACH | Errno::EHOSTDOWN => &mut self.refused.host,
            Errno::ECONNREFUSED => &mut self.refused.port,
            _ => &mut self.refused.other,
        }
    }

    fn answered(&mut self, answered: &Answered) {
        self.sent += 1;
        self.answered += 1;
        let sources = answered.sources;
        let stages = [
            sources.sent,
            sources.reflector_received,
            sources.reflector_sent,
            sources.received,
        ];
        self.untimed += u32::from(stages.contains(&At::User));
        if let Some(wait) = answered.waited {
            self.waited += u32::from(wait >= STALL);
            self.note(2, wait);
        }
        let stamps = match answered.stamps {
            Ok(stamps) => stamps,
            Err(void) => {
                self.void += 1;
                self.is_void |= void == Void::Clock;
                return;
            }
        };
        let duration = |ns: Option<i64>| Some(Duration::from_nanos(u64::try_from(ns?).ok()?));
        // A card's clock and the kernel's are not one.
        let is_hardware = |at| at == At::Hardware;
        if is_hardware(sources.reflector_received) == is_hardware(sources.reflector_sent)
            && let Some(dwell) = duration(stamps.dwell())
        {
            self.kept += u32::from(dwell >= STALL);
            self.note(1, dwell);
        }
        if sources.is_whole()
            && let Some(rtt) = duration(stamps.round_trip())
        {
            self.note(0, rtt);
        }
    }

    fn note(&mut self, kind: usize, time: Duration) {
        if let Some(times) = self.times.get_mut(kind).filter(|times| times.len() < MOST) {
            times.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    fn end(&mut self, refuted: bool, now: Instant) -> Round {
        let next = Self::new(self.to, self.interval);
        let mut of = std::mem::replace(self, next);
        let [rtt, dwell, wait] = of.times.each_mut().map(|times| Spread::of(times));
        Round {
            at: now,
            to: of.to,
            interval: of.interval,
            sent: of.sent,
            answered: of.answered,
            late: of.late,
            refused: of.refused,
            void: of.void,
            untimed: of.untimed,
            kept: of.kept,
            waited: of.waited,
            // A step that voids packets may be told as a restart in this train or in the next.
            clock_changes: of.clock_changes.max(of.is_void.into()),
            refuted,
            rtt,
            dwell,
            wait,
        }
    }
}
