//! Which next hops this host can have chosen for a sweep's packets: by what its kernel hashes, in
//! this network namespace. What routers beyond hash is not known.

use std::{fs, net::SocketAddr, path::Path};

/// `fib_multipath_hash_fields` of ip-sysctl.rst: the flow label, and the source port.
const FLOW_LABEL: u32 = 0x8;
const SOURCE_PORT: u32 = 0x10;

/// What this host's kernel does with flows that have several next hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// `net.ipv4.fib_multipath_hash_policy`, or that of `net.ipv6`. None: the kernel does not tell.
    pub policy: Option<u8>,
    /// Whether the source port counts. None: the policy is not known.
    pub ports: Option<bool>,
    /// Whether IPv6's flow label counts, if it is set by the program. None: the policy is not known.
    pub labels: Option<bool>,
}

impl Spread {
    /// Reads what the kernel says for packets to this target, in the calling thread's network
    /// namespace.
    #[must_use]
    pub fn read(target: SocketAddr) -> Self {
        let is_v6 = !target.ip().to_canonical().is_ipv4();
        let family = if is_v6 { "ipv6" } else { "ipv4" };
        let directory = Path::new("/proc/sys/net").join(family);
        let number = |name: &str| {
            let text = fs::read_to_string(directory.join(name)).ok()?;
            text.trim().parse::<u32>().ok()
        };
        let policy = number("fib_multipath_hash_policy");
        let fields = number("fib_multipath_hash_fields");
        Self::of(is_v6, policy, fields)
    }

    /// Tells what counts by the two settings (`fib_multipath_hash` of net/ipv4/route.c,
    /// `rt6_multipath_hash` of net/ipv6/route.c), for UDP packets of this host that are in no tunnel.
    #[must_use]
    pub fn of(is_v6: bool, policy: Option<u32>, fields: Option<u32>) -> Self {
        let (ports, labels) = match policy {
            // Addresses; IPv6 takes the flow label, too. Policy 2 asks for the packet inside a
            // tunnel, and there is none.
            Some(0 | 2) => (Some(false), Some(is_v6)),
            // Addresses, protocol and ports.
            Some(1) => (Some(true), Some(false)),
            Some(3) => {
                let has = |field| fields.map(|fields| fields & field != 0);
                let label = if is_v6 { has(FLOW_LABEL) } else { Some(false) };
                (has(SOURCE_PORT), label)
            }
            _ => (None, None),
        };
        Self {
            policy: policy.and_then(|policy| u8::try_from(policy).ok()),
            ports,
            labels,
        }
    }

    /// The most next hops that so many flows, which differ in what a sweep varies, can have had from
    /// this host. None: not known.
    #[must_use]
    pub fn most(&self, flows: usize) -> Option<usize> {
        match (self.ports, self.labels) {
            (Some(true), _) | (_, Some(true)) => Some(flows),
            (Some(false), Some(false)) => Some(flows.min(1)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_what_the_kernel_hashes() {
        let most = |is_v6, policy, fields| Spread::of(is_v6, policy, fields).most(16);
        for (is_v6, policy, fields, expected) in [
            (false, Some(0), None, Some(1)),
            (false, Some(1), None, Some(16)),
            (false, Some(2), None, Some(1)),
            (true, Some(0), None, Some(16)),
            (true, Some(1), None, Some(16)),
            (true, Some(2), None, Some(16)),
            // The kernel's own default: both addresses and the protocol.
            (false, Some(3), Some(0x7), Some(1)),
            (true, Some(3), Some(0x7), Some(1)),
            (true, Some(3), Some(0xf), Some(16)),
            (false, Some(3), Some(0xf), Some(1)),
            (false, Some(3), Some(0x37), Some(16)),
            (false, Some(3), None, None),
            (false, Some(9), None, None),
            (true, None, None, None),
        ] {
            assert_eq!(most(is_v6, policy, fields), expected, "{is_v6} {policy:?}");
        }
        let labels = Spread::of(true, Some(0), None);
        assert_eq!((labels.ports, labels.labels), (Some(false), Some(true)));
        let ports = Spread::of(true, Some(1), None);
        assert_eq!((ports.ports, ports.labels), (Some(true), Some(false)));
    }

    #[test]
    fn this_hosts_policy_is_read() {
        for target in ["198.18.0.1:862", "[fd00::1]:862", "[::ffff:198.18.0.1]:862"] {
            let target: SocketAddr = target.parse().expect("an address");
            let spread = Spread::read(target);
            assert!(spread.policy.is_some(), "{target}: {spread:?}");
        }
    }
}
