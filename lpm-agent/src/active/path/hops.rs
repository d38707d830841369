//! The routers on the way to a target, by packets whose TTL or hop limit ends on the way
//! (traceroute(8)).
//!
//! A router's time has its own part in it: many answer such packets slowly, or only a few of them.

use std::{
    io,
    net::IpAddr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    Plan,
    socket::{Event, PathSocket, failed},
};
use crate::active::{
    clock::{self, Clock},
    news::{self, About, Origin},
    report::At,
    socket::{KeepStamping, Stamp},
};

/// Time between two packets of one TTL.
const SPACING: Duration = Duration::from_millis(20);

/// What is asked of each hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Questions {
    /// Packets of each TTL.
    pub packets: u32,
    /// Bytes of a packet, the IP header included. Fewer than it needs become as many as it needs.
    pub size: usize,
    /// The last TTL.
    pub most: u8,
}

/// How a packet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A router let it expire.
    Expired,
    /// The target has it: it answered, or its port is closed.
    Reached,
    /// Somebody refused it.
    Refused(Errno),
}

/// What came back of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Who sent it. None: this machine.
    pub by: Option<IpAddr>,
    /// How the packet ended.
    pub ending: Ending,
    /// T4 - T1, in nanoseconds, the answering machine's own part included. None: a clock was set
    /// meanwhile.
    pub round_trip: Option<i64>,
    /// Where T1 comes from.
    pub sent: At,
    /// Where T4 comes from.
    pub received: At,
}

/// What is known of a TTL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// TTL or hop limit of the packets.
    pub ttl: u8,
    /// Packets that were sent, or refused by this machine.
    pub sent: u32,
    /// What came back, in its order.
    pub echoes: Vec<Echo>,
}

impl Hop {
    /// Whether the target was reached.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        (self.echoes.iter()).any(|echo| echo.ending == Ending::Reached)
    }

    /// Whether all that came back refuses the packets: there is no way on.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let is_refusal = |echo: &Echo| matches!(echo.ending, Ending::Refused(_));
        !self.echoes.is_empty() && self.echoes.iter().all(is_refusal)
    }
}

/// A packet on its way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    number: u32,
    sent: Stamp,
    changes: u16,
    is_answered: bool,
}

/// A walker along a path.
#[derive(Debug)]
pub struct Walker {
    socket: PathSocket,
    questions: Questions,
    target: IpAddr,
    timeout: Duration,
    flights: Vec<Flight>,
    clock: Clock,
    unmatched: u64,
    _keep: KeepStamping,
}

