//! The path to a target: the longest packet that it takes ([`mtu`]), and its routers ([`hops`]).
//!
//! Both send the packets of [`socket`]: STAMP to a reflector, or echo requests to any machine. Ports,
//! identifier and addresses stay the same, so that routers with several ways choose the same one for
//! all of them. What routers say comes from the socket's error queue, so no raw socket is needed where
//! the kernel allows a datagram one.

use std::{net::SocketAddr, time::Duration};

use super::icmp::socket::Route;

pub mod hops;
pub mod mtu;
pub mod search;
pub mod socket;

/// Which packets are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// STAMP over UDP, which a reflector answers.
    Stamp,
    /// ICMP echo, which the kernel of any machine answers.
    Icmp,
}

impl Protocol {
    /// The word in the output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stamp => "stamp",
            Self::Icmp => "icmp",
        }
    }
}

/// What is sent, and to whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The target. Of ICMP the port is 0.
    pub target: SocketAddr,
    /// Which packets.
    pub protocol: Protocol,
    /// Where and how they go.
    pub route: Route,
    /// Time after which a packet without an answer is lost.
    pub timeout: Duration,
}
