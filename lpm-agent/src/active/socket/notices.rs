//! The error queue of a socket: times of sending, and ICMP errors.

use std::{
    io::{self, IoSliceMut},
    os::fd::AsFd as _,
};

use nix::errno::Errno;

use super::{
    COUNTED, Stamp, StampedSocket,
    batch::{self, BATCH, Slot},
};

/// At which place on its way out a packet's time was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It entered the queue of a device (`SCHED`).
    Queued,
    /// A device took it (`SND`).
    Sent,
}

/// News from the error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// When a packet was sent.
    Sent {
        /// The packet's number on this socket ([`StampedSocket::send`]).
        packet: u64,
        /// Where on its way out.
        stage: Stage,
        /// The time.
        stamp: Stamp,
    },
    /// An ICMP error about an earlier packet to this address.
    Unreachable {
        /// What the error means. `EACCES`: a filter prohibits the packet, over IPv4 as over IPv6.
        error: Errno,
    },
}

/// `MSG_ERRQUEUE` of linux/socket.h.
const ERROR_QUEUE: usize = 0x2000;

/// Memory for news from the error queue that are read together.
#[derive(Debug)]
pub struct Errors {
    slots: Box<[Slot]>,
}

impl Default for Errors {
    fn default() -> Self {
        Self {
            slots: vec![Slot::default(); BATCH].into_boxed_slice(),
        }
    }
}

impl StampedSocket {
    /// Takes the next news from the error queue. None: there is none.
    ///
    /// # Errors
    /// The socket failed.
    pub fn notice(&self) -> io::Result<Option<Notice>> {
        let mut slots = [Slot::default()];
        while self.take_errors(&mut slots)? > 0 {
            if let Some(notice) = self.notice_of(&slots[0]) {
                return Ok(Some(notice));
            }
        }
        Ok(None)
    }

    /// Takes all news from the error queue.
    ///
    /// # Errors
    /// The socket failed.
    pub fn notices(&self, errors: &mut Errors, mut each: impl FnMut(Notice)) -> io::Result<()> {
        loop {
            let count = self.take_errors(&mut errors.slots)?;
            let slots = errors.slots.iter().take(count);
            slots
                .filter_map(|slot| self.notice_of(slot))
                .for_each(&mut each);
            if count < errors.slots.len() {
                return Ok(());
            }
        }
    }

    fn take_errors(&self, slots: &mut [Slot]) -> io::Result<usize> {
        // An ICMP error has the bytes of its packet. They are of no use here.
        let mut buffers: [_; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(&mut []), IoSliceMut::new(&mut [])]);
        batch::receive(self.as_fd(), slots, &mut buffers, ERROR_QUEUE)
    }

    /// The number of a packet by what the kernel counts of it. None: no packet has the number.
    fn whole(&self, counted: u32) -> Option<u64> {
        let next = self.next.get();
        let number = next >> COUNTED << COUNTED | u64::from(counted);
        if number < next {
            return Some(number);
        }
        number.checked_sub(1 << COUNTED)
    }

    /// Reads a report of the error queue. None: it is of no use here.
    fn notice_of(&self, slot: &Slot) -> Option<Notice> {
        let told = slot.told();
        let about = told.about?;
        match about.origin {
            libc::SO_EE_ORIGIN_TIMESTAMPING => {
                let stage = match about.info {
                    // SCM_TSTAMP_SND and SCM_TSTAMP_SCHED of linux/errqueue.h.
                    0 => Stage::Sent,
                    1 => Stage::Queued,
                    _ => return None,
                };
                Some(Notice::Sent {
                    packet: self.whole(about.data)?,
                    stage,
                    stamp: told.stamp?,
                })
            }
            libc::SO_EE_ORIGIN_ICMP if about.is_prohibition() => Some(Notice::Unreachable {
                error: Errno::EACCES,
            }),
            libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => Some(Notice::Unreachable {
                error: Errno::from_raw(i32::try_from(about.errno).ok()?),
            }),
            _ => None,
        }
    }
}
