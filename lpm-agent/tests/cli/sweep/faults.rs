//! One of 16 paths loses or delays: its source ports are named, and no others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lpm_testbed::testbed::{
    Impairment, Multipath, Netns,
    wire::{Loss, PacketView},
};

use super::{BAD, PORT, PORTS, multipath, reflect, sweep, truth::Truth};
use crate::support::turn;

/// The ports whose packets left by the bad link.
fn by_bad_link(truth: &BTreeMap<u64, BTreeSet<String>>) -> BTreeSet<u64> {
    for (port, links) in truth {
        assert_eq!(links.len(), 1, "{port} did not stay on one path: {links:?}");
    }
    let bad = format!("p{BAD}");
    let bad = truth.iter().filter(|(_, links)| links.contains(&bad));
    bad.map(|(port, _)| *port).collect()
}

pub(super) fn is_udp(view: &PacketView<'_>) -> bool {
    let protocol = match view.frame.get(12..14) {
        Some([8, 0]) => view.frame.get(23),
        Some([0x86, 0xdd]) => view.frame.get(20),
        _ => None,
    };
    protocol == Some(&17)
}

/// What the bad link does, and the ground on which it is to be found.
fn faults() -> [(&'static str, Impairment, &'static str); 3] {
    let losing = |loss| Impairment {
        loss,
        ..Impairment::default()
    };
    // Neighbours are to find each other all the same.
    let some =
        |view: &PacketView<'_>| is_udp(view) && fastrand::Rng::with_seed(view.index).f64() < 0.3;
    [
        ("drops 30 %", losing(Loss::when(some)), "loss"),
        ("drops all", losing(Loss::when(is_udp)), "loss"),
        (
            "adds 5 ms",
            Impairment::delay(Duration::from_millis(5)),
            "delay",
        ),
    ]
}

/// Sweeps for each fault of a network, and holds what is named against the truth.
fn faults_are_named(network: &Multipath, from: &Netns, target: IpAddr, filter: &str) {
    for (what, impairment, ground) in faults() {
        network.impair(impairment);
        let (mut said, mut truth);
        let ports = PORTS.to_string();
        let arguments = ["--paths", &ports, "-c", "100", "-i", "0.03", "-W", "0.5"];
        loop {
            let capture = Truth::start(&network.near, filter);
            said = sweep(from, target, &arguments);
            truth = capture.end();
            assert_eq!(truth.len(), usize::from(PORTS), "{truth:?}");
            if !by_bad_link(&truth).is_empty() {
                break;
            }
        }
        let (bad, expected) = (said.bad(), by_bad_link(&truth));
        let links: BTreeSet<&String> = truth.values().flatten().collect();
        eprintln!(
            "to {target}, a path {what}: {PORTS} ports took {} of 16 links; named {bad:?}, by the \
             bad link went {expected:?}",
            links.len()
        );
        assert_eq!(bad, expected, "{what}: {:?}", said.summary);
        for path in said.paths.iter().filter(|path| path["bad"] == true) {
            let chance = path["grounds"][ground].as_f64();
            assert!(chance.is_some_and(|chance| chance < 1e-5), "{what}: {path}");
        }
    }
}

/// The links between two machines that choose by themselves.
fn direct(is_v6: bool, policy: u8) {
    turn::take();
    let network = multipath(Some(BAD), policy);
    let _reflector = reflect(&network.far);
    let target = Multipath::FAR[usize::from(is_v6)];
    let filter = format!("udp dst port {PORT}");
    faults_are_named(&network, &network.near, target, &filter);
}

#[test]
fn a_bad_path_is_named_over_ipv4_by_ports() {
    direct(false, 1);
}

#[test]
fn a_bad_path_is_named_over_ipv6_by_labels() {
    direct(true, 0);
}

#[test]
fn a_bad_path_is_named_over_ipv6_by_ports() {
    direct(true, 1);
}

/// The tunnel's outer source port comes from the inner packet's hash, and the routers choose by it.
#[test]
fn a_bad_path_is_named_through_a_vxlan() {
    turn::take();
    let network = multipath(Some(BAD), 1);
    let hosts = network.overlay().expect("a VxLAN");
    let _reflector = reflect(&hosts[1]);
    for target in Multipath::BEYOND {
        faults_are_named(&network, &hosts[0], target, "udp dst port 4789");
    }
}
