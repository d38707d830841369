//! Not counted twice, and not under the wrong name: translated addresses, the node's own traffic,
//! the kubelet's probes.
//!
//! One of them talks at a time, and what all agents count meanwhile is looked at: each pair of
//! namespaces must have the round trips of the requests once, and no other pair any.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, thread, time::Duration};

use lpm_testbed::kubernetes::{Cluster, Network};

use crate::{
    eventually,
    metrics::{Key, Scrape},
    scope,
    tools::{address, ask, pod, tool},
    traffic::{serve, service},
};

/// How many requests each case makes, and what a connection's beginning and end may add.
const REQUESTS: u64 = 200;
const MORE: u64 = 5;

/// What kubelets and others on the nodes may talk with the API meanwhile, in round trips.
const BACKGROUND: u64 = 150;

/// The namespace of the pod that is only probed.
const PROBED: &str = "probed";

/// Who has an address first, and who has it then.
const FIRST: [&str; 2] = ["gamma", "old"];
const SECOND: [&str; 2] = ["epsilon", "new"];

/// An address outside, on the other node, which the cluster does not know.
const OUTSIDE: &str = "198.18.200.1";

/// The port of the node port, and that of all servers.
const NODE_PORT: u16 = 30501;
const PORT: u16 = 5301;

/// What both agents count.
type Counts = [BTreeMap<Key, u64>; 2];

/// What was counted meanwhile, by node.
type Grown = BTreeMap<(usize, Key), u64>;

/// Where a case's round trips must be counted: node, namespace, peer, its kind.
type Place = (usize, &'static str, &'static str, &'static str);

/// Who asks whom, and what must come of it.
struct Case {
    what: &'static str,
    client: [&'static str; 2],
    target: fn(&Targets) -> String,
    places: &'static [Place],
}

/// Addresses of pods and Services.
struct Targets {
    a0: String,
    b0: String,
    itself: String,
    near: String,
    far: String,
}

/// Who asks: a pod of `node-a`, and one in the network of `node-b`.
const POD: [&str; 2] = ["alpha", "a0"];
const HOST: [&str; 2] = ["delta", "host"];

const CASES: [Case; 7] = [
    Case {
        what: "a pod",
        client: POD,
        target: |targets| targets.b0.clone(),
        places: &[(0, "alpha", "gamma", "pod"), (1, "gamma", "alpha", "pod")],
    },
    Case {
        what: "a Service across",
        client: POD,
        target: |targets| targets.far.clone(),
        places: &[
            (0, "alpha", "gamma", "service"),
            (1, "gamma", "alpha", "pod"),
        ],
    },
    Case {
        what: "a Service beside",
        client: POD,
        target: |targets| targets.near.clone(),
        places: &[(0, "alpha", "beta", "service"), (0, "beta", "alpha", "pod")],
    },
    Case {
        what: "hairpin",
        client: POD,
        target: |targets| targets.itself.clone(),
        places: &[
            (0, "alpha", "alpha", "service"),
            (0, "alpha", "host", "node"),
        ],
    },
    Case {
        what: "masquerade",
        client: POD,
        target: |_| format!("{OUTSIDE}:{PORT}"),
        places: &[(0, "alpha", "", "external"), (1, "host", "host", "node")],
    },
    Case {
        what: "a node port",
        client: HOST,
        target: |_| format!("198.18.0.1:{NODE_PORT}"),
        places: &[(0, "beta", "host", "node"), (1, "host", "host", "node")],
    },
    Case {
        what: "a host-network pod",
        client: HOST,
        target: |targets| targets.a0.clone(),
        places: &[(0, "alpha", "host", "node"), (1, "host", "alpha", "pod")],
    },
];

pub(crate) fn are_right(cluster: &Cluster, network: Network, scope: &str) {
    let targets = lay_out(cluster);
    outside(cluster);
    scope::is(cluster, scope, scope);
    if scope == "node" {
        // Who is on the other node is asked for when something talks with it.
        ask(cluster, POD, &["--count=20", "--period=20ms", &targets.b0]);
        scope::names_are_told(cluster);
    }
    let mut counts = settled(cluster);
    for case in &CASES {
        counts = check(cluster, case, &targets, network, &counts);
    }
    an_address_has_another_owner(cluster);
    probes_are_the_nodes(cluster);
    scope::nothing_was_refused(cluster);
    for namespace in ["alpha", "beta", "gamma", "delta", SECOND[0], PROBED] {
        tool(
            cluster,
            &["kubectl", "delete", "namespace", namespace, "--wait=false"],
        );
    }
}

/// Pods and Services.
fn lay_out(cluster: &Cluster) -> Targets {
    let pods = [
        ("alpha", "a0", "node-a", ""),
        ("beta", "a1", "node-a", ""),
        ("gamma", "b0", "node-b", ""),
        ("delta", "host", "node-b", "  hostNetwork: true\n"),
    ];
    for (namespace, name, node, extra) in pods {
        pod(cluster, namespace, name, node, extra);
    }
    node_port(cluster);
    let itself = service(cluster, "alpha", "a0");
    let near = service(cluster, "beta", "a1");
    let far = service(cluster, "gamma", "b0");
    let [a0, _, b0, _] = pods.map(|(namespace, name, ..)| {
        let address = address(cluster, namespace, name);
        format!("{address}:{PORT}")
    });
    Targets {
        a0,
        b0,
        itself,
        near,
        far,
    }
}

/// Where a case's round trips must be counted in this network.
fn places(case: &Case, network: Network) -> Vec<Place> {
    let all = case.places.iter().copied();
    // What a node itself sends to pods is counted at its card. There flannel's is in the tunnel's
    // packets, so that the pod's end alone has it.
    all.filter(|(_, namespace, peer, _)| {
        network != Network::Flannel || *namespace != "host" || *peer == "host"
    })
    .collect()
}

/// A port of each node, of `beta`'s pod.
fn node_port(cluster: &Cluster) {
    let manifest = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: port, namespace: beta}}\n\
         spec: {{type: NodePort, selector: {{app: a1}}, \
         ports: [{{port: {PORT}, nodePort: {NODE_PORT}}}]}}\n"
    );
    cluster.apply(&manifest).expect("a node port");
}

