//! Scope `node`: each agent follows its own node's pods and asks the others.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use lpm_agent::identity::{
    kubernetes::{Outlook, Watched, check_scope},
    permits::Permits,
};
use lpm_testbed::kubernetes::ApiServer;
use serde_json::json;

use super::{PODS, namespace, owned, rights::account};
use crate::{
    peer::{Agent, free_port, node_address, says_once},
    support::ready::eventually,
};

const CSI_NODES: &str = "/apis/storage.k8s.io/v1/csinodes";

/// Makes the node `n<number>`, at an address of its own, with a range of pods.
pub(crate) fn node(api: &ApiServer, number: u8, range: Option<&str>) {
    let name = format!("n{number}");
    let spec = range.map_or(
        json!({}),
        |range| json!({"podCIDR": range, "podCIDRs": [range]}),
    );
    let object = json!({"metadata": {"name": name}, "spec": spec});
    api.create("/api/v1/nodes", &object).expect("a node");
    // The kubelet makes it when the node joins; here so early that the node has to be looked at again.
    let csi = json!({"metadata": {"name": name}, "spec": {"drivers": []}});
    api.create(CSI_NODES, &csi).expect("a CSINode");
    let address = node_address(number).to_string();
    let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
    api.patch_status(&format!("/api/v1/nodes/{name}"), &status)
        .expect("an address");
}

/// The node goes, and with it what it owned.
fn no_node(api: &ApiServer, number: u8) {
    for collection in ["/api/v1/nodes", CSI_NODES] {
        api.delete(&format!("{collection}/n{number}"))
            .expect("delete");
    }
}

/// What `lpm check` says of a node.
fn outlook(kubeconfig: &Path, node: &str) -> Outlook {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let examined = check_scope(Some(kubeconfig), node, Permits::default());
    runtime.block_on(examined).expect("a kubeconfig").0
}

/// Two agents, on the nodes 1 and 2.
fn two(kubeconfig: &Path, port: u16) -> (Agent, Agent) {
    let [one, two] = [1, 2].map(|number| Agent::start(kubeconfig, number, port));
    (one, two)
}

fn delete_pod(api: &ApiServer, namespace: &str, name: &str) {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    api.delete(&path).expect("delete");
}

#[test]
fn other_nodes_agents_tell_the_names_of_their_pods() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    namespace(&api, "shop");
    namespace(&api, "media");
    node(&api, 1, Some("198.18.1.0/24"));
    node(&api, 2, Some("198.18.2.0/24"));
    let (here, there) = ("198.18.1.10", "198.18.2.10");
    api.create_pod("shop", "web", "n1", &[here]).expect("a pod");
    api.create_pod("media", "store", "n2", &[there])
        .expect("a pod");
    let Some(kubeconfig) = account(&api, "node") else {
        return;
    };
    let (one, mut two) = two(&kubeconfig, free_port());
    one.follower.wait_for(here, "pod shop web");
    one.follower.wait_for(there, "pod unknown -");
    one.follower.wait_for("198.19.0.1", "nobody");
    // Nothing talks with the other node, so its agent is not asked.
    two.follower.wait_for(there, "pod media store");
    assert_eq!(two.listeners(), 0);
    one.talks_with(there);
    one.follower.wait_for(there, "pod media store");
    let pods = one.follower.status.kinds()[&Watched::Pods];
    assert_eq!(pods.objects, 1, "its own node's only");
    // An address changes hands.
    delete_pod(&api, "media", "store");
    one.follower.wait_for(there, "pod unknown -");
    api.create_pod("shop", "next", "n2", &[there])
        .expect("a pod");
    one.follower.wait_for(there, "pod shop next");
    // The other agent dies, and the API server is asked in its place.
    two.stop_serving();
    in_place(&one);
    delete_pod(&api, "shop", "next");
    one.follower.wait_for(there, "pod unknown -");
    api.create_pod("media", "third", "n2", &[there])
        .expect("a pod");
    one.follower.wait_for(there, "pod media third");
    two.follower.wait_for(there, "pod media third");
    two.serve();
    eventually("it answers", || {
        let peers = one.follower.status.peers().expect("peers");
        (peers.answering, peers.silent, peers.in_place) == (1, 0, 0)
    });
    one.follower.wait_for(there, "pod media third");
    let unknown = "pod unknown -";
    assert_eq!(
        one.follower.said_of(there),
        [
            "pod media store",
            unknown,
            "pod shop next",
            unknown,
            "pod media third"
        ],
        "nothing else was ever said of it"
    );
    assert_eq!(one.follower.said_of(here), ["pod shop web"]);
    let scope = one.follower.status.scope().expect("a scope");
    assert_eq!((scope.wanted, scope.now), ("node", "node"));
    assert_eq!(one.follower.status.errors(), [].into(), "rights");
}

