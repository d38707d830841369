//! Packets of a chosen length and TTL, and what comes back: answers, and what routers say.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use lpm_common::stamp::{Format, Mode, Timestamp, reply};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, TimestampingFlag, bind,
        sendto, setsockopt, socket, sockopt,
    },
};

use super::{Plan, Protocol};
use crate::active::{
    clock::{self, Claim},
    icmp::{
        packet::{self, Echo},
        socket::{EchoSocket, OpenError, options, stamping},
    },
    mac::Key,
    news::{self, About, News, Origin, set},
    plan,
    schedule::when::Rhythm,
    socket::{Source, Stamp},
};

/// Bytes of a UDP header and of an ICMP header.
const UDP: usize = 8;

/// Fewest bytes that a quoted STAMP packet must have, to know which one it is.
const NUMBER: usize = 4;

/// What came back, or what the kernel tells of a packet.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The target answered a packet.
    Answer {
        /// The packet's number, from 0.
        number: u32,
        /// When the answer arrived.
        arrived: Stamp,
    },
    /// The network or this machine says something of a packet.
    Error {
        /// The packet's number. None: the message quotes too little of it.
        number: Option<u32>,
        /// What it says.
        about: About,
        /// When it arrived.
        arrived: Stamp,
    },
    /// A device took a packet.
    Sent {
        /// The packet's number.
        number: u32,
        /// When.
        stamp: Stamp,
    },
}

#[derive(Debug)]
enum Kind {
    Udp { fd: OwnedFd, plan: Box<plan::Plan> },
    Echo { socket: EchoSocket, token: u64 },
}

/// A socket for such packets, which does not block. It sends a packet in one piece or not at all, and
/// does not care what the kernel knows of the path's MTU (`IP_PMTUDISC_PROBE`).
#[derive(Debug)]
pub struct PathSocket {
    kind: Kind,
    target: SocketAddr,
    /// The timestamps of the packets that were sent, by their numbers.
    written: Vec<Timestamp>,
    /// The number of the packet that the kernel counts as 0.
    counted_from: u32,
    buffer: Vec<u8>,
}

impl PathSocket {
    /// Opens a socket for a plan.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(plan: &Plan) -> Result<Self, OpenError> {
        let kind = match plan.protocol {
            Protocol::Icmp => Kind::Echo {
                socket: EchoSocket::open(plan.target.is_ipv6(), &plan.route)?,
                token: fastrand::u64(..),
            },
            Protocol::Stamp => Kind::Udp {
                fd: udp(plan)?,
                plan: Box::new(packets(plan)),
            },
        };
        let opened = Self {
            kind,
            target: plan.target,
            written: Vec::new(),
            counted_from: 0,
            buffer: vec![0; 65_536],
        };
        let probe = libc::IP_PMTUDISC_PROBE;
        if plan.target.is_ipv6() {
            set(&opened, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)?;
            set(&opened, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
        } else {
            set(&opened, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe)?;
        }
        Ok(opened)
    }

    /// Bytes of the shortest packet, the IP header included.
    #[must_use]
    pub fn shortest(&self) -> usize {
        self.headers()
            + match &self.kind {
                Kind::Udp { plan, .. } => plan::Plan {
                    size: 0,
                    ..(**plan).clone()
                }
                .length(),
                Kind::Echo { .. } => packet::SHORTEST,
            }
    }

    /// Bytes of the longest packet, the IP header included.
    #[must_use]
    pub fn longest(&self) -> usize {
        let data = match self.kind {
            Kind::Udp { .. } => plan::LONGEST,
            // The length of an IPv4 packet has 16 bits.
            Kind::Echo { .. } => packet::LONGEST,
        };
        self.headers() + data
    }

    fn headers(&self) -> usize {
        UDP + if self.target.is_ipv6() { 40 } else { 20 }
    }

