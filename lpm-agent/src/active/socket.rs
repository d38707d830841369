//! Datagram sockets with the kernel's own times of packets (`SO_TIMESTAMPING`,
//! Documentation/networking/timestamping.rst).
//!
//! A time of receiving comes with its packet. A time of sending comes later, by the socket's error
//! queue, with the number of the packet on this socket (`OPT_ID`): 0 for the first.

use std::{
    ffi::OsString,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
            SockaddrStorage, TimestampingFlag, Timestamps, bind, recvmsg, sendmsg, setsockopt,
            socket, sockopt,
        },
        time::TimeSpec,
    },
};

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
        /// The packet's number on this socket.
        packet: u32,
        /// Where on its way out.
        stage: Stage,
        /// The time.
        stamp: Stamp,
    },
    /// An ICMP error about an earlier packet to this address.
    Unreachable {
        /// What the error means.
        error: Errno,
    },
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
}

/// Asks for software times of receiving and sending, and for the card's, which come only where an
/// operator switched them on. `SCHED` is absent from the flags that nix names.
fn flags() -> TimestampingFlag {
    TimestampingFlag::from_bits_retain(libc::SOF_TIMESTAMPING_TX_SCHED)
        | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RAW_HARDWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RX_HARDWARE
        | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_TX_HARDWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY
}

impl StampedSocket {
    /// Binds a socket that does not block. `shares` lets other sockets of this process bind the same
    /// address and get a part of its packets (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// What the kernel refused: the address is taken or not of this machine, or the kernel knows no
    /// times of packets.
    pub fn bind(address: SocketAddr, shares: bool) -> io::Result<Self> {
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
        setsockopt(&fd, sockopt::Timestamping, &flags())?;
        // An IPv6 socket receives IPv4 packets, too, with IPv4's control messages.
        setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
        setsockopt(&fd, sockopt::Ipv4RecvTtl, &true)?;
        setsockopt(&fd, sockopt::IpRecvTos, &true)?;
        setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?;
        if is_v6 {
            setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
            setsockopt(&fd, sockopt::Ipv6RecvHopLimit, &true)?;
            setsockopt(&fd, sockopt::Ipv6RecvTClass, &true)?;
            setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?;
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        let socket = UdpSocket::from(fd);
        Ok(Self { socket, is_v6 })
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

    /// Sends a packet, whose number on this socket is one higher than the last one's.
    ///
    /// # Errors
    /// What the kernel refused. A packet that was refused has no number.
    pub fn send(&self, packet: &[u8], to: SocketAddr, how: Outgoing) -> io::Result<()> {
        let to = if self.is_v6 { mapped(to) } else { to };
        let tos = [how.traffic_class];
        let class = [i32::from(how.traffic_class)];
        let (mut info4, mut info6) = (None, None);
        let mut messages = Vec::with_capacity(2);
        if to.ip().to_canonical().is_ipv4() {
            messages.push(ControlMessage::Ipv4Tos(&tos[0]));
        } else {
            messages.push(ControlMessage::Ipv6TClass(&class[0]));
        }
        match how.from.map(|from| from.to_canonical()) {
            Some(IpAddr::V4(from)) => {
                let info = info4.insert(libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from(from).to_be(),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                });
                messages.push(ControlMessage::Ipv4PacketInfo(info));
            }
            Some(IpAddr::V6(from)) => {
                let info = info6.insert(libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: from.octets(),
                    },
                    ipi6_ifindex: 0,
                });
                messages.push(ControlMessage::Ipv6PacketInfo(info));
            }
            None => {}
        }
        let slices = [IoSlice::new(packet)];
        let to = SockaddrStorage::from(to);
        sendmsg(
            self.socket.as_raw_fd(),
            &slices,
            &messages,
            MsgFlags::empty(),
            Some(&to),
        )?;
        Ok(())
    }

    /// Takes a packet that has arrived. None: there is none.
    ///
    /// # Errors
    /// The socket failed, or an ICMP error about an earlier packet came
    /// ([`Self::notice`] tells more of it).
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut space = cmsg_space!([TimeSpec; 3], libc::in6_pktinfo, i32, i32, libc::in_pktinfo);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = match recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::empty(),
        ) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(from) = message.address.as_ref().and_then(address_of) else {
            return Ok(None);
        };
        let mut received = Received {
            length: message.bytes,
            is_cut: message.flags.contains(MsgFlags::MSG_TRUNC),
            from,
            to: None,
            stamp: None,
            ttl: None,
            traffic_class: None,
        };
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampsns(times) => received.stamp = stamp_of(&times),
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let address = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                    received.to = Some(address.into());
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    received.to = Some(IpAddr::from(address).to_canonical());
                }
                ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                    received.ttl = u8::try_from(ttl).ok();
                }
                ControlMessageOwned::Ipv4Tos(class) => received.traffic_class = Some(class),
                ControlMessageOwned::Ipv6TClass(class) => {
                    received.traffic_class = u8::try_from(class).ok();
                }
                _ => {}
            }
        }
        Ok(Some(received))
    }

    /// Takes the next news from the error queue. None: there is none.
    ///
    /// # Errors
    /// The socket failed.
    pub fn notice(&self) -> io::Result<Option<Notice>> {
        loop {
            // An error has the packet's other control messages, too.
            let mut space = cmsg_space!([u8; 512]);
            let mut buffer = [0; 8];
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let message = match recvmsg::<SockaddrStorage>(
                self.socket.as_raw_fd(),
                &mut slices,
                Some(&mut space),
                MsgFlags::MSG_ERRQUEUE,
            ) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let (mut stamp, mut about) = (None, None);
            for control in message.cmsgs()? {
                match control {
                    ControlMessageOwned::ScmTimestampsns(times) => stamp = stamp_of(&times),
                    ControlMessageOwned::Ipv4RecvErr(error, _)
                    | ControlMessageOwned::Ipv6RecvErr(error, _) => about = Some(error),
                    _ => {}
                }
            }
            if let Some(notice) = about.and_then(|about| notice_of(&about, stamp)) {
                return Ok(Some(notice));
            }
        }
    }
}

impl AsFd for StampedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads a report of the error queue. None: it is of no use here.
fn notice_of(about: &libc::sock_extended_err, stamp: Option<Stamp>) -> Option<Notice> {
    match about.ee_origin {
        libc::SO_EE_ORIGIN_TIMESTAMPING => {
            let stage = match about.ee_info {
                // SCM_TSTAMP_SND and SCM_TSTAMP_SCHED of linux/errqueue.h.
                0 => Stage::Sent,
                1 => Stage::Queued,
                _ => return None,
            };
            Some(Notice::Sent {
                packet: about.ee_data,
                stage,
                stamp: stamp?,
            })
        }
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => Some(Notice::Unreachable {
            error: Errno::from_raw(i32::try_from(about.ee_errno).ok()?),
        }),
        _ => None,
    }
}

/// Chooses the better of the times in a control message. A time of all zeros is none.
pub(super) fn stamp_of(times: &Timestamps) -> Option<Stamp> {
    let nanoseconds = |time: &TimeSpec| {
        let whole = time.tv_sec().checked_mul(1_000_000_000)?;
        whole.checked_add(time.tv_nsec()).filter(|time| *time != 0)
    };
    let of = |time, source| {
        nanoseconds(time).map(|nanoseconds| Stamp {
            nanoseconds,
            source,
        })
    };
    of(&times.hw_raw, Source::Hardware).or_else(|| of(&times.system, Source::Kernel))
}

pub(super) fn address_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddr::from((v6.ip(), v6.port())))
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
