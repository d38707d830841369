//! Round trips by node and by zone: pods on three nodes in two zones, over wires with different
//! delays, with nodes from a real API server.

use std::{collections::BTreeMap, fs, net::IpAddr, time::Duration};

use lpm_testbed::{
    kubernetes::ApiServer,
    testbed::{
        Bpffs, DelayLine, Direction, Impairment, Netns, Pair, PairConfig, WireEnd, wait_reachable,
        wire::Record,
    },
    traffic::{Background, Limit, PORT, RequestConfig, Server, requests},
};
use serde_json::json;

use crate::support::lpm::{Agent, eventually, kernel_is_usable, value};

/// One-way delays of the wires to the nodes `n2` and `n3`.
const DELAYS: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(8)];

/// A pod of `n3`.
const FAR_POD: &str = "198.18.3.2";

/// An address of `n3` itself, as its pods in the host's network have it.
const FAR_HOST: &str = "198.18.4.2";

/// An address in the range of the pods of `n3` that no pod has.
const FAR_UNKNOWN: &str = "198.18.3.77";

/// Number and sum of round trips, by series.
type Series = BTreeMap<String, (u64, f64)>;

/// The watched node, a near node and a far one, each beyond a wire of its own.
struct Site {
    pair: Pair,
    far: Netns,
    far_wire: DelayLine,
    _servers: [Server; 2],
}

impl Site {
    fn new() -> Self {
        let pair = Pair::new(&PairConfig::default()).expect("a testbed");
        let far = Netns::new("far").expect("a namespace");
        let [first, second] = [(&pair.node, "wire1"), (&far, "eth0")]
            .map(|(netns, interface)| WireEnd { netns, interface });
        let far_wire = DelayLine::between(first, second, 1500).expect("a wire");
        pair.node
            .ip_batch(
                "addr add 198.18.3.1/24 dev wire1\nlink set wire1 up\n\
                 route add 198.18.4.2/32 via 198.18.3.2 dev wire1",
            )
            .expect("addresses");
        far.ip_batch(
            "addr add 198.18.3.2/24 dev eth0\naddr add 198.18.3.77/24 dev eth0\n\
             addr add 198.18.4.2/32 dev eth0\nlink set eth0 up\n\
             route add default via 198.18.3.1",
        )
        .expect("addresses");
        for address in [FAR_POD, FAR_HOST, FAR_UNKNOWN] {
            wait_reachable(&pair.client, at(address)).expect(address);
        }
        let servers = [&pair.server, &far];
        let servers = servers.map(|netns| Server::start(netns, PORT).expect("a server"));
        let site = Self {
            pair,
            far,
            far_wire,
            _servers: servers,
        };
        for (wire, delay) in site.wires().into_iter().zip(DELAYS) {
            wire.set_both(&Impairment::delay(delay));
        }
        site
    }

    fn wires(&self) -> [&DelayLine; 2] {
        [self.pair.wire(), &self.far_wire]
    }

    /// Some requests of the pod here to an address, on a connection of their own.
    fn talk(&self, to: IpAddr) {
        let config = RequestConfig {
            limit: Limit::count(20),
            ..RequestConfig::new((to, PORT).into())
        };
        let talk = Background::start(&self.pair.client, move |control| requests(&config, control));
        talk.expect("start requests").join().expect("requests");
    }
}

