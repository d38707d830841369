//! The places that see a flow: IPv4 and IPv6, tagged frames, the overlay's
//! device in each flavour, pods of one node. Each counts a flow for itself, and
//! each aggregate takes it at one of them.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use lpm_testbed::{
    testbed::{DelayLine, Flavour, Impairment, Netns, Overlay, OverlayConfig, VlanPair},
    traffic::{
        Background, Limit, PORT, PacedConfig, PacedSize, RequestConfig, Server, paced, requests,
    },
    truth::{Echo, Leg, Monitor, Sample, Spread, WireTruth},
};

use crate::support::kernel::kernel_is_usable;

/// One way, across the wire.
const DELAY: Duration = Duration::from_millis(5);
const RTT_NS: f64 = 10e6;

fn monitor(netns: &Netns, arguments: &[&str]) -> Monitor {
    let lpm = Path::new(env!("CARGO_BIN_EXE_lpm"));
    Monitor::start(lpm, netns, arguments).expect("an agent")
}

/// Segments in pairs, and requests.
fn talk(client: &Netns, server: IpAddr) {
    let target = SocketAddr::new(server, PORT);
    let pairs = PacedConfig {
        target,
        size: PacedSize::Segments(4),
        period: Duration::from_millis(7),
        limit: Limit::count(60),
    };
    let asking = RequestConfig {
        limit: Limit::count(60),
        period: Duration::from_millis(7),
        ..RequestConfig::new(target)
    };
    let pairs = Background::start(client, move |c| paced(&pairs, c)).expect("a client");
    let asking = Background::start(client, move |c| requests(&asking, c)).expect("a client");
    pairs.join().expect("it ends well");
    asking.join().expect("it ends well");
}

/// Whether a sample is of a flow between two addresses.
fn between(sample: &Sample, one: IpAddr, other: IpAddr) -> bool {
    [sample.src, sample.dst] == [one, other] || [sample.src, sample.dst] == [other, one]
}

/// The samples that an interface has of the flows between two addresses.
fn of<'a>(samples: &'a [Sample], interface: &str, ends: [IpAddr; 2]) -> Vec<&'a Sample> {
    let fits = |s: &&Sample| s.interface == interface && between(s, ends[0], ends[1]);
    samples.iter().filter(fits).collect()
}

fn spread(samples: &[&Sample], leg: Leg, echo: Echo) -> Option<Spread> {
    let fits = |s: &&&Sample| s.leg == leg && s.echo == echo;
    Spread::of_times(samples.iter().filter(fits).map(|s| s.rtt_ns))
}

/// A vantage before the wire: the remote leg has the wire's delay and is true
/// by its log, the local leg has none of it.
fn beyond_is_the_wire(what: &str, samples: &[&Sample], vantage: &str, wire: &WireTruth) {
    let prompt = spread(samples, Leg::Remote, Echo::Prompt)
        .unwrap_or_else(|| panic!("{what}: no prompt sample among {}", samples.len()));
    println!("{what}: {} samples, prompt {prompt:?}", samples.len());
    for sample in samples {
        assert_eq!(sample.vantage, vantage, "{what}");
        if sample.leg == Leg::Remote {
            let truth = wire.truth(sample);
            let truth = truth.unwrap_or_else(|| panic!("{what}: a false sample: {sample:?}"));
            // Stored in units of 64 ns, both ends.
            assert!(
                sample.rtt_ns + 200 >= truth.beyond_ns && sample.rtt_ns + 200 >= truth.delay_ns,
                "{what}: {sample:?} is shorter than {truth:?}"
            );
        }
    }
    // A busy machine lets few pass within 10 us of each other.
    assert!(prompt.count >= 5, "{what}: {prompt:?}");
    assert!(
        prompt.min >= RTT_NS && prompt.p50 < 1.3 * RTT_NS,
        "{what}: {prompt:?}"
    );
    let local = samples.iter().filter(|s| s.leg == Leg::Local);
    let local = Spread::of_times(local.filter(|s| s.echo == Echo::Lone).map(|s| s.rtt_ns));
    if let Some(local) = local {
        println!("{what}: local {local:?}");
        assert!(local.min < RTT_NS / 2.0, "{what}: {local:?}");
    }
    assert!(
        samples.iter().any(|s| s.leg == Leg::Local),
        "{what}: nothing of the local leg"
    );
}

fn wire_truth(wire: &DelayLine) -> WireTruth {
    assert_eq!(wire.missed().expect("a count"), 0, "the log is complete");
    WireTruth::new(&wire.take_records())
}

