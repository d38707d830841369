//! What the kernel tells of a socket's packets: one that arrived, one that was sent, or an error about
//! one (`IP_RECVERR`, ip(7)).

use std::{
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg},
        time::TimeSpec,
    },
};

use super::{
    icmp::{
        control::{address_of, stamp_of},
        socket::{v4_of, v6_of},
    },
    socket::Stamp,
};

/// A packet, or a report of the error queue.
#[derive(Clone, Copy, Debug)]
pub struct News {
    /// Bytes in the caller's buffer. Of a report they are those of the packet that it is about, as far
    /// as it quotes them.
    pub length: usize,
    /// Who sent the packet. Of a report: where the packet went that it is about.
    pub from: Option<SocketAddr>,
    /// When the packet, or the ICMP error, arrived. Of [`Origin::Stamp`] the time of sending.
    pub stamp: Option<Stamp>,
    /// TTL or hop limit with which the packet arrived.
    pub ttl: Option<u8>,
    /// The byte of DSCP and ECN with which the packet arrived.
    pub traffic_class: Option<u8>,
    /// What a report says. None: it is a packet.
    pub about: Option<About>,
}

/// A report of the error queue (`sock_extended_err` of linux/errqueue.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Who made the report.
    pub origin: Origin,
    /// What the error means.
    pub error: Errno,
    /// The ICMP message's type.
    pub kind: u8,
    /// The ICMP message's code.
    pub code: u8,
    /// The MTU, of an error that a packet is too long. 0: it does not say.
    pub mtu: u32,
    /// The packet's number on the socket, of [`Origin::Stamp`].
    pub packet: u32,
    /// Who sent the error. None: this machine itself.
    pub by: Option<IpAddr>,
}

/// Who made a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The kernel, of a packet that a device took.
    Stamp,
    /// The machine itself, which refused a packet.
    Local,
    /// The network, by an ICMP or `ICMPv6` message.
    Icmp,
}

/// Takes the next packet, or with `MSG_ERRQUEUE` the next report. None: there is none.
///
/// # Errors
/// The socket failed, or has an error pending that the error queue tells more of.
pub fn next(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> Result<Option<News>, Errno> {
    // A report has the packet's other control messages, too.
    let mut space = cmsg_space!([u8; 512]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = flags | MsgFlags::MSG_DONTWAIT;
    let fd = socket.as_raw_fd();
    let message = match recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut space), flags) {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut news = News {
        length: message.bytes,
        from: message.address.as_ref().and_then(address_of),
        stamp: None,
        ttl: None,
        traffic_class: None,
        about: None,
    };
    for control in message.cmsgs()? {
        news.take(&control);
    }
    Ok(Some(news))
}

impl News {
    fn take(&mut self, control: &ControlMessageOwned) {
        match control {
            ControlMessageOwned::ScmTimestampsns(times) => self.stamp = stamp_of(times),
            ControlMessageOwned::Ipv4Ttl(seen) | ControlMessageOwned::Ipv6HopLimit(seen) => {
                self.ttl = u8::try_from(*seen).ok();
            }
            ControlMessageOwned::Ipv4Tos(class) => self.traffic_class = Some(*class),
            ControlMessageOwned::Ipv6TClass(class) => {
                self.traffic_class = u8::try_from(*class).ok();
            }
            ControlMessageOwned::Ipv4RecvErr(error, by) => {
                self.about = about(error, by.as_ref().and_then(v4_of));
            }
            ControlMessageOwned::Ipv6RecvErr(error, by) => {
                self.about = about(error, by.as_ref().and_then(v6_of));
            }
            _ => {}
        }
    }
}

fn about(error: &libc::sock_extended_err, by: Option<IpAddr>) -> Option<About> {
    let origin = match error.ee_origin {
        // `ee_info` is the place where the time was taken: 0 is the device.
        libc::SO_EE_ORIGIN_TIMESTAMPING if error.ee_info == 0 => Origin::Stamp,
        libc::SO_EE_ORIGIN_LOCAL => Origin::Local,
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => Origin::Icmp,
        _ => return None,
    };
    Some(About {
        origin,
        error: Errno::from_raw(i32::try_from(error.ee_errno).ok()?),
        kind: error.ee_type,
        code: error.ee_code,
        mtu: error.ee_info,
        packet: error.ee_data,
        by: by.filter(|_| origin == Origin::Icmp),
    })
}

/// Sets an option of a socket that is a number.
///
/// # Errors
/// What the kernel refused.
pub fn set(socket: &impl AsFd, level: i32, option: i32, value: i32) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the pointer is to a live integer, and the length is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    Errno::result(result).map(drop)
}

/// Waits until a socket has news or `end` becomes readable, at most `wait`. True: the end was asked
/// for.
///
/// # Errors
/// The kernel cannot wait for them.
pub fn wait(sockets: &[BorrowedFd<'_>], end: &impl AsFd, wait: Duration) -> Result<bool, Errno> {
    let mut fds = vec![PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    for socket in sockets {
        fds.push(PollFd::new(*socket, PollFlags::POLLIN));
    }
    match ppoll(&mut fds, Some(TimeSpec::from_duration(wait)), None) {
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error),
        Ok(_) => Ok(fds.first().and_then(PollFd::any) == Some(true)),
    }
}
