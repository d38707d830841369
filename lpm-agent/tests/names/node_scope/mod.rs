//! The agent in a cluster with several nodes, with names from a real API server.

mod rollout;
mod thousand;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
};

use lpm_agent::identity::peers::PATH;
use lpm_testbed::{
    kubernetes::ApiServer,
    testbed::{Pair, PairConfig},
    traffic::{Background, Limit, PORT, RequestConfig, Server, requests},
};
use serde_json::json;

use crate::{
    peer,
    support::lpm::{Agent, Lpm, eventually, kernel_is_usable},
};

/// Some requests on a connection of their own.
fn talk(pair: &Pair) {
    let config = RequestConfig {
        limit: Limit::count(20),
        ..RequestConfig::new(SocketAddr::from((Pair::SERVER[0], PORT)))
    };
    let talk = Background::start(&pair.client, move |control| requests(&config, control));
    talk.expect("start requests").join().expect("requests");
}

/// Round trips of `shop` with another namespace so far.
fn samples(agent: &Agent, peer: &str) -> f64 {
    counted(agent, "lpm_rtt_seconds_count", peer)
}

fn counted(agent: &Agent, metric: &str, peer: &str) -> f64 {
    let labels = format!("{{namespace=\"shop\",peer_namespace=\"{peer}\",peer_kind=\"pod\",");
    let metrics = agent.metrics();
    let counts = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(metric))
        .filter(|line| line.starts_with(&labels));
    counts
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// A node with a range of pods that is one address.
fn node(api: &ApiServer, number: u8, range: IpAddr) {
    let (name, range) = (format!("n{number}"), format!("{range}/32"));
    let spec = json!({"podCIDR": range, "podCIDRs": [range]});
    let object = json!({"metadata": {"name": name}, "spec": spec});
    api.create("/api/v1/nodes", &object).expect("a node");
    let address = peer::node_address(number).to_string();
    let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
    api.patch_status(&format!("/api/v1/nodes/{name}"), &status)
        .expect("an address");
    let csi = json!({"metadata": {"name": name}, "spec": {"drivers": []}});
    api.create("/apis/storage.k8s.io/v1/csinodes", &csi)
        .expect("a CSINode");
}

/// A pod of `shop` on node 1, one of `media` on node 2: the ends of the pair.
fn two_pods(api: &ApiServer) {
    let (here, there) = (Pair::CLIENT[0], Pair::SERVER[0]);
    for (namespace, pod, number, address) in
        [("shop", "web-0", 1, here), ("media", "store-0", 2, there)]
    {
        let object = json!({"metadata": {"name": namespace}});
        api.create("/api/v1/namespaces", &object).expect(namespace);
        node(api, number, address);
        let node = format!("n{number}");
        api.create_pod(namespace, pod, &node, &[&address.to_string()])
            .expect("a pod");
    }
}

/// The agent of node 1, with interfaces and a kernel.
fn start(api: &ApiServer, pair: &Pair, port: u16) -> Agent {
    start_with(api, pair, port, "")
}

/// Starts the agent of node 1 as [`start`] does, with `more` in its configuration.
fn start_with(api: &ApiServer, pair: &Pair, port: u16, more: &str) -> Agent {
    let listen = SocketAddr::new(peer::node_address(1), port);
    let file = api.directory().join("lpm.yaml");
    let config = format!(
        "flows: 1024\nrows: 16\nnode_name: n1\nlisten: {listen}\nidentity:\n  kubernetes: \
         {{kubeconfig: {}, scope: node}}\n{more}",
        api.kubeconfig().display()
    );
    fs::write(&file, config).expect("a configuration");
    let file = file.to_str().expect("a path");
    let arguments = ["run", "-c", file, "-i", Pair::POD_INTERFACE];
    let lpm = Lpm::start(&pair.node, &arguments);
    let agent = Agent::at(lpm, format!("http://{listen}"));
    agent.lpm.wait_for("/metrics\n");
    agent
}

#[test]
fn pings_alone_ask_for_names() {
    if !kernel_is_usable() {
        return;
    }
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    two_pods(&api);
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let port = peer::free_port();
    let agent = start(&api, &pair, port);
    let _other = peer::Agent::start(&api.kubeconfig(), 2, port);
    let there = Pair::SERVER[0].to_string();
    eventually("the pinged pod is named", || {
        pair.client
            .output("ping", &["-c", "1", &there])
            .expect("ping");
        counted(&agent, "lpm_icmp_rtt_seconds_count", "media") > 0.0
    });
    agent.stop();
}

