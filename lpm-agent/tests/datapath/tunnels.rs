//! The flows inside an overlay's packets, seen at the network card under it:
//! each beside those of other networks with the same addresses, in one level
//! of tunnels and in two.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use lpm_testbed::{
    testbed::{
        DelayLine, Flavour, Impairment, Netns, Overlay, OverlayConfig, WireEnd, wait_reachable,
    },
    traffic::{Background, BulkConfig, Limit, PORT, RequestConfig, Server, bulk, requests},
    truth::{Echo, Leg, Monitor, Sample, Spread, Tunnel, WireTruth},
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use serde_json::Value;

use crate::support::kernel::kernel_is_usable;

/// How long anything may take before a test fails; far more than it ever needs.
const LIMIT: Duration = Duration::from_secs(30);

/// One way, across the wire.
const DELAY: Duration = Duration::from_millis(2);
const RTT_NS: u64 = 4_000_000;

/// An agent that looks into the tunnels at `eth0`.
fn monitor(node: &Netns, tunnels: &str) -> Monitor {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(
        file,
        "interfaces: [{{name: eth0, vantage: nic, inner: true}}]\ntunnels: {tunnels}\nwindow: 1s"
    )
    .expect("write");
    let lpm = Path::new(env!("CARGO_BIN_EXE_lpm"));
    let path = file.path().to_str().expect("a path");
    Monitor::start(lpm, node, &["-c", path]).expect("an agent")
}

fn vxlan(vni: u32) -> Tunnel {
    let kind = "vxlan".to_owned();
    Tunnel { kind, vni }
}

fn between(sample: &Sample, one: IpAddr, other: IpAddr) -> bool {
    [sample.src, sample.dst] == [one, other] || [sample.src, sample.dst] == [other, one]
}

/// Packets and bytes by direction of the flows to a port, by interface.
fn traffic(monitor: &Monitor, port: u16) -> BTreeMap<String, [u64; 4]> {
    let mut all: BTreeMap<String, [u64; 4]> = BTreeMap::new();
    for flow in monitor.list("flows?all=true").expect("flows") {
        if flow["remote"]["port"] != port {
            continue;
        }
        let interface = flow["interface"].as_str().expect("a name").to_owned();
        let sums = all.entry(interface).or_default();
        let numbers = [
            ("packets", "from_local"),
            ("packets", "to_local"),
            ("bytes", "from_local"),
            ("bytes", "to_local"),
        ];
        for (sum, (what, way)) in sums.iter_mut().zip(numbers) {
            *sum += flow[what][way].as_u64().expect("a number");
        }
    }
    all
}

