//! What is known of a link beside its probes. It is asked for only while probes are silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use serde::Serialize;

/// What stands around a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The kernel's entry of the peer's address.
    pub neighbour: Neighbour,
    /// Whether the API, or the names file, has the peer's address.
    pub presence: Presence,
    /// Flows of others between the two nodes.
    pub passive: Passive,
}

/// What the kernel knows of an address of a directly connected network (ARP, ND).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Neighbour {
    /// There is no entry: the peer is behind a router, or nobody looked.
    #[default]
    Unknown,
    /// It was confirmed so long ago.
    Confirmed(Duration),
    /// It does not answer.
    Failed,
}

/// Whether a peer is among the nodes that the agent knows by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It never was.
    #[default]
    Unknown,
    /// It is.
    Present,
    /// It was, and is not any more.
    Removed,
}

/// What passive measurement knows of two nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passive {
    /// Nothing: the agent does not measure passively.
    #[default]
    Unknown,
    /// No round trip was measured, as far as it has looked.
    Silent,
    /// A round trip was measured so long ago at most.
    Alive(Duration),
}

/// Paths to a peer, of which some are bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Paths {
    /// Paths that lose or delay packets beyond the others.
    pub bad: u32,
    /// Paths that were tried.
    pub of: u32,
}

impl Paths {
    /// Whether some are bad and others are not.
    #[must_use]
    pub const fn is_partly_bad(self) -> bool {
        0 < self.bad && self.bad < self.of
    }
}

/// Passive measurement of the traffic between this node and its peers.
pub trait PassiveLiveness: Send + Sync + fmt::Debug {
    /// Looks whether round trips were measured with these peers since the look before, in one pass
    /// over the flows. A peer is given by the address that is probed; flows of its node's pods count.
    /// A peer that is left out is [`Passive::Unknown`].
    fn look(&self, peers: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Passive>;
}
