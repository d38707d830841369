//! The real API server takes what is rendered, and gives the agents no more than they read.

use std::{collections::BTreeSet, fs, process::Command};

use lpm_bench::kubernetes::ApiServer;
use serde_json::{Value, json};

use crate::{deploy, everything, object, objects, program, ran, rendered};

/// An API server that knows the monitors of both groups, and the namespace.
fn cluster() -> Option<ApiServer> {
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

#[test]
fn the_overlays_are_accepted() {
    let Some(api) = cluster() else { return };
    let mut names = BTreeSet::new();
    for (overlay, preset) in [("aks", "aks-azure-cni"), ("l2sm", "l2sm")] {
        let mut build = api.kubectl().unwrap();
        build
            .arg("kustomize")
            .arg(deploy().join("kustomize/overlays").join(overlay));
        let all = ran(&mut build).unwrap();
        let said = api.apply(&all).unwrap();
        assert!(
            said.contains("daemonset.apps/lpm serverside-applied"),
            "{said}"
        );
        // The name follows the content, so that another configuration is another rollout.
        let all = objects(&all);
        let pod = &object(&all, "DaemonSet", "lpm")["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().expect("volumes");
        let volume = volumes.iter().find(|volume| volume["name"] == "config");
        let name = volume.expect("config")["configMap"]["name"].as_str();
        let name = name.expect("a name");
        assert!(names.insert(name.to_owned()), "{name} again");
        let config = object(&all, "ConfigMap", name);
        let text = config["data"]["lpm.yaml"].as_str().expect("lpm.yaml");
        let config = lpm_agent::config::Config::parse(text, overlay.as_ref()).expect(text);
        assert_eq!(
            config.preset.map(lpm_agent::config::Preset::as_str),
            Some(preset)
        );
    }
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

fn may(api: &ApiServer, verb: &str, what: &str, more: &[&str]) -> bool {
    let mut kubectl: Command = api.kubectl().unwrap();
    kubectl.args([
        "auth",
        "can-i",
        verb,
        what,
        "--as=system:serviceaccount:lpm:lpm",
    ]);
    kubectl
        .args(more)
        .output()
        .expect("kubectl")
        .status
        .success()
}

#[test]
fn the_agents_may_read_what_they_need_and_nothing_else() {
    let Some(all) = rendered(&[]) else { return };
    let Some(api) = cluster() else { return };
    api.apply(&all).unwrap();
    for what in [
        "pods",
        "services",
        "nodes",
        "endpointslices.discovery.k8s.io",
        "replicasets.apps",
        "jobs.batch",
    ] {
        for verb in ["list", "watch"] {
            assert!(
                may(&api, verb, what, &["--all-namespaces"]),
                "{verb} {what}"
            );
        }
        for verb in ["create", "update", "patch", "delete"] {
            assert!(
                !may(&api, verb, what, &["--all-namespaces"]),
                "{verb} {what}"
            );
        }
    }
    assert!(may(
        &api,
        "get",
        "daemonsets.apps/lpm",
        &["--namespace=lpm"]
    ));
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
        assert!(!may(&api, verb, what, &[more]), "{verb} {what} {more}");
    }
    let of_a_node = rendered(&["--set", "scope=node"]).expect("helm is there");
    api.apply(&of_a_node).unwrap();
    for verb in ["list", "watch"] {
        let everywhere = ["--all-namespaces"];
        assert!(may(&api, verb, "csinodes.storage.k8s.io", &everywhere));
    }
}
