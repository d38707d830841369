//! Names from a real API server, in the histograms of the kernel.

mod late;
mod memory;
mod outage;
mod scene;
mod service;

use std::time::{Duration, Instant};

use lpm_testbed::{
    kubernetes::ApiServer,
    testbed::{Pair, PairConfig},
    traffic::{PORT, Server},
};
use scene::{agent, another_address, pod, populate, samples, talk, talk_to};
use serde_json::json;

use crate::support::lpm::{Agent, eventually, kernel_is_usable};

/// Labels of a pod change, and with them what is told of it.
fn labels_are_told(api: &ApiServer, agent: &Agent) {
    for (team, tier) in [("blue", None), ("green", Some("gold"))] {
        let labels = json!({"team": team, "example.com/tier": tier});
        let change = json!({"metadata": {"labels": labels}});
        api.patch("/api/v1/namespaces/shop/pods/web-0", &change)
            .expect("labels");
        let tier = tier.unwrap_or_default();
        let series = format!(
            "lpm_pod_info{{namespace=\"shop\",pod=\"web-0\",workload=\"web-0\",workload_type=\"barepod\",\
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

/// What is outside bears the name of the smallest range that holds it.
fn ranges_outside_have_names(pair: &Pair, agent: &Agent) {
    for (address, name, other) in [
        ("198.19.1.1", "internet", "azure"),
        ("198.19.65.1", "azure", "internet"),
    ] {
        let address = another_address(pair, address);
        let before = samples(agent, other, "external");
        talk_to(&pair.client, address);
        assert!(samples(agent, name, "external") > 0, "{name}");
        assert_eq!(samples(agent, other, "external"), before, "{other}");
    }
}

/// How long after the API server has a pod its name is in the histograms, connections and metrics
/// included.
fn time_to_name(api: &ApiServer, pair: &Pair, agent: &Agent, namespace: &str) -> Duration {
    let before = samples(agent, namespace, "pod");
    pod(api, namespace, "next", &Pair::SERVER[0].to_string());
    let begun = Instant::now();
    eventually("the next owner is known", || {
        talk(&pair.client);
        samples(agent, namespace, "pod") > before
    });
    begun.elapsed()
}

/// An address goes from hand to hand: between its owners it is nobody's, and none gets what is
/// another's.
fn an_address_changes_hands(api: &ApiServer, pair: &Pair, agent: &Agent) {
    let mut times = Vec::new();
    let mut last = ("media", "store-0");
    for next in ["games", "media", "games"] {
        let (namespace, name) = last;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        api.delete(&path).expect("delete");
        let nobodys = samples(agent, "unknown", "pod");
        eventually("nobody knows whose the address is", || {
            talk(&pair.client);
            samples(agent, "unknown", "pod") > nobodys
        });
        let before = samples(agent, namespace, "pod");
        times.push(time_to_name(api, pair, agent, next));
        let after = samples(agent, namespace, "pod");
        assert_eq!(after, before, "the pod that is gone got none of it");
        last = (next, "next");
    }
    println!("from the object to its name in the histograms: {times:?}");
    // Of several, since others use this machine, too.
    let quickest = times.iter().min().expect("three");
    assert!(*quickest < Duration::from_secs(2), "{times:?}");
}

#[test]
fn round_trips_bear_the_names_of_pods() {
    if !kernel_is_usable() {
        return;
    }
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    populate(&api);
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let agent = agent(&api, &pair, &api.kubeconfig(), "");
    eventually("the pods are known to the metrics", || {
        agent.value("lpm_identity_objects{kind=\"pods\"}") == Some(2.0)
    });
    assert_eq!(agent.value("lpm_identity_synced{kind=\"pods\"}"), Some(1.0));
    eventually("the names are in the kernel", || {
        talk(&pair.client);
        samples(&agent, "media", "pod") > 0
    });
    labels_are_told(&api, &agent);
    an_address_changes_hands(&api, &pair, &agent);
    assert_eq!(samples(&agent, "internet", "external"), 0);
    ranges_outside_have_names(&pair, &agent);
    agent.stop();
}
