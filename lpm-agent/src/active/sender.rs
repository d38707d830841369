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
    ErrorEstimate, Format, Mac as _, Mode, SenderPacket, Timestamp,
    agent::{AgentInfo, StampSource},
    reply::{self, Reply},
    tlv::{HEADER, Writer, kind},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use super::{
    Stamps,
    clock::{self, Claim, DRIFT, SetWatch},
    mac::Key,
    offset::{ClockOffset, Delays},
    socket::{KeepStamping, Notice, Outgoing, Source, Stage, Stamp, StampedSocket},
    statistics,
};

/// Where packets are closer together than this, the next one fetches the time of sending.
const FETCH_ABOVE: Duration = Duration::from_millis(100);

/// Bytes of the TLVs that each packet has: Follow-Up Telemetry, Class of Service, and the agent's.
const TLVS: usize = (HEADER + 16) + (HEADER + 4) + (HEADER + 12);

/// Bytes of an HMAC TLV.
const HMAC_TLV: usize = HEADER + 16;

/// Packets whose further answers are known as duplicates after their report.
const REPORTED: usize = 1024;

/// Bytes of the longest packet.
pub const LONGEST: usize = 9216;

/// What is sent, and to whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The reflector.
    pub target: SocketAddr,
    /// The address to send from. None: the routing chooses.
    pub from: Option<IpAddr>,
    /// The interface to send by. None: the routing chooses.
    pub interface: Option<String>,
    /// How many probes. None: until the end is asked for.
    pub count: Option<u32>,
    /// Time between two probes.
    pub interval: Duration,
    /// Bytes of a packet behind the UDP header. Fewer than the packet needs become as many as it
    /// needs.
    pub size: usize,
    /// DSCP of the packets, and asked for of the answers: 6 bits.
    pub dscp: u8,
    /// Time after which a packet without an answer is lost.
    pub timeout: Duration,
    /// The session's number (SSID).
    pub session: u16,
    /// The session's key. With one, packets are authenticated.
    pub key: Option<Key>,
}

