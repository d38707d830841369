//! A sender's socket.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    ops::RangeInclusive,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt},
};

use crate::active::{plan::Plan, socket::StampedSocket};

/// Opens the socket for a plan, at a port of this machine. 0: the kernel chooses the port.
pub(super) fn bind(plan: &Plan, port: u16) -> io::Result<StampedSocket> {
    let any: IpAddr = match plan.target {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => [0_u16; 8].into(),
    };
    let from = plan.from.unwrap_or(any);
    let socket = match &plan.ports {
        Some(ports) if port == 0 => bind_within(from, ports)?,
        _ => StampedSocket::bind(SocketAddr::new(from, port), false)?,
    };
    if let Some(interface) = &plan.interface {
        socket.bind_to_interface(interface)?;
    }
    whole(&socket, plan.target)?;
    if let SocketAddr::V6(target) = plan.target
        && target.flowinfo() != 0
    {
        label(&socket, target)?;
    }
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
    set(socket, level, option, &value.to_ne_bytes())
}

/// Sends with the flow label that stands in the target's address (`IPV6_FLOWINFO_SEND`).
///
/// A kernel in whose network namespace somebody has a label for himself wants a lease of each label
/// (`fl6_sock_lookup` of net/ipv6). So one is asked for that others may share. Where it is
/// refused and needed, the packets are refused, and are reported as such.
fn label(socket: &impl AsFd, target: SocketAddrV6) -> io::Result<()> {
    let send = libc::c_int::from(true).to_ne_bytes();
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_FLOWINFO_SEND, &send)?;
    // `struct in6_flowlabel_req` of linux/in6.h: the destination, the label, an action, who shares
    // it, flags, seconds to expire and to linger, padding.
    let mut lease = [0; 32];
    lease[..16].copy_from_slice(&target.ip().octets());
    lease[16..20].copy_from_slice(&target.flowinfo().to_ne_bytes());
    lease[21] = SHARED_BY_ANY;
    lease[22..24].copy_from_slice(&CREATE.to_ne_bytes());
    let _ = set(socket, libc::IPPROTO_IPV6, libc::IPV6_FLOWLABEL_MGR, &lease);
    Ok(())
}

/// `IPV6_FL_S_ANY` of linux/in6.h.
const SHARED_BY_ANY: u8 = 255;

/// `IPV6_FL_F_CREATE` of linux/in6.h.
const CREATE: u16 = 1;

/// Sets an option of a socket.
fn set(socket: &impl AsFd, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    // SAFETY: the pointer is to live bytes, and the length is theirs.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            value.as_ptr().cast(),
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
