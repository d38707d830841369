//! Addresses translated on their way through a node, as kube-proxy's rules do with nftables and
//! conntrack: services, masquerade, hairpin, node ports. Each hook sees its own side of the
//! translation; its samples are those of a capture at that hook, and each aggregate takes a flow
//! once.

mod counts;
mod workloads;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
};

use lpm_testbed::{
    testbed::{Flavour, Netns, Overlay, OverlayConfig},
    traffic::{Limit, PORT, Server},
    truth::{Capture, Method, Monitor, Reference},
};

use self::counts::grown;
use crate::support::paths::{self, agent, counted, file, kernel_is_usable, of, speak, talk};

/// Virtual addresses: of `b0`, `a1`, `a0`, and of a machine outside.
const SERVICES: [Ipv4Addr; 4] = [
    Ipv4Addr::new(198, 19, 100, 1),
    Ipv4Addr::new(198, 19, 100, 2),
    Ipv4Addr::new(198, 19, 100, 3),
    Ipv4Addr::new(198, 19, 100, 4),
];
/// The node's address, and that of the machine outside: the other node.
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2));
/// The bridge's, the sender of what is masqueraded back into its own pod.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 19, 1, 1));
const CARD: &str = "eth0";

/// Rules that translate like kube-proxy's, in the fewest words.
const RULES: &str = "
table ip nat {
  map services {
    type ipv4_addr : ipv4_addr
    elements = { 198.19.100.1 : 198.19.2.2, 198.19.100.2 : 198.19.1.3,
                 198.19.100.3 : 198.19.1.2, 198.19.100.4 : 198.18.0.2 }
  }
  chain before {
    type nat hook prerouting priority -100;
    ip daddr 198.19.100.0/24 dnat to ip daddr map @services
    iif eth0 ip daddr 198.18.0.1 tcp dport 5301 dnat to 198.19.1.3
  }
  chain own {
    type nat hook output priority -100;
    ip daddr 198.19.100.0/24 dnat to ip daddr map @services
  }
  chain after {
    type nat hook postrouting priority 100;
    ip saddr 198.19.1.0/24 oif eth0 masquerade
    ip saddr 198.19.1.2 ip daddr 198.19.1.2 masquerade
  }
}
";

const NAMES: &str = "
- {address: 198.19.1.2, namespace: alpha}
- {address: 198.19.1.3, namespace: beta}
- {address: 198.19.2.2, namespace: gamma}
- {address: 198.18.0.2, namespace: outside, kind: node}
- {cidr: 198.19.100.0/24, namespace: services, kind: service}
";

/// A flannel-like node whose packets are captured at every hook, with translation.
struct Site {
    // Dropped in this order: the namespaces last.
    monitor: Monitor,
    captures: BTreeMap<String, Capture>,
    _directory: tempfile::TempDir,
    _servers: Vec<Server>,
    overlay: Overlay,
}

impl Site {
    /// With an agent of this configuration.
    fn new(configuration: &str, names: &str) -> Self {
        let config = OverlayConfig {
            pods_per_node: 2,
            ..OverlayConfig::new(Flavour::Flannel)
        };
        let overlay = Overlay::new(&config).expect("the overlay");
        let [node, outside] = &overlay.nodes;
        node.sysctl("net.bridge.bridge-nf-call-iptables", "1")
            .expect("netfilter sees what is bridged, as Kubernetes asks for");
        node.bridge_batch("link set dev vetha0 hairpin on")
            .expect("a pod reaches itself, as the kubelet asks for");
        // In place of the default route, without which no packet to a service is made.
        node.ip("route add 198.19.100.0/24 via 198.18.0.2")
            .expect("a route");
        let rules = file(RULES);
        let path = rules.path().to_str().expect("a path");
        node.output("nft", &["-f", path]).expect("nft's rules");
        let pods = ["a0", "a1", "b0"].map(|name| &overlay.pod(name).netns);
        let servers = pods.into_iter().chain([outside]);
        let servers = servers.map(|at| Server::start(at, PORT).expect("a server"));
        let servers = servers.collect();
        let configuration = file(configuration);
        let monitor = agent(node, configuration.path(), file(names).path());
        let directory = tempfile::tempdir().expect("a directory");
        let captures = [CARD, Flavour::Flannel.vxlan(), "vetha0", "vetha1"].map(|hook| {
            let file = directory.path().join(format!("{hook}.pcap"));
            let capture = Capture::start(node, hook, PORT, &file).expect("tcpdump");
            (hook.to_owned(), capture)
        });
        Self {
            monitor,
            captures: captures.into(),
            _directory: directory,
            _servers: servers,
            overlay,
        }
    }