    /// Sets the TTL or hop limit of the packets that follow.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn set_ttl(&self, ttl: u8) -> Result<(), Errno> {
        let ttl = i32::from(ttl);
        if self.target.is_ipv6() {
            set(self, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, ttl)
        } else {
            set(self, libc::IPPROTO_IP, libc::IP_TTL, ttl)
        }
    }

    /// Sends a packet of so many bytes, the IP header included. Returns its number, and a time before
    /// it left.
    ///
    /// # Errors
    /// The socket failed. The inner error: this machine did not send it.
    pub fn send(&mut self, size: usize) -> Result<Result<(u32, Stamp), Errno>, Errno> {
        let number = u32::try_from(self.written.len()).unwrap_or(u32::MAX);
        let real = clock::real();
        let written = Timestamp::from_unix(u64::try_from(real).unwrap_or(0), Format::Ntp);
        let data = size.saturating_sub(self.headers());
        let bytes = match &self.kind {
            Kind::Udp { plan, .. } => plan::Plan {
                size: data,
                ..(**plan).clone()
            }
            .packet(number, written, Claim::default()),
            Kind::Echo { socket, token } => Echo {
                id: socket.id(),
                token: *token,
                probe: number,
            }
            .request(self.target.is_ipv6(), data),
        };
        self.written.push(written);
        let to = SockaddrStorage::from(self.target);
        let fd = self.as_fd().as_raw_fd();
        let mut refused = Errno::EIO;
        // The kernel gives the errors of earlier packets to later calls, each once. What it says of this
        // packet it says again.
        for _ in 0..3 {
            match sendto(fd, &bytes, &to, MsgFlags::empty()) {
                Ok(_) => {
                    let (nanoseconds, source) = (real, Source::User);
                    return Ok(Ok((
                        number,
                        Stamp {
                            nanoseconds,
                            source,
                        },
                    )));
                }
                Err(error) => refused = error,
            }
        }
        self.restart_numbers()?;
        Ok(Err(refused))
    }

    /// Begins to count at 0 again, from the next packet on.
    fn restart_numbers(&mut self) -> Result<(), Errno> {
        let without = stamping() - TimestampingFlag::SOF_TIMESTAMPING_OPT_ID;
        setsockopt(&self.as_fd(), sockopt::Timestamping, &without)?;
        setsockopt(&self.as_fd(), sockopt::Timestamping, &stamping())?;
        self.counted_from = u32::try_from(self.written.len()).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Takes the next that came back, times of sending first. None: there is nothing more.
    ///
    /// # Errors
    /// The socket failed.
    pub fn take(&mut self) -> Result<Option<Event>, Errno> {
        loop {
            let queue = MsgFlags::MSG_ERRQUEUE;
            let fd = match &self.kind {
                Kind::Udp { fd, .. } => fd.as_fd(),
                Kind::Echo { socket, .. } => socket.as_fd(),
            };
            let mut news = news::next(fd, &mut self.buffer, queue)?;
            if news.is_none() {
                news = match news::next(fd, &mut self.buffer, MsgFlags::empty()) {
                    Ok(news) => news,
                    // The error queue tells more of it, at the next look.
                    Err(Errno::EBADF | Errno::ENOMEM) => return Err(Errno::EIO),
                    Err(_) => continue,
                };
            }
            let Some(news) = news else { return Ok(None) };
            if let Some(event) = self.event(&news) {
                return Ok(Some(event));
            }
        }
    }

    /// Reads what came. None: it is of no use, or none of ours.
    fn event(&self, news: &News) -> Option<Event> {
        let bytes = self.buffer.get(..news.length)?;
        let arrived = news.stamp.unwrap_or_else(|| Stamp {
            nanoseconds: clock::real(),
            source: Source::User,
        });
        let Some(about) = news.about else {
            let number = self.answered(bytes, news.from?)?;
            return Some(Event::Answer { number, arrived });
        };
        if about.origin == Origin::Stamp {
            return Some(Event::Sent {
                number: self.counted_from.checked_add(about.packet)?,
                stamp: news.stamp?,
            });
        }
        let number = match &self.kind {
            Kind::Udp { .. } => bytes
                .first_chunk::<NUMBER>()
                .map(|n| u32::from_be_bytes(*n)),
            Kind::Echo { socket, .. } => {
                let quoted = packet::quoted(bytes, self.target.is_ipv6());
                // A raw socket hears of the requests of other programs.
                if socket.is_raw() && quoted.is_none_or(|(id, _)| id != socket.id()) {
                    return None;
                }
                quoted.map(|(_, sequence)| u32::from(sequence))
            }
        };
        let is_known =
            |number: &u32| usize::try_from(*number).is_ok_and(|n| n < self.written.len());
        Some(Event::Error {
            number: number.filter(is_known),
            about,
            arrived,
        })
    }

    /// The number of the packet that is answered. None: it is no answer to one of this socket.
    fn answered(&self, bytes: &[u8], from: SocketAddr) -> Option<u32> {
        if from.ip().to_canonical() != self.target.ip().to_canonical() {
            return None;
        }
        let number = match &self.kind {
            Kind::Udp { plan, .. } => {
                let reply = reply::read::<Key>(bytes, Mode::Unauthenticated, None).ok()?;
                let packet = &reply.packet;
                let at = usize::try_from(packet.sender_sequence).ok()?;
                let is_ours = from.port() == self.target.port()
                    && (packet.session == plan.session || packet.session == 0)
                    && self.written.get(at) == Some(&packet.sender_timestamp);
                is_ours.then_some(packet.sender_sequence)?
            }
            Kind::Echo { socket, token } => {
                let echo = socket.read(bytes)?;
                (echo.token == *token).then_some(echo.probe)?
            }
        };
        let is_known = usize::try_from(number).is_ok_and(|at| at < self.written.len());
        is_known.then_some(number)
    }
}

impl AsFd for PathSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Udp { fd, .. } => fd.as_fd(),
            Kind::Echo { socket, .. } => socket.as_fd(),
        }
    }
}

fn udp(plan: &Plan) -> Result<OwnedFd, Errno> {
    let is_v6 = plan.target.is_ipv6();
    let family = if is_v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Datagram, flags, None)?;
    options(&fd, is_v6, plan.route.dscp)?;
    if let Some(interface) = &plan.route.interface {
        setsockopt(&fd, sockopt::BindToDevice, &interface.into())?;
    }
    let any: IpAddr = if is_v6 {
        [0_u16; 8].into()
    } else {
        [0, 0, 0, 0].into()
    };
    let from = SocketAddr::new(plan.route.from.unwrap_or(any), 0);
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    Ok(fd)
}

/// The plan of a session's STAMP packets.
fn packets(plan: &Plan) -> plan::Plan {
    plan::Plan {
        target: plan.target,
        from: None,
        interface: None,
        ports: None,
        count: None,
        interval: Duration::ZERO,
        rhythm: Rhythm::Even,
        train: plan::Train::SINGLE,
        size: 0,
        dscp: plan.route.dscp,
        ecn: 0,
        timeout: plan.timeout,
        session: fastrand::u16(1..),
        key: None,
    }
}

/// An error of a socket as a reader of `io::Result` takes it.
pub(super) fn failed(error: OpenError) -> io::Error {
    io::Error::other(error)
}
