//! A session of echo requests: sends them at an interval, and reports what became of each.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use super::{
    packet::{self, Echo},
    socket::{EchoSocket, Notice, OpenError, Received, Route},
    summary::{Answered, Report},
};
use crate::active::{
    clock::{self, Clock},
    report::At,
    socket::{KeepStamping, Source, Stamp},
};

/// Answers that are taken before the time and the end are looked at.
const BATCH: usize = 64;

/// Probes whose further answers are known as late or as duplicates after their end.
const KEPT: usize = 1024;

/// What is sent, and to whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The machine that is asked. Its port is 0.
    pub target: SocketAddr,
    /// Where and how the requests go.
    pub route: Route,
    /// How many probes. None: until the end is asked for.
    pub count: Option<u32>,
    /// Time between two probes.
    pub interval: Duration,
    /// Bytes of data behind the ICMP header.
    pub size: usize,
    /// Time after which a probe without an answer is lost.
    pub timeout: Duration,
}

/// What a probe waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
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
struct Flight {
    state: State,
    /// The number on the socket. None: it was not sent.
    packet: Option<u32>,
    sent_at: Instant,
    sent: Stamp,
    changes: u16,
}

/// Whether an error tells of an ICMP message (icmp(7)), and not of the socket. Receiving it clears it.
pub(in crate::active) fn is_of_the_network(error: Errno) -> bool {
    use Errno::{
        EACCES, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EMSGSIZE, ENETDOWN, ENETUNREACH,
        ENOPROTOOPT, EOPNOTSUPP, EPROTO,
    };
    let all = [
        EACCES,
        ECONNREFUSED,
        EHOSTDOWN,
        EHOSTUNREACH,
        EMSGSIZE,
        ENETDOWN,
        ENETUNREACH,
        ENOPROTOOPT,
        EOPNOTSUPP,
        EPROTO,
    ];
    all.contains(&error)
}

/// A sender.
#[derive(Debug)]
pub struct Sender {
    socket: EchoSocket,
    plan: Plan,
    token: u64,
    /// The latest probes: all that wait, and [`KEPT`] others.
    flights: VecDeque<Flight>,
    /// The number of the first of them.
    first: u32,
    probes: u32,
    packet: u32,
    next: Instant,
    clock: Clock,
    foreign: u64,
    _keep: KeepStamping,
}

