//! A sender's socket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt},
};

use crate::active::{plan::Plan, socket::StampedSocket};

/// Opens the socket for a plan.
pub(super) fn bind(plan: &Plan) -> io::Result<StampedSocket> {
    let any: IpAddr = match plan.target {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => [0_u16; 8].into(),
    };
    let from = plan.from.unwrap_or(any);
    let socket = match &plan.ports {
        Some(ports) => bind_within(from, ports)?,
        None => StampedSocket::bind(SocketAddr::new(from, 0), false)?,
    };
    if let Some(interface) = &plan.interface {
        socket.bind_to_interface(interface)?;
    }
    whole(&socket, plan.target)?;
    Ok(socket)
}

/// Binds to a free port of a range, from a random one on. If none is free: `EADDRINUSE`.
fn bind_within(from: IpAddr, ports: &RangeInclusive<u16>) -> io::Result<StampedSocket> {
    let count = ports.len();
    let skipped = fastrand::usize(..count.max(1));
    let order = ports.clone().cycle().skip(skipped).take(count);
    let mut taken = io::Error::from(Errno::EADDRINUSE);
    for port in order {
        match StampedSocket::bind(SocketAddr::new(from, port), false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            other => return other,
        }
    }
    Err(taken)
}

/// Sends packets in one piece or not at all (`IP_PMTUDISC_DO`): pieces have no time of their own.
fn whole(socket: &impl AsFd, target: SocketAddr) -> io::Result<()> {
    let (level, option, value) = if target.is_ipv6() {
        let value = libc::IPV6_PMTUDISC_DO;
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, value)
    } else {
        let value = libc::IP_PMTUDISC_DO;
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value)
    };
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
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The TTL or hop limit of the packets that a socket sends.
pub(super) fn ttl(socket: &impl AsFd, target: SocketAddr) -> Option<u8> {
    let ttl = if target.is_ipv6() {
        getsockopt(&socket.as_fd(), sockopt::Ipv6Ttl)
    } else {
        getsockopt(&socket.as_fd(), sockopt::Ipv4Ttl)
    };
    ttl.ok().and_then(|ttl| u8::try_from(ttl).ok())
}
