//! A Session-Sender (RFC 8762 section 4.2): sends trains of packets at an interval, and reports what
//! became of each once all its times are known.
//!
//! The time at which the reflector's kernel sent an answer (T3) comes with the next answer. So a
//! packet that is no probe follows a train, and only fetches the last T3: it has no report, and no
//! place in the figures. Where a train is one probe and the next one is near, that fetches it.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use lpm_common::stamp::{Format, Timestamp};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use self::flight::Flight;
use super::{
    clock::{Claim, Clock, DRIFT},
    offset::{Claims, ClockOffset},
    plan::{LONGEST, Plan, Train},
    queueing::Queueing,
    report::Report,
    schedule::when::{self, Gaps},
    socket::{KeepStamping, Outgoing, Source, Stamp, StampedSocket},
};

mod flight;
mod judge;
mod open;
mod receive;

/// Where single probes are closer together than this, the next one fetches the time of sending.
const FETCH_ABOVE: Duration = Duration::from_millis(100);

/// What takes the reports. An error ends the sender.
pub type Take<'a> = dyn FnMut(Report) -> io::Result<()> + 'a;

/// A sender.
#[derive(Debug)]
pub struct Sender {
    socket: StampedSocket,
    plan: Plan,
    pace: Pace,
    gaps: Gaps,
    schedule: Schedule,
    flights: VecDeque<Flight>,
    /// The sequence number of the next packet.
    sequence: u32,
    /// The number of the next probe.
    probes: u32,
    /// The number of the next train whose end is to be reported.
    judged: u32,
    /// TTL or hop limit of the packets.
    ttl: Option<u8>,
    clock: Clock,
    claim: Claim,
    /// What the reflector's clock claimed last.
    claim_there: Option<i64>,
    offset: ClockOffset,
    /// The numbers of both clocks ([`Clock::changes`]) for which the offset holds.
    epoch: Option<[u16; 2]>,
    /// How often the offset's window began anew.
    window: u32,
    /// Whether the reflector tells its times of sending. None: not known yet.
    follows_up: Option<bool>,
    /// The numbers of the reflector's clock by its latest answers' sequence numbers.
    changes_there: BTreeMap<u32, u16>,
    /// The latest packets that are reported, with their probes.
    reported: VecDeque<((u32, Timestamp), Option<u32>)>,
    /// Whether the reflector counts packets by itself.
    counts: bool,
    /// Answers that belong to no packet.
    foreign: u64,
    queueing: Queueing,
    buffer: Vec<u8>,
    _keep: KeepStamping,
}

/// What is sent next, and when.
#[derive(Debug)]
struct Schedule {
    next: Instant,
    /// When the train began.
    begun: Instant,
    /// Time from then to the beginning of the next one.
    gap: Duration,
    /// The number of the train.
    train: u32,
    /// How many probes the train has.
    size: u32,
    /// Probes of the train that are still to be sent. 0: the next train begins.
    left: u32,
    /// Whether a packet that fetches the last T3 is to follow.
    fetches: bool,
}

/// How often a sender sends, and how much. It may change while the sender runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time from train to train, around which the gaps vary.
    pub interval: Duration,
    /// How many probes a train has, at least one.
    pub probes: u32,
}

/// How a sender goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something is to be done at this time, or earlier if the sender's descriptor is readable.
    Wait(Instant),
    /// All trains are reported.
    Done,
}

