//! Names from a real kube-apiserver and etcd.

mod claims;
mod rights;
mod scope;

use std::fs;

use lpm_agent::{
    identity::kubernetes::{Kubernetes, KubernetesError, Settings, Watched},
    kube::ConnectError,
};
use lpm_testbed::kubernetes::ApiServer;
use serde_json::{Value, json};

use crate::{
    follower::{Follower, changed},
    support::{gate::Gate, ready::eventually},
};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Makes something owned by something else.
fn owned(mut object: Value, kind: &str, name: &str, uid: &str) -> Value {
    object["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true,
    }]);
    object
}

fn namespace(api: &ApiServer, name: &str) {
    let namespace = json!({"metadata": {"name": name}});
    api.create("/api/v1/namespaces", &namespace).expect(name);
}

#[test]
fn an_address_that_changes_hands() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    namespace(&api, "shop");
    namespace(&api, "media");
    let follower = Follower::start(&api.kubeconfig());
    follower.wait_for_all();
    let address = "198.18.9.1";
    api.create_pod("shop", "old", "n1", &[address, "fd00::9:1"])
        .expect("a pod");
    follower.wait_for(address, "pod shop old");
    follower.wait_for("fd00::9:1", "pod shop old");
    api.delete("/api/v1/namespaces/shop/pods/old")
        .expect("delete");
    follower.wait_for(address, "pod unknown -");
    api.create_pod("media", "new", "n1", &[address])
        .expect("a pod");
    follower.wait_for(address, "pod media new");
    assert_eq!(
        follower.said_of(address),
        ["pod shop old", "pod unknown -", "pod media new"],
        "nothing else was ever said of it"
    );
    assert!(
        follower.status.lag().is_some(),
        "the watch's lag is measured"
    );
    // A completed pod has given its address back, though its object is still there.
    let path = "/api/v1/namespaces/media/pods/new";
    api.patch_status(path, &json!({"phase": "Succeeded"}))
        .expect("status");
    follower.wait_for(address, "pod unknown -");
    assert_eq!(follower.status.errors(), [].into());
}

#[test]
fn workloads_services_and_labels() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let follower = Follower::start(&api.kubeconfig());
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    let labels = json!({"app": "web"});
    let set = json!({
        "metadata": {"name": "web-5c9"},
        "spec": {"selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        }},
    });
    let set = api
        .create(sets, &owned(set, "Deployment", "web", "d-1"))
        .expect("a set");
    let uid = set["metadata"]["uid"].as_str().expect("uid");
    // As when a deployment is scaled from none to three.
    for number in 1..=3 {
        let name = format!("web-5c9-{number}");
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": "web", "team": "blue"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "none"}]},
        });
        api.create(PODS, &owned(pod, "ReplicaSet", "web-5c9", uid))
            .expect("a pod");
        let address = format!("198.18.8.{number}");
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
        api.patch_status(&format!("{PODS}/{name}"), &status)
            .expect("status");
        follower.wait_for(&address, &format!("pod default {name} web -"));
    }
    let service = json!({
        "metadata": {"name": "front"},
        "spec": {"selector": labels, "ports": [{"port": 80}], "clusterIP": "None"},
    });
    api.create("/api/v1/namespaces/default/services", &service)
        .expect("a service");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({
        "metadata": {"name": "front-1", "labels": {"kubernetes.io/service-name": "front"}},
        "addressType": "IPv4", "ports": [],
        "endpoints": [{"addresses": ["198.18.8.1"]}, {"addresses": ["198.18.8.2"]}],
    });
    api.create(slices, &slice).expect("a slice");
    follower.wait_for("198.18.8.1", "pod default web-5c9-1 web front");
    follower.wait_for("198.18.8.2", "pod default web-5c9-2 web front");
    assert_eq!(follower.who("198.18.8.3"), "pod default web-5c9-3 web -");
    assert_eq!(
        follower.label("198.18.8.1", "team").as_deref(),
        Some("blue")
    );
    let renamed = json!({"metadata": {"labels": {"team": "green"}}});
    api.patch(&format!("{PODS}/web-5c9-1"), &renamed)
        .expect("labels");
    eventually("the label has its new value", || {
        follower.label("198.18.8.1", "team").as_deref() == Some("green")
    });
    let none = json!({"endpoints": []});
    api.patch(&format!("{slices}/front-1"), &none)
        .expect("a slice without any");
    follower.wait_for("198.18.8.1", "pod default web-5c9-1 web -");
}

