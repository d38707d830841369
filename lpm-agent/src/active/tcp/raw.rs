//! A raw socket that sends SYNs and hears their answers, with the kernel's times at the device.
//!
//! The kernel's own TCP hears the answers, too. It knows of no connection, so it refuses a SYN-ACK by
//! RST. Therefore the ports that the SYNs come from must be nobody's: each is held by a socket that
//! neither listens nor connects.

use std::{
    ffi::OsString,
    net::{SocketAddr, SocketAddrV6},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
        getsockname, send, setsockopt, socket, sockopt,
    },
};

use super::{
    super::{
        icmp::{
            control::address_of,
            packet::without_ipv4_header,
            socket::{Route, options, stamping},
        },
        news::{self, News},
    },
    packet::{self, Segment, Syn},
};

/// Ports that the SYNs come from, in turn. A target whose RST was lost knows a port's connection until
/// it has sent its SYN-ACK again, and would not answer the next SYN from there.
const PORTS: usize = 64;

/// A raw socket, which does not block.
#[derive(Debug)]
pub struct RawSocket {
    fd: OwnedFd,
    target: SocketAddr,
    /// The address that the SYNs come from, with port 0.
    source: SocketAddr,
    /// The sockets that hold the ports.
    ports: Vec<(OwnedFd, SocketAddr)>,
}

/// An answer, or none of ours.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// What the kernel tells of it.
    pub news: News,
    /// The segment. None: it is no answer to a SYN.
    pub segment: Option<Segment>,
}

/// A report of the error queue.
#[derive(Clone, Copy, Debug)]
pub struct Reported {
    /// What the kernel tells.
    pub news: News,
    /// Port and sequence number of the SYN that an error quotes. None: it quotes too little.
    pub syn: Option<(u16, u32)>,
}

impl RawSocket {
    /// Opens a socket for a target.
    ///
    /// # Errors
    /// `EPERM`: the capability `NET_RAW` is missing. Else what the kernel refused.
    pub fn open(target: SocketAddr, route: &Route) -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let family = family(target);
        let fd = socket(family, SockType::Raw, flags, SockProtocol::Tcp)?;
        options(&fd, target.is_ipv6(), route.dscp)?;
        attach(&fd, target)?;
        way(&fd, route)?;
        // Only the target's packets are heard then, and the routing's source address is known.
        let mut there = target;
        there.set_port(0);
        connect(fd.as_raw_fd(), &SockaddrStorage::from(there))?;
        let source: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        Ok(Self {
            fd,
            target,
            source: any_port(&source).ok_or(Errno::EAFNOSUPPORT)?,
            ports: Vec::new(),
        })
    }

    /// Sends the SYN of a probe. Returns the port that it comes from. Its number on this socket is one
    /// higher than the last one's.
    ///
    /// # Errors
    /// What the kernel refused, or an error about an earlier packet.
    pub fn send(&mut self, probe: u32, sequence: u32) -> Result<u16, Errno> {
        let turn = usize::try_from(probe).unwrap_or_default() % PORTS;
        if self.ports.len() <= turn && self.ports.len() < PORTS {
            let held = self.hold()?;
            self.ports.push(held);
        }
        let (_, source) = self.ports.get(turn).ok_or(Errno::EADDRNOTAVAIL)?;
        let syn = Syn {
            source: *source,
            target: self.target,
            sequence,
        };
        send(self.fd.as_raw_fd(), &syn.bytes(), MsgFlags::empty())?;
        Ok(source.port())
    }

    /// Takes a free port. No other program gets it meanwhile.
    fn hold(&self) -> Result<(OwnedFd, SocketAddr), Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(family(self.target), SockType::Stream, flags, None)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(self.source))?;
        let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        let address = address_of(&address).ok_or(Errno::EAFNOSUPPORT)?;
        Ok((fd, address))
    }

    /// Takes a segment that has arrived. None: there is none.
    ///
    /// # Errors
    /// The socket failed, or an error about an earlier packet is pending.
    pub fn receive(&self) -> Result<Option<Received>, Errno> {
        // IPv4 has its header before the segment, with up to 40 bytes of options.
        let mut buffer = [0; 128];
        let Some(news) = news::next(self.as_fd(), &mut buffer, MsgFlags::empty())? else {
            return Ok(None);
        };
        let bytes = buffer.get(..news.length).unwrap_or_default();
        let segment = if self.target.is_ipv4() {
            without_ipv4_header(bytes)
        } else {
            Some(bytes)
        };
        let segment = segment.and_then(packet::read);
        Ok(Some(Received { news, segment }))
    }

    /// Takes the next report of the error queue. None: there is none.
    ///
    /// # Errors
    /// The socket failed.
    pub fn report(&self) -> Result<Option<Reported>, Errno> {
        let mut buffer = [0; packet::SYN];
        let queue = MsgFlags::MSG_ERRQUEUE;
        let Some(news) = news::next(self.as_fd(), &mut buffer, queue)? else {
            return Ok(None);
        };
        let syn = packet::quoted(buffer.get(..news.length).unwrap_or_default());
        Ok(Some(Reported { news, syn }))
    }

    /// Begins to count at 0 again: the next SYN has the number 0.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn restart_numbers(&self) -> Result<(), Errno> {
        let without = stamping() - nix::sys::socket::TimestampingFlag::SOF_TIMESTAMPING_OPT_ID;
        setsockopt(&self.fd, sockopt::Timestamping, &without)?;
        setsockopt(&self.fd, sockopt::Timestamping, &stamping())
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The address of a raw socket with port 0, where the kernel has the protocol's number. A link-local
/// address keeps its interface.
fn any_port(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), 0)));
    }
    let v6 = address.as_sockaddr_in6()?;
    let source = SocketAddrV6::new(v6.ip(), 0, 0, v6.scope_id());
    Some(source.into())
}

