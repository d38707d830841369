//! Two machines with routers between them, as network namespaces in a row.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use lpm_testbed::testbed::{Netns, NsChild, wait_reachable};
use serde_json::Value;

use crate::support::kernel::{path_of, process::lpm};

/// The reflector's port at the last machine.
const PORT: u16 = 8620;

/// How a target is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Stamp,
    Icmp,
}

/// Machines in a row. Before number n is the net 198.18.n.0/24, and `fd00:18:n::/64`.
pub(super) struct Line {
    pub(super) machines: Vec<Netns>,
}

impl Line {
    /// Makes a machine more than links. Each link has an MTU.
    pub(super) fn new(mtus: &[u32]) -> Self {
        let machines: Vec<Netns> = (0..=mtus.len())
            .map(|number| Netns::new(&format!("m{number}")).expect("a namespace"))
            .collect();
        let last = mtus.len();
        for (at, netns) in machines.iter().enumerate() {
            netns.sysctl("net.ipv4.ip_forward", "1").expect("a router");
            netns
                .sysctl("net.ipv6.conf.all.forwarding", "1")
                .expect("a router");
            // Tests ask more often than a router answers.
            netns
                .sysctl("net.ipv4.icmp_ratelimit", "0")
                .expect("no limit");
            netns
                .sysctl("net.ipv6.icmp.ratelimit", "0")
                .expect("no limit");
            netns
                .sysctl("net.ipv4.ping_group_range", "0 0")
                .expect("a range");
            let (Some(mtu), Some(next)) = (mtus.get(at), machines.get(at + 1)) else {
                continue;
            };
            netns.veth("next", next, "back", *mtu).expect("a link");
            let number = at + 1;
            for (netns, interface, host) in [(netns, "next", 1), (next, "back", 2)] {
                netns
                    .ip_batch(&format!(
                        "addr add 198.18.{number}.{host}/24 dev {interface}\n\
                         addr add fd00:18:{number}::{host}/64 dev {interface} nodad\n\
                         link set {interface} up"
                    ))
                    .expect("addresses");
            }
        }
        for (at, netns) in machines.iter().enumerate() {
            for net in 1..=last {
                // Nets further on lie behind the next machine, those before behind the one before.
                let by = if net > at + 1 {
                    Some((at + 1, 2))
                } else if net < at {
                    Some((at, 1))
                } else {
                    None
                };
                if let Some((via, host)) = by {
                    netns
                        .ip_batch(&format!(
                            "route add 198.18.{net}.0/24 via 198.18.{via}.{host}\n\
                             route add fd00:18:{net}::/64 via fd00:18:{via}::{host}"
                        ))
                        .expect("routes");
                }
            }
        }
        let line = Self { machines };
        for target in line.targets() {
            let address = target.parse().expect("an address");
            wait_reachable(&line.machines[0], address).expect("a way");
        }
        line
    }

    /// The addresses of the last machine.
    pub(super) fn targets(&self) -> [String; 2] {
        let net = self.machines.len() - 1;
        [format!("198.18.{net}.2"), format!("fd00:18:{net}::2")]
    }

    /// Gives a machine rules of nftables.
    pub(super) fn rules(&self, at: usize, rules: &str) {
        self.machines[at].output("nft", &[rules]).expect("rules");
    }

    /// Starts a reflector on the last machine. Dropping it kills it.
    pub(super) fn reflector(&self) -> NsChild {
        let netns = self.machines.last().expect("a machine");
        let mut command = lpm();
        command
            .args(["--netns", &path_of(netns), "reflect"])
            .args(["--listen", &format!("[::]:{PORT}")])
            .args(["--allow", "198.18.0.0/16", "--allow", "fd00::/8"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let child = netns.spawn(&mut command).expect("start lpm reflect");
        let mut line = String::new();
        let mut log = BufReader::new(child.stderr().expect("stderr"));
        log.read_line(&mut line).expect("read its log");
        assert!(line.contains("answering"), "{line}");
        child
    }

    /// Runs `lpm probe --format json` on the first machine. Gives its exit status, its records, and what
    /// it says.
    pub(super) fn probe(
        &self,
        by: By,
        target: &str,
        arguments: &[&str],
    ) -> (Option<i32>, Vec<Value>, String) {
        let (protocol, target) = match by {
            By::Icmp => ("icmp", target.to_owned()),
            By::Stamp if target.contains(':') => ("stamp", format!("[{target}]:{PORT}")),
            By::Stamp => ("stamp", format!("{target}:{PORT}")),
        };
        let mut command = lpm();
        command.args(["--netns", &path_of(&self.machines[0]), "probe"]);
        command.args(["--format", "json", "--protocol", protocol, &target]);
        let output = command.args(arguments).output().expect("run lpm probe");
        let lines = String::from_utf8_lossy(&output.stdout);
        let records = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), records, said)
    }
}
