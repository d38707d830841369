//! A Session-Reflector (RFC 8762 section 4.3) on one socket: it answers, and tells with each answer
//! when the kernel sent the one before.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::Instant,
};

use ipnet::IpNet;
use lpm_common::stamp::{
    ErrorEstimate, Format, Mode, SenderPacket, Timestamp,
    agent::{AgentInfo, StampSource},
    reflect::{Facts, FollowUp, Refusal, Stamping, method, reflect},
    session_number,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    clock::{self, Claim, DRIFT, SetWatch},
    fate::{Counts, Fate},
    mac::Key,
    rate::Rates,
    sessions::{SessionKey, Sessions},
    socket::{KeepStamping, Notice, Outgoing, Received, Source, Stage, Stamp, StampedSocket},
};

/// Bytes of the longest packet that is answered: what fits an Ethernet jumbo frame.
const LONGEST: usize = 9216;

/// Answers whose time of sending is still awaited.
const AWAITED: usize = 1024;

/// Packets that are answered before the error queue is read and the end is looked for.
const BATCH: usize = 32;

/// Synchronization source of a clock that nobody synchronizes, and of one by NTP or something else
/// that adjtimex(2) does not tell apart (RFC 8972 section 5.4).
const LOCAL: u8 = 5;
const NTP: u8 = 1;

/// How a reflector answers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The clients that get answers.
    pub allow: Vec<IpNet>,
    /// Answers per second and client.
    pub rate: u32,
    /// Keys by session number. With any, packets are authenticated, and other sessions get no
    /// answer.
    pub keys: HashMap<u16, Key>,
}

/// An answer whose time of sending is awaited.
#[derive(Debug)]
struct Awaited {
    /// The packet's number on the socket.
    packet: u32,
    session: SessionKey,
    sequence: u32,
}

/// A reflector.
#[derive(Debug)]
pub struct Reflector {
    socket: StampedSocket,
    settings: Settings,
    sessions: Sessions,
    rates: Rates,
    awaited: VecDeque<Awaited>,
    /// The number on the socket of the next packet that is sent.
    packet: u32,
    clock: SetWatch,
    claim: Claim,
    claimed: Instant,
    source_of_previous: StampSource,
    _keep: KeepStamping,
}