/// A server outside, to which `node-a`'s pods go masqueraded.
fn outside(cluster: &Cluster) {
    let [a, b] = &cluster.nodes;
    b.netns
        .ip(&format!("addr add {OUTSIDE}/32 dev lo"))
        .expect("an address");
    let rule = format!("-t nat -A POSTROUTING -s 198.19.1.0/24 -d {OUTSIDE} -j MASQUERADE");
    let words: Vec<_> = rule.split(' ').collect();
    a.netns.output("iptables", &words).expect("a rule");
    // The host-network pod of node-b answers there.
}

/// Lets one talk, from these counts on; what the counts are afterwards.
fn check(
    cluster: &Cluster,
    case: &Case,
    targets: &Targets,
    network: Network,
    before: &Counts,
) -> Counts {
    let target = (case.target)(targets);
    let places = places(case, network);
    talks(cluster, case.what, (case.client, &target), &places, before)
}

/// Lets one talk with another; all must be counted in these places, and nothing else anywhere.
fn talks(
    cluster: &Cluster,
    what: &str,
    (client, target): ([&str; 2], &str),
    places: &[Place],
    before: &Counts,
) -> Counts {
    let count = format!("--count={REQUESTS}");
    let report = ask(cluster, client, &[&count, "--period=20ms", target]);
    assert_eq!(report["requests"], REQUESTS, "{report}");
    let after = settled(cluster);
    let grown = grown(before, &after);
    println!("{what}: {grown:?}");
    counted_once(what, places, &grown);
    for ((node, key), count) in &grown {
        let expected = places.iter().any(|(at, namespace, peer, kind)| {
            at == node && key[..3] == [*namespace, *peer, *kind].map(str::to_owned)
        });
        let own = key[0] == "host" && key[1] == "host";
        assert!(
            expected || (own && *count <= BACKGROUND),
            "{what}: {count} of {key:?} on node {node}: {grown:?}"
        );
    }
    after
}

/// A pod goes, and its address goes to one of another namespace: it has the new name then, at both
/// ends, and the old one no more.
fn an_address_has_another_owner(cluster: &Cluster) {
    let node = &cluster.nodes[1];
    pod(cluster, FIRST[0], FIRST[1], &node.name, "");
    let had: Ipv4Addr = {
        let text = address(cluster, FIRST[0], FIRST[1]);
        text.parse().expect("an address")
    };
    let target = format!("{had}:{PORT}");
    ask(cluster, POD, &["--count=20", "--period=20ms", &target]);
    let words = [
        "kubectl",
        "delete",
        "pod",
        "--namespace",
        FIRST[0],
        FIRST[1],
    ];
    tool(cluster, &words);
    // host-local keeps a file per address, and the last one that it gave: the next is the one after.
    let addresses = node.directory.join("addresses/lpm");
    eventually("the address given back", || {
        !addresses.join(had.to_string()).exists()
    });
    let last = Ipv4Addr::from_bits(had.to_bits() - 1).to_string();
    fs::write(addresses.join("last_reserved_ip.0"), last).expect("host-local's file");
    pod(cluster, SECOND[0], SECOND[1], &node.name, "");
    let has = address(cluster, SECOND[0], SECOND[1]);
    assert_eq!(has, had.to_string(), "the other one's address");
    // The bridge's neighbour table may still lead to the old one's interface for half a minute.
    let flush = format!("neigh flush to {had}");
    node.netns.ip(&flush).expect("the neighbours");
    let places = [(0, POD[0], SECOND[0], "pod"), (1, SECOND[0], POD[0], "pod")];
    let before = settled(cluster);
    talks(cluster, "another owner", (POD, &target), &places, &before);
}