fn at(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// Makes a node in a zone.
fn node(api: &ApiServer, name: &str, zone: &str, range: &str, address: &str) {
    let object = json!({
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "spec": {"podCIDR": range, "podCIDRs": [range]},
    });
    api.create("/api/v1/nodes", &object).expect("a node");
    let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
    api.patch_status(&format!("/api/v1/nodes/{name}"), &status)
        .expect("an address");
}

fn populate(api: &ApiServer) {
    node(api, "n1", "west", "198.18.1.0/24", "198.18.2.1");
    node(api, "n2", "west", "198.18.2.2/32", "198.18.2.9");
    node(api, "n3", "east", "198.18.3.0/24", FAR_HOST);
    for (namespace, pod, node, address) in [
        ("shop", "web-0", "n1", Pair::CLIENT[0]),
        ("media", "store-0", "n2", Pair::SERVER[0]),
        ("games", "play-0", "n3", at(FAR_POD)),
    ] {
        let object = json!({"metadata": {"name": namespace}});
        api.create("/api/v1/namespaces", &object).expect(namespace);
        api.create_pod(namespace, pod, node, &[&address.to_string()])
            .expect(pod);
    }
}

/// The agent of node `n1`, over pins.
fn start(api: &ApiServer, site: &Site, pins: &Bpffs) -> Agent {
    let file = api.directory().join("lpm.yaml");
    let config = format!(
        "flows: 1024\nrows: 64\nnode_name: n1\nwindow: 1s\nkeep_gone: 1s\n\
         levels: {{node: true, zone: true}}\npins: {{enabled: true, path: {}, keep: 10m}}\n\
         identity:\n  kubernetes: {{kubeconfig: {}}}\n",
        pins.path().join("lpm").display(),
        api.kubeconfig().display()
    );
    fs::write(&file, config).expect("a configuration");
    let file = file.to_str().expect("a path");
    let agent = Agent::start(&site.pair.node, &["-c", file, "-i", Pair::POD_INTERFACE]);
    eventually("nodes and pods are known", || {
        let metrics = agent.metrics();
        ["nodes", "pods"].iter().all(|kind| {
            let series = format!("lpm_identity_synced{{kind=\"{kind}\"}}");
            value(&metrics, &series) == Some(1.0)
        })
    });
    agent
}

/// The series of the remote leg of a family, by the values of two of its labels.
fn series(agent: &Agent, family: &str, labels: [&str; 2]) -> Series {
    let mut found = Series::new();
    for line in agent.metrics().lines() {
        let Some(rest) = line.strip_prefix(family) else {
            continue;
        };
        let Some((of, number)) = rest.rsplit_once(' ') else {
            continue;
        };
        if !of.contains("leg=\"remote\"") {
            continue;
        }
        let label = |name: &str| {
            let from = format!("{name}=\"");
            // `zone` is the end of `peer_zone`, too: the label itself comes first.
            let (_, rest) = of.split_once(&from).expect(name);
            rest.split('"').next().unwrap_or_default().to_owned()
        };
        let pair = labels.map(label).join(">");
        let entry = found.entry(pair).or_default();
        let number: f64 = number.parse().expect("a number");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of some hundred"
        )]
        if of.starts_with("_count") {
            entry.0 += number as u64;
        } else if of.starts_with("_sum") {
            entry.1 += number;
        }
    }
    found
}

fn nodes(agent: &Agent) -> Series {
    series(agent, "lpm_node_rtt_seconds", ["node", "peer_node"])
}

fn zones(agent: &Agent) -> Series {
    series(agent, "lpm_zone_rtt_seconds", ["zone", "peer_zone"])
}

fn count(of: &Series, pair: &str) -> u64 {
    of.get(pair).map_or(0, |series| series.0)
}

/// Round trips that the flows themselves have counted towards these addresses: the second source.
fn of_flows(agent: &Agent, addresses: &[&str]) -> u64 {
    let flows = agent.list("flows?all=true");
    let to = flows.iter().filter(|flow| {
        let remote = flow["remote"]["address"].as_str().unwrap_or_default();
        addresses.contains(&remote)
    });
    to.filter_map(|flow| flow["rtt_ns"]["remote"]["samples"].as_u64())
        .sum()
}

/// The mean way there and back by the wire's log, in seconds.
fn by_the_wire(records: &[Record]) -> f64 {
    let ways = [Direction::Forward, Direction::Backward].map(|direction| {
        let its = records.iter().filter(|of| of.direction == direction);
        let delays: Vec<f64> = (its.filter_map(Record::delay_ns))
            .map(|ns| Duration::from_nanos(ns).as_secs_f64())
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "some hundred packets")]
        let packets = delays.len() as f64;
        delays.iter().sum::<f64>() / packets
    });
    ways.iter().sum()
}

/// Each pair has the round trips of its own flows, with the delay of its own wire.
fn each_pair_has_its_own(agent: &Agent, site: &Site) {
    let peers = [
        ("n1>n2", Pair::SERVER[0], site.wires()[0]),
        ("n1>n3", at(FAR_POD), site.wires()[1]),
        ("n1>n3", at(FAR_HOST), site.wires()[1]),
    ];
    for (pair, address, wire) in peers {
        let text = address.to_string();
        let (before, flows_before) = (nodes(agent), of_flows(agent, &[&text]));
        drop(wire.take_records());
        site.talk(address);
        let (after, flows) = (nodes(agent), of_flows(agent, &[&text]));
        let wanted = flows - flows_before;
        assert!(wanted >= 10, "{wanted} round trips to {text}");
        let (was, is) = (before.get(pair).copied().unwrap_or_default(), after[pair]);
        assert_eq!(is.0 - was.0, wanted, "{pair}: {before:?} then {after:?}");
        #[expect(clippy::cast_precision_loss, reason = "some hundred round trips")]
        let mean = (is.1 - was.1) / wanted as f64;
        let truth = by_the_wire(&wire.records());
        println!(
            "{pair} by {text}: {wanted} round trips, mean {mean:.6} s, the wire's log {truth:.6} s"
        );
        // A reply may wait at its sender, and others use this machine: the shares of two wires with
        // delays of 4 and 16 ms stay apart.
        assert!(
            mean >= truth - 20e-6,
            "{mean} is less than the wire took: {truth}"
        );
        assert!(
            mean <= truth * 1.2 + 1e-3,
            "{mean} is not the wire's {truth}"
        );
        for (other, (count, _)) in &before {
            assert!(other == pair || after[other].0 == *count, "{other} grew");
        }
    }
}

