//! Path MTU discovery: the longest packet that passes in one piece, and what stands against a longer
//! one (RFC 1191, RFC 8201, black holes as in RFC 8899 section 4.3).
//!
//! A lost packet may be too long, or just lost. So each length is sent several times, with short packets
//! between. Only if those are answered and none of the long ones is, the long ones vanish because of
//! their length. How many it takes follows from the loss of the short ones so far.

use std::{
    io,
    net::IpAddr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    Plan,
    search::{Limit, Search},
    socket::{Event, PathSocket, failed},
};
use crate::active::news::{self, About, Origin};

/// Short packets that are sent before the search begins.
const FIRST: u32 = 10;

/// Time between two packets of one length.
const SPACING: Duration = Duration::from_millis(20);

/// Fewest and most packets of a length of which none is answered.
const TRIES: std::ops::RangeInclusive<u32> = 3..=30;

/// How likely it may be that chance alone lost all packets of a length.
const CHANCE: f64 = 1e-6;

/// Longest wait for an answer behind the last packet of a length, beyond what short packets took.
const MARGIN: Duration = Duration::from_millis(500);

/// Times that a length is tried anew if short packets were lost, too.
const AGAIN: u32 = 3;

/// What became of a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the packet, the IP header included.
    pub size: usize,
    /// Packets of this length that were sent.
    pub sent: u32,
    /// Why it did not pass. None: it passed.
    pub limit: Option<Limit>,
}

/// What is known at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The path's MTU is known.
    Found {
        /// The path's MTU in bytes: the longest packet that passed.
        mtu: usize,
        /// Why a packet with a byte more does not pass. None: no longer packet can be sent.
        limit: Option<Limit>,
    },
    /// Not even short packets are answered.
    Silent {
        /// What was said of them, and by whom.
        refused: Option<(Errno, Option<IpAddr>)>,
    },
    /// So many packets of all lengths are lost that the search could not end.
    Unsteady {
        /// The longest packet that passed, in bytes.
        passed: usize,
        /// The length that could not be judged, in bytes.
        size: usize,
    },
    /// The end was asked for.
    Ended,
}

/// Short packets, which show that the path is alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Short {
    /// Packets that were answered, refused or lost. Those still on their way are not among them.
    pub sent: u32,
    /// Packets that were answered.
    pub answered: u32,
    /// The longest time until an answer.
    slowest: Duration,
}

impl Short {
    /// How many packets of a length must vanish before chance is ruled out: with the short packets' loss
    /// (by Laplace's rule of succession) all of them are lost by chance once in a million.
    fn tries(&self) -> u32 {
        let lost = f64::from(self.sent - self.answered);
        let chance_of_one = (lost + 1.0) / (f64::from(self.sent) + 2.0);
        let tries = CHANCE.ln() / chance_of_one.ln();
        (*TRIES.start()..*TRIES.end())
            .find(|count| f64::from(*count) >= tries)
            .unwrap_or(*TRIES.end())
    }
}

/// A packet on its way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u32,
    size: usize,
    at: Instant,
}

/// A finder of a path's MTU.
#[derive(Debug)]
pub struct Finder {
    socket: PathSocket,
    short: Short,
    timeout: Duration,
    /// The packets that nobody has answered.
    waiting: Vec<Sent>,
    /// What was said last of a short packet, and by whom.
    refused: Option<(Errno, Option<IpAddr>)>,
}

/// What is known of the packets of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Passed,
    Failed(Limit, Option<usize>),
}

impl Word {
    /// Reads what somebody says of a packet.
    fn of(about: &About) -> Self {
        let said = Some(about.mtu).filter(|mtu| *mtu != 0);
        match (about.error, about.by) {
            (Errno::EMSGSIZE, by) => {
                let limit = by.map_or(Limit::Interface, |by| Limit::Router { by, said });
                Self::Failed(limit, said.and_then(|said| usize::try_from(said).ok()))
            }
            (error, by) => Self::Failed(Limit::Refused { error, by }, None),
        }
    }
}

/// What listening brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Nothing that ends the wait.
    Nothing,
    /// It is known what becomes of the length.
    Word(Word),
    /// The end was asked for.
    End,
}

/// How the trial of a length ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    /// It is known what becomes of the length, after so many packets.
    Word(Word, u32),
    /// Short packets were lost, too.
    Unsteady,
    /// The end was asked for.
    Ended,
}

