//! The API server for tests: it serves, forgets its history and comes back.

use lpm_testbed::kubernetes::ApiServer;
use serde_json::json;

/// A pod that a test makes runs, with its addresses, until it is deleted.
#[test]
fn pods_appear_and_go_at_once() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let pod = api
        .create_pod("default", "web", "node-a", &["198.18.5.1", "fd00:18:5::1"])
        .unwrap();
    assert_eq!(pod["status"]["podIPs"][1]["ip"], "fd00:18:5::1");
    let path = "/api/v1/namespaces/default/pods/web";
    api.patch(path, &json!({"metadata": {"labels": {"app": "web"}}}))
        .unwrap();
    assert_eq!(api.get(path).unwrap()["metadata"]["labels"]["app"], "web");
    api.delete(path).unwrap();
    assert_eq!(api.request("GET", path, None).unwrap().status, 404);

    let applied = api
        .apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
        .unwrap();
    assert!(applied.contains("namespace/shop"), "{applied}");
}

/// A `ServiceAccount` may do what a role lets it, and nothing else.
#[test]
fn a_service_account_has_the_rights_of_its_roles() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let account = api.service_account("default", "reader").unwrap();
    let may = |verb: &str| {
        let mut kubectl = api.kubectl().unwrap();
        kubectl.arg("--kubeconfig").arg(&account.kubeconfig);
        let output = kubectl.args(["auth", "can-i", verb, "pods"]).output();
        output.unwrap().status.success()
    };
    assert!(!may("list"));
    api.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\n\
         metadata: {name: reader}\n\
         rules: [{apiGroups: [''], resources: [pods], verbs: [list]}]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\n\
         metadata: {name: reader}\n\
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}\n\
         subjects: [{kind: ServiceAccount, name: reader, namespace: default}]\n",
    )
    .unwrap();
    assert!(may("list") && !may("delete"));
}

/// Stopped, it does not answer; started again it has what it had, but not how that came to be.
#[test]
fn after_a_restart_with_compacted_history_old_versions_are_gone() {
    let Some(mut api) = ApiServer::start_or_skip() else {
        return;
    };
    let list = api.get("/api/v1/pods").unwrap();
    let old = list["metadata"]["resourceVersion"].as_str().unwrap();
    api.create_pod("default", "web", "node-a", &["198.18.5.1"])
        .unwrap();
    api.compact().unwrap();
    let url = api.url();
    api.stop();
    let answer = api.request("GET", "/api/v1/pods", None);
    assert!(
        answer.as_ref().is_ok_and(|answer| answer.status >= 500),
        "{answer:?}"
    );
    api.start_again().unwrap();
    assert_eq!(api.url(), url);
    let pods = api.get("/api/v1/pods").unwrap();
    assert_eq!(pods["items"].as_array().unwrap().len(), 1);

    // 410 as status, or as the first event of the watch.
    let watch = format!("/api/v1/pods?watch=1&timeoutSeconds=5&resourceVersion={old}");
    let answer = api.request("GET", &watch, None).unwrap();
    let event = &answer.body["object"]["code"];
    assert!(answer.status == 410 || event == 410, "{answer:?}");
}