    fn netns(&self, pod: &str) -> &Netns {
        &self.overlay.pod(pod).netns
    }

    /// Lets `client` talk to `server`, and waits for the samples.
    fn talk(&self, client: &Netns, server: IpAddr) {
        talk(client, server, 40);
        self.monitor.settle().expect("all samples");
    }

    /// Each service's flows are said to go to this pod, by its address and name.
    fn backends_are(&self, pods: [(IpAddr, &str); 3]) {
        let namespaces = HashMap::from([("a0", "alpha"), ("a1", "beta"), ("b0", "gamma")]);
        for (service, pod) in pods {
            let address = IpAddr::V4(self.overlay.pod(pod).v4);
            assert_eq!(
                self.backend(service),
                (address, namespaces[pod].to_owned()),
                "{pod}"
            );
        }
    }

    /// The backend that the flows of a0 to a service are said to go to, with its namespace.
    fn backend(&self, service: IpAddr) -> (IpAddr, String) {
        let found = self.backends(service);
        let [backend] = &found[..] else {
            panic!("{service}: {found:?}");
        };
        assert_eq!(backend["port"], PORT, "{backend}");
        let address = backend["address"].as_str().expect("an address");
        let namespace = backend["name"]["namespace"].as_str().expect("a name");
        (address.parse().expect("an address"), namespace.to_owned())
    }

    /// What the flows of a0 to a service are said to go to, each once.
    fn backends(&self, service: IpAddr) -> Vec<serde_json::Value> {
        let flows = self.monitor.list("flows?all=true").expect("flows");
        let to_service = |flow: &&serde_json::Value| {
            let remote = flow["remote"]["address"].as_str();
            flow["interface"] == "vetha0" && remote == Some(&service.to_string())
        };
        let of_each = |flow: &serde_json::Value| flow["backend"].clone();
        let mut found: Vec<_> = flows.iter().filter(to_service).map(of_each).collect();
        found.dedup();
        found
    }

    /// A client talks to a server: samples are where they are said to be, nowhere else, and count
    /// for the namespaces that are said.
    fn seen(&self, what: &str, client: &Netns, server: IpAddr, places: &[Seen]) {
        let (known, before) = self.settled();
        talk(client, server, 40);
        let (all, after) = self.settled();
        let samples = &self.monitor.samples()[known..all];
        let mut expected = Vec::new();
        for (hook, ends, namespace, peer) in places {
            let found = of(samples, hook, *ends).len() as u64;
            println!("{what}: {found} at {hook} between {ends:?}");
            // Of 40 requests and their answers. On a busy machine several share a tick, and are one.
            assert!(found >= 20, "{what}: {found} at {hook}");
            if !namespace.is_empty() {
                expected.push((*namespace, *peer, found));
            }
        }
        let all: usize = places
            .iter()
            .map(|(hook, ends, ..)| of(samples, hook, *ends).len())
            .sum();
        assert_eq!(all, samples.len(), "{what}: samples elsewhere");
        expected.sort_unstable();
        assert_eq!(grown(after, &before), expected, "{what}");
    }

    /// Each sample at a hook is one that a capture at that hook gives, once.
    fn true_at_each_hook(self) {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle");
        let samples = self.monitor.samples();
        for (hook, capture) in self.captures {
            let file: PathBuf = capture.stop().expect("a whole capture");
            let local: Vec<IpAddr> = match &*hook {
                CARD => vec![NODE],
                "vetha0" => vec![[198, 19, 1, 2].into()],
                "vetha1" => vec![[198, 19, 1, 3].into()],
                _ => vec![[198, 19, 1, 2].into(), [198, 19, 1, 3].into()],
            };
            let reference = Reference::of_capture(&file, &scripts, Method::Ts, &local);
            let reference = reference.expect("the reference");
            let mut open: HashMap<_, u32> = HashMap::new();
            for sample in &reference {
                *open.entry(sample.identity()).or_default() += 1;
            }
            let here: Vec<_> = samples.iter().filter(|s| s.interface == hook).collect();
            println!(
                "{hook}: {} samples, {} by the capture",
                here.len(),
                reference.len()
            );
            assert!(here.len() * 10 >= reference.len() * 9, "most are there");
            for sample in here {
                let key = (
                    sample.src,
                    sample.sport,
                    sample.dst,
                    sample.dport,
                    sample.id,
                );
                match open.get_mut(&key) {
                    Some(left @ 1..) => *left -= 1,
                    left => panic!("{hook}: {sample:?} is not in the capture: {left:?}"),
                }
            }
        }
    }
}