impl Finder {
    /// Opens a socket for a plan.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(plan: &Plan) -> io::Result<Self> {
        Ok(Self {
            socket: PathSocket::open(plan).map_err(failed)?,
            short: Short::default(),
            timeout: plan.timeout,
            waiting: Vec::new(),
            refused: None,
        })
    }

    /// The short packets so far.
    #[must_use]
    pub const fn short(&self) -> Short {
        self.short
    }

    /// Searches until the MTU is known, or `end` becomes readable.
    ///
    /// # Errors
    /// The socket failed, or `report` did.
    pub fn run(
        &mut self,
        end: &impl AsFd,
        mut report: impl FnMut(&Step) -> io::Result<()>,
    ) -> io::Result<Outcome> {
        let short = self.socket.shortest();
        for _ in 0..FIRST {
            if let Err(error) = self.send(short)? {
                self.refused = Some((error, None));
            }
            if self.listen(short, SPACING, end)? == Heard::End {
                return Ok(Outcome::Ended);
            }
        }
        if self.wait_for(short, self.timeout, end)? == Heard::End {
            return Ok(Outcome::Ended);
        }
        if self.short.answered == 0 {
            let refused = self.refused;
            return Ok(Outcome::Silent { refused });
        }
        let mut search = Search::new(short, self.socket.longest());
        while let Some(size) = search.next() {
            let (word, sent) = match self.try_size(size, end)? {
                Tried::Ended => return Ok(Outcome::Ended),
                Tried::Unsteady => {
                    let passed = search.passed();
                    return Ok(Outcome::Unsteady { passed, size });
                }
                Tried::Word(word, sent) => (word, sent),
            };
            let limit = match word {
                Word::Passed => {
                    search.pass(size);
                    None
                }
                Word::Failed(limit, named) => {
                    search.fail(size, limit, named);
                    Some(limit)
                }
            };
            report(&Step { size, sent, limit })?;
        }
        Ok(Outcome::Found {
            mtu: search.passed(),
            limit: search.failed().map(|(_, limit)| limit),
        })
    }

    /// Sends packets of a length until it is known what becomes of them.
    fn try_size(&mut self, size: usize, end: &impl AsFd) -> io::Result<Tried> {
        let short = self.socket.shortest();
        let mut sent = 0;
        for _ in 0..AGAIN {
            let before = self.short;
            for _ in 0..self.short.tries() {
                sent += 1;
                if let Err(error) = self.send(size)? {
                    // The error queue has the MTU of the interface.
                    let word = self.hear(size)?;
                    let by = None;
                    let word = word.unwrap_or(match error {
                        Errno::EMSGSIZE => Word::Failed(Limit::Interface, None),
                        error => Word::Failed(Limit::Refused { error, by }, None),
                    });
                    return Ok(Tried::Word(word, sent));
                }
                let _ = self.send(short)?;
                match self.listen(size, SPACING, end)? {
                    Heard::End => return Ok(Tried::Ended),
                    Heard::Word(word) => return Ok(Tried::Word(word, sent)),
                    Heard::Nothing => {}
                }
            }
            let wait = self.timeout.min(MARGIN + 4 * self.short.slowest);
            match self.wait_for(size, wait, end)? {
                Heard::End => return Ok(Tried::Ended),
                Heard::Word(word) => return Ok(Tried::Word(word, sent)),
                Heard::Nothing => {}
            }
            let answered = self.short.answered - before.answered;
            if 2 * answered > self.short.sent - before.sent {
                let word = Word::Failed(Limit::BlackHole, None);
                return Ok(Tried::Word(word, sent));
            }
        }
        Ok(Tried::Unsteady)
    }

    /// Sends a packet. The inner error: this machine refused it.
    fn send(&mut self, size: usize) -> Result<Result<(), Errno>, Errno> {
        let at = Instant::now();
        match self.socket.send(size)? {
            Ok((number, _)) => {
                self.waiting.push(Sent { number, size, at });
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Listens for so long, or until it is known what becomes of packets of a length. Of short packets
    /// all are counted, and none ends the wait.
    fn listen(&mut self, size: usize, wait: Duration, end: &impl AsFd) -> io::Result<Heard> {
        let until = Instant::now() + wait;
        loop {
            let word = self.hear(size)?;
            if let Some(word) = word.filter(|_| size != self.socket.shortest()) {
                return Ok(Heard::Word(word));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Heard::Nothing);
            }
            if news::wait(&[self.socket.as_fd()], end, left)? {
                return Ok(Heard::End);
            }
        }
    }

    /// Listens until no packet waits any more, at most for so long. A later answer counts for nothing.
    fn wait_for(&mut self, size: usize, wait: Duration, end: &impl AsFd) -> io::Result<Heard> {
        let until = Instant::now() + wait;
        while !self.waiting.is_empty() && Instant::now() < until {
            match self.listen(size, SPACING, end)? {
                Heard::Nothing => {}
                heard => return Ok(heard),
            }
        }
        let short = self.socket.shortest();
        let lost = self.waiting.drain(..).filter(|sent| sent.size == short);
        self.short.sent += u32::try_from(lost.count()).unwrap_or(u32::MAX);
        Ok(Heard::Nothing)
    }

    /// Takes what has come. Returns what is known of packets of a length by now.
    fn hear(&mut self, size: usize) -> Result<Option<Word>, Errno> {
        let short = self.socket.shortest();
        let mut word = None;
        while let Some(event) = self.socket.take()? {
            match event {
                Event::Answer { number, .. } => {
                    let Some(sent) = self.take(number) else {
                        continue;
                    };
                    if sent.size == short {
                        self.short.sent += 1;
                        self.short.answered += 1;
                        self.short.slowest = self.short.slowest.max(sent.at.elapsed());
                    }
                    if sent.size == size {
                        word = Some(Word::Passed);
                    }
                }
                Event::Error { number, about, .. } => {
                    let sent = number.and_then(|number| self.take(number));
                    if sent.is_some_and(|sent| sent.size == short) {
                        self.short.sent += 1;
                        self.refused = Some((about.error, about.by));
                    }
                    // This machine's own refusal quotes nothing, and is of the packet just tried.
                    let is_local = about.origin == Origin::Local;
                    if is_local || sent.is_some_and(|sent| sent.size == size) {
                        // An answer shows more than what somebody says.
                        word = word.or(Some(Word::of(&about)));
                    }
                }
                Event::Sent { .. } => {}
            }
        }
        Ok(word)
    }

    /// Takes a packet off those that nobody has answered.
    fn take(&mut self, number: u32) -> Option<Sent> {
        let at = self.waiting.iter().position(|sent| sent.number == number)?;
        Some(self.waiting.swap_remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_lost_the_more_packets_rule_out_chance() {
        let of = |sent, answered| {
            let slowest = Duration::ZERO;
            Short {
                sent,
                answered,
                slowest,
            }
            .tries()
        };
        assert_eq!(of(10, 10), 6);
        assert_eq!(of(200, 200), 3);
        assert_eq!(of(100, 90), 7);
        assert_eq!(of(100, 70), 12);
        assert_eq!(of(10, 1), 30);
    }
}