impl Walker {
    /// Opens a socket for a plan.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(plan: &Plan, questions: Questions) -> io::Result<Self> {
        let socket = PathSocket::open(plan).map_err(failed)?;
        let size = questions.size.clamp(socket.shortest(), socket.longest());
        Ok(Self {
            socket,
            questions: Questions { size, ..questions },
            target: plan.target.ip(),
            timeout: plan.timeout,
            flights: Vec::new(),
            clock: Clock::start()?,
            unmatched: 0,
            _keep: KeepStamping::start()?,
        })
    }

    /// Bytes of a packet, the IP header included.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.questions.size
    }

    /// Messages of routers that quote too little to know which packet they are about.
    #[must_use]
    pub const fn unmatched(&self) -> u64 {
        self.unmatched
    }

    /// Walks until the target is reached, somebody refuses the packets, or `end` becomes readable.
    ///
    /// # Errors
    /// The socket failed, or `report` did.
    pub fn run(
        &mut self,
        end: &impl AsFd,
        mut report: impl FnMut(&Hop) -> io::Result<()>,
    ) -> io::Result<()> {
        for ttl in 1..=self.questions.most {
            self.socket.set_ttl(ttl)?;
            let Some(hop) = self.ask(ttl, end)? else {
                return Ok(());
            };
            report(&hop)?;
            if hop.is_reached() || hop.is_refused() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends the packets of a TTL. None: the end was asked for.
    fn ask(&mut self, ttl: u8, end: &impl AsFd) -> io::Result<Option<Hop>> {
        let mut hop = Hop {
            ttl,
            sent: 0,
            echoes: Vec::new(),
        };
        let first = self.flights.len();
        for _ in 0..self.questions.packets {
            let changes = self.clock.changes();
            hop.sent += 1;
            match self.socket.send(self.questions.size)? {
                Ok((number, sent)) => self.flights.push(Flight {
                    number,
                    sent,
                    changes,
                    is_answered: false,
                }),
                Err(error) => hop.echoes.push(Echo {
                    by: None,
                    ending: Ending::Refused(error),
                    round_trip: None,
                    sent: At::User,
                    received: At::User,
                }),
            }
            if self.listen(first, SPACING, &mut hop, end)? {
                return Ok(None);
            }
        }
        let until = Instant::now() + self.timeout;
        while self.is_waiting(first) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if self.listen(first, left, &mut hop, end)? {
                return Ok(None);
            }
        }
        Ok(Some(hop))
    }

    /// Whether a packet of this TTL is not answered yet.
    fn is_waiting(&self, first: usize) -> bool {
        let of_ttl = self.flights.get(first..).unwrap_or_default();
        of_ttl.iter().any(|flight| !flight.is_answered)
    }

    /// Listens for so long, or until all packets of this TTL are answered. True: the end was asked for.
    fn listen(
        &mut self,
        first: usize,
        wait: Duration,
        hop: &mut Hop,
        end: &impl AsFd,
    ) -> io::Result<bool> {
        let until = Instant::now() + wait;
        loop {
            self.hear(first, hop)?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.is_waiting(first) {
                return Ok(false);
            }
            if news::wait(&[self.socket.as_fd()], end, left)? {
                return Ok(true);
            }
        }
    }

    fn hear(&mut self, first: usize, hop: &mut Hop) -> Result<(), Errno> {
        while let Some(event) = self.socket.take()? {
            match event {
                Event::Sent { number, stamp } => {
                    let of = |flight: &&mut Flight| flight.number == number;
                    // No packet leaves before it was made.
                    if let Some(flight) = self.flights.iter_mut().find(of)
                        && stamp.nanoseconds >= flight.sent.nanoseconds
                    {
                        flight.sent = stamp;
                    }
                }
                Event::Answer { number, arrived } => {
                    let (by, ending) = (Some(self.target), Ending::Reached);
                    self.take(Some(number), first, arrived, by, ending, hop);
                }
                // This machine's own refusal is told by the call that sends.
                Event::Error { about, .. } if about.origin == Origin::Local => {}
                Event::Error {
                    number,
                    about,
                    arrived,
                } => {
                    let ending = ending(&about, self.target);
                    self.take(number, first, arrived, about.by, ending, hop);
                }
            }
        }
        Ok(())
    }

    /// Takes what came back of a packet. What is of an earlier TTL came too late, and counts for nothing.
    fn take(
        &mut self,
        number: Option<u32>,
        first: usize,
        arrived: Stamp,
        by: Option<IpAddr>,
        ending: Ending,
        hop: &mut Hop,
    ) {
        let changes = self.clock.changes();
        let at = match number {
            Some(number) => self
                .flights
                .iter()
                .position(|flight| flight.number == number),
            None => self.only_waiting(),
        };
        let Some(at) = at else {
            self.unmatched += 1;
            return;
        };
        let Some(flight) = self
            .flights
            .get_mut(at)
            .filter(|flight| !flight.is_answered)
        else {
            return;
        };
        flight.is_answered = true;
        if at < first {
            return;
        }
        let is_set = flight.changes != changes || clock::is_in_doubt(changes);
        let whole = arrived.nanoseconds.checked_sub(flight.sent.nanoseconds);
        hop.echoes.push(Echo {
            by,
            ending,
            round_trip: whole.filter(|whole| *whole >= 0 && !is_set),
            sent: At::of(flight.sent.source),
            received: At::of(arrived.source),
        });
    }

    /// The one packet of all that is not answered. None: there are several, or none.
    fn only_waiting(&self) -> Option<usize> {
        let mut waiting = (0..)
            .zip(&self.flights)
            .filter(|(_, flight)| !flight.is_answered);
        let (at, _) = waiting.next()?;
        waiting.next().is_none().then_some(at)
    }
}

/// How the packet ended that an ICMP error is about.
fn ending(about: &About, target: IpAddr) -> Ending {
    // Time exceeded (RFC 792, RFC 4443 section 3.3), on the way and not of a reassembly.
    let is_v6 = target.is_ipv6();
    let expired = if is_v6 { 3 } else { 11 };
    if about.kind == expired && about.code == 0 {
        return Ending::Expired;
    }
    // Port unreachable, by the target itself: the packet has arrived.
    let closed = if is_v6 { (1, 4) } else { (3, 3) };
    if (about.kind, about.code) == closed && about.by == Some(target.to_canonical()) {
        return Ending::Reached;
    }
    Ending::Refused(about.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_packet_ended_is_read_from_the_message() {
        let target = IpAddr::from([198, 18, 3, 2]);
        let of = |kind, code, by: [u8; 4]| {
            let about = About {
                origin: Origin::Icmp,
                error: Errno::EHOSTUNREACH,
                kind,
                code,
                mtu: 0,
                packet: 0,
                by: Some(by.into()),
            };
            ending(&about, target)
        };
        let refused = Ending::Refused(Errno::EHOSTUNREACH);
        assert_eq!(of(11, 0, [198, 18, 1, 1]), Ending::Expired);
        assert_eq!(of(11, 1, [198, 18, 3, 2]), refused, "a reassembly");
        assert_eq!(of(3, 3, [198, 18, 3, 2]), Ending::Reached);
        assert_eq!(of(3, 3, [198, 18, 1, 1]), refused, "a firewall on the way");
        assert_eq!(of(3, 13, [198, 18, 1, 1]), refused);
    }
}