#[test]
fn round_trips_bear_names_that_another_agent_tells() {
    if !kernel_is_usable() {
        return;
    }
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    for name in ["shop", "media", "games"] {
        let namespace = json!({"metadata": {"name": name}});
        api.create("/api/v1/namespaces", &namespace).expect(name);
    }
    let (here, there) = (Pair::CLIENT[0], Pair::SERVER[0]);
    node(&api, 1, here);
    node(&api, 2, there);
    api.create_pod("shop", "web-0", "n1", &[&here.to_string()])
        .expect("a pod");
    let there = there.to_string();
    api.create_pod("media", "store-0", "n2", &[&there])
        .expect("a pod");
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let port = peer::free_port();
    let agent = start(&api, &pair, port);
    let in_place = || agent.value("lpm_identity_peers_in_place");
    eventually(
        "the API server tells in place of the agent that is not there",
        || {
            talk(&pair);
            samples(&agent, "media") > 0.0 && in_place() == Some(1.0)
        },
    );
    let mut other = peer::Agent::start(&api.kubeconfig(), 2, port);
    eventually("the other agent tells the name", || {
        talk(&pair);
        agent.value("lpm_identity_peers{state=\"answering\"}") == Some(1.0)
    });
    assert_eq!(in_place(), Some(0.0));
    assert_eq!(
        agent.value("lpm_identity_objects{kind=\"pods\"}"),
        Some(1.0)
    );
    let scope = "lpm_identity_scope{configured=\"node\",scope=\"node\"}";
    assert_eq!(agent.value(scope), Some(1.0));
    // The other agent is gone, and so is the pod; the address goes to another one.
    other.stop_serving();
    eventually("it does not answer", || {
        agent.value("lpm_identity_peers{state=\"silent\"}") == Some(1.0)
    });
    api.delete("/api/v1/namespaces/media/pods/store-0")
        .expect("delete");
    eventually("nobody has the address", || {
        let before = samples(&agent, "unknown");
        talk(&pair);
        samples(&agent, "unknown") > before
    });
    let before = samples(&agent, "media");
    api.create_pod("games", "new-0", "n2", &[&there])
        .expect("a pod");
    eventually("the next owner is known", || {
        talk(&pair);
        samples(&agent, "games") > 0.0
    });
    other.serve();
    let after = samples(&agent, "media");
    assert!(
        (after - before).abs() < 0.5,
        "the pod that is gone got none of it"
    );
    // This agent tells the other of its own pod.
    other.talks_with(&here.to_string());
    other.follower.wait_for(&here.to_string(), "pod shop web-0");
    agent.stop();
    nodes_may_ask_and_pods_may_not(&api, &pair, &other);
}

/// The status of what an agent answers to another machine.
fn status(pair: &Pair, at: SocketAddr) -> String {
    let connect = || TcpStream::connect(at);
    let stream = pair.client.run_in(connect).expect("a namespace");
    let mut stream = stream.expect("connect");
    let request = format!("GET {PATH} HTTP/1.1\r\nhost: {at}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("ask");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a line");
    line.split(' ').nth(1).expect("a status").to_owned()
}

/// Who asks from another machine is answered if it has a node's address.
fn nodes_may_ask_and_pods_may_not(api: &ApiServer, pair: &Pair, agent: &peer::Agent) {
    let at = SocketAddr::from((Pair::SERVER[0], 0));
    let listener = pair.server.run_in(|| TcpListener::bind(at));
    let listener = listener.expect("a namespace").expect("bind");
    let at = listener.local_addr().expect("an address");
    let _serving = agent.serve_at(listener);
    assert_eq!(status(pair, at), "403", "a pod's address");
    let client = Pair::CLIENT[0].to_string();
    let addresses = json!([{"type": "InternalIP", "address": peer::node_address(1).to_string()},
        {"type": "ExternalIP", "address": client}]);
    let object = json!({"metadata": {"name": "n3"}});
    api.create("/api/v1/nodes", &object).expect("a node");
    api.patch_status("/api/v1/nodes/n3", &json!({"addresses": addresses}))
        .expect("an address");
    let csi = json!({"metadata": {"name": "n3"}, "spec": {"drivers": []}});
    api.create("/apis/storage.k8s.io/v1/csinodes", &csi)
        .expect("a CSINode");
    eventually("it is a node's", || status(pair, at) == "200");
}
