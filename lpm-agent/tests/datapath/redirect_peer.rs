//! Pods past whose veth a CNI redirects what is sent to them: the agent finds it, watches them
//! from where their packets enter the node, says so, and the round trips are true.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use lpm_testbed::{
    testbed::{
        Flavour, Impairment, Netns, Overlay, OverlayConfig, Pair, PairConfig, Redirect,
        RedirectedPod,
    },
    traffic::{Limit, PORT, Server},
    truth::{Echo, Leg, Method, Monitor, Sample, WireTruth},
};

use crate::support::paths::{
    agent, counted, eventually, file, kernel_is_usable, of, seen_at, speak, spread, talk, true_by,
    value, watched_as,
};

/// One way, across the wire.
const DELAY: Duration = Duration::from_millis(5);
const RTT_NS: f64 = 10e6;

/// What `lpm check` says of an interface.
fn check(netns: &Netns, interface: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lpm"));
    command.arg("--netns").arg(netns.path()).arg("check");
    let said = command.output().expect("lpm check").stdout;
    let said = String::from_utf8(said).expect("text");
    let line = said.lines().find(|line| line.starts_with(interface));
    line.unwrap_or_else(|| panic!("{interface} is not in {said}"))
        .to_owned()
}

fn one_sided(monitor: &Monitor, interface: &str) -> Option<f64> {
    value(
        monitor,
        &format!("lpm_interface_one_sided{{interface=\"{interface}\"}}"),
    )
}

#[test]
fn from_the_network_card_into_the_pod_and_back_again() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig {
        wire: Some(Impairment::delay(DELAY)),
        ..PairConfig::default()
    })
    .expect("the testbed");
    let interface = Pair::POD_INTERFACE;
    let pod = RedirectedPod {
        netns: &pair.client,
        interface,
        addresses: &Pair::CLIENT,
    };
    let redirect = Redirect::install(&pair.node, &[Pair::WIRE_INTERFACE], &[pod], false);
    let redirect = redirect.expect("the CNI");
    let _servers = [&pair.server, &pair.client].map(|at| Server::start(at, PORT).expect("server"));
    let configuration = file("interfaces: [{name: wire0, vantage: nic}]\n");
    let names = file(
        "- {cidr: 198.18.1.0/24, namespace: pods}\n- {cidr: 198.18.2.0/24, namespace: far}\n\
         - {cidr: \"fd00:18:1::/64\", namespace: pods}\n- {cidr: \"fd00:18:2::/64\", namespace: far}\n",
    );
    let monitor = agent(&pair.node, configuration.path(), names.path());
    assert!(watched_as(&monitor, interface, "pod"));

    // Its flows show it.
    let target = SocketAddr::new(Pair::SERVER[0], PORT);
    let (pairs, asking) = speak(&pair.client, target, Limit::default());
    eventually("the pod is watched as node", || {
        watched_as(&monitor, interface, "node")
    });
    assert_eq!(one_sided(&monitor, interface), Some(1.0));
    let said = monitor.said();
    assert!(
        said.contains("vethclient carries one direction only"),
        "{said}"
    );
    let line = check(&pair.node, interface);
    assert!(
        line.contains(" node ") && line.contains("redirects"),
        "{line}"
    );
    pairs.stop().expect("it ends well");
    asking.stop().expect("it ends well");

    // IPv4 and IPv6, connections from the pod and to it.
    monitor.settle().expect("all samples");
    drop(monitor.take_samples());
    drop(pair.wire().take_records());
    let before = counted(&monitor, "pods", "far");
    for (own, far) in Pair::CLIENT.into_iter().zip(Pair::SERVER) {
        talk(&pair.client, far, 60);
        talk(&pair.server, own, 60);
        monitor.settle().expect("all samples");
        let samples = monitor.take_samples();
        assert_eq!(pair.wire().missed().expect("a count"), 0);
        let wire = WireTruth::new(&pair.wire().take_records());
        let found = of(&samples, interface, [own, far]);
        let remote = true_by(&wire, &found);
        let prompt = spread(&found, Leg::Remote, Echo::Prompt).expect("prompt echoes");
        println!(
            "{own}: {} samples, {remote} remote, prompt {prompt:?}",
            found.len()
        );
        assert!(found.iter().all(|s| s.vantage == "node"));
        assert!(remote >= 60 && prompt.count >= 3, "{prompt:?}");
        assert!(prompt.min >= RTT_NS && prompt.min < 1.3 * RTT_NS);
        // The local leg has none of the wire.
        let local = spread(&found, Leg::Local, Echo::Prompt).expect("the local leg");
        assert!(local.min < RTT_NS / 2.0, "{local:?}");
        // Handshakes both ways, those that began with a SYN to the pod included.
        for leg in [Leg::Remote, Leg::Local] {
            let shakes = found.iter().filter(|s| s.method == Method::Handshake);
            let shakes = shakes.filter(|s| s.leg == leg).count();
            assert!(shakes >= 4, "{shakes} handshakes of the {leg:?} leg");
        }
        let vantages = seen_at(&samples);
        assert!(vantages.len() == 2, "the pod and the card: {vantages:?}");
    }
    // Each sample of the pod counts once.
    let samples = counted(&monitor, "pods", "far") - before;
    assert!(samples > 200, "{samples}");
    assert_eq!(counted(&monitor, "far", "pods"), 0);

    // Without an agent the interface's own counters hint at it.
    drop(monitor);
    let line = check(&pair.node, interface);
    assert!(
        line.contains("if the CNI redirects packets past it"),
        "{line}"
    );
    let monitor = agent(&pair.node, configuration.path(), names.path());
    let (pairs, asking) = speak(&pair.client, target, Limit::default());
    eventually("the pod is watched as node by the next agent", || {
        watched_as(&monitor, interface, "node")
    });
    pairs.stop().expect("it ends well");
    asking.stop().expect("it ends well");

    // The CNI stops redirecting: back to the veth.
    drop(redirect);
    goes_back(&pair, &monitor);
}