/// Pods `a0` and `a1` on one node, `b0` beyond the wire; the agent on the node
/// of `a`. All see IPv4 and IPv6 at the pod's veth and at the overlay's device.
fn overlay(flavour: Flavour) {
    if !kernel_is_usable() {
        return;
    }
    let overlay = Overlay::new(&OverlayConfig {
        pods_per_node: 2,
        wire: Impairment::delay(DELAY),
        ..OverlayConfig::new(flavour)
    })
    .expect("the overlay");
    let (client, server) = (overlay.pod("a0"), overlay.pod("b0"));
    let _server = Server::start(&server.netns, PORT).expect("a server");
    let monitor = monitor(&overlay.nodes[0], &[]);
    for (own, other) in [
        (IpAddr::V4(client.v4), IpAddr::V4(server.v4)),
        (client.v6.into(), server.v6.into()),
    ] {
        talk(&client.netns, other);
        monitor.settle().expect("all samples");
        let samples = monitor.take_samples();
        let wire = wire_truth(&overlay.wire);
        for (interface, vantage) in [(&*client.interface, "pod"), (flavour.vxlan(), "overlay")] {
            let found = of(&samples, interface, [own, other]);
            let what = format!("{flavour:?} {own} at {interface}");
            beyond_is_the_wire(&what, &found, vantage, &wire);
        }
        let elsewhere = samples.iter().find(|s| {
            between(s, own, other)
                && s.interface != client.interface
                && s.interface != flavour.vxlan()
        });
        assert_eq!(elsewhere, None, "seen where it does not pass");
    }
}

#[test]
fn overlay_as_l2sm_lays_it_out() {
    overlay(Flavour::L2sm);
}

#[test]
fn overlay_as_flannel_lays_it_out() {
    overlay(Flavour::Flannel);
}

#[test]
fn overlay_without_ethernet_headers() {
    overlay(Flavour::Layer3);
}

#[test]
fn tagged_frames() {
    if !kernel_is_usable() {
        return;
    }
    // From the client and to it: the same, another, none, another in another.
    let ways: [[&[u16]; 2]; 6] = [
        [&[100], &[100]],
        [&[7, 9], &[7, 9]],
        [&[30], &[40]],
        [&[3136], &[]],
        [&[], &[3136]],
        [&[1042, 120], &[1041, 120]],
    ];
    for ids in ways {
        let pair = VlanPair::with(ids).expect("the testbed");
        pair.set(&Impairment::default(), &Impairment::delay(DELAY));
        let _server = Server::start(&pair.server, PORT).expect("a server");
        let monitor = monitor(&pair.node, &["-i", VlanPair::CLIENT_INTERFACE]);
        for server in VlanPair::server_addresses() {
            talk(&pair.client, server);
            monitor.settle().expect("all samples");
            let samples = monitor.take_samples();
            let samples: Vec<&Sample> = samples.iter().collect();
            assert!(
                samples.iter().all(|s| s.vlan == ids[0].first().copied()),
                "{samples:?}"
            );
            let what = format!("tags {ids:?}, {server}");
            let vantage = samples
                .first()
                .map_or("", |s| s.vantage.as_str())
                .to_owned();
            beyond_is_the_wire(&what, &samples, &vantage, &wire_truth(&pair.far));
        }
        let differ = ids[0] != ids[1];
        let metrics = monitor.metrics().expect("metrics");
        assert!(metrics.contains(JOINED) && metrics.contains(AMBIGUOUS));
        let joined = monitor.counter(JOINED).expect("a count");
        assert_eq!(joined > 0, differ, "{ids:?}: {joined}");
        assert_eq!(monitor.counter(AMBIGUOUS).expect("a count"), 0, "{ids:?}");
    }
}

const JOINED: &str = "lpm_vlan_joins_total{of=\"flow\",result=\"joined\"}";
const AMBIGUOUS: &str = "lpm_vlan_joins_total{of=\"flow\",result=\"ambiguous\"}";

