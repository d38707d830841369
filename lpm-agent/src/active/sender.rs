//! A Session-Sender (RFC 8762 section 4.2): sends packets at an interval, and reports what became of
//! each once all its times are known.
//!
//! The time at which the reflector's kernel sent an answer (T3) comes with the next answer. Where the
//! next packet is far off, and behind the last one, a further packet only fetches it. Such a packet is
//! no probe: it has no report, and no place in the figures.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use lpm_common::stamp::{
    Format, Timestamp,
    reply::{self, Reply},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use super::{
    clock::{self, Claim, DRIFT, SetWatch},
    offset::ClockOffset,
    plan::{LONGEST, Plan},
    queueing::Queueing,
    report::{At, Report},
    socket::{KeepStamping, Notice, Outgoing, Source, Stage, Stamp, StampedSocket},
    statistics,
};

mod judge;

/// Where packets are closer together than this, the next one fetches the time of sending.
const FETCH_ABOVE: Duration = Duration::from_millis(100);

/// Packets whose further answers are known as duplicates after their report.
const REPORTED: usize = 1024;

/// A packet on its way.
#[derive(Debug)]
struct Flight {
    sequence: u32,
    /// The number on the socket. None: the kernel will not tell the time of sending.
    packet: Option<u64>,
    /// None: the packet only fetches a time.
    probe: Option<u32>,
    sent_at: Instant,
    monotonic: i64,
    sent: Stamp,
    /// The timestamp that stands in the packet.
    written: Timestamp,
    changes: u16,
    answer: Option<Answer>,
    is_lost: bool,
}

/// The first answer to a packet.
#[derive(Clone, Copy, Debug)]
struct Answer {
    reply: Reply,
    received: Stamp,
    at: Instant,
    class: Option<u8>,
    /// The kernel's time of sending, by the reflector's follow-up.
    follow_up: Option<(Timestamp, At)>,
    changes: u16,
}

/// A sender.
#[derive(Debug)]
pub struct Sender {
    socket: StampedSocket,
    plan: Plan,
    flights: VecDeque<Flight>,
    sequence: u32,
    probes: u32,
    next: Instant,
    clock: SetWatch,
    claim: Claim,
    offset: ClockOffset,
    /// Whether the reflector tells its times of sending. None: not known yet.
    follows_up: Option<bool>,
    /// The reflector's count of clock changes, by its last answer.
    changes_there: Option<u16>,
    /// The latest packets that are reported, with their probes.
    reported: VecDeque<((u32, Timestamp), Option<u32>)>,
    /// The numbers of all answers, in the order of their arrival.
    answers: Vec<statistics::Answer>,
    /// Whether the reflector counts packets by itself.
    counts: bool,
    /// Answers that belong to no packet.
    foreign: u64,
    queueing: Queueing,
    _keep: KeepStamping,
}

impl Sender {
    /// Opens a socket for a plan.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(plan: Plan) -> io::Result<Self> {
        let any: IpAddr = match plan.target {
            SocketAddr::V4(_) => [0, 0, 0, 0].into(),
            SocketAddr::V6(_) => [0_u16; 8].into(),
        };
        let from = SocketAddr::new(plan.from.unwrap_or(any), 0);
        let socket = StampedSocket::bind(from, false)?;
        if let Some(interface) = &plan.interface {
            socket.bind_to_interface(interface)?;
        }
        Ok(Self {
            socket,
            flights: VecDeque::new(),
            sequence: 0,
            probes: 0,
            next: Instant::now(),
            clock: SetWatch::start()?,
            claim: Claim::ask(),
            offset: ClockOffset::new(2 * DRIFT),
            follows_up: None,
            changes_there: None,
            reported: VecDeque::new(),
            answers: Vec::new(),
            counts: false,
            foreign: 0,
            queueing: Queueing::default(),
            plan,
            _keep: KeepStamping::start()?,
        })
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

    /// The numbers of all answers, also to packets that only fetched a time, in the order of their
    /// arrival. A reflector that does not count by itself has none of its own.
    #[must_use]
    pub fn answers(&self) -> Vec<statistics::Answer> {
        let own = |answer: &statistics::Answer| statistics::Answer {
            reflected: answer.reflected.filter(|_| self.counts),
            ..*answer
        };
        self.answers.iter().map(own).collect()
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
        let mut buffer = vec![0; LONGEST];
        loop {
            let now = Instant::now();
            let is_done = self.plan.count.is_some_and(|count| self.probes >= count);
            if !is_done && now >= self.next {
                self.send_probe(now, &mut report)?;
                continue;
            }
            self.report_final(now, &mut report)?;
            if is_done && self.flights.is_empty() {
                return Ok(());
            }
            let wake = self.wake(is_done);
            let wait = wake.map_or(Duration::from_secs(1), |wake| {
                wake.saturating_duration_since(Instant::now())
            });
            if self.wait(end, wait)? {
                return Ok(());
            }
            self.receive(&mut buffer, &mut report)?;
        }
    }