impl Reflector {
    /// Binds an address. `shares` lets several reflectors of this process share it.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn bind(address: SocketAddr, shares: bool, settings: Settings) -> io::Result<Self> {
        Ok(Self {
            socket: StampedSocket::bind(address, shares)?,
            sessions: Sessions::default(),
            rates: Rates::new(settings.rate),
            settings,
            awaited: VecDeque::new(),
            packet: 0,
            clock: SetWatch::start()?,
            claim: Claim::ask(),
            claimed: Instant::now(),
            source_of_previous: StampSource::None,
            _keep: KeepStamping::start()?,
        })
    }

    /// The address that the reflector answers at.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.address()
    }

    /// Answers until `end` becomes readable.
    ///
    /// # Errors
    /// The socket failed.
    pub fn serve(&mut self, counts: &Counts, end: &impl AsFd) -> io::Result<()> {
        let mut buffers = Buffers::default();
        loop {
            let mut fds = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(end.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            if fds[1].any() == Some(true) {
                return Ok(());
            }
            self.work(counts, &mut buffers)?;
        }
    }

    /// Answers the packets that have arrived, at most [`BATCH`], and reads the times of sending.
    fn work(&mut self, counts: &Counts, buffers: &mut Buffers) -> io::Result<()> {
        let now = Instant::now();
        if now.duration_since(self.claimed).as_secs() >= 1 {
            (self.claim, self.claimed) = (Claim::ask(), now);
        }
        for _ in 0..BATCH {
            let received = match self.socket.receive(&mut buffers.request) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                // An ICMP error about an earlier answer.
                Err(error) if is_about_a_peer(&error) => continue,
                Err(error) => return Err(error),
            };
            let fate = self.answer(&received, buffers, counts, now);
            counts.add(fate);
            self.take_notices()?;
        }
        self.take_notices()
    }

    fn answer(
        &mut self,
        received: &Received,
        buffers: &mut Buffers,
        counts: &Counts,
        now: Instant,
    ) -> Fate {
        if let Err(fate) = self.admit(received, now) {
            return fate;
        }
        let arrived = received.stamp.unwrap_or_else(|| {
            counts.add(Fate::NoReceiveTime);
            Stamp {
                nanoseconds: clock::real(),
                source: Source::User,
            }
        });
        let Some(request) = buffers.request.get(..received.length) else {
            return Fate::Long;
        };
        let mode = if self.settings.keys.is_empty() {
            Mode::Unauthenticated
        } else {
            Mode::Authenticated
        };
        let Some(sender) = SenderPacket::read(request, mode) else {
            return Fate::Short;
        };
        let session = SessionKey {
            sender: received.from,
            reflector: received.to,
            session: session_number(request, mode).unwrap_or_default(),
        };
        let state = self.sessions.get(&session);
        let (sequence, previous) = state.map_or((0, None), |state| (state.next, state.previous));
        let facts = self.facts(received, arrived, sequence, previous);
        let key = self.settings.keys.get(&sender.session);
        let reflected = match reflect(request, mode, key, &facts, &mut buffers.answer) {
            Ok(reflected) => reflected,
            Err(Refusal::Short) => return Fate::Short,
            Err(Refusal::Long) => return Fate::Long,
            Err(Refusal::NoKey | Refusal::Forged) => return Fate::Forged,
        };
        // Only a packet that is valid begins a session.
        let Some(state) = self.sessions.of(session, now) else {
            return Fate::Crowded;
        };
        if mode == Mode::Authenticated && !state.is_new(sender.sequence) {
            return Fate::Replayed;
        }
        if reflected.is_malformed {
            counts.add(Fate::Malformed);
        }
        if reflected.is_doubtful {
            counts.add(Fate::Doubtful);
        }
        state.next = state.next.wrapping_add(1);
        let how = Outgoing {
            from: received.to.filter(|to| !to.is_multicast()),
            traffic_class: reflected.dscp << 2,
        };
        let answer = buffers.answer.get(..reflected.length).unwrap_or_default();
        if self.socket.send(answer, received.from, how).is_err() {
            return Fate::NotSent;
        }
        self.await_time(session, sequence);
        Fate::Answered
    }

    /// Whether the sender of a packet may have an answer. The error says why not.
    fn admit(&mut self, received: &Received, now: Instant) -> Result<(), Fate> {
        let client = received.from.ip().to_canonical();
        if !self.settings.allow.iter().any(|net| net.contains(&client)) {
            return Err(Fate::NotAllowed);
        }
        if !self.rates.admit(client, now) {
            return Err(Fate::Rate);
        }
        if received.is_cut {
            return Err(Fate::Long);
        }
        Ok(())
    }

    /// Awaits the time of sending of the answer that was sent last.
    fn await_time(&mut self, session: SessionKey, sequence: u32) {
        if self.awaited.len() >= AWAITED {
            self.awaited.pop_front();
        }
        self.awaited.push_back(Awaited {
            packet: self.packet,
            session,
            sequence,
        });
        self.packet = self.packet.wrapping_add(1);
    }

    fn facts(
        &mut self,
        received: &Received,
        arrived: Stamp,
        sequence: u32,
        previous: Option<FollowUp>,
    ) -> Facts {
        let timestamp = |nanoseconds: i64| {
            Timestamp::from_unix(u64::try_from(nanoseconds).unwrap_or(0), Format::Ntp)
        };
        let error = self.claim.error.and_then(|error| u64::try_from(error).ok());
        let source = if error.is_some() { NTP } else { LOCAL };
        let class = received.traffic_class.unwrap_or(0);
        let here = received.to.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        Facts {
            receive: timestamp(arrived.nanoseconds),
            send: timestamp(clock::real()),
            error: ErrorEstimate::new(
                error.is_some(),
                Format::Ntp,
                error.unwrap_or(16_000_000_000),
            ),
            stamping: Stamping {
                source_in: source,
                method_in: method_of(arrived.source),
                source_out: source,
                method_out: method::CONTROL_PLANE,
            },
            ttl: received.ttl.unwrap_or(0),
            dscp: class >> 2,
            ecn: class & 3,
            source: SocketAddr::new(received.from.ip().to_canonical(), received.from.port()),
            destination: SocketAddr::new(here, self.socket.address().map_or(0, |at| at.port())),
            sequence: Some(sequence),
            previous,
            counters: [0; 2],
            agent: AgentInfo {
                receive: source_of(arrived.source),
                previous: previous.map_or(StampSource::None, |_| self.source_of_previous),
                clock_changes: self.clock.changes(),
                drift: DRIFT,
            },
            permitted: u64::MAX,
        }
    }

    /// Reads the times of sending. The last answer's time goes with the session's next answer.
    fn take_notices(&mut self) -> io::Result<()> {
        while let Some(notice) = self.socket.notice()? {
            let Notice::Sent {
                packet,
                stage: Stage::Sent,
                stamp,
            } = notice
            else {
                continue;
            };
            // Answers before this one have no time: theirs would have come first.
            while let Some(awaited) = self.awaited.front() {
                let ahead = awaited.packet.wrapping_sub(packet);
                if ahead != 0 && ahead < u32::MAX / 2 {
                    break;
                }
                let Some(awaited) = self.awaited.pop_front() else {
                    break;
                };
                if ahead == 0
                    && let Some(session) = self.sessions.get(&awaited.session)
                {
                    self.source_of_previous = source_of(stamp.source);
                    session.previous = Some(FollowUp {
                        sequence: awaited.sequence,
                        timestamp: Timestamp::from_unix(
                            u64::try_from(stamp.nanoseconds).unwrap_or(0),
                            Format::Ntp,
                        ),
                        method: method_of(stamp.source),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Memory for a packet and its answer.
#[derive(Debug)]
struct Buffers {
    request: Box<[u8]>,
    answer: Box<[u8]>,
}

impl Default for Buffers {
    fn default() -> Self {
        let buffer = || vec![0; LONGEST].into_boxed_slice();
        Self {
            request: buffer(),
            answer: buffer(),
        }
    }
}

/// Whether an error is of a peer that cannot be reached, and not of the socket.
fn is_about_a_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied};
    let kinds = [
        ConnectionRefused,
        HostUnreachable,
        NetworkUnreachable,
        PermissionDenied,
    ];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(libc::EMSGSIZE)
}

fn method_of(source: Source) -> u8 {
    match source {
        Source::Hardware => method::HARDWARE,
        Source::Kernel => method::SOFTWARE,
        Source::User => method::CONTROL_PLANE,
    }
}

fn source_of(source: Source) -> StampSource {
    match source {
        Source::Hardware => StampSource::Hardware,
        Source::Kernel => StampSource::Kernel,
        Source::User => StampSource::User,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use lpm_common::stamp::{Mode, ReflectorPacket};

    use super::*;
    use crate::active::sessions::MOST;

    /// A session that finds no place gets no answer: a copied number would look like a count.
    #[test]
    fn a_session_too_many_gets_no_answer_and_is_counted() {
        let settings = Settings {
            allow: vec!["127.0.0.0/8".parse().expect("a range")],
            rate: 1_000_000,
            keys: HashMap::new(),
        };
        let address = "127.0.0.1:0".parse().expect("an address");
        let mut reflector = Reflector::bind(address, false, settings).expect("a reflector");
        let client = UdpSocket::bind(address).expect("a socket");
        client
            .connect(reflector.address().expect("an address"))
            .expect("connect");
        client.set_nonblocking(true).expect("it does not block");
        let (counts, mut buffers) = (Counts::default(), Buffers::default());
        let mut ask = |session: u16| {
            let mut packet = [0; 44];
            let sender = SenderPacket {
                sequence: 7,
                timestamp: Timestamp(1),
                error: ErrorEstimate(1),
                session,
            };
            sender.write(Mode::Unauthenticated, &mut packet);
            client.send(&packet).expect("sent");
            // On the loopback device it has arrived by then.
            reflector.work(&counts, &mut buffers).expect("a socket");
            let length = client.recv(&mut packet).ok()?;
            let answer = ReflectorPacket::read(&packet[..length], Mode::Unauthenticated)?;
            Some(answer.sequence)
        };
        let most = u16::try_from(MOST).expect("below 65,536");
        assert!((1..=most).all(|session| ask(session) == Some(0)));
        assert_eq!(ask(most + 1), None);
        assert_eq!(ask(1), Some(1), "a session that is there goes on");
        assert_eq!(counts.of(Fate::Crowded), 1);
        assert_eq!(counts.of(Fate::Answered), u64::from(most) + 1);
    }
}
