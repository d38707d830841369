//! A pod at its node's interface, a server beyond it, and an agent that asks the API server.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use lpm_testbed::{
    kubernetes::ApiServer,
    testbed::{Netns, Pair},
    traffic::{Background, Limit, PORT, RequestConfig, requests},
};
use serde_json::json;

use crate::support::{gate::Gate, lpm::Agent};

/// Some requests to the pod beyond the wire, on a connection of their own.
pub(crate) fn talk(client: &Netns) {
    talk_to(client, Pair::SERVER[0]);
}

/// Some requests to an address, on a connection of their own.
pub(crate) fn talk_to(client: &Netns, to: IpAddr) {
    let config = RequestConfig {
        limit: Limit::count(20),
        ..RequestConfig::new(SocketAddr::from((to, PORT)))
    };
    let talk = Background::start(client, move |control| requests(&config, control));
    talk.expect("start requests").join().expect("requests");
}

/// Round trips counted so far whose local end is of a namespace; by the remote end's namespace and
/// kind, or with all.
pub(crate) fn counted(agent: &Agent, namespace: &str, peer: Option<(&str, &str)>) -> u64 {
    let of_peer = peer.map_or_else(String::new, |(peer, kind)| {
        format!("peer_namespace=\"{peer}\",peer_kind=\"{kind}\",")
    });
    let labels = format!("{{namespace=\"{namespace}\",{of_peer}");
    let metrics = agent.metrics();
    let counts = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("lpm_rtt_seconds_count"))
        .filter(|line| line.starts_with(&labels));
    counts
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

/// Those of the pod in `shop`.
pub(crate) fn samples(agent: &Agent, peer: &str, kind: &str) -> u64 {
    counted(agent, "shop", Some((peer, kind)))
}

/// The namespaces of the tests, with a pod in `shop` and one in `media`.
pub(crate) fn populate(api: &ApiServer) {
    for name in ["shop", "media", "games"] {
        let namespace = json!({"metadata": {"name": name}});
        api.create("/api/v1/namespaces", &namespace).expect(name);
    }
    pod(api, "shop", "web-0", &Pair::CLIENT[0].to_string());
    pod(api, "media", "store-0", &Pair::SERVER[0].to_string());
}

/// A pod on this node.
pub(crate) fn pod(api: &ApiServer, namespace: &str, name: &str, address: &str) {
    api.create_pod(namespace, name, "n1", &[address])
        .expect("a pod");
}

/// Another address of the machine beyond the wire.
pub(crate) fn another_address(pair: &Pair, address: &str) -> IpAddr {
    let lines = format!("addr add {address}/32 dev lo\nlink set lo up");
    pair.server.ip_batch(&lines).expect("an address");
    let (via, wire) = (Pair::SERVER[0], Pair::WIRE_INTERFACE);
    let route = format!("route add {address}/32 via {via} dev {wire}");
    pair.node.ip(&route).expect("a route");
    address.parse().expect("an address")
}

/// One at the pod's interface that asks the API server this way; `more` are lines of configuration
/// beyond those that all have.
pub(crate) fn agent(api: &ApiServer, pair: &Pair, kubeconfig: &Path, more: &str) -> Agent {
    let file = api.directory().join("lpm.yaml");
    let config = format!(
        "interfaces: [{{name: \"veth*\", vantage: pod}}, {{vantage: none}}]\nflows: 1024\nrows: 64\nnode_name: n1\nlevels: {{pod: true, service: true}}\n{more}identity:\n  \
         kubernetes: {{kubeconfig: {}, labels: [team, example.com/tier]}}\n  \
         external: [{{cidr: 0.0.0.0/0, name: internet}}, {{cidr: 198.19.64.0/18, name: azure}}]\n  \
         cluster_ranges: [198.18.0.0/16]\n",
        kubeconfig.display()
    );
    fs::write(&file, config).expect("a configuration");
    let file = file.to_str().expect("a path");
    Agent::start(&pair.node, &["-c", file])
}

/// The interface of the pod that comes after the one at [`Pair::POD_INTERFACE`].
pub(crate) const NEXT_INTERFACE: &str = "vethnext";

/// A kubeconfig by which the server is asked through a gate.
pub(crate) fn through_a_gate(api: &ApiServer) -> (Gate, PathBuf) {
    let server = api.url().replace("https://", "");
    let gate = Gate::to(server.parse().expect("an address"));
    let text = fs::read_to_string(api.kubeconfig()).expect("a kubeconfig");
    let kubeconfig = api.directory().join("by-the-gate");
    fs::write(
        &kubeconfig,
        text.replace(&server, &gate.address().to_string()),
    )
    .expect("write");
    (gate, kubeconfig)
}