/// Each of these places has the round trips of all requests, once.
fn counted_once(what: &str, places: &[Place], grown: &Grown) {
    let of = |place: &Place, leg: &str| {
        let (node, namespace, peer, kind) = *place;
        let key = [namespace, peer, kind, leg].map(str::to_owned);
        grown.get(&(node, key)).copied().unwrap_or(0)
    };
    for place in places {
        let beside = if place.1 == "host" { BACKGROUND } else { 0 };
        for leg in ["local", "remote"] {
            let count = of(place, leg);
            // Requests that come late follow upon one another within a tick of the clock, and have
            // one stamp. With a handshake; twice would be far more.
            assert!(
                (REQUESTS / 2..=REQUESTS + MORE + beside).contains(&count),
                "{what}: {place:?} {leg}: {count} of {REQUESTS}: {grown:?}"
            );
        }
    }
    // Both ends see the same packets: what is beyond the one is on the side of the other.
    if let [one, other] = places
        && ![one.1, other.1].contains(&"host")
    {
        for legs in [["remote", "local"], ["local", "remote"]] {
            let counts = [of(one, legs[0]), of(other, legs[1])];
            assert!(
                counts[0].abs_diff(counts[1]) <= MORE,
                "{what}: {legs:?}: {counts:?}"
            );
        }
    }
}

/// What was counted between two looks, by node.
fn grown(before: &Counts, after: &Counts) -> Grown {
    let mut grown = BTreeMap::new();
    for (node, (before, after)) in before.iter().zip(after).enumerate() {
        for (key, now) in after {
            let count = now - before.get(key).unwrap_or(&0);
            if count > 0 {
                grown.insert((node, key.clone()), count);
            }
        }
    }
    grown
}

/// What both agents count, when that stands still for our pods.
fn settled(cluster: &Cluster) -> Counts {
    let look = || {
        let scrapes = cluster.nodes.each_ref().map(Scrape::of);
        scrapes.map(|scrape| scrape.expect("an agent").counts)
    };
    let ours = |all: &Counts| {
        let ours = |counts: &BTreeMap<Key, u64>| {
            let ours = counts.iter().filter(|(key, _)| key[0] != "host");
            ours.map(|(_, count)| count).sum::<u64>()
        };
        all.iter().map(ours).sum::<u64>()
    };
    let mut last = look();
    eventually("the counts at rest", || {
        thread::sleep(Duration::from_secs(1));
        let now = look();
        let rests = ours(&now) == ours(&last);
        last = now;
        rests
    });
    last
}

/// The kubelet opens a connection to a pod every second: from the node, and from nobody else.
fn probes_are_the_nodes(cluster: &Cluster) {
    serve(cluster, PROBED, "node-b");
    let own = |counts: &Counts| {
        let own = counts[1].iter().filter(|(key, _)| key[0] == PROBED);
        own.map(|(key, count)| (key.clone(), *count))
            .collect::<BTreeMap<Key, u64>>()
    };
    let of_node = |leg: &str| [PROBED, "host", "node", leg].map(str::to_owned);
    let mut seen = BTreeMap::new();
    eventually("the kubelet's probes", || {
        let counts = cluster.nodes.each_ref().map(|node| {
            let scrape = Scrape::of(node);
            scrape.map_or_else(BTreeMap::new, |scrape| scrape.counts)
        });
        seen = own(&counts);
        let enough = |leg| seen.get(&of_node(leg)).is_some_and(|count| *count > 5);
        enough("local") && enough("remote")
    });
    println!("probes: {seen:?}");
    let others: Vec<_> = seen.keys().filter(|key| key[2] != "node").collect();
    assert!(others.is_empty(), "{others:?}");
}
