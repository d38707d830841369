//! Names from a real API server, in the histograms of the kernel.

#[path = "common/gate.rs"]
mod gate;
mod lpm;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use gate::Gate;
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

fn namespaces(api: &ApiServer) {
    for name in ["shop", "media", "games"] {
        let namespace = json!({"metadata": {"name": name}});
        api.create("/api/v1/namespaces", &namespace).expect(name);
    }
}

/// One at the pod's interface that asks the API server this way.
fn agent(api: &ApiServer, pair: &Pair, kubeconfig: &Path) -> Agent {
    let file = api.directory().join("lpm.yaml");
    let config = format!(
        "flows: 1024\nrows: 16\nnode_name: n1\nlevels: {{pod: true}}\nidentity:\n  \
         kubernetes: {{kubeconfig: {}, labels: [team, example.com/tier]}}\n  \
         external: [{{cidr: 0.0.0.0/0, name: internet}}]\n",
        kubeconfig.display()
    );
    fs::write(&file, config).expect("a configuration");
    let file = file.to_str().expect("a path");
    Agent::start(&pair.node, &["-c", file, "-i", Pair::POD_INTERFACE])
}

#[test]
fn round_trips_bear_the_names_of_pods() {
    if !kernel_is_usable() {
        return;
    }
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    namespaces(&api);
    let there = Pair::SERVER[0].to_string();
    let pod = |namespace: &str, name: &str, address: &str| {
        api.create_pod(namespace, name, "n1", &[address])
            .expect("a pod");
    };
    pod("shop", "web-0", &Pair::CLIENT[0].to_string());
    pod("media", "store-0", &there);

    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let agent = agent(&api, &pair, &api.kubeconfig());
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

/// A kubeconfig by which the server is asked through a gate.
fn through_a_gate(api: &ApiServer) -> (Gate, PathBuf) {
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

/// Ends a pod as its kubelet does: it is asked to go, ends, and then its object goes.
fn end(api: &ApiServer, pod: &str) {
    let request = format!("{pod}?gracePeriodSeconds=30");
    let answer = api.request("DELETE", &request, None).expect("delete");
    assert_eq!(answer.status, 200, "{request}");
    let ended = json!({"containerStatuses": [{
        "name": "main", "ready": false, "restartCount": 0, "image": "none", "imageID": "none",
        "state": {"terminated": {"exitCode": 0}},
    }]});
    api.patch_status(pod, &ended).expect("status");
    api.delete(pod).expect("delete");
}

fn wait_until(time: SystemTime) {
    eventually("the time comes", || SystemTime::now() >= time);
}

#[test]
fn names_that_come_late_are_counted() {
    late_names_are_counted(end);
}

/// As when its node was lost: nobody says when it ended, but the next owner when it began.
#[test]
fn names_that_come_late_after_an_end_at_once_are_counted() {
    late_names_are_counted(|api, pod| {
        api.delete(pod).expect("delete");
    });
}

fn late_names_are_counted(end: fn(&ApiServer, &str)) {
    if !kernel_is_usable() {
        return;
    }
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    namespaces(&api);
    let there = Pair::SERVER[0].to_string();
    for (namespace, name, address) in [
        ("shop", "web-0", Pair::CLIENT[0].to_string()),
        ("media", "store-0", there.clone()),
    ] {
        api.create_pod(namespace, name, "n1", &[&address])
            .expect("a pod");
    }
    let (gate, kubeconfig) = through_a_gate(&api);
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let agent = agent(&api, &pair, &kubeconfig);
    let late = || agent.value("lpm_identity_late_samples_total");
    eventually("the names are in the kernel", || {
        talk(&pair);
        samples(&agent, "media", "pod") > 0
    });
    assert_eq!(late(), Some(0.0));

    gate.hold();
    end(&api, "/api/v1/namespaces/media/pods/store-0");
    let held = SystemTime::now();
    // The server's times are whole seconds.
    wait_until(held + Duration::from_secs(2));
    api.create_pod("games", "new-0", "n1", &[&there])
        .expect("a pod");
    wait_until(SystemTime::now() + Duration::from_secs(2));
    let before = samples(&agent, "media", "pod");
    for _ in 0..3 {
        talk(&pair);
    }
    let wrong = samples(&agent, "media", "pod") - before;
    assert!(wrong >= 6, "{wrong} of 3 connections bear the former name");
    wait_until(held + Duration::from_secs(5));
    assert_eq!(late(), Some(0.0), "nobody can know it yet");
    gate.release();
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let wrong = wrong as f64;
    eventually("they are counted", || late() == Some(wrong));
    let lag = agent.value("lpm_identity_lag_seconds{kind=\"pods\"}");
    assert!(lag.is_some_and(|lag| lag >= 2.0), "{lag:?}");

    // From now on the name is right, and nothing is late.
    let before = samples(&agent, "media", "pod");
    eventually("the next owner is known", || {
        talk(&pair);
        samples(&agent, "games", "pod") > 0
    });
    assert_eq!(samples(&agent, "media", "pod"), before);
    assert_eq!(late(), Some(wrong));
    agent.stop();
}
