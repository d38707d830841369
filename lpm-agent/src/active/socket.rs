//! Datagram sockets with the kernel's own times of packets (`SO_TIMESTAMPING`,
//! Documentation/networking/timestamping.rst).
//!
//! A time of receiving comes with its packet. A time of sending comes later, by the socket's error
//! queue, with the number of the packet on this socket (`OPT_ID`): 0 for the first. The kernel counts
//! the packets whose times are asked for. Where it refuses a packet, its count is no longer known:
//! until it counts anew, packets have no number, and their times are not told.

use std::{
    cell::Cell,
    ffi::OsString,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, TimestampingFlag, bind, setsockopt,
        socket, sockopt,
    },
};

use self::batch::Slot;
pub use self::{
    batch::{BATCH, Inbox, Outbox},
    notices::{Errors, Notice, Stage},
};

mod batch;
mod control;
mod notices;

/// Where a time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The network card.
    Hardware,
    /// The kernel, where it hands a packet to a device or takes it from one.
    Kernel,
    /// The program itself, some microseconds from what the packet did.
    User,
}

/// A time by the clock `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds since 1970.
    pub nanoseconds: i64,
    /// Where the time comes from.
    pub source: Source,
}

/// A packet that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the packet, in the caller's buffer. A longer packet is cut.
    pub length: usize,
    /// Whether the packet was longer than the buffer.
    pub is_cut: bool,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address that it was sent to. None: the kernel did not tell.
    pub to: Option<IpAddr>,
    /// When it arrived. None: the kernel took no time.
    pub stamp: Option<Stamp>,
    /// TTL or hop limit with which it arrived.
    pub ttl: Option<u8>,
    /// The byte of DSCP and ECN with which it arrived.
    pub traffic_class: Option<u8>,
}

/// How a packet is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The address to send from. None: the routing chooses.
    pub from: Option<IpAddr>,
    /// The byte of DSCP and ECN.
    pub traffic_class: u8,
}

/// A UDP socket with the kernel's times.
#[derive(Debug)]
pub struct StampedSocket {
    socket: UdpSocket,
    is_v6: bool,
    /// What the socket asks for.
    flags: TimestampingFlag,
    /// The number of the next packet whose time of sending is asked for.
    next: Cell<u64>,
    /// Whether the kernel counts as `next` says.
    is_counted: Cell<bool>,
}

/// Asks for software times of receiving, and for the card's, which come only where an operator
/// switched them on. Times of sending that are asked for have numbers, and no copy of the packet.
fn receive_flags() -> TimestampingFlag {
    TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RAW_HARDWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RX_HARDWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY
}

/// Asks for the times at which a device takes a packet.
fn send_flags() -> TimestampingFlag {
    TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_TX_HARDWARE
}

/// Asks for the time at which a packet enters a device's queue. nix has no name for it.
fn queue_flag() -> TimestampingFlag {
    TimestampingFlag::from_bits_retain(libc::SOF_TIMESTAMPING_TX_SCHED)
}

/// Bits of a packet's number that the kernel counts. The bits above say how often its count has
/// begun at 0.
const COUNTED: u32 = u32::BITS;

impl StampedSocket {
    /// Binds a sender's socket, which does not block. All packets have their times of sending, and
    /// ICMP errors are told. `shares` lets other sockets of this process bind the same address and
    /// get a part of its packets (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// What the kernel refused: the address is taken or not of this machine, or the kernel knows no
    /// times of packets.
    pub fn bind(address: SocketAddr, shares: bool) -> io::Result<Self> {
        let bound = Self::open(
            address,
            shares,
            receive_flags() | send_flags() | queue_flag(),
        )?;
        setsockopt(&bound.socket, sockopt::Ipv4RecvErr, &true)?;
        if bound.is_v6 {
            setsockopt(&bound.socket, sockopt::Ipv6RecvErr, &true)?;
        }
        Ok(bound)
    }

    /// Binds a reflector's socket, which does not block. A packet has a time of sending only if its
    /// answer asks for it. ICMP errors are not told: the kernel would give one peer's error to the
    /// answer of another. `shares` is that of [`Self::bind`].
    ///
    /// # Errors
    /// Those of [`Self::bind`].
    pub fn bind_reflector(address: SocketAddr, shares: bool) -> io::Result<Self> {
        Self::open(address, shares, receive_flags())
    }