/// With traffic at the veth both ways, the pod is watched there again.
fn goes_back(pair: &Pair, monitor: &Monitor) {
    let (interface, target) = (Pair::POD_INTERFACE, SocketAddr::new(Pair::SERVER[0], PORT));
    let (pairs, asking) = speak(&pair.client, target, Limit::default());
    eventually("the pod is watched at its veth again", || {
        watched_as(monitor, interface, "pod")
    });
    eventually("both directions", || {
        one_sided(monitor, interface) == Some(0.0)
    });
    drop(monitor.take_samples());
    monitor
        .wait_for("samples at the veth", |samples| {
            samples.iter().filter(|s| s.vantage == "pod").count() > 50
        })
        .expect("samples");
    pairs.stop().expect("it ends well");
    asking.stop().expect("it ends well");
}

#[test]
fn between_pods_of_a_node_and_across_the_overlay() {
    if !kernel_is_usable() {
        return;
    }
    let overlay = Overlay::new(&OverlayConfig {
        pods_per_node: 2,
        wire: Impairment::delay(DELAY),
        ..OverlayConfig::new(Flavour::Flannel)
    })
    .expect("the overlay");
    let node = &overlay.nodes[0];
    let [a0, a1, b0] = ["a0", "a1", "b0"].map(|name| overlay.pod(name));
    let addresses = [a0, a1].map(|pod| [IpAddr::V4(pod.v4), IpAddr::V6(pod.v6)]);
    let redirected =
        [(a0, &addresses[0]), (a1, &addresses[1])].map(|(pod, addresses)| RedirectedPod {
            netns: &pod.netns,
            interface: &pod.interface,
            addresses,
        });
    let hooks = [overlay.flavour.vxlan(), &a0.interface, &a1.interface];
    let _redirect = Redirect::install(node, &hooks, &redirected, true).expect("the CNI");
    let names: String = [(a0, "alpha"), (a1, "beta"), (b0, "gamma")]
        .map(|(pod, namespace)| format!("- {{address: {}, namespace: {namespace}}}\n", pod.v4))
        .concat();
    let (configuration, names) = (file("attach: netlink\n"), file(&names));
    let _servers = [a1, b0].map(|pod| Server::start(&pod.netns, PORT).expect("a server"));
    let monitor = agent(node, configuration.path(), names.path());
    let begin = |pod: &lpm_testbed::testbed::Pod| {
        speak(
            &a0.netns,
            SocketAddr::new(pod.v4.into(), PORT),
            Limit::default(),
        )
    };
    let learning = [begin(a1), begin(b0)];
    for pod in [a0, a1] {
        eventually("both pods are watched as node", || {
            watched_as(&monitor, &pod.interface, "node")
        });
    }
    for (pairs, asking) in learning {
        pairs.stop().expect("it ends well");
        asking.stop().expect("it ends well");
    }
    monitor.settle().expect("all samples");
    drop(monitor.take_samples());
    drop(overlay.wire.take_records());
    let pairs = [
        ("alpha", "beta"),
        ("beta", "alpha"),
        ("alpha", "gamma"),
        ("gamma", "alpha"),
    ];
    let before = pairs.map(|(one, other)| counted(&monitor, one, other));

    let [first, second, far] = [a0, a1, b0].map(|pod| IpAddr::V4(pod.v4));
    talk(&a0.netns, second, 60);
    talk(&a0.netns, far, 60);
    talk(&b0.netns, second, 60);
    monitor.settle().expect("all samples");
    let samples = monitor.take_samples();
    let wire = WireTruth::new(&overlay.wire.take_records());
    let at = |interface: &str, ends| of(&samples, interface, ends);

    // Across the overlay: true by the wire's log, also where the pod is the server.
    for (pod, own) in [(a0, first), (a1, second)] {
        let found = at(&pod.interface, [own, far]);
        let remote = true_by(&wire, &found);
        println!("{own} to {far}: {} samples, {remote} remote", found.len());
        assert!(remote > 20 && found.iter().all(|s| s.vantage == "node"));
    }
    // Between the pods: each has the flow once.
    let (near, peer) = (
        at(&a0.interface, [first, second]),
        at(&a1.interface, [first, second]),
    );
    each_from_its_own_side(&near, &peer, first);

    // Each aggregate takes each sample once.
    let now = pairs.map(|(one, other)| counted(&monitor, one, other));
    let grown: Vec<u64> = now
        .iter()
        .zip(before)
        .map(|(now, before)| now - before)
        .collect();
    let expected = [
        near.len(),
        peer.len(),
        at(&a0.interface, [first, far]).len(),
        0,
    ];
    assert_eq!(grown, expected.map(|count| count as u64));
}

/// What one pod sent is the remote leg at its own veth and the local one at the other's, and none
/// of it crossed the wire.
fn each_from_its_own_side(near: &[&Sample], peer: &[&Sample], sender: IpAddr) {
    println!("{} samples, {} at the peer", near.len(), peer.len());
    assert!(near.len() > 50 && peer.len() > 50);
    let stamps = |samples: &[&Sample], leg: Leg| -> BTreeSet<u32> {
        let sent = samples.iter().filter(|s| s.leg == leg && s.src == sender);
        sent.map(|s| s.id).collect()
    };
    let remote = stamps(near, Leg::Remote);
    let both = remote.intersection(&stamps(peer, Leg::Local)).count();
    assert!(both > 20, "{both} TSvals at both");
    let fastest = near.iter().chain(peer).map(|s| s.rtt_ns).min();
    let fastest = Duration::from_nanos(fastest.unwrap_or(u64::MAX));
    assert!(fastest < DELAY, "{fastest:?}: across the wire?");
}
