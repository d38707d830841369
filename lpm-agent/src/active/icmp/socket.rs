//! Sockets that may send echo requests, with the kernel's times of packets.
//!
//! A datagram socket needs no capability where the user's group is in `net.ipv4.ping_group_range`
//! (also for IPv6; net/ipv4/ping.c). The kernel chooses its identifier, and gives it only its own
//! answers. A raw socket needs the capability `NET_RAW`.

use std::{
    ffi::OsString,
    fs,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
            SockaddrStorage, TimestampingFlag, bind, getsockname, recvmsg, sendmsg, setsockopt,
            socket, sockopt,
        },
        time::TimeSpec,
    },
};
use thiserror::Error;

use super::{
    control::{address_of, stamp_of},
    packet::{self, Echo, Types},
};
use crate::active::socket::Stamp;

/// Where the kernel says whose datagram sockets may send echo requests.
const RANGE: &str = "/proc/sys/net/ipv4/ping_group_range";

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Neither kind of socket is allowed.
    #[error(
        "this user may send no ICMP echo here: let the group {group} do so by `sysctl -w \
         net.ipv4.ping_group_range=\"{group} {group}\"` in this network namespace (now \
         \"{range}\"), or give the program the capability NET_RAW (`setcap cap_net_raw+ep $(command \
         -v lpm)`, or run it as root)"
    )]
    Refused {
        /// The user's group.
        group: u32,
        /// What the kernel allows now.
        range: String,
    },
    /// The kernel refused something else.
    #[error("the kernel refused an ICMP socket: {0}")]
    Kernel(#[from] Errno),
}

/// An answer, or what the network says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What was received. None: a message that is no echo reply, or one to another socket.
    pub echo: Option<Echo>,
    /// Who sent it.
    pub from: IpAddr,
    /// When it arrived. None: the kernel took no time.
    pub stamp: Option<Stamp>,
    /// TTL or hop limit with which it arrived.
    pub ttl: Option<u8>,
    /// The byte of DSCP and ECN with which it arrived.
    pub traffic_class: Option<u8>,
}

/// News from the error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// When a packet was handed to a device.
    Sent {
        /// The packet's number on this socket.
        packet: u32,
        /// The time.
        stamp: Stamp,
    },
    /// An ICMP error, or one of this machine.
    Unreachable {
        /// The request's sequence number. None: the error does not tell.
        sequence: Option<u16>,
        /// What the error means.
        error: Errno,
        /// Who sent the error. None: this machine itself.
        by: Option<IpAddr>,
    },
}

/// Where and how a socket sends.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// The address to send from. None: the routing chooses.
    pub from: Option<IpAddr>,
    /// The interface to send by. None: the routing chooses.
    pub interface: Option<String>,
    /// DSCP of the packets, 6 bits.
    pub dscp: u8,
}

/// A socket for echo requests, which does not block.
#[derive(Debug)]
pub struct EchoSocket {
    fd: OwnedFd,
    is_v6: bool,
    is_raw: bool,
    id: u16,
}

/// Asks for the kernel's times of packets. A card's are by a clock of its own, and would need both ends of the
/// round trip.
pub(in crate::active) fn stamping() -> TimestampingFlag {
    TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY
}