    /// When something is to be done next.
    fn wake(&self, is_done: bool) -> Option<Instant> {
        let timeouts = self.flights.iter().filter(|flight| !flight.is_lost);
        let timeouts = timeouts.map(|flight| {
            let from = flight.answer.map_or(flight.sent_at, |answer| answer.at);
            from + self.plan.timeout
        });
        timeouts.chain((!is_done).then_some(self.next)).min()
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

    fn send_probe(
        &mut self,
        now: Instant,
        report: &mut impl FnMut(Report) -> io::Result<()>,
    ) -> io::Result<()> {
        let probe = self.probes;
        self.probes += 1;
        // Late probes do not hurry after one another.
        self.next = (self.next + self.plan.interval).max(now);
        match self.send(Some(probe)) {
            Ok(()) => Ok(()),
            Err(error) => report(Report::Unreachable {
                probe,
                error: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
            }),
        }
    }

    /// Sends a packet.
    fn send(&mut self, probe: Option<u32>) -> io::Result<()> {
        let changes = self.clock.changes();
        let monotonic = clock::monotonic();
        let sent_at = Instant::now();
        let real = clock::real();
        let written = Timestamp::from_unix(u64::try_from(real).unwrap_or(0), Format::Ntp);
        let packet = self.plan.packet(self.sequence, written, self.claim);
        let how = Outgoing {
            from: self.plan.from,
            traffic_class: self.plan.dscp << 2,
        };
        let number = self.socket.send(&packet, self.plan.target, how)?;
        self.flights.push_back(Flight {
            sequence: self.sequence,
            packet: number,
            probe,
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
        });
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    /// Takes all answers and times of sending that have come.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        report: &mut impl FnMut(Report) -> io::Result<()>,
    ) -> io::Result<()> {
        self.take_notices(report)?;
        loop {
            let received = match self.socket.receive(buffer) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                // The error queue tells the same with more detail.
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => break,
                Err(error) => return Err(error),
            };
            let at = Instant::now();
            let stamp = received.stamp.unwrap_or_else(|| Stamp {
                nanoseconds: clock::real(),
                source: Source::User,
            });
            // The time of sending must be known before the answer counts.
            self.take_notices(report)?;
            let same = received.from.ip().to_canonical() == self.plan.target.ip().to_canonical()
                && received.from.port() == self.plan.target.port();
            let bytes = buffer.get(..received.length).unwrap_or_default();
            let reply = reply::read(bytes, self.plan.mode(), self.plan.key.as_ref());
            let (true, Ok(reply)) = (same, reply) else {
                self.foreign += 1;
                continue;
            };
            let answer = Answer {
                reply,
                received: stamp,
                at,
                class: received.traffic_class,
                follow_up: None,
                changes: self.clock.changes(),
            };
            self.take_answer(answer, report)?;
        }
        self.take_notices(report)
    }

    fn take_answer(
        &mut self,
        answer: Answer,
        report: &mut impl FnMut(Report) -> io::Result<()>,
    ) -> io::Result<()> {
        let reply = answer.reply;
        self.take_follow_up(&reply);
        self.take_number(&reply);
        let found = self.flights.iter_mut().find(|flight| {
            flight.sequence == reply.packet.sender_sequence
                && flight.written == reply.packet.sender_timestamp
        });
        let Some(flight) = found else {
            // Of a packet that was reported before: it can be late, or come again.
            return match self.probe_before(&reply) {
                Some(probe) => report(Report::Duplicate { probe }),
                None => Ok(()),
            };
        };
        let probe = flight.probe;
        if flight.answer.is_some() {
            return probe.map_or(Ok(()), |probe| report(Report::Duplicate { probe }));
        }
        let is_lost = flight.is_lost;
        flight.answer = Some(answer);
        if is_lost {
            return probe.map_or(Ok(()), |probe| report(Report::Late { probe }));
        }
        if reply.extensions.previous.is_some() {
            self.follows_up = Some(true);
        } else if probe.is_none() && self.follows_up.is_none() {
            // This packet asked for nothing else.
            self.follows_up = Some(false);
        }
        let is_end = self.plan.count.is_some_and(|count| self.probes >= count);
        let fetches = self.follows_up != Some(false)
            && (is_end || self.plan.interval >= FETCH_ABOVE)
            && probe.is_some();
        if fetches {
            // Without it the time stays unknown, and the report says so.
            let _ = self.send(None);
        }
        Ok(())
    }

