//! A Session-Reflector (RFC 8762 section 4.3) on one socket: it answers, and tells with each answer
//! when the kernel sent the one before.
//!
//! Packets are received, answered and sent in batches. The kernel chooses the socket of a packet by
//! both ends' addresses and ports (`SO_REUSEPORT`), so all packets of a session reach the same one,
//! and reflectors that share an address share no session.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{Arc, Mutex},
    time::Instant,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    allow::Allow,
    clock::{Claim, Clock, is_in_doubt},
    fate::Counts,
    mac::Key,
    rate::Rates,
    sessions::Sessions,
    socket::{BATCH, Errors, Inbox, KeepStamping, Outbox, StampedSocket},
};

mod answer;
mod follow_up;
#[cfg(test)]
mod tests;

use self::follow_up::Awaited;

/// Bytes of the longest packet that is answered: what fits an Ethernet jumbo frame.
const LONGEST: usize = 9216;

/// Full batches that are answered before the end is looked for.
const IN_A_ROW: usize = 64;

/// How a reflector answers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The clients that get answers.
    pub allow: Allow,
    /// Answers per second and client.
    pub rate: u32,
    /// Keys by session number. With any, packets are authenticated, and other sessions get no
    /// answer.
    pub keys: HashMap<u16, Key>,
}

/// A reflector.
#[derive(Debug)]
pub struct Reflector {
    socket: StampedSocket,
    /// The address that the socket is bound to.
    bound: SocketAddr,
    settings: Settings,
    sessions: Sessions,
    rates: Arc<Mutex<Rates>>,
    /// Answers that are in the outbox, in its order.
    waiting: Vec<follow_up::Waiting>,
    awaited: VecDeque<Awaited>,
    clock: Clock,
    /// The number of the clock, by the last look ([`Clock::changes`]).
    changes: u16,
    /// Whether packets may have waited while the last batch was answered.
    is_behind: bool,
    claim: Claim,
    claimed: Instant,
    _keep: KeepStamping,
}

impl Reflector {
    /// Binds an address. `shares` lets several reflectors of this process share it.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn bind(address: SocketAddr, shares: bool, settings: Settings) -> io::Result<Self> {
        Self::with_clock(address, shares, settings, Clock::start()?)
    }

    /// Binds an address, as [`Self::bind`] does; the times are those of a clock.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn with_clock(
        address: SocketAddr,
        shares: bool,
        settings: Settings,
        clock: Clock,
    ) -> io::Result<Self> {
        let rates = Arc::new(Mutex::new(Rates::new(settings.rate)));
        Self::open(address, shares, settings, rates, clock)
    }

    /// Binds an address by so many sockets, one for each thread that is to answer. A client has one
    /// rate at all of them.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn bind_several(
        address: SocketAddr,
        sockets: usize,
        settings: &Settings,
    ) -> io::Result<Vec<Self>> {
        let rates = Arc::new(Mutex::new(Rates::new(settings.rate)));
        let open = |address| {
            let rates = Arc::clone(&rates);
            let clock = Clock::start()?;
            Self::open(address, sockets > 1, settings.clone(), rates, clock)
        };
        let first = open(address)?;
        // Port 0 is a port of the kernel's choice, and must be the same for all.
        let bound = first.bound;
        let mut all = vec![first];
        for _ in 1..sockets {
            all.push(open(bound)?);
        }
        Ok(all)
    }

    fn open(
        address: SocketAddr,
        shares: bool,
        settings: Settings,
        rates: Arc<Mutex<Rates>>,
        clock: Clock,
    ) -> io::Result<Self> {
        let socket = StampedSocket::bind_reflector(address, shares)?;
        Ok(Self {
            bound: socket.address()?,
            socket,
            sessions: Sessions::default(),
            rates,
            settings,
            waiting: Vec::new(),
            awaited: VecDeque::new(),
            changes: 0,
            is_behind: false,
            claim: clock.claim(),
            clock,
            claimed: Instant::now(),
            _keep: KeepStamping::start()?,
        })
    }

    /// The address that the reflector answers at.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        Ok(self.bound)
    }

    /// Answers until `end` becomes readable.
    ///
    /// # Errors
    /// The socket failed.
    pub fn serve(&mut self, counts: &Counts, end: &impl AsFd) -> io::Result<()> {
        let mut boxes = Boxes::default();
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
            let has_news = fds[0]
                .revents()
                .is_some_and(|revents| revents.contains(PollFlags::POLLERR));
            if has_news {
                self.take_notices(counts, &mut boxes.errors)?;
            }
            for _ in 0..IN_A_ROW {
                if self.work(counts, &mut boxes)? < BATCH {
                    break;
                }
            }
        }
    }

    /// Looks at the clock while a batch is answered: times of sending are newer than the last look.
    /// What this look sees may be newer than packets that wait behind the batch: they are in doubt.
    fn look_within_a_batch(&mut self) {
        let before = self.changes;
        self.changes = self.clock.changes_while_packets_wait();
        self.is_behind |= is_in_doubt(self.changes) && self.changes != before;
    }

    /// Answers the packets that have arrived, one batch at most. Returns their number.
    fn work(&mut self, counts: &Counts, boxes: &mut Boxes) -> io::Result<usize> {
        let received = match self.socket.receive_all(&mut boxes.inbox) {
            Ok(0) => return Ok(0),
            Ok(received) => received,
            Err(error) if is_about_a_peer(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        if now.duration_since(self.claimed).as_secs() >= 1 {
            (self.claim, self.claimed) = (self.clock.claim(), now);
        }
        let before = self.changes;
        // A full batch has left packets that may have come before what this look sees.
        self.changes = if self.is_behind {
            self.clock.changes_while_packets_wait()
        } else {
            self.clock.changes()
        };
        // So have those that came between taking this batch and this look.
        let is_news = is_in_doubt(self.changes) && self.changes != before;
        self.is_behind = received >= BATCH || is_news;
        let Boxes {
            inbox,
            outbox,
            errors,
        } = boxes;
        for at in 0..received {
            let Some((packet, bytes)) = inbox.packet(at) else {
                continue;
            };
            let answered = self
                .admit(&packet, now)
                .and_then(|()| self.answer(&packet, bytes, outbox, counts, now));
            match answered {
                Ok(()) => {}
                // The answer to the session's packet before must be sent first, so that this one
                // can tell its time.
                Err(answer::Refused::NotYet) => {
                    self.send(counts, outbox);
                    self.take_notices(counts, errors)?;
                    self.look_within_a_batch();
                    let again = self.answer(&packet, bytes, outbox, counts, now);
                    if let Err(answer::Refused::As(fate)) = again {
                        counts.add(fate);
                    }
                }
                Err(answer::Refused::As(fate)) => counts.add(fate),
            }
        }
        self.send(counts, outbox);
        if !self.awaited.is_empty() {
            self.take_notices(counts, errors)?;
        }
        Ok(received)
    }
}

/// Memory for the packets of a batch, their answers, and the news of the error queue.
#[derive(Debug)]
struct Boxes {
    inbox: Inbox,
    outbox: Outbox,
    errors: Errors,
}

impl Default for Boxes {
    fn default() -> Self {
        Self {
            inbox: Inbox::new(LONGEST),
            outbox: Outbox::new(LONGEST),
            errors: Errors::default(),
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