impl EchoSocket {
    /// Opens a datagram socket, or a raw one where that is not allowed.
    ///
    /// # Errors
    /// Neither is allowed, or the route is not one of this machine.
    pub fn open(is_v6: bool, route: &Route) -> Result<Self, OpenError> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (family, protocol) = if is_v6 {
            (AddressFamily::Inet6, SockProtocol::IcmpV6)
        } else {
            (AddressFamily::Inet, SockProtocol::Icmp)
        };
        let (fd, is_raw) = match socket(family, SockType::Datagram, flags, protocol) {
            Ok(fd) => (fd, false),
            // A kernel without such sockets, too.
            Err(Errno::EACCES | Errno::EPROTONOSUPPORT) => {
                match socket(family, SockType::Raw, flags, protocol) {
                    Ok(fd) => (fd, true),
                    Err(Errno::EPERM | Errno::EACCES) => return Err(refused()),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        options(&fd, is_v6, route.dscp)?;
        if is_raw {
            only_replies(&fd, is_v6)?;
        }
        if let Some(interface) = &route.interface {
            setsockopt(&fd, sockopt::BindToDevice, &OsString::from(interface))?;
        }
        let any: IpAddr = if is_v6 {
            [0_u16; 8].into()
        } else {
            [0, 0, 0, 0].into()
        };
        let from = SocketAddr::new(route.from.unwrap_or(any), 0);
        bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
        let id = if is_raw {
            fastrand::u16(1..)
        } else {
            // The port of a datagram socket is its identifier.
            let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
            address_of(&address).map_or(0, |address| address.port())
        };
        Ok(Self {
            fd,
            is_v6,
            is_raw,
            id,
        })
    }

    /// Whether the socket is a raw one.
    #[must_use]
    pub const fn is_raw(&self) -> bool {
        self.is_raw
    }

    /// The identifier of the socket's messages.
    #[must_use]
    pub const fn id(&self) -> u16 {
        self.id
    }

    /// Sends a message, whose number on this socket is one higher than the last one's.
    ///
    /// # Errors
    /// What the kernel refused, or an ICMP error about an earlier packet: [`Self::notice`] takes that.
    /// Whether the message took a number is not known then: one that netfilter or a queue refuses has
    /// one (`__ip_append_data` of `net/ipv4/ip_output.c` counts before). See [`Self::restart_numbers`].
    pub fn send(&self, message: &[u8], to: SocketAddr) -> Result<(), Errno> {
        let to = SockaddrStorage::from(to);
        let slices = [IoSlice::new(message)];
        let none = MsgFlags::empty();
        sendmsg(self.fd.as_raw_fd(), &slices, &[], none, Some(&to)).map(drop)
    }

    /// Begins to count at 0 again: the next message that is sent has the number 0.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn restart_numbers(&self) -> Result<(), Errno> {
        // Asking for numbers anew begins them anew (sock_set_timestamping of net/core/sock.c).
        let without = stamping() - TimestampingFlag::SOF_TIMESTAMPING_OPT_ID;
        setsockopt(&self.fd, sockopt::Timestamping, &without)?;
        setsockopt(&self.fd, sockopt::Timestamping, &stamping())
    }

    /// Takes a message that has arrived. None: there is none.
    ///
    /// # Errors
    /// The socket failed, or an ICMP error came: [`Self::notice`] takes that.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<Received>, Errno> {
        let mut space = cmsg_space!([TimeSpec; 3], i32, i32);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(
            self.fd.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::empty(),
        );
        let message = match message {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(from) = message.address.as_ref().and_then(address_of) else {
            return Ok(None);
        };
        let (mut stamp, mut ttl, mut traffic_class) = (None, None, None);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampsns(times) => stamp = stamp_of(&times),
                ControlMessageOwned::Ipv4Ttl(seen) | ControlMessageOwned::Ipv6HopLimit(seen) => {
                    ttl = u8::try_from(seen).ok();
                }
                ControlMessageOwned::Ipv4Tos(class) => traffic_class = Some(class),
                ControlMessageOwned::Ipv6TClass(class) => traffic_class = u8::try_from(class).ok(),
                _ => {}
            }
        }
        let length = message.bytes;
        let bytes = buffer.get(..length).unwrap_or_default();
        Ok(Some(Received {
            echo: self.read(bytes),
            from: from.ip(),
            stamp,
            ttl,
            traffic_class,
        }))
    }

    /// Reads an answer to one of this socket's messages. None: it is another message.
    pub(in crate::active) fn read(&self, bytes: &[u8]) -> Option<Echo> {
        let bytes = if self.is_raw && !self.is_v6 {
            packet::without_ipv4_header(bytes)?
        } else {
            bytes
        };
        Echo::reply(bytes, self.is_v6).filter(|echo| echo.id == self.id)
    }

    /// Takes the next news from the error queue. None: there is none.
    ///
    /// # Errors
    /// The socket failed.
    pub fn notice(&self) -> Result<Option<Notice>, Errno> {
        loop {
            // An error has the packet's other control messages, too.
            let mut space = cmsg_space!([u8; 512]);
            let mut buffer = [0; packet::HEADER];
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let queue = MsgFlags::MSG_ERRQUEUE;
            let fd = self.fd.as_raw_fd();
            let message = match recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut space), queue)
            {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error),
            };
            let (mut stamp, mut about, mut by) = (None, None, None);
            for control in message.cmsgs()? {
                match control {
                    ControlMessageOwned::ScmTimestampsns(times) => stamp = stamp_of(&times),
                    ControlMessageOwned::Ipv4RecvErr(error, offender) => {
                        about = Some(error);
                        by = offender.and_then(|offender| v4_of(&offender));
                    }
                    ControlMessageOwned::Ipv6RecvErr(error, offender) => {
                        about = Some(error);
                        by = offender.and_then(|offender| v6_of(&offender));
                    }
                    _ => {}
                }
            }
            let length = message.bytes;
            let quoted = buffer.get(..length).unwrap_or_default();
            if let Some(notice) = about.and_then(|about| self.judge(&about, stamp, by, quoted)) {
                return Ok(Some(notice));
            }
        }
    }

    /// Reads a report of the error queue. None: it is of no use here, or about another's request.
    fn judge(
        &self,
        about: &libc::sock_extended_err,
        stamp: Option<Stamp>,
        by: Option<IpAddr>,
        quoted: &[u8],
    ) -> Option<Notice> {
        match about.ee_origin {
            libc::SO_EE_ORIGIN_TIMESTAMPING => Some(Notice::Sent {
                packet: about.ee_data,
                stamp: stamp?,
            }),
            libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 | libc::SO_EE_ORIGIN_LOCAL => {
                let quoted = packet::quoted(quoted, self.is_v6);
                // A raw socket hears of the requests of other programs.
                if self.is_raw && quoted.is_none_or(|(id, _)| id != self.id) {
                    return None;
                }
                Some(Notice::Unreachable {
                    sequence: quoted.map(|(_, sequence)| sequence),
                    error: Errno::from_raw(i32::try_from(about.ee_errno).ok()?),
                    by: by.filter(|_| about.ee_origin != libc::SO_EE_ORIGIN_LOCAL),
                })
            }
            _ => None,
        }
    }
}