impl Sender {
    /// Opens a socket for a plan.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(plan: Plan) -> io::Result<Self> {
        Self::with_clock(plan, Clock::start()?)
    }

    /// Opens a socket for a plan; its times are those of a clock.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn with_clock(plan: Plan, clock: Clock) -> io::Result<Self> {
        Self::at_port(plan, clock, 0)
    }

    /// Opens a socket at a port of this machine; 0: the kernel chooses one.
    ///
    /// # Errors
    /// What the kernel refused: somebody has the port.
    pub fn at_port(plan: Plan, clock: Clock, port: u16) -> io::Result<Self> {
        let socket = open::bind(&plan, port)?;
        let now = Instant::now();
        Ok(Self {
            ttl: open::ttl(&socket, plan.target),
            pace: Pace {
                interval: plan.interval,
                probes: plan.train.probes,
            },
            gaps: Gaps::new(plan.rhythm),
            socket,
            schedule: Schedule {
                next: now,
                begun: now,
                gap: plan.interval,
                train: 0,
                size: plan.train.probes,
                left: 0,
                fetches: false,
            },
            flights: VecDeque::new(),
            sequence: 0,
            probes: 0,
            judged: 0,
            claim: clock.claim(),
            claim_there: None,
            offset: ClockOffset::new(clock.drift().saturating_add(DRIFT)),
            clock,
            epoch: None,
            window: 0,
            follows_up: None,
            changes_there: BTreeMap::new(),
            reported: VecDeque::new(),
            counts: false,
            foreign: 0,
            queueing: Queueing::default(),
            buffer: vec![0; LONGEST],
            plan,
            _keep: KeepStamping::start()?,
        })
    }

    /// Lets the first train begin at this time.
    pub fn begin_at(&mut self, at: Instant) {
        self.schedule.next = at;
        self.schedule.begun = at;
    }

    /// Answers that belong to no packet of this session: of others, forged, or damaged.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// How long the packets waited in this machine's queues, those that only fetched a time included.
    #[must_use]
    pub fn queueing(&self) -> &Queueing {
        &self.queueing
    }

    /// What both clocks claimed last.
    #[must_use]
    pub fn claims(&self) -> Claims {
        Claims {
            here: self.claim.error,
            there: self.claim_there,
        }
    }

    /// Changes how often and how much is sent, from the next train on. That comes at the latest one
    /// gap from now.
    pub fn set_pace(&mut self, pace: Pace) {
        if self.pace == pace {
            return;
        }
        let is_sooner = pace.interval < self.pace.interval;
        self.pace = pace;
        let schedule = &mut self.schedule;
        if is_sooner && schedule.left == 0 && !schedule.fetches {
            let latest = Instant::now() + pace.interval;
            schedule.next = schedule.next.min(latest);
        }
    }

    /// When something is to be sent next.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.schedule.next
    }

    /// Sends and receives until all trains are reported, or `end` becomes readable. What was
    /// answered by then is reported.
    ///
    /// # Errors
    /// The socket failed, or `report` did.
    pub fn run(
        &mut self,
        end: &impl AsFd,
        mut report: impl FnMut(Report) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            let Turn::Wait(until) = self.step(&mut report)? else {
                return Ok(());
            };
            let wait = until.saturating_duration_since(Instant::now());
            if self.wait(end, wait)? {
                return self.finish(&mut report);
            }
        }
    }

    /// Does what is due, and does not wait. Many senders share a thread this way.
    ///
    /// # Errors
    /// The socket failed, or `report` did.
    pub fn step(&mut self, report: &mut Take<'_>) -> io::Result<Turn> {
        self.receive(report)?;
        if !self.is_sent() && Instant::now() >= self.schedule.next {
            self.send_next(report)?;
        }
        self.report_final(Instant::now(), report)?;
        if self.is_sent() && self.flights.is_empty() {
            return Ok(Turn::Done);
        }
        Ok(Turn::Wait(self.wake()))
    }

    /// Whether all trains are sent.
    fn is_sent(&self) -> bool {
        let schedule = &self.schedule;
        let is_last = self.plan.count.is_some_and(|count| schedule.train >= count);
        is_last && !schedule.fetches
    }

    /// When something is to be done next.
    fn wake(&self) -> Instant {
        let timeout = self.plan.timeout;
        let now = Instant::now();
        let timeouts = self
            .flights
            .iter()
            .filter_map(|flight| match flight.answer {
                _ if flight.answer.is_some() && self.is_final(flight, now) => None,
                Some(answer) => Some(answer.at + timeout),
                None if flight.is_lost => Some(flight.sent_at + 2 * timeout),
                None => Some(flight.sent_at + timeout),
            });
        let next = (!self.is_sent()).then_some(self.schedule.next);
        timeouts.chain(next).min().unwrap_or(now)
    }

    /// Waits for packets, at most `wait`. True: the end was asked for.
    fn wait(&self, end: &impl AsFd, wait: Duration) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(end.as_fd(), PollFlags::POLLIN),
        ];
        let wait = TimeSpec::from_duration(wait);
        match ppoll(&mut fds, Some(wait), None) {
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(fds[1].any() == Some(true)),
        }
    }

    /// Sends what is due.
    fn send_next(&mut self, report: &mut Take<'_>) -> io::Result<()> {
        let now = Instant::now();
        let spacing = self.plan.train.spacing;
        if self.schedule.fetches {
            self.schedule.fetches = false;
            self.schedule.next = self.schedule.begun + self.schedule.gap;
            // Without it the time stays unknown, and the report says so.
            let _ = self.send(None);
            return Ok(());
        }
        if self.schedule.left == 0 {
            self.begin_train(now);
        }
        let probe = self.probes;
        self.probes = self.probes.wrapping_add(1);
        let sent = self.send(Some(probe));
        self.schedule.left = self.schedule.left.saturating_sub(1);
        if self.schedule.left > 0 {
            self.schedule.next = (self.schedule.next + spacing).max(now);
        } else {
            self.schedule.train += 1;
            self.schedule.fetches = self.schedule.size > 1 && self.follows_up != Some(false);
            self.schedule.next = if self.schedule.fetches {
                now + spacing
            } else {
                self.schedule.begun + self.schedule.gap
            };
        }
        match sent {
            Ok(()) => Ok(()),
            Err(error) => report(Report::Unreachable {
                probe,
                error: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
            }),
        }
    }

    /// Begins a train. Late trains do not hurry after one another.
    fn begin_train(&mut self, now: Instant) {
        let Pace { interval, probes } = self.pace;
        let train = Train {
            probes: probes.max(1),
            ..self.plan.train
        };
        let schedule = &mut self.schedule;
        schedule.begun = when::begin(schedule.next, now, schedule.gap);
        (schedule.size, schedule.left) = (train.probes, train.probes);
        schedule.gap = self.gaps.next(interval, train.length());
        self.claim = self.clock.claim();
    }

    /// Sends a packet.
    fn send(&mut self, probe: Option<u32>) -> io::Result<()> {
        let changes = self.clock.changes();
        let monotonic = self.clock.monotonic();
        let sent_at = Instant::now();
        let real = self.clock.real();
        let written = Timestamp::from_unix(u64::try_from(real).unwrap_or(0), Format::Ntp);
        let packet = self.plan.packet(self.sequence, written, self.claim);
        let how = Outgoing {
            from: self.plan.from,
            traffic_class: self.plan.traffic_class(),
        };
        let train = self.schedule.train;
        let flight = Flight {
            sequence: self.sequence,
            // A packet that was refused has no number, neither on the socket nor on the wire.
            packet: self.socket.send(&packet, self.plan.target, how)?,
            probe,
            train,
            sent_at,
            monotonic,
            sent: Stamp {
                nanoseconds: real,
                source: Source::User,
            },
            written,
            changes,
            answer: None,
            is_lost: false,
        };
        self.flights.push_back(flight);
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