/// Waits until the API server is asked for what the only other agent does not tell.
fn in_place(agent: &Agent) {
    eventually("it is asked in its place", || {
        let peers = agent.follower.status.peers().expect("peers");
        let silent = (peers.answering, peers.silent, peers.in_place) == (0, 1, 1);
        silent && peers.errors.contains_key("unreachable")
    });
}

#[test]
fn a_node_without_an_agent() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    node(&api, 1, Some("198.18.1.0/24"));
    node(&api, 2, Some("198.18.2.0/24"));
    let (port, there) = (free_port(), "198.18.2.10");
    api.create_pod("default", "web", "n1", &["198.18.1.10"])
        .expect("a pod");
    // What another node's agent would have to tell is not asked for.
    api.create_pod("default", "elsewhere", "n3", &["198.18.2.77"])
        .expect("a pod");
    let pod = json!({"metadata": {"name": "store-5c9-1", "labels": {"pod-template-hash": "5c9"}},
        "spec": {"nodeName": "n2", "containers": [{"name": "main", "image": "none"}]}});
    api.create(PODS, &owned(pod, "ReplicaSet", "store-5c9", "r-1"))
        .expect("a pod");
    let status = json!({"phase": "Running", "podIP": there, "podIPs": [{"ip": there}]});
    api.patch_status(&format!("{PODS}/store-5c9-1"), &status)
        .expect("a status");
    let Some(kubeconfig) = account(&api, "node") else {
        return;
    };
    let one = Agent::start(&kubeconfig, 1, port);
    one.talks_with(there);
    one.follower
        .wait_for(there, "pod default store-5c9-1 store -");
    in_place(&one);
    assert_eq!(one.follower.who("198.18.2.77"), "pod unknown -");
    let pods = one.follower.status.kinds()[&Watched::Pods];
    assert_eq!(pods.objects, 1, "its own node's only");
    assert_eq!(one.follower.status.errors(), [].into(), "rights");
}

#[test]
fn the_scope_goes_back_when_its_reason_is_gone() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    node(&api, 1, Some("198.18.1.0/24"));
    node(&api, 2, Some("198.18.2.0/24"));
    let (here, there, late) = ("198.18.1.10", "198.18.2.10", "198.18.2.11");
    for (pod, node, address) in [("web", "n1", here), ("store", "n2", there)] {
        api.create_pod("default", pod, node, &[address])
            .expect("a pod");
    }
    let Some(kubeconfig) = account(&api, "node") else {
        return;
    };
    let (one, _two) = two(&kubeconfig, free_port());
    one.talks_with(there);
    one.follower.wait_for(there, "pod default store");
    let scope = || one.follower.status.scope().expect("a scope");
    assert_eq!((scope().now, scope().why), ("node", None));
    // A pod comes to this node whose address is of no node's range, and goes.
    api.create_pod("default", "stray", "n1", &["198.19.5.1"])
        .expect("a pod");
    eventually("all pods are followed", || scope().now == "cluster");
    let why = scope().why.expect("a reason");
    assert!(
        why.contains("default/stray") && why.contains("198.19.5.1"),
        "{why}"
    );
    one.follower.wait_for_all();
    delete_pod(&api, "default", "stray");
    eventually("the reason is gone", || {
        let why = scope().why.unwrap_or_default();
        why.contains("the reason is gone")
    });
    eventually("its own pods are followed", || {
        let pods = one.follower.status.kinds()[&Watched::Pods];
        scope().now == "node" && pods.objects == 1
    });
    assert_eq!(scope().why, None);
    assert!(
        !one.follower.status.kinds().contains_key(&Watched::Jobs),
        "what is not followed any more is not shown"
    );
    // The other agent tells what comes now.
    api.create_pod("default", "late", "n2", &[late])
        .expect("a pod");
    one.follower.wait_for(late, "pod default late");
    for (address, who) in [(here, "pod default web"), (there, "pod default store")] {
        let said = one.follower.said_of(address);
        let unknown = said.iter().skip(1).any(|who| who.contains("unknown"));
        assert!(!unknown && one.follower.who(address) == who, "{said:?}");
    }
    assert_eq!(one.follower.status.errors(), [].into(), "rights");
}