impl AsFd for EchoSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Asks for times, headers and errors of a socket's packets, and sets their class.
pub(in crate::active) fn options(fd: &OwnedFd, is_v6: bool, dscp: u8) -> Result<(), Errno> {
    setsockopt(fd, sockopt::Timestamping, &stamping())?;
    let class = i32::from(dscp << 2);
    if is_v6 {
        setsockopt(fd, sockopt::Ipv6RecvHopLimit, &true)?;
        setsockopt(fd, sockopt::Ipv6RecvTClass, &true)?;
        setsockopt(fd, sockopt::Ipv6RecvErr, &true)?;
        setsockopt(fd, sockopt::Ipv6TClass, &class)?;
    } else {
        setsockopt(fd, sockopt::Ipv4RecvTtl, &true)?;
        setsockopt(fd, sockopt::IpRecvTos, &true)?;
        setsockopt(fd, sockopt::Ipv4RecvErr, &true)?;
        setsockopt(fd, sockopt::Ipv4Tos, &class)?;
    }
    Ok(())
}

/// Lets a raw socket receive echo replies only. Else it would get every ICMP message of the machine,
/// and many of them could crowd out the answers.
fn only_replies(fd: &OwnedFd, is_v6: bool) -> Result<(), Errno> {
    // ICMP_FILTER of linux/icmp.h, ICMPV6_FILTER of linux/icmpv6.h: a set bit refuses a type.
    const FILTER: i32 = 1;
    let reply = usize::from(Types::of(is_v6).reply);
    let mut refuse = [u32::MAX; 8];
    refuse[reply / 32] &= !(1 << (reply % 32));
    let (level, words) = if is_v6 {
        (libc::SOL_ICMPV6, refuse.len())
    } else {
        (libc::SOL_RAW, 1)
    };
    let length = libc::socklen_t::try_from(words * size_of::<u32>()).unwrap_or(0);
    // SAFETY: the pointer is to `words` words that outlive the call, and the kernel only reads them.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            FILTER,
            refuse.as_ptr().cast(),
            length,
        )
    };
    Errno::result(result).map(drop)
}

fn refused() -> OpenError {
    let range = fs::read_to_string(RANGE);
    let words = range.map(|range| range.split_whitespace().collect::<Vec<_>>().join(" "));
    OpenError::Refused {
        group: nix::unistd::getegid().as_raw(),
        range: words.unwrap_or_else(|_: io::Error| "unknown".to_owned()),
    }
}

/// The address of a control message's IPv4 sender. None: this machine itself (family 0).
pub(in crate::active) fn v4_of(address: &libc::sockaddr_in) -> Option<IpAddr> {
    let is_v4 = i32::from(address.sin_family) == libc::AF_INET;
    is_v4.then(|| IpAddr::from(u32::from_be(address.sin_addr.s_addr).to_be_bytes()))
}

/// The address of a control message's IPv6 sender. None: this machine itself (family 0).
pub(in crate::active) fn v6_of(address: &libc::sockaddr_in6) -> Option<IpAddr> {
    let is_v6 = i32::from(address.sin6_family) == libc::AF_INET6;
    is_v6.then(|| IpAddr::from(address.sin6_addr.s6_addr).to_canonical())
}