impl Sender {
    /// Opens a socket for a plan.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(plan: Plan) -> Result<Self, OpenError> {
        Ok(Self {
            socket: EchoSocket::open(plan.target.is_ipv6(), &plan.route)?,
            token: fastrand::u64(..),
            flights: VecDeque::new(),
            first: 0,
            probes: 0,
            packet: 0,
            next: Instant::now(),
            clock: Clock::start()?,
            foreign: 0,
            plan,
            _keep: KeepStamping::start()
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?,
        })
    }

    /// Whether the probes go by a raw socket.
    #[must_use]
    pub const fn is_raw(&self) -> bool {
        self.socket.is_raw()
    }

    /// Answers to this socket that belong to no probe of this session: of another machine, or damaged.
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
        mut report: impl FnMut(Report) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; packet::LONGEST + packet::HEADER + 60];
        let mut reports = Vec::new();
        loop {
            let now = Instant::now();
            let is_done = self.plan.count.is_some_and(|count| self.probes >= count);
            if !is_done && now >= self.next {
                self.send(now, &mut reports)?;
            }
            self.receive(&mut buffer, &mut reports)?;
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
            State::Lost => Some(flight.sent_at + 2 * timeout).filter(|end| *end > now),
            State::Answered | State::Refused => None,
        };
        self.flights.iter().filter_map(end).min()
    }

    /// Waits for packets, at most `wait`. True: the end was asked for.
    fn wait(&self, end: &impl AsFd, wait: Duration) -> Result<bool, Errno> {
        let mut fds = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(end.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(wait)), None) {
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error),
            Ok(_) => Ok(fds[1].any() == Some(true)),
        }
    }

    fn send(&mut self, now: Instant, reports: &mut Vec<Report>) -> Result<(), Errno> {
        // The kernel would give an earlier probe's error to this one, and not send it.
        self.take_notices(reports)?;
        let probe = self.probes;
        // Late probes do not hurry after one another.
        self.next = (self.next + self.plan.interval).max(now);
        let echo = Echo {
            id: self.socket.id(),
            token: self.token,
            probe,
        };
        let message = echo.request(self.plan.target.is_ipv6(), self.plan.size);
        let changes = self.clock.changes();
        let sent_at = Instant::now();
        let sent = Stamp {
            nanoseconds: clock::real(),
            source: Source::User,
        };
        let mut result = self.send_message(&message)?;
        if result.is_err() && self.take_notices(reports)? {
            result = self.send_message(&message)?;
        }
        let (state, packet) = match result {
            Ok(packet) => (State::Waiting, Some(packet)),
            Err(error) => {
                let by = None;
                reports.push(Report::Unreachable { probe, error, by });
                (State::Refused, None)
            }
        };
        self.probes = self.probes.wrapping_add(1);
        self.flights.push_back(Flight {
            state,
            packet,
            sent_at,
            sent,
            changes,
        });
        Ok(())
    }

    /// Sends a message, and gives its number on the socket. The inner error: it was refused.
    fn send_message(&mut self, message: &[u8]) -> Result<Result<u32, Errno>, Errno> {
        if let Err(error) = self.socket.send(message, self.plan.target) {
            // Whether the refused message took a number is not known.
            self.socket.restart_numbers()?;
            self.packet = 0;
            self.flights
                .iter_mut()
                .for_each(|flight| flight.packet = None);
            return Ok(Err(error));
        }
        let packet = self.packet;
        self.packet = packet.wrapping_add(1);
        Ok(Ok(packet))
    }

    /// Takes the answers, times of sending and errors that have come, at most [`BATCH`] answers.
    fn receive(&mut self, buffer: &mut [u8], reports: &mut Vec<Report>) -> Result<(), Errno> {
        for _ in 0..BATCH {
            // The time of sending must be known before the answer counts.
            self.take_notices(reports)?;
            let received = match self.socket.receive(buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(()),
                // The error queue tells the same with more detail, unless the kernel had no memory for it.
                Err(error) if self.take_notices(reports)? || is_of_the_network(error) => continue,
                Err(error) => return Err(error),
            };
            self.take_notices(reports)?;
            self.take_answer(&received, reports);
        }
        Ok(())
    }

    fn take_answer(&mut self, received: &Received, reports: &mut Vec<Report>) {
        let arrived = received.stamp.unwrap_or_else(|| Stamp {
            nanoseconds: clock::real(),
            source: Source::User,
        });
        let same = received.from.to_canonical() == self.plan.target.ip().to_canonical();
        // A raw socket gets the answers of other programs' requests, too.
        let Some(echo) = received.echo else {
            return;
        };
        if !same || echo.token != self.token {
            self.foreign += 1;
            return;
        }
        let is_set =
            |flight: &Flight, changes| flight.changes != changes || clock::is_in_doubt(changes);
        let changes = self.clock.changes();
        let probe = echo.probe;
        let Some(flight) = self.flight(probe) else {
            self.foreign += 1;
            return;
        };
        reports.push(match flight.state {
            State::Waiting => {
                let whole = arrived.nanoseconds.checked_sub(flight.sent.nanoseconds);
                let is_possible = |whole: &i64| *whole >= 0 && !is_set(flight, changes);
                Report::Answered(Answered {
                    probe,
                    round_trip: whole.filter(is_possible),
                    sent: At::of(flight.sent.source),
                    received: At::of(arrived.source),
                    ttl: received.ttl,
                    traffic_class: received.traffic_class,
                })
            }
            State::Lost => Report::Late { probe },
            // An error is an answer, too.
            State::Answered | State::Refused => Report::Duplicate { probe },
        });
        flight.state = State::Answered;
    }

    /// The flight of a probe. None: there was no such probe, or it ended too long ago.
    fn flight(&mut self, probe: u32) -> Option<&mut Flight> {
        let at = usize::try_from(probe.checked_sub(self.first)?).ok()?;
        self.flights.get_mut(at)
    }

    /// Takes the news of the error queue. True: one of them was an error.
    fn take_notices(&mut self, reports: &mut Vec<Report>) -> Result<bool, Errno> {
        let mut was_error = false;
        while let Some(notice) = self.socket.notice()? {
            match notice {
                Notice::Sent { packet, stamp } => {
                    let mut latest_first = self.flights.iter_mut().rev();
                    // No packet leaves before it was made: such a time is of an earlier number.
                    if let Some(flight) = latest_first.find(|f| f.packet == Some(packet))
                        && stamp.nanoseconds >= flight.sent.nanoseconds
                    {
                        flight.sent = stamp;
                    }
                }
                Notice::Unreachable {
                    sequence,
                    error,
                    by,
                } => {
                    was_error = true;
                    self.refuse(sequence, error, by, reports);
                }
            }
        }
        Ok(was_error)
    }

    /// Reports the probe that an error is about.
    fn refuse(
        &mut self,
        sequence: Option<u16>,
        error: Errno,
        by: Option<IpAddr>,
        reports: &mut Vec<Report>,
    ) {
        // A number of 16 bits is that of the latest probe that has it.
        let numbers = (self.first..self.probes).rev();
        let of = |(probe, _): &(u32, &mut Flight)| sequence == Some(packet::sequence(*probe));
        if let Some((probe, flight)) = numbers.zip(self.flights.iter_mut().rev()).find(of)
            && flight.state == State::Waiting
        {
            flight.state = State::Refused;
            reports.push(Report::Unreachable { probe, error, by });
        }
    }

    /// Reports what waited too long, and forgets what ended long ago.
    fn time_out(&mut self, reports: &mut Vec<Report>) {
        let now = Instant::now();
        for (probe, flight) in (self.first..).zip(&mut self.flights) {
            if flight.sent_at + self.plan.timeout > now {
                break;
            }
            if flight.state == State::Waiting {
                flight.state = State::Lost;
                reports.push(Report::Lost { probe });
            }
        }
        while self.flights.len() > KEPT
            && (self.flights.front()).is_some_and(|flight| flight.state != State::Waiting)
        {
            self.flights.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }
}