/// Flows and their ends' nodes and zones as JSON.
fn flows_tell_both_places(agent: &Agent) {
    let flows = agent.list("flows?all=true");
    for (address, node, zone) in [
        (Pair::SERVER[0].to_string(), "n2", "west"),
        (FAR_POD.to_owned(), "n3", "east"),
        (FAR_HOST.to_owned(), "n3", "east"),
    ] {
        let mut to = flows
            .iter()
            .filter(|flow| flow["remote"]["address"] == *address);
        let flow = to.next().unwrap_or_else(|| panic!("no flow to {address}"));
        assert_eq!(flow["remote"]["name"]["node"], node, "{flow}");
        assert_eq!(flow["remote"]["zone"], zone, "{flow}");
        assert_eq!(flow["local"]["name"]["node"], "n1", "{flow}");
        assert_eq!(flow["local"]["zone"], "west", "{flow}");
    }
}

/// A node gets into another zone: what comes then is counted there, and the pair of nodes goes on.
fn a_zone_changes(api: &ApiServer, agent: &Agent, site: &Site) {
    let its_flows = || of_flows(agent, &[FAR_POD, FAR_HOST]);
    let (nodes_before, zones_before) = (nodes(agent), zones(agent));
    let flows_before = its_flows();
    let label = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "north"}}});
    api.patch("/api/v1/nodes/n3", &label).expect("a label");
    eventually("round trips are in the new zone", || {
        site.talk(at(FAR_POD));
        count(&zones(agent), "west>north") > 0
    });
    eventually("the old zone's series has ended", || {
        !zones(agent).contains_key("west>east")
    });
    let (nodes, zones) = (nodes(agent), zones(agent));
    assert_eq!(zones["west>west"].0, zones_before["west>west"].0);
    let grown = count(&nodes, "n1>n3") - count(&nodes_before, "n1>n3");
    assert_eq!(grown, its_flows() - flows_before, "none is lost");
    assert!(count(&zones, "west>north") <= grown, "none moved along");
}

#[test]
fn round_trips_by_node_and_zone() {
    if !kernel_is_usable() {
        return;
    }
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    populate(&api);
    let site = Site::new();
    let pins = Bpffs::mount("mode=0700").expect("a BPF file system");
    let agent = start(&api, &site, &pins);
    for address in [Pair::SERVER[0], at(FAR_POD)] {
        eventually("the names are in the kernel", || {
            let before = nodes(&agent);
            site.talk(address);
            let after = nodes(&agent);
            let grown = |pair| count(&after, pair) > count(&before, pair);
            grown("n1>n2") || grown("n1>n3")
        });
    }
    each_pair_has_its_own(&agent, &site);
    flows_tell_both_places(&agent);
    // An address whose pod nobody knows. Its node is not guessed from the range of pods.
    let before = nodes(&agent);
    site.talk(at(FAR_UNKNOWN));
    let after = nodes(&agent);
    assert_eq!(
        count(&after, "n1>unknown") - count(&before, "n1>unknown"),
        of_flows(&agent, &[FAR_UNKNOWN])
    );
    assert_eq!(count(&after, "n1>n3"), count(&before, "n1>n3"));
    a_zone_changes(&api, &agent, &site);
    // The pod of `n2` goes, and its namespace with it. The node stays, and so does its series.
    api.delete("/api/v1/namespaces/media/pods/store-0")
        .expect("delete");
    eventually("the namespace has no series", || {
        !agent.metrics().contains("peer_namespace=\"media\"")
    });
    let before = nodes(&agent);
    assert_eq!(count(&before, "n1>n2"), count(&after, "n1>n2"));
    // The next agent goes on.
    agent.stop();
    let agent = start(&api, &site, &pins);
    let resumed = nodes(&agent);
    for (pair, (count, _)) in &before {
        assert!(resumed[pair].0 >= *count, "{before:?} then {resumed:?}");
    }
    eventually("it counts on", || {
        site.talk(at(FAR_POD));
        count(&nodes(&agent), "n1>n3") > count(&resumed, "n1>n3")
    });
    // The node goes away.
    api.delete("/api/v1/namespaces/games/pods/play-0")
        .expect("delete");
    api.delete("/api/v1/nodes/n3").expect("delete");
    eventually("the pair's series has ended", || {
        !nodes(&agent).contains_key("n1>n3")
    });
    assert_eq!(count(&nodes(&agent), "n1>n2"), count(&before, "n1>n2"));
    agent.stop();
    drop(site.far);
}