#[test]
fn services_and_workloads_without_their_watches() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    node(&api, 1, Some("198.18.1.0/24"));
    node(&api, 2, Some("198.18.2.0/24"));
    let Some(kubeconfig) = account(&api, "node") else {
        return;
    };
    let (one, two) = two(&kubeconfig, free_port());
    one.talks_with("198.18.2.1");
    let job = json!({"metadata": {"name": "backup-29"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}}}});
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = api
        .create(jobs, &owned(job, "CronJob", "backup", "c-1"))
        .expect("a job");
    let job = job["metadata"]["uid"].as_str().expect("a uid");
    for (name, kind, owner, uid, last) in [
        ("web-5c9-1", "ReplicaSet", "web-5c9", "r-1", 1),
        ("backup-29-1", "Job", "backup-29", job, 2),
    ] {
        let labels = json!({"app": name, "pod-template-hash": "5c9"});
        let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": {
            "nodeName": "n2", "containers": [{"name": "main", "image": "none"}]}});
        api.create(PODS, &owned(pod, kind, owner, uid))
            .expect("a pod");
        let address = format!("198.18.2.{last}");
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
        api.patch_status(&format!("{PODS}/{name}"), &status)
            .expect("a status");
    }
    one.follower
        .wait_for("198.18.2.1", "pod default web-5c9-1 web -");
    one.follower
        .wait_for("198.18.2.2", "pod default backup-29-1 backup -");
    let service = json!({"metadata": {"name": "front"}, "spec": {
        "selector": {"app": "web-5c9-1"}, "ports": [{"port": 80}], "clusterIP": "None"}});
    let services = "/api/v1/namespaces/default/services";
    api.create(services, &service).expect("a service");
    one.follower
        .wait_for("198.18.2.1", "pod default web-5c9-1 web front");
    assert_eq!(
        two.follower.who("198.18.2.2"),
        "pod default backup-29-1 backup -"
    );
    // It selects the other pod from now on.
    let other = json!({"spec": {"selector": {"app": "backup-29-1"}}});
    api.patch(&format!("{services}/front"), &other)
        .expect("a selector");
    one.follower
        .wait_for("198.18.2.2", "pod default backup-29-1 backup front");
    one.follower
        .wait_for("198.18.2.1", "pod default web-5c9-1 web -");
    api.delete(&format!("{services}/front")).expect("delete");
    one.follower
        .wait_for("198.18.2.2", "pod default backup-29-1 backup -");
    assert_eq!(one.follower.status.errors(), [].into());
}

#[test]
fn a_range_goes_to_another_node() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let (port, address) = (free_port(), "198.18.2.10");
    node(&api, 1, Some("198.18.1.0/24"));
    node(&api, 2, Some("198.18.2.0/24"));
    api.create_pod("default", "web", "n1", &["198.18.1.10"])
        .expect("a pod");
    api.create_pod("default", "old", "n2", &[address])
        .expect("a pod");
    let Some(kubeconfig) = account(&api, "node") else {
        return;
    };
    let (one, two) = two(&kubeconfig, port);
    one.talks_with(address);
    one.follower.wait_for(address, "pod default old");
    // The node goes; its agent and, so far, its pod's object are still there.
    no_node(&api, 2);
    one.follower.wait_for(address, "pod unknown -");
    node(&api, 3, Some("198.18.2.0/24"));
    api.create_pod("default", "new", "n3", &[address])
        .expect("a pod");
    let three = Agent::start(&kubeconfig, 3, port);
    one.follower.wait_for(address, "pod default new");
    assert_eq!(
        two.follower.who(address),
        "pod default old",
        "it says so to nobody"
    );
    three.follower.wait_for(address, "pod default new");
    let said = one.follower.said_of(address);
    assert_eq!(
        said,
        ["pod default old", "pod unknown -", "pod default new"],
        "nothing else was ever said of it"
    );
}