/// Where a flow's samples must be: at which hook, between which addresses, and the namespaces
/// that they count for; none, if they count elsewhere.
type Seen<'a> = (&'a str, [IpAddr; 2], &'a str, &'a str);

#[test]
fn each_hook_has_its_own_side_and_each_flow_counts_once() {
    let Some(site) = site("methods: [ts]\n") else {
        return;
    };
    let [a0, node, outside] = [
        site.netns("a0"),
        &site.overlay.nodes[0],
        &site.overlay.nodes[1],
    ];
    let ip = |pod: &str| IpAddr::V4(site.overlay.pod(pod).v4);
    let [far, near, itself, out] = SERVICES.map(IpAddr::V4);
    // Who talks to whom; where samples must be, between which addresses; which aggregates get
    // those of which of these places.
    let device = Flavour::Flannel.vxlan();
    let cases: [(&str, &Netns, IpAddr, &[Seen]); 7] = [
        (
            "a service across the overlay",
            a0,
            far,
            &[
                ("vetha0", [ip("a0"), far], "alpha", "services"),
                (device, [ip("a0"), ip("b0")], "", ""),
            ],
        ),
        (
            "a service on the same node",
            a0,
            near,
            &[
                ("vetha0", [ip("a0"), near], "alpha", "services"),
                ("vetha1", [ip("a0"), ip("a1")], "beta", "alpha"),
            ],
        ),
        (
            "a service of the pod itself: hairpin",
            a0,
            itself,
            &[
                ("vetha0", [ip("a0"), itself], "alpha", "services"),
                ("vetha0", [ip("a0"), GATEWAY], "alpha", "host"),
            ],
        ),
        (
            "masqueraded",
            a0,
            OUTSIDE,
            &[
                ("vetha0", [ip("a0"), OUTSIDE], "alpha", "outside"),
                (CARD, [NODE, OUTSIDE], "", ""),
            ],
        ),
        (
            "the node's own",
            node,
            OUTSIDE,
            &[(CARD, [NODE, OUTSIDE], "host", "outside")],
        ),
        (
            "the node's own to a service",
            node,
            out,
            &[(CARD, [NODE, OUTSIDE], "host", "outside")],
        ),
        (
            "a node port",
            outside,
            NODE,
            &[
                ("vetha1", [ip("a1"), OUTSIDE], "beta", "outside"),
                (CARD, [NODE, OUTSIDE], "", ""),
            ],
        ),
    ];
    for (what, client, server, places) in cases {
        site.seen(what, client, server, places);
    }
    site.backends_are([(far, "b0"), (near, "a1"), (itself, "a0")]);
    site.true_at_each_hook();
}

#[test]
fn without_connection_tracking_no_backend_is_named() {
    let Some(site) = site("methods: [ts]\nconntrack: {enabled: false}\n") else {
        return;
    };
    let a0 = site.netns("a0");
    let ip = |pod: &str| IpAddr::V4(site.overlay.pod(pod).v4);
    let [far, near, itself, _] = SERVICES.map(IpAddr::V4);
    let services = [
        (
            far,
            (Flavour::Flannel.vxlan(), [ip("a0"), ip("b0")], "", ""),
        ),
        (near, ("vetha1", [ip("a0"), ip("a1")], "beta", "alpha")),
        (itself, ("vetha0", [ip("a0"), GATEWAY], "alpha", "host")),
    ];
    for (service, behind) in services {
        // What is measured, and counted for whom, does not rest on it.
        let before = ("vetha0", [ip("a0"), service], "alpha", "services");
        site.seen("a service", a0, service, &[before, behind]);
        assert_eq!(site.backends(service), [serde_json::Value::Null]);
    }
    site.true_at_each_hook();
}

/// A site with an agent of this configuration; `None`: this machine cannot have one.
fn site(configuration: &str) -> Option<Site> {
    named(configuration, NAMES)
}