/// A pod's flow is seen at its veth, at the overlay's device and, inside the
/// tunnel, at the card: the same packets and bytes at the latter two, round
/// trips as true as the wire's log, and one count in the aggregate.
fn at_the_card(flavour: Flavour, tunnels: &str) {
    if !kernel_is_usable() {
        return;
    }
    let overlay = Overlay::new(&OverlayConfig {
        wire: Impairment::delay(DELAY),
        ..OverlayConfig::new(flavour)
    })
    .expect("the overlay");
    let (client, server) = (overlay.pod("a0"), overlay.pod("b0"));
    let _server = Server::start(&server.netns, PORT).expect("a server");
    let monitor = monitor(&overlay.nodes[0], tunnels);
    for (own, other) in [
        (IpAddr::V4(client.v4), IpAddr::V4(server.v4)),
        (client.v6.into(), server.v6.into()),
    ] {
        let target = SocketAddr::new(other, PORT);
        let asking = RequestConfig {
            limit: Limit::count(40),
            period: Duration::from_millis(5),
            ..RequestConfig::new(target)
        };
        let asking = Background::start(&client.netns, move |c| requests(&asking, c));
        asking.expect("a client").join().expect("it ends well");
        // Large enough for packets that the kernel merges and splits.
        let sending = BulkConfig {
            target,
            limit: Limit::count(2_000_000),
            verify: false,
        };
        let sending = Background::start(&client.netns, move |c| bulk(&sending, c));
        sending.expect("a client").join().expect("it ends well");
        monitor.settle().expect("all samples");
        let samples = monitor.take_samples();
        assert_eq!(overlay.wire.missed().expect("a count"), 0);
        let wire = WireTruth::new(&overlay.wire.take_records());
        let inner: Vec<&Sample> = samples
            .iter()
            .filter(|s| s.interface == "eth0" && between(s, own, other))
            .collect();
        let what = format!("{flavour:?} {own}: {} samples", inner.len());
        assert!(inner.len() > 60, "{what}");
        for sample in inner {
            assert_eq!(sample.vantage, "nic", "{what}");
            assert_eq!(sample.tunnels, [vxlan(1)], "{what}");
            if sample.leg == Leg::Remote {
                let truth = wire.truth(sample);
                let truth = truth.unwrap_or_else(|| panic!("{what}: false: {sample:?}"));
                assert!(
                    sample.rtt_ns + 200 >= truth.beyond_ns && sample.rtt_ns >= RTT_NS - 200,
                    "{what}: {sample:?} is shorter than {truth:?}"
                );
            }
        }
        let elsewhere = samples.iter().filter(|s| s.interface != "eth0");
        assert!(elsewhere.clone().all(|s| s.tunnels.is_empty()), "{what}");
        assert!(elsewhere.count() > 60, "{what}");
    }
    let traffic = traffic(&monitor, PORT);
    println!("{flavour:?}: {traffic:?}");
    assert_eq!(traffic["eth0"], traffic[flavour.vxlan()]);
    assert!(traffic["eth0"][2] > 4_000_000, "the transfers");
    let metrics = monitor.metrics().expect("metrics");
    let sum = |name: &str| -> u64 {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        values.sum()
    };
    let counted = sum("lpm_rtt_seconds_count{");
    let flows = monitor.list("flows?all=true").expect("flows");
    let pod = |flow: &&Value| flow["vantage"] == "pod";
    assert!(flows.iter().any(|flow| pod(&flow)), "{flows:?}");
    let at_the_pod = sum("lpm_samples_total");
    assert!(
        counted > 0 && counted * 2 < at_the_pod,
        "{counted} of {at_the_pod} samples, which three places have seen"
    );
}

#[test]
fn a_flow_of_flannel_at_the_card() {
    at_the_card(Flavour::Flannel, "{}");
}

#[test]
fn a_flow_of_l2sm_at_the_card() {
    at_the_card(Flavour::L2sm, "{vxlan: [7000]}");
}

/// The client's address; the ends of the flow are the same in every network.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 19, 9, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 19, 9, 2);
const CLIENT_PORT: u16 = 41_140;

/// A network of two pods.
struct Network {
    ends: [Netns; 2],
    tunnels: Vec<Tunnel>,
    /// How long its server takes for an answer.
    think: Duration,
}

/// A tunnel between two namespaces, each end moved into a namespace of its own.
fn network(below: [&Netns; 2], below_net: &str, vni: u32, port: u16, tunnels: &[u32]) -> Network {
    let ends = [0, 1].map(|_| Netns::new("net").expect("a namespace"));
    let device = if below_net == "198.18.0" {
        "eth0"
    } else {
        "net0"
    };
    for (i, (below, end)) in below.into_iter().zip(&ends).enumerate() {
        let (own, other) = (i + 1, 2 - i);
        below
            .ip_batch(&format!(
                "link add name inside{vni} mtu 1200 type vxlan id {vni} \
                 local {below_net}.{own} remote {below_net}.{other} dev {device} dstport {port}\n\
                 link set inside{vni} netns {}",
                end.name()
            ))
            .expect("a tunnel");
        end.ip_batch(&format!(
            "link set inside{vni} name net0\naddr add 198.19.9.{own}/24 dev net0\nlink set net0 up"
        ))
        .expect("an address");
    }
    Network {
        ends,
        tunnels: tunnels.iter().copied().map(vxlan).collect(),
        think: Duration::from_millis(15) * (tunnels.iter().sum::<u32>() - 1),
    }
}

fn dial() -> io::Result<TcpStream> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    bind(
        fd,
        &SockaddrIn::from(SocketAddrV4::new(CLIENT, CLIENT_PORT)),
    )?;
    connect(fd, &SockaddrIn::from(SocketAddrV4::new(SERVER, PORT)))?;
    Ok(TcpStream::from(socket))
}

