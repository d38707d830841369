//! The real API server takes what is rendered, and gives the agents no more than they read.

use std::fs;

use lpm_testbed::kubernetes::ApiServer;
use serde_json::{Value, json};

use crate::{deploy, everything, object, objects, program, ran, rendered};

/// An API server that knows the monitors of both groups, and the namespace.
pub(crate) fn cluster() -> Option<ApiServer> {
    let api = ApiServer::start_or_skip()?;
    let read = |name: &str| {
        fs::read_to_string(deploy().join("tests/crds").join(name)).expect("a definition")
    };
    let monitors = read("podmonitors.yaml");
    // Azure's definition is the operator's, under another group.
    let azure = monitors.replace("monitoring.coreos.com", "azmonitoring.coreos.com");
    for definitions in [&monitors, &azure, &read("prometheusrules.yaml")] {
        api.apply(definitions).unwrap();
    }
    let mut wait = api.kubectl().unwrap();
    wait.args([
        "wait",
        "--for=condition=Established",
        "--all",
        "crd",
        "--timeout=60s",
    ]);
    ran(&mut wait).unwrap();
    api.apply(&fs::read_to_string(deploy().join("kustomize/base/namespace.yaml")).unwrap())
        .unwrap();
    Some(api)
}

#[test]
fn the_chart_is_accepted() {
    let values = everything();
    let Some(all) = rendered(&["-f", &values]) else {
        return;
    };
    let Some(api) = cluster() else { return };
    let said = api.apply(&all).unwrap();
    for object in [
        "daemonset.apps/lpm",
        "podmonitor.monitoring.coreos.com/lpm",
        "podmonitor.azmonitoring.coreos.com/lpm",
        "prometheusrule.monitoring.coreos.com/lpm",
        "networkpolicy.networking.k8s.io/lpm",
        "configmap/lpm-dashboard-namespaces",
        "configmap/lpm-azure-rules",
    ] {
        assert!(
            said.contains(&format!("{object} serverside-applied")),
            "{object} in {said}"
        );
    }
    // The server knows each field: it would refuse another.
    let wrong = all.replace("readOnlyRootFilesystem:", "readOnlyRootFileSystem:");
    assert!(
        api.apply(&wrong)
            .unwrap_err()
            .to_string()
            .contains("readOnlyRootFileSystem")
    );
    let less = rendered(&[]).expect("helm is there");
    api.apply(&less).unwrap();
}

/// Prometheus understands the configuration that it gets in an L2S-M cluster. Debian's is built
/// without the discovery of pods, so it is not shown that part: `bench/tests/cluster/collector.rs`
/// runs another one with all of it.
#[test]
fn the_collector_of_l2sm_has_a_configuration() {
    let Some(mut promtool) = program("promtool") else {
        return;
    };
    let file = deploy().join("kustomize/overlays/l2sm/prometheus.yaml");
    let all = objects(&fs::read_to_string(file).unwrap());
    let text = object(&all, "ConfigMap", "lpm-prometheus")["data"]["prometheus.yaml"].as_str();
    let mut config: Value = serde_saphyr::from_str(text.expect("prometheus.yaml")).expect("YAML");
    assert_eq!(config["global"]["scrape_interval"], "15s");
    let job = config["scrape_configs"][0].as_object_mut().expect("a job");
    assert_eq!(job["honor_labels"], true);
    let pods = job.remove("kubernetes_sd_configs").expect("discovery");
    assert_eq!(
        pods,
        json!([{"role": "pod", "namespaces": {"names": ["lpm"]}}])
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prometheus.yaml");
    fs::write(&file, config.to_string()).unwrap();
    ran(promtool
        .args(["check", "config", "--syntax-only"])
        .arg(&file))
    .unwrap();
}

/// Whether a user may do this, as the API server decides.
pub(crate) fn may(api: &ApiServer, user: &str, verb: &str, what: &str, more: &[&str]) -> bool {
    let mut kubectl = api.kubectl().unwrap();
    kubectl.args(["auth", "can-i", verb, what, "--as", user]);
    let output = kubectl.args(more).output().expect("kubectl");
    output.status.success()
}

#[test]
fn the_agents_may_read_what_they_need_and_nothing_else() {
    let Some(all) = rendered(&[]) else { return };
    let Some(api) = cluster() else { return };
    api.apply(&all).unwrap();
    let may = |verb: &str, what: &str, more: &[&str]| {
        may(&api, "system:serviceaccount:lpm:lpm", verb, what, more)
    };
    for what in [
        "pods",
        "services",
        "nodes",
        "endpointslices.discovery.k8s.io",
        "replicasets.apps",
        "jobs.batch",
    ] {
        for verb in ["list", "watch"] {
            assert!(may(verb, what, &["--all-namespaces"]), "{verb} {what}");
        }
        for verb in ["create", "update", "patch", "delete"] {
            assert!(!may(verb, what, &["--all-namespaces"]), "{verb} {what}");
        }
    }
    assert!(may("get", "daemonsets.apps/lpm", &["--namespace=lpm"]));
    for (verb, what, more) in [
        ("get", "daemonsets.apps/other", "--namespace=lpm"),
        ("get", "daemonsets.apps/lpm", "--namespace=default"),
        ("list", "secrets", "--all-namespaces"),
        ("list", "namespaces", "--all-namespaces"),
        ("list", "csinodes.storage.k8s.io", "--all-namespaces"),
        ("list", "configmaps", "--all-namespaces"),
        ("create", "pods/exec", "--all-namespaces"),
        ("get", "nodes/proxy", "--all-namespaces"),
    ] {
        assert!(!may(verb, what, &[more]), "{verb} {what} {more}");
    }
    let of_a_node = rendered(&["--set", "scope=node"]).expect("helm is there");
    api.apply(&of_a_node).unwrap();
    for verb in ["list", "watch"] {
        let everywhere = ["--all-namespaces"];
        assert!(may(verb, "csinodes.storage.k8s.io", &everywhere));
    }
}