/// The family of a target's address.
pub(super) fn family(target: SocketAddr) -> AddressFamily {
    if target.is_ipv6() {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

/// Sends by the interface and from the address that are asked for.
pub(super) fn way(fd: &OwnedFd, route: &Route) -> Result<(), Errno> {
    if let Some(interface) = &route.interface {
        setsockopt(fd, sockopt::BindToDevice, &OsString::from(interface))?;
    }
    if let Some(from) = route.from {
        let from = SocketAddr::new(from, 0);
        bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    Ok(())
}

/// Lets a raw socket hear only segments of the target's port that answer a SYN: a busy target's others
/// could crowd them out.
fn attach(fd: &OwnedFd, target: SocketAddr) -> Result<(), Errno> {
    let code = |parts: [u32; 3]| u16::try_from(parts.into_iter().sum::<u32>()).unwrap_or_default();
    let statement = |parts, k| libc::sock_filter {
        code: code(parts),
        jt: 0,
        jf: 0,
        k,
    };
    let jump = |test, k, jt, jf| libc::sock_filter {
        jt,
        jf,
        ..statement([libc::BPF_JMP, test, libc::BPF_K], k)
    };
    let port = u32::from(target.port());
    // X is where the segment begins: behind the IPv4 header. Of IPv6 the socket sees the segment only.
    let begin = if target.is_ipv4() {
        statement([libc::BPF_LDX, libc::BPF_B, libc::BPF_MSH], 0)
    } else {
        statement([libc::BPF_LDX, libc::BPF_W, libc::BPF_IMM], 0)
    };
    let mut program = [
        begin,
        statement([libc::BPF_LD, libc::BPF_H, libc::BPF_IND], 0),
        jump(libc::BPF_JEQ, port, 0, 3),
        statement([libc::BPF_LD, libc::BPF_B, libc::BPF_IND], 13),
        // SYN or RST.
        jump(libc::BPF_JSET, 0x06, 0, 1),
        statement([libc::BPF_RET, libc::BPF_K, 0], u32::MAX),
        statement([libc::BPF_RET, libc::BPF_K, 0], 0),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or_default(),
        filter: program.as_mut_ptr(),
    };
    let length = libc::socklen_t::try_from(size_of_val(&program)).unwrap_or(0);
    // SAFETY: the pointer is to a live structure of that length, whose own pointer is to as many live
    // instructions as it says. The kernel only reads them.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    Errno::result(result).map(drop)
}