/// Thirty questions and answers; the server takes its time.
fn talk(network: &Network) {
    let think = network.think;
    let listener = network.ends[1].run_in(|| TcpListener::bind((SERVER, PORT)));
    let listener = listener.expect("the namespace").expect("a server");
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.set_nodelay(true).expect("no delay");
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                thread::sleep(think);
                stream.write_all(&byte).expect("an answer");
            }
        });
        let stream = network.ends[0].run_in(dial).expect("the namespace");
        let mut stream = stream.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let mut byte = [1];
        for _ in 0..30 {
            stream.write_all(&byte).expect("a question");
            stream.read_exact(&mut byte).expect("an answer");
        }
    });
}

#[test]
fn same_addresses_and_ports_in_three_networks_stay_apart() {
    if !kernel_is_usable() {
        return;
    }
    let nodes = [0, 1].map(|_| Netns::new("node").expect("a namespace"));
    let end = |netns| WireEnd {
        netns,
        interface: "eth0",
    };
    let wire = DelayLine::between(end(&nodes[0]), end(&nodes[1]), 1500).expect("a wire");
    for (number, node) in (1..).zip(&nodes) {
        node.ip(&format!("addr add 198.18.0.{number}/24 dev eth0"))
            .expect("an address");
    }
    let below = [&nodes[0], &nodes[1]];
    let first = network(below, "198.18.0", 1, 4789, &[1]);
    let second = network(below, "198.18.0", 2, 4789, &[2]);
    // In the first one, under the number of the second one.
    let [one, other] = &first.ends;
    let third = network([one, other], "198.19.9", 2, 8472, &[1, 2]);
    let networks = [first, second, third];
    for network in &networks {
        wait_reachable(&network.ends[0], SERVER.into()).expect("reachable");
    }
    wire.set_both(&Impairment::delay(DELAY));
    let monitor = monitor(&nodes[0], "{}");
    thread::scope(|scope| {
        for network in &networks {
            scope.spawn(|| talk(network));
        }
    });
    monitor.settle().expect("all samples");
    let samples = monitor.samples();
    for network in &networks {
        let data = samples.iter().filter(|s| {
            s.tunnels == network.tunnels && s.leg == Leg::Remote && s.echo == Echo::Data
        });
        let of = Spread::of_times(data.map(|s| s.rtt_ns)).expect("samples");
        println!("{:?}: {of:?}", network.tunnels);
        let least = (DELAY * 2 + network.think).as_secs_f64() * 1e9;
        assert!(of.count >= 10, "{of:?}");
        assert!(of.min >= least - 200.0 && of.min < least + 15e6, "{of:?}");
    }
    let ports = [CLIENT_PORT, PORT];
    let ours = |s: &&Sample| ports.contains(&s.sport) && ports.contains(&s.dport);
    let foreign = samples.iter().filter(|s| !ours(s)).count();
    assert_eq!(foreign, 0, "nothing else talks");
    let mut found: Vec<String> = monitor
        .list("flows?all=true")
        .expect("flows")
        .iter()
        .map(|flow| {
            assert_eq!(flow["local"]["address"], "198.19.9.1");
            assert_eq!(flow["local"]["port"], CLIENT_PORT);
            flow["tunnels"].to_string()
        })
        .collect();
    found.sort();
    let (one, two) = (r#"{"kind":"vxlan","vni":1}"#, r#"{"kind":"vxlan","vni":2}"#);
    let expected = [
        format!("[{one},{two}]"),
        format!("[{one}]"),
        format!("[{two}]"),
    ];
    assert_eq!(found, expected);
    // Views of flows that share addresses and ports cannot be joined: they are left out.
    let begun = Instant::now();
    let ambiguous = || {
        monitor
            .counter("lpm_segment_ambiguous_total")
            .expect("a count")
    };
    while ambiguous() == 0 {
        assert!(begun.elapsed() < LIMIT, "no window tells of them");
        thread::sleep(Duration::from_millis(20));
    }
    let joined = monitor
        .counter("lpm_segment_seconds_count")
        .expect("a count");
    assert_eq!(joined, 0);
}
