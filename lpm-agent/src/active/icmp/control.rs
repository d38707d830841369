//! What the kernel's control messages and addresses say.

use std::net::SocketAddr;

use nix::sys::{
    socket::{SockaddrStorage, Timestamps},
    time::TimeSpec,
};

use crate::active::socket::{Source, Stamp};

/// The kernel's time in a control message. A time of all zeros is none, nor is one beyond the range.
pub(in crate::active) fn stamp_of(times: &Timestamps) -> Option<Stamp> {
    let time: &TimeSpec = &times.system;
    let whole = time.tv_sec().checked_mul(1_000_000_000)?;
    let nanoseconds = whole.checked_add(time.tv_nsec())?;
    (nanoseconds != 0).then_some(Stamp {
        nanoseconds,
        source: Source::Kernel,
    })
}

/// The address and port in a socket address of IPv4 or IPv6.
pub(in crate::active) fn address_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddr::from((v6.ip(), v6.port())))
}