impl Plan {
    /// The mode of the packets.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.key {
            Some(_) => Mode::Authenticated,
            None => Mode::Unauthenticated,
        }
    }

    /// Bytes of a packet behind the UDP header.
    #[must_use]
    pub fn length(&self) -> usize {
        let hmac = if self.key.is_some() { HMAC_TLV } else { 0 };
        self.size.max(self.mode().base() + TLVS + hmac).min(LONGEST)
    }
}

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

    fn of(source: Source) -> Self {
        match source {
            Source::Hardware => Self::Hardware,
            Source::Kernel => Self::Kernel,
            Source::User => Self::User,
        }
    }

    fn of_agent(source: StampSource) -> Self {
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

/// A packet on its way.
#[derive(Debug)]
struct Flight {
    sequence: u32,
    /// The number on the socket.
    packet: u32,
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
    packet: u32,
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
            packet: 0,
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
            plan,
            _keep: KeepStamping::start()?,
        })
    }

    /// Answers that belong to no packet of this session: of others, forged, or damaged.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.foreign
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
        let packet = self.packet(written);
        let how = Outgoing {
            from: self.plan.from,
            traffic_class: self.plan.dscp << 2,
        };
        self.socket.send(&packet, self.plan.target, how)?;
        self.flights.push_back(Flight {
            sequence: self.sequence,
            packet: self.packet,
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
        self.packet = self.packet.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    /// Makes the next packet.
    fn packet(&self, written: Timestamp) -> Vec<u8> {
        let plan = &self.plan;
        let mode = plan.mode();
        let error = self.claim.error.and_then(|error| u64::try_from(error).ok());
        let head = SenderPacket {
            sequence: self.sequence,
            timestamp: written,
            error: ErrorEstimate::new(
                error.is_some(),
                Format::Ntp,
                error.unwrap_or(16_000_000_000),
            ),
            session: plan.session,
        };
        let mut bytes = vec![0; plan.length()];
        head.write(mode, &mut bytes);
        let mut writer = Writer::new(&mut bytes, mode.base());
        // The packet has room for these: Plan::length counts them.
        let _ = writer.push(kind::FOLLOW_UP_TELEMETRY, &[0; 16]);
        let _ = writer.push(kind::CLASS_OF_SERVICE, &[plan.dscp << 2, 0, 0, 0]);
        let _ = writer.push(kind::AGENT, &AgentInfo::question());
        let before_hmac = writer.length();
        if plan.key.is_some() {
            let _ = writer.push(kind::HMAC, &[0; 16]);
        }
        let _ = writer.pad(plan.length());
        let length = writer.length();
        bytes.truncate(length);
        if let Some(key) = &plan.key {
            sign(key, mode, before_hmac, &mut bytes);
        }
        bytes
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
            match notice {
                Notice::Sent {
                    packet,
                    stage: Stage::Sent,
                    stamp,
                } => {
                    let of_packet = |flight: &&mut Flight| flight.packet == packet;
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

    /// Makes of an answer what is known of the probe.
    fn judge(&mut self, probe: u32, flight: &Flight, answer: &Answer) -> Answered {
        let packet = &answer.reply.packet;
        let extensions = &answer.reply.extensions;
        let near = u64::try_from(answer.received.nanoseconds).unwrap_or(0);
        let read = |timestamp: Timestamp| {
            let nanoseconds = timestamp.to_unix(packet.error.format(), near)?;
            i64::try_from(nanoseconds).ok()
        };
        let agent = extensions.agent;
        let (sent_there, sent_source) = match answer.follow_up {
            Some((timestamp, source)) => (timestamp, source),
            None => (packet.timestamp, agent.map_or(At::Peer, |_| At::User)),
        };
        let is_set = self.was_set(flight, answer);
        let stamps = (|| {
            let stamps = Stamps {
                sent: flight.sent.nanoseconds,
                reflector_received: read(packet.receive)?,
                reflector_sent: read(sent_there)?,
                received: answer.received.nanoseconds,
            };
            stamps.round_trip()?;
            (!is_set).then_some(stamps)
        })();
        let delays = stamps.and_then(|stamps| {
            // A contradiction begins the window anew, and this packet is its first.
            let _ = self.offset.take([(flight.monotonic, stamps)]);
            self.offset.delays(flight.monotonic, &stamps)
        });
        Answered {
            probe,
            stamps,
            sources: Sources {
                sent: At::of(flight.sent.source),
                reflector_received: agent.map_or(At::Peer, |agent| At::of_agent(agent.receive)),
                reflector_sent: sent_source,
                received: At::of(answer.received.source),
            },
            delays,
            ttl: packet.ttl,
            dscp_forward: extensions.class.map(|class| class.dscp),
            dscp_backward: answer.class.map(|class| class >> 2),
        }
    }

    /// Whether a clock was set while the packet was on its way. Then the window begins anew.
    fn was_set(&mut self, flight: &Flight, answer: &Answer) -> bool {
        let mut is_set = flight.changes != answer.changes;
        if let Some(agent) = answer.reply.extensions.agent {
            let before = self.changes_there.replace(agent.clock_changes);
            is_set |= before.is_some_and(|before| before != agent.clock_changes);
        }
        if is_set {
            self.offset.restart();
        }
        is_set
    }
}

/// Writes the HMACs of a packet whose HMAC TLV begins at `at`.
fn sign(key: &Key, mode: Mode, at: usize, bytes: &mut [u8]) {
    let base = mode.base();
    let tag = match (bytes.get(..4), bytes.get(base..at)) {
        (Some(sequence), Some(covered)) => key.tag(&[sequence, covered]),
        _ => return,
    };
    if let Some(place) = bytes.get_mut(at + HEADER..at + HMAC_TLV) {
        place.copy_from_slice(&tag);
    }
    if let Some(covered) = mode.covered()
        && let Some((covered, rest)) = bytes.split_at_mut_checked(covered)
        && let Some(place) = rest.get_mut(..16)
    {
        place.copy_from_slice(&key.tag(&[covered]));
    }
}
