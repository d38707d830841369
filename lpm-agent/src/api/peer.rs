//! The other end of a connection.

use std::net::{IpAddr, SocketAddr};

/// Who is at the other end of a connection, as the kernel says it. Each request carries it in its
/// extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client that came by TCP, with or without TLS: its address and port.
    Tcp(SocketAddr),
    /// A process that came by a Unix socket: what `SO_PEERCRED` told when it connected.
    Unix {
        /// User of the process.
        uid: u32,
        /// Group of the process.
        gid: u32,
        /// Number of the process. `None`: the kernel did not tell it.
        pid: Option<i32>,
    },
}

impl Peer {
    /// The client's IP address, an IPv4 address in IPv6 as the former. `None`: it came by a Unix
    /// socket.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(at) => Some(at.ip().to_canonical()),
            Self::Unix { .. } => None,
        }
    }

    /// True for a client on this machine: by a loopback address or a Unix socket.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.address().is_none_or(|address| address.is_loopback())
    }
}