    fn open(address: SocketAddr, shares: bool, flags: TimestampingFlag) -> io::Result<Self> {
        let is_v6 = address.is_ipv6();
        let family = if is_v6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let flags_of_socket = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, SockType::Datagram, flags_of_socket, None)?;
        if shares {
            setsockopt(&fd, sockopt::ReusePort, &true)?;
        }
        setsockopt(&fd, sockopt::Timestamping, &flags)?;
        ask_for_headers(&fd, is_v6)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        Ok(Self {
            socket: UdpSocket::from(fd),
            is_v6,
            flags,
            next: Cell::new(0),
            is_counted: Cell::new(true),
        })
    }

    /// Sends and receives by one interface only (`SO_BINDTODEVICE`).
    ///
    /// # Errors
    /// There is no such interface, or a kernel before 5.7 asks for the capability `NET_RAW`.
    pub fn bind_to_interface(&self, name: &str) -> io::Result<()> {
        let name = OsString::from(name);
        Ok(setsockopt(&self.socket, sockopt::BindToDevice, &name)?)
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends a packet. Returns its number on this socket, by which its [`Notice::Sent`] knows it.
    /// None: its time will not be told, since the kernel's count is not known.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn send(&self, packet: &[u8], to: SocketAddr, how: Outgoing) -> io::Result<Option<u64>> {
        let mut outbox = Outbox::of_one(packet, self.known(to), how);
        self.send_box(&mut outbox, 0)?;
        Ok(outbox.number(0))
    }

    /// Adds a packet to those that are sent together. Its bytes were written into [`Outbox::room`].
    /// `is_timed`: its time of sending is asked for, of a reflector's socket.
    pub fn enclose(
        &self,
        outbox: &mut Outbox,
        length: usize,
        to: SocketAddr,
        how: Outgoing,
        is_timed: bool,
    ) {
        let times = is_timed.then_some(send_flags().bits());
        outbox.push(length, self.known(to), how, times);
    }

    /// Sends the packets of a box from the one at `from` on, until one is refused. Returns how many
    /// were sent, at least one. Their numbers are in the box then.
    ///
    /// # Errors
    /// What the kernel refused of the first.
    pub fn send_box(&self, outbox: &mut Outbox, from: usize) -> io::Result<usize> {
        self.count_anew();
        let packets = outbox.len() - from.min(outbox.len());
        let sent = outbox.send(self.as_fd(), from, || self.number());
        // Kernels differ in whether a packet that they refuse has a number (`__ip_append_data`).
        if *sent.as_ref().unwrap_or(&0) < packets {
            self.is_counted.set(false);
        }
        sent
    }

    /// The number of a packet that was sent.
    fn number(&self) -> Option<u64> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.is_counted.get().then_some(number)
    }

    /// Lets the kernel count from 0 again, if its count is not known. That waits until no packet is
    /// on its way to a device and no time is in the error queue: they would be taken for others'.
    fn count_anew(&self) {
        if self.is_counted.get() || !self.is_quiet() {
            return;
        }
        // The kernel begins to count where the flag was absent before (`sock_set_timestamping`).
        let without = self.flags - TimestampingFlag::SOF_TIMESTAMPING_OPT_ID;
        let set = |flags| setsockopt(&self.socket, sockopt::Timestamping, flags).is_ok();
        if set(&without) && set(&self.flags) {
            self.next.set(((self.next.get() >> COUNTED) + 1) << COUNTED);
            self.is_counted.set(true);
        }
    }

    /// Whether no packet is on its way to a device, and the error queue is empty.
    fn is_quiet(&self) -> bool {
        let mut unsent: libc::c_int = 0;
        // SAFETY: the request writes one int, to which the pointer points during the call.
        let told = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) };
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::empty())];
        told == 0 && unsent == 0 && poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }

    /// Writes an address as this socket knows it.
    fn known(&self, address: SocketAddr) -> SocketAddr {
        if self.is_v6 { mapped(address) } else { address }
    }

    /// Takes a packet that has arrived. None: there is none.
    ///
    /// # Errors
    /// The socket failed, or an ICMP error about an earlier packet came
    /// ([`Self::notice`] tells more of it).
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut slots = [Slot::default()];
        let mut buffers = [[IoSliceMut::new(buffer), IoSliceMut::new(&mut [])]];
        let count = batch::receive(self.as_fd(), &mut slots, &mut buffers, 0)?;
        Ok(if count == 0 {
            None
        } else {
            slots[0].received()
        })
    }

    /// Takes the packets that have arrived, [`BATCH`] at most. Returns their number.
    ///
    /// # Errors
    /// The socket failed.
    pub fn receive_all(&self, inbox: &mut Inbox) -> io::Result<usize> {
        inbox.fill(self.as_fd())
    }
}

/// Asks for what stood in the headers of received packets.
fn ask_for_headers(fd: &OwnedFd, is_v6: bool) -> io::Result<()> {
    // An IPv6 socket receives IPv4 packets, too, with IPv4's control messages.
    setsockopt(fd, sockopt::Ipv4PacketInfo, &true)?;
    setsockopt(fd, sockopt::Ipv4RecvTtl, &true)?;
    setsockopt(fd, sockopt::IpRecvTos, &true)?;
    if is_v6 {
        setsockopt(fd, sockopt::Ipv6RecvPacketInfo, &true)?;
        setsockopt(fd, sockopt::Ipv6RecvHopLimit, &true)?;
        setsockopt(fd, sockopt::Ipv6RecvTClass, &true)?;
    }
    Ok(())
}

impl AsFd for StampedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Writes an IPv4 address as an IPv6 socket knows it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::from((v4.to_ipv6_mapped(), address.port())),
        IpAddr::V6(_) => address,
    }
}

/// A socket that only keeps the kernel taking times of packets. The kernel switches that on lazily,
/// so without it the first packets of new sockets have no time.
#[derive(Debug)]
pub struct KeepStamping {
    _socket: UdpSocket,
}

impl KeepStamping {
    /// Opens the socket. Drop it when no times are needed any more.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn start() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        let wanted = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE;
        setsockopt(&fd, sockopt::Timestamping, &wanted)?;
        let socket = UdpSocket::from(fd);
        Ok(Self { _socket: socket })
    }
}

#[cfg(test)]
mod tests;
