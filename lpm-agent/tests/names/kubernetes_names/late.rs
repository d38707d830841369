//! The watch is seconds behind: what bears a former name is counted, and the local end never does.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use lpm_testbed::{
    kubernetes::ApiServer,
    testbed::{Netns, Pair, PairConfig},
    traffic::{PORT, Server},
};
use serde_json::json;

use super::scene::{NEXT_INTERFACE, agent, counted, pod, populate, samples, talk, through_a_gate};
use crate::support::lpm::{Agent, eventually, kernel_is_usable};

/// A connection's handshake is one sample of each leg, and nothing else is measured here.
const SAMPLES_PER_CONNECTION: u64 = 2;

/// What libcni writes when it made an interface for a pod.
fn cni_result(directory: &Path, (namespace, pod): (&str, &str), interface: &str) {
    let address = Pair::CLIENT[0];
    let text = json!({
        "kind": "cniCacheV1", "containerId": pod, "ifName": "eth0", "networkName": "pods",
        "cniArgs": [["K8S_POD_NAMESPACE", namespace], ["K8S_POD_NAME", pod]],
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": interface}, {"name": "eth0", "sandbox": "/var/run/netns/a"}],
            "ips": [{"address": format!("{address}/24")}],
        },
    });
    // In one go, as its readers expect: a name appears when the file is whole.
    let whole = directory.with_file_name("whole");
    fs::write(&whole, text.to_string()).expect("write");
    fs::rename(whole, directory.join(pod)).expect("rename");
}

/// The pod of this node goes, and another gets its address on an interface of its own.
fn replace(pair: &Pair, results: &Path) -> Netns {
    fs::remove_file(results.join("web-0")).expect("remove");
    let delete = format!("link delete {}", Pair::POD_INTERFACE);
    pair.node.ip(&delete).expect("delete");
    let next = Netns::new("next").expect("a namespace");
    pair.node
        .veth(NEXT_INTERFACE, &next, "eth0", 1500)
        .expect("a veth");
    cni_result(results, ("games", "next-0"), NEXT_INTERFACE);
    pair.node
        .ip_batch(&format!(
            "addr add 198.18.1.1/24 dev {NEXT_INTERFACE}\nlink set {NEXT_INTERFACE} up"
        ))
        .expect("an address");
    next.ip_batch(
        "addr add 198.18.1.2/24 dev eth0\nlink set eth0 up\nroute add default via 198.18.1.1",
    )
    .expect("an address");
    next
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

/// Both addresses get new owners, the one here on an interface of its own: that pod is returned.
fn change_hands(api: &ApiServer, pair: &Pair, results: &Path, end: fn(&ApiServer, &str)) -> Netns {
    end(api, "/api/v1/namespaces/media/pods/store-0");
    end(api, "/api/v1/namespaces/shop/pods/web-0");
    let next = replace(pair, results);
    // The server's times are whole seconds.
    wait_until(SystemTime::now() + Duration::from_secs(2));
    pod(api, "games", "new-0", &Pair::SERVER[0].to_string());
    pod(api, "games", "next-0", &Pair::CLIENT[0].to_string());
    wait_until(SystemTime::now() + Duration::from_secs(2));
    next
}

fn wait_until(time: SystemTime) {
    eventually("the time comes", || SystemTime::now() >= time);
}

/// An agent that measures handshakes only, behind a gate.
fn begin(api: &ApiServer, pair: &Pair, kubeconfig: &Path, results: &Path) -> Agent {
    fs::create_dir(results).expect("a directory");
    cni_result(results, ("shop", "web-0"), Pair::POD_INTERFACE);
    let more = format!("methods: [handshake]\ncni_results: {}\n", results.display());
    let agent = agent(api, pair, kubeconfig, &more);
    eventually("the names are in the kernel", || {
        talk(&pair.client);
        samples(&agent, "media", "pod") > 0
    });
    agent
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
    populate(&api);
    let (gate, kubeconfig) = through_a_gate(&api);
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let results = api.directory().join("results");
    let agent = begin(&api, &pair, &kubeconfig, &results);
    let late = || agent.value("lpm_identity_late_samples_total");
    assert_eq!(late(), Some(0.0));

    gate.hold();
    let held = SystemTime::now();
    let former = counted(&agent, "shop", None);
    let next = change_hands(&api, &pair, &results, end);
    let of_next = |peer| counted(&agent, "games", Some((peer, "pod")));
    let interface = format!("interface=\"{NEXT_INTERFACE}\"");
    eventually("the new interface is watched", || {
        agent.metrics().contains(&interface)
    });
    let connections = 5;
    for _ in 0..connections {
        talk(&next);
    }
    // The truth is what was done: so many connections of a pod of games to one of games.
    let truth = connections * SAMPLES_PER_CONNECTION;
    assert_eq!(
        of_next("media"),
        truth,
        "the remote end's name is the former"
    );
    assert_eq!(
        counted(&agent, "shop", None),
        former,
        "the local end's is not"
    );
    wait_until(held + Duration::from_secs(5));
    assert_eq!(late(), Some(0.0), "nobody can know it yet");
    gate.release();
    #[expect(clippy::cast_precision_loss, reason = "some dozens")]
    let late_truth = truth as f64;
    eventually("they are counted", || late() == Some(late_truth));
    let lag = agent.value("lpm_identity_lag_seconds{kind=\"pods\"}");
    assert!(lag.is_some_and(|lag| lag >= 2.0), "{lag:?}");

    // From now on the names are right, and nothing is late.
    eventually("the next owner is known", || {
        talk(&next);
        of_next("games") > 0
    });
    assert_eq!(of_next("media"), truth);
    assert_eq!(counted(&agent, "shop", None), former);
    assert_eq!(late(), Some(late_truth));
    agent.stop();
}
