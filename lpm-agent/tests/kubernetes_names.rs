//! Names from a real API server, in the histograms of the kernel.

mod lpm;

use std::{fs, net::SocketAddr};

use lpm::{Agent, eventually, kernel_is_usable};
use lpm_bench::{
    kubernetes::ApiServer,
    testbed::{Pair, PairConfig},
    traffic::{Background, Limit, PORT, RequestConfig, Server, requests},
};
use serde_json::json;

/// Some requests on a connection of their own.
fn talk(pair: &Pair) {
    let config = RequestConfig {
        limit: Limit::count(20),
        ..RequestConfig::new(SocketAddr::from((Pair::SERVER[0], PORT)))
    };
    let talk = Background::start(&pair.client, move |control| requests(&config, control));
    talk.expect("start requests").join().expect("requests");
}

/// Samples between two namespaces so far.
fn samples(agent: &Agent, peer: &str, kind: &str) -> u64 {
    let labels = format!("{{namespace=\"shop\",peer_namespace=\"{peer}\",peer_kind=\"{kind}\",");
    let metrics = agent.metrics();
    let counts = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("lpm_rtt_seconds_count"))
        .filter(|line| line.starts_with(&labels));
    counts
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

/// Labels of a pod change, and with them what is told of it.
fn labels_are_told(api: &ApiServer, agent: &Agent) {
    for (team, tier) in [("blue", None), ("green", Some("gold"))] {
        let labels = json!({"team": team, "example.com/tier": tier});
        let change = json!({"metadata": {"labels": labels}});
        api.patch("/api/v1/namespaces/shop/pods/web-0", &change)
            .expect("labels");
        let tier = tier.unwrap_or_default();
        let series = format!(
            "lpm_pod_info{{namespace=\"shop\",pod=\"web-0\",workload=\"\",\
             label_team=\"{team}\",label_example_com_tier=\"{tier}\"}}"
        );
        eventually(&series, || agent.value(&series) == Some(1.0));
    }
    let metrics = agent.metrics();
    let told = metrics
        .lines()
        .filter(|line| line.starts_with("lpm_pod_info") && line.contains("web-0"));
    assert_eq!(told.count(), 1, "the old labels are gone: {metrics}");
}

#[test]
fn round_trips_bear_the_names_of_pods() {
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
    let there = Pair::SERVER[0].to_string();
    let pod = |namespace: &str, name: &str, address: &str| {
        api.create_pod(namespace, name, "n1", &[address])
            .expect("a pod");
    };
    pod("shop", "web-0", &Pair::CLIENT[0].to_string());
    pod("media", "store-0", &there);

    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let file = api.directory().join("lpm.yaml");
    let config = format!(
        "flows: 1024\nrows: 16\nnode_name: n1\nlevels: {{pod: true}}\nidentity:\n  \
         kubernetes: {{kubeconfig: {}, labels: [team, example.com/tier]}}\n  \
         external: [{{cidr: 0.0.0.0/0, name: internet}}]\n",
        api.kubeconfig().display()
    );
    fs::write(&file, config).expect("a configuration");
    let file = file.to_str().expect("a path");
    let agent = Agent::start(&pair.node, &["-c", file, "-i", Pair::POD_INTERFACE]);
    eventually("the pods are known to the metrics", || {
        agent.value("lpm_identity_objects{kind=\"pods\"}") == Some(2.0)
    });
    assert_eq!(agent.value("lpm_identity_synced{kind=\"pods\"}"), Some(1.0));
    eventually("the names are in the kernel", || {
        talk(&pair);
        samples(&agent, "media", "pod") > 0
    });
    labels_are_told(&api, &agent);
    api.delete("/api/v1/namespaces/media/pods/store-0")
        .expect("delete");
    eventually("nobody knows whose the address is", || {
        talk(&pair);
        samples(&agent, "unknown", "pod") > 0
    });
    let before = samples(&agent, "media", "pod");
    pod("games", "new-0", &there);
    eventually("the next owner is known", || {
        talk(&pair);
        samples(&agent, "games", "pod") > 0
    });
    let after = samples(&agent, "media", "pod");
    assert_eq!(after, before, "the pod that is gone got none of it");
    assert_eq!(samples(&agent, "internet", "external"), 0);
    agent.stop();
}