#[test]
fn a_direction_in_two_vlans_is_said() {
    if !kernel_is_usable() {
        return;
    }
    let pair = VlanPair::with([&[30], &[40]]).expect("the testbed");
    pair.set(&Impairment::default(), &Impairment::delay(DELAY));
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let monitor = monitor(&pair.node, &["-i", VlanPair::CLIENT_INTERFACE]);
    let target = SocketAddr::new(VlanPair::server_addresses()[0], PORT);
    let asking = RequestConfig {
        limit: Limit::count(150),
        period: Duration::from_millis(7),
        ..RequestConfig::new(target)
    };
    let asking = Background::start(&pair.client, move |c| requests(&asking, c)).expect("a client");
    let wait = monitor.wait_for("samples", |samples| samples.len() > 20);
    wait.expect("they are measured as one");
    pair.from_client_in(&[31]);
    asking.join().expect("it ends well");
    monitor.settle().expect("all samples");
    let wire = wire_truth(&pair.far);
    let samples = monitor.take_samples();
    for sample in samples.iter().filter(|s| s.leg == Leg::Remote) {
        assert!(wire.truth(sample).is_some(), "a false sample: {sample:?}");
    }
    println!("{} samples", samples.len());
    assert!(monitor.counter(AMBIGUOUS).expect("a count") >= 1);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !monitor.said().contains("lpm_vlan_joins_total") {
        assert!(Instant::now() < deadline, "it said {:?}", monitor.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(monitor.said().matches("lpm_vlan_joins_total").count(), 1);
}

/// The observations of `lpm_rtt_seconds` for a pair of namespaces.
fn counted(monitor: &Monitor, one: &str, other: &str) -> u64 {
    let series = format!("lpm_rtt_seconds_count{{namespace=\"{one}\",peer_namespace=\"{other}\"");
    let metrics = monitor.metrics().expect("metrics");
    let lines = metrics.lines().filter(|line| line.starts_with(&series));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}

#[test]
fn each_aggregate_takes_a_flow_once() {
    if !kernel_is_usable() {
        return;
    }
    let overlay = Overlay::new(&OverlayConfig {
        pods_per_node: 2,
        wire: Impairment::delay(DELAY),
        ..OverlayConfig::new(Flavour::Flannel)
    })
    .expect("the overlay");
    let [a0, a1, b0] = ["a0", "a1", "b0"].map(|name| overlay.pod(name));
    let mut names = tempfile::NamedTempFile::new().expect("a file");
    for (pod, namespace) in [(a0, "alpha"), (a1, "beta"), (b0, "gamma")] {
        let (v4, name) = (pod.v4, &pod.name);
        writeln!(
            names,
            "- {{address: {v4}, namespace: {namespace}, pod: {name}}}"
        )
        .expect("write");
    }
    let servers = [a1, b0].map(|pod| Server::start(&pod.netns, PORT).expect("a server"));
    let path = names.path().to_str().expect("a path");
    let monitor = monitor(&overlay.nodes[0], &["--names", path]);
    talk(&a0.netns, a1.v4.into());
    talk(&a0.netns, b0.v4.into());
    monitor.settle().expect("all samples");
    let samples = monitor.samples();
    let at = |interface: &str, one: &IpAddr, other: &IpAddr| {
        of(&samples, interface, [*one, *other]).len() as u64
    };
    let [first, second, far] = [a0, a1, b0].map(|pod| IpAddr::V4(pod.v4));

    // Pods of one node: two veths see the flow, each end counts at its own.
    let (near, peer) = (
        at(&a0.interface, &first, &second),
        at(&a1.interface, &first, &second),
    );
    println!(
        "a0 to a1: {near} samples at {}, {peer} at {}",
        a0.interface, a1.interface
    );
    assert!(near > 50 && peer > 50);
    assert_eq!(counted(&monitor, "alpha", "beta"), near);
    assert_eq!(counted(&monitor, "beta", "alpha"), peer);
    let legs = |interface: &str, leg: Leg| {
        let found = of(&samples, interface, [first, second]);
        let times = found.iter().filter(|s| s.leg == leg && s.src == first);
        times
            .map(|s| s.id)
            .collect::<std::collections::BTreeSet<_>>()
    };
    // What a0 sent is the remote leg at its own veth, and the local one at its peer's.
    let both: Vec<_> = legs(&a0.interface, Leg::Remote)
        .intersection(&legs(&a1.interface, Leg::Local))
        .copied()
        .collect();
    assert!(both.len() > 50, "{} TSvals at both", both.len());

    // Across the overlay: the veth and the device see it, the namespaces get the veth's.
    let near = at(&a0.interface, &first, &far);
    let device = at(overlay.flavour.vxlan(), &first, &far);
    println!(
        "a0 to b0: {near} samples at {}, {device} at the device",
        a0.interface
    );
    assert!(near > 50 && device > 50);
    assert_eq!(counted(&monitor, "alpha", "gamma"), near);
    assert_eq!(counted(&monitor, "gamma", "alpha"), 0);
    drop(servers);
}
