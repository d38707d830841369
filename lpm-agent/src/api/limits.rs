//! The limits of the HTTP server: times, sizes, and shares of the descriptors.

use std::time::Duration;

/// Most descriptors that connections may take: one in so many of the process's limit. The others
/// are for interfaces, the kernel's maps, names and the API server.
const OF_DESCRIPTORS: u64 = 4;

/// Limits that hold for each connection, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time for the header of a request, from its first byte on. For the first request of a
    /// connection: from the connection's beginning, so that it also holds for clients that send
    /// nothing.
    pub header: Duration,
    /// Time that a connection may wait for its next request.
    pub idle: Duration,
    /// Time that a client may read nothing while there is something for it to read.
    pub unread: Duration,
    /// Time for a whole response, from the request's header on. Streams have no such limit.
    pub response: Duration,
    /// Requests on one connection. The last one's response closes the connection.
    pub requests: usize,
    /// Bytes of a request's header, and bytes that wait in memory to be written.
    pub buffer: usize,
    /// How many connections there may be.
    pub shares: Shares,
}

impl Limits {
    /// The limits of a process that may have this many descriptors.
    #[must_use]
    pub fn within(descriptors: u64) -> Self {
        Self {
            header: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            unread: Duration::from_secs(10),
            response: Duration::from_secs(30),
            requests: 100,
            buffer: 32 << 10,
            shares: Shares::within(descriptors),
        }
    }
}

/// How many connections each kind of clients may have. No kind can take another's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Clients of which nothing is known, all together.
    pub strangers: usize,
    /// One address, of strangers or of a node.
    pub address: usize,
    /// Nodes of the cluster, whose agents ask for names.
    pub nodes: usize,
    /// Clients on this machine, by a loopback address.
    pub loopback: usize,
    /// Clients on this machine, by a Unix socket.
    pub unix: usize,
    /// One user of this machine, by a Unix socket.
    pub user: usize,
    /// The listener for health checks.
    pub health: usize,
}

impl Shares {
    fn within(descriptors: u64) -> Self {
        let all = usize::try_from(descriptors / OF_DESCRIPTORS).unwrap_or(usize::MAX);
        let part = |of: usize, most: usize| (all / of).clamp(1, most);
        let (strangers, loopback) = (part(2, 256), part(8, 64));
        let (unix, health) = (part(16, 64), part(16, 16));
        let others = strangers + loopback + unix + health;
        Self {
            strangers,
            address: (strangers / 8).clamp(1, 16),
            // As many agents as the largest clusters have nodes.
            nodes: all.saturating_sub(others).clamp(1, 6_000),
            loopback,
            unix,
            user: (unix / 2).max(1),
            health,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(shares: &Shares) -> usize {
        shares.strangers + shares.nodes + shares.loopback + shares.unix + shares.health
    }

    #[test]
    fn connections_leave_descriptors_to_all_else() {
        let shares = Shares::within(1024);
        assert_eq!(sum(&shares), 256, "{shares:?}");
        let expected = (128, 16, 64, 32, 16);
        let Shares {
            strangers,
            address,
            nodes,
            loopback,
            health,
            ..
        } = shares;
        assert_eq!((strangers, address, nodes, loopback, health), expected);
        for descriptors in [64, 256, 4096, 65_536, 1 << 20, u64::MAX] {
            let shares = Shares::within(descriptors);
            assert!(sum(&shares) as u64 <= descriptors / 4 + 5, "{shares:?}");
            assert!(shares.address <= shares.strangers, "{shares:?}");
        }
        assert_eq!(Shares::within(1 << 20).nodes, 6_000);
    }
}
