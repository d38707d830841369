//! The node's own addresses.

use std::{io, net::IpAddr};

use nix::ifaddrs::getifaddrs;

/// Addresses of all interfaces of the calling thread's network namespace, without loopback ones,
/// sorted.
///
/// # Errors
/// rtnetlink cannot be asked.
pub fn own() -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = getifaddrs()?
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| !address.is_loopback())
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
