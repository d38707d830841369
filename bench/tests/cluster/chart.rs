//! The chart: installed, looked at, restarted, removed.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use aya::programs::{SchedClassifier, TcAttachType};
use lpm_testbed::kubernetes::Cluster;

use crate::{eventually, tools::tool};

/// The release, its namespace, and the name of its objects.
pub(crate) const NAME: &str = "lpm";

/// The agent's image, or a skip that says how it is made.
pub(crate) fn image() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root.join("target"), |target| root.join(target));
    let image = target.join("image/lpm.tar");
    let images = [target.join("image/test.tar"), image.clone()];
    if let Some(found) = images.into_iter().find(|image| image.is_file()) {
        return Some(found);
    }
    println!(
        "LPM-SKIP cluster: no {}; `cargo xtask image` makes it",
        image.display()
    );
    None
}

/// The chart's directory.
pub(crate) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/lpm");

/// Installs the chart with its defaults, pins on, and waits until the agents are ready.
pub(crate) fn install(cluster: &Cluster, preset: &str, scope: &str) {
    let values = format!("preset={preset},scope={scope}");
    tool(
        cluster,
        &[
            "helm",
            "install",
            NAME,
            CHART,
            "--namespace",
            NAME,
            "--create-namespace",
            "--set",
            &values,
            "--set",
            "image.pullPolicy=Never,pins.enabled=true,test.enabled=false",
            "--set",
            crate::probes::VALUES,
            "--set",
            crate::alert_rules::RULES,
        ],
    );
    are_ready(cluster);
}

/// Changes values of the release, and waits until the agents are ready.
pub(crate) fn upgrade(cluster: &Cluster, values: &str) {
    let words = ["helm", "upgrade", NAME, CHART, "--namespace", NAME];
    let values = ["--reuse-values", "--set", values];
    tool(cluster, &[&words[..], &values].concat());
    are_ready(cluster);
}

fn are_ready(cluster: &Cluster) {
    if let Err(error) = cluster.wait_ready("daemonsets", NAME, NAME) {
        let logs = [
            "kubectl",
            "logs",
            "--namespace",
            NAME,
            "--selector",
            "app.kubernetes.io/name=lpm",
        ];
        panic!("{error}\n{}", tool(cluster, &logs));
    }
}

/// The agents that run have three capabilities and no more.
pub(crate) fn has_least_capabilities(cluster: &Cluster) {
    let pods = cluster
        .api
        .get(&format!("/api/v1/namespaces/{NAME}/pods"))
        .expect("pods");
    let pods = pods["items"].as_array().expect("a list");
    assert_eq!(pods.len(), 2, "one agent per node");
    for pod in pods {
        let context = &pod["spec"]["containers"][0]["securityContext"];
        let wanted = serde_json::json!(["BPF", "NET_ADMIN", "PERFMON"]);
        assert_eq!(context["capabilities"]["add"], wanted);
        assert_eq!(context["privileged"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
    }
}

/// After `helm uninstall` there is no object, no pin, no program and no qdisc.
pub(crate) fn uninstall_leaves_nothing(cluster: &Cluster) {
    tool(
        cluster,
        &["helm", "uninstall", NAME, "--namespace", NAME, "--wait"],
    );
    nothing_is_left(cluster);
}

/// True if an agent has pinned something in a node's file system for pins.
pub(crate) fn has_pins(bpffs: &Path) -> bool {
    let pins = std::fs::read_dir(bpffs.join(NAME));
    pins.is_ok_and(|mut pins| pins.next().is_some())
}

/// No object, no pin, no program and no qdisc.
pub(crate) fn nothing_is_left(cluster: &Cluster) {
    eventually("no program on any interface", || {
        programs(cluster).is_empty()
    });
    for node in &cluster.nodes {
        // The directory itself stays: the kubelet made it, and it was a mount point of the agent's.
        eventually("no pin", || !has_pins(&node.bpffs));
        let qdiscs = node.netns.output("tc", &["qdisc", "show"]).expect("tc");
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    }
    let selector = "app.kubernetes.io/name=lpm";
    let kinds =
        "all,configmaps,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings";
    eventually("no object", || {
        let words = [
            "kubectl",
            "get",
            kinds,
            "--all-namespaces",
            "--selector",
            selector,
            "--output=name",
        ];
        tool(cluster, &words).trim().is_empty()
    });
}

/// The ids of the programs that are attached to the interfaces of both nodes.
pub(crate) fn programs(cluster: &Cluster) -> BTreeSet<u32> {
    let on_node = |netns: &lpm_testbed::testbed::Netns| {
        netns.run_in(|| {
            let interfaces = nix::net::if_::if_nameindex().expect("interfaces");
            let mut ids = BTreeSet::new();
            for interface in &interfaces {
                let name = interface.name().to_string_lossy().into_owned();
                for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                    // An interface may go while we look.
                    if let Ok((_, programs)) = SchedClassifier::query_tcx(&name, hook) {
                        ids.extend(programs.iter().map(aya::programs::ProgramInfo::id));
                    }
                }
            }
            ids
        })
    };
    let nodes = cluster.nodes.iter();
    nodes
        .flat_map(|node| on_node(&node.netns).expect("the namespace"))
        .collect()
}
