//! A session of SYNs: sends them at an interval, and reports what became of each.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use super::{
    Plan, Report,
    connect::Attempt,
    flight::{Flight, State, judge, refused},
    raw::{RawSocket, Received, Reported},
};
use crate::active::{
    clock::{self, Clock},
    icmp::{
        sender::is_of_the_network,
        summary::{self, Answered},
    },
    news::Origin,
    report::At,
    socket::{KeepStamping, Source, Stamp},
};

/// Answers that are taken before the time and the end are looked at.
const BATCH: usize = 64;

/// Probes whose further answers are known as late or as duplicates after their end.
const KEPT: usize = 1024;

/// How SYNs are sent.
#[derive(Debug)]
enum Way {
    Raw(RawSocket),
    Connect,
}

/// A sender.
#[derive(Debug)]
pub struct Sender {
    way: Way,
    plan: Plan,
    /// The latest probes: all that wait, and [`KEPT`] others.
    flights: VecDeque<Flight>,
    probes: u32,
    packet: u32,
    next: Instant,
    clock: Clock,
    foreign: u64,
    _keep: KeepStamping,
}

impl Sender {
    /// Opens a raw socket for a plan. Where that is not allowed, the kernel connects.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(plan: Plan) -> io::Result<Self> {
        let way = match RawSocket::open(plan.target, &plan.route) {
            Ok(socket) => Way::Raw(socket),
            Err(Errno::EPERM | Errno::EACCES) => Way::Connect,
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            way,
            flights: VecDeque::new(),
            probes: 0,
            packet: 0,
            next: Instant::now(),
            clock: Clock::start()?,
            foreign: 0,
            plan,
            _keep: KeepStamping::start()?,
        })
    }

    /// Whether the probes go by a raw socket.
    #[must_use]
    pub const fn is_raw(&self) -> bool {
        matches!(self.way, Way::Raw(_))
    }

    /// Answers of the target that belong to no probe of this session: other programs', or forged.
    #[must_use]
    pub const fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Sends and receives until all probes are reported, or `end` becomes readable.
    ///
    /// # Errors
    /// The socket failed, or `report` did.
    pub fn run(
        &mut self,
        end: &impl AsFd,
        mut report: impl FnMut(Report) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut reports = Vec::new();
        loop {
            let now = Instant::now();
            let is_done = self.plan.count.is_some_and(|count| self.probes >= count);
            if !is_done && now >= self.next {
                self.send(now, &mut reports)?;
            }
            self.receive(&mut reports)?;
            self.time_out(&mut reports);
            reports.drain(..).try_for_each(&mut report)?;
            let ends = self.ends();
            if is_done && ends.is_none() {
                return Ok(());
            }
            let wake = ends.into_iter().chain((!is_done).then_some(self.next));
            let wait = wake.min().map_or(Duration::ZERO, |wake| {
                wake.saturating_duration_since(Instant::now())
            });
            if self.wait(end, wait)? {
                return Ok(());
            }
        }
    }

    /// When the wait for the first probe that waits is over. A lost one waits for as long again, so that
    /// a late answer is known as such.
    fn ends(&self) -> Option<Instant> {
        let (now, timeout) = (Instant::now(), self.plan.timeout);
        let end = |flight: &Flight| match flight.state {
            State::Waiting => Some(flight.sent_at + timeout),
            State::Lost if self.is_raw() => {
                Some(flight.sent_at + 2 * timeout).filter(|end| *end > now)
            }
            _ => None,
        };
        self.flights.iter().filter_map(end).min()
    }

    /// Waits for answers, at most `wait`. True: the end was asked for.
    fn wait(&self, end: &impl AsFd, wait: Duration) -> Result<bool, Errno> {
        let mut fds = vec![PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        if let Way::Raw(socket) = &self.way {
            fds.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        let attempts = self
            .flights
            .iter()
            .filter_map(|flight| flight.attempt.as_ref());
        fds.extend(attempts.map(|attempt| PollFd::new(attempt.as_fd(), PollFlags::POLLOUT)));
        match ppoll(&mut fds, Some(TimeSpec::from_duration(wait)), None) {
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error),
            Ok(_) => Ok(fds[0].any() == Some(true)),
        }
    }

    fn send(&mut self, now: Instant, reports: &mut Vec<Report>) -> Result<(), Errno> {
        // The kernel would give an earlier probe's error to this one, and not send it.
        self.take_reports(reports)?;
        let probe = self.probes;
        // Late probes do not hurry after one another.
        self.next = (self.next + self.plan.interval).max(now);
        self.probes = self.probes.wrapping_add(1);
        let mut flight = Flight {
            probe,
            state: State::Waiting,
            changes: self.clock.changes(),
            sent_at: Instant::now(),
            sent: Stamp {
                nanoseconds: clock::real(),
                source: Source::User,
            },
            packet: None,
            port: 0,
            // Nobody off the path can guess it, and so forge an answer.
            sequence: fastrand::u32(..),
            attempt: None,
        };
        let mut result = self.send_syn(&mut flight)?;
        if result.is_err() && self.take_reports(reports)? {
            result = self.send_syn(&mut flight)?;
        }
        if let Err(error) = result {
            flight.state = State::Refused;
            let by = None;
            reports.push(summary::Report::Unreachable { probe, error, by }.into());
        }
        self.flights.push_back(flight);
        Ok(())
    }

    /// Sends a probe's SYN. The inner error: it was refused.
    fn send_syn(&mut self, flight: &mut Flight) -> Result<Result<(), Errno>, Errno> {
        match &mut self.way {
            Way::Raw(socket) => match socket.send(flight.probe, flight.sequence) {
                Ok(port) => {
                    flight.port = port;
                    flight.packet = Some(self.packet);
                    self.packet = self.packet.wrapping_add(1);
                }
                Err(error) => {
                    // Whether the refused SYN took a number is not known.
                    socket.restart_numbers()?;
                    self.packet = 0;
                    self.flights
                        .iter_mut()
                        .for_each(|flight| flight.packet = None);
                    return Ok(Err(error));
                }
            },
            Way::Connect => match Attempt::begin(self.plan.target, &self.plan.route) {
                Ok(attempt) => {
                    flight.sent_at = attempt.begun();
                    flight.attempt = Some(attempt);
                }
                Err(error) => return Ok(Err(error)),
            },
        }
        Ok(Ok(()))
    }

    /// Takes what has come.
    fn receive(&mut self, reports: &mut Vec<Report>) -> Result<(), Errno> {
        if let Way::Connect = self.way {
            return self.take_attempts(reports);
        }
        for _ in 0..BATCH {
            // The time of sending must be known before the answer counts.
            self.take_reports(reports)?;
            let Way::Raw(socket) = &self.way else {
                return Ok(());
            };
            let received = match socket.receive() {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(()),
                // The error queue tells more of it, unless the kernel had no memory for that.
                Err(error) if self.take_reports(reports)? || is_of_the_network(error) => continue,
                Err(error) => return Err(error),
            };
            self.take_reports(reports)?;
            self.take_answer(&received, reports);
        }
        Ok(())
    }

    fn take_answer(&mut self, received: &Received, reports: &mut Vec<Report>) {
        let arrived = received.news.stamp.unwrap_or_else(|| Stamp {
            nanoseconds: clock::real(),
            source: Source::User,
        });
        let Some(segment) = received.segment else {
            return;
        };
        let changes = self.clock.changes();
        let is_of = |flight: &&mut Flight| {
            flight.port == segment.to && flight.sequence.wrapping_add(1) == segment.acknowledged
        };
        let Some(flight) = self.flights.iter_mut().rev().find(is_of) else {
            self.foreign += 1;
            return;
        };
        let probe = flight.probe;
        let is_set = flight.changes != changes || clock::is_in_doubt(changes);
        let mut report = Report::from(match flight.state {
            State::Waiting => {
                let whole = arrived.nanoseconds.checked_sub(flight.sent.nanoseconds);
                summary::Report::Answered(Answered {
                    probe,
                    round_trip: whole.filter(|whole| *whole >= 0 && !is_set),
                    sent: At::of(flight.sent.source),
                    received: At::of(arrived.source),
                    ttl: received.news.ttl,
                    traffic_class: received.news.traffic_class,
                })
            }
            State::Lost => summary::Report::Late { probe },
            State::Answered | State::Refused => summary::Report::Duplicate { probe },
        });
        if flight.state == State::Waiting {
            report.answer = Some(segment.answer);
        }
        flight.state = State::Answered;
        reports.push(report);
    }

    /// Takes the news of the raw socket's error queue. True: one of them was an error.
    fn take_reports(&mut self, reports: &mut Vec<Report>) -> Result<bool, Errno> {
        let mut was_error = false;
        while let Way::Raw(socket) = &self.way
            && let Some(Reported { news, syn }) = socket.report()?
        {
            let Some(about) = news.about else { continue };
            let mut latest_first = self.flights.iter_mut().rev();
            if about.origin == Origin::Stamp {
                let is_of = |flight: &&mut Flight| flight.packet == Some(about.packet);
                // No packet leaves before it was made: such a time is of an earlier number.
                if let Some(flight) = latest_first.find(is_of)
                    && let Some(stamp) = news.stamp
                    && stamp.nanoseconds >= flight.sent.nanoseconds
                {
                    flight.sent = stamp;
                }
                continue;
            }
            was_error = true;
            let is_of = |flight: &&mut Flight| syn == Some((flight.port, flight.sequence));
            if let Some(flight) = latest_first.find(is_of)
                && flight.state == State::Waiting
            {
                flight.state = State::Refused;
                reports.push(refused(flight.probe, about.error, about.by));
            }
        }
        Ok(was_error)
    }

    /// Takes what became of the connections that were begun.
    fn take_attempts(&mut self, reports: &mut Vec<Report>) -> Result<(), Errno> {
        for flight in &mut self.flights {
            let Some(attempt) = &flight.attempt else {
                continue;
            };
            if !is_ready(attempt.as_fd())? {
                continue;
            }
            let (state, report) = judge(flight.probe, attempt.outcome()?);
            flight.state = state;
            // Here the connection ends.
            flight.attempt = None;
            reports.push(report);
        }
        Ok(())
    }

    /// Reports what waited too long, and forgets what ended long ago.
    fn time_out(&mut self, reports: &mut Vec<Report>) {
        let now = Instant::now();
        for flight in &mut self.flights {
            if flight.sent_at + self.plan.timeout > now {
                break;
            }
            if flight.state == State::Waiting {
                flight.state = State::Lost;
                flight.attempt = None;
                let probe = flight.probe;
                reports.push(summary::Report::Lost { probe }.into());
            }
        }
        while self.flights.len() > KEPT
            && (self.flights.front()).is_some_and(|flight| flight.state != State::Waiting)
        {
            self.flights.pop_front();
        }
    }
}

/// Whether an attempt to connect has ended.
fn is_ready(attempt: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut fds = [PollFd::new(attempt, PollFlags::POLLOUT)];
    match ppoll(
        &mut fds,
        Some(TimeSpec::from_duration(Duration::ZERO)),
        None,
    ) {
        Err(Errno::EINTR) => Ok(false),
        result => result.map(|ready| ready > 0),
    }
}
