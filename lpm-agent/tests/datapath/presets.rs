//! Each preset on interfaces that are named, and of the kinds, as those of its network: what is
//! attached to.

use std::path::Path;

use lpm_agent::config::Config;
use lpm_testbed::testbed::Netns;

use crate::support::kernel::{Agent, kernel_is_usable, native};

/// A network's interfaces on a node.
struct Case {
    preset: &'static str,
    /// Veths to pods, and others that end elsewhere.
    veths: &'static [&'static str],
    /// For `ip -batch`.
    others: &'static str,
    /// What must be watched, beside `eth0` (nic), in order of name.
    watched: &'static [(&'static str, &'static str)],
}

const CASES: [Case; 5] = [
    Case {
        preset: "aks-azure-cni",
        // enP* is the card under eth0, with the same packets.
        veths: &["azvc440f455693", "azv1f09aa3b21c", "enP38433s1"],
        others: "link add azure0 type bridge",
        watched: &[("azv1f09aa3b21c", "pod"), ("azvc440f455693", "pod")],
    },
    Case {
        preset: "aks-cilium",
        veths: &["lxc2f1e8a9c07d1", "lxc_health", "enP38433s1"],
        others: "link add cilium_host type veth peer name cilium_net\n\
                 link add cilium_vxlan type vxlan external dstport 8472",
        watched: &[("cilium_vxlan", "overlay"), ("lxc2f1e8a9c07d1", "pod")],
    },
    Case {
        preset: "flannel",
        veths: &["veth9f0c27ab"],
        others: "link add cni0 type bridge\n\
                 link add flannel.1 type vxlan id 1 dstport 8472 nolearning",
        watched: &[("flannel.1", "overlay"), ("veth9f0c27ab", "pod")],
    },
    Case {
        preset: "calico",
        veths: &["cali12d4a061371", "caliaf00b3c2d11"],
        // Not every kernel has IP in IP; another device without Ethernet header stands in for it.
        others: "link add bpfin.cali type veth peer name bpfout.cali\n\
                 link add vxlan.calico type vxlan id 4096 dstport 4789 nolearning\n\
                 tuntap add tunl0 mode tun",
        watched: &[
            ("cali12d4a061371", "pod"),
            ("caliaf00b3c2d11", "pod"),
            ("tunl0", "overlay"),
            ("vxlan.calico", "overlay"),
        ],
    },
    Case {
        preset: "l2sm",
        veths: &["veth77aa01bc", "ls1a2b33", "ls1a2b3p1999", "lspeer3"],
        // The CNI of the cluster is beside it.
        others: "link add br1 type bridge\nlink add br10 type bridge\n\
                 link add vxlan_sys_7000 type vxlan external dstport 7000\n\
                 link add flannel.1 type vxlan id 1 dstport 8472 nolearning",
        watched: &[
            ("flannel.1", "overlay"),
            ("veth77aa01bc", "pod"),
            ("vxlan_sys_7000", "overlay"),
        ],
    },
];

fn holds(case: &Case) {
    if !kernel_is_usable() {
        return;
    }
    let node = Netns::new("node").expect("a namespace");
    let elsewhere = Netns::new("pods").expect("a namespace");
    for (number, name) in ["eth0"].iter().chain(case.veths).enumerate() {
        let veth = node.veth(name, &elsewhere, &format!("peer{number}"), 1500);
        veth.expect("a veth");
    }
    node.ip_batch(case.others).expect("interfaces");
    let text = format!("preset: {}\n", case.preset);
    let config = Config::parse(&text, Path::new("lpm.yaml")).expect("a configuration");
    let agent = Agent::start(&node, config.rules(&[]), native());
    let mut expected: Vec<_> = [("eth0", "nic")]
        .iter()
        .chain(case.watched)
        .map(|(name, vantage)| ((*name).to_owned(), *vantage))
        .collect();
    expected.sort_unstable();
    let mut watched = agent.watched();
    watched.sort_unstable();
    assert_eq!(watched, expected, "{}", case.preset);
}

#[test]
fn azure_cni() {
    holds(&CASES[0]);
}

#[test]
fn cilium() {
    holds(&CASES[1]);
}

#[test]
fn flannel() {
    holds(&CASES[2]);
}

#[test]
fn calico() {
    holds(&CASES[3]);
}

#[test]
fn l2sm() {
    holds(&CASES[4]);
}