#[test]
fn an_agent_that_lies_or_falls_silent() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let port = free_port();
    node(&api, 1, Some("198.18.1.0/24"));
    node(&api, 2, Some("198.18.2.0/24"));
    node(&api, 3, Some("198.18.3.0/24"));
    api.create_pod("default", "web", "n1", &["198.18.1.10"])
        .expect("a pod");
    let named = |address: &str| json!({"address": address, "kind": "pod", "namespace": "evil"});
    let line = |node: &str| {
        let all = ["198.18.1.10", "198.18.2.10", "198.18.3.10", "198.19.0.1"].map(named);
        json!({"schema": 1, "node": node, "all": all}).to_string()
    };
    says_once(SocketAddr::new(node_address(2), port), line("n2"));
    says_once(SocketAddr::new(node_address(3), port), line("n7"));
    let Some(kubeconfig) = account(&api, "node") else {
        return;
    };
    let one = Agent::start(&kubeconfig, 1, port);
    one.talks_with("198.18.2.10");
    one.talks_with("198.18.3.10");
    // Each time that it is asked it says so once, and then nothing.
    eventually("it is believed while it is heard", || {
        let said = one.follower.said_of("198.18.2.10");
        said.iter().any(|who| who == "pod evil -")
            && said.last().is_some_and(|who| who == "pod unknown -")
    });
    for reason in ["silent", "other"] {
        eventually(reason, || {
            let peers = one.follower.status.peers().expect("peers");
            peers.errors.contains_key(reason)
        });
    }
    for (address, who) in [
        ("198.18.1.10", "pod default web"),
        ("198.18.3.10", "pod unknown -"),
        ("198.19.0.1", "nobody"),
    ] {
        let said = one.follower.said_of(address);
        assert!(
            !said.iter().any(|who| who.contains("evil")),
            "{address}: {said:?}"
        );
        assert_eq!(one.follower.who(address), who);
    }
}

#[test]
fn an_agent_that_says_too_much_is_not_listened_to() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let port = free_port();
    node(&api, 1, Some("198.18.1.0/24"));
    node(&api, 2, Some("198.18.2.0/24"));
    node(&api, 3, Some("198.18.3.0/24"));
    api.create_pod("default", "web", "n1", &["198.18.1.10"])
        .expect("a pod");
    let named =
        |address: &str, name: &str| json!({"address": address, "kind": "pod", "namespace": name});
    let line = |node: &str, all: Vec<_>| json!({"schema": 1, "node": node, "all": all}).to_string();
    let many = vec![named("198.18.2.10", "evil"); 3000];
    says_once(SocketAddr::new(node_address(2), port), line("n2", many));
    let long = vec![named("198.18.3.10", &"x".repeat(70_000))];
    says_once(SocketAddr::new(node_address(3), port), line("n3", long));
    let Some(kubeconfig) = account(&api, "node") else {
        return;
    };
    let one = Agent::start(&kubeconfig, 1, port);
    one.talks_with("198.18.2.10");
    one.talks_with("198.18.3.10");
    eventually("both are refused", || {
        let count = |reasons: &BTreeMap<&str, u64>| reasons.get("excessive").copied();
        let peers = one.follower.status.peers();
        peers.and_then(|peers| count(&peers.errors)) >= Some(2)
    });
    for address in ["198.18.2.10", "198.18.3.10"] {
        let said = one.follower.said_of(address);
        assert!(said.iter().all(|who| who == "pod unknown -"), "{said:?}");
        assert_eq!(one.follower.who(address), "pod unknown -");
    }
}

#[test]
fn on_a_flat_network_all_pods_are_followed() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let port = free_port();
    node(&api, 1, Some("198.18.1.0/24"));
    node(&api, 2, None);
    let Some(kubeconfig) = account(&api, "node") else {
        return;
    };
    assert_eq!(outlook(&kubeconfig, "n1"), Outlook::NoPods);
    let one = Agent::start(&kubeconfig, 1, port);
    let there = "198.18.77.2";
    api.create_pod("default", "there", "n2", &[there])
        .expect("a pod");
    // Whose it is cannot be told yet, but it is not taken for somebody's outside of the cluster.
    one.follower.wait_for("198.19.0.1", "external unknown -");
    api.create_pod("default", "here", "n1", &["198.18.77.1"])
        .expect("a pod");
    one.follower.wait_for(there, "pod default there");
    one.follower.wait_for("198.19.0.1", "nobody");
    one.follower.wait_for_all();
    let scope = one.follower.status.scope().expect("a scope");
    assert_eq!((scope.wanted, scope.now), ("node", "cluster"));
    let why = scope.why.expect("a reason");
    for word in ["default/here", "198.18.77.1", "n1"] {
        assert!(why.contains(word), "{why}");
    }
    assert_eq!(outlook(&kubeconfig, "n1"), Outlook::Cluster(why));
    for (node, word) in [("n2", "spec.podCIDRs"), ("n7", "node_name")] {
        let Outlook::Cluster(why) = outlook(&kubeconfig, node) else {
            panic!("{node} cannot tell");
        };
        assert!(why.contains(word), "{why}");
    }
    let said = one.follower.said_of(there);
    assert!(!said.iter().any(|who| who == "nobody"), "{said:?}");
    assert_eq!(one.follower.status.errors(), [].into());
}