    fn take_number(&mut self, reply: &Reply) {
        let packet = &reply.packet;
        if packet.session != self.plan.session || packet.sender_sequence >= self.sequence {
            return;
        }
        self.answers.push(statistics::Answer {
            packet: packet.sender_sequence,
            reflected: Some(packet.sequence),
        });
        // It says so, it knows its last answer, or its number is not a copy of the packet's.
        self.counts |= reply.extensions.agent.is_some()
            || reply.extensions.previous.is_some()
            || packet.sequence != packet.sender_sequence;
    }

    /// The probe of an answer whose packet was reported already. None: the answer is not to a probe
    /// of this session, or the report was too long ago.
    fn probe_before(&mut self, reply: &Reply) -> Option<u32> {
        let packet = &reply.packet;
        let number = (packet.sender_sequence, packet.sender_timestamp);
        let found = self
            .reported
            .iter()
            .find(|(reported, _)| *reported == number);
        if let Some((_, probe)) = found {
            return *probe;
        }
        self.foreign += 1;
        None
    }

    /// Gives a time of sending to the answer that it is of.
    fn take_follow_up(&mut self, reply: &Reply) {
        let Some(previous) = reply.extensions.previous else {
            return;
        };
        let at = (reply.extensions.agent).map_or(At::Peer, |agent| At::of_agent(agent.previous));
        for flight in &mut self.flights {
            if let Some(answer) = &mut flight.answer
                && answer.reply.packet.sequence == previous.sequence
            {
                answer.follow_up = Some((previous.timestamp, at));
            }
        }
    }

    fn take_notices(
        &mut self,
        report: &mut impl FnMut(Report) -> io::Result<()>,
    ) -> io::Result<()> {
        while let Some(notice) = self.socket.notice()? {
            self.queueing.take(&notice);
            match notice {
                Notice::Sent {
                    packet,
                    stage: Stage::Sent,
                    stamp,
                } => {
                    let of_packet = |flight: &&mut Flight| flight.packet == Some(packet);
                    if let Some(flight) = self.flights.iter_mut().find(of_packet) {
                        flight.sent = stamp;
                    }
                }
                Notice::Sent { .. } => {}
                Notice::Unreachable { error } => {
                    // Which packet it was is not told: the oldest one without an answer.
                    let waiting = |flight: &Flight| flight.answer.is_none() && !flight.is_lost;
                    let Some(at) = self.flights.iter().position(waiting) else {
                        continue;
                    };
                    if let Some(probe) = self.flights.remove(at).and_then(|flight| flight.probe) {
                        report(Report::Unreachable { probe, error })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reports the oldest packets, as far as nothing more is awaited for them.
    fn report_final(
        &mut self,
        now: Instant,
        report: &mut impl FnMut(Report) -> io::Result<()>,
    ) -> io::Result<()> {
        let timeout = self.plan.timeout;
        for flight in &mut self.flights {
            if flight.answer.is_none() && !flight.is_lost && now >= flight.sent_at + timeout {
                flight.is_lost = true;
                if let Some(probe) = flight.probe {
                    let sequence = flight.sequence;
                    report(Report::Lost { probe, sequence })?;
                }
            }
        }
        while let Some(flight) = self.flights.front() {
            let is_final = match &flight.answer {
                Some(answer) => {
                    answer.follow_up.is_some()
                        || flight.probe.is_none()
                        || self.follows_up == Some(false)
                        || now >= answer.at + timeout
                }
                // A lost packet stays for a second timeout, so that a late answer is known as such.
                None => flight.is_lost && now >= flight.sent_at + 2 * timeout,
            };
            if !is_final {
                return Ok(());
            }
            let Some(flight) = self.flights.pop_front() else {
                return Ok(());
            };
            if self.reported.len() >= REPORTED {
                self.reported.pop_front();
            }
            let number = (flight.sequence, flight.written);
            self.reported.push_back((number, flight.probe));
            if let (Some(probe), Some(answer), false) =
                (flight.probe, flight.answer, flight.is_lost)
            {
                let answered = self.judge(probe, &flight, &answer);
                report(Report::Answered(answered))?;
            }
        }
        Ok(())
    }
}
