//! A connection that is only begun: the kernel sends the SYN, and its TCP tells the round trip.
//!
//! The kernel takes no times at the device of a SYN (`tcp_tx_timestamp` of net/ipv4/tcp.c is for data).
//! `tcpi_rtt` of a connection that has just come about is the time from the SYN to the SYN-ACK in the
//! kernel's TCP (`tcp_rcv_synsent_state_process` of `net/ipv4/tcp_input.c`).

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{
        MsgFlags, SockFlag, SockType, SockaddrStorage, connect, getsockopt, setsockopt, socket,
        sockopt,
    },
};

use super::{
    Answer,
    raw::{family, way},
};
use crate::active::{
    icmp::socket::Route,
    news::{self, Origin, set},
};

/// An attempt to connect. Dropping it ends the connection by RST, or the attempt.
#[derive(Debug)]
pub struct Attempt {
    fd: OwnedFd,
    begun: Instant,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered.
    Answered {
        /// How.
        answer: Answer,
        /// The round trip.
        round_trip: Duration,
        /// Whether the kernel's TCP took it. Else it is by this program's own times.
        is_of_tcp: bool,
    },
    /// The kernel sent the SYN again: to which of them the answer is cannot be told.
    SentAgain,
    /// The network or this machine refused it.
    Refused {
        /// Why.
        error: Errno,
        /// Who said so. None: this machine itself.
        by: Option<IpAddr>,
    },
}

impl Attempt {
    /// Begins to connect.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn begin(target: SocketAddr, route: &Route) -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family(target), SockType::Stream, flags, None)?;
        let class = i32::from(route.dscp << 2);
        if target.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?;
            setsockopt(&fd, sockopt::Ipv6TClass, &class)?;
        } else {
            setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?;
            setsockopt(&fd, sockopt::Ipv4Tos, &class)?;
        }
        // The connection ends by RST at once, and nothing of it stays.
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&fd, sockopt::Linger, &linger)?;
        // One repetition is the fewest that the kernel knows.
        set(&fd, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 1)?;
        way(&fd, route)?;
        let begun = Instant::now();
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(target)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(Self { fd, begun }),
            Err(error) => Err(error),
        }
    }

    /// When it began.
    #[must_use]
    pub const fn begun(&self) -> Instant {
        self.begun
    }

    /// What became of it, once its descriptor is writable or has an error.
    ///
    /// # Errors
    /// The socket failed.
    pub fn outcome(&self) -> Result<Outcome, Errno> {
        let elapsed = self.begun.elapsed();
        let told = Told::ask(self.fd.as_fd())?;
        if told.sent_again {
            return Ok(Outcome::SentAgain);
        }
        // An ICMP error is in the error queue. Reading it takes the socket's error away.
        let mut quoted = [0; 64];
        while let Some(news) = news::next(self.fd.as_fd(), &mut quoted, MsgFlags::MSG_ERRQUEUE)? {
            let Some(about) = news.about else { break };
            if about.origin != Origin::Stamp {
                let (error, by) = (about.error, about.by);
                return Ok(Outcome::Refused { error, by });
            }
        }
        let error = getsockopt(&self.fd, sockopt::SocketError)?;
        let (answer, round_trip) = match Errno::from_raw(error) {
            // A target may end the connection before it is looked at here.
            _ if error == 0 || told.round_trip.is_some() => (Answer::SynAck, told.round_trip),
            Errno::ECONNREFUSED => (Answer::Reset, None),
            Errno::ETIMEDOUT => return Ok(Outcome::SentAgain),
            error => return Ok(Outcome::Refused { error, by: None }),
        };
        Ok(Outcome::Answered {
            answer,
            round_trip: round_trip.unwrap_or(elapsed),
            is_of_tcp: round_trip.is_some(),
        })
    }
}

impl AsFd for Attempt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the kernel's TCP tells of a connection (`tcp_info` of linux/tcp.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    sent_again: bool,
    round_trip: Option<Duration>,
}

/// Bytes of `tcp_info` up to the end of `tcpi_total_retrans`, which every kernel writes.
const TCP_INFO: usize = 104;

impl Told {
    fn ask(socket: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut bytes = [0_u8; TCP_INFO];
        let mut length = libc::socklen_t::try_from(bytes.len()).unwrap_or(0);
        // SAFETY: the pointer is to `length` bytes that outlive the call, and the kernel writes no
        // more than that.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                bytes.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        Errno::result(result)?;
        Ok(Self::read(&bytes))
    }

    fn read(bytes: &[u8; TCP_INFO]) -> Self {
        let word = |at: usize| {
            let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
            u32::from_ne_bytes(word.copied().unwrap_or_default())
        };
        // `tcpi_retransmits`, and `tcpi_total_retrans`.
        let sent_again = bytes[2] != 0 || word(100) != 0;
        // `tcpi_rtt`, in microseconds. A SYN-ACK gives the first one.
        let round_trip = Some(word(68)).filter(|round_trip| *round_trip != 0);
        Self {
            sent_again,
            round_trip: round_trip.map(|round_trip| Duration::from_micros(round_trip.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_that_was_sent_again_is_known() {
        let mut bytes = [0; TCP_INFO];
        let quiet = Told {
            sent_again: false,
            round_trip: None,
        };
        assert_eq!(Told::read(&bytes), quiet, "not measured is not 0");
        bytes[68..72].copy_from_slice(&65_u32.to_ne_bytes());
        let measured = Told {
            round_trip: Some(Duration::from_micros(65)),
            ..quiet
        };
        assert_eq!(Told::read(&bytes), measured);
        bytes[100] = 1;
        assert!(Told::read(&bytes).sent_again);
        bytes[100] = 0;
        bytes[2] = 1;
        assert!(Told::read(&bytes).sent_again);
    }
}
