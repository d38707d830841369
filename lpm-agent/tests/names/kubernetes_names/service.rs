//! A service with two backends, whose address the client's socket has exchanged already for that of
//! a backend, as with Cilium's socket load balancing: what passes is between pods.

use std::net::IpAddr;

use lpm_testbed::{
    kubernetes::ApiServer,
    testbed::{Pair, PairConfig},
    traffic::{PORT, Server},
};
use serde_json::{Value, json};

use super::scene::{agent, another_address, pod, populate, talk_to};
use crate::support::lpm::{Agent, eventually, kernel_is_usable};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/media/endpointslices";

/// The second backend's address.
const SECOND: &str = "198.18.2.78";

/// Those of the service from now on.
fn backends(addresses: &[IpAddr]) -> Value {
    let endpoints = addresses
        .iter()
        .map(|address| json!({"addresses": [address]}));
    json!({"endpoints": endpoints.collect::<Vec<_>>()})
}

fn service(api: &ApiServer, addresses: &[IpAddr]) {
    let service = json!({
        "metadata": {"name": "store"},
        "spec": {"selector": {"app": "store"}, "ports": [{"port": 80}]},
    });
    api.create("/api/v1/namespaces/media/services", &service)
        .expect("a service");
    let mut slice = backends(addresses);
    slice["metadata"] =
        json!({"name": "store-1", "labels": {"kubernetes.io/service-name": "store"}});
    slice["addressType"] = json!("IPv4");
    slice["ports"] = json!([]);
    api.create(SLICES, &slice).expect("a slice");
}

/// Round trips of flows to the service's pods.
fn of_service(agent: &Agent) -> u64 {
    let labels =
        "{namespace=\"shop\",peer_namespace=\"media\",peer_kind=\"pod\",service=\"store\",";
    let metrics = agent.metrics();
    let counts = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("lpm_service_rtt_seconds_count"))
        .filter(|line| line.starts_with(labels));
    counts
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

/// The pod and the service at the other end of the flows to an address.
fn ends(agent: &Agent, address: IpAddr) -> Vec<(Value, Value)> {
    let flows = agent.list("flows?all=true");
    let flows = flows
        .iter()
        .filter(|flow| flow["remote"]["address"] == address.to_string());
    flows
        .map(|flow| {
            let name = &flow["remote"]["name"];
            (name["pod"].clone(), name["service"].clone())
        })
        .collect()
}

#[test]
fn a_flow_to_a_backend_bears_the_services_name_too() {
    if !kernel_is_usable() {
        return;
    }
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    populate(&api);
    pod(&api, "media", "store-1", SECOND);
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let all = [Pair::SERVER[0], another_address(&pair, SECOND)];
    service(&api, &all);
    let agent = agent(&api, &pair, &api.kubeconfig(), "");
    for (address, pod) in all.into_iter().zip(["store-0", "store-1"]) {
        let before = of_service(&agent);
        eventually(pod, || {
            talk_to(&pair.client, address);
            of_service(&agent) > before
        });
        let ends = ends(&agent, address);
        let wanted = (json!(pod), json!("store"));
        assert!(
            !ends.is_empty() && ends.iter().all(|end| *end == wanted),
            "{ends:?}"
        );
    }
    // Scaled down: the second one is there still, and none of the service's.
    api.patch(&format!("{SLICES}/store-1"), &backends(&all[..1]))
        .expect("a smaller slice");
    eventually("the second one has no service", || {
        let before = of_service(&agent);
        talk_to(&pair.client, all[1]);
        of_service(&agent) == before
    });
    let before = of_service(&agent);
    talk_to(&pair.client, all[1]);
    assert_eq!(of_service(&agent), before);
    talk_to(&pair.client, all[0]);
    assert!(of_service(&agent) > before, "the first one is");
    agent.stop();
}
