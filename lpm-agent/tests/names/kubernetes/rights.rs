//! Rights: the chart's are enough, none is too much, and each that is missing is named.

use std::path::{Path, PathBuf};

use lpm_agent::identity::kubernetes::{OfNode, Watched};
use lpm_testbed::kubernetes::{ApiServer, chart};
use serde_json::{Value, json};

use super::{PODS, owned, scope::node};
use crate::{follower::Follower, support::ready::eventually};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// The kubeconfig of an agent with the rights that the chart gives, or a skip.
pub(crate) fn account(api: &ApiServer, scope: &str) -> Option<PathBuf> {
    let rights = chart::rights_or_skip("default", scope)?;
    let account = api.service_account("default", "lpm").expect("an account");
    api.apply(&rights).expect("rights");
    let last = each(&rights).pop().expect("a right");
    wait_for(api, "lpm", &last);
    Some(account.kubeconfig)
}

/// A verb on a resource.
#[derive(Clone, Debug)]
struct Right {
    group: String,
    resource: String,
    verb: String,
}

/// All rights of the chart's `ClusterRole`, one by one.
fn each(manifests: &str) -> Vec<Right> {
    let objects: Vec<Option<Value>> = serde_saphyr::from_multiple(manifests).expect("YAML");
    let mut objects = objects.into_iter().flatten();
    let role = objects.find(|object| object["kind"] == "ClusterRole");
    let role = role.expect("a ClusterRole");
    let words = |rule: &Value, key: &str| -> Vec<String> {
        serde_json::from_value(rule[key].clone()).expect(key)
    };
    let mut all = Vec::new();
    for rule in role["rules"].as_array().expect("rules") {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                all.extend(words(rule, "verbs").into_iter().map(|verb| Right {
                    group: group.clone(),
                    resource: resource.clone(),
                    verb,
                }));
            }
        }
    }
    all
}

/// Waits until the API server lets the account do this.
fn wait_for(api: &ApiServer, account: &str, right: &Right) {
    let review = json!({"spec": {
        "user": format!("system:serviceaccount:default:{account}"),
        "resourceAttributes": {
            "group": right.group, "resource": right.resource, "verb": right.verb,
        },
    }});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    eventually("the rights hold", || {
        api.create(path, &review).expect("a review")["status"]["allowed"] == true
    });
}

/// The kubeconfig of an account with all of these rights but one.
fn without(api: &ApiServer, rights: &[Right], missing: usize) -> PathBuf {
    let name = format!("without-{missing}");
    let others = || {
        let all = rights.iter().enumerate();
        all.filter_map(move |(number, right)| (number != missing).then_some(right))
    };
    let rule = |right: &Right| {
        json!({
            "apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb],
        })
    };
    let rules: Vec<_> = others().map(rule).collect();
    let lacking = json!({"metadata": {"name": name}, "rules": rules});
    api.create(&format!("{RBAC}/clusterroles"), &lacking)
        .expect("a role");
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name,
        },
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    });
    api.create(&format!("{RBAC}/clusterrolebindings"), &binding)
        .expect("a binding");
    let account = api.service_account("default", &name).expect("an account");
    wait_for(api, &name, others().next().expect("another right"));
    account.kubeconfig
}

/// It is counted, and said in one sentence that names what is missing.
#[track_caller]
fn is_named(follower: &Follower, right: &Right) {
    let kinds = [&Watched::ALL[..], &[Watched::CsiNodes]].concat();
    let kind = kinds
        .into_iter()
        .find(|kind| kind.as_str() == right.resource);
    let kind = kind.expect("something that is followed");
    eventually(&format!("{right:?} is missed"), || {
        let errors = follower.status.errors();
        errors.contains_key(&(kind, "forbidden"))
    });
    let kinds: Vec<_> = follower.status.errors().into_keys().collect();
    assert_eq!(kinds, [(kind, "forbidden")], "{right:?}");
    let said = follower.status.said();
    assert_eq!(said.len(), 1, "{said:?}");
    for word in [
        format!("verb {}", right.verb),
        format!("resource {}", right.resource),
        format!("API group \"{}\"", right.group),
    ] {
        assert!(said[0].contains(&word), "{right:?}: {}", said[0]);
    }
}

#[test]
fn no_more_rights_than_it_needs() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let Some(kubeconfig) = account(&api, "cluster") else {
        return;
    };
    api.create_pod("default", "web", "n1", &["198.18.6.1"])
        .expect("a pod");
    let follower = Follower::start(&kubeconfig);
    follower.wait_for_all();
    follower.wait_for("198.18.6.1", "pod default web");
    assert_eq!(follower.status.errors(), [].into());
    drop(follower);
    let rights = each(&chart::rights("default", "cluster").expect("helm"));
    assert_eq!(rights.len(), 2 * Watched::ALL.len());
    let followers = (0..rights.len()).map(|missing| {
        let kubeconfig = without(&api, &rights, missing);
        (&rights[missing], Follower::start(&kubeconfig))
    });
    // All at a time: each waits for its API server.
    for (right, follower) in followers.collect::<Vec<_>>() {
        is_named(&follower, right);
        if right.resource != "pods" {
            follower.wait_for("198.18.6.1", "pod default web");
        }
    }
}

/// What scope `node` only reads when it has to fall back to `cluster`.
fn is_for_the_fallback(right: &Right) -> bool {
    match right.resource.as_str() {
        "endpointslices" => true,
        "nodes" | "replicasets" | "jobs" => right.verb == "watch",
        _ => false,
    }
}

/// Follows the pods of node `n1`, and asks nobody.
fn of_a_node(kubeconfig: &Path) -> Follower {
    let of_node = OfNode {
        node: "n1".into(),
        port: 1,
        publisher: std::sync::Arc::default(),
        addresses: std::sync::Arc::new(Vec::new),
    };
    Follower::start_of(kubeconfig, Some(of_node))
}

#[test]
fn no_more_rights_than_a_node_needs() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    node(&api, 1, Some("198.18.6.0/24"));
    // Whose owners have to be asked for.
    for (name, kind, address) in [
        ("job", "Job", "198.18.6.1"),
        ("set", "ReplicaSet", "198.18.6.2"),
    ] {
        let pod = json!({
            "metadata": {"name": name},
            "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "none"}]},
        });
        let pod = owned(pod, kind, "owner", &format!("{kind}-1"));
        api.create(PODS, &pod).expect("a pod");
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
        api.patch_status(&format!("{PODS}/{name}"), &status)
            .expect("status");
    }
    let Some(kubeconfig) = account(&api, "node") else {
        return;
    };
    let follower = of_a_node(&kubeconfig);
    follower.wait_for("198.18.6.1", "pod default job owner -");
    assert_eq!(follower.status.errors(), [].into());
    let rights = each(&chart::rights("default", "node").expect("helm"));
    let missing = (0..rights.len()).filter(|number| !is_for_the_fallback(&rights[*number]));
    let followers = missing.map(|missing| {
        let kubeconfig = without(&api, &rights, missing);
        (&rights[missing], of_a_node(&kubeconfig))
    });
    for (right, follower) in followers.collect::<Vec<_>>() {
        is_named(&follower, right);
    }
}