#[test]
fn names_stay_while_the_server_is_gone() {
    let Some(mut api) = ApiServer::start_or_skip() else {
        return;
    };
    let (stays, goes, comes) = ("198.18.7.1", "198.18.7.2", "198.18.7.3");
    api.create_pod("default", "stays", "n1", &[stays])
        .expect("a pod");
    api.create_pod("default", "goes", "n1", &[goes])
        .expect("a pod");
    let server = api.url().replace("https://", "");
    let gate = Gate::to(server.parse().expect("an address"));
    let text = fs::read_to_string(api.kubeconfig()).expect("a kubeconfig");
    let kubeconfig = api.directory().join("by-the-gate");
    fs::write(&kubeconfig, changed::by(&text, gate.address())).expect("write");
    let follower = Follower::start(&kubeconfig);
    follower.wait_for_all();
    follower.wait_for(goes, "pod default goes");
    gate.close();
    api.stop();
    eventually("it is noticed", || {
        let errors = follower.status.errors();
        errors.contains_key(&(Watched::Pods, "unreachable"))
    });
    assert_eq!(follower.who(goes), "pod default goes");
    let lag = follower.status.lag().expect("a lag");
    eventually("the lag grows", || follower.status.lag() > Some(lag));
    // What happens while the follower is away is forgotten by etcd, too.
    api.start_again().expect("start");
    api.delete(&format!("{PODS}/goes")).expect("delete");
    api.create_pod("default", "comes", "n1", &[comes])
        .expect("a pod");
    api.compact().expect("compact");
    api.start_again().expect("start");
    gate.open();
    follower.wait_for(comes, "pod default comes");
    follower.wait_for(goes, "pod unknown -");
    assert_eq!(
        follower.said_of(stays),
        ["pod default stays"],
        "known all the time"
    );
    let errors = follower.status.errors();
    assert!(errors.contains_key(&(Watched::Pods, "gone")), "{errors:?}");
}

#[test]
fn a_server_that_does_not_know_us_and_one_that_we_do_not_know() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let text = fs::read_to_string(api.kubeconfig()).expect("a kubeconfig");
    let (token, authority) = (changed::token(&text), changed::authority(&text));
    for (kubeconfig, reason, word) in [
        (token, "unauthorized", "the token has expired"),
        (authority, "certificate", "certificate authority"),
    ] {
        let file = api.directory().join(reason);
        fs::write(&file, kubeconfig).expect("write");
        let follower = Follower::start(&file);
        eventually(reason, || {
            let errors = follower.status.errors();
            errors.contains_key(&(Watched::Pods, reason))
        });
        assert_eq!(follower.who("198.18.0.1"), "external unknown -", "{reason}");
        let said = follower.status.said().join("\n");
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_kubeconfig_that_does_not_hold_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    for text in ["{", "a: [", "clusters: 7", "apiVersion: v1\nkind: Config\n"] {
        let file = directory.path().join("kubeconfig");
        fs::write(&file, text).expect("write");
        let settings = Settings {
            kubeconfig: Some(file.clone()),
            ..Settings::default()
        };
        let started = Kubernetes::start(settings, std::sync::Arc::default(), |_| true);
        let error = started.expect_err(text);
        assert!(
            matches!(
                error,
                KubernetesError::Connect(ConnectError::Kubeconfig { .. })
            ),
            "{error}"
        );
        let said = error.to_string();
        assert!(said.contains(&file.display().to_string()), "{said}");
    }
}