/// A site with an agent of this configuration and these names; `None`: this machine cannot have
/// one.
fn named(configuration: &str, names: &str) -> Option<Site> {
    if !kernel_is_usable() {
        return None;
    }
    let tools = ["nft", "tshark", "tcpdump", "python3"];
    if let Some(tool) = tools.into_iter().find(absent) {
        println!("LPM-SKIP nat: {tool} is not installed");
        return None;
    }
    Some(Site::new(configuration, names))
}

#[test]
fn a_server_of_the_node_counts_for_the_node() {
    if !kernel_is_usable() {
        return;
    }
    let overlay = Overlay::new(&OverlayConfig::new(Flavour::Flannel)).expect("the overlay");
    let [node, outside] = &overlay.nodes;
    let _server = Server::start(node, PORT).expect("a server");
    let monitor = agent(node, file("").path(), file(NAMES).path());
    for family in [NODE, "fd00:18::1".parse().expect("an address")] {
        let before = counted(&monitor, "host", "outside") + counted(&monitor, "host", "");
        let (pairs, asking) = speak(outside, SocketAddr::new(family, PORT), Limit::count(40));
        pairs.join().expect("it ends well");
        asking.join().expect("it ends well");
        monitor.settle().expect("all samples");
        let samples = monitor.take_samples();
        let now = counted(&monitor, "host", "outside") + counted(&monitor, "host", "");
        println!(
            "{family}: {} samples, {} counted",
            samples.len(),
            now - before
        );
        assert!(samples.len() > 10);
        assert!(samples.iter().all(|s| s.interface == CARD), "{samples:?}");
        assert_eq!(now - before, samples.len() as u64);
    }
}

/// Asks the machine outside over UDP port 53 from a namespace, this often.
fn ask_dns(client: &Netns, count: u16) {
    // One question: the root's NS records (RFC 1035 section 4.1.2).
    let query = |id: u16| {
        let head = [0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        [&id.to_be_bytes()[..], &head, &[0, 0, 2, 0, 1]].concat()
    };
    let asking = || -> std::io::Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(paths::LIMIT))?;
        for id in 0..count {
            socket.send_to(&query(id), (OUTSIDE, 53))?;
            socket.recv(&mut [0; 64])?;
        }
        Ok(())
    };
    client.run_in(asking).expect("enter").expect("answers");
}

/// Answers each query with what it asked, on a thread that ends with the process.
fn serve_dns(server: &Netns) {
    let socket = server.run_in(|| UdpSocket::bind((OUTSIDE, 53)));
    let socket = socket.expect("enter").expect("a socket");
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            bytes[2] |= 0x80;
            if socket.send_to(&bytes[..length], from).is_err() {
                break;
            }
        }
    });
}

#[test]
fn masqueraded_questions_are_not_the_nodes() {
    if !kernel_is_usable() {
        return;
    }
    if absent(&"nft") {
        println!("LPM-SKIP nat: nft is not installed");
        return;
    }
    let overlay = Overlay::new(&OverlayConfig::new(Flavour::Flannel)).expect("the overlay");
    let [node, outside] = &overlay.nodes;
    let rules = file(RULES);
    let path = rules.path().to_str().expect("a path");
    node.output("nft", &["-f", path]).expect("nft's rules");
    serve_dns(outside);
    let monitor = agent(node, file("").path(), file(NAMES).path());
    let pod = &overlay.pod("a0").netns;
    for (client, dns, pings) in [(pod, 5, "3"), (node, 7, "4")] {
        ask_dns(client, dns);
        let arguments = ["-c", pings, "-i", "0.05", &OUTSIDE.to_string()];
        client.output("ping", &arguments).expect("ping");
    }
    let count = |metric: &str, namespace: &str| {
        let series = format!("lpm_{metric}_seconds_count{{namespace=\"{namespace}\"");
        let metrics = monitor.metrics().expect("metrics");
        let lines = metrics.lines().filter(|line| line.starts_with(&series));
        let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        values.sum::<u64>()
    };
    let counted = ["alpha", "host"].map(|of| (count("dns", of), count("icmp_rtt", of)));
    assert_eq!(counted, [(5, 3), (7, 4)], "the pod's, the node's own");
    // The machine outside pings the node, which answers itself.
    let arguments = ["-c", "2", "-i", "0.05", &NODE.to_string()];
    outside.output("ping", &arguments).expect("ping");
    assert_eq!(count("icmp_rtt", "host"), 4 + 2);
}

fn absent(tool: &&str) -> bool {
    let run = Command::new(tool).arg("--version").output();
    !run.is_ok_and(|output| output.status.success())
}
